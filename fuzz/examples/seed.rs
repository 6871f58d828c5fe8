//! Writes the seeds of the corpus: `cargo run --manifest-path fuzz/Cargo.toml --example seed [FOLDER]`.
//!
//! What only a fleet makes is taken from FOLDER, if one is given: `*.title.json`, `*.ndjson` (manifests), `*.catalogue`,
//! `*.footer` (a whole file of a volume), `*.m3u8` (media playlists) and `*.multivariant.m3u8`, of any such run.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use content::id::ObjectId;
use content::volume::{Checksums, FileKind, Footer, TRAILER_BYTES, Trailer, file_bytes, footer_offset};
use fuzz::control_api::film;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;

fn main() -> std::io::Result<()> {
    let mut seeds = Vec::new();
    heads(&mut seeds);
    fields(&mut seeds);
    tokens(&mut seeds);
    store(&mut seeds);
    requests(&mut seeds);
    playlists(&mut seeds);
    hellos(&mut seeds);
    if let Some(folder) = std::env::args().nth(1) {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            seeds.extend(found(&name, &fs::read(path)?));
        }
    }
    for (target, bytes) in seeds {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        // As libFuzzer names what it finds.
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &bytes);
        let name: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// What real clients send, the target and the fields that name a machine put in general terms.
fn heads(seeds: &mut Seeds) {
    let chromium = "Host: 127.0.0.2:8080\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\nUser-Agent: Mozilla/5.0 \
        (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/143.0.0.0 Safari/537.36\r\n\
        Range: bytes=5-9\r\nsec-ch-ua-mobile: ?0\r\nAccept: */*\r\nOrigin: http://127.0.0.1:8000\r\nSec-Fetch-Site: \
        cross-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: http://127.0.0.1:8000/\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\r\n";
    let ffmpeg = "User-Agent: Lavf/61.7.100\r\nAccept: */*\r\nRange: bytes=0-\r\nConnection: close\r\nHost: \
        127.0.0.2:8080\r\nIcy-MetaData: 1\r\n\r\n";
    let curl = "Host: 127.0.0.2:8080\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n";
    let heads = [
        format!("GET /~$T$2 HTTP/1.1\r\n{chromium}"),
        format!("GET /~$T$2 HTTP/1.1\r\n{ffmpeg}"),
        format!("GET /~$T$1?CMCD=bl%3D21300 HTTP/1.1\r\n{curl}"),
        format!("HEAD /~$T$2 HTTP/1.1\r\n{curl}HEAD /~$T$0 HTTP/1.1\r\n{curl}"),
        format!("GET /~$T$2 HTTP/1.0\r\n{curl}"),
        "GET /~$T$2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /~$T$0 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "OPTIONS /~$T$2 HTTP/1.1\r\nHost: h\r\nOrigin: http://p\r\nAccess-Control-Request-Method: GET\r\n\
         Access-Control-Request-Headers: range\r\n\r\n"
            .to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\nGET http://h/~$T$2?x HTTP/1.1\r\nHost: h\r\nRange: bytes=-3\r\n\r\n".to_owned(),
        "GET /~$T$2 HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"x\", W/\"y\"\r\nIf-Range: \"x\"\r\nRange: bytes=30-\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        "GET /~$T$9 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "\r\n\r\nGET /~$T$9 HTTP/1.1\r\nHost: [::1]:80\r\nConnection: x, close\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a:b\r\n".repeat(64)),
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(8200)),
    ];
    seeds.extend(heads.map(|head| ("request_head", head.into_bytes())));
}

/// What a client of rustls says first, and an alert behind it.
fn hellos(seeds: &mut Seeds) {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let rules =
            builder.expect("a version that rustls has").with_root_certificates(RootCertStore::empty());
        let name = "appliance.test".try_into().expect("a name");
        let mut client =
            ClientConnection::new(Arc::new(rules.with_no_client_auth()), name).expect("a client");
        let mut bytes = vec![255];
        client.write_tls(&mut bytes).expect("memory takes it");
        seeds.push(("tls_feed", bytes.clone()));
        bytes.extend([21, 3, 3, 0, 2, 1, 0]);
        seeds.push(("tls_feed", bytes));
    }
}

fn fields(seeds: &mut Seeds) {
    let with = |size: u64, field: &str| [&size.to_le_bytes()[..], field.as_bytes()].concat();
    for field in [
        "bytes=0-499",
        "bytes=-500",
        "bytes=9500-",
        "BYTES=0-0,-1",
        "bytes= 0-999 , ",
        "bytes=9-5",
        "lines=1-2",
        "bytes=18446744073709551614-18446744073709551616",
        "bytes=-00000000000000000000000000000000000000007",
        "bytes=--1",
    ] {
        seeds.extend([0, 10, 10_000, u64::MAX].map(|size| ("range", with(size, field))));
    }
    for lines in [
        "If-Match: \"$E\"",
        "If-Match: *\r\nIf-None-Match: W/\"$E\"",
        "If-None-Match: \"a,b\" ,, \"$E\"",
        "If-None-Match: *\r\nIf-None-Match: \"x\"",
        "If-Range: \"$E\"\r\nRange: bytes=0-1",
        "If-Range: W/\"$E\"",
        "If-Range: Mon, 23 Nov 2026 12:00:00 GMT",
        "If-Match: \"x\r\nIf-Match: \"$E\"",
        "if-match: \"$E\" \"$E\"",
    ] {
        seeds.push(("conditional", lines.into()));
    }
}

fn tokens(seeds: &mut Seeds) {
    let header = r#"{"alg":"EdDSA","kid":"k","typ":"JWT"}"#;
    let payload = r#"{"iss":"oca-control","jti":"s-1","nbf":1795435200,"exp":1795438800,"cdniv":1,"cdniuc":"regex:^https?://[^/]+/night/(base|sd)/[^/]+$"}"#;
    let now = (1u32 << 30).to_le_bytes();
    for (header, payload, path) in [
        (header, payload.to_owned(), "/night/sd/x.mp4"),
        (header, payload.replace("base|sd", "uhd"), "/night/uhd/"),
        (header, payload.replace("\"cdniv\":1", "\"cdniv\":2"), "/night/sd/x/y"),
        (header, payload.replace("1795438800", "99999999999999"), "/x"),
        (r#"{"alg":"none","kid":"k"}"#, payload.to_owned(), "/"),
        (r#"{"alg":"EdDSA","kid":"k","crit":["b64"]}"#, payload.to_owned(), "/"),
    ] {
        let text = format!("{header}\n{payload}\n{path}");
        seeds.push(("token", [&[1], &now[..], text.as_bytes()].concat()));
    }
    for text in ["$T", "/~$T/night/sd/x.mp4", "a.b.c", "$TA", "eyJhbGciOiJub25lIn0.e30."] {
        seeds.push(("token", [b"\0", text.as_bytes()].concat()));
    }
}

fn store(seeds: &mut Seeds) {
    for [volumes, files, entries] in [[1, 1, 0], [1, 1, 1], [4, 30, 200], [2, 3, 60]] {
        seeds.push(("catalogue", vec![0, volumes, files, entries]));
        seeds.push(("catalogue", vec![2, volumes, files, entries, 0, 0, 0]));
        let bytes = content::catalogue::build::to_bytes(fuzz::catalogue::contents(volumes, files, entries));
        seeds.push(("catalogue", [vec![3, 0, 0, 0], bytes.expect("it is consistent")].concat()));
    }
    for count in [0usize, 1, 262_144, 600_000] {
        let data = vec![7; count];
        let mut checksums = Checksums::default();
        checksums.update(&data);
        let data_bytes = u64::try_from(count).expect("it fits");
        let checksums = checksums.finish();
        let footer = Footer { kind: FileKind::Object, data_bytes, digest: ObjectId::of(&data), checksums };
        seeds.extend(footer_seeds(&footer.to_bytes(), &footer));
    }
    for (name, record) in [
        ("0000000000000009.json.tmp", r#"{"object":"$O","bytes":$N}"#),
        ("0000000000000008.part", r#"{"bytes":$N,"object":"$O"}"#),
        ("x", r#"{"object":"$O","bytes":1}"#),
        ("", "{"),
    ] {
        for head in [[0u8, 0], [0, 1], [0, 2], [0, 4], [1, 3], [2, 2]] {
            let text = format!("{name}\n{record}");
            seeds.push(("resume_record", [&head[..], &[3, 0, 1, 1, 0, 0], text.as_bytes()].concat()));
        }
    }
    seeds.push(("title", film().to_bytes()));
}

/// As it is, and in its parts.
fn footer_seeds(bytes: &[u8], footer: &Footer) -> Seeds {
    let size = footer.data_bytes.to_le_bytes();
    let table = footer.checksums.len() * 4;
    let cut = u16::try_from(table).expect("a small table").to_le_bytes();
    let trailer = &bytes[bytes.len() - TRAILER_BYTES..];
    let raw = [&[4], &size[..], bytes].concat();
    let parts = [&[3], &size[..], &cut[..], &bytes[..table], trailer].concat();
    vec![("footer", raw), ("footer", parts)]
}

fn requests(seeds: &mut Seeds) {
    let film = film();
    let path = film.objects().next().expect("it has objects").0;
    let registration = json!({"appliance": "box-b", "cluster": "lab", "base_url": "http://127.0.0.3:8080", "version": "0.1.0"});
    let report = json!({
        "appliance": "box-a", "boot": "b", "sequence": 7, "health": "degraded", "limited_by": "disk", "headroom": 0.25,
        "draining": false, "generation": 4,
        "holds": {"manifest_version": 1, "missing": "OjAAAAEAAAAAAAEAEAAAAAEAAgA=", "unlisted": [path]},
        "volumes": [{"uuid": "01".repeat(16), "path": "/v", "state": "ok", "bytes_total": 9, "bytes_free": 3,
                     "read_errors": 0, "read_latency_us": 80}],
        "server": {"uptime_ms": 1, "connections": 0, "requests": 0, "bytes_sent": 0, "memory_hits": 0,
                   "memory_misses": 0, "rate_bps": 0},
    });
    let wishes = json!({"appliance": "box-a", "objects": [path]});
    let play = json!({
        "title": "film", "session": "s-1", "member": "m-1", "plan": "hd", "territory": "SE",
        "device": {"height_max": 1080, "codecs": ["avc1", "mp4a"]}, "languages": ["sv"], "address": "192.0.2.7", "explain": true,
    });
    let query = "title=film&session=s-1&plan=uhd&territory=SE&height_max=720&codecs=avc1,mp4a&languages=en";
    let object = format!("/v1/origin/objects/{}/{}.mp4", &path.object.to_string()[..2], path.object);
    let texts = [
        format!("POST /v1/plays\n{play}"),
        format!("?POST /v1/plays\n{play}"),
        format!("POST /v1/plays\n{}", play.to_string().replace("SE", "US").replace("true", "false")),
        format!("POST /v1/agent/register\n{registration}\n===\nPOST /v1/appliances/box-b/drain\n\n===\nDELETE /v1/appliances/box-b\n"),
        format!("!POST /v1/agent/register\n{registration}"),
        format!("POST /v1/agent/reports\n{report}\n===\nPOST /v1/plays\n{play}\n===\nGET /v1/fleet\n"),
        format!("POST /v1/agent/reports\n{}", report.to_string().replace("box-a", "box-z")),
        format!("POST /v1/agent/fill-sources\n{wishes}"),
        format!("GET /v1/plays/multivariant.m3u8?{query}\n\n===\nGET /v1/plays/manifest.mpd?{query}\n"),
        "POST /v1/appliances/box-a/drain\n\n===\nDELETE /v1/appliances/box-a/drain\n\n===\nDELETE /v1/appliances/box-a\n".to_owned(),
        format!("GET {object}\n\n===\nGET /v1/openapi.json\n\n===\nHEAD /v1/titles\n\n===\nPUT /v1/plays\n"),
        "GET /\n\n===\nGET /assets/index.js\n\n===\nGET /nowhere\n".to_owned(),
    ];
    seeds.extend(texts.map(|text| ("control_api", text.into_bytes())));
}

fn playlists(seeds: &mut Seeds) {
    let media = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-PLAYLIST-TYPE:VOD\n\
        #EXT-X-MAP:URI=\"$F\",BYTERANGE=\"800@0\"\n#EXTINF:4.004,\n#EXT-X-BYTERANGE:1000@900\n$F\n\
        #EXTINF:2.0,\n#EXT-X-BYTERANGE:500\n$F\n#EXT-X-ENDLIST\n";
    let whole =
        "#EXTM3U\r\n#EXT-X-TARGETDURATION:7000\r\n# note\r\n#EXTINF:7000.0,\r\n$F\r\n#EXT-X-ENDLIST\r\n";
    for text in [media, whole] {
        seeds.push(("hls_playlist", [&[1], &10_000u32.to_le_bytes()[..], text.as_bytes()].concat()));
    }
    let multivariant = "#EXTM3U\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",LANGUAGE=\"en\",\
        NAME=\"English\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"$U\"\n#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",\
        LANGUAGE=\"sv\",NAME=\"Svenska\",DEFAULT=NO,AUTOSELECT=NO,FORCED=NO,URI=\"$U\"\n#EXT-X-STREAM-INF:BANDWIDTH=1400000,\
        CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=960x540,FRAME-RATE=23.976,AUDIO=\"a\",SUBTITLES=\"s\",CLOSED-CAPTIONS=NONE\n$U\n";
    seeds.push(("hls_playlist", [&[0], multivariant.as_bytes()].concat()));
}

/// What a fleet made, by its name.
fn found(name: &str, bytes: &[u8]) -> Seeds {
    let text = String::from_utf8_lossy(bytes).into_owned();
    if name.ends_with(".title.json") {
        vec![("title", bytes.to_vec())]
    } else if name.ends_with(".ndjson") {
        vec![("manifest", bytes.to_vec())]
    } else if name.ends_with(".catalogue") {
        vec![("catalogue", [&[1, 0, 0, 0], bytes].concat())]
    } else if name.ends_with(".footer") {
        footer_of_file(bytes)
    } else if name.ends_with(".multivariant.m3u8") {
        vec![("hls_playlist", [&[0], bytes].concat())]
    } else if name.ends_with(".m3u8") {
        // The track's own name, wherever it stands, is the target's mark; its size is what the last range needs.
        let file = text.lines().find(|line| !line.starts_with('#')).unwrap_or_default().to_owned();
        let marked = text.replace(&file, "$F");
        vec![("hls_playlist", [&[1], &u32::MAX.to_le_bytes()[..], marked.as_bytes()].concat())]
    } else {
        Vec::new()
    }
}

fn footer_of_file(bytes: &[u8]) -> Seeds {
    let trailer = Trailer::parse(bytes).expect("a file of a volume");
    let size = trailer.data_bytes;
    assert_eq!(u64::try_from(bytes.len()), Ok(file_bytes(size)));
    let tail = &bytes[usize::try_from(footer_offset(size)).expect("it fits")..];
    footer_seeds(tail, &Footer::parse(tail, size).expect("a file of a volume"))
}
