//! The machine alone: events in, actions out, time as a number.

use std::sync::{Arc, LazyLock};

use content::box_config::Limits;

use super::*;
use crate::holdings::Holdings;
use crate::simulation::site::{MADE, Site};
use crate::tuning::Planted;

static SITE: LazyLock<Site> = LazyLock::new(|| Site::new(1, &[1000]));

struct Bench {
    connection: Connection,
    holdings: Arc<Holdings>,
    limits: Limits,
    tuning: Tuning,
    now: Now,
}

fn bench() -> Bench {
    let mut bench = Bench {
        connection: Connection::new(),
        holdings: SITE.holdings(),
        limits: Limits::default(),
        tuning: Tuning::default(),
        now: Now(5_000_000_000),
    };
    let (decide, wall) = (
        decide::Context { limits: &bench.limits, holdings: &bench.holdings, planted: Planted::default() },
        MADE,
    );
    bench.connection.open(false, bench.now, &Context { decide, tuning: &bench.tuning, wall });
    bench
}

impl Bench {
    fn step(&mut self, event: Event<'_>) -> Action {
        let decide =
            decide::Context { limits: &self.limits, holdings: &self.holdings, planted: Planted::default() };
        let context = Context { decide, tuning: &self.tuning, wall: MADE };
        self.connection.step(event, self.now, &context)
    }

    fn tick_after(&mut self, ms: u64) -> Action {
        self.now = after_ms(self.now, ms);
        self.step(Event::Tick)
    }

    fn ask(&mut self, method: &str, connection: &str) -> Action {
        let target = &SITE.objects[0].target;
        let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n\r\n");
        self.step(Event::Received(head.as_bytes()))
    }

    fn status(&self) -> String {
        String::from_utf8_lossy(&self.connection.unsent_head()[..12]).into_owned()
    }

    /// The whole head leaves.
    fn head_sent(&mut self) -> Action {
        let count = self.connection.unsent_head().len();
        self.step(Event::Sent(count))
    }
}

#[test]
fn an_idle_connection_is_closed_after_the_limit_and_not_before() {
    let mut bench = bench();
    assert_eq!(bench.tick_after(59_999), Action::Wait);
    assert_eq!(bench.tick_after(1), Action::Close(Ending::IdleTooLong));
}

#[test]
fn a_head_that_trickles_in_is_answered_408_after_the_limit() {
    let mut bench = bench();
    assert_eq!(bench.step(Event::Received(b"GET /")), Action::Wait);
    assert_eq!(bench.tick_after(9_000), Action::Wait);
    assert_eq!(bench.step(Event::Received(b"x")), Action::Wait);
    assert_eq!(bench.tick_after(1_000), Action::SendHead { block: None, more: false });
    assert_eq!(bench.status(), "HTTP/1.1 408");
    assert_eq!(bench.head_sent(), Action::FinishWriting);
    assert_eq!(bench.step(Event::PeerFinished), Action::Close(Ending::HeadTooSlow));
}

#[test]
fn a_stalled_send_closes_after_the_limit() {
    let mut bench = bench();
    assert_eq!(bench.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    assert_eq!(bench.step(Event::Sent(1)), Action::SendHead { block: None, more: false });
    assert_eq!(bench.tick_after(29_999), Action::Wait);
    assert_eq!(bench.tick_after(1), Action::Close(Ending::SendStalled));
    assert_eq!(bench.connection.take_ended(), Some(Ending::SendStalled));
}

#[test]
fn an_interrupted_send_is_repeated_and_counts_as_no_progress() {
    let mut bench = bench();
    assert_eq!(bench.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    assert_eq!(bench.tick_after(20_000), Action::Wait);
    assert_eq!(bench.step(Event::Sent(0)), Action::SendHead { block: None, more: false });
    assert_eq!(bench.tick_after(10_000), Action::Close(Ending::SendStalled));
}

#[test]
fn a_block_that_does_not_come_in_time_is_answered_503_and_the_connection_goes_on() {
    let mut bench = bench();
    assert!(matches!(bench.ask("GET", "keep-alive"), Action::Fetch { ahead: None, .. }));
    assert_eq!(bench.tick_after(2_999), Action::Wait);
    assert_eq!(bench.tick_after(1), Action::SendHead { block: None, more: false });
    assert_eq!(bench.status(), "HTTP/1.1 503");
    assert_eq!(bench.head_sent(), Action::Wait);
    assert_eq!(bench.connection.take_ended(), Some(Ending::DiskFailed));
    assert_eq!(bench.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    assert_eq!(bench.status(), "HTTP/1.1 200");
}

#[test]
fn a_full_memory_is_asked_again_and_then_answered_503() {
    let mut bench = bench();
    assert!(matches!(bench.ask("GET", "keep-alive"), Action::Fetch { .. }));
    for _ in 0..59 {
        assert_eq!(bench.step(Event::NoBlock(Failure::Busy)), Action::Wait);
        assert!(matches!(bench.tick_after(50), Action::Fetch { .. }));
    }
    bench.step(Event::NoBlock(Failure::Busy));
    assert_eq!(bench.tick_after(50), Action::SendHead { block: None, more: false });
    assert_eq!(bench.status(), "HTTP/1.1 503");
    bench.head_sent();
    assert_eq!(bench.connection.take_ended(), Some(Ending::Overloaded));
}

#[test]
fn pipelined_requests_are_answered_one_after_the_other() {
    let mut bench = bench();
    assert_eq!(bench.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    assert_eq!(bench.ask("HEAD", "close"), Action::Wait);
    assert_eq!(bench.head_sent(), Action::SendHead { block: None, more: false });
    assert_eq!(bench.head_sent(), Action::FinishWriting);
    assert_eq!(bench.tick_after(2_000), Action::Close(Ending::CloseAsked));
}

#[test]
fn a_client_that_half_closed_still_gets_its_answer() {
    let mut bench = bench();
    assert_eq!(bench.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    assert_eq!(bench.step(Event::PeerFinished), Action::Wait);
    assert_eq!(bench.head_sent(), Action::Close(Ending::PeerClosed));
}

#[test]
fn draining_closes_an_idle_connection_and_a_busy_one_behind_its_answer() {
    let mut idle = bench();
    assert_eq!(idle.step(Event::Drain), Action::Close(Ending::Drained));
    let mut busy = bench();
    assert_eq!(busy.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    busy.holdings.set_draining(true);
    assert_eq!(busy.step(Event::Drain), Action::Wait);
    assert_eq!(busy.head_sent(), Action::Close(Ending::Drained));
}

#[test]
fn receiving_stops_while_too_much_was_sent_ahead() {
    let mut bench = bench();
    let wants = |bench: &Bench| {
        let decide =
            decide::Context { limits: &bench.limits, holdings: &bench.holdings, planted: Planted::default() };
        bench.connection.wants_input(&Context { decide, tuning: &bench.tuning, wall: MADE })
    };
    assert_eq!(bench.ask("HEAD", "keep-alive"), Action::SendHead { block: None, more: false });
    assert!(wants(&bench));
    assert_eq!(bench.step(Event::Received(&[b'x'; 8192])), Action::Wait);
    assert!(!wants(&bench));
    let flood = vec![b'x'; bench.tuning.receive_slack_bytes];
    assert_eq!(bench.step(Event::Received(&flood)), Action::Wait);
    assert_eq!(bench.step(Event::Received(b"x")), Action::Close(Ending::PipelineTooLong));
}
