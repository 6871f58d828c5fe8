//! Generations that come while requests run: none waits for them, none is broken by them, and old ones are freed.

use std::thread;
use std::time::Duration;

use content::control_socket::ServerRequest;
use content::id::{Extension, Tier};
use fleet_tests::pulse::Pulse;
use fleet_tests::shelf::{Item, Shelf};
use fleet_tests::wire::{Wire, request};
use xtask::clock;
use xtask::stop::Stop;

/// A debug build takes longer than this to check each of the generations below: a worker that did it would show.
const LONGEST: Duration = Duration::from_millis(1_000);
const ENTRIES: u32 = 300_000;
const FILES: u32 = 30_000;
const PATIENCE: Duration = Duration::from_secs(30);
const LIMITS: &str = "requests_per_connection_max = 1000000000\nsend_stall_ms_max = 600000";

fn publish(shelf: &Shelf, generation: u64) -> anyhow::Result<()> {
    assert_eq!(shelf.tell(&ServerRequest::Publish { generation })?.generation, generation);
    Ok(())
}

#[test]
fn large_generations_are_published_and_freed_without_a_pause_in_serving() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 1 << 20, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), LIMITS).unwrap();
    let pulse = Pulse::start(&shelf, &item, 8).unwrap();
    let write = |generation| shelf.write_generation(generation, ENTRIES, FILES);
    let (_, quiet) = pulse.during(|| write(2)).unwrap();
    let swap_all = || {
        let start = clock::now();
        publish(&shelf, 2)?;
        for generation in 3..5 {
            write(generation)?;
            publish(&shelf, generation)?;
        }
        clock::wait_for(&Stop::default(), "the old generations' end", PATIENCE, || {
            Ok(shelf.holds_only(4)?.then_some(()))
        })?;
        Ok(start.elapsed())
    };
    let (took, swapped) = pulse.during(swap_all).unwrap();
    pulse.finish().unwrap();
    println!("undisturbed {quiet:?}; with three generations in {took:?} {swapped:?}");
    assert!(swapped.longest < LONGEST + 4 * quiet.longest, "{swapped:?} against {quiet:?}");
}

fn whole(wires: &mut [(Wire, &Item)]) -> usize {
    let whole = |(wire, item): &mut (Wire, &Item)| {
        wire.widen().unwrap();
        let answer = wire.answer("GET").unwrap();
        answer.status == 200 && answer.body == item.bytes
    };
    wires.iter_mut().filter_map(|wire| whole(wire).then_some(())).count()
}

#[test]
fn a_thousand_answers_are_whole_though_generations_come_in_their_middle() {
    const REQUESTS: usize = 1_000;
    const READ_BY_ONE: usize = 25;
    let items: Vec<_> = (1..5).map(|seed| Item::new(Tier::Sd, Extension::Mp4, 1 << 20, seed)).collect();
    let shelf = Shelf::start(&items, LIMITS).unwrap();
    let targets: Vec<_> = items.iter().map(|item| shelf.target(item)).collect();
    let start = clock::now();
    let mut wires = Vec::new();
    for index in 0..REQUESTS {
        let mut wire = Wire::open_narrow(shelf.address).unwrap();
        wire.send(request("GET", &targets[index % items.len()], &[])).unwrap();
        wires.push((wire, &items[index % items.len()]));
    }
    // Their heads have left: the requests hold generation 1.
    wires.iter_mut().for_each(|(wire, _)| wire.wait_for_a_byte().unwrap());
    for generation in 2..22 {
        shelf.write_generation(generation, 10_000, 1_000).unwrap();
        publish(&shelf, generation).unwrap();
        assert_eq!(shelf.tell(&ServerRequest::Status).unwrap().oldest_in_use, 1);
    }
    println!("twenty generations were published {:?} after the first request", start.elapsed());
    let sent = shelf.metrics().unwrap()["oca_body_bytes_total"];
    assert!(sent < 0.7 * 1_048_576_000.0, "the bodies are past their middle: {sent} bytes are sent");
    let late = shelf.wire().unwrap().ask("GET", &shelf.target(&items[0]), &[]).unwrap();
    assert!(late.body == items[0].bytes);
    // Side by side: each that starts again waits for its connection's timers.
    let right = thread::scope(|scope| {
        let readers: Vec<_> =
            wires.chunks_mut(READ_BY_ONE).map(|wires| scope.spawn(|| whole(wires))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>()
    });
    assert_eq!(right, REQUESTS);
    println!("all were read after {:?}", start.elapsed());
    clock::wait_for(&Stop::default(), "the end of generations that nobody uses", PATIENCE, || {
        let status = shelf.tell(&ServerRequest::Status)?;
        Ok((status.oldest_in_use == 21 && shelf.holds_only(21)?).then_some(()))
    })
    .unwrap();
}
