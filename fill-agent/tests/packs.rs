//! Small objects in packs: sealed, merged, rewritten, found again, rescued; the agent killed in between.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use content::control_socket::FileName;
use lab::{Impatient, Lab, Object, PIECE, Place, number_of};

fn small(seeds: std::ops::Range<u8>) -> Vec<Object> {
    seeds.map(|seed| Object::new(seed, usize::from(seed) * 700 + 1)).collect()
}

fn ask(lab: &Lab, objects: &[&Object]) {
    lab.ask_for(&objects.iter().map(|object| ("film", *object)).collect::<Vec<_>>());
}

fn all(objects: &[Object]) -> Vec<&Object> {
    objects.iter().collect()
}

/// Filled, published, and each object pulled once.
fn filled(volumes: usize, objects: &[Object]) -> (Lab, Impatient) {
    let lab = Lab::new(volumes);
    ask(&lab, &all(objects));
    let agent = lab.start_impatient();
    lab.expect_exactly(&all(objects));
    expect_pulled_once(&lab, objects);
    (lab, agent)
}

fn expect_pulled_once(lab: &Lab, objects: &[Object]) {
    let world = lab.world();
    for object in objects {
        assert_eq!(world.sent[&object.id], object.data.len(), "{} is pulled once", object.id);
    }
}

fn packs(lab: &Lab) -> BTreeSet<PathBuf> {
    lab.places().into_iter().filter(Place::is_packed).map(|place| place.path).collect()
}

fn place_of(lab: &Lab, object: &Object) -> Place {
    lab.places().into_iter().find(|place| place.object == object.id).unwrap()
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// What the server would say after it met a bad block.
fn withdraw(lab: &Lab, path: &Path) {
    let volumes = lab.volumes_by_uuid();
    let (uuid, _) = volumes.iter().find(|(_, volume)| path.starts_with(volume)).unwrap();
    lab.world().server.withdrawn.push(FileName { uuid: *uuid, file: number_of(path) });
}

#[test]
fn small_objects_share_packs_and_large_ones_do_not() {
    let mut objects = small(1..40);
    objects.push(Object::new(40, (1 << 20) - 1));
    objects.push(Object::new(41, 1 << 20));
    let (lab, agent) = filled(1, &objects);
    assert_eq!(packs(&lab).len(), 1, "{:?}", packs(&lab));
    assert_eq!(lab.files().len(), 2);
    agent.stop();
}

#[test]
fn many_publications_leave_few_packs() {
    let mut objects = small(1..2);
    let (lab, agent) = filled(1, &objects);
    for seed in 2..9 {
        objects.extend(small(seed..seed + 1));
        ask(&lab, &all(&objects));
        lab.expect_exactly(&all(&objects));
    }
    // Of about 1, 2, 4 … pages each.
    assert!(packs(&lab).len() <= 4, "{:?}", packs(&lab));
    expect_pulled_once(&lab, &objects);
    agent.stop();
}

#[test]
fn a_half_dead_pack_is_rewritten_and_unlinked_only_when_the_server_does_not_use_it_any_more() {
    let objects = small(1..20);
    let (lab, agent) = filled(1, &objects);
    let old = packs(&lab);
    let before = lab.world().server.generation;
    lab.world().server.pinned = Some(before);
    ask(&lab, &all(&objects[..6]));
    lab.wait("what is left is in another pack", |_| packs(&lab).is_disjoint(&old));
    let seen = lab.world().reports.len();
    lab.wait("several reports have passed", |world| world.reports.len() > seen + 5);
    assert!(old.is_subset(&lab.files()), "a request still uses the old generation");
    lab.world().server.pinned = None;
    lab.expect_exactly(&all(&objects[..6]));
    expect_pulled_once(&lab, &objects);
    agent.stop();
}

#[test]
fn a_flipped_bit_costs_the_object_that_it_spoils_and_no_other_is_pulled_again() {
    let objects = small(1..30);
    let (lab, agent) = filled(2, &objects);
    let spoilt = &objects[11];
    let place = place_of(&lab, spoilt);
    flip(&place.path, place.offset + 100);
    withdraw(&lab, &place.path);
    lab.wait("no entry leads to the bad pack", |_| !packs(&lab).contains(&place.path));
    lab.expect_exactly(&all(&objects));
    let world = lab.world();
    for object in &objects {
        let times = if object.id == spoilt.id { 2 } else { 1 };
        assert_eq!(world.sent[&object.id], times * object.data.len(), "{}", object.id);
    }
    drop(world);
    agent.stop();
}

#[test]
fn a_flipped_bit_between_members_or_in_the_footer_costs_no_pull_at_all() {
    let objects = small(1..10);
    let (lab, agent) = filled(1, &objects);
    for from_end in [1, 5000] {
        let path = packs(&lab).pop_first().unwrap();
        flip(&path, fs::metadata(&path).unwrap().len() - from_end);
        withdraw(&lab, &path);
        lab.wait("no entry leads to the bad pack", |_| !packs(&lab).contains(&path));
        lab.expect_exactly(&all(&objects));
    }
    expect_pulled_once(&lab, &objects);
    agent.stop();
}

#[test]
fn without_the_state_folder_packs_are_found_checked_and_adopted_and_only_the_spoilt_is_pulled() {
    let mut objects = small(1..30);
    objects.push(Object::new(77, PIECE * 5));
    let (lab, agent) = filled(2, &objects);
    agent.stop();
    let spoilt = &objects[3];
    let place = place_of(&lab, spoilt);
    fs::remove_dir_all(lab.path("state")).unwrap();
    lab.world().server.generation = 0;
    let agent = lab.start_impatient();
    lab.expect_exactly(&all(&objects));
    expect_pulled_once(&lab, &objects);
    agent.stop();
    // The same again, with a spoilt member.
    flip(&place_of(&lab, spoilt).path, place.offset + 10);
    fs::remove_dir_all(lab.path("state")).unwrap();
    lab.world().server.generation = 0;
    let agent = lab.start_impatient();
    lab.expect_exactly(&all(&objects));
    let world = lab.world();
    for object in &objects {
        let times = if object.id == spoilt.id { 2 } else { 1 };
        assert_eq!(world.sent[&object.id], times * object.data.len(), "{}", object.id);
    }
    drop(world);
    agent.stop();
}

#[test]
fn ready_objects_of_a_killed_agent_are_sealed_by_the_next_and_not_pulled_again() {
    let lab = Lab::new(1);
    let (objects, slow) = (small(1..8), Object::new(90, 2 * PIECE));
    let mut wanted = all(&objects);
    wanted.push(&slow);
    ask(&lab, &wanted);
    // It keeps the publication, and so the sealing, waiting.
    lab.world().hold.insert(slow.id, 1);
    let ready = |lab: &Lab| {
        lab.unfinished().into_iter().filter(|path| path.extension().is_some_and(|e| e == "ready")).count()
    };
    let agent = lab.start();
    lab.wait("all small ones are ready", |_| ready(&lab) == objects.len());
    agent.kill();
    lab.world().hold.clear();
    let _agent = lab.start();
    lab.expect_exactly(&wanted);
    expect_pulled_once(&lab, &objects);
}

/// Killed as soon as a file of that kind is seen in `incoming/`, or the pack is in `files/`.
fn killed_while(objects: &[Object], lab: &Lab, seen: impl Fn(&Lab) -> bool) -> bool {
    let agent = lab.start();
    let deadline = 400_000;
    let hit = (0..deadline).any(|_| seen(lab) || lab.world().server.generation > 0);
    agent.kill();
    assert!(hit, "nothing of {} objects was seen", objects.len());
    lab.world().server.generation == 0
}

#[test]
fn killed_while_a_pack_is_written_or_before_its_sources_are_removed_it_is_consistent() {
    let is = |extension: &'static str| {
        move |lab: &Lab| lab.unfinished().iter().any(|path| path.extension().is_some_and(|e| e == extension))
    };
    let sealed = |lab: &Lab| !lab.files().is_empty();
    let mut in_time = 0;
    for turn in 0..4 {
        let objects: Vec<_> = (1..30).map(|seed| Object::new(seed, 200_000)).collect();
        let lab = Lab::new(1);
        ask(&lab, &all(&objects));
        let early = if turn % 2 == 0 {
            killed_while(&objects, &lab, is("pack"))
        } else {
            killed_while(&objects, &lab, sealed)
        };
        in_time += u32::from(early);
        let _agent = lab.start();
        lab.expect_exactly(&all(&objects));
        let world = lab.world();
        for object in &objects {
            assert!(world.sent[&object.id] <= object.data.len() + PIECE, "one piece at most is pulled twice");
        }
    }
    assert!(in_time > 0, "each kill came after the publication");
}

#[test]
fn killed_while_a_pack_is_rewritten_it_pulls_nothing_again() {
    let objects: Vec<_> = (1..60).map(|seed| Object::new(seed, 200_000)).collect();
    let lab = Lab::new(1);
    ask(&lab, &all(&objects));
    let agent = lab.start();
    lab.expect_exactly(&all(&objects));
    agent.kill();
    for keep in [25, 10, 4] {
        ask(&lab, &all(&objects[..keep]));
        let agent = lab.start();
        let before = lab.files();
        let seen = (0..400_000).any(|_| {
            let begun = lab.unfinished().iter().any(|path| path.extension().is_some_and(|e| e == "pack"));
            begun || lab.files() != before
        });
        agent.kill();
        assert!(seen);
        let _agent = lab.start();
        lab.expect_exactly(&all(&objects[..keep]));
    }
    expect_pulled_once(&lab, &objects);
}

/// Mounts a new XFS over a folder; unmounted when dropped.
struct Xfs(PathBuf);

impl Xfs {
    fn over(folder: &Path, image: &Path) -> Option<Self> {
        let run = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        fs::File::create(image).unwrap().set_len(400 << 20).unwrap();
        let able = run("mkfs.xfs", &[Path::new("-q"), image])
            && run("mount", &[Path::new("-o"), Path::new("loop"), image, folder]);
        if !able {
            println!("SKIP: no XFS on a loop device is to be had here (mkfs.xfs, mount, root)");
        }
        able.then(|| Self(folder.to_owned()))
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn on_xfs_packs_are_sealed_rewritten_and_found_again() {
    let lab = Lab::new(1);
    let Some(_xfs) = Xfs::over(&lab.volume(0), &lab.path("xfs.img")) else { return };
    let objects = small(1..60);
    ask(&lab, &all(&objects));
    let agent = lab.start();
    lab.expect_exactly(&all(&objects));
    ask(&lab, &all(&objects[..20]));
    lab.expect_exactly(&all(&objects[..20]));
    agent.kill();
    fs::remove_dir_all(lab.path("state")).unwrap();
    lab.world().server.generation = 0;
    let agent = lab.start();
    lab.expect_exactly(&all(&objects[..20]));
    expect_pulled_once(&lab, &objects);
    agent.kill();
}
