//! What each way out costs on this machine: a stream to ourselves over loopback, sent by the very ring that serves, with
//! the processor time of the sending thread as the measure. What it is not: a test of the network. A real card makes
//! sendfile and SEND_ZC cheaper than loopback shows, which copies every SEND_ZC; plain SEND it makes no cheaper.
//!
//! Read `ways` next: what is made of the figures.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use nix::time::{ClockId, clock_gettime};

use super::uring::{UringKernel, UringRing};
use super::{Completion, OperationId, Ring as _, Socket, Way};
use crate::clock::Now;
use crate::sys::arena::{Arena, Block, BlockSpan};
use crate::sys::{self, EventWaker};
use crate::tuning::Tuning;

/// Each way is measured so often, in turn; the median counts. Odd.
const ROUNDS: usize = 5;
/// In one round.
const BYTES: usize = 64 << 20;
/// Blocks that are sent from: more than the processor's nearest caches hold.
const BLOCKS_MAX: usize = 32;
/// A round that takes longer has failed.
const ROUND_NS_MAX: u64 = 5_000_000_000;
const DRAIN_BYTES: usize = 1 << 20;

/// Processor seconds per GB (10⁹ bytes).
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// By way: of sending.
    pub send: Vec<(Way, f64)>,
    /// Of giving a block fresh pages before it is filled again.
    pub detach: f64,
}

/// Takes about a second, and gives the blocks back with other bytes in them.
pub fn measure(
    arena: &Arc<Arena>,
    blocks: Vec<Block>,
    tuning: &Tuning,
) -> (io::Result<Measured>, Vec<Block>) {
    let count = blocks.len().min(BLOCKS_MAX);
    let send = send_by_all(arena, count, tuning);
    let (detach, blocks) = detach_all(blocks, count, tuning);
    (send.and_then(|send| Ok(Measured { send, detach: detach? })), blocks)
}

fn send_by_all(arena: &Arc<Arena>, count: usize, tuning: &Tuning) -> io::Result<Vec<(Way, f64)>> {
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
    for _ in 0..ROUNDS {
        for (way, costs) in Way::ALL.into_iter().zip(&mut rounds) {
            let (arena, tuning) = (arena.clone(), tuning.clone());
            // On a thread of its own, so that its clock counts nothing else.
            let round = thread::spawn(move || send_round(way, &arena, count, &tuning)).join();
            costs.push(round.map_err(|_| io::Error::other("a measuring thread has died"))??);
        }
    }
    Ok(Way::ALL.into_iter().zip(rounds.into_iter().map(median)).collect())
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

fn send_round(way: Way, arena: &Arc<Arena>, count: usize, tuning: &Tuning) -> io::Result<f64> {
    let mut ring = UringRing::new(
        UringKernel::new(arena.clone(), EventWaker::new()?, 1).map_err(io::Error::other)?,
        way,
        tuning.planted,
    );
    let listener = sys::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let reader = thread::spawn(move || discard(address));
    let listener = ring.listen(listener);
    ring.accept(listener);
    let give_up_at = Now(ring.now().0 + ROUND_NS_MAX);
    let socket = accepted(&mut ring, give_up_at)?;
    let before = thread_cpu_s()?;
    send_all(&mut ring, socket, count, tuning, give_up_at)?;
    let cost = (thread_cpu_s()? - before) / gigabytes(BYTES);
    drop(ring);
    reader.join().map_err(|_| io::Error::other("the reading thread has died"))??;
    Ok(cost)
}

fn accepted(ring: &mut UringRing, give_up_at: Now) -> io::Result<Socket> {
    let mut completions = Vec::new();
    while ring.now() < give_up_at {
        ring.turn(Some(give_up_at), &mut completions)?;
        for completion in completions.drain(..) {
            if let Completion::Accepted { socket, .. } = completion {
                return Ok(socket);
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// From block after block, in the pieces that serving uses.
fn send_all(
    ring: &mut UringRing,
    socket: Socket,
    count: usize,
    tuning: &Tuning,
    give_up_at: Now,
) -> io::Result<()> {
    let id = OperationId { slot: 0, generation: 0 };
    let piece = |sent: usize| {
        let offset = sent % tuning.block_bytes;
        let block = crate::sys::arena::BlockId(u32::try_from(sent / tuning.block_bytes % count).unwrap_or(0));
        let bytes = tuning.send_quantum_bytes.min(tuning.block_bytes - offset).min(BYTES - sent);
        BlockSpan { block, offset, bytes }
    };
    let mut sent = 0;
    ring.send_block(id, socket, piece(sent));
    let mut completions = Vec::new();
    while sent < BYTES && ring.now() < give_up_at {
        ring.turn(Some(give_up_at), &mut completions)?;
        for completion in completions.drain(..) {
            match completion {
                Completion::Sent { outcome, .. } => {
                    sent += outcome.map_err(|_| io::Error::other("a send to ourselves failed"))?;
                    if sent < BYTES {
                        ring.send_block(id, socket, piece(sent));
                    }
                }
                Completion::Full { .. } => ring.await_writable(id, socket),
                Completion::Writable { .. } => ring.send_block(id, socket, piece(sent)),
                Completion::Accepted { .. }
                | Completion::AcceptEnded { .. }
                | Completion::Received { .. }
                | Completion::ReceiveEnded { .. }
                | Completion::Woken => {}
            }
        }
    }
    if sent < BYTES { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}

/// Reads until the end, looking at nothing: MSG_TRUNC throws the bytes away in the kernel (tcp(7)).
fn discard(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_nanos(2 * ROUND_NS_MAX)))?;
    let mut buffer = vec![0; DRAIN_BYTES];
    while recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)? > 0 {}
    Ok(())
}

/// The first blocks, which were sent from, as a read from a disk does it: detached, then each page touched.
fn detach_all(blocks: Vec<Block>, count: usize, tuning: &Tuning) -> (io::Result<f64>, Vec<Block>) {
    const PAGE_BYTES: usize = 4096;
    let before = thread_cpu_s();
    let renew = |(index, block): (usize, Block)| {
        if index >= count {
            return block;
        }
        let mut block = block.detached(tuning.planted);
        block.bytes_mut().iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        block
    };
    let blocks = blocks.into_iter().enumerate().map(renew).collect();
    let spent = before.and_then(|before| Ok(thread_cpu_s()? - before));
    (spent.map(|spent| spent / gigabytes(count.max(1) * tuning.block_bytes)), blocks)
}

fn thread_cpu_s() -> io::Result<f64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?).as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2⁵³ bytes")]
fn gigabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::arena::BLOCK_BYTES;

    #[test]
    fn each_way_out_has_its_cost_and_the_blocks_come_back() {
        let (arena, blocks) = Arena::new(BLOCK_BYTES, 4).unwrap();
        let (measured, blocks) = measure(&arena, blocks, &Tuning::default());
        let measured = measured.unwrap();
        assert_eq!(measured.send.iter().map(|(way, _)| *way).collect::<Vec<_>>(), Way::ALL);
        // No way moves 10⁹ bytes in a millisecond of processor time, nor takes a minute.
        assert!(measured.send.iter().all(|(_, cost)| (0.001..60.0).contains(cost)), "{measured:?}");
        assert!(measured.detach > 0.0, "{measured:?}");
        assert_eq!(blocks.len(), 4);
    }
}
