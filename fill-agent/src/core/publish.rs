//! When a new generation is made, and what may be unlinked after it.
//!
//! ```text
//!   changed ──due──> Write ──on disk, current──> Tell the server ──serves it──> Unlink what only older ones name
//! ```
//!
//! A server that is away is told when it is back; it reads `current` by itself at its start.

use std::sync::Arc;

use content::catalogue::{Contents, Entry};
use content::control_socket::{FileName, ServerRequest, ServerStatus};
use content::id::CatalogueKey;

use super::{Action, Core, Retry, Tell};
use crate::clock::Now;
use crate::generations::Loaded;
use crate::server_link::ServerError;

/// Even what is urgent is not published more often than this.
const URGENT_EVERY_MS: u64 = 1_000;
/// After a generation was refused, the next one waits so long.
const REFUSED_MS: u64 = 10_000;
/// Generations are removed this often at most.
const TIDY_EVERY_MS: u64 = 1_000;

#[derive(Debug)]
pub(super) struct State {
    /// Objects were withdrawn or let go: publish at once.
    pub urgent: bool,
    /// `current` does not name what we go on from: a generation must be written even if it says the same.
    unnamed: bool,
    /// Shared with who writes it: of millions of entries, a copy would be felt.
    writing: Option<Arc<Contents>>,
    write: Retry,
    tell: Retry,
    last_ms: u64,
    last_tidy: u64,
    /// Older generations than this were removed.
    tidied: u64,
    /// The server has said once what it uses.
    pub heard: bool,
    /// Why the server refused a generation; None when it took the last.
    pub refused: Option<String>,
    /// Why the last one could not be written.
    pub write_failed: Option<String>,
    /// The newest on the disk, and the one before it: what the server serves is one of them, or is unknown.
    pub current: Arc<Contents>,
    before: Arc<Contents>,
}

impl State {
    pub fn new(loaded: Loaded) -> Self {
        Self {
            // A fallback is made current again by a generation of its own.
            urgent: !loaded.is_current && loaded.contents.generation != 0,
            unnamed: !loaded.is_current && loaded.contents.generation != 0,
            writing: None,
            write: Retry::default(),
            tell: Retry::default(),
            last_ms: 0,
            last_tidy: 0,
            tidied: 0,
            heard: false,
            refused: None,
            write_failed: None,
            current: Arc::new(loaded.contents),
            before: Arc::default(),
        }
    }

    /// What the generation that the server serves says, if it is one of ours.
    pub fn served(&self, status: &ServerStatus) -> Option<&Contents> {
        let known = [&self.current, &self.before];
        known
            .into_iter()
            .map(Arc::as_ref)
            .find(|contents| status.generation != 0 && contents.generation == status.generation)
    }
}

/// By its key; entries are sorted by it.
pub(super) fn find<'a>(contents: &'a Contents, key: &CatalogueKey) -> Option<&'a Entry> {
    let index = contents.entries.binary_search_by_key(key, |entry| entry.key).ok()?;
    contents.entries.get(index)
}

impl Core {
    pub(super) fn drive_publish(&mut self, now: Now, actions: &mut Vec<Action>) {
        // What is urgent does not wait for packs: it is a loss that others should know of.
        let now_or_never = self.publish.urgent || (self.shelf.changed() && self.packs_are_flushed(now));
        if now_or_never && self.publish_due(now) {
            self.begin_write(now, actions);
        }
        self.tell_server(now, actions);
        self.unlink(now, actions);
    }

    /// There is something to publish, or to seal and publish, and it is time.
    pub(super) fn publish_due(&self, now: Now) -> bool {
        let publish = &self.publish;
        if publish.writing.is_some() || !publish.write.ready(now) || !self.volumes.ready {
            return false;
        }
        let since = now.ms.saturating_sub(publish.last_ms);
        if publish.last_ms != 0 && since < URGENT_EVERY_MS {
            return false;
        }
        let idle = self.fill.is_idle() && !self.pack.is_checking();
        let due = idle || since >= self.settings.publish_every_ms;
        publish.urgent || ((self.shelf.changed() || self.has_ready()) && due)
    }

    fn begin_write(&mut self, now: Now, actions: &mut Vec<Action>) {
        // A fallback says the same as the generation before and must be written all the same.
        let behind = self.publish.current.generation < self.shelf.generation();
        let forced = (self.publish.urgent && behind) || std::mem::take(&mut self.publish.unnamed);
        self.publish.urgent = false;
        let last = if forced { Arc::default() } else { Arc::clone(&self.publish.current) };
        self.published_packs();
        let Some(contents) = self.shelf.next_generation(&last) else { return };
        self.publish.write.begin();
        self.publish.last_ms = now.ms.max(1);
        let contents = Arc::new(contents);
        self.publish.writing = Some(Arc::clone(&contents));
        actions.push(Action::Write(contents));
    }

    pub(super) fn on_written(&mut self, result: Result<u64, String>, now: Now) {
        let Some(contents) = self.publish.writing.take() else { return };
        match result {
            Ok(generation) => {
                tracing::info!(generation, objects = contents.entries.len(), "published");
                self.publish.write.succeed(now);
                self.publish.write_failed = None;
                self.publish.before = std::mem::replace(&mut self.publish.current, contents);
                self.publish.tell.succeed(now);
            }
            Err(reason) => {
                if self.publish.write_failed.as_ref() != Some(&reason) {
                    tracing::error!(
                        "the catalogue cannot be written: {reason}. The generation before is served on; free space \
                         there, or make it writable"
                    );
                }
                self.publish.write_failed = Some(reason);
                self.publish.write.fail(now);
                self.shelf.not_published();
                self.publish.urgent = true;
            }
        }
    }

    fn tell_server(&mut self, now: Now, actions: &mut Vec<Action>) {
        let generation = self.publish.current.generation;
        let behind = self.server.as_ref().is_some_and(|status| status.generation < generation);
        if behind && self.publish.tell.ready(now) && self.publish.writing.is_none() {
            self.publish.tell.begin();
            actions.push(Action::Tell(Tell::Publish, ServerRequest::Publish { generation }));
        }
    }

    pub(super) fn on_told(&mut self, told: Tell, answer: Result<Box<ServerStatus>, ServerError>, now: Now) {
        let ok = answer.is_ok();
        if let Err(error) = &answer {
            tracing::warn!(?told, "{error}");
        }
        match told {
            Tell::Publish => {
                let reason = |error: &ServerError| match error {
                    ServerError::Refused(reason) => Some(reason.clone()),
                    ServerError::Away(_) => None,
                };
                self.publish.refused = answer.as_ref().err().and_then(reason);
                let refused = self.publish.refused.is_some();
                if ok {
                    self.publish.tell.succeed(now)
                } else {
                    self.publish.tell.fail(now)
                }
                if refused {
                    // Our own bytes, damaged on their way to the disk or on it: write them again.
                    self.shelf.not_published();
                    Arc::make_mut(&mut self.publish.current).generation = 0;
                    self.publish.urgent = true;
                    self.publish.write.wait_until(now, REFUSED_MS);
                }
                self.report.due = true;
            }
            Tell::Keys => self.on_told_keys(ok, now),
            Tell::Drain => self.on_told_drain(ok, now),
        }
        if let Ok(status) = answer {
            self.overtaken = self.control.gather.in_flight;
            self.on_status(Some(*status));
        }
    }

    /// Nothing is unlinked before the manifest is known, what lies on the volumes has been seen (on those of them that
    /// can be read: nothing is unlinked from another), and the server has
    /// said what it uses.
    fn unlink(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.volumes.ready || now.ms < self.publish.last_tidy.saturating_add(TIDY_EVERY_MS) {
            return;
        }
        let Some(desired) = self.control.desired.as_ref().filter(|_| self.publish.heard) else { return };
        self.publish.last_tidy = now.ms;
        let oldest = self.server.as_ref().filter(|status| status.generation != 0).map(|s| s.oldest_in_use);
        let files = self.shelf.unlinkable(oldest, desired);
        let in_work = |file: &FileName| self.fill.is_active_file(file) || self.pack.is_in_work(file);
        let removable = |file: &FileName| !in_work(file) && self.volumes.is_writable(file.uuid);
        let files: Vec<_> = files.into_iter().filter(removable).collect();
        for file in files {
            self.remove_file(&file, actions);
        }
        if let Some(oldest_in_use) = oldest.filter(|oldest| *oldest != self.publish.tidied) {
            self.publish.tidied = oldest_in_use;
            actions.push(Action::RemoveGenerations { oldest_in_use });
        }
    }
}
