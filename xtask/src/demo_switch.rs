//! The page's stop and start buttons: `POST /stop/{appliance}` and `/start/{appliance}`, answered 204.
//!
//! One connection at a time, one request each, on 127.0.0.1 only. A page of somebody else's that is open in the same
//! browser gets 403: the `Origin` must be ours.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::clock;
use crate::fleet::Fleet;
use crate::stop::Stop;

const HEAD_BYTES_MAX: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// A fleet that the listener and the main thread share.
pub type SharedFleet = Arc<Mutex<Fleet>>;

/// Listens until the flag is raised. Gives its address, and the thread to wait for.
pub fn listen(fleet: SharedFleet, page_port: u16, stop: Stop) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the stop and start buttons")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let thread = thread::spawn(move || {
        // What is started here gets SIGTERM when this thread ends: it ends last.
        while !stop.raised() {
            match listener.accept() {
                // A client that goes away half-way is nobody's failure.
                Ok((stream, _)) => drop(serve(&stream, &fleet, page_port)),
                Err(_) => clock::pause(Duration::from_millis(50)),
            }
        }
    });
    Ok((address, thread))
}

fn serve(stream: &TcpStream, fleet: &SharedFleet, page_port: u16) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(stream)?;
    let (status, text) = answer(&head, page_port, |verb, name| {
        let mut fleet = fleet.lock().unwrap_or_else(PoisonError::into_inner);
        match verb {
            Verb::Stop => fleet.power_off(name),
            Verb::Start => fleet.power_on(name),
        }
    });
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: POST\r\n\
         Access-Control-Allow-Headers: *\r\nContent-Type: text/plain\r\n{}Connection: close\r\n\r\n{text}",
        if status.starts_with("204") { String::new() } else { format!("Content-Length: {}\r\n", text.len()) },
    )?;
    Ok(())
}

fn read_head(mut stream: &TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Stop,
    Start,
}

/// The status line and body to answer with. `act` does what was asked.
fn answer(head: &str, page_port: u16, act: impl FnOnce(Verb, &str) -> Result<()>) -> (&'static str, String) {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let origin =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("origin"));
    let ours = ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{page_port}"));
    if origin.is_some_and(|(_, value)| !ours.iter().any(|known| known == value.trim())) {
        return ("403 Forbidden", "not from this page\n".to_owned());
    }
    let mut parts = path.trim_start_matches('/').split('/');
    let verb = match (method, parts.next()) {
        ("OPTIONS", _) => return ("204 No Content", String::new()),
        ("POST", Some("stop")) => Verb::Stop,
        ("POST", Some("start")) => Verb::Start,
        _ => return ("404 Not Found", "POST /stop/{appliance} or /start/{appliance}\n".to_owned()),
    };
    match act(verb, parts.next().unwrap_or_default()) {
        Ok(()) => ("204 No Content", String::new()),
        Err(cause) => ("404 Not Found", format!("{cause:#}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> (&'static str, Vec<(Verb, String)>) {
        let mut asked = Vec::new();
        let (status, _) = answer(head, 8000, |verb, name| {
            asked.push((verb, name.to_owned()));
            Ok(())
        });
        (status, asked)
    }

    #[test]
    fn the_buttons_of_our_page_stop_and_start() {
        let (code, asked) = status("POST /stop/box-a HTTP/1.1\r\nOrigin: http://127.0.0.1:8000\r\n\r\n");
        assert_eq!((code, asked), ("204 No Content", vec![(Verb::Stop, "box-a".to_owned())]));
        let (code, asked) = status("POST /start/box-b HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((code, asked), ("204 No Content", vec![(Verb::Start, "box-b".to_owned())]));
    }

    #[test]
    fn other_pages_and_other_requests_do_nothing() {
        for head in [
            "POST /stop/box-a HTTP/1.1\r\nOrigin: http://elsewhere.example\r\n\r\n",
            "GET /stop/box-a HTTP/1.1\r\n\r\n",
            "POST /format/box-a HTTP/1.1\r\n\r\n",
            "\0\0\0",
            "",
        ] {
            let (code, asked) = status(head);
            assert!(code.starts_with('4') && asked.is_empty(), "{head:?} got {code}");
        }
    }
}
