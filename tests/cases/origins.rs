//! The disk of the origin and of the control plane is full: what cannot be published is refused with the reason, nothing
//! half-named stays, plays are answered on. (Origins that are slow, gone or lie: fill-agent/tests/lies.rs.)

use std::fs;
use std::path::{Path, PathBuf};

use content::id::ObjectId;
use fleet_tests::disk::{Disk, Filesystem, can_mount};
use fleet_tests::site::{ALL, Part, Site};
use fleet_tests::world;
use serde_json::json;
use xtask::http;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

#[test]
fn a_title_that_finds_no_room_in_the_origin_is_refused_and_nothing_half_named_stays() {
    if !can_mount() {
        return;
    }
    let published = world::published().unwrap();
    let site = Site::plan().unwrap();
    let origin = site.path("small-origin");
    let disk = Disk::new(&site.path("origin.img"), Filesystem::Ext4, &origin).unwrap();
    // Encoded once already: what is left to do is to write the objects.
    copy(&published.join("chunks"), &origin.join("chunks"));
    let foreign = disk.fill_up().unwrap();
    let full = fs::metadata(&foreign).unwrap().len();
    // Room for some of them, and not for all.
    fs::File::options().write(true).open(&foreign).unwrap().set_len(full - (1 << 20)).unwrap();
    let source = published.with_file_name("short-film.mkv");
    let (source, folder) = (source.display().to_string(), origin.display().to_string());
    let words =
        ["publish", "--origin", &folder, "--title", "short-film", "--name", "Short Film", "--label-rungs"];
    let words: Vec<_> = words.into_iter().chain([source.as_str()]).collect();
    let refused = site.run("oca-media", &words).unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("No space left on device") && text.contains("free space"), "{text}");
    assert!(files(&origin.join("titles")).is_empty(), "no title is named");
    for file in files(&origin.join("objects")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let named: Option<ObjectId> = name.parse().ok().filter(|_| !file.to_str().unwrap().contains('#'));
        let is_object = file.extension().is_some_and(|extension| extension != "obao");
        if let (Some(named), true) = (named, is_object) {
            assert_eq!(
                ObjectId::of(&fs::read(&file).unwrap()),
                named,
                "{} is half an object",
                file.display()
            );
        }
    }
    fs::remove_file(foreign).unwrap();
    let output = site.run("oca-media", &words).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let right = published.join("titles/short-film/title.json");
    assert_eq!(fs::read(origin.join("titles/short-film/title.json")).unwrap(), fs::read(right).unwrap());
    assert!(!files(&origin).iter().any(|file| file.to_str().unwrap().contains('#')), "leftovers are tidied");
}

#[test]
fn a_control_plane_whose_state_folder_is_full_answers_plays_and_says_what_it_cannot_keep() {
    if !can_mount() {
        return;
    }
    let mut site = Site::plan().unwrap();
    let folder = site.plan.run.join("control");
    let disk = Disk::new(&site.path("control.img"), Filesystem::Ext4, &folder).unwrap();
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    let foreign = disk.fill_up().unwrap();
    let drain = format!("{}/v1/appliances/box-a/drain", site.plan.control_url());
    let refused = http::post_json(&drain, &json!({}), std::time::Duration::from_secs(10)).unwrap();
    assert!(refused.status >= 500, "{} {}", refused.status, refused.text());
    assert!(refused.text().contains("its state cannot be written; see its log"), "{}", refused.text());
    let log = site.log(Part::Control);
    assert!(log.contains("appliances.json") && log.contains("No space left on device"), "{log}");
    let again = site.play().unwrap();
    assert_eq!(again.streams.len(), play.streams.len());
    site.expect_all_served(&again).unwrap();
    // A box that registers again has been kept already.
    site.kill(&[Part::Agent, Part::Control]).unwrap();
    site.start(&[Part::Control, Part::Agent]).unwrap();
    site.wait_until_well().unwrap();
    fs::remove_file(foreign).unwrap();
    let drained = http::post_json(&drain, &json!({}), std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(drained.status, 204, "{}", drained.text());
    site.wait("the box to drain", |site| Ok(site.fleet_entry()?["reason"] == "draining")).unwrap();
}
