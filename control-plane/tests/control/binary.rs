//! The real binary: its arguments, its refusals, its end.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::support::World;

fn control() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oca-control"));
    command.env_remove("OCA_LOG").stdin(Stdio::null());
    command
}

/// Exit code 2 and exactly one line, which has each of these words.
fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
}

#[test]
fn broken_configuration_is_one_line_with_file_key_and_cure_and_exit_code_2() {
    let mut world = World::with(&[]);
    world.stop();
    let good = std::fs::read_to_string(world.config()).unwrap();
    let serve = |config: &str| {
        std::fs::write(world.config(), config).unwrap();
        control().arg("serve").arg("--config").arg(world.config()).output().unwrap()
    };
    let missing = control().args(["serve", "--config", "/nonexistent/control.toml"]).output().unwrap();
    assert_refused(&missing, &["/nonexistent/control.toml", "--config"]);
    assert_refused(&serve(&good.replace("listen", "listne")), &["control.toml:1", "listne"]);
    assert_refused(&serve(&good.replace("\"lab\"", "\"lab")), &["control.toml:7"]);
    assert_refused(
        &serve(&good.replace("\"origin\"", "\"nowhere\"")),
        &["control.toml", "`origin`", "nowhere", "give"],
    );
    assert_refused(
        &serve(&good.replace("agent.key", "no.key")),
        &["control.toml", "`agent_key_file`", "no.key", "write"],
    );
    assert_refused(&serve(&good.replace("\"state\"", "\"agent.key\"")), &["`state`", "agent.key", "give"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_refused(
        &serve(&good.replace("127.0.0.1:0", &address)),
        &["control.toml", "`listen`", &address, "free port"],
    );
}

#[test]
fn two_on_one_state_folder_are_refused() {
    let world = World::with(&[]);
    let second = control().arg("serve").arg("--config").arg(world.config()).output().unwrap();
    assert_refused(&second, &["`state`", "in use"]);
}

#[test]
fn wrong_arguments_are_told_with_the_usage() {
    for arguments in [&["serve"][..], &["dance"], &[], &["serve", "--loud"]] {
        let output = control().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage:"), "{arguments:?}");
    }
}

#[test]
fn the_description_is_printed() {
    let output = control().arg("openapi").output().unwrap();
    assert!(output.status.success());
    let description: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(description["paths"]["/v1/plays"]["post"].is_object());
}

#[test]
fn sigterm_ends_it_with_success() {
    let mut world = World::with(&[]);
    world.stop();
    let mut child =
        control().arg("serve").arg("--config").arg(world.config()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended before it served");
    }
    let killed = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert!(child.wait().unwrap().success());
}
