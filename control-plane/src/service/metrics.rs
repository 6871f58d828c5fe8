//! `GET /metrics` (Prometheus exposition format 0.0.4): rot that the control plane found, and what the agents report of
//! theirs, for an agent has no address of its own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Control, rot};

pub(super) async fn metrics(State(control): State<Arc<Control>>) -> Response {
    let text = TextEncoder::new().encode_to_string(&families(&control)).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")], text)
        .into_response()
}

fn families(control: &Control) -> Vec<MetricFamily> {
    let own = rot::counts().into_iter().map(|(place, count)| counted(&[("place", place.label())], count));
    let snapshot = control.snapshot();
    let live = snapshot.fleet.values().filter_map(|appliance| appliance.live.as_ref());
    let reported = live.flat_map(|live| {
        let report = &live.report;
        let sample = |(place, count): (&String, &u64)| {
            counted(&[("appliance", report.appliance.as_str()), ("place", place)], *count)
        };
        report.rot.iter().map(sample).collect::<Vec<_>>()
    });
    let mut troubles = Metric::default();
    let mut gauge = Gauge::default();
    gauge.set_value(float(u64::try_from(control.troubles().len()).unwrap_or(u64::MAX)));
    troubles.set_gauge(gauge);
    let found = "Stored bytes that were found changed, by place.";
    let by_agents =
        "Stored bytes that a box's agent found changed since its start, by place, as it reported last.";
    let count = "What asks for an operator; /v1/health names it.";
    vec![
        family("oca_control_rot_found_total", found, MetricType::COUNTER, own.collect()),
        family("oca_agent_rot_found_total", by_agents, MetricType::COUNTER, reported.collect()),
        family("oca_control_troubles", count, MetricType::GAUGE, vec![troubles]),
    ]
    .into_iter()
    // The encoder refuses a family without a sample: no box has reported yet.
    .filter(|family| !family.get_metric().is_empty())
    .collect()
}

fn family(name: &str, help: &str, kind: MetricType, samples: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples);
    family
}

fn counted(labels: &[(&str, &str)], count: u64) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::from_label(labels.iter().map(pair).collect());
    let mut counter = Counter::default();
    counter.set_value(float(count));
    metric.set_counter(counter);
    metric
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A metric that nothing increments says 0 for ever and is believed (STYLE §4).
    #[test]
    fn every_place_is_found_somewhere_in_the_service() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let others = files.filter(|path| path.file_name().is_some_and(|name| name != "rot.rs"));
        let production = |path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.split("\nmod tests {").next().unwrap_or_default().to_owned()
        };
        let source: String = others.map(production).collect();
        for place in rot::PLACES {
            assert!(
                source.contains(&format!("RotPlace::{place:?}")),
                "{place} is shown and nothing finds it"
            );
        }
    }
}
