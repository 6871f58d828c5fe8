//! A published title, made by the real pipeline once and kept, and fleets that serve it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use content::origin;
use content::play::PlayAnswer;
use content::title::Title;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use tempfile::TempDir;
use xtask::fleet::{BoxPlan, Fleet, Plan};
use xtask::stop::Stop;
use xtask::{http, ports};

pub const SLUG: &str = "short-film";
const SECONDS: &str = "12";
const FILL: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_secs(20);

/// An origin with one short title. Publishing again changes nothing, so that it is kept between runs.
pub fn published() -> Result<PathBuf> {
    let binaries = crate::binaries();
    let folder = binaries.parent().context("the target folder")?.join("tmp/fleet-tests");
    fs::create_dir_all(&folder)?;
    // Test processes side by side: the first publishes, the others wait.
    let lock = File::create(folder.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, cause)| cause)?;
    let media = binaries.join("oca-media");
    let source = folder.join("short-film.mkv");
    if !source.exists() {
        let unfinished = folder.join("unfinished.mkv");
        let named = ["--name", "Short Film", "--seconds", SECONDS];
        tool(Command::new(&media).args(["sample", "--out"]).arg(&unfinished).args(named))?;
        fs::rename(unfinished, &source)?;
    }
    let origin = folder.join("origin");
    let title = ["--title", SLUG, "--name", "Short Film", "--label-rungs"];
    tool(Command::new(&media).args(["publish", "--origin"]).arg(&origin).args(title).arg(&source))?;
    Ok(origin)
}

fn tool(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A fleet of its own folder and ports, which goes when it is dropped.
pub struct World {
    pub fleet: Fleet,
    pub stop: Stop,
    pub folder: TempDir,
}

impl World {
    /// Not started and not filled yet; the origin is a copy by hard links, so that no control plane meets another's state.
    pub fn plan() -> Result<(Plan, TempDir)> {
        let folder = TempDir::with_prefix("oca-world-")?;
        let origin = folder.path().join("origin");
        link_all(&published()?, &origin, &["titles", "objects"])?;
        let free = |last| -> Result<SocketAddr> {
            let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
            Ok(SocketAddr::new(address, ports::any_free(address)?))
        };
        let boxes = [("box-a", 2), ("box-b", 3)];
        let each = |(name, last): (&str, u8)| -> Result<BoxPlan> {
            Ok(BoxPlan { name: name.to_owned(), media: free(last)?, management: free(last)? })
        };
        let plan = Plan {
            binaries: crate::binaries(),
            origin,
            run: folder.path().join("run"),
            logs: folder.path().join("logs"),
            control: free(1)?,
            boxes: boxes.into_iter().map(each).collect::<Result<_>>()?,
            memory_mib: 64,
        };
        Ok((plan, folder))
    }

    /// Started; the boxes fill.
    pub fn start() -> Result<Self> {
        let stop = Stop::default();
        let (plan, folder) = Self::plan()?;
        let fleet = Fleet::start(plan, &stop)?;
        Ok(Self { fleet, stop, folder })
    }

    /// Started, and every box holds everything.
    pub fn filled() -> Result<Self> {
        let mut world = Self::start()?;
        world.wait_until_filled()?;
        Ok(world)
    }

    pub fn wait_until_filled(&mut self) -> Result<()> {
        self.fleet.wait_until_filled(&self.stop, FILL, |_| {})
    }

    pub fn play(&self) -> Result<PlayAnswer> {
        let url = format!("{}/v1/plays", self.fleet.plan.control_url());
        let answer = http::post_json(&url, &play_request(), ASK)?;
        if answer.status != 200 {
            bail!("the play was refused: {} {}", answer.status, answer.text());
        }
        serde_json::from_slice(&answer.body).with_context(|| format!("no play answer: {}", answer.text()))
    }

    pub fn title(&self) -> Result<Title> {
        let path = origin::title_path(&SLUG.parse()?);
        Ok(Title::parse(&fs::read(self.fleet.plan.origin.join(path))?)?)
    }
}

pub fn play_request() -> serde_json::Value {
    json!({
        "title": SLUG, "session": "outside-in-1", "member": "tester", "plan": "hd", "territory": "SE",
        "device": {"height_max": 1080, "codecs": ["avc1", "mp4a"]}, "languages": ["en"],
    })
}

/// The same files under another root, without copying bytes.
fn link_all(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_dir() {
            fs::create_dir_all(&to)?;
            let inside: Vec<_> = fs::read_dir(&from)?.collect::<Result<_, _>>()?;
            let inside: Vec<_> =
                inside.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            link_all(&from, &to, &inside.iter().map(String::as_str).collect::<Vec<_>>())?;
        } else {
            fs::hard_link(&from, &to).with_context(|| format!("cannot link {}", to.display()))?;
        }
    }
    Ok(())
}
