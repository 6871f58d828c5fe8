//! At the end of a run nothing may be left over, the figures must agree, and whoever had a right to an answer must have
//! had it.

use std::sync::atomic::Ordering;

use super::client::Tally;
use super::run::{Run, Summary};
use crate::endings::Ending;

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
    equal("bytes sent", sent, network.sent_bytes)?;
    if tally.received_bytes > sent {
        return Err(format!("{} bytes received of {sent} sent", tally.received_bytes));
    }
    let whole = [Ending::Complete, Ending::Partial];
    let ended: u64 =
        whole.iter().flat_map(|ending| run.counters.iter().map(|c| c.requests_ended(*ending))).sum();
    if tally.served > ended {
        return Err(format!("{} answers served, {ended} counted", tally.served));
    }
    if run.harmless && (tally.refused, tally.cut) != (0, 0) {
        return Err(format!("without any fault, not all was answered: {tally:?} {:?}", run.counters));
    }
    Ok(Summary { tally, seen: run.shared.seen(), endings, trace: run.shared.trace() })
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
