//! The world that is tortured: folders, configuration, the toll gate, and the programs, each to be killed and started.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use content::catalogue::CATALOGUE_FOLDER;
use content::control_socket::{ServerAnswer, ServerRequest, ServerStatus};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use xtask::fleet::{BoxPlan, Plan};
use xtask::ports;
use xtask::process::{Launch, Service};

use crate::ledger::Ledger;
use crate::points::Program;
use crate::shelves::Disks;
use crate::toll::Toll;

pub const BOXES: [&str; 2] = ["box-a", "box-b"];
const STATUS_WAIT: Duration = Duration::from_millis(500);
/// As `fleet` makes them.
const VOLUMES: [&str; 2] = ["volume-1", "volume-2"];

pub struct Stage {
    pub folder: TempDir,
    pub plan: Plan,
    pub films: Vec<PathBuf>,
    running: BTreeMap<Program, Service>,
    /// Changes what the next publish makes.
    pub film: Film,
}

/// What `oca-media` publishes next.
#[derive(Clone, Debug)]
pub struct Film {
    pub source: usize,
    pub name: String,
}

impl Stage {
    pub fn new(binaries: &Path, ledger: &Ledger) -> Result<Self> {
        let folder = TempDir::with_prefix("oca-torture-")?;
        let free = |last| -> Result<SocketAddr> {
            let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
            Ok(SocketAddr::new(address, ports::any_free(address)?))
        };
        let each = |(name, last): (&str, u8)| -> Result<BoxPlan> {
            Ok(BoxPlan { name: name.to_owned(), media: free(last)?, management: free(last)? })
        };
        let plan = Plan {
            binaries: binaries.to_owned(),
            origin: folder.path().join("origin"),
            run: folder.path().join("run"),
            logs: folder.path().join("logs"),
            control: free(1)?,
            boxes: BOXES.into_iter().zip(2..).map(each).collect::<Result<_>>()?,
            memory_mib: 64,
        };
        fs::create_dir_all(&plan.origin)?;
        plan.write()?;
        let volumes = BOXES.map(|name| (name.to_owned(), volumes_of(&plan, name)));
        let toll = Toll::open(plan.control, ledger.clone(), volumes.into())?;
        let stage = Self {
            folder,
            films: Vec::new(),
            running: BTreeMap::new(),
            film: Film { source: 0, name: "Film".to_owned() },
            plan,
        };
        stage.lead_through(toll.address)?;
        Ok(stage)
    }

    /// Agents reach the control plane and the origin's objects through the toll gate only; the planner looks often.
    fn lead_through(&self, toll: SocketAddr) -> Result<()> {
        let (control, toll) = (self.plan.control_url(), format!("http://{toll}"));
        let edit = |file: PathBuf, from: String, to: String| -> Result<()> {
            let text = fs::read_to_string(&file)?;
            if !text.contains(&from) {
                bail!("{} has no {from}", file.display());
            }
            fs::write(&file, text.replace(&from, &to)).with_context(|| format!("{}", file.display()))
        };
        for name in BOXES {
            let (from, to) = (format!("control = \"{control}\""), format!("control = \"{toll}\""));
            edit(self.plan.box_config(name), from, to)?;
        }
        let from = format!("public_url = \"{control}\"");
        edit(self.plan.run.join("control.toml"), from, format!("public_url = \"{toll}\"\nrefresh_ms = 100"))
    }

    /// Files, state and logs stay for whoever looks into a failure. Says where.
    pub fn keep(&mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("its files, state and logs are kept in {}", self.folder.path().display())
    }

    pub fn name_of(&self, index: usize) -> &str {
        &self.plan.boxes[index].name
    }

    pub fn volumes(&self, index: usize) -> Vec<PathBuf> {
        volumes_of(&self.plan, self.name_of(index))
    }

    pub fn state(&self, index: usize) -> PathBuf {
        self.plan.box_folder(self.name_of(index)).join("state")
    }

    pub fn control_state(&self) -> PathBuf {
        self.plan.run.join("control")
    }

    /// Where the program makes, moves and removes names.
    pub fn folders_of(&self, program: Program) -> Vec<PathBuf> {
        match program {
            Program::Control => vec![self.plan.origin.join("clusters"), self.control_state()],
            // Its agent's names: the generations that it is told to serve.
            Program::Server(index) => vec![self.state(index).join(CATALOGUE_FOLDER)],
            Program::Agent(index) => [self.volumes(index), vec![self.state(index)]].concat(),
            Program::Media => ["chunks", "objects", "titles"].map(|name| self.plan.origin.join(name)).into(),
        }
    }

    pub fn start(&mut self, program: Program) -> Result<()> {
        if self.running.contains_key(&program) {
            return Ok(());
        }
        let launch = match program {
            Program::Control => self.plan.control_launch(),
            Program::Server(index) => self.plan.server_launch(self.name_of(index)),
            Program::Agent(index) => self.plan.agent_launch(self.name_of(index)),
            Program::Media => self.media_launch(),
        };
        self.running.insert(program, launch.start()?);
        Ok(())
    }

    fn media_launch(&self) -> Launch {
        let words = [
            "publish",
            "--title",
            "film",
            "--jobs",
            "2",
            "--label-rungs",
            "--name",
            &self.film.name,
            "--origin",
        ];
        let mut arguments: Vec<_> = words.iter().map(Into::into).collect();
        arguments.push(self.plan.origin.clone().into());
        arguments.push(self.films[self.film.source].clone().into());
        let program = self.plan.binaries.join("oca-media");
        Launch { name: "oca-media".to_owned(), program, arguments, log: self.plan.logs.join("oca-media.log") }
    }

    /// SIGKILL to all of them before any is waited for. Those that had ended by themselves are not counted.
    pub fn kill(&mut self, programs: &[Program]) -> Result<usize> {
        let mut killed = 0;
        for program in programs {
            let Some(service) = self.running.get_mut(program) else { continue };
            if service.ended()?.is_none() {
                killpg(Pid::from_raw(i32::try_from(service.id())?), Signal::SIGKILL)?;
                killed += 1;
            }
        }
        for program in programs {
            if let Some(mut service) = self.running.remove(program) {
                service.kill()?;
            }
        }
        Ok(killed)
    }

    /// Fails if a program that should run does not. `oca-media` may end, well.
    pub fn expect_running(&mut self) -> Result<()> {
        for (program, service) in &mut self.running {
            if *program != Program::Media {
                service.expect_running()?;
            }
        }
        Ok(())
    }

    /// True once `oca-media` has ended well.
    pub fn media_ended(&mut self) -> Result<bool> {
        let Some(media) = self.running.get_mut(&Program::Media) else { return Ok(true) };
        match media.ended()? {
            None => Ok(false),
            Some(status) if status.success() => {
                self.running.remove(&Program::Media);
                Ok(true)
            }
            Some(status) => bail!("oca-media ended: {status}\n{}", media.log_tail()),
        }
    }

    pub fn socket(&self, index: usize) -> PathBuf {
        self.plan.box_folder(self.name_of(index)).join("server.sock")
    }

    pub fn disks(&self, index: usize) -> Disks {
        Disks { name: self.name_of(index).to_owned(), state: self.state(index), volumes: self.volumes(index) }
    }
}

/// What the server behind that socket says of itself; None: it does not answer.
pub fn ask_status(socket: &Path) -> Option<ServerStatus> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(STATUS_WAIT)).ok()?;
    let request = serde_json::to_string(&ServerRequest::Status).ok()?;
    stream.write_all(format!("{request}\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    match serde_json::from_str(&line).ok()? {
        ServerAnswer::Status(status) => Some(status),
        ServerAnswer::Refused { .. } => None,
    }
}

impl Drop for Stage {
    /// What survives a kill at any instant need not be asked to stop.
    fn drop(&mut self) {
        for service in self.running.values_mut() {
            if let Err(cause) = service.kill() {
                eprintln!("{cause:#}");
            }
        }
    }
}

fn volumes_of(plan: &Plan, name: &str) -> Vec<PathBuf> {
    VOLUMES.map(|volume| plan.box_folder(name).join(volume)).into()
}
