//! The real program, killed with SIGKILL at many points and started again: it goes on where it was, pulls at most one piece
//! twice per kill, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::fs;
use std::os::unix::fs::FileExt as _;

use lab::{Lab, Object, PIECE};

/// Waits until the origin has fallen silent and every whole piece that it sent is on the disk.
fn wait_until_written(lab: &Lab, object: &Object) {
    lab.wait("the pieces that were sent are written", |world| {
        let sent = world.sent.get(&object.id).copied().unwrap_or_default();
        if Some(&sent) != world.hold.get(&object.id) {
            return false;
        }
        let on_last = sent - world.sent_before_last.get(&object.id).copied().unwrap_or_default();
        let (_, first, _) = world.asked.iter().rfind(|(id, ..)| *id == object.id).copied().unwrap();
        let whole = (first + on_last) / PIECE * PIECE;
        let Some(part) = lab.part_of(object).and_then(|path| fs::File::open(path).ok()) else {
            return whole == 0;
        };
        let mut written = vec![0; whole];
        part.read_exact_at(&mut written, 0).is_ok() && written == object.data[..whole]
    });
}

#[test]
fn killed_at_any_byte_it_goes_on_and_pulls_at_most_one_piece_twice() {
    let lab = Lab::new(2);
    let film = Object::new(1, 9 * PIECE + 5);
    let small = Object::new(2, 700);
    lab.ask_for(&[("film", &film), ("film", &small)]);
    let points = [1, PIECE - 1, PIECE, 3 * PIECE + 77, 6 * PIECE, 8 * PIECE + 9_000];
    for point in points {
        let sent = lab.world().sent.get(&film.id).copied().unwrap_or_default();
        lab.world().hold.insert(film.id, point.max(sent + 1));
        let agent = lab.start();
        wait_until_written(&lab, &film);
        let waits = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "ready");
        lab.wait("the small one waits for its pack", |_| lab.unfinished().iter().any(waits));
        agent.kill();
    }
    lab.world().hold.clear();
    let _agent = lab.start();
    lab.expect_exactly(&[&film, &small]);
    let sent = lab.world().sent[&film.id];
    assert!(sent >= film.data.len());
    assert!(sent <= film.data.len() + points.len() * PIECE, "{sent} bytes for {}", film.data.len());
    assert_eq!(lab.world().sent[&small.id], small.data.len(), "what was complete is not pulled again");
}

#[test]
fn killed_between_a_finished_file_and_its_publication_it_adopts_the_file() {
    let lab = Lab::new(1);
    let (done, slow) = (Object::new(1, 4 * PIECE), Object::new(2, 4 * PIECE));
    lab.ask_for(&[("film", &done), ("film", &slow)]);
    lab.world().hold.insert(slow.id, PIECE + 1);
    let agent = lab.start();
    lab.wait("one file is complete", |_| lab.files().len() == 1);
    wait_until_written(&lab, &slow);
    agent.kill();
    assert_eq!(lab.world().server.publishes, [0; 0], "nothing was published");
    lab.world().hold.clear();
    let _agent = lab.start();
    lab.expect_exactly(&[&done, &slow]);
    let world = lab.world();
    assert_eq!(world.sent[&done.id], done.data.len());
    assert!(world.sent[&slow.id] <= slow.data.len() + PIECE);
}

#[test]
fn killed_while_the_server_takes_a_generation_it_tells_the_server_again() {
    let lab = Lab::new(1);
    let film = Object::new(1, PIECE / 2);
    lab.ask_for(&[("film", &film)]);
    lab.world().server.hold_publish = true;
    let agent = lab.start();
    lab.wait("the server is told", |world| !world.server.publishes.is_empty());
    agent.kill();
    lab.world().server.hold_publish = false;
    let _agent = lab.start();
    lab.expect_exactly(&[&film]);
    let world = lab.world();
    assert_eq!(world.sent[&film.id], film.data.len());
    assert_eq!(world.server.publishes[0], world.server.generation, "the same generation, told again");
}

#[test]
fn leftovers_of_any_kind_are_gone_after_the_next_start() {
    let lab = Lab::new(2);
    let (film, stranger) = (Object::new(1, PIECE), Object::new(2, 3 * PIECE));
    lab.ask_for(&[("film", &film), ("film", &stranger)]);
    let agent = lab.start();
    lab.expect_exactly(&[&film, &stranger]);
    agent.kill();
    // A complete file that the next manifest does not want, under a number that no generation names.
    let held = lab.catalogue();
    let (_, _, path) = held.iter().find(|(object, ..)| *object == stranger.id).unwrap();
    fs::copy(path, path.with_file_name("00000000000000ff")).unwrap();
    fs::write(path.with_file_name("00000000000000fe"), b"half a file").unwrap();
    let incoming = lab.volume(0).join("incoming");
    fs::write(incoming.join("00000000000000aa.part"), b"x").unwrap();
    fs::write(incoming.join("00000000000000ab.json"), b"{}").unwrap();
    fs::write(incoming.join("00000000000000ac.json.tmp"), b"{").unwrap();
    fs::write(lab.path("state").join("catalogue").join("0000000000000009.tmp"), b"x").unwrap();
    lab.ask_for(&[("film", &film)]);
    let _agent = lab.start();
    lab.expect_exactly(&[&film]);
}
