//! What the control plane does by itself: read the origin again, plan each cluster's manifest, publish what changed.
//!
//! Everything that fails here is tried again at the next turn and named in `/v1/health` until then; nothing that was
//! known is forgotten for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use content::id::TitleId;
use tokio::sync::watch;

use super::control::Control;
use super::origin::{TitleCache, Trouble};

pub struct Planner {
    control: Arc<Control>,
    cache: TitleCache,
}

impl Planner {
    /// Reads the manifests and titles once: an origin that cannot be read stops the start.
    pub async fn start(control: Arc<Control>) -> Result<Self, String> {
        let snapshot = control.snapshot();
        for cluster in snapshot.clusters.keys() {
            let manifests = control.origin.manifests(cluster).await.map_err(|cause| cause.to_string())?;
            if let Some(newest) = manifests.first() {
                // A crash between the two writes of a publish leaves `current` behind.
                control.origin.make_current(&newest.manifest).await.map_err(|cause| cause.to_string())?;
            }
            control.set_manifests(cluster, &manifests);
        }
        let mut planner = Self { control, cache: TitleCache::default() };
        planner.control.origin.refresh(&mut planner.cache).await.map_err(|cause| cause.to_string())?;
        planner.turn().await;
        Ok(planner)
    }

    /// Until `stop` says so.
    pub async fn run(mut self, every: Duration, mut stop: watch::Receiver<bool>) {
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = self.control.replan.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        let mut troubles = Vec::new();
        if let Err(cause) = self.control.origin.refresh(&mut self.cache).await {
            tracing::warn!(%cause, "the origin cannot be listed; what is known of it stays");
            troubles.push(Trouble { what: "origin".to_owned(), reason: cause.to_string() });
        }
        troubles.extend(self.cache.troubles());
        self.control.set_titles(self.cache.titles());
        let unreadable: BTreeSet<TitleId> = self.cache.unreadable().cloned().collect();
        let clusters = self.control.snapshot().clusters.clone();
        for cluster in clusters.keys() {
            let Some(manifest) = self.control.planned(cluster, &unreadable) else { continue };
            match self.control.origin.publish(manifest).await {
                Ok(known) => {
                    let (version, objects) = (known.manifest.version, known.manifest.entries.len());
                    tracing::info!(%cluster, version, objects, boxes = known.manifest.appliances.len(), "manifest");
                    self.control.add_manifest(&known);
                }
                Err(cause) => {
                    tracing::warn!(%cluster, %cause, "a manifest cannot be stored");
                    troubles
                        .push(Trouble { what: format!("manifest of {cluster}"), reason: cause.to_string() });
                }
            }
        }
        self.control.set_troubles(troubles);
    }
}
