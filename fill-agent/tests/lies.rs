//! A source that lies, cuts, stalls or breaks costs time and never a wrong byte; what is wrong is asked for again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use lab::{Lab, Lie, Object, PIECE};

/// One object of five pieces and a bit, whose source answers the first requests with these lies.
fn survives(lies: &[Lie]) -> (Lab, Object) {
    let lab = Lab::new(1);
    let film = Object::new(7, 5 * PIECE + 1);
    lab.ask_for(&[("film", &film)]);
    lab.world().lies.insert(film.id, lies.iter().copied().collect());
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film]);
    assert!(lab.world().lies[&film.id].is_empty(), "every lie was told");
    agent.stop();
    (lab, film)
}

#[test]
fn a_wrong_piece_is_asked_for_again_and_the_pieces_before_it_are_not() {
    // The first range is piece 0, the second pieces 1 and 2, the third 3 and up.
    let (lab, film) = survives(&[Lie::Everything, Lie::WrongByte(0), Lie::WrongByte(1)]);
    let world = lab.world();
    let starts: Vec<_> = world.asked.iter().map(|(_, first, _)| first / PIECE).collect();
    assert_eq!(starts[..3], [0, 0, 0], "piece 0 is asked for until it is right");
    assert!(world.sent[&film.id] <= film.data.len() + 3 * PIECE);
}

#[test]
fn a_wrong_piece_in_the_middle_of_a_range_costs_that_piece_only() {
    let lab = Lab::new(1);
    let film = Object::new(7, 5 * PIECE + 1);
    lab.ask_for(&[("film", &film)]);
    // Piece 0 comes right; the second range (pieces 1 and 2) has its second piece wrong.
    let lies = [Lie::WrongByte(4), Lie::WrongByte(2)];
    lab.world().lies.insert(film.id, lies.into());
    let agent = lab.start_impatient();
    lab.expect_exactly(&[&film]);
    agent.stop();
    let world = lab.world();
    let starts: Vec<_> = world.asked.iter().map(|(_, first, _)| first / PIECE).collect();
    assert_eq!(starts, [0, 1, 2, 3, 5]);
    assert_eq!(world.sent[&film.id], film.data.len() + PIECE);
}

#[test]
fn a_body_that_ends_early_is_gone_on_with() {
    survives(&[Lie::ShortBody, Lie::ShortBody]);
}

#[test]
fn another_range_than_asked_for_is_not_believed() {
    survives(&[Lie::WrongRange]);
}

#[test]
fn a_whole_object_in_answer_to_a_range_is_not_taken_for_the_range() {
    survives(&[Lie::Everything]);
}

#[test]
fn a_source_that_has_not_got_it_or_is_broken_is_asked_again_later() {
    survives(&[Lie::NotFound, Lie::Broken]);
}

#[test]
fn a_source_that_says_nothing_or_falls_silent_half_way_is_given_up_in_time() {
    survives(&[Lie::Silent, Lie::Stalls]);
}

#[test]
fn a_wrong_verification_tree_is_never_used() {
    survives(&[Lie::WrongTree]);
}

#[test]
fn a_range_of_a_wrong_total_or_of_none_is_not_believed() {
    survives(&[Lie::WrongTotal, Lie::NoRange]);
}

#[test]
fn a_body_announced_longer_or_shorter_than_the_range_is_not_begun() {
    let (lab, film) = survives(&[Lie::LengthTooShort, Lie::LengthTooLong]);
    assert!(lab.world().sent[&film.id] <= film.data.len() + 2 * PIECE);
}

#[test]
fn what_comes_behind_the_range_is_not_read_however_much_it_is() {
    // Piece 0 comes right, and rubbish without end behind it: that is no reason to ask for piece 0 again.
    let (lab, _) = survives(&[Lie::Endless]);
    let starts: Vec<_> = lab.world().asked.iter().map(|(_, first, _)| first / PIECE).collect();
    assert_eq!(starts[..2], [0, 1]);
}

#[test]
fn a_source_that_trickles_is_given_up_though_it_never_falls_silent() {
    survives(&[Lie::Trickle, Lie::Trickle]);
}

#[test]
fn a_verification_tree_without_end_and_one_that_trickles_are_given_up() {
    survives(&[Lie::TrickledTree]);
    // Whoever sends that is out for this attempt; the next one asks again.
    survives(&[Lie::EndlessTree]);
}

#[test]
fn a_redirection_is_no_answer() {
    survives(&[Lie::Redirect]);
}

/// Objects come from the origin though a better source is named at this address.
fn comes_all_the_same(better: std::net::SocketAddr) {
    let lab = Lab::new(1);
    let objects = [1, 2, 3].map(|seed| Object::new(seed, 2 * PIECE + 1));
    lab.ask_for(&[("film", &objects[0]), ("film", &objects[1]), ("film", &objects[2])]);
    lab.world().better_source = Some(better);
    let agent = lab.start_impatient();
    lab.expect_exactly(&objects.each_ref());
    agent.stop();
}

#[test]
fn a_source_that_refuses_connections_is_passed_over() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    comes_all_the_same(address);
}

#[test]
fn a_source_that_swallows_connections_is_passed_over() {
    // Its queue is full and nobody takes from it: the kernel drops what comes, as a black hole does.
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
    };
    use std::os::fd::AsRawFd as _;
    let hole = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(hole.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&hole, Backlog::new(0).unwrap()).unwrap();
    let bound: SockaddrIn = getsockname(hole.as_raw_fd()).unwrap();
    let address = std::net::SocketAddr::from((bound.ip(), bound.port()));
    let wait = std::time::Duration::from_millis(200);
    let queued: Vec<_> =
        (0..8).map_while(|_| std::net::TcpStream::connect_timeout(&address, wait).ok()).collect();
    assert!(queued.len() < 8, "the queue is full");
    comes_all_the_same(address);
    drop(queued);
}
