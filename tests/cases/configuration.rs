//! A wrong configuration ends a program with code 2 and words that name file, key and cure; nothing is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fleet_tests::world::World;
use tempfile::TempDir;
use xtask::fleet::Plan;

/// A fleet's files, not started. The planned files are right, so that each case has one fault.
fn written() -> (Plan, TempDir) {
    let (plan, folder) = World::plan().unwrap();
    plan.write().unwrap();
    (plan, folder)
}

fn run(program: &Path, arguments: &[&str], config: &Path) -> Output {
    let mut command = Command::new("timeout");
    // A program that takes a wrong file would run for ever: 124 is not 2.
    command.arg("10").arg(program).args(arguments).arg(config).stdin(Stdio::null()).output().unwrap()
}

struct Case<'a> {
    program: &'a str,
    arguments: &'a [&'a str],
    config: PathBuf,
}

impl Case<'_> {
    /// Replaces text in the good file, runs, and expects each of `words` in what it says.
    #[track_caller]
    fn refuses(&self, from: &str, to: &str, words: &[&str]) {
        let good = fs::read_to_string(&self.config).unwrap();
        assert!(good.contains(from), "the good file has no {from:?}:\n{good}");
        fs::write(&self.config, good.replacen(from, to, 1)).unwrap();
        self.says(words);
        fs::write(&self.config, good).unwrap();
    }

    #[track_caller]
    fn says(&self, words: &[&str]) {
        let output = run(&fleet_tests::binaries().join(self.program), self.arguments, &self.config);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{} said {said:?}", self.program);
        let file = self.config.display().to_string();
        for word in words.iter().chain([&file.as_str()]) {
            assert!(said.contains(word), "{} does not say {word:?}: {said}", self.program);
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[track_caller]
fn a_wrong_box_file_is_refused_by(program: &str, arguments: &[&str]) {
    let (plan, _folder) = written();
    let case = Case { program, arguments, config: plan.box_config("box-a") };
    case.refuses("[server]", "[server", &["line"]);
    case.refuses("memory_mib", "memory_mb", &["memory_mb", "memory_mib"]);
    case.refuses("memory_mib = 64", "memory_mib = 7", &["server.memory_mib", "16"]);
    case.refuses("listen = [", "listen = [] #", &["server.listen"]);
    case.refuses("management = \"127", "management = \"nowhere", &["management"]);
    case.refuses("cluster = \"lab\"", "cluster = \"../lab\"", &["cluster"]);
    case.refuses("control = \"http://", "control = \"ftp://", &["agent.control", "http://"]);
    case.refuses("volume-2", "volume-1", &["volume.path", "once"]);
}

#[test]
fn the_server_with_a_wrong_file_does_not_start_and_says_what_to_change() {
    a_wrong_box_file_is_refused_by("oca-appliance", &["--config"]);
}

#[test]
fn the_agent_with_a_wrong_file_does_not_start_and_says_what_to_change() {
    a_wrong_box_file_is_refused_by("oca-fill", &["run", "--config"]);
    a_wrong_box_file_is_refused_by("oca-fill", &["plan", "--config"]);
    let (plan, _folder) = written();
    let case =
        Case { program: "oca-fill", arguments: &["run", "--config"], config: plan.box_config("box-a") };
    case.refuses("agent.key", "no.key", &["agent.key_file", "no.key"]);
}

#[test]
fn the_control_plane_with_a_wrong_file_does_not_start_and_says_what_to_change() {
    let (plan, _folder) = written();
    let config = plan.run.join("control.toml");
    let case = Case { program: "oca-control", arguments: &["serve", "--config"], config };
    case.refuses("listen = \"", "listen = ", &["control.toml:1:"]);
    case.refuses("public_url", "public_uri", &["public_uri"]);
    case.refuses("listen = \"127", "listen = \"nowhere", &["listen"]);
    case.refuses("agent.key", "no.key", &["agent_key_file", "no.key"]);
    case.refuses("terms.toml", "no.toml", &["`terms`", "no.toml"]);
    case.refuses("public_url = \"http://", "public_url = \"", &["public_url"]);
}

#[test]
fn a_missing_file_is_named() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("absent.toml");
    for (program, arguments) in [
        ("oca-appliance", &["--config"][..]),
        ("oca-fill", &["run", "--config"]),
        ("oca-fill", &["plan", "--config"]),
        ("oca-control", &["serve", "--config"]),
    ] {
        Case { program, arguments, config: config.clone() }.says(&[]);
    }
}

#[test]
fn a_terms_table_with_a_mistake_is_named() {
    let (plan, _folder) = written();
    let terms = plan.run.join("terms.toml");
    for (from, to, word) in [
        ("territories", "territory", "territory"),
        ("2020-01-01T00:00:00Z", "yesterday", "terms.toml:6"),
        ("\"*\"]", "\"Sweden\"]", "Sweden"),
    ] {
        let good = fs::read_to_string(&terms).unwrap();
        fs::write(&terms, good.replace(from, to)).unwrap();
        let config = plan.run.join("control.toml");
        let output = run(&plan.binaries.join("oca-control"), &["serve", "--config"], &config);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("terms.toml") && said.contains(word), "{said}");
        fs::write(&terms, good).unwrap();
    }
}

#[test]
fn an_address_in_use_is_named() {
    let (plan, _folder) = written();
    let _taken = std::net::TcpListener::bind(plan.control).unwrap();
    let config = plan.run.join("control.toml");
    let output = run(&plan.binaries.join("oca-control"), &["serve", "--config"], &config);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(said.contains(&plan.control.to_string()), "{said}");
}

#[test]
fn a_wrong_command_line_is_refused() {
    for (_, program) in xtask::workspace::BINARIES {
        let program = fleet_tests::binaries().join(program);
        let output = run(&program, &["--no-such-option"], Path::new("x"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{} said {said}", program.display());
        assert!(said.contains("no-such-option"), "{said}");
    }
}
