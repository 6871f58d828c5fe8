//! One bit flipped in each place where a byte can rot: never served, named in log and metric, mended by itself.
//!
//! Places are drawn from a seed. Files on volumes are flipped where they lie; others are replaced by a rotten twin,
//! because a page that a process has mapped does not rot with its disk, and the origin is shared by hard links.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use content::catalogue::{CATALOGUE_FOLDER, CURRENT_NAME, generation_name, generation_of_current};
use content::id::{MediaPath, ObjectId};
use content::pack;
use content::play::PlayAnswer;
use content::token::split_target;
use content::volume::{FileKind, Trailer, footer_offset};
use fleet_tests::wire::Wire;
use fleet_tests::world::{SLUG, World};
use xtask::fleet::Fleet;
use xtask::stop::Stop;
use xtask::{clock, http};

const SEED: u64 = 0x5eed_0f20;
const LIMIT: Duration = Duration::from_secs(90);
const ASK: Duration = Duration::from_secs(20);

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }
}

/// One bit of the byte, where the file lies.
fn flip_in_place(path: &Path, at: u64, bit: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
    file.sync_all().unwrap();
}

/// A twin of the file with one bit flipped, anywhere, takes its place.
fn flip(path: &Path, random: &mut Random) {
    let twin = path.with_extension("rotten");
    fs::copy(path, &twin).unwrap();
    let size = fs::metadata(&twin).unwrap().len();
    let (at, bit) = (random.below(size), random.below(8));
    println!("seed {SEED:#x}: bit {bit} of byte {at} of {}", path.display());
    flip_in_place(&twin, at, bit);
    fs::rename(twin, path).unwrap();
}

fn files_of(world: &World, name: &str) -> BTreeSet<PathBuf> {
    let volumes =
        ["volume-1", "volume-2"].map(|volume| world.fleet.plan.box_folder(name).join(volume).join("files"));
    volumes
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
        .collect()
}

/// Every address of box-a in the play.
fn urls_of(world: &World, name: &str, play: &PlayAnswer) -> Vec<String> {
    let media = world.fleet.plan.boxes.iter().find(|each| each.name == name).unwrap().media;
    let objects = play.streams.iter().flat_map(|stream| [&stream.playlist, &stream.track]);
    let urls = objects.flat_map(|object| object.urls.iter());
    urls.filter(|url| url.starts_with(&format!("http://{media}/"))).cloned().collect()
}

/// Whether it is served whole. Not one byte that comes may be another than the origin's.
#[track_caller]
fn is_served(url: &str, origin: &Path) -> bool {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let target = format!("/{path}");
    let (_, media) = split_target(&target).unwrap();
    let media: MediaPath = media.parse().unwrap();
    let expected =
        fs::read(origin.join(content::origin::object_path(media.object, media.extension))).unwrap();
    assert_eq!(ObjectId::of(&expected), media.object, "the oracle itself");
    let Ok(mut wire) = Wire::open(address.parse::<SocketAddr>().unwrap()) else { return false };
    match wire.ask("GET", &target, &[]) {
        Ok(answer) if answer.status == 200 => {
            assert!(answer.body == expected, "{url} differs from the origin");
            true
        }
        Ok(_) => false,
        Err(_) => {
            let part = wire.rest().unwrap_or_default();
            assert!(
                expected.starts_with(&part) || part.starts_with(b"HTTP/1.1 "),
                "{url} began with wrong bytes"
            );
            false
        }
    }
}

fn metric(url: &str, name: &str) -> f64 {
    let Ok(answer) = http::get(url, &[], ASK) else { return 0.0 };
    let text = answer.text();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or(0.0)
}

fn server_rot(world: &World, place: &str) -> f64 {
    let url = format!("http://{}/metrics", world.fleet.plan.boxes[0].management);
    metric(&url, &format!("oca_rot_found_total{{place=\"{place}\"}}"))
}

fn control_rot(world: &World, place: &str) -> f64 {
    let url = format!("{}/metrics", world.fleet.plan.control_url());
    metric(&url, &format!("oca_control_rot_found_total{{place=\"{place}\"}}"))
}

/// As the agent reported it to the control plane.
fn agent_rot(world: &World, name: &str, place: &str) -> f64 {
    let url = format!("{}/metrics", world.fleet.plan.control_url());
    metric(&url, &format!("oca_agent_rot_found_total{{appliance=\"{name}\",place=\"{place}\"}}"))
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    clock::wait_for(&Stop::default(), what, LIMIT, || Ok(done().then_some(()))).unwrap();
}

/// A line of the log that names rot, this file and a cure.
#[track_caller]
fn expect_logged(world: &World, log: &str, file: &str) {
    let path = world.fleet.plan.logs.join(log);
    let text = fs::read_to_string(&path).unwrap();
    let named =
        text.lines().any(|line| line.contains("rot: ") && line.contains(file) && line.contains("cure="));
    assert!(named, "{} does not name {file}:\n{text}", path.display());
}

/// The files of a box that are of this kind, with what their trailers say.
fn files_of_kind(world: &World, name: &str, kind: FileKind) -> Vec<(PathBuf, Trailer)> {
    let trailer = |path: PathBuf| {
        let trailer = Trailer::parse(&fs::read(&path).unwrap()).unwrap();
        (trailer.kind == kind).then_some((path, trailer))
    };
    files_of(world, name).into_iter().filter_map(trailer).collect()
}

/// Starts the server anew, so that it has nothing in memory, and asks for everything until all of it is served. Each
/// answer is right or none: `is_served` looks.
fn ask_until_all_is_served(world: &mut World, urls: &[String]) {
    world.fleet.start_server("box-a").unwrap();
    let origin = world.fleet.plan.origin.clone();
    wait("everything to be served again", || {
        let served: Vec<_> = urls.iter().map(|url| is_served(url, &origin)).collect();
        served.iter().all(|served| *served)
    });
}

#[test]
fn a_rotten_file_is_never_sent_and_is_pulled_again_whatever_bit_of_it_it_was() {
    let mut world = World::filled().unwrap();
    let urls = urls_of(&world, "box-a", &world.play().unwrap());
    assert!(urls.len() >= 4);
    let mut random = Random(SEED);
    for place in ["trailer", "checksums", "data"] {
        world.fleet.kill_server("box-a").unwrap();
        let files = files_of_kind(&world, "box-a", FileKind::Object);
        assert!(!files.is_empty());
        for (file, trailer) in &files {
            let at = match place {
                "trailer" => fs::metadata(file).unwrap().len() - 64 + random.below(64),
                "checksums" => footer_offset(trailer.data_bytes) + random.below(4),
                _ => random.below(trailer.data_bytes),
            };
            flip_in_place(file, at, random.below(8));
        }
        ask_until_all_is_served(&mut world, &urls);
        let found = server_rot(&world, "file");
        assert!(found >= files.len() as f64, "{place}: {found} found in {} files", files.len());
        for (file, _) in &files {
            expect_logged(&world, "box-a.oca-appliance.log", &file.file_name().unwrap().to_string_lossy());
        }
        wait("the rotten files to be gone: a refill is a new one", || {
            files.iter().all(|(file, _)| !file.exists())
        });
        world.wait_until_filled().unwrap();
    }
}

/// A byte at each place of a pack where one can rot.
fn places_of_pack(file: &Path, trailer: &Trailer, random: &mut Random) -> Vec<(&'static str, u64)> {
    let bytes = fs::read(file).unwrap();
    let data = &bytes[..usize::try_from(trailer.data_bytes).unwrap()];
    let tail = &data[data.len() - usize::try_from(pack::TAIL_BYTES).unwrap()..];
    let index = pack::index_offset(trailer.data_bytes, tail).unwrap();
    let members = pack::parse_index(&data[usize::try_from(index).unwrap()..], index).unwrap();
    let member = members[usize::try_from(random.below(u64::try_from(members.len()).unwrap())).unwrap()];
    let padded = members.iter().find(|member| !member.bytes.is_multiple_of(4096)).unwrap();
    vec![
        ("member", u64::from(member.offset) + random.below(u64::from(member.bytes))),
        ("zeros behind a member", u64::from(padded.offset) + u64::from(padded.bytes)),
        ("index", index + random.below(trailer.data_bytes - index)),
        ("checksums", footer_offset(trailer.data_bytes) + random.below(4)),
        ("trailer", u64::try_from(bytes.len()).unwrap() - 64 + random.below(64)),
    ]
}

#[test]
fn wherever_a_pack_rots_nothing_wrong_is_sent_and_its_members_are_served_again_from_another() {
    let mut world = World::filled().unwrap();
    let urls = urls_of(&world, "box-a", &world.play().unwrap());
    let mut random = Random(SEED);
    for round in 0..5 {
        world.fleet.kill_server("box-a").unwrap();
        let (file, trailer) = files_of_kind(&world, "box-a", FileKind::Pack).remove(0);
        let (place, at) = places_of_pack(&file, &trailer, &mut random)[round];
        flip_in_place(&file, at, random.below(8));
        println!("seed {SEED:#x}: {place}, byte {at} of {}", file.display());
        ask_until_all_is_served(&mut world, &urls);
        assert!(server_rot(&world, "file") >= 1.0, "{place}");
        expect_logged(&world, "box-a.oca-appliance.log", &file.file_name().unwrap().to_string_lossy());
        wait("the rotten pack to be gone", || !file.exists());
        world.wait_until_filled().unwrap();
    }
    assert!(agent_rot(&world, "box-a", "file") >= 1.0, "the agent found the spoilt member");
    // Without a catalogue packs are found by their indexes; one that cannot be read is of no use, and is named.
    world.fleet.power_off("box-a").unwrap();
    let (file, trailer) = files_of_kind(&world, "box-a", FileKind::Pack).remove(0);
    let (_, at) = places_of_pack(&file, &trailer, &mut random)[2];
    flip_in_place(&file, at, random.below(8));
    fs::remove_dir_all(world.fleet.plan.box_folder("box-a").join("state").join(CATALOGUE_FOLDER)).unwrap();
    world.fleet.power_on("box-a").unwrap();
    world.wait_until_filled().unwrap();
    let origin = world.fleet.plan.origin.clone();
    wait("everything to be served", || urls.iter().all(|url| is_served(url, &origin)));
    expect_logged(&world, "box-a.oca-fill.log", &file.file_name().unwrap().to_string_lossy());
    wait("the pack to be gone", || !file.exists());
}

#[test]
fn a_rotten_catalogue_or_its_name_gives_way_and_nothing_is_pulled_again() {
    let mut world = World::filled().unwrap();
    let (play, origin) = (world.play().unwrap(), world.fleet.plan.origin.clone());
    let urls = urls_of(&world, "box-a", &play);
    let folder = world.fleet.plan.box_folder("box-a").join("state").join(CATALOGUE_FOLDER);
    let current = || generation_of_current(&fs::read(folder.join(CURRENT_NAME)).unwrap()).ok().flatten();
    let files = files_of(&world, "box-a");
    for (round, place) in (0u64..).zip(["current", "catalogue", "catalogue", "catalogue"]) {
        let before = current().unwrap();
        world.fleet.power_off("box-a").unwrap();
        let name = if place == "current" { CURRENT_NAME.to_owned() } else { generation_name(before) };
        match round {
            // The rest of the header's page is padding that nobody reads.
            1 => flip_in_place(&folder.join(&name), Random(SEED).below(112), 3),
            2 => flip_in_place(&folder.join(&name), 4096 + Random(SEED).below(16), 5),
            _ if place == "current" => flip(&folder.join(&name), &mut Random(SEED + round)),
            _ => {
                let size = fs::metadata(folder.join(&name)).unwrap().len();
                let pages = size / 4096 - 1;
                flip_in_place(&folder.join(&name), 4096 + Random(SEED).below(pages * 4096 - 4096), 1);
            }
        }
        // First the server alone: once the agent has published, there is nothing rotten to be found.
        world.fleet.start_server("box-a").unwrap();
        wait("the server to count it", || server_rot(&world, place) >= 1.0);
        world.fleet.start_agent("box-a").unwrap();
        wait("a newer generation", || {
            // Each is served right or not at all: `is_served` looks.
            let served = urls.iter().filter(|url| is_served(url, &origin)).count();
            assert!(served <= urls.len());
            current().is_some_and(|now| now > before)
        });
        world.wait_until_filled().unwrap();
        assert!(urls.iter().all(|url| is_served(url, &origin)));
        wait("the agent's report of it", || agent_rot(&world, "box-a", place) >= 1.0);
        for log in ["box-a.oca-appliance.log", "box-a.oca-fill.log"] {
            expect_logged(&world, log, &format!("{CATALOGUE_FOLDER}/{name}"));
        }
        assert_eq!(files_of(&world, "box-a"), files, "found by scan and adopted, not pulled again");
    }
}

#[test]
fn rot_in_the_boxs_own_state_lets_nothing_go_and_mends_itself() {
    let mut world = World::filled().unwrap();
    let (play, origin) = (world.play().unwrap(), world.fleet.plan.origin.clone());
    let urls = urls_of(&world, "box-a", &play);
    let folder = world.fleet.plan.box_folder("box-a");
    let files = files_of(&world, "box-a");
    let places = [
        ("state/agent/manifest.ndjson", "agent-manifest"),
        ("state/agent/token-keys.json", "agent-state"),
        ("state/agent/volumes.json", "agent-state"),
        ("state/agent/next-file.json", "agent-state"),
        ("volume-1/OCA-VOLUME", "marker"),
    ];
    for (round, (name, place)) in (0u64..).zip(places) {
        let path = folder.join(name);
        let before = fs::read(&path).unwrap();
        world.fleet.kill_agent("box-a").unwrap();
        flip(&path, &mut Random(SEED + round));
        let rotten = fs::read(&path).unwrap();
        world.fleet.start_agent("box-a").unwrap();
        wait("the report of it", || agent_rot(&world, "box-a", place) >= 1.0);
        wait("it to be mended", || fs::read(&path).unwrap() != rotten);
        if name.ends_with("next-file.json") {
            assert!(content::seal::from_sealed::<u64>(&fs::read(&path).unwrap()).is_ok());
        } else {
            wait("it to be as it was", || fs::read(&path).unwrap() == before);
        }
        expect_logged(&world, "box-a.oca-fill.log", name);
        world.wait_until_filled().unwrap();
        wait("everything to be served", || urls.iter().all(|url| is_served(url, &origin)));
        assert_eq!(files_of(&world, "box-a"), files, "{name}");
    }
    // The server's own copy of the keys: without them no token opens, with the agent's they do.
    world.fleet.kill_server("box-a").unwrap();
    flip(&folder.join("state/token-keys.json"), &mut Random(SEED));
    world.fleet.start_server("box-a").unwrap();
    wait("everything to be served", || urls.iter().all(|url| is_served(url, &origin)));
    assert!(server_rot(&world, "server-keys") >= 1.0);
    expect_logged(&world, "box-a.oca-appliance.log", "token-keys.json");
}

#[test]
fn a_rotten_title_is_named_served_on_and_no_reason_to_let_anything_go() {
    let mut world = World::filled().unwrap();
    let (play, origin) = (world.play().unwrap(), world.fleet.plan.origin.clone());
    let urls = urls_of(&world, "box-a", &play);
    let files = files_of(&world, "box-a");
    let title = origin.join("titles").join(SLUG).join("title.json");
    let good = fs::read(&title).unwrap();
    flip(&title, &mut Random(SEED));
    wait("the title to be named", || control_rot(&world, "title") >= 1.0);
    let health =
        http::get(&format!("{}/v1/health", world.fleet.plan.control_url()), &[], ASK).unwrap().text();
    assert!(
        health.contains(&format!("title {SLUG}")) && health.contains("publish the title again"),
        "{health}"
    );
    expect_logged(&world, "oca-control.log", "title.json");
    assert_eq!(world.play().unwrap().streams.len(), play.streams.len(), "what was read before is served on");

    // A control plane that starts now never read it whole: not offered, and no box lets it go.
    let stop = world.stop.clone();
    world.fleet.kill_control().unwrap();
    world.fleet.start_control(&stop).unwrap();
    assert!(world.play().is_err());
    world.wait_until_filled().unwrap();
    assert!(urls.iter().all(|url| is_served(url, &origin)), "tokens that were given open as before");
    assert_eq!(files_of(&world, "box-a"), files);

    let twin = title.with_extension("good");
    fs::write(&twin, good).unwrap();
    fs::rename(twin, &title).unwrap();
    wait("the title to be back", || world.play().is_ok());
}

#[test]
fn rot_in_the_control_planes_state_and_manifests_loses_no_drain_no_key_and_no_object() {
    let mut world = World::filled().unwrap();
    let (play, origin) = (world.play().unwrap(), world.fleet.plan.origin.clone());
    let urls = urls_of(&world, "box-b", &play);
    let files = files_of(&world, "box-b");
    let drain = format!("{}/v1/appliances/box-a/drain", world.fleet.plan.control_url());
    assert_eq!(http::post_json(&drain, &serde_json::json!({}), ASK).unwrap().status, 204);
    let cluster = origin.join("clusters/lab");
    let manifests = fs::read_dir(cluster.join("manifests")).unwrap().map(|entry| entry.unwrap().path());
    let version = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let newest = manifests.max_by_key(version).unwrap();
    let state = world.fleet.plan.run.join("control");
    let stop = world.stop.clone();
    let places = [
        (state.join("signing-keys.json"), "control-state"),
        (state.join("appliances.json"), "control-state"),
        (newest, "origin-manifest"),
        (cluster.join("current"), "origin-current"),
    ];
    for (round, (path, place)) in (0u64..).zip(places) {
        world.fleet.kill_control().unwrap();
        flip(&path, &mut Random(SEED + round));
        world.fleet.start_control(&stop).unwrap();
        assert!(control_rot(&world, place) >= 1.0, "{place} was not counted");
        expect_logged(&world, "oca-control.log", path.file_name().unwrap().to_str().unwrap());
        wait("box-b to be offered, and box-a to stay drained", || {
            let views = world.fleet.view().unwrap_or_default();
            let of = |name: &str| views.iter().find(|view| view.name == name).cloned();
            of("box-b").is_some_and(|view| view.ready())
                && of("box-a").is_some_and(|view| !view.offered && view.reason == "draining")
        });
        assert!(urls.iter().all(|url| is_served(url, &origin)), "the key that signed them is still told");
        assert_eq!(files_of(&world, "box-b"), files);
    }
}

#[test]
fn a_rotten_tree_is_made_again_and_a_rotten_object_of_the_origin_is_never_taken() {
    let (plan, folder) = World::plan().unwrap();
    let origin = plan.origin.clone();
    let title = fs::read(origin.join("titles").join(SLUG).join("title.json")).unwrap();
    let title = content::title::Title::parse(&title).unwrap();
    let mut tracks: Vec<_> = title.streams.iter().map(|stream| stream.track).collect();
    tracks.sort_by_key(|track| std::cmp::Reverse(track.bytes));
    let path = |track: &content::title::ObjectRef| {
        origin.join(content::origin::object_path(track.object, track.extension))
    };
    let trees = [tracks[0], tracks[tracks.len() - 1]]
        .map(|track| origin.join(content::origin::tree_path(track.object)));
    let whole = trees.each_ref().map(|tree| fs::read(tree).unwrap());
    let mut random = Random(SEED);
    trees.iter().for_each(|tree| flip(tree, &mut random));
    let (rotten, victim) = (path(&tracks[1]), tracks[1].object);
    let good = fs::read(&rotten).unwrap();
    flip(&rotten, &mut random);

    let stop = Stop::default();
    let fleet = Fleet::start(plan, &stop).unwrap();
    let mut world = World { fleet, stop, folder };
    wait("the trees to be made again", || {
        trees.iter().zip(&whole).all(|(tree, whole)| fs::read(tree).is_ok_and(|bytes| bytes == *whole))
    });
    assert!(control_rot(&world, "origin-tree") >= 2.0);
    wait("a box to refuse the rotten object", || agent_rot(&world, "box-a", "source-piece") >= 1.0);
    wait("all else to be held", || {
        world.fleet.view().unwrap_or_default().iter().all(|view| view.missing == Some(1))
    });
    expect_logged(&world, "box-a.oca-fill.log", &victim.to_string());
    for tree in &trees {
        expect_logged(&world, "oca-control.log", tree.file_name().unwrap().to_str().unwrap());
    }
    let stored = files_of(&world, "box-a").into_iter().chain(files_of(&world, "box-b"));
    for file in stored {
        let trailer = content::volume::Trailer::parse(&fs::read(&file).unwrap()).unwrap();
        assert_ne!(trailer.digest, victim, "{} was taken", file.display());
    }
    fs::write(&rotten, good).unwrap();
    world.wait_until_filled().unwrap();
}
