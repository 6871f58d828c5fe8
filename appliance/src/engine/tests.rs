//! The core on real rings, real sockets and real files: what the fake kernel cannot show.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use content::volume::{FILES_FOLDER, file_name};
use tempfile::TempDir;

use super::*;
use crate::ring::Way;
use crate::simulation::site::{Site, SiteObject};
use crate::sys;
use crate::tuning::{Plant, Planted};

const BLOCK: usize = 2 * 1024 * 1024;

struct Box {
    site: Site,
    folders: Vec<TempDir>,
    engine: Engine,
    address: SocketAddr,
    counters: Vec<Arc<WorkerCounters>>,
    holdings: Arc<Holdings>,
}

/// How it is started, where a test has a say.
struct How {
    way: Way,
    memory_bytes: u64,
    planted: Planted,
}

impl Default for How {
    fn default() -> Self {
        Self { way: Way::Sendfile, memory_bytes: 16 * 1024 * 1024, planted: Planted::default() }
    }
}

fn start(limits: Limits, damage: impl Fn(&Site, &[TempDir])) -> Box {
    start_so(How::default(), limits, damage)
}

fn start_so(how: How, limits: Limits, damage: impl Fn(&Site, &[TempDir])) -> Box {
    let site = Site::new(2, &[1, 5 * BLOCK + 12_345, 70_000, BLOCK]);
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    for (index, folder) in (0u16..).zip(&folders) {
        site.write_volume(VolumeIndex(index), folder.path());
    }
    damage(&site, &folders);
    let first = sys::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let listeners = vec![first, sys::listen(address).unwrap()];
    let counters: Vec<_> = (0..2).map(|_| Arc::new(WorkerCounters::default())).collect();
    let holdings = site.holdings();
    let setup = EngineSetup {
        secure: None,
        proxy_from: Vec::new(),
        listeners,
        workers: counters.clone(),
        volumes: folders.iter().map(|folder| (folder.path().to_owned(), Arc::default())).collect(),
        memory_bytes: how.memory_bytes,
        limits,
        holdings: holdings.clone(),
        way: WaySetup::Known(Chosen { way: how.way, why: "a test says so".to_owned(), cost: None }),
        tuning: Tuning { planted: how.planted, ..Tuning::default() },
    };
    let engine = Engine::start(setup).unwrap();
    Box { site, folders, engine, address, counters, holdings }
}

fn connect(of: &Box) -> TcpStream {
    let stream = TcpStream::connect(of.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, object: &SiteObject, range: Option<(usize, usize)>) {
    let range = range.map_or_else(String::new, |(first, last)| format!("Range: bytes={first}-{last}\r\n"));
    write!(stream, "GET {} HTTP/1.1\r\nHost: x\r\n{range}\r\n", object.target).unwrap();
}

fn answer(stream: &mut TcpStream) -> (u16, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.to_ascii_lowercase();
    let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status, body)
}

/// Does not print megabytes when it fails.
fn expect(stream: &mut TcpStream, status: u16, body: &[u8]) {
    let (got, bytes) = answer(stream);
    assert_eq!(got, status);
    assert!(bytes == body, "{} bytes are not the {} expected", bytes.len(), body.len());
}

#[test]
fn whole_objects_and_ranges_arrive_as_they_are_on_the_volumes_by_each_way_out() {
    Way::ALL.into_iter().for_each(whole_objects_and_ranges_arrive);
}

fn whole_objects_and_ranges_arrive(way: Way) {
    let of = start_so(How { way, ..How::default() }, Limits::default(), |_, _| {});
    let mut stream = connect(&of);
    for _ in 0..2 {
        for object in &of.site.objects {
            ask(&mut stream, object, None);
            expect(&mut stream, 200, of.site.object_bytes(object));
        }
    }
    let large = &of.site.objects[1];
    for (first, last) in
        [(0, 0), (BLOCK - 1, BLOCK), (BLOCK + 77, 4 * BLOCK + 3), (large.bytes - 5, large.bytes - 1)]
    {
        ask(&mut stream, large, Some((first, last)));
        expect(&mut stream, 206, &of.site.object_bytes(large)[first..=last]);
    }
    of.engine.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order_and_many_connections_at_once() {
    let of = start(Limits::default(), |_, _| {});
    std::thread::scope(|scope| {
        for start in 0..8 {
            let of = &of;
            scope.spawn(move || {
                let mut stream = connect(of);
                let objects: Vec<_> = of.site.objects.iter().cycle().skip(start).take(12).collect();
                objects.iter().for_each(|object| ask(&mut stream, object, None));
                for object in objects {
                    expect(&mut stream, 200, of.site.object_bytes(object));
                }
            });
        }
    });
    let sum = |figure: fn(&WorkerCounters) -> &std::sync::atomic::AtomicU64| -> u64 {
        of.counters.iter().map(|counters| figure(counters).load(Ordering::Relaxed)).sum()
    };
    assert!(sum(|counters| &counters.memory_hits) > 0);
    assert_eq!(sum(|counters| &counters.accepted), 8);
    let counters = of.counters.clone();
    of.engine.stop();
    assert_eq!(counters.iter().map(|counters| counters.connections.load(Ordering::Relaxed)).sum::<u64>(), 0);
}

#[test]
fn a_damaged_block_is_never_sent_and_its_file_is_withdrawn() {
    let of = start(Limits::default(), |site, folders| {
        let object = &site.objects[1];
        let path =
            folders[usize::from(object.volume)].path().join(FILES_FOLDER).join(file_name(object.number));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(path, bytes).unwrap();
    });
    let mut stream = connect(&of);
    let object = &of.site.objects[1];
    ask(&mut stream, object, None);
    assert_eq!(answer(&mut stream).0, 503);
    assert_eq!(of.holdings.withdrawn().len(), 1);
    // The others are served on, over the same connection.
    ask(&mut stream, &of.site.objects[3], None);
    assert_eq!(answer(&mut stream).0, 200);
    of.engine.stop();
}

#[test]
fn a_missing_file_is_withdrawn_and_a_missing_volume_withdraws_nothing() {
    let of = start(Limits::default(), |site, folders| {
        let object = &site.objects[1];
        let path =
            folders[usize::from(object.volume)].path().join(FILES_FOLDER).join(file_name(object.number));
        std::fs::remove_file(path).unwrap();
    });
    let mut stream = connect(&of);
    ask(&mut stream, &of.site.objects[1], None);
    assert_eq!(answer(&mut stream).0, 503);
    assert_eq!(of.holdings.withdrawn().len(), 1);
    std::fs::remove_dir_all(of.folders[0].path()).unwrap();
    ask(&mut stream, &of.site.objects[2], None);
    assert_eq!(answer(&mut stream).0, 503);
    assert_eq!(of.holdings.withdrawn().len(), 1);
    of.engine.stop();
}

#[test]
fn a_connection_too_many_is_told_so() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let of = start(limits, |_, _| {});
    let mut streams: Vec<_> = (0..3).map(|_| connect(&of)).collect();
    let statuses: Vec<_> = streams
        .iter_mut()
        .map(|stream| {
            ask(stream, &of.site.objects[0], None);
            answer(stream).0
        })
        .collect();
    // One per worker at most, and there are two.
    assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    of.engine.stop();
}

#[test]
fn draining_closes_an_idle_connection() {
    let of = start(Limits::default(), |_, _| {});
    let mut stream = connect(&of);
    ask(&mut stream, &of.site.objects[0], None);
    assert_eq!(answer(&mut stream).0, 200);
    of.holdings.set_draining(true);
    of.engine.wake();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    of.engine.stop();
}

/// Until the figure is above `least` and does not grow any more.
#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for other threads to have done nothing, with a limit"
)]
fn wait_until_quiet(figure: &impl Fn() -> u64, least: u64) {
    let mut before = 0;
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(20));
        if figure() > least && figure() == before {
            return;
        }
        before = figure();
    }
    panic!("it goes on, or does not begin: {before}");
}

/// Whether a client that reads only after its block was given away gets the bytes that it asked for.
fn a_late_reader_gets_what_it_asked_for(way: Way, planted: Planted) -> bool {
    // Four blocks of memory, and nine on the volumes.
    let how = How { way, memory_bytes: 4 * 2 * 1024 * 1024, planted };
    let of = start_so(how, Limits::default(), |_, _| {});
    let late = &of.site.objects[3];
    let mut stream = connect(&of);
    ask(&mut stream, late, None);
    let sent = || -> u64 { of.counters.iter().map(|of| of.body_bytes.load(Ordering::Relaxed)).sum() };
    // More than what goes with the head, copied; and no more comes: all has left, or the client's side is full. Nothing is
    // read yet, so most of it is in queues.
    let copied = u64::try_from(Tuning::default().first_piece_bytes).unwrap();
    wait_until_quiet(&sent, copied);
    // All others, one after the other, take every block there is, twice.
    let mut other = connect(&of);
    for _ in 0..2 {
        for object in of.site.objects.iter().filter(|object| object.number != late.number) {
            ask(&mut other, object, None);
            expect(&mut other, 200, of.site.object_bytes(object));
        }
    }
    let (status, bytes) = answer(&mut stream);
    assert_eq!((status, bytes.len()), (200, late.bytes));
    let right = bytes == of.site.object_bytes(late);
    of.engine.stop();
    right
}

#[test]
fn a_late_reader_shows_that_what_was_lent_must_be_detached() {
    for way in Way::ALL {
        assert!(a_late_reader_gets_what_it_asked_for(way, Planted::default()), "{way:?}, detached");
    }
    // Taken out: what sendfile and SEND_ZC have queued is overwritten, what SEND has copied is not.
    for (way, right) in [(Way::Sendfile, false), (Way::SendZeroCopy, false), (Way::Send, true)] {
        let planted = Planted::of(Plant::DetachSkipped);
        assert_eq!(a_late_reader_gets_what_it_asked_for(way, planted), right, "{way:?}, not detached");
    }
}
