//! What the control plane is told and asked, and what it orders. It may be away at any time: the box serves on.

use content::control_socket::{PublicKey, ServerRequest};
use content::manifest::Manifest;
use content::report::{Orders, Registered};

use super::{Action, Core, Retry, Tell};
use crate::clock::Now;
use crate::control::ControlError;
use crate::desired::Desired;
use crate::state_folder::TokenKeys;

/// Reporting is neither so often that it is load nor so seldom that a box is taken for silent.
const REPORT_MS: std::ops::RangeInclusive<u64> = 200..=60_000;
const REPORT_MS_DEFAULT: u64 = 2_000;

#[derive(Debug, Default)]
pub(super) struct State {
    registered: bool,
    register: Retry,
    pub gather: Retry,
    pub report: Retry,
    pub report_every_ms: u64,
    orders: Option<Orders>,
    /// Of the manifest at hand, as it came: only the control plane knows what it means.
    etag: Option<String>,
    manifest: Retry,
    /// The manifest was asked for since the last reason to ask.
    manifest_fresh: bool,
    pub desired: Option<Desired>,
    keys: Option<TokenKeys>,
    fetch_keys: Retry,
    keys_fresh: bool,
    hand_keys: Retry,
    /// What this process of the server was given.
    handed: Option<Vec<PublicKey>>,
    drain: Retry,
}

impl State {
    pub fn new(keys: Option<TokenKeys>) -> Self {
        Self { keys, report_every_ms: REPORT_MS_DEFAULT, ..Self::default() }
    }
}

impl Core {
    pub(super) fn drive_control(&mut self, now: Now, actions: &mut Vec<Action>) {
        let control = &mut self.control;
        if control.gather.ready(now) {
            control.gather.begin();
            control.gather.wait_until(now, control.report_every_ms);
            actions.push(Action::Gather);
        }
        if !control.registered && control.register.ready(now) {
            control.register.begin();
            actions.push(Action::Register);
        }
        if control.registered && !control.manifest_fresh && control.manifest.ready(now) {
            control.manifest.begin();
            // Not at the answer: a reason that comes in between asks once more.
            control.manifest_fresh = true;
            actions.push(Action::FetchManifest { etag: control.etag.clone() });
        }
        if control.registered && !control.keys_fresh && control.fetch_keys.ready(now) {
            control.fetch_keys.begin();
            actions.push(Action::FetchKeys);
        }
        if control.registered && self.report.due && control.report.ready(now) {
            control.report.begin();
            self.report.due = false;
            actions.push(Action::Report(Box::new(self.next_report())));
        }
        self.drive_server(now, actions);
    }

    /// The server is given what it lacks: keys after its restart, a drain order.
    fn drive_server(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(status) = &self.server else { return };
        let control = &mut self.control;
        if let Some(known) = control.keys.as_ref().filter(|known| !known.keys.is_empty()) {
            let count = u64::try_from(known.keys.len()).unwrap_or(u64::MAX);
            let lacking = status.token_keys != count || control.handed.as_ref() != Some(&known.keys);
            if lacking && control.hand_keys.ready(now) {
                control.hand_keys.begin();
                let keys = known.keys.clone();
                actions.push(Action::Tell(Tell::Keys, ServerRequest::TokenKeys { keys }));
            }
        }
        let ordered = control.orders.as_ref().map(|orders| orders.drain);
        if let Some(on) = ordered.filter(|on| *on != status.draining && control.drain.ready(now)) {
            control.drain.begin();
            actions.push(Action::Tell(Tell::Drain, ServerRequest::Drain { on }));
        }
    }

    pub(super) fn on_registered(&mut self, answer: Result<Registered, ControlError>, now: Now) {
        match answer {
            Ok(registered) => {
                tracing::info!("registered with the control plane");
                self.control.register.succeed(now);
                self.control.registered = true;
                // Started anew, it may count its versions again: the same number need not be the same manifest.
                self.control.manifest_fresh = false;
                let every = registered.report_every_ms;
                self.control.report_every_ms = every.clamp(*REPORT_MS.start(), *REPORT_MS.end());
            }
            Err(error) => {
                self.control.register.fail(now);
                tracing::warn!("{error}");
            }
        }
    }

    pub(super) fn on_reported(&mut self, answer: Result<Orders, ControlError>, now: Now) {
        match answer {
            Ok(orders) => {
                self.control.report.succeed(now);
                self.take_orders(orders);
            }
            Err(error) => {
                self.control.report.fail(now);
                // A report is of now or of no use: the next one follows at its own time.
                self.control.report.wait_until(now, 0);
                if error.asks_to_register() {
                    self.control.registered = false;
                }
                tracing::warn!("{error}");
            }
        }
    }

    fn take_orders(&mut self, orders: Orders) {
        let have = self.control.desired.as_ref().map_or(0, |desired| desired.version);
        if orders.manifest_version != 0 && orders.manifest_version != have {
            self.control.manifest_fresh = false;
        }
        let version = self.control.keys.as_ref().map(|keys| keys.version.as_str());
        if version != Some(orders.token_keys_version.as_str()) {
            self.control.keys_fresh = false;
        }
        if self.control.orders.as_ref().map(|old| old.drain) != Some(orders.drain) && orders.drain {
            tracing::info!("the control plane orders this box to drain");
        }
        self.control.orders = Some(orders);
    }

    pub(super) fn on_manifest(
        &mut self,
        answer: Result<Option<(String, Box<Manifest>)>, ControlError>,
        now: Now,
    ) {
        match answer {
            Ok(new) => {
                self.control.manifest.succeed(now);
                // Orders that go on naming another version ask again, but not in a tight circle.
                self.control.manifest.wait_until(now, super::RETRY_MS);
                if let Some((etag, manifest)) = new {
                    self.control.etag = Some(etag).filter(|etag| !etag.is_empty());
                    self.report.remember(std::slice::from_ref(&manifest));
                    self.take_manifest(&manifest);
                }
            }
            Err(error) => {
                self.control.manifest.fail(now);
                self.control.manifest_fresh = false;
                tracing::warn!("{error}");
            }
        }
    }

    pub(super) fn take_manifest(&mut self, manifest: &Manifest) {
        let desired = Desired::of(manifest, &self.settings.appliance);
        if let Some(old) = self.control.desired.as_ref().filter(|old| old.version > desired.version) {
            tracing::warn!(
                from = old.version,
                to = desired.version,
                "the manifest went back to an older version"
            );
        }
        for (_, path) in &desired.contradictions {
            tracing::warn!(%path, "the manifest contradicts itself on this object's size: the path is left out");
        }
        tracing::info!(version = desired.version, objects = desired.objects.len(), "manifest");
        let before = self.shelf.held().len();
        self.shelf.align(&desired);
        if self.shelf.held().len() < before {
            self.publish.urgent = true;
        }
        self.control.desired = Some(desired);
        self.fill.stale = true;
    }

    pub(super) fn on_keys(&mut self, answer: Result<TokenKeys, ControlError>, now: Now) {
        match answer {
            Ok(keys) => {
                self.control.fetch_keys.succeed(now);
                self.control.fetch_keys.wait_until(now, super::RETRY_MS);
                self.control.keys_fresh = true;
                self.control.keys = Some(keys);
            }
            Err(error) => {
                self.control.fetch_keys.fail(now);
                tracing::warn!("{error}");
            }
        }
    }

    /// A server that was away or was started anew may have the keys of an earlier day: as many, and others.
    pub(super) fn forget_handed(&mut self) {
        self.control.handed = None;
    }

    pub(super) fn on_told_keys(&mut self, ok: bool, now: Now) {
        if ok {
            self.control.hand_keys.succeed(now);
            self.control.handed = self.control.keys.as_ref().map(|known| known.keys.clone());
        } else {
            self.control.hand_keys.fail(now);
        }
    }

    pub(super) fn on_told_drain(&mut self, ok: bool, now: Now) {
        if ok { self.control.drain.succeed(now) } else { self.control.drain.fail(now) }
    }
}
