//! The agent's socket and the management port against clients that do not behave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use content::control_socket::{LINE_BYTES_MAX, ServerRequest};

use crate::fixture::{Disks, Site, item};

fn site() -> Site {
    let disks = Disks::new();
    disks.write(1, &[item(100, 1)]);
    disks.start("")
}

fn connect(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(site.disks.folder.path().join("server.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn rest(mut stream: UnixStream) -> String {
    let mut said = Vec::new();
    // A close with unread bytes of ours comes as a reset; what was said before is there.
    stream.read_to_end(&mut said).unwrap_or_default();
    String::from_utf8(said).unwrap()
}

#[test]
fn one_connection_may_ask_many_times_and_is_answered_in_order() {
    let site = site();
    let mut stream = connect(&site);
    let ask = |on: bool| serde_json::to_string(&ServerRequest::Drain { on }).unwrap() + "\n";
    stream.write_all(format!("{}{}nonsense\n{}", ask(true), ask(false), ask(true)).as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let said = rest(stream);
    let lines: Vec<&str> = said.lines().collect();
    let marks = ["\"draining\":true", "\"draining\":false", "refused", "\"draining\":true"];
    assert_eq!(lines.len(), marks.len(), "{said}");
    assert!(lines.iter().zip(marks).all(|(line, mark)| line.contains(mark)), "{said}");
    site.server.stop();
}

#[test]
fn a_line_that_does_not_end_is_refused_at_its_limit() {
    let site = site();
    let mut stream = connect(&site);
    // The server may close before all of it was taken.
    stream.write_all(&vec![b' '; LINE_BYTES_MAX + 10]).unwrap_or_default();
    let said = rest(stream);
    assert!(said.is_empty() || said.contains("refused"), "{said}");
    assert_eq!(site.tell(&ServerRequest::Status).unwrap().generation, 1);
    site.server.stop();
}

#[test]
fn connections_beyond_the_bound_are_told_so_and_the_others_go_on() {
    let site = site();
    let ask = serde_json::to_string(&ServerRequest::Status).unwrap() + "\n";
    let mut answered = |stream: &UnixStream| {
        // One that was turned away may be closed before it asks.
        (&*stream).write_all(ask.as_bytes()).unwrap_or_default();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap_or_default();
        line.contains("\"status\"")
    };
    let mut held: Vec<UnixStream> = (0..20).map(|_| connect(&site)).collect();
    held.retain(&mut answered);
    // The one that told the token keys may not be gone yet.
    assert!((7..=8).contains(&held.len()), "{} connections were served", held.len());
    assert!(held.iter().all(answered));
    site.server.stop();
}

#[test]
fn wrong_token_keys_are_refused_and_good_ones_outlive_a_restart() {
    let site = site();
    let wrong = site.tell_line("{\"ask\":\"token_keys\",\"keys\":[{\"key_id\":\"k\",\"x\":\"AAAA\"}]}");
    assert!(wrong.contains("refused"), "{wrong}");
    let one = item(100, 1);
    assert_eq!(site.wire().get(&site.target(&one), "").content, one.bytes);
    let again = site.restart();
    assert_eq!(again.wire().get(&again.target(&one), "").content, one.bytes);
    again.server.stop();
}

#[test]
fn the_management_port_bears_what_is_no_http() {
    let site = site();
    for request in
        ["\0\u{1}\u{2}\r\n\r\n".to_owned(), format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000))]
    {
        let mut stream = TcpStream::connect(site.server.management).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap_or_default();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap_or_default();
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&said));
    }
    assert_eq!(site.manage("GET", "/health").status, 200);
    site.server.stop();
}
