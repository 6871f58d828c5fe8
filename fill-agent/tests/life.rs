//! The life of a box: titles come and go, disks fail and come back, server and control plane go away.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::fs;

use content::control_socket::{FileName, PublicKey};
use content::report::{Health, Report, VolumeState};
use lab::{Lab, Object, PIECE, number_of};

fn two() -> (Object, Object) {
    (Object::new(1, 5 * PIECE + 9), Object::new(2, 40_000))
}

fn is_complete(report: &Report, version: u64) -> bool {
    report.holds.manifest_version == version && report.holds.missing.0.is_empty() && report.generation > 0
}

#[test]
fn a_box_fills_reports_what_it_holds_and_hands_the_keys_to_its_server() {
    let lab = Lab::new(2);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small), ("again", &small)]);
    lab.world().hold.insert(film.id, PIECE);
    let agent = lab.start_impatient();
    lab.wait("it says what is missing", |world| {
        world.reports.last().is_some_and(|report| report.holds.missing.0.len() == 3)
    });
    lab.world().hold.clear();
    lab.expect_exactly(&[&film, &small]);
    assert_eq!(lab.catalogue().len(), 3, "two paths lead to one file");
    lab.wait("it reports that it holds all", |world| {
        world.reports.last().is_some_and(|report| is_complete(report, 1))
    });
    lab.wait("the server has the keys", |world| world.server.token_keys == world.keys);
    let world = lab.world();
    let last = world.reports.last().unwrap();
    assert_eq!((last.health, last.limited_by.as_str(), last.headroom), (Health::Ok, "none", 0.75));
    assert!(last.volumes.iter().all(|volume| volume.state == VolumeState::Ok && volume.bytes_free > 0));
    assert!(world.reports.is_sorted_by(|a, b| a.sequence < b.sequence && a.boot == b.boot));
    assert_eq!(world.sent[&small.id], small.data.len(), "one object is pulled once");
    drop(world);
    agent.stop();
}

#[test]
fn a_dropped_title_is_unlinked_only_when_the_server_does_not_use_it_any_more() {
    let lab = Lab::new(1);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("other", &small)]);
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film, &small]);
    let before = lab.world().server.generation;
    lab.world().server.pinned = Some(before);
    lab.ask_for(&[("film", &film)]);
    lab.wait("a generation without it is served", |world| world.server.generation > before);
    let seen = lab.world().reports.len();
    lab.wait("several reports have passed", |world| world.reports.len() > seen + 5);
    assert_eq!(lab.files().len(), 2, "a request still uses the old generation");
    lab.world().server.pinned = None;
    lab.expect_exactly(&[&film]);
    agent.stop();
}

#[test]
fn a_withdrawn_file_is_pulled_again_under_a_new_number() {
    let lab = Lab::new(1);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small)]);
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film, &small]);
    let (_, _, path) = lab.catalogue().into_iter().find(|(object, ..)| *object == film.id).unwrap();
    let uuid = *lab.volumes_by_uuid().keys().next().unwrap();
    lab.world().server.withdrawn.push(FileName { uuid, file: number_of(&path) });
    lab.wait("it is reported as missing", |world| {
        world.reports.last().is_some_and(|report| report.holds.missing.0.contains(0))
    });
    lab.wait("it is reported as held again", |world| {
        world.reports.last().is_some_and(|report| is_complete(report, 1))
    });
    lab.expect_exactly(&[&film, &small]);
    assert!(!path.exists());
    assert_eq!(lab.world().sent[&film.id], 2 * film.data.len());
    agent.stop();
}

#[test]
fn a_lost_volume_is_withdrawn_refilled_elsewhere_and_tidied_when_it_is_back() {
    let lab = Lab::new(2);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small)]);
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film, &small]);
    let lost =
        (0..2).find(|index| fs::read_dir(lab.volume(*index).join("files")).unwrap().count() > 0).unwrap();
    fs::rename(lab.volume(lost), lab.path("pulled out")).unwrap();
    lab.wait("the volume is reported missing and the box degraded", |world| {
        world.reports.last().is_some_and(|report| {
            report.volumes[lost].state == VolumeState::Missing && report.health == Health::Degraded
        })
    });
    lab.wait("everything is held again", |world| {
        world.reports.last().is_some_and(|report| is_complete(report, 1))
    });
    lab.expect_exactly(&[&film, &small]);
    fs::rename(lab.path("pulled out"), lab.volume(lost)).unwrap();
    lab.wait("the box is well again", |world| {
        world.reports.last().is_some_and(|report| report.health == Health::Ok)
    });
    lab.expect_exactly(&[&film, &small]);
    agent.stop();
}

#[test]
fn a_volume_that_the_server_cannot_read_is_not_counted_on() {
    let lab = Lab::new(2);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small)]);
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film, &small]);
    let (_, _, path) = lab.catalogue().remove(0);
    let volumes = lab.volumes_by_uuid();
    let (uuid, _) = volumes.iter().find(|(_, volume)| path.starts_with(volume)).unwrap();
    lab.world().server.unusable.insert(*uuid);
    lab.wait("what was on it is held elsewhere", |world| {
        let moved = lab.catalogue().iter().all(|(_, _, path)| !path.starts_with(&volumes[uuid]));
        moved && world.reports.last().is_some_and(|report| is_complete(report, 1))
    });
    agent.stop();
}

#[test]
fn a_disk_that_replaced_another_is_not_counted_on_until_the_server_is_started_anew() {
    let lab = Lab::new(2);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small)]);
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film, &small]);
    let (_, _, path) = lab.catalogue().remove(0);
    let gone = (0..2).find(|index| path.starts_with(lab.volume(*index))).unwrap();
    fs::rename(lab.volume(gone), lab.path("pulled out")).unwrap();
    fs::create_dir(lab.volume(gone)).unwrap();
    lab.wait("the new disk is reported and all is held on the other one", |world| {
        let served = lab.catalogue().iter().all(|(_, _, path)| !path.starts_with(lab.volume(gone)));
        served
            && world.reports.last().is_some_and(|report| {
                is_complete(report, 1) && report.volumes[gone].state == VolumeState::Failed
            })
    });
    lab.world().server.volumes.clear();
    lab.wait("both disks are used", |world| {
        world.reports.last().is_some_and(|report| report.health == Health::Ok)
    });
    lab.expect_exactly(&[&film, &small]);
    agent.stop();
}

#[test]
fn server_and_control_plane_may_go_away_and_come_back() {
    let lab = Lab::new(1);
    let (film, _) = two();
    lab.ask_for(&[("film", &film)]);
    (lab.world().control_down, lab.world().server.down) = (true, true);
    let agent = lab.start_impatient();
    lab.world().control_down = false;
    lab.wait("a box without a server reports that it has failed", |world| {
        world.reports.last().is_some_and(|report| {
            (report.health, report.limited_by.as_str()) == (Health::Failed, "server-down")
                && report.server.is_none()
        })
    });
    lab.world().server.down = false;
    lab.expect_exactly(&[&film]);
    // The server is started anew: it has neither keys nor a drain order.
    lab.wait("keys", |world| !world.server.token_keys.is_empty());
    lab.world().server.token_keys.clear();
    lab.wait("keys again", |world| !world.server.token_keys.is_empty());
    // The control plane is started anew: it knows no appliance; and orders something.
    let registered = lab.world().registered;
    (lab.world().forgotten, lab.world().drain) = (true, true);
    lab.wait("it registers again", |world| world.registered > registered);
    lab.wait("the server drains", |world| world.server.draining);
    lab.world().drain = false;
    lab.wait("the server stops draining", |world| !world.server.draining);
    let new = PublicKey { key_id: "two".to_owned(), x: "B".repeat(43) };
    {
        let mut world = lab.world();
        world.keys.push(new);
        world.keys_version += 1;
    }
    lab.wait("new keys", |world| world.server.token_keys.len() == 2);
    agent.stop();
}

#[test]
fn without_a_control_plane_a_restarted_box_keeps_what_it_holds_and_has_its_keys() {
    let lab = Lab::new(1);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small)]);
    let agent = lab.start();
    lab.expect_exactly(&[&film, &small]);
    lab.wait("keys", |world| !world.server.token_keys.is_empty());
    agent.kill();
    {
        let mut world = lab.world();
        world.control_down = true;
        world.server.token_keys.clear();
        world.server.publishes.clear();
    }
    let _agent = lab.start();
    lab.wait("the server has keys", |world| !world.server.token_keys.is_empty());
    lab.expect_exactly(&[&film, &small]);
    assert!(lab.world().server.publishes.is_empty(), "nothing changed, nothing is published");
}

#[test]
fn a_damaged_catalogue_gives_way_to_the_one_before_and_nothing_is_pulled_again() {
    let lab = Lab::new(1);
    let (film, small) = two();
    lab.ask_for(&[("film", &film)]);
    let agent = lab.start();
    lab.expect_exactly(&[&film]);
    lab.ask_for(&[("film", &film), ("film", &small)]);
    lab.expect_exactly(&[&film, &small]);
    agent.kill();
    let current = lab.current();
    let mut bytes = fs::read(&current).unwrap();
    bytes[4096] ^= 1;
    fs::write(&current, bytes).unwrap();
    let _agent = lab.start();
    lab.wait("a newer generation is current", |_| lab.current() > current);
    lab.expect_exactly(&[&film, &small]);
    let world = lab.world();
    assert_eq!(world.sent[&film.id], film.data.len());
    assert_eq!(world.sent[&small.id], small.data.len());
}

#[test]
fn a_generation_that_the_server_refuses_is_made_anew() {
    let lab = Lab::new(1);
    let (film, _) = two();
    lab.ask_for(&[("film", &film)]);
    lab.world().server.refuse_next = true;
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film]);
    let publishes = lab.world().server.publishes.clone();
    assert!(publishes.len() >= 2 && publishes.is_sorted_by(|a, b| a < b), "{publishes:?}");
    agent.stop();
}

#[test]
fn a_download_that_the_next_manifest_does_not_want_is_ended_and_removed() {
    let lab = Lab::new(1);
    let (film, small) = two();
    lab.ask_for(&[("film", &film), ("film", &small)]);
    lab.world().hold.insert(film.id, PIECE + 1);
    let agent = lab.start_impatient();
    lab.wait("it is under way", |_| lab.part_of(&film).is_some());
    lab.ask_for(&[("film", &small)]);
    lab.expect_exactly(&[&small]);
    agent.stop();
}

#[test]
fn a_box_whose_clock_is_a_year_off_fills_all_the_same_and_says_so() {
    let lab = Lab::new(1);
    let (film, _) = two();
    lab.ask_for(&[("film", &film)]);
    let year = jiff::SignedDuration::from_hours(365 * 24);
    let theirs = jiff::Timestamp::now() + year;
    // Open for an hour by the control plane's clock, and only next year by the box's own.
    lab.world().clock = Some(theirs);
    lab.world().not_before = theirs - jiff::SignedDuration::from_hours(1);
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film]);
    lab.wait("the operator is told", |world| {
        let said = |report: &Report| {
            report.health == Health::Degraded
                && report.clock.is_some_and(|clock| {
                    theirs.duration_since(clock) > year - jiff::SignedDuration::from_hours(1)
                })
                && report.reasons.iter().any(|reason| reason.contains("s behind the control plane's"))
        };
        world.reports.last().is_some_and(said)
    });
    lab.world().clock = Some(jiff::Timestamp::now());
    lab.wait("the clock is set, and the box is well", |world| {
        world.reports.last().is_some_and(|report| report.health == Health::Ok && report.reasons.is_empty())
    });
    agent.stop();
}
