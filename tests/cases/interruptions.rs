//! Any process of the system may die at any instant: nothing half-written is served, and everything goes on.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use content::play::PlayAnswer;
use content::token::split_target;
use fleet_tests::wire::Wire;
use fleet_tests::world::World;
use xtask::clock;

fn fetch(url: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let rest = url.strip_prefix("http://").expect("a plain URL");
    let (address, path) = rest.split_once('/').expect("a URL with a path");
    let address: SocketAddr = address.parse()?;
    let answer = Wire::open(address)?.ask("GET", &format!("/{path}"), &[])?;
    Ok((answer.status, answer.body))
}

/// Each track of the play from each appliance; gives how many were compared.
#[track_caller]
fn all_tracks_are_right(world: &World, play: &PlayAnswer) -> usize {
    let mut compared = 0;
    for url in play.streams.iter().flat_map(|stream| &stream.track.urls) {
        let (status, body) = fetch(url).unwrap();
        assert_eq!(status, 200, "{url}");
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap();
        let (_, path) = split_target(&path).unwrap();
        let path: content::id::MediaPath = path.parse().unwrap();
        let file = content::origin::object_path(path.object, path.extension);
        assert!(
            body == fs::read(world.fleet.plan.origin.join(file)).unwrap(),
            "{url} differs from the origin"
        );
        compared += 1;
    }
    compared
}

#[test]
fn an_agent_killed_again_and_again_in_mid_fill_goes_on_to_the_end() {
    let mut world = World::start().unwrap();
    // From before its first request to about when it is done.
    for milliseconds in [5, 20, 40, 60, 80, 120, 160, 200, 300, 400] {
        clock::pause(Duration::from_millis(milliseconds));
        world.fleet.kill_agent("box-a").unwrap();
        world.fleet.start_agent("box-a").unwrap();
    }
    world.wait_until_filled().unwrap();
    let play = world.play().unwrap();
    assert!(all_tracks_are_right(&world, &play) >= 2);
    // Nothing unfinished stays behind for ever.
    for volume in ["volume-1", "volume-2"] {
        let incoming = world.fleet.plan.box_folder("box-a").join(volume).join("incoming");
        let left = fs::read_dir(&incoming).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{} holds leftovers", incoming.display());
    }
}

#[test]
fn a_killed_server_serves_the_same_bytes_after_its_restart() {
    let mut world = World::filled().unwrap();
    let play = world.play().unwrap();
    let before = all_tracks_are_right(&world, &play);
    world.fleet.kill_server("box-a").unwrap();
    world.fleet.start_server("box-a").unwrap();
    world.wait_until_filled().unwrap();
    assert_eq!(all_tracks_are_right(&world, &play), before);
}

#[test]
fn a_killed_box_is_not_offered_and_comes_back() {
    let mut world = World::filled().unwrap();
    world.fleet.power_off("box-b").unwrap();
    let offered = |world: &World| {
        let play = world.play()?;
        Ok(play.appliances.iter().any(|ranked| ranked.appliance.as_str() == "box-b"))
    };
    let limit = Duration::from_secs(30);
    let stop = world.stop.clone();
    clock::wait_for(&stop, "box-b not to be offered", limit, || {
        offered(&world).map(|yes| (!yes).then_some(()))
    })
    .unwrap();
    world.fleet.power_on("box-b").unwrap();
    clock::wait_for(&stop, "box-b to be offered", limit, || offered(&world).map(|yes| yes.then_some(())))
        .unwrap();
}

#[test]
fn without_the_control_plane_valid_tokens_are_served_on() {
    let mut world = World::filled().unwrap();
    let play = world.play().unwrap();
    world.fleet.kill_control().unwrap();
    let served = all_tracks_are_right(&world, &play);
    assert!(served >= 2 * play.streams.len());
    // Even by a server that starts now: its keys are on its own state volume.
    world.fleet.kill_server("box-a").unwrap();
    world.fleet.start_server("box-a").unwrap();
    let on_box_a: Vec<_> =
        play.streams.iter().map(|stream| stream.track.urls.iter().min().unwrap()).collect();
    clock::wait_for(&world.stop, "the restarted server to serve", Duration::from_secs(20), || {
        Ok(on_box_a.iter().all(|url| fetch(url).is_ok_and(|(status, _)| status == 200)).then_some(()))
    })
    .unwrap();
    assert_eq!(all_tracks_are_right(&world, &play), served);

    // And when it is back, the boxes find it by themselves.
    let stop = world.stop.clone();
    world.fleet.start_control(&stop).unwrap();
    world.wait_until_filled().unwrap();
    assert_eq!(world.play().unwrap().streams.len(), play.streams.len());
}
