//! The load generator's loop: what is due is asked for, what has come is counted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use xtask::clock;

use super::connection::{Connection, Exchange, Progress};
use super::histogram::Histogram;
use super::schedule::{Arrivals, Order};
use super::{Group, GroupOutcome, Outcome, Spec};
use crate::proc;

const EVENTS_MAX: usize = 256;
/// One receive drops at most this much of a body.
const SINK_BYTES: usize = 4 << 20;
/// How long what is in flight at the window's end may take; what takes longer counts as so long.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Arrivals that wait for a free connection; at more, the server is not at 70 % but far below the rate.
const BACKLOG_MAX: usize = 1_000_000;
/// Sleeping is a matter of whole milliseconds: nearer than this the loop does not sleep.
const SLEEP_MIN: Duration = Duration::from_millis(2);

pub fn run(spec: &Spec) -> Result<Outcome> {
    ensure!(spec.server.ip().is_loopback(), "{} is not this machine", spec.server);
    let mut engine = Engine::new(spec)?;
    engine.run(spec)
}

struct Engine {
    server: SocketAddr,
    epoll: Epoll,
    connections: Vec<Connection>,
    groups: Vec<Running>,
    sink: Vec<u8>,
    window: Window,
    spin: bool,
}

/// Instants of the run. `end` comes sooner when a group runs out.
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    fn has(&self, moment: Instant) -> bool {
        self.begin <= moment && moment < self.end
    }
}

/// What the kernel had counted at one edge of the window.
struct Meters {
    server_cpu_s: f64,
    server_read_bytes: u64,
    client_cpu_s: f64,
}

impl Meters {
    fn read(servers: &[u32]) -> Result<Self> {
        let server_read_bytes = proc::read_bytes(servers)?;
        let client_cpu_s = proc::cpu_s(&[std::process::id()])?;
        Ok(Self { server_cpu_s: proc::cpu_s(servers)?, server_read_bytes, client_cpu_s })
    }
}

struct Running {
    group: Group,
    order: Order,
    /// By target: the request up to the range.
    starts: Vec<Vec<u8>>,
    pieces_per_target: u64,
    arrivals: Option<Arrivals>,
    /// Arrived and not sent.
    backlog: VecDeque<Instant>,
    /// Connections without a request; who has waited longest comes next, so that an open loop uses them all.
    idle: VecDeque<usize>,
    requests: u64,
    bytes: u64,
    times: Histogram,
    ran_out: bool,
}

impl Engine {
    fn new(spec: &Spec) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut connections = Vec::new();
        let mut groups = Vec::new();
        for (index, group) in spec.groups.iter().enumerate() {
            let mut running = Running::new(group, spec.seed.wrapping_add(u64::try_from(index)?))?;
            for _ in 0..group.connections {
                running.idle.push_back(connections.len());
                let connection = Connection::open(spec.server, index)?;
                epoll.add(&connection.stream, readable(connections.len()))?;
                connections.push(connection);
            }
            groups.push(running);
        }
        let start = clock::now();
        for running in &mut groups {
            running.arrivals = running.group.rate.map(|rate| Arrivals::new(start, rate));
        }
        let begin = start + Duration::from_millis(spec.ramp_ms);
        let window = Window { begin, end: begin + Duration::from_millis(spec.window_ms) };
        let sink = vec![0; SINK_BYTES];
        Ok(Self { server: spec.server, epoll, connections, groups, sink, window, spin: spec.spin })
    }

    fn run(&mut self, spec: &Spec) -> Result<Outcome> {
        while clock::now() < self.window.begin {
            self.turn(true)?;
        }
        ensure!(!self.groups.iter().any(|group| group.ran_out), "everything was asked for in the ramp");
        let before = Meters::read(&spec.watch)?;
        let begin = clock::now();
        self.window = Window { begin, end: begin + Duration::from_millis(spec.window_ms) };
        self.groups.iter_mut().for_each(Running::forget);
        while clock::now() < self.window.end {
            self.turn(true)?;
        }
        self.window.end = clock::now();
        let after = Meters::read(&spec.watch)?;
        let counted: Vec<_> = self.groups.iter().map(|group| (group.requests, group.bytes)).collect();
        self.drain()?;
        let seconds = self.window.end.duration_since(self.window.begin).as_secs_f64();
        let groups =
            self.groups.iter().zip(counted).map(|(group, (requests, bytes))| group.outcome(requests, bytes));
        Ok(Outcome {
            seconds,
            server_cpu_s: after.server_cpu_s - before.server_cpu_s,
            server_read_bytes: after.server_read_bytes - before.server_read_bytes,
            client_cpu_s: after.client_cpu_s - before.client_cpu_s,
            groups: groups.collect(),
        })
    }

    /// Until nothing of the window is under way. What then still is counts with the time that it has taken.
    fn drain(&mut self) -> Result<()> {
        let limit = self.window.end + DRAIN_MAX;
        while clock::now() < limit && self.late().next().is_some() {
            self.turn(false)?;
        }
        let now = clock::now();
        for (group, intended) in self.late().collect::<Vec<_>>() {
            self.groups[group].times.record(now.duration_since(intended));
        }
        Ok(())
    }

    /// Requests of the window that have not ended: group and intended time.
    fn late(&self) -> impl Iterator<Item = (usize, Instant)> {
        let under_way =
            self.connections.iter().filter_map(|one| Some((one.group, one.under_way()?.intended)));
        let waiting = self.groups.iter().enumerate();
        let waiting =
            waiting.flat_map(|(index, group)| group.backlog.iter().map(move |intended| (index, *intended)));
        under_way.chain(waiting).filter(|(_, intended)| self.window.has(*intended))
    }

    /// `fresh`: new requests may begin; otherwise only those that have arrived.
    fn turn(&mut self, fresh: bool) -> Result<()> {
        let mut due = None;
        for index in 0..self.groups.len() {
            due = earliest(due, self.send_due(index, fresh)?);
        }
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, self.patience(due)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(cause) => return Err(cause).context("waiting for answers"),
        };
        for event in &events[..count] {
            let index = usize::try_from(event.data())?;
            let progress = self.connections[index].receive(self.server, &mut self.sink)?;
            if progress.reopened {
                self.epoll.add(&self.connections[index].stream, readable(index))?;
            }
            self.count(index, &progress);
        }
        Ok(())
    }

    fn count(&mut self, index: usize, progress: &Progress) {
        let group = &mut self.groups[self.connections[index].group];
        group.bytes += progress.body_bytes;
        if let Some(exchange) = progress.done {
            group.requests += 1;
            if self.window.has(exchange.intended) {
                group.times.record(clock::now().duration_since(exchange.intended));
            }
            group.idle.push_back(index);
        }
    }

    /// Gives free connections what is due. Returns when the next request is, if that is known.
    fn send_due(&mut self, index: usize, fresh: bool) -> Result<Option<Instant>> {
        let now = clock::now();
        let group = &mut self.groups[index];
        if fresh {
            group.take_arrivals(now)?;
        }
        while let Some(connection) = group.idle.pop_front() {
            let intended = match (&group.arrivals, fresh) {
                (Some(_), _) => group.backlog.pop_front(),
                (None, fresh) => fresh.then_some(now),
            };
            let request = intended.and_then(|intended| Some((intended, group.next_request()?)));
            let Some((intended, request)) = request else {
                group.idle.push_front(connection);
                break;
            };
            let exchange = Exchange { intended, body_bytes: group.group.request_bytes };
            self.connections[connection].ask(request, exchange)?;
        }
        if group.ran_out && fresh {
            self.window.end = self.window.end.min(now);
        }
        Ok(group.arrivals.as_ref().map(Arrivals::next))
    }

    fn patience(&self, due: Option<Instant>) -> EpollTimeout {
        let edge = earliest(Some(self.window.end), due).unwrap_or(self.window.end);
        let left = edge.saturating_duration_since(clock::now());
        if self.spin || left < SLEEP_MIN {
            return EpollTimeout::ZERO;
        }
        EpollTimeout::from(u8::try_from((left - SLEEP_MIN).as_millis()).unwrap_or(u8::MAX))
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn readable(index: usize) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(index).expect("a 64-bit machine"))
}

impl Running {
    fn new(group: &Group, seed: u64) -> Result<Self> {
        let bytes = group.targets.first().context("a group asks for something")?.bytes;
        ensure!(group.targets.iter().all(|target| target.bytes == bytes), "targets of one size");
        let pieces_per_target = bytes / group.request_bytes;
        let count = pieces_per_target * u64::try_from(group.targets.len())?;
        ensure!(count > 0, "nothing is as large as a request");
        let order = match group.passes {
            Some(passes) => Order::passes(u32::try_from(count)?, passes, seed),
            None => Order::random(count, seed),
        };
        let start = |path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: oca-bench\r\nAccept: */*\r\nRange: bytes="
            )
            .into()
        };
        Ok(Self {
            group: group.clone(),
            order,
            starts: group.targets.iter().map(|target| start(&target.path)).collect(),
            pieces_per_target,
            arrivals: None,
            backlog: VecDeque::new(),
            idle: VecDeque::new(),
            requests: 0,
            bytes: 0,
            times: Histogram::default(),
            ran_out: false,
        })
    }

    /// What came before the window.
    fn forget(&mut self) {
        self.requests = 0;
        self.bytes = 0;
        self.times = Histogram::default();
    }

    fn take_arrivals(&mut self, now: Instant) -> Result<()> {
        let Some(arrivals) = &mut self.arrivals else { return Ok(()) };
        self.backlog.extend(std::iter::from_fn(|| arrivals.take_due(now)));
        if self.backlog.len() > BACKLOG_MAX {
            bail!("{BACKLOG_MAX} requests wait for a connection: the server is far below the rate");
        }
        Ok(())
    }

    /// None: everything was asked for.
    fn next_request(&mut self) -> Option<Vec<u8>> {
        let Some(piece) = self.order.next() else {
            self.ran_out = true;
            return None;
        };
        let target = usize::try_from(piece / self.pieces_per_target).expect("an index of `targets`");
        let first = piece % self.pieces_per_target * self.group.request_bytes;
        let last = first + self.group.request_bytes - 1;
        let mut request = self.starts[target].clone();
        request.extend_from_slice(format!("{first}-{last}\r\n\r\n").as_bytes());
        Some(request)
    }

    fn outcome(&self, requests: u64, bytes: u64) -> GroupOutcome {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        GroupOutcome {
            requests,
            bytes,
            p50_ms: ms(self.times.percentile(500)),
            p99_ms: ms(self.times.percentile(990)),
            p999_ms: ms(self.times.percentile(999)),
            longest_ms: ms(self.times.longest()),
            ran_out: self.ran_out,
        }
    }
}
