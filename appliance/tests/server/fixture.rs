//! A box with real files on volumes in a temporary folder, its server on real sockets, and a client that reads answers
//! byte by byte.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use appliance::server::Server;
use content::box_config::BoxConfig;
use content::catalogue::{
    CATALOGUE_FOLDER, CURRENT_NAME, Contents, Entry, FileRecord, build, current_bytes, generation_name,
};
use content::control_socket::{ServerAnswer, ServerRequest, ServerStatus};
use content::id::{Extension, MediaPath, ObjectId, Tier};
use content::pack;
use content::token::{Claims, Signer};
use content::volume::{
    Checksums, FILES_FOLDER, FileKind, Footer, MARKER_NAME, Marker, VolumeId, file_name, footer_offset,
};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
pub const VOLUMES: usize = 2;

#[derive(Clone)]
pub struct Item {
    pub path: MediaPath,
    pub bytes: Vec<u8>,
}

/// Bytes that repeat nowhere soon.
pub fn item(size: usize, seed: u64) -> Item {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    let bytes: Vec<u8> = std::iter::repeat_with(word).flatten().take(size).collect();
    let object = ObjectId::of(&bytes);
    let title = "night-train".parse().unwrap();
    Item { path: MediaPath { title, tier: Tier::Sd, object, extension: Extension::Mp4 }, bytes }
}

/// What is on the disks. Item `i` is file `i + 1` on volume `i mod 2`.
pub struct Disks {
    pub folder: TempDir,
}

impl Disks {
    pub fn new() -> Self {
        let disks = Self { folder: tempfile::tempdir().unwrap() };
        for index in 0..VOLUMES {
            fs::create_dir_all(disks.volume(index).join(FILES_FOLDER)).unwrap();
            fs::write(disks.volume(index).join(MARKER_NAME), Marker::new(uuid(index)).to_bytes()).unwrap();
        }
        disks
    }

    pub fn volume(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("volume-{index}"))
    }

    pub fn file(&self, item: usize) -> PathBuf {
        let number = u64::try_from(item).unwrap() + 1;
        self.volume(item % VOLUMES).join(FILES_FOLDER).join(file_name(number))
    }

    /// Writes files that are not there yet, then the generation.
    pub fn write(&self, generation: u64, items: &[Item]) {
        let mut contents =
            Contents { generation, next_file: 1000, volumes: vec![uuid(0), uuid(1)], ..Contents::default() };
        for (index, item) in items.iter().enumerate() {
            if !self.file(index).exists() {
                fs::write(self.file(index), file_with_footer(&item.bytes)).unwrap();
            }
            let data_bytes = u64::try_from(item.bytes.len()).unwrap();
            let volume = u32::try_from(index % VOLUMES).unwrap();
            let number = u64::try_from(index).unwrap() + 1;
            contents.files.push(FileRecord { number, data_bytes, volume });
            let MediaPath { object, extension, .. } = item.path;
            let file = u32::try_from(index).unwrap();
            contents.entries.push(Entry {
                key: item.path.key(),
                object,
                file,
                offset: 0,
                bytes: data_bytes,
                extension,
            });
        }
        let folder = self.folder.path().join("state").join(CATALOGUE_FOLDER);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(generation_name(generation)), build::to_bytes(contents).unwrap()).unwrap();
        fs::write(folder.join(CURRENT_NAME), current_bytes(generation)).unwrap();
    }

    pub fn config_text(&self, limits: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "state = '{folder}/state'\nsocket = '{folder}/server.sock'\n\
             [[volume]]\npath = '{folder}/volume-0'\n[[volume]]\npath = '{folder}/volume-1'\n\
             [server]\nlisten = ['127.0.0.1:0']\nmanagement = '127.0.0.1:0'\nworkers = 2\nmemory_mib = 16\nway = 'sendfile'\n\
             [server.limits]\n{limits}\n\
             [agent]\nappliance = 'box-a'\ncluster = 'lab'\ncontrol = 'http://127.0.0.1:9'\n\
             base_url = 'http://127.0.0.1:9'\nkey_file = '{folder}/agent.key'\n"
        )
    }

    pub fn start(self, limits: &str) -> Site {
        let text = self.config_text(limits);
        self.start_as(&text)
    }

    pub fn start_as(self, text: &str) -> Site {
        let server = Server::start(BoxConfig::parse(text).unwrap(), None).unwrap();
        let site = Site { disks: self, server };
        site.tell(&ServerRequest::TokenKeys { keys: vec![signer().public_key()] }).unwrap();
        site
    }
}

/// Serves over TLS too, with the certificate and key that lie in the folder as `certificate.pem` and `key.pem`.
pub fn secure_text(disks: &Disks, limits: &str) -> String {
    let folder = disks.folder.path().display();
    let tls = format!(
        "[server.tls]\nlisten = ['127.0.0.1:0']\ncertificate = '{folder}/certificate.pem'\nkey = '{folder}/key.pem'\n"
    );
    disks.config_text(limits) + &tls
}

fn uuid(index: usize) -> VolumeId {
    VolumeId([u8::try_from(index).unwrap() + 1; 16])
}

fn file_with_footer(bytes: &[u8]) -> Vec<u8> {
    file_of(FileKind::Object, bytes, ObjectId::of(bytes))
}

/// These data, sealed as the pack of that number.
pub fn pack_of(bytes: &[u8], number: u64) -> Vec<u8> {
    file_of(FileKind::Pack, bytes, pack::identity(ObjectId::of(bytes), number))
}

fn file_of(kind: FileKind, bytes: &[u8], digest: ObjectId) -> Vec<u8> {
    let data_bytes = u64::try_from(bytes.len()).unwrap();
    let mut checksums = Checksums::default();
    checksums.update(bytes);
    let footer = Footer { kind, data_bytes, digest, checksums: checksums.finish() };
    let mut file = bytes.to_vec();
    file.resize(usize::try_from(footer_offset(data_bytes)).unwrap(), 0);
    file.extend(footer.to_bytes());
    file
}

pub fn signer() -> Signer {
    Signer::from_seed("k", &[7; 32]).unwrap()
}

/// With a token that opens the title for an hour.
pub fn target(item: &Item) -> String {
    let claims = Claims {
        issuer: "c".to_owned(),
        session: "s".parse().unwrap(),
        title: "night-train".parse().unwrap(),
        tiers: Tier::ALL.to_vec(),
        not_before: Timestamp::now(),
        expires: Timestamp::now() + SignedDuration::from_hours(1),
    };
    format!("/~{}{}", signer().sign(&claims), item.path)
}

pub struct Site {
    pub disks: Disks,
    pub server: Server,
}

impl Site {
    /// The same disks under a new server, which nobody tells anything.
    pub fn restart(self) -> Self {
        self.server.stop();
        let config = BoxConfig::parse(&self.disks.config_text("")).unwrap();
        Self { server: Server::start(config, None).unwrap(), ..self }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.listen[0]
    }

    pub fn wire(&self) -> Wire {
        Wire::open(self.address())
    }

    pub fn target(&self, item: &Item) -> String {
        target(item)
    }

    pub fn tell(&self, request: &ServerRequest) -> Result<ServerStatus, String> {
        let line = serde_json::to_string(request).unwrap();
        match serde_json::from_str(&self.tell_line(&line)).unwrap() {
            ServerAnswer::Status(status) => Ok(status),
            ServerAnswer::Refused { reason } => Err(reason),
        }
    }

    pub fn tell_line(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.disks.folder.path().join("server.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    pub fn manage(&self, method: &str, path: &str) -> Answer {
        Wire::open(self.server.management).ask(&format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
    }

    /// The sample of that name and labels, as `/metrics` tells it.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = String::from_utf8(self.manage("GET", "/metrics").content).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {sample} in:\n{text}")).parse().unwrap()
    }
}

/// Looks again and again until the condition holds; panics with its name after a while.
#[expect(clippy::disallowed_methods, reason = "a test waits for another thread, with a limit")]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub content: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A connection.
pub struct Wire {
    stream: BufReader<Box<dyn Stream>>,
}

impl Wire {
    pub fn open(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }

    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn wait_for_a_byte(&mut self) {
        assert!(!self.stream.fill_buf().unwrap().is_empty());
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn ask(&mut self, request: &str) -> Answer {
        self.send(request.as_bytes());
        self.read(request.starts_with("HEAD"))
    }

    pub fn get(&mut self, target: &str, fields: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
    }

    pub fn read(&mut self, head_only: bool) -> Answer {
        self.try_read(head_only).expect("an answer")
    }

    /// None: the connection ended first.
    pub fn try_read(&mut self, head_only: bool) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut answer = Answer { status: head[9..12].parse().unwrap(), head, content: vec![] };
        let length = answer.field("Content-Length").map_or(0, |length| length.parse().unwrap());
        if !head_only && answer.status != 304 {
            answer.content.resize(length, 0);
            let mut done = 0;
            while done < length {
                match self.stream.read(&mut answer.content[done..]) {
                    Ok(count) if count > 0 => done += count,
                    Ok(_) | Err(_) => break,
                }
            }
            // What did not come is not taken for zeros.
            answer.content.truncate(done);
        }
        Some(answer)
    }

    /// Whether the peer closes now, with nothing more to say.
    pub fn ended(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}
