//! Small objects of a real title come from packs, and a rotten bit in one is healed without the origin.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use content::id::{MediaPath, ObjectId};
use content::pack::SMALL_BELOW_BYTES;
use content::play::PlayAnswer;
use content::token::split_target;
use content::volume::{FILES_FOLDER, file_name};
use fleet_tests::current_contents;
use fleet_tests::wire::Wire;
use fleet_tests::world::World;
use xtask::clock;

/// Where a box has each object: file, offset, bytes, and the length of the file's data.
fn places(run: &Path) -> BTreeMap<ObjectId, (PathBuf, u64, u64, u64)> {
    let contents = (0..100).find_map(|_| current_contents(&run.join("state")).ok()).unwrap();
    let place = |entry: &content::catalogue::Entry| {
        let record = contents.files[usize::try_from(entry.file).unwrap()];
        let name = file_name(record.number);
        let files = folders(run, FILES_FOLDER);
        // A number is used once on an appliance; one that is gone by now leads nowhere.
        let path = files.iter().map(|files| files.join(&name)).find(|path| path.exists()).unwrap_or_default();
        (entry.object, (path, entry.offset, entry.bytes, record.data_bytes))
    };
    contents.entries.iter().map(place).collect()
}

/// All folders of this name below another.
fn folders(below: &Path, name: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![below.to_owned()]);
    while let Some(folder) = folders.pop() {
        let inside = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        for path in inside.filter(|path| path.is_dir()) {
            let is_it = path.file_name().is_some_and(|found| found == name);
            if is_it { found.push(path) } else { folders.push(path) }
        }
    }
    found
}

fn urls(play: &PlayAnswer) -> Vec<String> {
    let objects = play.streams.iter().flat_map(|stream| [&stream.playlist, &stream.track]);
    objects.flat_map(|object| object.urls.clone()).collect()
}

fn get(url: &str) -> (MediaPath, u16, Vec<u8>) {
    ask(url).unwrap()
}

/// None: nobody answers.
fn ask(url: &str) -> Option<(MediaPath, u16, Vec<u8>)> {
    let rest = url.strip_prefix("http://").unwrap();
    let at = rest.find('/').unwrap();
    let (_, path) = split_target(&rest[at..]).unwrap();
    let answer = Wire::open(rest[..at].parse().unwrap()).ok()?.ask("GET", &rest[at..], &[]).ok()?;
    Some((path.parse().unwrap(), answer.status, answer.body))
}

#[test]
fn every_small_object_of_a_title_comes_byte_exact_from_a_pack_and_a_rotten_bit_costs_one_of_them() {
    let mut world = World::filled().unwrap();
    let play = world.play().unwrap();
    let box_a = world.fleet.plan.boxes[0].clone();
    let run = world.fleet.plan.box_folder(&box_a.name);
    let places_before = places(&run);
    let mine = format!("http://{}/", box_a.media);
    let urls: Vec<_> = urls(&play).into_iter().filter(|url| url.starts_with(&mine)).collect();
    let mut small = Vec::new();
    for url in &urls {
        let (path, status, body) = get(url);
        assert_eq!((status, ObjectId::of(&body)), (200, path.object), "{url}");
        let (_, _, bytes, data_bytes) = &places_before[&path.object];
        if *bytes < SMALL_BELOW_BYTES {
            assert_ne!(bytes, data_bytes, "{url} has a file of its own");
            small.push((url, path.object));
        }
    }
    assert!(small.len() >= play.streams.len(), "every playlist is small");

    // A bit of one of them rots; its server notices, the agent heals it.
    let (url, victim) = small[0];
    let (path, offset, ..) = places_before[&victim].clone();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + 20).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset + 20).unwrap();
    // Blocks in memory are right; a server started anew reads the disk.
    drop(file);
    let name = box_a.name.clone();
    world.fleet.kill_server(&name).unwrap();
    world.fleet.start_server(&name).unwrap();
    let mut refused = 0;
    clock::wait_for(&world.stop, "all small objects are served again", Duration::from_secs(60), || {
        let mut right = 0;
        for (url, object) in &small {
            let Some((_, status, body)) = ask(url) else { return Ok(None) };
            assert!(status != 200 || ObjectId::of(&body) == *object, "{url}: a wrong byte was served");
            right += usize::from(status == 200);
            refused += usize::from(status == 503);
        }
        let moved = places(&run).get(&victim).is_some_and(|(now, ..)| *now != path);
        Ok((right == small.len() && moved).then_some(()))
    })
    .unwrap();
    assert!(refused > 0, "{url} was never refused: the rot was not met");
}
