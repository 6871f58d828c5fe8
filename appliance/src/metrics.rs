//! What the server counts: one table of names, counters that a worker writes without contention, figures for people
//! and programs.
//!
//! Each worker and each volume has counters of its own; they are added up when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use content::rot::RotPlace;
use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::endings::{Ending, Scope};

/// Buckets of read latency: bucket `i` counts reads of less than 2^(i+1) µs, and the last all slower ones.
pub const LATENCY_BUCKETS: usize = 24;

macro_rules! worker_counters {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)+) => {
        /// The counters of one worker; 128 bytes apart from any other's, so that no two cores share a cache line
        /// (and no pair of lines that the prefetcher takes together).
        #[repr(align(128))]
        #[derive(Debug)]
        pub struct WorkerCounters {
            $(#[doc = $help] pub $field: AtomicU64,)+
            requests: [AtomicU64; Ending::ALL.len()],
            closed: [AtomicU64; Ending::ALL.len()],
        }

        /// Name, kind, help and field of each.
        const WORKER_TABLE: &[(&str, MetricType, &str, Read)] = &[
            $(($name, worker_counters!(@kind $kind), $help, |worker| worker.$field.load(Relaxed)),)+
        ];

        impl Default for WorkerCounters {
            fn default() -> Self {
                Self {
                    $($field: AtomicU64::new(0),)+
                    requests: [const { AtomicU64::new(0) }; Ending::ALL.len()],
                    closed: [const { AtomicU64::new(0) }; Ending::ALL.len()],
                }
            }
        }
    };
    (@kind Counter) => { MetricType::COUNTER };
    (@kind Gauge) => { MetricType::GAUGE };
}

type Read = fn(&WorkerCounters) -> u64;

worker_counters! {
    connections, Gauge, "oca_connections", "Open connections.";
    accepted, Counter, "oca_connections_accepted_total", "Connections accepted.";
    body_bytes, Counter, "oca_body_bytes_total", "Bytes of bodies that were sent.";
    sent_bytes, Counter, "oca_sent_bytes_total", "Bytes sent, heads and bodies.";
    proxied, Counter, "oca_proxied_connections_total", "Connections that a balancer announced with a PROXY header.";
    handshakes, Counter, "oca_tls_handshakes_total", "Handshakes of TLS that ended well.";
    resumptions, Counter, "oca_tls_resumptions_total", "Of these, those that took up an earlier session by its ticket.";
    memory_hits, Counter, "oca_memory_hits_total", "Blocks that were in memory when a request wanted them.";
    memory_misses, Counter, "oca_memory_misses_total", "Blocks that had to be read, or were being read.";
}

impl WorkerCounters {
    pub fn request_ended(&self, ending: Ending) {
        if let Some(count) = self.requests.get(ending.index()) {
            add(count, 1);
        }
    }

    #[cfg(test)]
    pub fn requests_ended(&self, ending: Ending) -> u64 {
        count_of(&self.requests, ending)
    }

    #[cfg(test)]
    pub fn connections_closed(&self, ending: Ending) -> u64 {
        count_of(&self.closed, ending)
    }

    pub fn connection_opened(&self) {
        add(&self.accepted, 1);
        add(&self.connections, 1);
    }

    /// Of a connection that was opened.
    pub fn connection_ended(&self, ending: Ending) {
        self.connections.fetch_sub(1, Relaxed);
        if let Some(count) = self.closed.get(ending.index()) {
            add(count, 1);
        }
    }

    /// `bytes` left, `body` of them of bodies.
    pub fn sent(&self, bytes: u64, body: u64) {
        add(&self.sent_bytes, bytes);
        add(&self.body_bytes, body);
    }

    pub fn proxied(&self) {
        add(&self.proxied, 1);
    }

    pub fn handshaken(&self, resumed: bool) {
        add(&self.handshakes, 1);
        add(&self.resumptions, u64::from(resumed));
    }

    pub fn memory_hit(&self) {
        add(&self.memory_hits, 1);
    }

    pub fn memory_miss(&self) {
        add(&self.memory_misses, 1);
    }
}

/// The counters of one volume, written by its disk thread.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct VolumeCounters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    read_errors: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
    latency_us: AtomicU64,
}

impl VolumeCounters {
    pub fn read_done(&self, bytes: u64, latency_us: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, bytes);
        add(&self.latency_us, latency_us);
        if let Some(bucket) = self.latency.get(latency_bucket(latency_us)) {
            add(bucket, 1);
        }
    }

    /// A read that the kernel failed, or whose bytes did not match their checksum.
    pub fn read_failed(&self) {
        add(&self.read_errors, 1);
    }
}

fn latency_bucket(latency_us: u64) -> usize {
    let octave = latency_us.max(1).ilog2();
    usize::try_from(octave).map_or(LATENCY_BUCKETS - 1, |octave| octave.min(LATENCY_BUCKETS - 1))
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

/// All counters of the server.
#[derive(Debug, Default)]
pub struct Metrics {
    pub workers: Vec<Arc<WorkerCounters>>,
    pub volumes: Vec<Arc<VolumeCounters>>,
}

/// Sums over all workers, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub connections: u64,
    pub requests: u64,
    pub body_bytes: u64,
    pub sent_bytes: u64,
    pub memory_hits: u64,
    pub memory_misses: u64,
}

/// One volume's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeTotals {
    pub reads: u64,
    pub read_bytes: u64,
    pub read_errors: u64,
    pub latency: [u64; LATENCY_BUCKETS],
    pub latency_us: u64,
}

/// What is not counted but so: see `holdings`.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub uptime_ms: u64,
    pub generation: u64,
    pub oldest_in_use: u64,
    pub draining: bool,
    pub token_keys: u64,
    pub withdrawn: u64,
    /// By volume: the label and whether it is usable.
    pub volumes: Vec<(String, bool)>,
    /// By resource: the bits per second that it carries.
    pub capacity: Vec<(&'static str, u64)>,
    /// How often rot was found: see `rot`.
    pub rot: BTreeMap<RotPlace, u64>,
}

impl Metrics {
    pub fn new(workers: usize, volumes: usize) -> Self {
        let fresh = |count| (0..count).map(|_| Arc::default()).collect();
        Self { workers: fresh(workers), volumes: (0..volumes).map(|_| Arc::default()).collect() }
    }

    fn sum(&self, read: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers.iter().fold(0, |sum, worker| sum.wrapping_add(read(worker)))
    }

    pub fn totals(&self) -> Totals {
        let all = |worker: &WorkerCounters| {
            worker.requests.iter().fold(0u64, |sum, count| sum.wrapping_add(count.load(Relaxed)))
        };
        Totals {
            connections: self.sum(|worker| worker.connections.load(Relaxed)),
            requests: self.sum(all),
            body_bytes: self.sum(|worker| worker.body_bytes.load(Relaxed)),
            sent_bytes: self.sum(|worker| worker.sent_bytes.load(Relaxed)),
            memory_hits: self.sum(|worker| worker.memory_hits.load(Relaxed)),
            memory_misses: self.sum(|worker| worker.memory_misses.load(Relaxed)),
        }
    }

    /// The text of `/metrics` (Prometheus exposition format 0.0.4).
    pub fn exposition(&self, gauges: &Gauges) -> String {
        let mut families = self.worker_families();
        families.extend(self.volume_families(gauges));
        families.extend(gauge_families(gauges));
        // The encoder refuses a family without samples.
        families.extend(Some(capacity_family(gauges)).filter(|_| !gauges.capacity.is_empty()));
        families.push(rot_family(gauges));
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }

    fn worker_families(&self) -> Vec<MetricFamily> {
        let plain = |(name, kind, help, read): &(&str, MetricType, &str, Read)| {
            family(name, help, *kind, vec![sample(*kind, &[], self.sum(read))])
        };
        let mut families: Vec<_> = WORKER_TABLE.iter().map(plain).collect();
        let counter = MetricType::COUNTER;
        let requests = Ending::ALL.iter().map(|ending| {
            let count = self.sum(|worker| count_of(&worker.requests, *ending));
            sample(counter, &[("ending", ending.label())], count)
        });
        families.push(family(
            "oca_requests_total",
            "Requests, by how they ended.",
            counter,
            requests.collect(),
        ));
        let closing = Ending::ALL.iter().filter(|ending| ending.scope() == Scope::Connection);
        let closed = closing.map(|ending| {
            let count = self.sum(|worker| count_of(&worker.closed, *ending));
            sample(counter, &[("ending", ending.label())], count)
        });
        let help = "Connections that ended, by how.";
        families.push(family("oca_connections_closed_total", help, counter, closed.collect()));
        families
    }

    fn volume_families(&self, gauges: &Gauges) -> Vec<MetricFamily> {
        let totals: Vec<_> = self.volumes.iter().map(|volume| volume.totals()).collect();
        let labelled = |kind, read: fn(&VolumeTotals) -> u64| {
            let with = |(totals, (label, _)): (&VolumeTotals, &(String, bool))| {
                sample(kind, &[("volume", label)], read(totals))
            };
            totals.iter().zip(&gauges.volumes).map(with).collect::<Vec<_>>()
        };
        let counter = MetricType::COUNTER;
        let bytes = labelled(counter, |totals| totals.read_bytes);
        let errors = labelled(counter, |totals| totals.read_errors);
        let usable = gauges
            .volumes
            .iter()
            .map(|(label, usable)| sample(MetricType::GAUGE, &[("volume", label)], u64::from(*usable)));
        let pairs = totals.iter().zip(&gauges.volumes);
        let latency = pairs.map(|(totals, (label, _))| latency_sample(totals, label)).collect();
        vec![
            family("oca_volume_read_bytes_total", "Bytes read from the volume.", counter, bytes),
            family(
                "oca_volume_read_errors_total",
                "Reads that failed or did not match their checksum.",
                counter,
                errors,
            ),
            family(
                "oca_volume_usable",
                "1 if the volume is there and can be read.",
                MetricType::GAUGE,
                usable.collect(),
            ),
            family(
                "oca_volume_read_seconds",
                "Time from asking for a block until it was there.",
                MetricType::HISTOGRAM,
                latency,
            ),
        ]
    }
}

impl VolumeCounters {
    pub fn totals(&self) -> VolumeTotals {
        VolumeTotals {
            reads: self.reads.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            read_errors: self.read_errors.load(Relaxed),
            latency: std::array::from_fn(|bucket| count_at(&self.latency, bucket)),
            latency_us: self.latency_us.load(Relaxed),
        }
    }
}

impl VolumeTotals {
    /// What happened since an earlier moment.
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |bucket: usize| before.latency.get(bucket).copied().unwrap_or(0);
        let mut latency = self.latency;
        let each = latency.iter_mut().zip(0..);
        each.for_each(|(count, bucket)| *count = count.wrapping_sub(earlier(bucket)));
        Self {
            reads: self.reads.wrapping_sub(before.reads),
            read_bytes: self.read_bytes.wrapping_sub(before.read_bytes),
            read_errors: self.read_errors.wrapping_sub(before.read_errors),
            latency,
            latency_us: self.latency_us.wrapping_sub(before.latency_us),
        }
    }

    /// The median of the reads, µs, as the geometric middle of its octave; 0: none.
    pub fn latency_median_us(&self) -> u64 {
        let half = self.latency.iter().sum::<u64>().div_ceil(2);
        let mut seen = 0;
        for (count, octave) in self.latency.iter().zip(0u32..) {
            seen += count;
            if half > 0 && seen >= half {
                // 2^octave * sqrt(2), in whole numbers.
                return (1u64 << octave).saturating_mul(1_414) / 1_000;
            }
        }
        0
    }
}

fn capacity_family(gauges: &Gauges) -> MetricFamily {
    let gauge = MetricType::GAUGE;
    let resources = gauges.capacity.iter().map(|(name, bits)| sample(gauge, &[("resource", name)], *bits));
    let help = "What each resource would carry: the least is the box's capacity.";
    family("oca_capacity_bits_per_second", help, gauge, resources.collect())
}

fn rot_family(gauges: &Gauges) -> MetricFamily {
    let counter = MetricType::COUNTER;
    let found = gauges
        .rot
        .iter()
        .map(|(place, count)| sample(counter, &[("place", place.label())], *count))
        .collect();
    family("oca_rot_found_total", "Stored bytes that were found changed, by place.", counter, found)
}

fn gauge_families(gauges: &Gauges) -> Vec<MetricFamily> {
    let table = [
        ("oca_uptime_seconds", "Since the server's start.", gauges.uptime_ms / 1_000),
        ("oca_catalogue_generation", "The generation that new requests see; 0: none.", gauges.generation),
        ("oca_catalogue_oldest_in_use", "The oldest generation that a request uses.", gauges.oldest_in_use),
        ("oca_draining", "1 if new requests are refused.", u64::from(gauges.draining)),
        ("oca_token_keys", "Public keys that tokens are checked with.", gauges.token_keys),
        ("oca_withdrawn_files", "Files with a bad block that wait for their refill.", gauges.withdrawn),
    ];
    let gauge = MetricType::GAUGE;
    table.map(|(name, help, value)| family(name, help, gauge, vec![sample(gauge, &[], value)])).into()
}

fn family(name: &str, help: &str, kind: MetricType, samples: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples);
    family
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

fn sample(kind: MetricType, pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut metric = Metric::from_label(labels(pairs));
    if kind == MetricType::GAUGE {
        let mut gauge = Gauge::default();
        gauge.set_value(float(value));
        metric.set_gauge(gauge);
    } else {
        let mut counter = Counter::default();
        counter.set_value(float(value));
        metric.set_counter(counter);
    }
    metric
}

fn latency_sample(totals: &VolumeTotals, label: &str) -> Metric {
    let mut cumulative = 0;
    let bucket = |(count, octave): (&u64, i32)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(2f64.powi(octave + 1) / 1e6);
        bucket
    };
    let buckets = totals.latency.iter().zip(0i32..).map(bucket).collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(totals.reads);
    histogram.set_sample_sum(float(totals.latency_us) / 1e6);
    let mut metric = Metric::from_label(labels(&[("volume", label)]));
    metric.set_histogram(histogram);
    metric
}

/// Exact up to 2⁵³; above that a counter's last digits are nobody's concern.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no integers")]
fn float(value: u64) -> f64 {
    value as f64
}

fn count_of(counts: &[AtomicU64], ending: Ending) -> u64 {
    count_at(counts, ending.index())
}

fn count_at(counts: &[AtomicU64], place: usize) -> u64 {
    counts.get(place).map_or(0, |count| count.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn what_is_counted_is_exposed() {
        let metrics = Metrics::new(2, 1);
        for worker in &metrics.workers {
            worker.connection_opened();
            worker.request_ended(Ending::Partial);
            worker.sent(300, 200);
            worker.memory_hit();
            worker.memory_miss();
        }
        metrics.workers[0].connection_ended(Ending::IdleTooLong);
        metrics.volumes[0].read_done(2_000_000, 900);
        metrics.volumes[0].read_failed();
        let gauges = Gauges {
            generation: 7,
            volumes: vec![("/srv/v1".to_owned(), true)],
            rot: crate::rot::counts(),
            capacity: vec![("cpu", 40_000_000_000)],
            ..Gauges::default()
        };
        let text = metrics.exposition(&gauges);
        for line in [
            "oca_connections 1",
            "oca_connections_accepted_total 2",
            "oca_body_bytes_total 400",
            "oca_sent_bytes_total 600",
            "oca_memory_hits_total 2",
            "oca_memory_misses_total 2",
            "oca_requests_total{ending=\"partial\"} 2",
            "oca_requests_total{ending=\"complete\"} 0",
            "oca_connections_closed_total{ending=\"idle_too_long\"} 1",
            "oca_volume_read_bytes_total{volume=\"/srv/v1\"} 2000000",
            "oca_volume_read_errors_total{volume=\"/srv/v1\"} 1",
            "oca_volume_usable{volume=\"/srv/v1\"} 1",
            "oca_volume_read_seconds_count{volume=\"/srv/v1\"} 1",
            "oca_volume_read_seconds_bucket{volume=\"/srv/v1\",le=\"0.000512\"} 0",
            "oca_volume_read_seconds_bucket{volume=\"/srv/v1\",le=\"0.001024\"} 1",
            "oca_capacity_bits_per_second{resource=\"cpu\"} 40000000000",
            "oca_rot_found_total{place=\"marker\"} 0",
            "oca_catalogue_generation 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn the_median_is_within_its_octave() {
        let counters = VolumeCounters::default();
        assert_eq!(counters.totals().latency_median_us(), 0);
        [100, 100, 5_000].into_iter().for_each(|latency| counters.read_done(1, latency));
        let before = counters.totals();
        assert!((64..128).contains(&before.latency_median_us()));
        counters.read_done(1, 9_000);
        let median = counters.totals().since(&before).latency_median_us();
        assert!((8_192..16_384).contains(&median), "{median}");
    }

    /// A metric that nothing increments says 0 for ever and is believed (STYLE §4).
    #[test]
    fn every_counter_and_every_ending_is_used_by_the_server() {
        let source = production_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let unused_ending = |ending: &&Ending| !source.contains(&format!("Ending::{ending:?}"));
        let unused: Vec<_> = Ending::ALL.iter().filter(unused_ending).collect();
        assert!(unused.is_empty(), "endings that nothing ends with: {unused:?}");
        let counting = [
            "connection_opened",
            "connection_ended",
            "request_ended",
            "sent",
            "memory_hit",
            "memory_miss",
            "read_done",
            "read_failed",
        ];
        let unfound = |place: &&RotPlace| !source.contains(&format!("RotPlace::{place:?}, "));
        let unused: Vec<_> = crate::rot::PLACES.iter().filter(unfound).collect();
        assert!(unused.is_empty(), "rot that nothing finds: {unused:?}");
        let unused: Vec<_> = counting.iter().filter(|name| !source.contains(&format!(".{name}("))).collect();
        assert!(unused.is_empty(), "counters that nothing increments: {unused:?}");
    }

    /// All files but the tables themselves, each up to its tests; `answer.rs` maps every ending and is no use of one.
    fn production_source(folder: &Path) -> String {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let text = |path: PathBuf| match path.file_name().and_then(|name| name.to_str()) {
            Some("metrics.rs" | "endings.rs" | "rot.rs" | "answer.rs" | "tests.rs" | "simulation") | None => {
                String::new()
            }
            Some(_) if path.is_dir() => production_source(&path),
            Some(_) => {
                let text = std::fs::read_to_string(path).unwrap();
                text.split("\nmod tests {").next().unwrap_or_default().to_owned()
            }
        };
        entries.map(text).collect()
    }
}
