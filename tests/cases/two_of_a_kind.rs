//! Two programs on what belongs to one: the second refuses to start and names the first, its lock and the cure; a kill
//! leaves no lock behind.

use std::path::Path;

use fleet_tests::site::{ALL, Part, Site};

/// Ends with 2 and says all of this.
fn refuses(site: &Site, program: &str, arguments: &[&str], config: &Path, said: &[&str]) {
    let config = config.display().to_string();
    let arguments: Vec<_> = arguments.iter().copied().chain([config.as_str()]).collect();
    let output = site.run(program, &arguments).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for word in said {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn the_second_of_two_is_refused_and_a_kill_leaves_no_lock() {
    let mut site = Site::plan().unwrap();
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let holder = |site: &Site, part| format!("process {} holds", site.process(part).unwrap());
    let agent = holder(&site, Part::Agent);
    let same = site.plan.box_config("box-a");
    let run = ["run", "--config"];
    refuses(&site, "oca-fill", &run, &same, &[&agent, "state/agent/lock", "give this one its own `state`"]);
    // Another state folder, and the same volumes.
    let state = format!("{}\"", site.state().display());
    let other = format!("{}\"", site.path("other-state").display());
    let volumes = site.config_with("volumes.toml", &[(&state, &other)]).unwrap();
    refuses(&site, "oca-fill", &run, &volumes, &[&agent, "volume-1/OCA-VOLUME", "in one configuration only"]);

    let each = &site.plan.boxes[0];
    let (media, management) = (format!("[\"{}\"]", each.media), format!("\"{}\"", each.management));
    let free = "\"127.0.0.9:0\"";
    let changes =
        [(media.as_str(), "[\"127.0.0.9:0\"]"), (management.as_str(), free), ("server.sock", "other.sock")];
    let server = site.config_with("server.toml", &changes).unwrap();
    let holds = holder(&site, Part::Server);
    refuses(
        &site,
        "oca-appliance",
        &["--config"],
        &server,
        &[&holds, "box-a/state", "give this one its own"],
    );
    // Another state folder, and the same socket.
    let changes = [changes[0], changes[1], (state.as_str(), other.as_str())];
    let socket = site.config_with("socket.toml", &changes).unwrap();
    refuses(&site, "oca-appliance", &["--config"], &socket, &["server.sock", "another server answers on it"]);

    let control = site.plan.run.join("control.toml");
    let holds = holder(&site, Part::Control);
    refuses(
        &site,
        "oca-control",
        &["serve", "--config"],
        &control,
        &[&holds, "control/lock", "another folder"],
    );

    // None of them disturbed the first.
    let play = site.play().unwrap();
    site.expect_all_served(&play).unwrap();
    site.kill(&ALL).unwrap();
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
}
