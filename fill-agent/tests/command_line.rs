//! What the operator meets: `plan`, broken configuration, a second agent.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use lab::{Lab, Object, PIECE};

fn oca_fill(command: &str, lab: &Lab) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_oca-fill"));
    program.arg(command).arg("--config").arg(lab.config()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn everything(lab: &Lab) -> Vec<PathBuf> {
    let mut found = vec![lab.folder.path().to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        let entries = fs::read_dir(&path).into_iter().flatten();
        found.extend(entries.map(|entry| entry.unwrap().path()));
    }
    found.sort();
    found
}

#[test]
fn plan_says_what_would_come_and_go_and_changes_nothing() {
    let lab = Lab::new(2);
    let (film, old) = (Object::new(1, 2 * PIECE), Object::new(2, 1000));
    lab.ask_for(&[("film", &film)]);
    let before = everything(&lab);
    let text = String::from_utf8(oca_fill("plan", &lab).stdout).unwrap();
    assert!(text.contains("would be pulled, in this order: 1 objects, 524288 bytes"), "{text}");
    assert!(text.contains(&film.path("film").to_string()), "{text}");
    assert_eq!(everything(&lab), before);

    lab.ask_for(&[("old", &old)]);
    let agent = lab.start();
    lab.expect_exactly(&[&old]);
    agent.kill();
    lab.ask_for(&[("film", &film)]);
    lab.world().manifest.as_mut().unwrap().entries[0].bytes = 1 << 47;
    let before = everything(&lab);
    let output = oca_fill("plan", &lab);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.contains("would not fit: 1 objects"), "{text}");
    assert!(text.contains("would be deleted, the manifest does not ask for them: 1 objects"), "{text}");
    assert!(text.contains(&old.id.to_string()), "{text}");
    assert_eq!(everything(&lab), before);
}

#[test]
fn plan_without_a_control_plane_or_a_manifest_says_so() {
    let lab = Lab::new(1);
    let output = oca_fill("plan", &lab);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no manifest yet"), "{}", stderr(&output));
    lab.world().control_down = true;
    assert!(stderr(&oca_fill("plan", &lab)).contains("503"));
}

#[test]
fn a_broken_configuration_names_file_key_and_cure() {
    let lab = Lab::new(1);
    let good = fs::read_to_string(lab.config()).unwrap();
    let key = lab.path("key").display().to_string();
    for (from, to, named) in [
        ("downloads_max = 2", "downloads_max = 0", "agent.downloads_max"),
        ("downloads_max = 2", "downloads_min = 2", "downloads_min"),
        (key.as_str(), "/nowhere/key", "agent.key_file"),
        ("[server]", "[server", "TOML"),
    ] {
        fs::write(lab.config(), good.replace(from, to)).unwrap();
        let output = oca_fill("run", &lab);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains(named) && text.contains("box.toml"), "{text}");
    }
    fs::write(lab.config(), &good).unwrap();
    fs::write(lab.path("key"), "two words").unwrap();
    assert_eq!(oca_fill("run", &lab).status.code(), Some(2));
    fs::remove_file(lab.config()).unwrap();
    let output = oca_fill("run", &lab);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--config"));
}

#[test]
fn a_second_agent_on_the_same_state_is_refused() {
    let lab = Lab::new(1);
    let first = lab.start();
    lab.wait("the first one runs", |world| world.registered > 0);
    let output = oca_fill("run", &lab);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("another oca-fill runs on the state folder"), "{}", stderr(&output));
    first.kill();
}
