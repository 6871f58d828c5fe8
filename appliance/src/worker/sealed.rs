//! The worker's part of TLS: whose handshake is next, and sends that are sealed first (DESIGN §4).
//!
//! Content is sealed from its block into one buffer of the worker, small enough to stay in its core's cache, and sent from there at once.
//! What the socket does not take is kept by the session, and the block goes: so nobody who reads slowly holds a block. The
//! connection is told of a send when all of it has left, as without TLS.
//!
//! A handshake costs as much as sealing a MiB: a few are carried on in a turn, so that they never starve transfers.

use super::*;
use crate::sys::arena::BlockSpan;
use crate::tls::{Fault, Session, sealed_bytes_max};
use slots::Secured;

/// The alarm of [`Tls::stuck`], which is no slot's.
pub(super) const STUCK: u32 = u32::MAX - 1;
const STUCK_RETRY_NS: u64 = 50_000_000;
/// So much content is sealed for one send(2): sealed, it is a part of a core's second cache.
const CONTENT_BYTES: usize = 64 * 1024;
/// A head is sealed apart from the content behind it.
const PLACE_BYTES: usize = sealed_bytes_max(CONTENT_BYTES) + sealed_bytes_max(0);
const HANDSHAKES_A_TURN: usize = 4;

/// What all connections of a worker over TLS share.
pub(super) struct Tls {
    rules: Option<Arc<ServerConfig>>,
    /// The listeners of TLS are those from this number on.
    first: u32,
    /// Handshakes that are not over.
    pub shaking: usize,
    /// Whose handshake can go on.
    queue: VecDeque<OperationId>,
    /// Whose socket was called writable and took nothing: asked again a little later, and not without end.
    stuck: Vec<OperationId>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

/// Why sealing or sending what was sealed cannot go on.
enum Cut {
    Tls(Fault),
    Socket(SendFault),
}

impl Tls {
    pub fn new(secure: Option<Secure>, ring: &mut impl Ring) -> Self {
        let (mut first, mut rules) = (u32::MAX, None);
        if let Some(secure) = secure {
            for listener in secure.listeners {
                let listener = ring.listen(listener);
                first = first.min(listener.0);
                ring.accept(listener);
            }
            rules = Some(secure.rules);
        }
        let sealed = if rules.is_some() { vec![0; PLACE_BYTES] } else { Vec::new() };
        Self {
            rules,
            first,
            shaking: 0,
            queue: VecDeque::new(),
            stuck: Vec::new(),
            sealed,
            plain: Vec::new(),
        }
    }

    /// The listeners that the fake network has.
    #[cfg(test)]
    pub fn hear_all(&mut self, rules: Arc<ServerConfig>) {
        (self.first, self.rules) = (0, Some(rules));
        self.sealed = vec![0; PLACE_BYTES];
    }

    pub fn hears(&self, listener: Listener) -> bool {
        listener.0 >= self.first
    }

    /// Handshakes that could go on now.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// For a new connection, or why there is none for it.
    pub fn begin(&self, crowded: bool, handshakes_max: usize) -> Result<Box<Secured>, Ending> {
        if crowded {
            return Err(Ending::TooManyConnections);
        }
        if self.shaking >= handshakes_max {
            return Err(Ending::TooManyHandshakes);
        }
        let rules = self.rules.as_ref().ok_or(Ending::HostFailed)?;
        let session = Session::new(rules).map_err(|_| Ending::HostFailed)?;
        Ok(Box::new(Secured {
            session,
            shaking: true,
            queued: false,
            promised: None,
            finishing: false,
            stuck: false,
        }))
    }
}

impl<R: Ring> Worker<R> {
    /// Something was received.
    pub(super) fn heard(&mut self, id: OperationId) {
        let Some(tls) = self.slots.find(id).and_then(|slot| slot.tls.as_mut()) else { return };
        if !tls.shaking {
            self.understand(id);
        } else if !std::mem::replace(&mut tls.queued, true) {
            self.tls.queue.push_back(id);
        }
    }

    /// Carries on a few handshakes.
    pub(super) fn shake_hands(&mut self) {
        for _ in 0..HANDSHAKES_A_TURN {
            let Some(id) = self.tls.queue.pop_front() else { return };
            let Some(tls) = self.slots.find(id).and_then(|slot| slot.tls.as_mut()) else { continue };
            tls.queued = false;
            self.understand(id);
        }
    }

    fn understand(&mut self, id: OperationId) {
        let Some(tls) = self.slots.find(id).and_then(|slot| slot.tls.as_mut()) else { return };
        let mut plain = std::mem::take(&mut self.tls.plain);
        let heard = tls.session.advance(&mut plain);
        let secured = tls.session.is_open() && std::mem::take(&mut tls.shaking);
        if secured {
            self.setup.counters.handshaken(tls.session.is_resumed());
            self.tls.shaking -= 1;
            self.step(id, Event::Secured);
        }
        self.flush(id);
        if !plain.is_empty() {
            self.step(id, Event::Received(&plain));
        }
        plain.clear();
        self.tls.plain = plain;
        match heard {
            Ok(heard) if heard.finished => self.step(id, Event::PeerFinished),
            Ok(_) => self.settle(id),
            Err(fault) => {
                tracing::debug!(%fault, "TLS");
                self.step(id, Event::TlsBroken);
            }
        }
    }

    /// Seals the head's rest and what follows it of a block, and sends that. Some: what came of it at once.
    pub(super) fn send_sealed(
        &mut self,
        id: OperationId,
        block: Option<BlockSpan>,
    ) -> Option<Event<'static>> {
        let slot = self.slots.find(id)?;
        let (connection, tls) = (&mut slot.connection, slot.tls.as_mut()?);
        let body = block.map_or(&[][..], |span| connection.leased(span));
        let content = (connection.unsent_head(), body);
        let planted = self.setup.tuning.planted;
        let place = &mut self.tls.sealed;
        let sealed = seal(&mut self.ring, slot.socket, &mut tls.session, place, content, planted);
        let count = match sealed {
            Ok(count) => count,
            Err(Cut::Tls(fault)) => {
                tracing::debug!(%fault, "TLS");
                return Some(Event::TlsBroken);
            }
            Err(Cut::Socket(SendFault::PeerLost)) => return Some(Event::PeerLost),
            Err(Cut::Socket(SendFault::Host)) => return Some(Event::SendRefused),
        };
        slot.sending = true;
        if tls.session.outgoing().is_empty() {
            // In the next turn: so much a turn is each connection's share.
            self.soon.push(Completion::Sent { id, outcome: Ok(count) });
            return None;
        }
        tls.promised = Some(count);
        connection.let_go();
        if !slot.polling && !tls.stuck {
            slot.polling = true;
            self.ring.await_writable(id, slot.socket);
        }
        None
    }

    /// Says that no more comes, behind what is on its way.
    pub(super) fn finish_sealed(&mut self, id: OperationId) {
        let Some(tls) = self.slots.find(id).and_then(|slot| slot.tls.as_mut()) else { return };
        tls.session.close();
        tls.finishing = true;
        self.flush(id);
    }

    /// Sends what the socket did not take before, and tells who waits for it.
    pub(super) fn flush(&mut self, id: OperationId) {
        let Some(slot) = self.slots.find(id) else { return };
        let Some(tls) = slot.tls.as_mut() else { return };
        if slot.polling || tls.stuck || slot.closing {
            return self.settle(id);
        }
        let waiting = tls.session.outgoing();
        let sent = if waiting.is_empty() { Ok(0) } else { self.ring.send_now(slot.socket, waiting) };
        let Ok(count) = sent else {
            let lost = sent == Err(SendFault::PeerLost);
            return self.step(id, if lost { Event::PeerLost } else { Event::SendRefused });
        };
        tls.session.left(count);
        if tls.session.outgoing().is_empty() {
            let (promised, finishing) = (tls.promised.take(), std::mem::take(&mut tls.finishing));
            if finishing {
                self.ring.shut_down(slot.socket, Direction::Write);
            }
            return match promised {
                Some(count) => self.sent(id, Ok(count)),
                None => self.settle(id),
            };
        }
        if count > 0 {
            slot.polling = true;
            self.ring.await_writable(id, slot.socket);
            return self.step(id, Event::Progressed);
        }
        tls.stuck = true;
        self.tls.stuck.push(id);
        self.wheel.insert(Alarm { slot: STUCK, at: Now(self.now.0 + STUCK_RETRY_NS) });
        self.settle(id);
    }

    pub(super) fn flush_stuck(&mut self) {
        for id in std::mem::take(&mut self.tls.stuck) {
            if let Some(tls) = self.slots.find(id).and_then(|slot| slot.tls.as_mut()) {
                tls.stuck = false;
                self.flush(id);
            }
        }
    }
}

/// Until all is sealed and sent, or the socket is full; gives how much content was sealed.
fn seal(
    ring: &mut impl Ring,
    socket: Socket,
    session: &mut Session,
    place: &mut [u8],
    (mut head, mut body): (&[u8], &[u8]),
    planted: Planted,
) -> Result<usize, Cut> {
    let mut content = 0;
    while !(head.is_empty() && body.is_empty()) {
        let (of_head, head_left) = head.split_at(head.len().min(CONTENT_BYTES));
        let (of_body, body_left) = body.split_at(body.len().min(CONTENT_BYTES - of_head.len()));
        let mut filled = 0;
        for part in [of_head, of_body].into_iter().filter(|part| !part.is_empty()) {
            filled += session.seal(part, &mut place[filled..]).map_err(Cut::Tls)?;
        }
        (head, body) = (head_left, body_left);
        content += of_head.len() + of_body.len();
        let behind = !session.outgoing().is_empty();
        let sent = if behind { 0 } else { ring.send_now(socket, &place[..filled]).map_err(Cut::Socket)? };
        if sent < filled && planted.has(Plant::SealedRestForgotten) {
            break;
        }
        if sent < filled {
            session.keep_for_later(&place[sent..filled]);
            break;
        }
    }
    Ok(content)
}
