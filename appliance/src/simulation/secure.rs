//! A client's TLS, real (rustls), over the made-up network. Its random bytes are not the seed's, but all its lengths are
//! the same each time: a key of Ed25519 signs with 64 bytes always, and no session is taken up again.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, ServerConfig};

use crate::tls::tests::{client_rules, rules};

pub struct Rules {
    pub server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

pub static TLS: LazyLock<Rules> = LazyLock::new(|| {
    let mut client = ClientConfig::clone(&client_rules(&rustls::version::TLS13));
    client.resumption = Resumption::disabled();
    Rules { server: rules(), client: Arc::new(client) }
});

pub struct Secure {
    connection: ClientConnection,
    /// Sealed, not on its way yet.
    pub unsent: Vec<u8>,
}

impl Secure {
    pub fn new() -> Self {
        let name = "appliance.test".try_into().unwrap();
        let connection = ClientConnection::new(TLS.client.clone(), name).unwrap();
        Self { connection, unsent: Vec::new() }
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// What the handshake says next; once it is over, all of `content`.
    pub fn seal(&mut self, content: &mut Vec<u8>) {
        if !self.connection.is_handshaking() && !content.is_empty() {
            self.connection.writer().write_all(content).unwrap();
            content.clear();
        }
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.unsent).unwrap();
        }
    }

    /// Err: the server broke TLS.
    pub fn open(&mut self, mut sealed: &[u8], content: &mut Vec<u8>) -> Result<(), String> {
        while !sealed.is_empty() {
            self.connection.read_tls(&mut sealed).map_err(|cause| format!("TLS: {cause}"))?;
            self.connection.process_new_packets().map_err(|cause| format!("TLS: {cause}"))?;
            // WouldBlock: there is no more yet.
            let _more = self.connection.reader().read_to_end(content);
        }
        Ok(())
    }
}
