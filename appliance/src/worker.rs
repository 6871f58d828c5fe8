//! One core's share of the server: a ring, a table of connections, a timer wheel. [`Worker::turn`] is the loop
//! (STYLE §2): wait, copy completions out, dispatch them, expire timers.
//!
//! ```text
//! Ring ──Completion──► Worker ──Event──► Connection ──Action──► Worker ──► Ring (send, receive, close)
//!                        ▲ │                                          └──► Memory ──► DiskHandle (read order)
//!            Answer ─────┘ └──► Wheel
//! ```
//!
//! A slot is free again only when all that was started for it has ended: its receive, its send or what waits to send, its answer
//! from memory.

mod sealed;
mod slots;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use content::box_config::Limits;
use content::network::Network;
use crossbeam_queue::ArrayQueue;
use rustls::ServerConfig;

use crate::clock::Now;
use crate::conn::{Action, Connection, Context, Event};
use crate::disk::DiskHandle;
use crate::endings::Ending;
use crate::holdings::Holdings;
use crate::http::decide;
use crate::memory::{Acquired, Answer, BlockKey, Failure, Memory, ReadOrder, Waiter};
use crate::metrics::WorkerCounters;
use crate::proxy;
use crate::ring::{Completion, Direction, Listener, OperationId, ReceiveEnd, Ring, SendFault, Socket};
use crate::tuning::{Plant, Planted, Tuning};
use crate::wheel::{Alarm, Wheel};
use slots::{Slot, Slots, Wait};

/// Connections that are told there is no place for them, at a time; more are closed without a word.
pub const TURNED_AWAY_MAX: usize = 32;

/// The alarm of the listeners, which is no slot's.
const LISTENERS: u32 = u32::MAX;
const ACCEPT_RETRY_NS: u64 = 100_000_000;

pub struct WorkerSetup {
    /// Its place among the workers, and its mailbox's in `memory`.
    pub index: u16,
    pub listeners: Vec<TcpListener>,
    /// Those of TLS, and its rules.
    pub secure: Option<Secure>,
    /// Balancers.
    pub proxy_from: Vec<Network>,
    pub limits: Limits,
    pub holdings: Arc<Holdings>,
    pub counters: Arc<WorkerCounters>,
    pub memory: Arc<Memory>,
    /// By `VolumeIndex`.
    pub disks: Vec<DiskHandle>,
    pub answers: Arc<ArrayQueue<Answer>>,
    /// Close everything and return from [`Worker::run`].
    pub stop: Arc<AtomicBool>,
    pub tuning: Tuning,
}

/// What a worker needs to serve over TLS.
pub struct Secure {
    pub listeners: Vec<TcpListener>,
    pub rules: Arc<ServerConfig>,
}

/// How many answers a worker's mailbox must hold: see `memory::Mailbox`.
pub fn mailbox_size(limits: &Limits) -> usize {
    2 * (limits.connections_max + TURNED_AWAY_MAX)
}

pub struct Worker<R: Ring> {
    ring: R,
    setup: WorkerSetup,
    slots: Slots,
    wheel: Wheel,
    now: Now,
    was_draining: bool,
    stopping: bool,
    completions: Vec<Completion>,
    due: Vec<Alarm>,
    /// Listeners that wait for descriptors.
    resting: Vec<Listener>,
    /// Told in the next turn, for which nobody waits.
    soon: Vec<Completion>,
    tls: sealed::Tls,
}

impl<R: Ring> Worker<R> {
    pub fn new(mut setup: WorkerSetup, mut ring: R) -> Self {
        let slots = Slots::new(setup.limits.connections_max + TURNED_AWAY_MAX);
        let now = ring.now();
        for listener in std::mem::take(&mut setup.listeners) {
            let listener = ring.listen(listener);
            ring.accept(listener);
        }
        let tls = sealed::Tls::new(setup.secure.take(), &mut ring);
        Self {
            ring,
            slots,
            wheel: Wheel::new(now),
            now,
            was_draining: false,
            stopping: false,
            completions: Vec::with_capacity(1024),
            due: Vec::with_capacity(64),
            resting: Vec::new(),
            soon: Vec::new(),
            tls,
            setup,
        }
    }

    /// Until it is told to stop and has closed all it had open, at most `stop_ms_max` later.
    pub fn run(&mut self, stop_ms_max: u64) -> io::Result<()> {
        let mut give_up_at = None;
        while !(self.stopping && self.slots.used() == 0) {
            self.turn(give_up_at)?;
            if self.stopping {
                let at = *give_up_at.get_or_insert(Now(self.now.0 + stop_ms_max * 1_000_000));
                if self.now >= at {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One turn of the loop. `until`: no later, whatever happens.
    pub fn turn(&mut self, until: Option<Now>) -> io::Result<()> {
        let at_once = !self.soon.is_empty() || self.tls.has_work();
        let until = if at_once { Some(Now(0)) } else { until.into_iter().chain(self.wheel.next()).min() };
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.turn(until, &mut completions)?;
        self.now = self.ring.now();
        completions.append(&mut self.soon);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        self.shake_hands();
        self.take_answers();
        self.look_at_orders();
        self.expire();
        Ok(())
    }

    pub fn ring(&mut self) -> &mut R {
        &mut self.ring
    }

    /// Slots that are not free.
    pub fn connections(&self) -> usize {
        self.slots.used()
    }

    /// Its connections are of TLS.
    #[cfg(test)]
    pub fn secure(&mut self, rules: Arc<ServerConfig>) {
        self.tls.hear_all(rules);
    }

    /// Something is to be done at once, whatever the ring says.
    #[cfg(test)]
    pub fn has_work(&self) -> bool {
        !self.soon.is_empty() || self.tls.has_work()
    }

    /// When the wheel wants to be looked at.
    #[cfg(test)]
    pub fn deadline(&self) -> Option<Now> {
        self.wheel.next()
    }

    /// For a test that got stuck: what each connection still waits for.
    #[cfg(test)]
    pub fn describe(&mut self) -> Vec<String> {
        let now = self.now;
        (0..self.slots.count())
            .filter_map(|number| self.slots.at(number).map(|(id, slot)| slot.describe(id, now)))
            .collect()
    }

    fn dispatch(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket, listener } => self.accepted(socket, self.tls.hears(listener)),
            Completion::AcceptEnded { listener, exhausted: false } => self.ring.accept(listener),
            Completion::AcceptEnded { listener, exhausted: true } => {
                self.resting.push(listener);
                self.wheel.insert(Alarm { slot: LISTENERS, at: Now(self.now.0 + ACCEPT_RETRY_NS) });
            }
            Completion::Received { id, buffer } => {
                if let Some(slot) = self.slots.find(id) {
                    let bytes = self.ring.received(&buffer);
                    if let Some(preface) = &mut slot.preface {
                        preface.extend_from_slice(bytes);
                        self.ring.recycle(buffer);
                        return self.prefaced(id);
                    }
                    if let Some(tls) = &mut slot.tls {
                        tls.session.push(bytes);
                        self.ring.recycle(buffer);
                        return self.heard(id);
                    }
                    let context = context_of(&self.setup, &self.ring);
                    let action = slot.connection.step(Event::Received(bytes), self.now, &context);
                    self.ring.recycle(buffer);
                    self.carry_out(id, action);
                } else {
                    self.ring.recycle(buffer);
                }
            }
            Completion::ReceiveEnded { id, end } => self.receive_ended(id, end),
            Completion::Sent { id, outcome } => self.sent(id, outcome),
            Completion::Full { id } => {
                if let Some(slot) = self.slots.find(id) {
                    slot.sending = false;
                    self.step(id, Event::Full);
                }
            }
            Completion::Writable { id } => {
                if let Some(slot) = self.slots.find(id) {
                    slot.polling = false;
                    if slot.tls.is_some() {
                        return self.flush(id);
                    }
                    self.step(id, Event::Writable);
                }
            }
            // Answers and orders are looked at in every turn.
            Completion::Woken => {}
        }
    }

    fn accepted(&mut self, socket: Socket, secure: bool) {
        self.setup.counters.connection_opened();
        let crowded = self.slots.used() >= self.setup.limits.connections_max;
        let tls = match secure.then(|| self.tls.begin(crowded, self.setup.limits.handshakes_max)).transpose()
        {
            Ok(tls) => tls,
            Err(ending) => return self.turn_away(socket, ending),
        };
        let Some(id) = (!self.stopping).then(|| self.slots.take(socket)).flatten() else {
            return self.turn_away(socket, Ending::TooManyConnections);
        };
        let proxied = self.is_balancer(socket);
        let context = context_of(&self.setup, &self.ring);
        let Some(slot) = self.slots.find(id) else { unreachable!("the slot was just taken") };
        self.tls.shaking += usize::from(tls.is_some());
        slot.tls = tls;
        slot.preface = proxied.then(Vec::new);
        slot.connection.open(secure || proxied, self.now, &context);
        if crowded { self.step(id, Event::TurnAway) } else { self.settle(id) }
    }

    fn is_balancer(&self, socket: Socket) -> bool {
        let trusted = &self.setup.proxy_from;
        let address = if trusted.is_empty() { None } else { self.ring.peer(socket) };
        address.is_some_and(|address| trusted.iter().any(|network| network.contains(address)))
    }

    /// A part of a balancer's header, perhaps with what follows it.
    fn prefaced(&mut self, id: OperationId) {
        let Some(slot) = self.slots.find(id) else { return };
        let Some(preface) = &mut slot.preface else { return };
        let header = match proxy::parse(preface) {
            Ok(None) => return self.settle(id),
            Ok(Some(header)) => header,
            Err(cause) => {
                tracing::debug!(%cause, "from a balancer");
                return self.step(id, Event::ProxyMalformed);
            }
        };
        let rest = preface.split_off(header.bytes);
        slot.preface = None;
        self.setup.counters.proxied();
        tracing::trace!(source = ?header.source, "announced by a balancer");
        match &mut slot.tls {
            Some(tls) => {
                tls.session.push(&rest);
                self.heard(id);
            }
            None => {
                self.step(id, Event::Secured);
                self.step(id, Event::Received(&rest));
            }
        }
    }

    /// Not even a place to say why from.
    fn turn_away(&mut self, socket: Socket, ending: Ending) {
        self.setup.counters.connection_ended(ending);
        self.ring.close(socket);
    }

    fn receive_ended(&mut self, id: OperationId, end: ReceiveEnd) {
        let Some(slot) = self.slots.find(id) else { return };
        slot.receiving = false;
        slot.pausing = false;
        match end {
            ReceiveEnd::PeerFinished => self.step(id, Event::PeerFinished),
            ReceiveEnd::PeerLost => self.step(id, Event::PeerLost),
            ReceiveEnd::Paused => self.settle(id),
        }
    }

    fn sent(&mut self, id: OperationId, outcome: Result<usize, SendFault>) {
        let Some(slot) = self.slots.find(id) else { return };
        let head = slot.connection.unsent_head().len();
        slot.sending = false;
        match outcome {
            Ok(count) => {
                let bytes = |count| u64::try_from(count).unwrap_or(0);
                self.setup.counters.sent(bytes(count), bytes(count.saturating_sub(head)));
                self.step(id, Event::Sent(count));
            }
            Err(SendFault::PeerLost) => self.step(id, Event::PeerLost),
            Err(SendFault::Host) => self.step(id, Event::SendRefused),
        }
    }

    fn take_answers(&mut self) {
        while let Some(answer) = self.setup.answers.pop() {
            let Some((id, slot)) = self.slots.at(answer.waiter.slot) else { continue };
            slot.owed = slot.owed.filter(|wait| *wait != answer.waiter.wait);
            let wanted = slot.waiting.as_ref().is_some_and(|wait| wait.number == answer.waiter.wait);
            if !wanted {
                // Given up meanwhile; the lease, if there is one, ends here.
                drop(answer);
                self.settle(id);
                continue;
            }
            slot.waiting = None;
            match answer.outcome {
                Ok(lease) => self.step(id, Event::Block(lease)),
                Err(failure) => self.step(id, Event::NoBlock(failure)),
            }
        }
    }

    /// What the shell's threads have said meanwhile.
    fn look_at_orders(&mut self) {
        let draining = self.setup.holdings.draining();
        if draining && !self.was_draining {
            self.tell_all(|| Event::Drain);
        }
        self.was_draining = draining;
        if self.setup.stop.load(Ordering::Acquire) && !self.stopping {
            self.stopping = true;
            self.tell_all(|| Event::Stop);
        }
    }

    fn tell_all(&mut self, event: impl Fn() -> Event<'static>) {
        for number in 0..self.slots.count() {
            if let Some((id, _)) = self.slots.at(number) {
                self.step(id, event());
            }
        }
    }

    fn expire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, &mut due);
        for alarm in due.drain(..) {
            if alarm.slot == sealed::STUCK {
                self.flush_stuck();
                continue;
            }
            if alarm.slot == LISTENERS {
                let resting = std::mem::take(&mut self.resting);
                resting.into_iter().for_each(|listener| self.ring.accept(listener));
                continue;
            }
            let Some((id, slot)) = self.slots.at(alarm.slot) else { continue };
            if slot.alarm == Some(alarm.at) {
                slot.alarm = None;
                self.step(id, Event::Tick);
            }
        }
        self.due = due;
    }

    fn step(&mut self, id: OperationId, event: Event<'_>) {
        let Some(slot) = self.slots.find(id) else { return };
        let context = context_of(&self.setup, &self.ring);
        let action = slot.connection.step(event, self.now, &context);
        self.carry_out(id, action);
    }

    /// Before an answer's first byte, and for all of it; the next one has its own.
    fn pace(&mut self, id: OperationId) {
        let Some(slot) = self.slots.find(id) else { return };
        let pace = slot.connection.pace();
        let kept = pace.is_none() && self.setup.tuning.planted.has(Plant::PaceKept);
        if slot.pace != pace && !kept {
            slot.pace = pace;
            self.ring.pace(slot.socket, pace);
        }
    }

    /// Does what the connection says, and tells it at once what is known at once.
    fn carry_out(&mut self, id: OperationId, mut action: Action) {
        loop {
            let Some(slot) = self.slots.find(id) else { return };
            if let Some(ending) = slot.connection.take_ended() {
                self.setup.counters.request_ended(ending);
            }
            let socket = slot.socket;
            if matches!(action, Action::SendHead { .. }) {
                self.pace(id);
            }
            let Some(slot) = self.slots.find(id) else { return };
            match action {
                Action::Wait => break,
                Action::Fetch { key, ahead, again } => {
                    let Some(event) = self.fetch(id, key, ahead, again) else { break };
                    let Some(slot) = self.slots.find(id) else { return };
                    action = slot.connection.step(event, self.now, &context_of(&self.setup, &self.ring));
                }
                Action::SendHead { block, .. } if slot.tls.is_some() => {
                    let Some(event) = self.send_sealed(id, block) else { break };
                    let Some(slot) = self.slots.find(id) else { return };
                    action = slot.connection.step(event, self.now, &context_of(&self.setup, &self.ring));
                }
                Action::SendBlock(span) if slot.tls.is_some() => {
                    let Some(event) = self.send_sealed(id, Some(span)) else { break };
                    let Some(slot) = self.slots.find(id) else { return };
                    action = slot.connection.step(event, self.now, &context_of(&self.setup, &self.ring));
                }
                Action::SendHead { block, more } => {
                    slot.sending = true;
                    self.ring.send_bytes(id, socket, slot.connection.unsent_head(), block, more);
                    break;
                }
                Action::SendBlock(span) => {
                    slot.sending = true;
                    self.ring.send_block(id, socket, span);
                    break;
                }
                Action::AwaitWritable => {
                    slot.polling = true;
                    self.ring.await_writable(id, socket);
                    break;
                }
                Action::FinishWriting if slot.tls.is_some() => {
                    self.finish_sealed(id);
                    break;
                }
                Action::FinishWriting => {
                    self.ring.shut_down(socket, Direction::Write);
                    break;
                }
                Action::Close(ending) => {
                    self.setup.counters.connection_ended(ending);
                    slot.closing = true;
                    if slot.tls.is_some() {
                        // Nothing of it is lent to the kernel.
                        slot.sending = false;
                    }
                    self.ring.shut_down(socket, Direction::Both);
                    break;
                }
            }
        }
        self.settle(id);
    }

    /// None: an answer will come.
    fn fetch(
        &mut self,
        id: OperationId,
        key: BlockKey,
        ahead: Option<BlockKey>,
        again: bool,
    ) -> Option<Event<'static>> {
        let slot = self.slots.find(id)?;
        slot.waits = slot.waits.wrapping_add(1);
        let wait = slot.waits;
        let waiter = Waiter { worker: self.setup.index, slot: id.slot, wait };
        let acquired = self.setup.memory.acquire(key, waiter);
        match (again, &acquired) {
            (true, _) => {}
            (false, Acquired::Hit(_)) => self.setup.counters.memory_hit(),
            (false, Acquired::Waiting(_) | Acquired::Refused(_)) => self.setup.counters.memory_miss(),
        }
        let event = match acquired {
            Acquired::Hit(lease) => Some(Event::Block(lease)),
            Acquired::Waiting(order) => {
                slot.waiting = Some(Wait { number: wait, key, since: self.now });
                self.submit(order);
                None
            }
            Acquired::Refused(failure) => Some(Event::NoBlock(failure)),
        };
        if let Some(ahead) = ahead.filter(|_| !again) {
            let order = self.setup.memory.prefetch(ahead);
            if event.is_none() || !self.setup.tuning.planted.has(Plant::OrderLost) {
                self.submit(order);
            }
        }
        event
    }

    fn submit(&self, order: Option<ReadOrder>) {
        let Some(order) = order else { return };
        match self.setup.disks.get(usize::from(order.key.file.volume.0)) {
            Some(disk) => disk.submit(order, self.now),
            None => self.setup.memory.complete(order, Err(Failure::Disk)),
        }
    }

    /// Brings what was started for the slot in line with what its connection wants now.
    fn settle(&mut self, id: OperationId) {
        let context = context_of(&self.setup, &self.ring);
        let Some(slot) = self.slots.find(id) else { return };
        if let Some(wait) = slot.waiting.take_if(|_| !slot.connection.is_fetching()) {
            let waiter = Waiter { worker: self.setup.index, slot: id.slot, wait: wait.number };
            let overdue = self.now.0 - wait.since.0 >= self.setup.tuning.read_ms_max * 1_000_000;
            if !self.setup.memory.give_up(wait.key, waiter, overdue) {
                slot.owed = Some(wait.number);
            }
        }
        let wants = !slot.closing && slot.connection.wants_input(&context);
        if wants && !slot.receiving {
            slot.receiving = true;
            self.ring.receive(id, slot.socket);
        } else if !wants && slot.receiving && !slot.pausing {
            slot.pausing = true;
            self.ring.pause_receive(id);
        }
        if let Some(at) = slot.connection.deadline()
            && slot.alarm.is_none_or(|set| at < set)
        {
            slot.alarm = Some(at);
            self.wheel.insert(Alarm { slot: id.slot, at });
        }
        if slot.is_over(self.setup.tuning.planted) {
            self.free(id);
        }
    }

    fn free(&mut self, id: OperationId) {
        if let Some(slot) = self.slots.find(id) {
            slot.connection.release();
            self.tls.shaking -= usize::from(slot.tls.as_ref().is_some_and(|tls| tls.shaking));
            let socket = slot.socket;
            self.ring.close(socket);
            self.slots.give_back(id, self.setup.tuning.planted);
        }
    }
}

fn context_of<'a, R: Ring>(setup: &'a WorkerSetup, ring: &R) -> Context<'a> {
    let planted = setup.tuning.planted;
    let decide = decide::Context { limits: &setup.limits, holdings: &setup.holdings, planted };
    Context { decide, tuning: &setup.tuning, wall: ring.wall() }
}

impl Slot {
    #[cfg(test)]
    fn describe(&self, id: OperationId, now: Now) -> String {
        format!(
            "{id:?} at {now:?} receiving {} pausing {} sending {} polling {} closing {} waiting {} owed {:?} alarm {:?} deadline {:?}",
            self.receiving,
            self.pausing,
            self.sending,
            self.polling,
            self.closing,
            self.waiting.is_some(),
            self.owed,
            self.alarm,
            self.connection.deadline(),
        )
    }

    /// All that was started has ended.
    fn is_over(&self, planted: Planted) -> bool {
        let receiving = self.receiving && !planted.has(Plant::SlotFreedEarly);
        let idle = !receiving && !self.sending && !self.polling;
        self.closing && idle && self.waiting.is_none() && self.owed.is_none()
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}
