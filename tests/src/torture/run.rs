//! One run: the world is set up once, then point after point: begin an operation, kill, start again, be quiet, look.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use content::id::ObjectId;
use content::volume::Trailer;
use xtask::clock;
use xtask::stop::Stop;

use crate::acts::{Begun, Programme};
use crate::audit::OriginMemory;
use crate::ledger::Ledger;
use crate::library::Library;
use crate::phase::{self, Phases};
use crate::points::{Draw, Point, Program};
use crate::readers::Readers;
use crate::report::Report;
use crate::shelves::{Disks, objects_in};
use crate::stage::{BOXES, Stage, ask_status};
use crate::trigger::Trigger;
use crate::verdict::Verdict;
use crate::watchman::Watchman;

const READERS: u64 = 4;
/// A moment that has not come by then comes now.
const MOMENT_WITHIN: Duration = Duration::from_secs(4);
const FILMS: usize = 3;

pub struct Run {
    pub stop: Stop,
    pub verdict: Verdict,
    pub stage: Stage,
    pub programme: Programme,
    pub readers: Readers,
    pub memory: OriginMemory,
    pub report: Report,
    pub keys: Option<ObjectId>,
    /// Whole objects that were fetched at quiet times.
    pub fetched: u64,
    ledger: Ledger,
}

impl Run {
    /// Everything is started and quiet.
    pub fn set_up(stop: Stop, binaries: &Path, seed: u64) -> Result<Self> {
        let verdict = Verdict::default();
        let (library, ledger) = (Library::default(), Ledger::new(verdict.clone()));
        let mut stage = Stage::new(binaries, &ledger)?;
        for index in 0..FILMS {
            let film = make_film(stage.folder.path(), index)?;
            stage.films.push(film);
        }
        let mut draw = Draw::new(seed);
        let programme = Programme::new(library.clone(), ledger.clone(), &stage.plan.origin, &mut draw)?;
        let readers = Readers::start(draw.next(), READERS, &library, &verdict);
        let memory = OriginMemory::default();
        let (report, keys, fetched) = (Report::default(), None, 0);
        let mut run =
            Self { stop, verdict, stage, programme, readers, memory, report, keys, fetched, ledger };
        for program in
            [Program::Control, Program::Server(0), Program::Server(1), Program::Agent(0), Program::Agent(1)]
        {
            run.stage.start(program)?;
        }
        run.stage.start(Program::Media)?;
        run.watch();
        run.settle()?;
        Ok(run)
    }

    fn watch(&self) {
        let boxes =
            (0..BOXES.len()).map(|index| (self.stage.disks(index), self.stage.socket(index))).collect();
        let origin = self.stage.plan.origin.clone();
        Watchman { boxes, origin, verdict: self.verdict.clone() }.start();
    }

    pub fn point(&mut self, point: &Point) -> Result<()> {
        let start = clock::now();
        self.readers.hurry.store(false, Ordering::Relaxed);
        let mut draw = Draw::new(point.seed);
        let mut trigger = Trigger::on(&self.stage.folders_of(point.victim))?;
        let handed = self.ledger.pieces(self.stage.name_of(point.victim.of_box().unwrap_or(0)));
        let mut begun = self.programme.begin(point.operation, &mut self.stage, &mut draw)?;
        let wishes = self.wishes()?;
        self.readers.wishes.set(wishes);
        let name = self.stage.name_of(point.victim.of_box().unwrap_or(0)).to_owned();
        let (ledger, before) = (self.ledger.clone(), handed);
        trigger.wait(&self.stop, point.moment, MOMENT_WITHIN, || ledger.pieces(&name) - before)?;
        drop(trigger);
        let victims: Vec<_> = std::iter::once(point.victim).chain(point.with).collect();
        let phases = self.kill(point, &victims, &begun)?;
        self.programme.go_on(&mut begun, &self.stage.plan.origin.clone())?;
        clock::pause(point.away);
        self.start(&victims)?;
        if let Some(soon) = point.again {
            clock::pause(soon);
            self.kill(point, &victims[..1], &begun)?;
            self.start(&victims[..1])?;
        }
        if let Some((name, acknowledged)) = begun.drain() {
            self.check_drain(name, acknowledged)?;
        }
        self.settle()?;
        let phases: Vec<_> = phases.into_iter().collect();
        println!("{point}: {}; {:.1} s", phases.join(", "), start.elapsed().as_secs_f64());
        self.report.took(start.elapsed());
        Ok(())
    }

    fn start(&mut self, programs: &[Program]) -> Result<()> {
        programs.iter().try_for_each(|program| self.stage.start(*program))
    }

    /// Kills them, looks where that landed, and tells the ledger what it may cost.
    fn kill(&mut self, point: &Point, victims: &[Program], begun: &Begun) -> Result<Phases> {
        let server = victims.iter().find_map(|victim| match victim {
            Program::Server(index) => Some(*index),
            Program::Agent(_) | Program::Control | Program::Media => None,
        });
        let said = server.and_then(|index| ask_status(&self.stage.socket(index)));
        let in_flight = self.readers.counts.in_flight();
        let killed = self.stage.kill(victims)?;
        // At this instant, with whatever is half done: what is named is there, what has a final name is whole.
        let grave = self.memory.look(&self.stage.plan.origin).into_iter().find(|complaint| complaint.grave);
        if let Some(complaint) = grave {
            bail!("right after the kill: {}", complaint.text);
        }
        let mut all = Phases::new();
        for victim in victims {
            let phases = match *victim {
                Program::Agent(index) => self.agent_killed(index),
                Program::Server(index) => {
                    phase::of_server(&self.stage.disks(index), said.as_ref(), in_flight)
                }
                Program::Control => self.control_killed(),
                Program::Media => {
                    let before = begun.before.as_ref().context("a publish was begun")?;
                    before.phases(&self.stage.plan.origin)
                }
            };
            self.report.note(point.operation, *victim, &phases);
            all.extend(phases);
        }
        self.report.killed(victims, killed);
        Ok(all)
    }

    fn agent_killed(&self, index: usize) -> Phases {
        let disks = self.stage.disks(index);
        self.ledger.killed(&disks.name);
        for partial in disks.partials() {
            self.ledger.on_disk(&disks.name, partial.object, partial.verified);
        }
        for (object, bytes) in stored(&disks) {
            self.ledger.on_disk(&disks.name, object, bytes);
        }
        phase::of_agent(&disks)
    }

    fn control_killed(&self) -> Phases {
        // It is the origin: what was on its way from it is lost.
        BOXES.iter().for_each(|name| self.ledger.killed(name));
        let planned = self.is_planned(&self.programme.library.paths());
        let current = self.memory.current();
        phase::of_control(&self.stage.plan.origin, &self.stage.control_state(), current, planned)
    }

    fn settle(&mut self) -> Result<()> {
        self.until_quiet()?;
        let sizes: BTreeMap<_, _> =
            self.programme.library.paths().into_iter().map(|(path, bytes)| (path.object, bytes)).collect();
        self.ledger.settle(&sizes);
        self.programme.tidy(&self.stage.plan.origin)?;
        self.verdict.check()
    }

    pub fn end(&self) {
        self.report.print();
        println!("readers: {}", self.readers.counts.text());
        println!("at quiet times: {} whole objects fetched, all of them right", self.fetched);
        let total = self.ledger.total();
        println!(
            "pulled by the agents: {} MiB, of that twice {} KiB; {} downloads went on where they were",
            total.bytes >> 20,
            total.bytes_twice >> 10,
            total.resumed
        );
    }
}

/// What is in whole files that the current generation does not name: object and size.
fn stored(disks: &Disks) -> Vec<(ObjectId, u64)> {
    let named = disks
        .current()
        .and_then(|current| disks.generation(current))
        .and_then(|contents| disks.named(&contents));
    let named = named.unwrap_or_default();
    let files = disks.files().into_iter().filter(|path| !named.contains_key(path));
    let objects = files.filter_map(|path| {
        let trailer = Trailer::parse(&std::fs::read(&path).ok()?).ok()?;
        objects_in(&path, trailer.data_bytes).ok()
    });
    objects.flatten().collect()
}

/// Six seconds of a moving picture and a tone, another for each.
fn make_film(folder: &Path, index: usize) -> Result<std::path::PathBuf> {
    let film = folder.join(format!("film-{index}.mkv"));
    let tone = 300 + 100 * index;
    let words = format!(
        "-v error -nostdin -f lavfi -i testsrc2=size=160x90:rate=12:duration=6 -f lavfi -i sine=f={tone}:duration=6 \
         -c:v libx264 -preset ultrafast -c:a flac"
    );
    let mut command = Command::new("ffmpeg");
    command.args(words.split_whitespace()).arg(&film).stdin(Stdio::null());
    let status = command.status().context("ffmpeg cannot be run; install it")?;
    if !status.success() {
        bail!("ffmpeg made no film ({status})");
    }
    Ok(film)
}
