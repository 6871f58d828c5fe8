//! Disks that fill up, cannot be written to, vanish or hang, under a box's real programs: what is there is served on byte
//! by byte, the report says what is wrong and what cures it, and when the trouble ends all goes on without a restart.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use content::id::ObjectId;
use content::play::PlayAnswer;
use fleet_tests::disk::{Disk, Filesystem, Throttle, can_mount};
use fleet_tests::site::{ALL, Part, Site};

fn disk(site: &Site, name: &str, filesystem: Filesystem, mount_point: &Path) -> Disk {
    Disk::new(&site.path(&format!("{name}.img")), filesystem, mount_point).unwrap()
}

/// A bit of a track's file rots: the server withdraws it when it is asked for, and the agent has something to pull. The
/// file is the track's own: of a pack, others would be refused with it until it is copied.
fn rot(site: &Site, play: &PlayAnswer) -> ObjectId {
    let files = site.files().unwrap();
    let played = |object: &ObjectId| play.streams.iter().any(|stream| on_offer(&stream.track.urls, object));
    let shared = |path: &PathBuf| files.values().filter(|(_, other)| other == path).count() > 1;
    let own = |(object, (_, path)): &(&ObjectId, &(u32, PathBuf))| played(object) && !shared(path);
    let (object, (_, path)) = files.iter().find(own).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
    file.sync_all().unwrap();
    *object
}

fn on_offer(urls: &[String], object: &ObjectId) -> bool {
    urls.iter().any(|url| url.contains(&object.to_string()))
}

#[test]
fn volumes_that_are_full_are_named_and_filled_when_there_is_room() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let xfs = disk(&site, "one", Filesystem::Xfs, &site.volume(1));
    let ext4 = disk(&site, "two", Filesystem::Ext4, &site.volume(2));
    site.start(&[Part::Control, Part::Server, Part::Agent]).unwrap();
    // Made volumes by the agent, then filled by somebody else, before anything can be pulled.
    site.wait("the volumes to be made", |site| {
        Ok([1, 2].iter().all(|number| site.volume(*number).join("incoming").exists()))
    })
    .unwrap();
    let foreign = [xfs.fill_up().unwrap(), ext4.fill_up().unwrap()];
    // In mid-fill or before it: what has come is held, and the rest has no room.
    site.kill(&[Part::Agent]).unwrap();
    for number in [1, 2] {
        for file in fs::read_dir(site.volume(number).join("files")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    [&xfs, &ext4].iter().for_each(|disk| drop(disk.fill_up().unwrap()));
    site.start(&[Part::Agent]).unwrap();
    site.wait_for_reason("fit on no volume: free space on a volume").unwrap();
    assert!(site.log(Part::Agent).contains("no volume has room for what is asked for"));
    let config = site.plan.box_config("box-a");
    let plan = site.run("oca-fill", &["plan", "--config", &config.display().to_string()]).unwrap();
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("the roomiest volume would have"), "{plan}");
    // Room on one of them is enough, and nobody has to start anything.
    fs::remove_file(&foreign[1]).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    site.expect_all_served(&play).unwrap();
    assert!(site.files().unwrap().values().all(|(volume, _)| *volume == 2));
    // Full again behind our back: what is held is served on.
    ext4.fill_up().unwrap();
    site.expect_all_served(&play).unwrap();
}

#[test]
fn a_state_volume_that_is_full_or_read_only_serves_the_old_generation_and_publishes_later() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let state = disk(&site, "state", Filesystem::Ext4, &site.state());
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    let foreign = state.fill_up().unwrap();
    let rotten = rot(&site, &play);
    site.fetch(&play).unwrap();
    // Refilled on its volume, and not to be published.
    site.wait_for_reason("the catalogue cannot be written: ").unwrap();
    site.wait_for_reason("No space left on device").unwrap();
    let others_served = |site: &Site| {
        let answers = site.fetch(&play).unwrap();
        answers.iter().all(|(object, (status, ..))| *status == 200 || *object == rotten)
    };
    assert!(others_served(&site));
    // Both programs start on it too, and say what is the matter.
    site.kill(&[Part::Agent, Part::Server]).unwrap();
    site.start(&[Part::Server, Part::Agent]).unwrap();
    site.wait_for_reason("nothing new is pulled: the state folder").unwrap();
    assert!(others_served(&site));
    fs::remove_file(foreign).unwrap();
    site.wait_until_well().unwrap();
    site.expect_all_served(&play).unwrap();

    state.remount("ro").unwrap();
    site.kill(&[Part::Agent, Part::Server]).unwrap();
    site.start(&[Part::Server, Part::Agent]).unwrap();
    site.wait_for_reason("Read-only file system").unwrap();
    site.expect_all_served(&play).unwrap();
    state.remount("rw").unwrap();
    site.wait_until_well().unwrap();
}

#[test]
fn a_read_only_volume_is_served_on_and_nothing_is_put_on_it() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let one = disk(&site, "one", Filesystem::Xfs, &site.volume(1));
    let _two = disk(&site, "two", Filesystem::Ext4, &site.volume(2));
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    let before = site.files().unwrap();
    assert!(before.values().any(|(volume, _)| *volume == 1), "the roomier disk holds something");
    one.remount("ro").unwrap();
    site.wait_for_reason("cannot be written to: what it holds is served on").unwrap();
    assert_eq!(site.volume_state(1).unwrap(), "readonly");
    site.wait_until_complete().unwrap();
    site.expect_all_served(&play).unwrap();
    assert_eq!(site.files().unwrap(), before, "nothing moved");
    // Also at a start.
    site.kill(&[Part::Agent, Part::Server]).unwrap();
    site.start(&[Part::Server, Part::Agent]).unwrap();
    site.wait_for_reason("cannot be written to: what it holds is served on").unwrap();
    site.wait_until_complete().unwrap();
    site.expect_all_served(&play).unwrap();
    assert_eq!(site.files().unwrap(), before, "nothing moved");
    one.remount("rw").unwrap();
    site.wait_until_well().unwrap();
}

#[test]
fn a_disk_that_stops_takes_its_objects_along_and_brings_them_back_without_a_second_pull() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let mut one = disk(&site, "one", Filesystem::Xfs, &site.volume(1));
    let two = disk(&site, "two", Filesystem::Ext4, &site.volume(2));
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    let files = site.files().unwrap();
    let on_one = |object: &ObjectId| files[object].0 == 1;
    assert!(files.keys().any(on_one), "the roomier disk holds something");
    // No room elsewhere: what it held has to wait for it.
    let foreign = two.fill_up().unwrap();
    one.shut_down().unwrap();
    site.wait("the volume to be reported as failed", |site| Ok(site.volume_state(1)? == "failed")).unwrap();
    site.wait_for_reason("its marker cannot be read: Input/output error").unwrap();
    assert!(!site.reasons().unwrap().is_empty());
    for (object, (status, cause)) in site.fetch(&play).unwrap() {
        let expected = if on_one(&object) { status == 503 || status == 404 } else { status == 200 };
        assert!(expected, "{object}: {status} {cause}");
        assert!(status == 200 || cause.contains("detail"), "{cause}");
    }
    let later = site.play();
    let offered = |object: &ObjectId| {
        let streams = later.as_ref().map(|play| &play.streams[..]).unwrap_or_default();
        streams.iter().any(|stream| on_offer(&stream.track.urls, object))
    };
    assert!(!files.keys().filter(|object| on_one(object)).any(offered), "steering offers what is lost");
    // Mounted again, the log is recovered and the files are there: held again, not pulled again.
    one.unmount().unwrap();
    one.mount().unwrap();
    site.wait_until_complete().unwrap();
    site.expect_all_served(&play).unwrap();
    assert_eq!(site.files().unwrap(), files, "the very same files");
    fs::remove_file(foreign).unwrap();
    site.wait_until_well().unwrap();
    // Again, with room elsewhere: refilled there.
    one.unmount().unwrap();
    site.wait("the volume to be reported as missing", |site| Ok(site.volume_state(1)? == "missing")).unwrap();
    site.wait("all to be held on the other", |site| {
        Ok(site.files()?.values().all(|(volume, _)| *volume == 2) && site.files()?.len() == files.len())
    })
    .unwrap();
    site.wait_until_complete().unwrap();
    site.expect_all_served(&play).unwrap();
    let below = fs::read_dir(&one.mount_point).unwrap().count();
    assert_eq!(below, 0, "nothing is written to the folder below");
}

#[test]
fn a_volume_that_is_not_mounted_is_never_filled_through_and_another_in_its_place_is_named() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let mut one = disk(&site, "one", Filesystem::Ext4, &site.volume(1));
    let text = fs::read_to_string(site.plan.box_config("box-a")).unwrap();
    let (head, tail) = text.split_once("volume-1\"\n").unwrap();
    fs::write(site.plan.box_config("box-a"), format!("{head}volume-1\"\nmust_be_mounted = true\n{tail}"))
        .unwrap();
    // At the very first start: nobody remembers that a disk was there.
    one.unmount().unwrap();
    site.start(&ALL).unwrap();
    site.wait_for_reason("nothing is mounted on it").unwrap();
    site.wait_until_complete().unwrap();
    let play = site.play().unwrap();
    site.expect_all_served(&play).unwrap();
    assert_eq!(fs::read_dir(site.volume(1)).unwrap().count(), 0);
    one.mount().unwrap();
    site.wait_until_well().unwrap();
    // Its marker rots, and is mended.
    let marker = site.volume(1).join("OCA-VOLUME");
    let good = fs::read(&marker).unwrap();
    fs::write(&marker, b"{\"format\":1,").unwrap();
    site.wait_for_reason("OCA-VOLUME").unwrap();
    assert_eq!(site.volume_state(1).unwrap(), "failed");
    fs::write(&marker, good).unwrap();
    site.wait_until_well().unwrap();
    // Another disk takes its place: the server has to be started anew, and says so; the box serves from the other.
    one.unmount().unwrap();
    let new = disk(&site, "new", Filesystem::Ext4, &site.volume(1));
    site.wait_for_reason("if this disk replaced another, restart the server").unwrap();
    site.expect_all_served(&play).unwrap();
    site.kill(&[Part::Server]).unwrap();
    site.start(&[Part::Server]).unwrap();
    site.wait_until_well().unwrap();
    site.expect_all_served(&play).unwrap();
    drop(new);
}

#[test]
fn a_disk_that_hangs_delays_only_what_lies_on_it() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let one = disk(&site, "one", Filesystem::Xfs, &site.volume(1));
    let _two = disk(&site, "two", Filesystem::Xfs, &site.volume(2));
    let Some(throttle) = Throttle::new(&one, 64).unwrap() else { return };
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    let files = site.files().unwrap();
    // Nothing is in the server's memory.
    site.kill(&[Part::Server]).unwrap();
    site.start(&[Part::Server]).unwrap();
    site.wait_until_well().unwrap();
    throttle.slow_down(site.process(Part::Server).unwrap()).unwrap();
    let slow = play.streams.iter().map(|stream| &stream.track).find(|track| {
        files.iter().any(|(object, (volume, _))| *volume == 1 && on_offer(&track.urls, object))
    });
    let slow = slow.expect("one track lies on the disk that hangs").urls[0].clone();
    let fast = files.iter().filter(|(_, (volume, _))| *volume == 2).map(|(object, _)| *object);
    let fast: Vec<_> = fast.collect();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| site.fetch_url(&slow, Duration::from_secs(30)).unwrap());
        // Until the disk is done, the others are answered one after the other.
        let mut count = 0;
        while count == 0 || !slow.is_finished() {
            for url in play.streams.iter().map(|stream| &stream.track.urls[0]) {
                if fast.iter().any(|object| url.contains(&object.to_string())) {
                    // Before a request to the disk that hangs is given up (3 s).
                    assert_eq!(site.fetch_url(url, Duration::from_secs(2)).unwrap(), 200);
                    count += 1;
                }
            }
            assert!(!fast.is_empty(), "a track lies on the other disk");
        }
        assert_eq!(slow.join().unwrap(), 503, "{count} others were answered meanwhile");
    });
    throttle.let_go().unwrap();
    site.wait("the disk's objects to be served again", |site| {
        Ok(site.fetch_url(&slow, Duration::from_secs(30))? == 200)
    })
    .unwrap();
    site.expect_all_served(&play).unwrap();
}
