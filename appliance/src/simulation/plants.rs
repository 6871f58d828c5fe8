//! Planted defects: each must be found, and by what the oracle says of it.

use super::tests::play;
use crate::tuning::{Plant, Planted};

/// Plays seeds until one finds the plant, at most `budget`. `said`: any of these in what it says.
fn found(plant: Plant, budget: u64, said: &[&str]) {
    let found = (0..budget).find_map(|seed| play(seed, Planted::of(plant)).err().map(|what| (seed, what)));
    let Some((seed, what)) = found else { panic!("{plant:?} is not found in {budget} seeds") };
    let start: String = what.chars().take(110).collect();
    println!("{plant:?}: found by seed {seed}: {start}");
    assert!(said.iter().any(|said| what.contains(said)), "{plant:?} is found by another sign: {what}");
}

#[test]
fn simulation_finds_that_the_rest_of_what_was_sealed_is_forgotten() {
    found(Plant::SealedRestForgotten, 1_500, &["TLS:"]);
}

#[test]
fn simulation_finds_an_answer_that_is_paced_as_the_one_before() {
    found(Plant::PaceKept, 400, &["bytes a second where"]);
}

#[test]
fn simulation_finds_a_block_that_is_filled_while_it_is_sent() {
    found(Plant::LeaseNotKept, 1_500, &["wrong byte"]);
}

#[test]
fn simulation_finds_a_lease_that_ends_at_submission() {
    found(Plant::LeaseEndsAtSubmit, 1_500, &["wrong byte"]);
}

#[test]
fn simulation_finds_a_block_that_is_not_detached() {
    found(Plant::DetachSkipped, 1_500, &["wrong byte"]);
}

#[test]
fn simulation_finds_that_checksums_are_skipped() {
    found(Plant::ChecksumSkipped, 400, &["wrong byte"]);
}

#[test]
fn simulation_finds_that_a_short_send_is_miscounted() {
    found(Plant::ShortSendMiscounted, 400, &["wrong byte", "without any fault", "nobody asked"]);
}

#[test]
fn simulation_finds_a_body_that_goes_on_in_the_old_block() {
    found(Plant::BlockEdgeMissed, 400, &["wrong byte"]);
}

#[test]
fn simulation_finds_a_head_that_leaves_before_its_block_is_there() {
    found(Plant::HeadBeforeBlock, 400, &["whose body never began"]);
}

#[test]
fn simulation_finds_a_generation_that_is_let_go_too_early() {
    found(Plant::GenerationDropped, 2_000, &["without any fault"]);
}

#[test]
fn simulation_finds_that_a_withdrawn_file_is_served() {
    found(Plant::WithdrawnServed, 400, &["a withdrawn file is served"]);
}

#[test]
fn simulation_finds_a_slot_that_is_freed_with_a_receive_in_flight() {
    found(Plant::SlotFreedEarly, 400, &["in flight"]);
}

#[test]
fn simulation_finds_an_alarm_that_outlives_its_connection() {
    found(Plant::AlarmKept, 2_000, &["deadlock"]);
}

#[test]
fn simulation_finds_an_order_that_is_lost() {
    found(Plant::OrderLost, 400, &["blocks being filled", "without any fault"]);
}

#[test]
fn simulation_finds_that_some_who_wait_are_forgotten() {
    found(Plant::WaitersForgotten, 2_000, &["deadlock", "simulated seconds"]);
}

#[test]
fn simulation_finds_a_receive_that_is_not_armed_again() {
    found(Plant::ReceiveNotArmedAgain, 400, &["simulated seconds", "deadlock", "without any fault"]);
}

#[test]
fn simulation_finds_a_buffer_that_is_given_twice() {
    found(Plant::BufferGivenTwice, 400, &["given to the kernel twice", "of the kernel is looked at"]);
}

#[test]
fn simulation_finds_a_waker_that_is_not_armed_again() {
    found(Plant::WakerNotArmedAgain, 400, &["lies unread"]);
}

#[test]
fn simulation_finds_that_completions_are_not_taken_from_a_full_queue() {
    found(Plant::CompletionsNotTaken, 3_000, &["the worker spins"]);
}
