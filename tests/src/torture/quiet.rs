//! The way back to quiet after a kill, and what must hold there: everything in its place, every title played, every
//! byte of every path right on both boxes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use content::id::{MediaPath, ObjectId, Tier};
use content::play::PlayAnswer;
use content::seal::from_sealed;
use content::title::Title;
use content::token::{Claims, Signer};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use xtask::{clock, http};

use crate::audit::{self, Complaint};
use crate::readers::{Heard, Wish, fetch};
use crate::run::Run;
use crate::stage::{BOXES, ask_status};

/// From the last restart to quiet. It takes a few seconds; a machine that is shared may need many more.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// So long after the restart readers still hold old generations: files are let go meanwhile.
const SLOW_FOR: Duration = Duration::from_millis(700);
const LOOK_EVERY: Duration = Duration::from_millis(40);
const ASK: Duration = Duration::from_secs(10);

impl Run {
    /// Waits until nobody has a complaint any more. A grave one ends the run at once.
    pub fn until_quiet(&mut self) -> Result<()> {
        let start = clock::now();
        loop {
            self.stop.check()?;
            self.verdict.check()?;
            self.stage.expect_running()?;
            if start.elapsed() > SLOW_FOR {
                self.readers.hurry.store(true, Ordering::Relaxed);
            }
            let mut complaints = self.look(false)?;
            if complaints.is_empty() {
                complaints = self.look(true)?;
            }
            if complaints.is_empty() {
                break;
            }
            if let Some(complaint) = complaints.iter().find(|complaint| complaint.grave) {
                bail!("{}", complaint.text);
            }
            if start.elapsed() > QUIET_WITHIN {
                let texts: Vec<_> = complaints.into_iter().map(|complaint| complaint.text).collect();
                bail!("not in order {} s after the restart:\n{}", QUIET_WITHIN.as_secs(), texts.join("\n"));
            }
            clock::pause(LOOK_EVERY);
        }
        self.everything_is_served()?;
        self.verdict.check()
    }

    fn look(&mut self, whole: bool) -> Result<Vec<Complaint>> {
        let not_yet = |text: String| Complaint { grave: false, text };
        if !self.stage.media_ended()? {
            return Ok(vec![not_yet("oca-media is at work".to_owned())]);
        }
        self.learn_film()?;
        let mut complaints = self.memory.look(&self.stage.plan.origin);
        complaints.extend(audit::of_control(&self.stage.control_state()));
        let wanted = self.programme.library.paths();
        if !self.is_planned(&wanted) {
            let version = self.memory.current();
            complaints.push(not_yet(format!("manifest {version} is not what the titles ask for")));
        }
        for index in 0..BOXES.len() {
            let status = ask_status(&self.stage.socket(index));
            complaints.extend(audit::of_box(&self.stage.disks(index), &wanted, status.as_ref(), whole));
        }
        complaints.extend(self.not_offered().into_iter().map(not_yet));
        Ok(complaints)
    }

    /// A publish that was committed changed what there should be.
    fn learn_film(&self) -> Result<()> {
        let origin = &self.stage.plan.origin;
        let Ok(bytes) = fs::read(origin.join("titles/film/title.json")) else { return Ok(()) };
        let film = Title::parse(&bytes)?;
        if !self.programme.library.titles().contains(&film) {
            self.programme.library.learn(origin, &film)?;
        }
        Ok(())
    }

    /// The current manifest asks everything of both boxes.
    pub fn is_planned(&self, wanted: &BTreeMap<MediaPath, u64>) -> bool {
        let Ok(manifest) = audit::manifest(&self.stage.plan.origin, self.memory.current()) else {
            return false;
        };
        let both = manifest.appliances.len() == BOXES.len()
            && manifest.entries.iter().all(|entry| entry.on == [0, 1]);
        both && manifest.entries.len() == wanted.len()
            && manifest.entries.iter().all(|entry| wanted.get(&entry.path) == Some(&entry.bytes))
    }

    fn not_offered(&self) -> Vec<String> {
        let fleet = match self.fleet() {
            Ok(fleet) => fleet,
            Err(cause) => return vec![format!("the control plane: {cause:#}")],
        };
        let view =
            |name: &str| fleet.iter().find(|entry| entry["appliance"] == name).cloned().unwrap_or_default();
        let unwell =
            BOXES.into_iter().map(|name| (name, view(name))).filter(|(_, view)| view["offered"] != true);
        unwell.map(|(name, view)| format!("{name} is not offered: {}", view["reason"])).collect()
    }

    pub fn fleet(&self) -> Result<Vec<Value>> {
        let fleet = http::get_json(&format!("{}/v1/fleet", self.stage.plan.control_url()), ASK)?;
        fleet.as_array().cloned().context("GET /v1/fleet gave no list")
    }

    /// What was acknowledged before the kill holds after it; then the box is offered again.
    pub fn check_drain(&self, name: &str, acknowledged: Option<bool>) -> Result<()> {
        let mut last = None;
        clock::wait_for(&self.stop, "the control plane to tell of a drain", QUIET_WITHIN, || {
            last = self.fleet().ok();
            Ok(last.is_some().then_some(()))
        })?;
        let ordered = last
            .iter()
            .flatten()
            .find(|entry| entry["appliance"] == name)
            .map(|entry| entry["drain_ordered"].clone());
        if let Some(on) = acknowledged {
            ensure!(
                ordered == Some(Value::Bool(on)),
                "the drain of {name} was answered ({on}) and is forgotten: {ordered:?}"
            );
        }
        let url = format!("{}/v1/appliances/{name}/drain", self.stage.plan.control_url());
        clock::wait_for(&self.stop, "the drain to be taken back", QUIET_WITHIN, || {
            Ok(http::delete(&url, ASK).ok().filter(|answer| answer.status == 204))
        })?;
        Ok(())
    }

    /// Each title's play is answered with its streams and both boxes, and every path is fetched whole from each box.
    fn everything_is_served(&mut self) -> Result<()> {
        for title in self.programme.library.titles() {
            self.play(&title)?;
        }
        let wishes = self.wishes()?;
        for wish in &wishes {
            let good =
                self.programme.library.object(&wish.path.object).context("an object without a good copy")?;
            let heard = fetch(wish, &good, None, false, || {});
            if !matches!(heard, Heard::Right(_)) {
                bail!("everything is quiet, and {} from {} is {heard:?}", wish.path, wish.at);
            }
            self.fetched += 1;
        }
        self.readers.wishes.set(wishes);
        Ok(())
    }

    fn play(&self, title: &Title) -> Result<()> {
        let request = json!({
            "title": title.title, "session": "torture-1", "member": "tester", "plan": "hd", "territory": "SE",
            "device": {"height_max": 1080, "codecs": ["avc1", "mp4a"]}, "languages": ["en"],
        });
        let answer = http::post_json(&format!("{}/v1/plays", self.stage.plan.control_url()), &request, ASK)?;
        ensure!(answer.status == 200, "the play of {} is refused: {}", title.title, answer.text());
        let play: PlayAnswer = serde_json::from_slice(&answer.body)?;
        ensure!(play.name == title.name, "the play is of {:?}, not of {:?}", play.name, title.name);
        ensure!(!play.streams.is_empty(), "the play of {} has no stream", title.title);
        for stream in &play.streams {
            let of_title = title.streams.iter().find(|known| known.id == stream.id);
            let of_title = of_title.with_context(|| format!("{} has no {}", title.title, stream.id))?;
            let same = of_title.track.object == stream.track.object
                && of_title.playlist.object == stream.playlist.object;
            ensure!(same, "the play of {} offers another object as {}", title.title, stream.id);
            for object in [&stream.track, &stream.playlist] {
                ensure!(
                    object.urls.len() == BOXES.len(),
                    "{} is offered from {:?} only",
                    stream.id,
                    object.urls
                );
            }
        }
        Ok(())
    }

    /// Every path of every title, from each box, with a token that opens it.
    pub fn wishes(&mut self) -> Result<Vec<Wish>> {
        let signer = self.signer()?;
        let mut wishes = Vec::new();
        for title in self.programme.library.titles() {
            let now = Timestamp::now();
            let claims = Claims {
                issuer: "oca-control".to_owned(),
                session: "torture-1".parse()?,
                title: title.title.clone(),
                tiers: Tier::ALL.to_vec(),
                not_before: now,
                expires: now + SignedDuration::from_hours(6),
            };
            let token = signer.sign(&claims);
            for (path, _) in title.objects() {
                let at = |each: &xtask::fleet::BoxPlan| Wish {
                    at: each.media,
                    target: format!("/~{token}{path}"),
                    path: path.clone(),
                };
                wishes.extend(self.stage.plan.boxes.iter().map(at));
            }
        }
        Ok(wishes)
    }

    /// The control plane's own key: it must never change, or every token out there would be void.
    fn signer(&mut self) -> Result<Signer> {
        let file = self.stage.control_state().join("signing-keys.json");
        let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        let digest = ObjectId::of(&bytes);
        ensure!(*self.keys.get_or_insert(digest) == digest, "{} has changed", file.display());
        let value: Value = from_sealed(&bytes)?;
        let key = &value["keys"][0];
        let text = key["seed"].as_str().context("no seed")?;
        let seed = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text)?;
        let seed = seed.first_chunk::<32>().context("a seed of 32 bytes")?;
        Signer::from_seed(key["key_id"].as_str().context("no key id")?, seed).context("no Ed25519 seed")
    }
}
