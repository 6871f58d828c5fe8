//! `oca-fill plan`: what would be pulled, what would not fit and why, what would be let go. Changes nothing, needs no
//! server and no lock; needs the control plane. Impure: it looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use content::control_socket::{FileName, ServerRequest};
use content::id::ObjectId;
use content::manifest::Manifest;
use content::volume::VolumeId;

use crate::agent::fetch_manifest_once;
use crate::config::AgentSetup;
use crate::control::{ControlError, ManifestAnswer};
use crate::desired::Desired;
use crate::generations;
use crate::http::Patience;
use crate::incoming;
use crate::plan::{Held, Plan, Space, plan};
use crate::server_link::ServerLink;
use crate::shelf::Shelf;
use crate::volumes;

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("the control plane did not give the manifest")]
    NoAnswer(#[from] ControlError),
    #[error("cluster {0} has no manifest yet: publish a title first")]
    NoManifest(String),
    #[error("the catalogue folder cannot be read: {0}")]
    Catalogue(std::io::Error),
}

/// The text to print.
pub async fn show(setup: &AgentSetup) -> Result<String, PlanError> {
    let cluster = setup.config.agent.cluster.to_string();
    let manifest = match fetch_manifest_once(setup, Patience::default()).await? {
        ManifestAnswer::New { manifest, .. } => manifest,
        ManifestAnswer::None | ManifestAnswer::Unchanged => return Err(PlanError::NoManifest(cluster)),
    };
    let loaded = generations::load(&setup.config.state).map_err(PlanError::Catalogue)?;
    let held = Shelf::new(&loaded.contents, &loaded.others).held().clone();
    let (spaces, notes) = look_at_volumes(setup);
    let link = ServerLink::new(&setup.config.socket);
    let withdrawn: BTreeSet<FileName> = match link.ask(&ServerRequest::Status).await {
        Ok(status) => status.withdrawn.into_iter().collect(),
        Err(_) => BTreeSet::new(),
    };
    let desired = Desired::of(&manifest, &setup.config.agent.appliance);
    let waiting = setup.config.volumes.iter().flat_map(|volume| incoming::waiting(&volume.path)).collect();
    let plan = plan(&desired, &held, &spaces, &withdrawn, &waiting);
    let view = View { manifest: &manifest, desired: &desired, held: &held, notes: &notes, plan: &plan };
    Ok(view.text(loaded.contents.generation).unwrap_or_default())
}

fn look_at_volumes(setup: &AgentSetup) -> (Vec<Space>, Vec<(VolumeId, String)>) {
    let (mut spaces, mut notes) = (Vec::new(), Vec::new());
    for (index, volume) in (1u8..).zip(&setup.config.volumes) {
        let path = volume.path.display();
        let (probed, what) = match volumes::probe(&volume.path) {
            Ok(probed) => (Some(probed), format!("{path}")),
            Err(fault) => match volumes::would_become(&volume.path, VolumeId([index; 16])) {
                Some(probed) => (Some(probed), format!("{path} (empty: would be made a volume)")),
                None => (None, format!("{path}: not usable: {fault}")),
            },
        };
        let uuid = probed.as_ref().map_or(VolumeId([0; 16]), |probed| probed.uuid);
        spaces.extend(probed.map(|probed| Space {
            uuid,
            bytes_total: probed.bytes_total,
            bytes_free: probed.bytes_free,
        }));
        notes.push((uuid, what));
    }
    (spaces, notes)
}

struct View<'a> {
    manifest: &'a Manifest,
    desired: &'a Desired,
    held: &'a BTreeMap<ObjectId, Held>,
    notes: &'a [(VolumeId, String)],
    plan: &'a Plan,
}

impl View<'_> {
    fn text(&self, generation: u64) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let (plan, desired) = (self.plan, self.desired);
        writeln!(out, "manifest {} of cluster {}", self.manifest.version, self.manifest.cluster)?;
        writeln!(out, "catalogue generation {generation}: {} objects held", self.held.len())?;
        for (uuid, what) in self.notes {
            let count = plan.fetch.iter().filter(|fetch| fetch.volume == *uuid).count();
            writeln!(out, "volume {what}: {count} to be pulled to it")?;
        }
        let asked: u64 = desired.objects.values().map(|wanted| wanted.bytes).sum();
        writeln!(
            out,
            "asked for: {} objects, {asked} bytes; held already: {}",
            desired.objects.len(),
            plan.keep
        )?;
        if plan.to_pack > 0 {
            writeln!(out, "on a volume and to be put into a pack: {} objects", plan.to_pack)?;
        }
        let pulled: u64 = plan.fetch.iter().map(|fetch| fetch.bytes).sum();
        writeln!(out, "\nwould be pulled, in this order: {} objects, {pulled} bytes", plan.fetch.len())?;
        for fetch in &plan.fetch {
            let note = self.note(fetch.volume);
            writeln!(out, "  {:>14}  {}  to {note}", fetch.bytes, self.path(&fetch.object))?;
        }
        writeln!(out, "\nwould not fit: {} objects", plan.wont_fit.len())?;
        for refused in &plan.wont_fit {
            let why = match refused.largest_free {
                Some(free) => format!("the roomiest volume would have {free} bytes left"),
                None => "there is no usable volume".to_owned(),
            };
            writeln!(out, "  {:>14}  {}  ({why})", refused.bytes, self.path(&refused.object))?;
        }
        writeln!(
            out,
            "\nwould be deleted, the manifest does not ask for them: {} objects",
            plan.release.len()
        )?;
        for (object, at) in &plan.release {
            writeln!(out, "  {:>14}  {object}  from {}", at.bytes, self.note(at.uuid))?;
        }
        Ok(out)
    }

    fn path(&self, object: &ObjectId) -> String {
        let first = self.desired.objects.get(object).and_then(|wanted| wanted.paths.first());
        first.map_or_else(|| object.to_string(), |(_, path)| path.to_string())
    }

    fn note(&self, uuid: VolumeId) -> String {
        let found = self.notes.iter().find(|(known, _)| *known == uuid);
        found.map_or_else(|| format!("volume {uuid}"), |(_, what)| what.clone())
    }
}
