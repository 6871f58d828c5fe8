//! The running control plane's one shared value: the snapshot, and what changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use content::control_socket::PublicKey;
use content::id::{ApplianceId, ClusterId, TitleId};
use content::report::{Orders, REASON_BYTES_MAX, REASONS_MAX, Registration, Report};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::clock::{self, JumpWatch};
use super::config::{Config, Secret};
use super::lasting::{Lasting, SigningKeys, StateError, StoredAppliance};
use super::origin::{Origin, Trouble};
use crate::fill_sources::FillSecret;
use crate::playback::Issuer;
use crate::refusal::Refusal;
use crate::snapshot::{Appliance, KnownManifest, KnownTitle, Live, Snapshot};
use crate::{placement, steering};

/// How long a registration waits for the manifest that names it.
const NAMED_LIMIT: Duration = Duration::from_secs(2);
/// `iss` of the tokens.
const ISSUER: &str = "oca-control";

pub struct Control {
    pub(super) issuer: Issuer,
    pub(super) origin: Origin,
    pub(super) fill_secret: FillSecret,
    pub(super) agent_key: Secret,
    pub(super) operator_key: Option<Secret>,
    pub(super) public_keys: Vec<PublicKey>,
    /// Changes with `public_keys`.
    pub(super) keys_version: String,
    /// Held while a verification tree of the origin is made again: one at a time.
    pub(super) mending: Arc<tokio::sync::Mutex<()>>,
    /// Wakes the planner before its time.
    pub(super) replan: Notify,
    /// Changes when the planner has ended a turn.
    pub(super) turns: watch::Sender<()>,
    jumps: JumpWatch,
    snapshot: ArcSwap<Snapshot>,
    troubles: ArcSwap<Vec<Trouble>>,
    /// Registrations and drains, as they lie in the state folder. Taken by blocking threads only: it is held while
    /// the file is written, so that files and memory change in the same order.
    lasting: Mutex<Assignments>,
}

/// What became of an order to forget an appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deregistered {
    Done,
    Unknown,
    StillReports,
}

struct Assignments {
    lasting: Lasting,
    appliances: BTreeMap<ApplianceId, StoredAppliance>,
}

impl Control {
    pub(super) fn new(
        config: &Config,
        public_url: &str,
        lasting: Lasting,
        origin: Origin,
    ) -> Result<Self, StateError> {
        let SigningKeys { active, active_seed, public } = lasting.signing_keys()?;
        let appliances = lasting.appliances()?;
        let issuer = Issuer::new(ISSUER, active, &public, public_url, config.token_lifetime)
            .expect("the signer itself made these public keys");
        let fleet = appliances.values().map(|stored| {
            let registration = stored.registration.clone();
            (
                registration.appliance.clone(),
                Arc::new(Appliance { registration, drain_ordered: stored.drain, live: None }),
            )
        });
        let snapshot = Snapshot {
            terms: Arc::new(config.terms.clone()),
            clusters: Arc::new(config.clusters.clone()),
            fleet: fleet.collect(),
            ..Snapshot::default()
        };
        Ok(Self {
            issuer,
            origin,
            fill_secret: FillSecret::derived_from(&active_seed),
            agent_key: config.agent_key.clone(),
            operator_key: config.operator_key.clone(),
            keys_version: version_of(&public),
            public_keys: public,
            mending: Arc::default(),
            replan: Notify::new(),
            turns: watch::Sender::new(()),
            jumps: JumpWatch::start(),
            snapshot: ArcSwap::from_pointee(snapshot),
            troubles: ArcSwap::default(),
            lasting: Mutex::new(Assignments { lasting, appliances }),
        })
    }

    /// The time. If the clock was set since the last call, what is known of the fleet first moves with it.
    pub(super) fn now(&self) -> Timestamp {
        let now = clock::now();
        if let Some(by) = self.jumps.jumped(now) {
            tracing::error!(
                by_s = by.as_secs(), %now,
                "this machine's clock was set: boxes whose clock now differs are not offered, and tokens and licences \
                 are of the new time. If it is wrong, set it by NTP"
            );
            self.snapshot.rcu(|old| old.after_clock_jump(by));
        }
        now
    }

    /// The world now: whoever holds it answers from it whole.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn troubles(&self) -> Arc<Vec<Trouble>> {
        self.troubles.load_full()
    }

    pub(super) fn set_troubles(&self, troubles: Vec<Trouble>) {
        self.troubles.store(Arc::new(troubles));
    }

    pub(super) fn set_titles(&self, titles: BTreeMap<TitleId, Arc<KnownTitle>>) {
        let titles = Arc::new(titles);
        self.snapshot.rcu(|old| Snapshot { titles: titles.clone(), ..old.as_ref().clone() });
    }

    pub(super) fn set_manifests(&self, cluster: &ClusterId, manifests: &[Arc<KnownManifest>]) {
        self.snapshot.rcu(|old| {
            let mut next = old.as_ref().clone();
            next.manifests.insert(cluster.clone(), manifests.to_vec());
            next
        });
    }

    pub(super) fn add_manifest(&self, known: &Arc<KnownManifest>) {
        self.snapshot.rcu(|old| old.with_manifest(known.clone()));
    }

    /// The manifest that a cluster should get next, if another than it has.
    pub(super) fn planned(
        &self,
        cluster: &ClusterId,
        unreadable: &BTreeSet<TitleId>,
    ) -> Result<Option<content::manifest::Manifest>, placement::Withheld> {
        placement::next_manifest(&self.snapshot.load(), cluster, unreadable)
    }

    /// Until the cluster's manifest names the appliance, if the cluster has one; not longer than [`NAMED_LIMIT`].
    pub(super) async fn until_named(&self, appliance: &ApplianceId, cluster: &ClusterId) {
        let mut turns = self.turns.subscribe();
        let named = || {
            let snapshot = self.snapshot.load();
            snapshot.manifest(cluster).is_none_or(|known| known.manifest.index_of(appliance).is_some())
        };
        let wait = async { while !named() && turns.changed().await.is_ok() {} };
        if tokio::time::timeout(NAMED_LIMIT, wait).await.is_err() {
            tracing::warn!(%appliance, %cluster, "registered, and in no manifest yet: see /v1/health");
        }
    }

    /// Blocks on the disk. Known again after a restart; what it reported before stays its last report.
    pub(super) fn register(&self, registration: Registration) -> Result<(), StateError> {
        self.change(&registration.appliance.clone(), |stored| {
            let drain = stored.as_ref().is_some_and(|stored| stored.drain);
            *stored = Some(StoredAppliance { registration: registration.clone(), drain });
        })?;
        self.replan.notify_one();
        Ok(())
    }

    /// Blocks on the disk. False: not registered.
    pub(super) fn order_drain(&self, appliance: &ApplianceId, on: bool) -> Result<bool, StateError> {
        let mut known = false;
        self.change(appliance, |stored| {
            if let Some(stored) = stored {
                known = true;
                stored.drain = on;
            }
        })?;
        Ok(known)
    }

    /// Blocks on the disk. Only for a box that is gone: one that reports would register again at once, and between the
    /// two its cluster's manifest would ask nothing of it.
    pub(super) fn deregister(&self, name: &ApplianceId, now: Timestamp) -> Result<Deregistered, StateError> {
        let snapshot = self.snapshot();
        let Some(appliance) = snapshot.fleet.get(name) else { return Ok(Deregistered::Unknown) };
        if steering::fitness(appliance, now) != Err(steering::Reason::Silent) {
            return Ok(Deregistered::StillReports);
        }
        self.change(name, |stored| *stored = None)?;
        self.replan.notify_one();
        Ok(Deregistered::Done)
    }

    /// File first, then memory: what was answered is never forgotten by a crash.
    fn change(
        &self,
        name: &ApplianceId,
        change: impl FnOnce(&mut Option<StoredAppliance>),
    ) -> Result<(), StateError> {
        let mut assignments = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = assignments.appliances.get(name).cloned();
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let mut appliances = assignments.appliances.clone();
        match after.clone() {
            Some(after) => appliances.insert(name.clone(), after),
            None => appliances.remove(name),
        };
        assignments.lasting.store_appliances(&appliances)?;
        assignments.appliances = appliances;
        self.snapshot.rcu(|old| {
            let Some(after) = &after else { return old.without_appliance(name) };
            let live = old.fleet.get(name).and_then(|appliance| appliance.live.clone());
            let registration = after.registration.clone();
            old.with_appliance(Appliance { registration, drain_ordered: after.drain, live })
        });
        Ok(())
    }

    /// The last value of a report counts; one that comes late, after a later one of the same start, changes nothing.
    pub(super) fn accept(&self, report: Report, now: Timestamp) -> Result<Orders, Refusal> {
        check_report(&report)?;
        let name = report.appliance.clone();
        let live = Arc::new(Live::new(report, now));
        let before = self.snapshot.rcu(|old| match old.fleet.get(&name) {
            Some(appliance) if !is_late(appliance, &live.report) => Arc::new(
                old.with_appliance(Appliance { live: Some(live.clone()), ..appliance.as_ref().clone() }),
            ),
            _ => old.clone(),
        });
        let snapshot = self.snapshot.load();
        let appliance =
            snapshot.fleet.get(&name).ok_or_else(|| Refusal::UnknownAppliance(name.to_string()))?;
        log_change(before.fleet.get(&name), appliance, now);
        let manifest = snapshot.manifest(&appliance.registration.cluster);
        // One that does not name it yet asks nothing of it: a box that comes back would delete what it holds.
        let manifest = manifest.filter(|known| known.manifest.index_of(&name).is_some());
        Ok(Orders {
            manifest_version: manifest.map_or(0, |known| known.manifest.version),
            drain: appliance.drain_ordered,
            token_keys_version: self.keys_version.clone(),
            clock: Some(now),
        })
    }
}

/// Text that changes with the set of keys.
fn version_of(keys: &[PublicKey]) -> String {
    let mut hasher = blake3::Hasher::new();
    for key in keys {
        // A zero byte is in neither, so two lists never hash the same text.
        hasher.update(key.key_id.as_bytes()).update(&[0]).update(key.x.as_bytes()).update(&[0]);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

fn is_late(appliance: &Appliance, report: &Report) -> bool {
    let last = appliance.live.as_ref().map(|live| &live.report);
    last.is_some_and(|last| last.boot == report.boot && last.sequence >= report.sequence)
}

/// An agent is trusted with its own box, not with the health of this process.
fn check_report(report: &Report) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::Malformed(what.to_owned()));
    if !(0.0..=1.0).contains(&report.headroom) {
        return refuse("headroom must be from 0 to 1");
    }
    if report.holds.unlisted.len() > content::report::UNLISTED_MAX {
        return refuse("more unlisted objects than the format allows");
    }
    if report.rot.len() > 64 || report.rot.keys().any(|place| place.len() > 64) {
        return refuse("rot must name at most 64 places of at most 64 bytes");
    }
    if report.boot.len() > 64 || report.limited_by.len() > 64 || report.volumes.len() > 1_000 {
        return refuse("boot and limited_by must be at most 64 bytes, and volumes at most 1000");
    }
    let too_long = |reason: &String| reason.len() > REASON_BYTES_MAX;
    if report.reasons.len() > REASONS_MAX || report.reasons.iter().any(too_long) {
        return refuse("not more than 32 reasons of at most 500 bytes");
    }
    Ok(())
}

fn log_change(before: Option<&Arc<Appliance>>, after: &Appliance, now: Timestamp) {
    let judge = |appliance: &Appliance| steering::fitness(appliance, now).map(drop);
    let (was, is) = (before.map(|appliance| judge(appliance)), judge(after));
    let appliance = &after.registration.appliance;
    match is {
        Ok(()) if was != Some(Ok(())) => tracing::info!(%appliance, "offered from now on"),
        Err(reason) if was == Some(Ok(())) => {
            tracing::warn!(%appliance, reason = reason.as_str(), "not offered from now on");
        }
        Ok(()) | Err(_) => {}
    }
}
