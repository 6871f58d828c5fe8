//! The operations: what is done to the origin and to the control plane while programs are killed.

use std::fs;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use content::title::Title;
use xtask::{clock, http};

use crate::ledger::Ledger;
use crate::library::{self, Library};
use crate::phase::Before;
use crate::points::{Draw, Operation, Program};
use crate::shelves::walk;
use crate::stage::{BOXES, Stage};

/// More titles of noise than this are not kept.
const FRESH_MAX: usize = 3;
const ASK: Duration = Duration::from_secs(2);

/// The titles there are, beside the film that `oca-media` publishes.
pub struct Programme {
    pub library: Library,
    pub ledger: Ledger,
    /// Never goes: an origin without titles takes nothing from the boxes.
    standing: Title,
    fresh: Vec<Title>,
    alias: Option<Title>,
    /// Taken away, perhaps to come back.
    gone: Option<Title>,
    /// Gone for good: objects that can be removed once everything is quiet.
    retired: Vec<Title>,
    made: u32,
}

/// What an operation left to do or to compare.
#[derive(Default)]
pub struct Begun {
    pub before: Option<Before>,
    drains: Option<JoinHandle<Option<bool>>>,
    drained: Option<&'static str>,
    returns: bool,
}

impl Programme {
    pub fn new(library: Library, ledger: Ledger, origin: &Path, draw: &mut Draw) -> Result<Self> {
        let standing = library::invent(&library, "standing", draw)?;
        library::put(&library, origin, &standing)?;
        let (fresh, alias, gone, retired, made) = (Vec::new(), None, None, Vec::new(), 0);
        Ok(Self { library, ledger, standing, fresh, alias, gone, retired, made })
    }

    pub fn begin(&mut self, operation: Operation, stage: &mut Stage, draw: &mut Draw) -> Result<Begun> {
        let origin = stage.plan.origin.clone();
        match operation {
            Operation::Fill => self.fill(&origin, draw),
            Operation::Publish => publish(stage, draw),
            Operation::Plan => self.plan(stage, &origin, draw),
            Operation::Swap => self.swap(&origin, draw),
            Operation::Deletion => self.delete(&origin, draw),
        }
    }

    fn fill(&mut self, origin: &Path, draw: &mut Draw) -> Result<Begun> {
        if let Some(back) = self.gone.take().filter(|_| draw.percent(50)) {
            self.put(origin, back.clone())?;
            self.fresh.push(back);
        }
        self.made += 1;
        let title = library::invent(&self.library, &format!("fresh-{}", self.made), draw)?;
        library::put(&self.library, origin, &title)?;
        self.fresh.push(title);
        if self.fresh.len() > FRESH_MAX {
            let oldest = self.fresh.remove(0);
            self.remove(origin, &oldest)?;
            self.retired.push(oldest);
        }
        Ok(Begun::default())
    }

    /// Titles that bring no object of their own, and a drain that is ordered and taken back.
    fn plan(&mut self, stage: &Stage, origin: &Path, draw: &mut Draw) -> Result<Begun> {
        self.renew_alias(origin, draw)?;
        self.standing.name = format!("Standing {}", draw.below(1000));
        library::put(&self.library, origin, &self.standing)?;
        let mut begun = Begun::default();
        if draw.percent(60) {
            let name = BOXES[draw.index(BOXES.len())];
            let url = format!("{}/v1/appliances/{name}/drain", stage.plan.control_url());
            let pauses = [draw, &mut Draw::new(1)].map(|draw| Duration::from_millis(draw.below(150)));
            begun.drained = Some(name);
            begun.drains = Some(std::thread::spawn(move || order_drains(&url, &pauses)));
        }
        Ok(begun)
    }

    fn swap(&mut self, origin: &Path, draw: &mut Draw) -> Result<Begun> {
        if let Some(title) = self.fresh.pop().filter(|_| draw.percent(50)) {
            // The files of what goes stay until the last slow reader has left the generation that names them.
            self.remove(origin, &title)?;
            self.put(origin, title.clone())?;
            self.fresh.push(title);
        }
        self.renew_alias(origin, draw)?;
        Ok(Begun::default())
    }

    fn renew_alias(&mut self, origin: &Path, draw: &mut Draw) -> Result<()> {
        self.made += 1;
        let next = library::alias(&self.standing, &format!("alias-{}", self.made), "Alias")?;
        library::put(&self.library, origin, &next)?;
        if let Some(old) = self.alias.replace(next) {
            if draw.percent(50) {
                clock::pause(Duration::from_millis(draw.below(200)));
            }
            library::remove(&self.library, origin, &old.title)?;
        }
        Ok(())
    }

    fn delete(&mut self, origin: &Path, draw: &mut Draw) -> Result<Begun> {
        if self.fresh.is_empty() {
            return self.fill(origin, draw);
        }
        let title = self.fresh.remove(draw.index(self.fresh.len()));
        self.remove(origin, &title)?;
        self.retired.extend(self.gone.take());
        let mut begun = Begun::default();
        match draw.below(4) {
            0 => {
                clock::pause(Duration::from_millis(draw.below(400)));
                self.put(origin, title.clone())?;
                self.fresh.push(title);
            }
            1 => {
                begun.returns = true;
                self.gone = Some(title);
            }
            _ => self.gone = Some(title),
        }
        Ok(begun)
    }

    /// After the kill, while the victim may still be away.
    pub fn go_on(&mut self, begun: &mut Begun, origin: &Path) -> Result<()> {
        if std::mem::take(&mut begun.returns)
            && let Some(title) = self.gone.take()
        {
            self.put(origin, title.clone())?;
            self.fresh.push(title);
        }
        Ok(())
    }

    fn put(&self, origin: &Path, title: Title) -> Result<()> {
        title.objects().for_each(|(path, _)| self.ledger.disturb(path.object));
        library::put(&self.library, origin, &title)
    }

    fn remove(&self, origin: &Path, title: &Title) -> Result<()> {
        title.objects().for_each(|(path, _)| self.ledger.disturb(path.object));
        library::remove(&self.library, origin, &title.title)
    }

    /// Everything is quiet: what nobody can want any more leaves the origin.
    pub fn tidy(&mut self, origin: &Path) -> Result<()> {
        for title in std::mem::take(&mut self.retired) {
            self.library.forget(origin, &title)?;
        }
        Ok(())
    }
}

/// Another film than the last time, its objects to be put anew, over an empty or a full cache.
fn publish(stage: &mut Stage, draw: &mut Draw) -> Result<Begun> {
    stage.film.source = (stage.film.source + 1 + draw.index(stage.films.len() - 1)) % stage.films.len();
    stage.film.name = format!("Film {}", draw.below(1000));
    let origin = &stage.plan.origin;
    if draw.percent(60) {
        for path in walk(&origin.join("chunks")) {
            fs::remove_file(path)?;
        }
    }
    remove_unnamed(origin)?;
    let before = Before::of(origin);
    stage.start(Program::Media)?;
    Ok(Begun { before: Some(before), ..Begun::default() })
}

/// Objects that no title names leave the origin, so that they are put again.
fn remove_unnamed(origin: &Path) -> Result<()> {
    let titles = walk(&origin.join(content::origin::TITLES_FOLDER));
    let texts =
        titles.iter().map(|path| fs::read_to_string(path).with_context(|| format!("{}", path.display())));
    let texts: Vec<_> = texts.collect::<Result<_>>()?;
    for path in walk(&origin.join("objects")) {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if !texts.iter().any(|text| text.contains(&stem)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The drain as it was acknowledged last; None: the last order was not answered, so either may be.
fn order_drains(url: &str, pauses: &[Duration]) -> Option<bool> {
    let mut acknowledged = None;
    for pause in pauses {
        clock::pause(*pause);
        for (on, answer) in
            [(true, http::post_json(url, &serde_json::Value::Null, ASK)), (false, http::delete(url, ASK))]
        {
            let well = answer.is_ok_and(|answer| answer.status == 204);
            acknowledged = well.then_some(on);
            if !well {
                return acknowledged;
            }
        }
    }
    acknowledged
}

impl Begun {
    /// The box whose drain was ordered, and what was acknowledged last.
    pub fn drain(&mut self) -> Option<(&'static str, Option<bool>)> {
        let thread = self.drains.take()?;
        Some((self.drained?, thread.join().ok().flatten()))
    }
}
