//! What the control plane does by itself: read the origin again, plan each cluster's manifest, publish what changed.
//!
//! Everything that fails here is tried again at the next turn and named in `/v1/health` until then; nothing that was
//! known is forgotten for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use content::id::{ClusterId, TitleId};
use object_store::Error as StoreError;
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
        let mut planner = Self { control, cache: TitleCache::default() };
        let clusters = planner.control.snapshot().clusters.clone();
        for cluster in clusters.keys() {
            planner.learn_manifests(cluster).await.map_err(|cause| cause.to_string())?;
        }
        planner.control.origin.refresh(&mut planner.cache).await.map_err(|cause| cause.to_string())?;
        planner.plan().await;
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
        match self.control.origin.refresh(&mut self.cache).await {
            Ok(()) => self.plan().await,
            Err(cause) => {
                // Nothing is planned either: a manifest for an origin that is away would be written beside it.
                let mut troubles = vec![Trouble { what: "origin".to_owned(), reason: cause.to_string() }];
                troubles.extend(self.cache.troubles());
                self.tell(troubles);
            }
        }
    }

    async fn plan(&mut self) {
        self.control.set_titles(self.cache.titles());
        let unreadable: BTreeSet<TitleId> = self.cache.unreadable().cloned().collect();
        let mut troubles = self.cache.troubles();
        let clusters = self.control.snapshot().clusters.clone();
        for cluster in clusters.keys() {
            if let Err(reason) = self.plan_cluster(cluster, &unreadable).await {
                troubles.push(Trouble { what: format!("manifest of {cluster}"), reason });
            }
        }
        self.tell(troubles);
    }

    async fn plan_cluster(&self, cluster: &ClusterId, unreadable: &BTreeSet<TitleId>) -> Result<(), String> {
        if self.control.snapshot().manifest(cluster).is_none() {
            // An origin that was mounted after the start has some: versions go on from there.
            self.learn_manifests(cluster).await.map_err(|cause| cause.to_string())?;
        }
        let planned = self.control.planned(cluster, unreadable).map_err(|withheld| withheld.to_string())?;
        let Some(manifest) = planned else { return Ok(()) };
        let known = self.control.origin.publish(manifest).await.map_err(|cause| cause.to_string())?;
        let (version, objects) = (known.manifest.version, known.manifest.entries.len());
        tracing::info!(%cluster, version, objects, boxes = known.manifest.appliances.len(), "manifest");
        self.control.add_manifest(&known);
        Ok(())
    }

    async fn learn_manifests(&self, cluster: &ClusterId) -> Result<(), StoreError> {
        let manifests = self.control.origin.manifests(cluster).await?;
        if let Some(newest) = manifests.first() {
            // A crash between the two writes of a publish leaves `current` behind.
            self.control.origin.make_current(&newest.manifest).await?;
            self.control.set_manifests(cluster, &manifests);
        }
        Ok(())
    }

    /// The end of a turn. Each trouble is logged when it comes and when it goes, not at every turn.
    fn tell(&self, troubles: Vec<Trouble>) {
        let before = self.control.troubles();
        for trouble in troubles.iter().filter(|trouble| !before.contains(trouble)) {
            tracing::warn!(what = trouble.what, reason = trouble.reason, "trouble; what is known stays");
        }
        for trouble in before.iter().filter(|trouble| !troubles.contains(trouble)) {
            tracing::info!(what = trouble.what, "trouble over, or another");
        }
        self.control.set_troubles(troubles);
        self.control.turns.send_replace(());
    }
}
