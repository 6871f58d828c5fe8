//! One `oca-appliance` with hand-made files, keys and catalogue: no agent, no control plane, no media.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use content::catalogue::{
    self, CATALOGUE_FOLDER, CURRENT_NAME, Contents, Entry, FileRecord, generation_name,
};
use content::control_socket::{ServerAnswer, ServerRequest, ServerStatus};
use content::id::{Extension, MediaPath, ObjectId, Tier};
use content::token::{Claims, Signer};
use content::volume::{self, Checksums, FileKind, Footer, Marker, VolumeId};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use xtask::clock;
use xtask::ports;
use xtask::process::{Launch, Service};
use xtask::stop::Stop;

use crate::filler;
use crate::wire::Wire;

pub const TITLE: &str = "night-train";
const START: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(120);
const KEY_ID: &str = "test-key";
const UUID: VolumeId = VolumeId([5; 16]);

/// What is on the shelf: a path behind the token, and its bytes.
#[derive(Clone, Debug)]
pub struct Item {
    pub path: MediaPath,
    pub bytes: Vec<u8>,
}

impl Item {
    /// `size` bytes that repeat nowhere soon, so that a piece of another place or object does not pass for this one.
    pub fn new(tier: Tier, extension: Extension, size: usize, seed: u64) -> Self {
        let bytes = noise(size, seed);
        let title = TITLE.parse().expect("a slug");
        Self { path: MediaPath { title, tier, object: ObjectId::of(&bytes), extension }, bytes }
    }
}

/// xorshift64*: not random, only unlike itself.
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(size).collect()
}

pub struct Shelf {
    folder: TempDir,
    pub address: SocketAddr,
    pub management: SocketAddr,
    pub signer: Signer,
    program: PathBuf,
    items: Vec<Item>,
    server: Option<Service>,
}

impl Shelf {
    /// `limits` are lines of `[server.limits]`.
    pub fn start(items: &[Item], limits: &str) -> Result<Self> {
        Self::start_program(crate::binaries().join("oca-appliance"), items, limits)
    }

    pub fn start_program(program: PathBuf, items: &[Item], limits: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("oca-shelf-")?;
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = SocketAddr::new(local, ports::any_free(local)?);
        let management = SocketAddr::new(local, ports::any_free(local)?);
        let signer = Signer::from_seed(KEY_ID, &[7; 32]).context("a seed of 32 bytes")?;
        let items = items.to_vec();
        let mut shelf = Self { folder, address, management, signer, program, items, server: None };
        shelf.write_files()?;
        shelf.write_generation(1, 0, 0)?;
        fs::write(shelf.config(), shelf.config_text(limits))?;
        shelf.power_on()?;
        Ok(shelf)
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("box.toml")
    }

    fn config_text(&self, limits: &str) -> String {
        let folder = self.folder.path().display();
        let (address, management) = (self.address, self.management);
        format!(
            "state = \"{folder}/state\"\nsocket = \"{folder}/server.sock\"\n\
             [[volume]]\npath = \"{folder}/volume-1\"\n\
             [server]\nlisten = [\"{address}\"]\nmanagement = \"{management}\"\nworkers = 2\nmemory_mib = 64\nway = \"sendfile\"\n\
             [server.limits]\n{limits}\n\
             [agent]\nappliance = \"box-a\"\ncluster = \"lab\"\ncontrol = \"http://127.0.0.1:9\"\n\
             base_url = \"http://{address}\"\nkey_file = \"{folder}/agent.key\"\n"
        )
    }

    /// The file on the volume that holds the item of that index.
    pub fn volume_file(&self, index: usize) -> PathBuf {
        let number = u64::try_from(index).expect("a small number") + 1;
        self.volume().join(volume::FILES_FOLDER).join(volume::file_name(number))
    }

    fn volume(&self) -> PathBuf {
        self.folder.path().join("volume-1")
    }

    fn write_files(&self) -> Result<()> {
        fs::create_dir_all(self.volume().join(volume::FILES_FOLDER))?;
        fs::create_dir_all(self.volume().join(volume::INCOMING_FOLDER))?;
        fs::write(self.volume().join(volume::MARKER_NAME), Marker::new(UUID).to_bytes())?;
        let mut items = self.items.iter().enumerate();
        items.try_for_each(|(index, item)| write_volume_file(&self.volume_file(index), item))
    }

    /// A generation that names the items and fillers, as the agent writes it; `current` names it then.
    pub fn write_generation(&self, generation: u64, entries: u32, files: u32) -> Result<()> {
        let mut contents = Contents { generation, next_file: 1, volumes: vec![UUID], ..Contents::default() };
        for (item, file) in self.items.iter().zip(0..) {
            let data_bytes = u64::try_from(item.bytes.len())?;
            contents.files.push(FileRecord { number: contents.next_file, data_bytes, volume: 0 });
            contents.next_file += 1;
            let MediaPath { object, extension, .. } = item.path;
            let key = item.path.key();
            contents.entries.push(Entry { key, object, file, offset: 0, bytes: data_bytes, extension });
        }
        filler::fill(&mut contents, entries, files);
        let folder = self.folder.path().join("state").join(CATALOGUE_FOLDER);
        fs::create_dir_all(&folder)?;
        contents.entries.sort_unstable_by_key(|entry| entry.key);
        catalogue::build::write(&contents, File::create(folder.join(generation_name(generation)))?)?;
        fs::write(folder.join(CURRENT_NAME), catalogue::current_bytes(generation))?;
        Ok(())
    }

    /// As the agent does when no request uses it.
    pub fn remove_generation(&self, generation: u64) -> Result<()> {
        Ok(fs::remove_file(self.generation(generation))?)
    }

    fn generation(&self, generation: u64) -> PathBuf {
        self.folder.path().join("state").join(CATALOGUE_FOLDER).join(generation_name(generation))
    }

    /// Whether the server has that generation in memory and no other: a catalogue is all that it locks (`VmLck`).
    pub fn holds_only(&self, generation: u64) -> Result<bool> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()?))?;
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).context("no VmLck")?;
        let locked: u64 = locked.trim().trim_end_matches(" kB").parse()?;
        Ok(locked << 10 == fs::metadata(self.generation(generation))?.len())
    }

    pub fn process(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("it runs")?.id())
    }

    /// Starts the server, gives it the token key, and waits until it serves the catalogue.
    pub fn power_on(&mut self) -> Result<()> {
        let launch = Launch {
            name: "oca-appliance".to_owned(),
            program: self.program.clone(),
            arguments: vec!["--config".into(), self.config().into()],
            log: self.folder.path().join("oca-appliance.log"),
        };
        let mut server = launch.start()?;
        let stop = Stop::default();
        let socket = self.folder.path().join("server.sock");
        clock::wait_for(&stop, "the server's socket", START, || {
            server.expect_running()?;
            Ok(UnixStream::connect(&socket).ok())
        })?;
        self.server = Some(server);
        self.tell(&ServerRequest::TokenKeys { keys: vec![self.signer.public_key()] })?;
        self.tell(&ServerRequest::Publish { generation: 1 })?;
        Ok(())
    }

    pub fn kill(&mut self) -> Result<()> {
        self.server.take().context("it runs")?.kill()
    }

    /// SIGTERM, and whether it ended by itself.
    pub fn stop(&mut self) -> Result<bool> {
        Ok(self.server.take().context("it runs")?.stop())
    }

    pub fn expect_running(&mut self) -> Result<()> {
        self.server.as_mut().context("it was started")?.expect_running()
    }

    /// What the agent of this box would say to its server.
    pub fn tell(&self, request: &ServerRequest) -> Result<ServerStatus> {
        tell(&self.folder.path().join("server.sock"), request)
    }

    pub fn wire(&self) -> Result<Wire> {
        Ok(Wire::open(self.address)?)
    }

    /// Claims that open all tiers of the title for an hour.
    pub fn claims(&self) -> Claims {
        let now = Timestamp::now();
        Claims {
            issuer: "oca-control".to_owned(),
            session: "session-1".parse().expect("a session id"),
            title: TITLE.parse().expect("a slug"),
            tiers: Tier::ALL.to_vec(),
            not_before: now,
            expires: now + SignedDuration::from_hours(1),
        }
    }

    /// The request target of an item, with a token that opens it.
    pub fn target(&self, item: &Item) -> String {
        target_with(&self.signer.sign(&self.claims()), item)
    }

    /// The metrics by name and labels, as the management port tells them.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let answer = Wire::open(self.management)?.ask("GET", "/metrics", &[])?;
        let text = answer.text();
        let samples =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Ok(samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap_or(f64::NAN))).collect())
    }
}

/// What an agent would say to the server that listens on that socket.
pub fn tell(socket: &Path, request: &ServerRequest) -> Result<ServerStatus> {
    let mut stream = UnixStream::connect(socket)?;
    // A generation of millions of entries is checked before the answer comes.
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line).with_context(|| format!("the server answered {line:?}"))? {
        ServerAnswer::Status(status) => Ok(status),
        ServerAnswer::Refused { reason } => bail!("the server refused: {reason}"),
    }
}

pub fn target_with(token: &str, item: &Item) -> String {
    format!("/~{token}{}", item.path)
}

fn write_volume_file(path: &Path, item: &Item) -> Result<()> {
    let data_bytes = u64::try_from(item.bytes.len())?;
    let mut checksums = Checksums::default();
    checksums.update(&item.bytes);
    let digest = item.path.object;
    let footer = Footer { kind: FileKind::Object, data_bytes, digest, checksums: checksums.finish() };
    let mut bytes = item.bytes.clone();
    bytes.resize(usize::try_from(volume::footer_offset(data_bytes))?, 0);
    bytes.extend(footer.to_bytes());
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
