//! TLS 1.2 and 1.3 by rustls, without a socket: bytes in, bytes out (DESIGN §4). Not the worker's business: when bytes are
//! sent (see `worker::sealed`), and where certificates come from (see [`certificates`]).
//!
//! ```text
//! socket ─received─► Session::receive ─plain─► Connection
//! socket ◄─outgoing─ Session::seal    ◄─head, block─┘
//! ```

pub mod certificates;
#[cfg(test)]
pub mod tests;

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{HandshakeKind, ServerConfig};

/// What a record may be longer than its content: header (5), and what its cipher adds (TLS 1.2 with AES-GCM: an explicit
/// nonce of 8 and a tag of 16; TLS 1.3: a content type of 1 and a tag of 16).
const RECORD_OVERHEAD_BYTES: usize = 5 + 8 + 16;
/// RFC 8446 5.1: at most this much content in a record.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What may have to leave before content does: a KeyUpdate, an alert, tickets.
const MESSAGES_BYTES_MAX: usize = 8 * 1024;

/// How long the ciphertext of so much content is at most, with what may have to leave before it.
pub const fn sealed_bytes_max(content: usize) -> usize {
    content + (content / RECORD_BYTES_MAX + 1) * RECORD_OVERHEAD_BYTES + MESSAGES_BYTES_MAX
}

/// One connection's TLS.
pub struct Session {
    inner: UnbufferedServerConnection,
    /// Received and not understood yet: the beginning of a record or of a handshake message.
    incoming: Vec<u8>,
    /// Ciphertext that the socket has not taken yet.
    outgoing: Vec<u8>,
    outgoing_sent: usize,
    open: bool,
    /// A fault was told: rustls must not be asked anything more.
    broken: bool,
}

/// What was learnt from received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The client will send no more (close_notify).
    pub finished: bool,
}

/// The peer broke the protocol, or speaks another. Whatever it is to be told is in [`Session::outgoing`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(#[from] rustls::Error);

impl Session {
    pub fn new(config: &Arc<ServerConfig>) -> Result<Self, Fault> {
        let inner = UnbufferedServerConnection::new(Arc::clone(config))?;
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        Ok(Self { inner, incoming, outgoing, outgoing_sent: 0, open: false, broken: false })
    }

    /// Whether the handshake took up an earlier session; once it is open.
    pub fn is_resumed(&self) -> bool {
        self.inner.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The handshake is over: content may go both ways.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Received; [`Self::advance`] looks at it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// Understands what was pushed. Content is appended to `plain`.
    pub fn advance(&mut self, plain: &mut Vec<u8>) -> Result<Heard, Fault> {
        let mut heard = Heard::default();
        while !self.broken {
            let UnbufferedStatus { mut discard, state, .. } =
                self.inner.process_tls_records(&mut self.incoming);
            let done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    let encoded = append(&mut self.outgoing, |place| message.encode(place));
                    encoded.expect("a message is encoded once, and is one record");
                    false
                }
                Ok(ConnectionState::TransmitTlsData(message)) => {
                    message.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    heard.finished = true;
                    false
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.open = true;
                    true
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => true,
                // No early data is ever asked for.
                Ok(_) => true,
                Err(error) => {
                    self.incoming.drain(..discard);
                    self.take_alert();
                    return Err(Fault(error));
                }
            };
            self.incoming.drain(..discard);
            if done {
                return Ok(heard);
            }
        }
        Err(Fault(rustls::Error::General("it was broken before".to_owned())))
    }

    /// What rustls has to say to the peer about its fault. It may be asked once more, no oftener: it would find the fault
    /// again.
    fn take_alert(&mut self) {
        self.broken = true;
        let UnbufferedStatus { state, .. } = self.inner.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::EncodeTlsData(mut message)) = state {
            let encoded = append(&mut self.outgoing, |place| message.encode(place));
            encoded.expect("a message is encoded once, and is one record");
        }
    }

    /// Writes the ciphertext of `content` to `place`, of [`sealed_bytes_max`] bytes; gives how much it is. Only when open.
    pub fn seal(&mut self, content: &[u8], place: &mut [u8]) -> Result<usize, Fault> {
        let mut filled = 0;
        while !self.broken {
            let UnbufferedStatus { discard, state, .. } = self.inner.process_tls_records(&mut self.incoming);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.broken = true;
                    return Err(Fault(error));
                }
            };
            let done = match state {
                // Before the content, in this order: it may be a KeyUpdate.
                ConnectionState::EncodeTlsData(mut message) => {
                    filled += message.encode(&mut place[filled..]).map_err(refused)?;
                    false
                }
                ConnectionState::TransmitTlsData(message) => {
                    message.done();
                    false
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    let sealed = traffic.encrypt(content, &mut place[filled..]);
                    filled += sealed.map_err(exhausted)?;
                    true
                }
                _ => return Err(Fault(rustls::Error::HandshakeNotComplete)),
            };
            self.incoming.drain(..discard);
            if done {
                return Ok(filled);
            }
        }
        Err(Fault(rustls::Error::General("it was broken before".to_owned())))
    }

    /// Says to the client that no more comes.
    pub fn close(&mut self) {
        if self.broken {
            return;
        }
        let UnbufferedStatus { state, .. } = self.inner.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            // An error says that no more may be sealed under this key: then the end goes unsaid.
            append(&mut self.outgoing, |place| traffic.queue_close_notify(place)).unwrap_or_default();
        }
    }

    /// What is to leave, in this order and before anything that is sealed later.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.outgoing_sent..]
    }

    /// Behind all that waits already.
    pub fn keep_for_later(&mut self, sealed: &[u8]) {
        self.outgoing.extend_from_slice(sealed);
    }

    /// So much of [`Self::outgoing`] has left.
    pub fn left(&mut self, count: usize) {
        self.outgoing_sent += count;
        if self.outgoing_sent == self.outgoing.len() {
            // Idle connections keep no memory for it.
            (self.outgoing, self.outgoing_sent) = (Vec::new(), 0);
        }
    }
}

/// Appends what `encode` writes: a record at most.
fn append<E>(outgoing: &mut Vec<u8>, encode: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
    let start = outgoing.len();
    outgoing.resize(start + RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES, 0);
    let written = encode(&mut outgoing[start..]);
    outgoing.truncate(start + *written.as_ref().unwrap_or(&0));
    written.map(|_| ())
}

fn refused(_: EncodeError) -> Fault {
    Fault(rustls::Error::General("no room for a message".to_owned()))
}

fn exhausted(_: EncryptError) -> Fault {
    Fault(rustls::Error::EncryptError)
}
