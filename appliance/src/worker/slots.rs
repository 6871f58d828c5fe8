//! The worker's table of connections: all places made before ready, each used again and again.

use crate::clock::Now;
use crate::conn::Connection;
use crate::memory::BlockKey;
use crate::ring::{OperationId, Socket};
use crate::tls::Session;
use crate::tuning::{Plant, Planted};

/// 24 bits of a generation travel with an operation.
const GENERATIONS: u32 = 1 << 24;

pub struct Slot {
    generation: u32,
    used: bool,
    pub connection: Connection,
    pub socket: Socket,
    pub receiving: bool,
    /// The receive was asked to end.
    pub pausing: bool,
    pub sending: bool,
    /// It was asked when the socket takes bytes again.
    pub polling: bool,
    pub closing: bool,
    /// What came so far of a balancer's header, which has to come first.
    pub preface: Option<Vec<u8>>,
    pub tls: Option<Box<Secured>>,
    pub waiting: Option<Wait>,
    /// A wait that was given up when its answer was on its way.
    pub owed: Option<u32>,
    pub waits: u32,
    /// How fast its socket was told to send.
    pub pace: Option<u64>,
    /// The entry in the wheel that counts.
    pub alarm: Option<Now>,
}

/// What the worker keeps of a connection over TLS.
pub struct Secured {
    pub session: Session,
    /// Its handshake is not over: it counts against `limits.handshakes_max`.
    pub shaking: bool,
    /// What it received waits for its turn.
    pub queued: bool,
    /// So much content was sealed and has not all left: then the connection is told.
    pub promised: Option<usize>,
    /// Once all has left, the client is told that no more comes.
    pub finishing: bool,
    /// It waits for the alarm of those whose socket was called writable and took nothing.
    pub stuck: bool,
}

/// For a block.
pub struct Wait {
    pub number: u32,
    pub key: BlockKey,
    pub since: Now,
}

pub struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        let last = u32::try_from(count).expect("fewer than 2³² connections");
        Self { slots: (0..count).map(|_| Slot::new()).collect(), free: (0..last).rev().collect() }
    }

    pub fn take(&mut self, socket: Socket) -> Option<OperationId> {
        let number = self.free.pop()?;
        let slot = &mut self.slots[index(number)];
        slot.used = true;
        slot.socket = socket;
        Some(OperationId { slot: number, generation: slot.generation })
    }

    /// None: that connection is over.
    pub fn find(&mut self, id: OperationId) -> Option<&mut Slot> {
        self.slots.get_mut(index(id.slot)).filter(|slot| slot.used && slot.generation == id.generation)
    }

    /// Whoever is there now.
    pub fn at(&mut self, number: u32) -> Option<(OperationId, &mut Slot)> {
        let slot = self.slots.get_mut(index(number)).filter(|slot| slot.used)?;
        Some((OperationId { slot: number, generation: slot.generation }, slot))
    }

    pub fn give_back(&mut self, id: OperationId, planted: Planted) {
        if let Some(slot) = self.find(id) {
            slot.used = false;
            slot.generation = (slot.generation + 1) % GENERATIONS;
            slot.closing = false;
            slot.tls = None;
            slot.preface = None;
            slot.pace = None;
            slot.alarm = slot.alarm.filter(|_| planted.has(Plant::AlarmKept));
            self.free.push(id.slot);
        }
    }

    pub fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("fewer than 2³² connections")
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            generation: 0,
            used: false,
            connection: Connection::new(),
            socket: Socket(u32::MAX),
            receiving: false,
            pausing: false,
            sending: false,
            polling: false,
            closing: false,
            preface: None,
            tls: None,
            waiting: None,
            owed: None,
            waits: 0,
            pace: None,
            alarm: None,
        }
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a slot's number fits a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_small_since_there_are_thousands() {
        println!("slot {} connection {}", size_of::<Slot>(), size_of::<Connection>());
        assert!(size_of::<Slot>() <= 448, "{}", size_of::<Slot>());
    }
}
