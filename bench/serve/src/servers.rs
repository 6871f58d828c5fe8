//! The two servers: how each is started on the files, on the core that servers run on, and what it was told.
//!
//! oca-appliance runs as it ships: its configuration names folders, addresses and the size of its memory, and nothing
//! that a default decides. nginx runs with the files in `nginx/`: what its documentation has for large files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use content::control_socket::{PublicKey, ServerRequest};
use content::id::{MediaPath, Tier};
use content::token::{Claims, Signer};
use fleet_tests::shelf::tell;
use jiff::{SignedDuration, Timestamp};
use xtask::process::{Launch, Service};
use xtask::stop::Stop;
use xtask::{clock, http, ports};

use crate::files::Shelf;
use crate::proc;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const START_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);
pub const NGINX: &str = "/usr/sbin/nginx";
/// Where the servers run; the load generator has the next one.
pub const SERVER_CORE: &str = "0";
pub const CLIENT_CORE: &str = "1";

const NGINX_CONF: &str = include_str!("../nginx/nginx.conf");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Ours,
    Nginx(NginxWay),
}

/// How nginx sends files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NginxWay {
    Sendfile,
    ThreadsSendfile,
    ThreadsRead,
}

/// nginx with its pool of threads, in both its forms.
pub const NGINX_THREADS: [Peer; 2] =
    [Peer::Nginx(NginxWay::ThreadsSendfile), Peer::Nginx(NginxWay::ThreadsRead)];

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "oca-appliance",
            Self::Nginx(NginxWay::Sendfile) => "nginx, sendfile",
            Self::Nginx(NginxWay::ThreadsSendfile) => "nginx, aio threads with sendfile",
            Self::Nginx(NginxWay::ThreadsRead) => "nginx, aio threads into buffers",
        }
    }
}

impl Peer {
    /// The name of its folder.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Ours => "oca-appliance",
            Self::Nginx(NginxWay::Sendfile) => "nginx-sendfile",
            Self::Nginx(NginxWay::ThreadsSendfile) => "nginx-threads-sendfile",
            Self::Nginx(NginxWay::ThreadsRead) => "nginx-threads-read",
        }
    }
}

impl NginxWay {
    fn lines(self) -> &'static str {
        match self {
            Self::Sendfile => include_str!("../nginx/sendfile.conf"),
            Self::ThreadsSendfile => include_str!("../nginx/threads-sendfile.conf"),
            Self::ThreadsRead => include_str!("../nginx/threads-read.conf"),
        }
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    pub shelf: &'a Shelf,
    /// For configuration, state, sockets and logs: this start's own, or that of the one before it.
    pub folder: PathBuf,
    /// The folder of `oca-appliance`.
    pub binaries: PathBuf,
    pub memory_mib: u64,
    /// Lines of `[server.limits]`: empty, but where a row asks for more connections than a worker takes.
    pub limits: &'static str,
    /// None: on any core.
    pub core: Option<&'static str>,
}

/// A server that answers.
pub struct Server {
    pub peer: Peer,
    pub address: SocketAddr,
    /// Of oca-appliance.
    pub management: Option<SocketAddr>,
    service: Service,
    signer: Signer,
}

impl Setup<'_> {
    pub fn start(&self, peer: Peer) -> Result<Server> {
        fs::create_dir_all(&self.folder)?;
        let mut server = self.launch(peer)?;
        let address = server.address;
        clock::wait_for(&Stop::default(), peer.name(), START_MAX, || {
            server.service.expect_running()?;
            Ok(TcpStream::connect_timeout(&address, LOOK).ok())
        })?;
        if peer == Peer::Ours {
            let keys = vec![server.signer.public_key()];
            tell(&self.folder.join("server.sock"), &ServerRequest::TokenKeys { keys })?;
        }
        Ok(server)
    }

    /// Starts it and waits for nothing.
    pub fn launch(&self, peer: Peer) -> Result<Server> {
        let signer = Signer::from_seed("bench", &[9; 32]).context("a seed of 32 bytes")?;
        let address = SocketAddr::new(LOCAL, ports::any_free(LOCAL)?);
        let (management, program, arguments) = match peer {
            Peer::Ours => {
                let management = SocketAddr::new(LOCAL, ports::any_free(LOCAL)?);
                let config = self.folder.join("box.toml");
                fs::write(&config, self.box_toml(address, management))?;
                (
                    Some(management),
                    self.binaries.join("oca-appliance"),
                    vec!["--config".into(), config.into()],
                )
            }
            Peer::Nginx(way) => {
                let config = self.folder.join("nginx.conf");
                fs::write(&config, self.nginx_conf(way, address))?;
                (None, NGINX.into(), vec!["-e".into(), "stderr".into(), "-c".into(), config.into_os_string()])
            }
        };
        let (program, arguments) = on_core(self.core, program, arguments);
        let log = self.folder.join("log");
        let launch = Launch { name: peer.name().to_owned(), program, arguments, log };
        Ok(Server { peer, address, management, service: launch.start()?, signer })
    }

    fn box_toml(&self, address: SocketAddr, management: SocketAddr) -> String {
        let folder = self.folder.display();
        format!(
            "state = \"{folder}/state\"\nsocket = \"{folder}/server.sock\"\n\
             [[volume]]\npath = \"{volume}\"\n\
             [server]\nlisten = [\"{address}\"]\nmanagement = \"{management}\"\nmemory_mib = {memory}\n\
             [server.limits]\n{limits}\n\
             [agent]\nappliance = \"bench\"\ncluster = \"bench\"\ncontrol = \"http://127.0.0.1:9\"\n\
             base_url = \"http://{address}\"\nkey_file = \"{folder}/none\"\n",
            volume = self.shelf.volume().display(),
            memory = self.memory_mib,
            limits = self.limits,
        )
    }

    fn nginx_conf(&self, way: NginxWay, address: SocketAddr) -> String {
        // Its worker would be somebody who may not read below our folders.
        let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
        NGINX_CONF
            .replace("{WAY}", way.lines())
            .replace("{USER}", user)
            .replace("{FOLDER}", &self.folder.display().to_string())
            .replace("{LISTEN}", &address.to_string())
            .replace("{ROOT}", &self.shelf.www().display().to_string())
    }
}

/// The command line, pinned.
pub fn on_core(
    core: Option<&str>,
    program: PathBuf,
    mut arguments: Vec<std::ffi::OsString>,
) -> (PathBuf, Vec<std::ffi::OsString>) {
    let Some(core) = core else { return (program, arguments) };
    arguments.splice(0..0, ["-c".into(), core.into(), program.into_os_string()]);
    (PathBuf::from("taskset"), arguments)
}

impl Server {
    /// All processes of it: nginx has a master and a worker.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let main = self.service.id();
        Ok(std::iter::once(main).chain(proc::children(main)?).collect())
    }

    /// What to ask it for: ours behind a token that opens the title.
    pub fn target(&self, path: &MediaPath) -> String {
        match self.peer {
            Peer::Ours => format!("/~{}{path}", self.signer.sign(&claims(path))),
            Peer::Nginx(_) => path.to_string(),
        }
    }

    pub fn expect_running(&mut self) -> Result<()> {
        self.service.expect_running()
    }

    pub fn public_key(&self) -> PublicKey {
        self.signer.public_key()
    }

    /// How blocks leave oca-appliance, and why so: for the report.
    pub fn way(&self) -> Result<String> {
        let management = self.management.context("only oca-appliance has ways")?;
        let health = http::get_json(&format!("http://{management}/health"), LOOK)?;
        let text = |key: &str| health[key].as_str().unwrap_or("unknown").to_owned();
        Ok(format!("oca-appliance: way {}: {}", text("way"), text("way_reason")))
    }
}

fn claims(path: &MediaPath) -> Claims {
    let now = Timestamp::now();
    Claims {
        issuer: "oca-control".to_owned(),
        session: "bench".parse().expect("a session id"),
        title: path.title.clone(),
        tiers: Tier::ALL.to_vec(),
        not_before: now,
        expires: now + SignedDuration::from_hours(6),
    }
}
