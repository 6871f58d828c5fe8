//! A fleet on this machine: `oca-control` and boxes, each an `oca-appliance` and an `oca-fill` with volumes of its own.
//!
//! ```text
//! RUN/control.toml  agent.key  terms.toml  control/         the control plane's files and state
//! RUN/box-a/box.toml  server.sock  state/  volume-1/  volume-2/
//! LOGS/oca-control.log  box-a.oca-appliance.log  box-a.oca-fill.log
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{Launch, Service};
use crate::stop::Stop;
use crate::{clock, http, ports};

pub const CLUSTER: &str = "lab";
const VOLUMES: u32 = 2;
const ASK: Duration = Duration::from_secs(5);
const START: Duration = Duration::from_secs(20);

/// Where a fleet's programs, files and ports are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder of the five binaries.
    pub binaries: PathBuf,
    /// The origin that `oca-media` published into.
    pub origin: PathBuf,
    /// Everything else but logs; nothing in it is worth keeping.
    pub run: PathBuf,
    pub logs: PathBuf,
    pub control: SocketAddr,
    pub boxes: Vec<BoxPlan>,
    /// For each server, MiB.
    pub memory_mib: u64,
}

#[derive(Clone, Debug)]
pub struct BoxPlan {
    pub name: String,
    pub media: SocketAddr,
    pub management: SocketAddr,
}

impl BoxPlan {
    /// `box-a` is the first.
    pub fn new(index: u8, address: IpAddr, media_port: u16, management_port: u16) -> Self {
        let name = format!("box-{}", char::from(b'a' + index));
        let media = SocketAddr::new(address, media_port);
        Self { name, media, management: SocketAddr::new(address, management_port) }
    }
}

impl Plan {
    /// Two boxes on 127.0.0.2 and 127.0.0.3, the control plane on 127.0.0.1, on ports that are free.
    pub fn of_two(binaries: &Path, data: &Path, wish: u16) -> Result<Self> {
        let local = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let mut boxes = Vec::new();
        for index in 0..2 {
            let address = local(2 + index);
            let media = ports::free_from(address, 8080)?;
            boxes.push(BoxPlan::new(index, address, media, ports::free_from(address, 9080)?));
        }
        Ok(Self {
            binaries: binaries.to_owned(),
            origin: data.join("origin"),
            run: data.join("run"),
            logs: data.join("logs"),
            control: SocketAddr::new(local(1), ports::free_from(local(1), wish)?),
            boxes,
            memory_mib: 256,
        })
    }

    pub fn control_url(&self) -> String {
        format!("http://{}", self.control)
    }

    pub fn box_folder(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    pub fn box_config(&self, name: &str) -> PathBuf {
        self.box_folder(name).join("box.toml")
    }

    /// Writes every configuration file and makes every folder.
    pub fn write(&self) -> Result<()> {
        write(&self.run.join("agent.key"), "demo-agents-speak-friend\n")?;
        write(&self.run.join("terms.toml"), TERMS)?;
        write(&self.run.join("control.toml"), &self.control_toml())?;
        for each in &self.boxes {
            let folder = self.box_folder(&each.name);
            for volume in 1..=VOLUMES {
                make_folder(&folder.join(format!("volume-{volume}")))?;
            }
            make_folder(&folder.join("state"))?;
            write(&folder.join("box.toml"), &self.box_toml(each))?;
        }
        Ok(())
    }

    fn control_toml(&self) -> String {
        let path = |name: &str| quoted(&self.run.join(name));
        format!(
            "listen = \"{listen}\"\npublic_url = \"{url}\"\norigin = {origin}\nstate = {state}\nterms = {terms}\n\
             agent_key_file = {key}\n\n[[cluster]]\nname = \"{CLUSTER}\"\n",
            listen = self.control,
            url = self.control_url(),
            origin = quoted(&self.origin),
            state = path("control"),
            terms = path("terms.toml"),
            key = path("agent.key"),
        )
    }

    fn box_toml(&self, each: &BoxPlan) -> String {
        let folder = self.box_folder(&each.name);
        let volume =
            |index| format!("\n[[volume]]\npath = {}\n", quoted(&folder.join(format!("volume-{index}"))));
        let volumes: String = (1..=VOLUMES).map(volume).collect();
        format!(
            "state = {state}\nsocket = {socket}\n{volumes}\n\
             [server]\nlisten = [\"{media}\"]\nmanagement = \"{management}\"\nmemory_mib = {memory}\nway = \"sendfile\"\n\n\
             [agent]\nappliance = \"{name}\"\ncluster = \"{CLUSTER}\"\ncontrol = \"{control}\"\n\
             base_url = \"http://{media}\"\nkey_file = {key}\n",
            state = quoted(&folder.join("state")),
            socket = quoted(&folder.join("server.sock")),
            media = each.media,
            management = each.management,
            memory = self.memory_mib,
            name = each.name,
            control = self.control_url(),
            key = quoted(&self.run.join("agent.key")),
        )
    }

    pub fn control_launch(&self) -> Launch {
        let config = self.run.join("control.toml");
        self.launch("oca-control", "oca-control", &["serve", "--config"], &config)
    }

    pub fn server_launch(&self, name: &str) -> Launch {
        self.launch(&format!("{name}.oca-appliance"), "oca-appliance", &["--config"], &self.box_config(name))
    }

    pub fn agent_launch(&self, name: &str) -> Launch {
        self.launch(&format!("{name}.oca-fill"), "oca-fill", &["run", "--config"], &self.box_config(name))
    }

    fn launch(&self, name: &str, program: &str, arguments: &[&str], config: &Path) -> Launch {
        let arguments = arguments.iter().map(Into::into).chain([config.into()]).collect();
        let program = self.binaries.join(program);
        Launch { name: name.to_owned(), program, arguments, log: self.logs.join(format!("{name}.log")) }
    }
}

/// Everything, everywhere, as the operator's table; `title.json` need not say it.
pub const TERMS: &str =
    "[[title]]\ntitle = \"*\"\n\n[[title.term]]\nterritories = [\"*\"]\nfrom = \"2020-01-01T00:00:00Z\"\n";

/// A TOML basic string.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The running processes of a [`Plan`]. Dropping it stops them all.
#[derive(Debug)]
pub struct Fleet {
    pub plan: Plan,
    control: Option<Service>,
    servers: Vec<Option<Service>>,
    agents: Vec<Option<Service>>,
}

impl Fleet {
    /// Writes the files, starts the control plane, waits until it answers, starts the boxes.
    pub fn start(plan: Plan, stop: &Stop) -> Result<Self> {
        plan.write()?;
        let none = || plan.boxes.iter().map(|_| None).collect();
        let mut fleet = Self { control: None, servers: none(), agents: none(), plan };
        fleet.start_control(stop)?;
        for name in fleet.names() {
            fleet.power_on(&name)?;
        }
        Ok(fleet)
    }

    pub fn names(&self) -> Vec<String> {
        self.plan.boxes.iter().map(|each| each.name.clone()).collect()
    }

    pub fn start_control(&mut self, stop: &Stop) -> Result<()> {
        let mut control = self.plan.control_launch().start()?;
        let url = format!("{}/v1/health", self.plan.control_url());
        clock::wait_for(stop, "oca-control to answer", START, || {
            control.expect_running()?;
            Ok(http::get(&url, &[], ASK).ok().filter(|answer| answer.status == 200))
        })?;
        self.control = Some(control);
        Ok(())
    }

    pub fn kill_control(&mut self) -> Result<()> {
        self.control.take().map_or(Ok(()), |mut control| control.kill())
    }

    /// Starts whichever of the box's two processes does not run.
    pub fn power_on(&mut self, name: &str) -> Result<()> {
        self.start_server(name)?;
        self.start_agent(name)
    }

    /// Both processes end as by a power cut.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        self.kill_server(name)?;
        self.kill_agent(name)
    }

    pub fn start_server(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        if self.servers[index].is_none() {
            self.servers[index] = Some(self.plan.server_launch(name).start()?);
        }
        Ok(())
    }

    pub fn kill_server(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.servers[index].take().map_or(Ok(()), |mut server| server.kill())
    }

    pub fn start_agent(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        if self.agents[index].is_none() {
            self.agents[index] = Some(self.plan.agent_launch(name).start()?);
        }
        Ok(())
    }

    pub fn kill_agent(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.agents[index].take().map_or(Ok(()), |mut agent| agent.kill())
    }

    fn index(&self, name: &str) -> Result<usize> {
        let found = self.plan.boxes.iter().position(|each| each.name == name);
        found.with_context(|| format!("there is no box {name:?}; the boxes are {}", self.names().join(", ")))
    }

    /// Fails, with the end of its log, if a process that should run has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        let boxes = self.servers.iter_mut().chain(&mut self.agents);
        self.control.iter_mut().chain(boxes.flatten()).try_for_each(Service::expect_running)
    }

    /// The processes that have ended by themselves; each is told once.
    pub fn take_ended(&mut self) -> Vec<Service> {
        let boxes = self.servers.iter_mut().chain(&mut self.agents);
        let all = std::iter::once(&mut self.control).chain(boxes);
        let ended = |slot: &mut &mut Option<Service>| {
            slot.as_mut().is_some_and(|service| !matches!(service.ended(), Ok(None)))
        };
        all.filter_map(|mut slot| if ended(&mut slot) { slot.take() } else { None }).collect()
    }

    /// What the control plane says of each box.
    pub fn view(&self) -> Result<Vec<BoxView>> {
        let value = http::get_json(&format!("{}/v1/fleet", self.plan.control_url()), ASK)?;
        BoxView::list(&value)
    }

    /// Waits until every box answers and serves all that the manifest asks of it; `show` is told how far it is.
    pub fn wait_until_filled(
        &mut self,
        stop: &Stop,
        limit: Duration,
        mut show: impl FnMut(&str),
    ) -> Result<()> {
        let names = self.names();
        clock::wait_for(stop, "every box to hold everything", limit, || {
            self.expect_running()?;
            let views = self.view()?;
            show(&views.iter().map(BoxView::progress).collect::<Vec<_>>().join(" · "));
            let filled = |name: &String| views.iter().any(|view| view.name == *name && view.ready());
            Ok((names.iter().all(filled) && self.all_accept()).then_some(()))
        })
    }

    /// A report is up to two seconds old, and a server that was started again since may not be there yet.
    fn all_accept(&self) -> bool {
        self.plan.boxes.iter().all(|each| TcpStream::connect_timeout(&each.media, ASK).is_ok())
    }

    /// Asks all to stop at once, then waits for each; the control plane last.
    pub fn stop(&mut self) {
        let agents = std::mem::take(&mut self.agents);
        let servers = std::mem::take(&mut self.servers);
        let mut all: Vec<_> =
            agents.into_iter().chain(servers).flatten().chain(self.control.take()).collect();
        all.iter_mut().for_each(Service::ask_to_stop);
        drop(all);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One box as `GET /v1/fleet` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct BoxView {
    pub name: String,
    /// Whether plays get it.
    pub offered: bool,
    /// Why not.
    pub reason: String,
    pub manifest_version: u64,
    /// Objects that it should hold and does not; None: it has seen no manifest.
    pub missing: Option<u64>,
    pub bytes_sent: u64,
}

impl BoxView {
    pub fn list(value: &Value) -> Result<Vec<Self>> {
        let list = value.as_array().or_else(|| value["appliances"].as_array());
        let list = list.with_context(|| format!("GET /v1/fleet gave no list: {value}"))?;
        list.iter().map(Self::of).collect()
    }

    fn of(value: &Value) -> Result<Self> {
        let Some(name) = value["appliance"].as_str() else {
            bail!("an entry of GET /v1/fleet names no appliance: {value}");
        };
        let report = &value["report"];
        let manifest_version = report["holds"]["manifest_version"].as_u64().unwrap_or(0);
        let missing = report["holds"]["missing"].as_str().and_then(ordinal_count);
        Ok(Self {
            name: name.to_owned(),
            offered: value["offered"].as_bool().unwrap_or(false),
            reason: value["reason"].as_str().unwrap_or_default().to_owned(),
            manifest_version,
            missing: missing.filter(|_| manifest_version > 0),
            bytes_sent: report["server"]["bytes_sent"].as_u64().unwrap_or(0),
        })
    }

    /// It is offered and lacks nothing.
    pub fn ready(&self) -> bool {
        self.offered && self.missing == Some(0)
    }

    pub fn progress(&self) -> String {
        match self.missing {
            None => format!("{} has no manifest yet", self.name),
            Some(0) if self.offered => format!("{} holds everything", self.name),
            Some(0) => format!("{} holds everything, not offered yet {}", self.name, self.reason),
            Some(count) => format!("{} lacks {count} objects", self.name),
        }
    }
}

/// How many ordinals a roaring bitmap in its portable form, base64, holds: the container heads tell without the bits.
fn ordinal_count(text: &str) -> Option<u64> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    // The cookie without run containers; agents do not make those.
    if word(0)? != 12346 {
        return None;
    }
    let containers = usize::try_from(word(4)?).ok()?;
    let heads = bytes.get(8..8 + containers.checked_mul(4)?)?;
    Some(heads.chunks_exact(4).map(|head| u64::from(u16::from_le_bytes([head[2], head[3]])) + 1).sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_box_is_ready_once_it_is_offered_and_lacks_nothing() {
        // Roaring bitmaps: {} and {1, 2, 70000}, as the roaring crate writes them.
        let none = "OjAAAAAAAAA=";
        let three = "OjAAAAIAAAAAAAEAAQAAABgAAAAcAAAAAQACAHAR";
        let view = |missing: &str, offered: bool| {
            let report =
                json!({"holds": {"manifest_version": 3, "missing": missing}, "server": {"bytes_sent": 9}});
            BoxView::of(&json!({"appliance": "box-a", "offered": offered, "report": report})).unwrap()
        };
        assert_eq!(view(three, true).missing, Some(3));
        assert!(!view(three, true).ready());
        assert!(!view(none, false).ready());
        assert!(view(none, true).ready());
        assert_eq!(view(none, true).bytes_sent, 9);
    }
}
