//! Disks that are full or cannot be written to: the agent says so and puts the object on another one. The disk is a tmpfs
//! in a mount namespace of the agent's own (`unshare`), so nothing has to be cleaned up.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::process::Command;

use content::report::{Health, VolumeState};
use content::volume::Marker;
use lab::{Lab, Object, PIECE, Process};

const UNSHARE: [&str; 2] = ["--map-root-user", "--mount"];

/// The agent, with its first volume made by this shell script ($0 is its path). None: not to be had here.
fn start_with(lab: &Lab, script: &str) -> Option<Process> {
    let able = Command::new("unshare").args(UNSHARE).arg("true").status();
    if !able.is_ok_and(|status| status.success()) {
        println!("SKIP: this user may not make a mount namespace");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(UNSHARE).args(["sh", "-ec", &format!("{script}; exec \"$@\"")]);
    command
        .arg(lab.volume(0))
        .arg(env!("CARGO_BIN_EXE_oca-fill"))
        .arg("run")
        .arg("--config")
        .arg(lab.config());
    Some(Process(command.spawn().unwrap()))
}

#[test]
fn a_disk_that_is_full_though_it_said_it_had_room_gives_way_to_another() {
    let lab = Lab::new(2);
    let (film, small) = (Object::new(1, 5 * PIECE), Object::new(2, 10));
    lab.ask_for(&[("film", &film), ("film", &small)]);
    // Room for terabytes, but for no more than two files of ours.
    let script = "mount -t tmpfs -o size=9t,nr_inodes=6 none \"$0\"";
    let Some(_agent) = start_with(&lab, script) else { return };
    // Seen from here, the first volume is the empty folder below the mount.
    lab.expect_exactly(&[&film, &small]);
    assert_eq!(lab.files().len(), 2);
}

#[test]
fn a_disk_that_cannot_be_written_to_is_reported_as_such_and_another_is_used() {
    let lab = Lab::new(2);
    let film = Object::new(1, 3 * PIECE);
    lab.ask_for(&[("film", &film)]);
    let uuid = "0123456789abcdef0123456789abcdef";
    let marker = Marker::new(uuid.parse().unwrap()).to_bytes();
    let marker = String::from_utf8(marker).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=9t none \"$0\"; mkdir \"$0\"/files \"$0\"/incoming; \
         printf %s '{marker}' > \"$0\"/OCA-VOLUME; mount -o remount,ro \"$0\""
    );
    lab.world().server.unseen.insert(uuid.parse().unwrap());
    let Some(_agent) = start_with(&lab, &script) else { return };
    lab.expect_exactly(&[&film]);
    lab.wait("the disk is reported as read-only", |world| {
        world.reports.last().is_some_and(|report| {
            let first = &report.volumes[0];
            first.state == VolumeState::ReadOnly
                && first.uuid.to_string() == uuid
                && report.health == Health::Degraded
        })
    });
}
