//! The toll gate: all that the agents ask of the control plane passes here, counted, unchanged but for one number.
//!
//! It hands out an object's bytes one piece at a time, the next one when the one before is in the agent's file (or after
//! [`PIECE_WAIT`], whichever comes first). So what is in nobody's hands at a kill (in sockets, in buffers) is one piece at the most, and
//! the promise "at most one piece twice" can be held to the byte. It also makes a download last long enough to be hit.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use content::checksum::PIECE_BYTES;
use content::id::ObjectId;
use xtask::clock;

use crate::ledger::Ledger;

const HEAD_BYTES_MAX: usize = 1 << 16;
const CONNECT: Duration = Duration::from_secs(2);
/// A connection that nobody uses for so long is of no use.
const IDLE: Duration = Duration::from_secs(20);
const PIECE_WAIT: Duration = Duration::from_secs(10);
/// Before each piece: a download lasts long enough to be hit in its middle.
const PACE: Duration = Duration::from_millis(8);
const LOOK_EVERY: Duration = Duration::from_micros(500);

pub struct Toll {
    pub address: SocketAddr,
}

struct Gate {
    control: SocketAddr,
    ledger: Ledger,
    /// Folders of the volumes of a box by its name.
    volumes: Vec<(String, Vec<PathBuf>)>,
}

impl Toll {
    /// Works until the process ends.
    pub fn open(control: SocketAddr, ledger: Ledger, volumes: Vec<(String, Vec<PathBuf>)>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let gate = Arc::new(Gate { control, ledger, volumes });
        std::thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let gate = Arc::clone(&gate);
                // A connection's end is both sides' end; why does not matter here.
                std::thread::spawn(move || gate.pass(agent).unwrap_or_default());
            }
        });
        Ok(Self { address })
    }
}

impl Gate {
    fn pass(&self, agent: TcpStream) -> io::Result<()> {
        let control = TcpStream::connect_timeout(&self.control, CONNECT)?;
        for stream in [&agent, &control] {
            stream.set_read_timeout(Some(IDLE))?;
            stream.set_write_timeout(Some(IDLE))?;
            stream.set_nodelay(true)?;
        }
        let (mut agent, mut control) = (Side::new(agent), Side::new(control));
        while let Some(request) = agent.head()? {
            control.stream.write_all(request.text.as_bytes())?;
            control.stream.write_all(&agent.body(request.length)?)?;
            let Some(answer) = control.head()? else { return Ok(()) };
            agent.stream.write_all(answer.text.as_bytes())?;
            match Pull::of(&request, &answer) {
                Some(pull) => self.hand_out(&pull, answer.length, &mut control, &mut agent)?,
                None => {
                    let body = control.body(answer.length)?;
                    agent.stream.write_all(&sooner(body))?;
                }
            }
        }
        Ok(())
    }

    fn hand_out(&self, pull: &Pull, length: u64, from: &mut Side, to: &mut Side) -> io::Result<()> {
        let (name, object) = (&pull.name, pull.object);
        let ended = || Err(io::ErrorKind::ConnectionReset.into());
        if pull.is_tree {
            let tree = from.body(length)?;
            if self.ledger.tree_sent(name, object, || is_gone(&to.stream)) {
                return ended();
            }
            return to.stream.write_all(&tree);
        }
        if self.ledger.range_asked(name, object, pull.first, || is_gone(&to.stream)) {
            return ended();
        }
        let mut done = 0;
        while done < length {
            let piece = from.body((length - done).min(PIECE_BYTES))?;
            let count = u64::try_from(piece.len()).unwrap_or(0);
            clock::pause(PACE);
            if self.ledger.sent(name, object, count, || is_gone(&to.stream)) {
                return ended();
            }
            to.stream.write_all(&piece)?;
            if done + count < length {
                self.wait_until_written(pull, &piece, pull.first + done, &to.stream)?;
            }
            done += count;
        }
        Ok(())
    }

    /// An agent that was killed takes nothing more, even if the next one of its name has written this piece.
    fn wait_until_written(
        &self,
        pull: &Pull,
        piece: &[u8],
        offset: u64,
        agent: &TcpStream,
    ) -> io::Result<()> {
        let start = clock::now();
        let mut file = None;
        let mut written = vec![0; piece.len()];
        while start.elapsed() < PIECE_WAIT {
            file = file.or_else(|| self.part_of(pull));
            let there =
                file.as_ref().is_some_and(|file: &File| file.read_exact_at(&mut written, offset).is_ok());
            if is_gone(agent) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if there && written == piece {
                break;
            }
            clock::pause(LOOK_EVERY);
        }
        Ok(())
    }

    /// The unfinished file of the object on any volume of the box.
    fn part_of(&self, pull: &Pull) -> Option<File> {
        let (_, volumes) = self.volumes.iter().find(|(name, _)| *name == pull.name)?;
        let part = volumes.iter().find_map(|volume| part_of(volume, &pull.object))?;
        File::open(part).ok()
    }
}

/// Nothing is expected from this side while it is answered but its end.
fn is_gone(stream: &TcpStream) -> bool {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    !matches!(peek(), Err(cause) if cause.kind() == io::ErrorKind::WouldBlock)
}

/// By the resume record that names the object.
fn part_of(volume: &Path, object: &ObjectId) -> Option<PathBuf> {
    let name = object.to_string();
    let entries = std::fs::read_dir(volume.join(content::volume::INCOMING_FOLDER)).ok()?;
    let mut records = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        path.extension().is_some_and(|extension| extension == "json")
            && std::fs::read_to_string(path).is_ok_and(|text| text.contains(&name))
    });
    records.next().map(|record| record.with_extension("part"))
}

/// Asks the agents to report, and so to look around, ten times as often as the control plane would have them: a point
/// then takes a tenth of the time. As long as before, or the length would be wrong.
fn sooner(body: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(body) {
        Ok(text) => text.replace("\"report_every_ms\":2000", "\"report_every_ms\": 200").into_bytes(),
        Err(cause) => cause.into_bytes(),
    }
}

/// A request for an object's bytes or its tree that was answered with them.
struct Pull {
    name: String,
    object: ObjectId,
    first: u64,
    is_tree: bool,
}

impl Pull {
    fn of(request: &Head, answer: &Head) -> Option<Self> {
        let target = request.text.split(' ').nth(1)?;
        let (digest, extension) = target.strip_prefix("/v1/origin/objects/")?.get(3..)?.split_once('.')?;
        if !matches!(answer.text.get(9..12), Some("200" | "206")) {
            return None;
        }
        // `Bearer <appliance>.<end>.<mac>`: the control plane's key says whose it is.
        let name = request.header("authorization")?.strip_prefix("Bearer ")?.split('.').next()?;
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let first = range.and_then(|(first, _)| first.parse().ok()).unwrap_or(0);
        Some(Self {
            name: name.to_owned(),
            object: digest.parse().ok()?,
            first,
            is_tree: extension == "obao",
        })
    }
}

/// One end of a connection that is passed on.
struct Side {
    stream: TcpStream,
    ahead: Vec<u8>,
}

struct Head {
    /// With the empty line at its end.
    text: String,
    length: u64,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.text.split("\r\n").skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Side {
    fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// None: it ended between two messages.
    fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.ahead[..at + 4]).into_owned();
                self.ahead.drain(..at + 4);
                let mut head = Head { text, length: 0 };
                let bodiless = matches!(head.text.get(9..12), Some("204" | "304"));
                let length = head.header("content-length").and_then(|text| text.parse().ok());
                head.length = length.filter(|_| !bodiless).unwrap_or(0);
                return Ok(Some(head));
            }
            if self.ahead.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("a head without an end"));
            }
            if self.read_more()? == 0 {
                return Ok(None);
            }
        }
    }

    fn body(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        while self.ahead.len() < length {
            if self.read_more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 1 << 16];
        let count = self.stream.read(&mut buffer)?;
        self.ahead.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}
