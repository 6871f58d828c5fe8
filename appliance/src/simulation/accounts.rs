//! At the end of a run nothing may be left over, the figures must agree, and whoever had a right to an answer must have
//! had it.

use std::sync::atomic::Ordering;

use super::client::Tally;
use super::run::{Run, Summary};
use crate::endings::{Ending, Scope};

pub fn close(run: &mut Run) -> Result<Summary, String> {
    for worker in &mut run.workers {
        worker.ring().kernel().leaks()?;
        let open = worker.ring().open_sockets();
        equal("sockets left open", open, 0)?;
    }
    equal("blocks being filled, and leases", run.memory.in_use(), (0, 0))?;
    equal("generations in use", run.holdings.oldest_in_use(), run.holdings.current().number())?;
    let tally = tally(run);
    let endings = endings(run)?;
    let sum = |figure: fn(&crate::metrics::WorkerCounters) -> u64| -> u64 {
        run.counters.iter().map(|counters| figure(counters)).sum()
    };
    let network = run.shared.network.borrow();
    equal("open connections", sum(|counters| counters.connections.load(Ordering::Relaxed)), 0)?;
    let accepted = sum(|counters| counters.accepted.load(Ordering::Relaxed));
    equal("accepted connections", accepted, network.accepted)?;
    let closed =
        Ending::ALL.map(|ending| run.counters.iter().map(|c| c.connections_closed(ending)).sum::<u64>());
    equal("ended connections", closed.iter().sum::<u64>(), accepted)?;
    let sent = sum(|counters| counters.sent_bytes.load(Ordering::Relaxed));
    if run.secure && sent > network.sent_bytes {
        return Err(format!("content of {sent} bytes in {} sealed ones", network.sent_bytes));
    } else if !run.secure {
        equal("bytes sent", sent, network.sent_bytes)?;
    }
    if tally.received_bytes > network.sent_bytes {
        return Err(format!("{} bytes received of {} sent", tally.received_bytes, network.sent_bytes));
    }
    check_served(run, &tally)?;
    if run.harmless && (tally.refused, tally.cut) != (0, 0) {
        return Err(format!("without any fault, not all was answered: {tally:?} {:?}", run.counters));
    }
    Ok(Summary { tally, seen: run.shared.seen(), endings, trace: run.shared.trace() })
}

/// A client may have the last byte of an answer before the server hears that it left; if the connection ends in between,
/// the request is counted with it.
fn check_served(run: &Run, tally: &Tally) -> Result<(), String> {
    let count = |wanted: fn(Ending) -> bool| -> u64 {
        let endings = Ending::ALL.into_iter().filter(|ending| wanted(*ending));
        endings.flat_map(|ending| run.counters.iter().map(move |c| c.requests_ended(ending))).sum()
    };
    let whole = count(|ending| matches!(ending, Ending::Complete | Ending::Partial));
    let taken_along = count(|ending| ending.scope() == Scope::Connection);
    if run.harmless {
        equal("answers counted", whole, tally.served)?;
    }
    if tally.served > whole + taken_along {
        return Err(format!("{} answers served, {whole} and {taken_along} counted", tally.served));
    }
    Ok(())
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, due: T) -> Result<(), String> {
    if is == due { Ok(()) } else { Err(format!("{what}: {is:?} where {due:?} was due")) }
}

fn tally(run: &Run) -> Tally {
    run.clients.iter().map(|client| client.tally).fold(Tally::default(), |sum, one| Tally {
        answered: sum.answered + one.answered,
        served: sum.served + one.served,
        refused: sum.refused + one.refused,
        cut: sum.cut + one.cut,
        received_bytes: sum.received_bytes + one.received_bytes,
    })
}

fn endings(run: &Run) -> Result<[u64; Ending::ALL.len()], String> {
    let count = |ending| {
        run.counters
            .iter()
            .map(|counters| counters.requests_ended(ending) + counters.connections_closed(ending))
            .sum()
    };
    Ok(Ending::ALL.map(count))
}
