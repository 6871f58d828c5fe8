//! A bit flipped beside an unfinished download, with the real program: named, counted, and the object arrives whole.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::fs;

use lab::{Lab, Object, PIECE};

/// Kills the agent in mid-download, flips one bit of the record, tree or data beside it, and starts it again. Gives how
/// many bytes of the object the origin sent.
fn sent_after_rot_in(extension: &str, place: Option<&str>, at: usize) -> (usize, usize) {
    let lab = Lab::new(1);
    let film = Object::new(1, 9 * PIECE + 5);
    lab.ask_for(&[("film", &film)]);
    lab.world().hold.insert(film.id, 6 * PIECE + 9);
    let agent = lab.start();
    lab.wait("six pieces are on the disk", |_| {
        let part = lab.part_of(&film).and_then(|path| fs::read(path).ok());
        part.is_some_and(|part| part.starts_with(&film.data[..6 * PIECE]))
    });
    agent.kill();
    let path = lab.part_of(&film).unwrap().with_extension(extension);
    let mut bytes = fs::read(&path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 4;
    fs::write(&path, bytes).unwrap();
    lab.world().hold.clear();
    let _agent = lab.start();
    lab.expect_exactly(&[&film]);
    if let Some(place) = place {
        lab.wait("the report of the rot", |world| {
            world.reports.iter().any(|report| report.rot.get(place).is_some_and(|count| *count > 0))
        });
    }
    (lab.world().sent[&film.id], film.data.len())
}

#[test]
fn a_rotten_resume_record_costs_the_download_and_nothing_else() {
    for at in [3, 40, 90, 150] {
        let (sent, whole) = sent_after_rot_in("json", Some("resume-record"), at);
        assert!(
            sent >= whole + 6 * PIECE && sent <= whole + 7 * PIECE,
            "{sent} bytes for {whole}, byte {at}"
        );
    }
}

#[test]
fn a_rotten_tree_beside_a_download_is_fetched_again_and_the_download_goes_on() {
    for at in [0, 8, 100, 500] {
        let (sent, whole) = sent_after_rot_in("obao", Some("resume-tree"), at);
        assert!(sent <= whole + PIECE, "{sent} bytes for {whole}, byte {at}");
    }
}

#[test]
fn a_rotten_piece_of_a_download_is_pulled_again_with_those_behind_it() {
    let (sent, whole) = sent_after_rot_in("part", None, 4 * PIECE + 11);
    assert!(sent <= whole + 3 * PIECE, "{sent} bytes for {whole}");
}
