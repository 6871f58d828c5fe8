//! What every measurement needs: the files, the servers' setups, the load generator in its process, and the checks before.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xtask::stop::Stop;
use xtask::{http, process};

use crate::files::{Set, Shelf};
use crate::load::{Group, Outcome, Spec, Target};
use crate::options::Options;
use crate::servers::{CLIENT_CORE, Peer, SERVER_CORE, Server, Setup, on_core};

pub const SEGMENT_BYTES: u64 = 2 << 20;
/// A track file of a film is larger; this is large enough for a file to be opened seldom.
const FILE_BYTES: u64 = 64 << 20;
const RAMP: Duration = Duration::from_millis(700);
const WARM_MAX: Duration = Duration::from_secs(120);
/// Each segment by several connections: that makes it popular (decision 0026).
const WARM_PASSES: u32 = 3;
const WARM_CONNECTIONS: usize = 4;
const ASK: Duration = Duration::from_secs(10);

pub struct Lab {
    pub options: Options,
    pub shelf: Shelf,
    pub stop: Stop,
    /// This run's files.
    pub folder: PathBuf,
    binaries: PathBuf,
}

impl Lab {
    pub fn new(options: Options, folder: &Path, stop: Stop) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let shelf = Shelf::make(&folder, FILE_BYTES, options.hot_mib << 20, options.cold_mib << 20)?;
        let own = std::env::current_exe()?;
        let binaries = own.parent().context("a program is in a folder")?.to_owned();
        Ok(Self { options, shelf, stop, folder: folder.join("run"), binaries })
    }

    pub fn setup(&self, name: &str) -> Setup<'_> {
        Setup {
            shelf: &self.shelf,
            folder: self.folder.join(name),
            binaries: self.binaries.clone(),
            memory_mib: self.options.memory_mib,
            limits: "",
            core: Some(SERVER_CORE),
        }
    }

    /// A server whose memory is empty, on files that nothing caches; what it says is right.
    pub fn start(&self, peer: Peer) -> Result<Server> {
        self.start_with(peer, &self.setup(peer.slug()))
    }

    pub fn start_with(&self, peer: Peer, setup: &Setup<'_>) -> Result<Server> {
        self.stop.check()?;
        if peer == Peer::Ours {
            self.shelf.write_state(&setup.folder.join("state"), 0, 0)?;
        }
        Set::ALL.into_iter().try_for_each(|set| self.shelf.drop_from_page_cache(set))?;
        let server = setup.start(peer)?;
        self.check(&server)?;
        Ok(server)
    }

    /// The same, and all that is hot is in its memory.
    pub fn start_warm(&self, peer: Peer) -> Result<Server> {
        let server = self.start(peer)?;
        let group = Group {
            passes: Some(WARM_PASSES),
            ..self.group(&server, Set::Hot, SEGMENT_BYTES, WARM_CONNECTIONS)
        };
        self.run_load(&server, vec![group], Duration::ZERO, WARM_MAX, 1)?;
        Ok(server)
    }

    /// One hot segment and one small range, byte by byte: nothing fast and wrong is measured.
    fn check(&self, server: &Server) -> Result<()> {
        let path = self.shelf.paths(Set::Hot).last().context("there is a hot file")?;
        let url = format!("http://{}{}", server.address, server.target(&path));
        for (first, count) in [(FILE_BYTES - SEGMENT_BYTES, SEGMENT_BYTES), (16_384, 16_384)] {
            let range = format!("bytes={first}-{}", first + count - 1);
            let answer = http::get(&url, &[("Range", &range)], ASK)?;
            let mut right = vec![0; usize::try_from(count)?];
            let mut file = fs::File::open(self.shelf.file(&path))?;
            file.seek(SeekFrom::Start(first))?;
            file.read_exact(&mut right)?;
            ensure!(
                answer.status == 206 && answer.body == right,
                "{} answers {range} wrongly: {}",
                server.peer.name(),
                answer.status
            );
        }
        Ok(())
    }

    /// A closed loop without end.
    pub fn group(&self, server: &Server, set: Set, request_bytes: u64, connections: usize) -> Group {
        let target = |path| Target { path: server.target(&path), bytes: self.shelf.file_bytes };
        let targets = self.shelf.paths(set).map(target).collect();
        Group { targets, request_bytes, connections, passes: None, rate: None }
    }

    pub fn load(&self, server: &mut Server, groups: Vec<Group>, seed: u64) -> Result<Outcome> {
        let outcome = self.run_load(server, groups, RAMP, self.options.window, seed)?;
        server.expect_running()?;
        Ok(outcome)
    }

    fn run_load(
        &self,
        server: &Server,
        groups: Vec<Group>,
        ramp: Duration,
        window: Duration,
        seed: u64,
    ) -> Result<Outcome> {
        let spec = Spec {
            server: server.address,
            watch: server.processes()?,
            groups,
            ramp_ms: u64::try_from(ramp.as_millis())?,
            window_ms: u64::try_from(window.as_millis())?,
            spin: true,
            seed,
        };
        let [asked, told] = ["spec.json", "outcome.json"].map(|name| self.folder.join(name));
        fs::write(&asked, serde_json::to_vec(&spec)?)?;
        let arguments = vec!["load".into(), asked.into_os_string(), told.clone().into_os_string()];
        let (program, arguments) = on_core(Some(CLIENT_CORE), std::env::current_exe()?, arguments);
        let status = process::run(&self.stop, &mut process::command(&program, arguments))?;
        ensure!(
            status.success(),
            "the load on {} failed ({status}); its reason is above",
            server.peer.name()
        );
        Ok(serde_json::from_slice(&fs::read(&told)?)?)
    }
}
