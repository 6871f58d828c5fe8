//! One box and its control plane, program by program: what lies below their folders, and under which clock they run, is
//! the test's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use content::id::{MediaPath, ObjectId};
use content::origin;
use content::play::PlayAnswer;
use content::token::split_target;
use content::volume::{FILES_FOLDER, MARKER_NAME, Marker, file_name};
use serde_json::Value;
use tempfile::TempDir;
use xtask::fleet::Plan;
use xtask::process::{Launch, Service};
use xtask::stop::Stop;
use xtask::{clock, http};

use crate::wire::Wire;
use crate::world::{World, play_request};

pub const BOX: &str = "box-a";
const ASK: Duration = Duration::from_secs(20);
/// For anything that must happen sooner or later.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Control,
    Server,
    Agent,
}

pub const ALL: [Part; 3] = [Part::Control, Part::Server, Part::Agent];

pub struct Site {
    pub plan: Plan,
    running: BTreeMap<Part, Service>,
    /// What stands before a program's command line.
    pub before: BTreeMap<Part, Vec<OsString>>,
    folder: TempDir,
}

impl Site {
    /// Files and folders only.
    pub fn plan() -> Result<Self> {
        let (mut plan, folder) = World::plan()?;
        plan.boxes.truncate(1);
        plan.write()?;
        Ok(Self { plan, running: BTreeMap::new(), before: BTreeMap::new(), folder })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn volume(&self, number: u32) -> PathBuf {
        self.plan.box_folder(BOX).join(format!("volume-{number}"))
    }

    pub fn state(&self) -> PathBuf {
        self.plan.box_folder(BOX).join("state")
    }

    pub fn launch(&self, part: Part) -> Launch {
        let mut launch = match part {
            Part::Control => self.plan.control_launch(),
            Part::Server => self.plan.server_launch(BOX),
            Part::Agent => self.plan.agent_launch(BOX),
        };
        let mut words = self.before.get(&part).cloned().unwrap_or_default();
        if !words.is_empty() {
            words.push(launch.program.into_os_string());
            words.append(&mut launch.arguments);
            launch.program = words.remove(0).into();
            launch.arguments = words;
        }
        launch
    }

    pub fn start(&mut self, parts: &[Part]) -> Result<()> {
        for part in parts {
            let service = self.launch(*part).start()?;
            self.running.insert(*part, service);
            if *part == Part::Server {
                // What the control plane says may be of the one before.
                let media = self.plan.boxes[0].media;
                self.wait("oca-appliance to accept", move |_| {
                    Ok(TcpStream::connect_timeout(&media, ASK).is_ok())
                })?;
            }
            if *part == Part::Control {
                let url = format!("{}/v1/health", self.plan.control_url());
                self.wait("oca-control to answer", |_| Ok(http::get(&url, &[], ASK).is_ok()))?;
            }
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self, parts: &[Part]) -> Result<()> {
        parts.iter().try_for_each(|part| self.running.remove(part).context("it runs")?.kill())
    }

    pub fn process(&self, part: Part) -> Result<u32> {
        Ok(self.running.get(&part).context("it runs")?.id())
    }

    pub fn log(&self, part: Part) -> String {
        fs::read_to_string(self.launch(part).log).unwrap_or_default()
    }

    /// Looks until it is so; what should run must go on running.
    #[track_caller]
    pub fn wait(&mut self, what: &str, mut so: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        let waited = clock::wait_for(&Stop::default(), what, LIMIT, || {
            self.running.values_mut().try_for_each(Service::expect_running)?;
            Ok(so(self)?.then_some(()))
        });
        waited.with_context(|| {
            let tail = |part: &Part| {
                let log = self.log(*part);
                let lines: Vec<_> = log.lines().rev().take(12).collect();
                format!("{part:?}:\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
            };
            format!("{}{:?}", ALL.iter().map(tail).collect::<String>(), self.fleet_entry().ok())
        })
    }

    pub fn wait_until_logged(&mut self, part: Part, text: &str) -> Result<()> {
        self.wait(&format!("{part:?} to log {text:?}"), |site| Ok(site.log(part).contains(text)))
    }

    /// What the control plane says of the box.
    pub fn fleet_entry(&self) -> Result<Value> {
        let fleet = http::get_json(&format!("{}/v1/fleet", self.plan.control_url()), ASK)?;
        Ok(fleet.get(0).cloned().unwrap_or_default())
    }

    /// The last report: what asks for an operator.
    pub fn reasons(&self) -> Result<String> {
        let entry = self.fleet_entry()?;
        let reasons = entry["report"]["reasons"].as_array().cloned().unwrap_or_default();
        Ok(reasons.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
    }

    pub fn volume_state(&self, number: usize) -> Result<String> {
        let entry = self.fleet_entry()?;
        Ok(entry["report"]["volumes"][number - 1]["state"].as_str().unwrap_or_default().to_owned())
    }

    pub fn wait_for_reason(&mut self, text: &str) -> Result<()> {
        self.wait(&format!("the report to say {text:?}"), |site| Ok(site.reasons()?.contains(text)))
    }

    /// Offered, nothing missing, and nothing that asks for an operator.
    pub fn wait_until_well(&mut self) -> Result<()> {
        self.wait("the box to hold everything and be well", |site| {
            let entry = site.fleet_entry()?;
            let report = &entry["report"];
            Ok(entry["offered"] == true && holds_all(report) && report["health"] == "ok")
        })
    }

    pub fn wait_until_complete(&mut self) -> Result<()> {
        self.wait("the box to hold everything", |site| Ok(holds_all(&site.fleet_entry()?["report"])))
    }

    pub fn play(&self) -> Result<PlayAnswer> {
        let url = format!("{}/v1/plays", self.plan.control_url());
        let answer = http::post_json(&url, &play_request(), ASK)?;
        ensure!(answer.status == 200, "the play was refused: {} {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).with_context(|| format!("no play answer: {}", answer.text()))
    }

    /// Status and Cache-Status of the answer for each track of a play, by object; every body is the object's.
    pub fn fetch(&self, play: &PlayAnswer) -> Result<BTreeMap<ObjectId, (u16, String)>> {
        let urls = play.streams.iter().flat_map(|stream| &stream.track.urls);
        let mut answers = BTreeMap::new();
        for url in urls {
            let (path, target) = parse_url(url)?;
            let answer = Wire::open(self.plan.boxes[0].media)?.ask("GET", &target, &[])?;
            let cause = answer.header("cache-status").to_owned();
            if answer.status == 200 {
                let file = origin::object_path(path.object, path.extension);
                let right = fs::read(self.plan.origin.join(file))?;
                ensure!(answer.body == right, "{url} differs from the origin");
            }
            answers.insert(path.object, (answer.status, cause));
        }
        ensure!(answers.len() > 1, "the play has {} tracks", answers.len());
        Ok(answers)
    }

    /// The status of the answer to a URL of a play, whose body is the object's.
    pub fn fetch_url(&self, url: &str, patience: Duration) -> Result<u16> {
        let (path, target) = parse_url(url)?;
        let mut wire = Wire::open(self.plan.boxes[0].media)?;
        wire.be_patient(patience)?;
        let answer = wire.ask("GET", &target, &[])?;
        let right = fs::read(self.plan.origin.join(origin::object_path(path.object, path.extension)))?;
        ensure!(answer.status != 200 || answer.body == right, "{url} differs from the origin");
        Ok(answer.status)
    }

    /// Every track of the play, byte by byte.
    pub fn expect_all_served(&self, play: &PlayAnswer) -> Result<()> {
        let answers = self.fetch(play)?;
        match answers.values().find(|(status, _)| *status != 200) {
            Some((status, cause)) => bail!("{status} {cause}"),
            None => Ok(()),
        }
    }

    /// The file of each object that the current catalogue names, and the number of its volume.
    pub fn files(&self) -> Result<BTreeMap<ObjectId, (u32, PathBuf)>> {
        let contents = crate::current_contents(&self.state())?;
        let mut volumes = BTreeMap::new();
        for number in [1, 2] {
            if let Ok(bytes) = fs::read(self.volume(number).join(MARKER_NAME)) {
                volumes.insert(Marker::parse(&bytes)?.uuid, number);
            }
        }
        let mut files = BTreeMap::new();
        for entry in &contents.entries {
            let file = contents.files[usize::try_from(entry.file)?];
            let uuid = contents.volumes[usize::try_from(file.volume)?];
            let Some(number) = volumes.get(&uuid) else { continue };
            let path = self.volume(*number).join(FILES_FOLDER).join(file_name(file.number));
            files.insert(entry.object, (*number, path));
        }
        Ok(files)
    }

    /// Runs a program of the box or the control plane with these arguments to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(self.plan.binaries.join(program)).args(arguments).output()?)
    }

    /// The box's configuration with another text in some places, in a file of its own.
    pub fn config_with(&self, name: &str, changes: &[(&str, &str)]) -> Result<PathBuf> {
        let mut text = fs::read_to_string(self.plan.box_config(BOX))?;
        for (from, to) in changes {
            ensure!(text.contains(from), "{from:?} is not in the configuration");
            text = text.replace(from, to);
        }
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

fn holds_all(report: &Value) -> bool {
    // An empty roaring bitmap.
    report["holds"]["missing"] == "OjAAAAAAAAA=" && report["holds"]["manifest_version"] != 0
}

fn parse_url(url: &str) -> Result<(MediaPath, String)> {
    let target = url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).context("a URL with a path")?;
    let (_, path) = split_target(&target).context("a path behind a token")?;
    Ok((path.parse()?, target))
}

/// Makes programs see another wall clock than the machine's: the library libfaketime in their processes. Their monotonic
/// clock stays the real one.
pub struct FalseClock {
    file: PathBuf,
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

impl FalseClock {
    /// Right at first.
    pub fn new(file: PathBuf) -> Result<Self> {
        let clock = Self { file };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Off by so much from now on: `+365d`, `-365d`, `+0`.
    pub fn set(&self, off: &str) -> Result<()> {
        let staged = self.file.with_extension("new");
        fs::write(&staged, off)?;
        Ok(fs::rename(&staged, &self.file)?)
    }

    /// What stands before a command line.
    pub fn before(&self) -> Result<Vec<OsString>> {
        let library = Path::new(FAKETIME);
        let library = if library.exists() { library.to_owned() } else { find_faketime()? };
        let variables = [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        Ok(std::iter::once("env".into()).chain(variables.map(OsString::from)).collect())
    }
}

/// Other architectures have it elsewhere.
fn find_faketime() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists()).context("install Debian's package libfaketime")
}
