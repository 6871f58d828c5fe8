//! This host's part: `oca-control` with one real title, and the configuration files of both sides.
//!
//! The guest is on QEMU's user networking: it reaches this host's 127.0.0.1 as 10.0.2.2, and nothing listens anywhere else.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Places, Site};
use crate::fleet::BoxView;
use crate::process::{Launch, Service};
use crate::stop::Stop;
use crate::{clock, http};

/// The address that `smoke-init` takes, and where the server listens on it.
pub const GUEST_MEDIA: &str = "10.0.2.15:8080";
const HOST: &str = "10.0.2.2";
pub const AGENT_KEY: &str = "smoke-agents-speak-friend\n";
const APPLIANCE: &str = "smoke";
const CLUSTER: &str = "lab";
const START: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_secs(10);

/// The paths are those of the guest.
pub fn box_toml(control: SocketAddr, media: SocketAddr) -> String {
    format!(
        "state = \"/data/state\"\nsocket = \"/run/server.sock\"\n\n[[volume]]\npath = \"/data/volume\"\n\n\
         [server]\nlisten = [\"{GUEST_MEDIA}\"]\nmanagement = \"127.0.0.1:9080\"\nmemory_mib = 64\nway = \"send\"\n\n\
         [agent]\nappliance = \"{APPLIANCE}\"\ncluster = \"{CLUSTER}\"\ncontrol = \"http://{HOST}:{port}\"\n\
         base_url = \"http://{media}\"\nkey_file = \"/etc/agent.key\"\n",
        port = control.port(),
    )
}

/// What the guest is told to fetch from is the public address, so that one is the guest's way to us.
fn control_toml(control: SocketAddr) -> String {
    format!(
        "listen = \"{control}\"\npublic_url = \"http://{HOST}:{port}\"\norigin = \"origin\"\nstate = \"control\"\n\
         terms = \"terms.toml\"\nagent_key_file = \"agent.key\"\n\n[[cluster]]\nname = \"{CLUSTER}\"\n",
        port = control.port(),
    )
}

pub struct Origin {
    service: Service,
    pub url: String,
}

impl Origin {
    pub fn start(stop: &Stop, places: &Places, site: &Site) -> Result<Self> {
        let config = places.run.join("control.toml");
        fs::write(&config, control_toml(site.control))?;
        fs::write(places.run.join("terms.toml"), crate::fleet::TERMS)?;
        fs::write(places.run.join("agent.key"), AGENT_KEY)?;
        let launch = Launch {
            name: "oca-control".to_owned(),
            program: places.binaries.join("oca-control"),
            arguments: vec!["serve".into(), "--config".into(), config.into()],
            log: places.logs.join("oca-control.log"),
        };
        let mut control = Self { service: launch.start()?, url: format!("http://{}", site.control) };
        let health = format!("{}/v1/health", control.url);
        clock::wait_for(stop, "oca-control to answer", START, || {
            control.expect_running()?;
            Ok(http::get(&health, &[], ASK).ok().filter(|answer| answer.status == 200))
        })?;
        Ok(control)
    }

    pub fn expect_running(&mut self) -> Result<()> {
        self.service.expect_running()
    }

    /// What it knows of the guest; None before the guest registered.
    pub fn view(&self) -> Result<Option<BoxView>> {
        let value = http::get_json(&format!("{}/v1/fleet", self.url), ASK).context("the fleet")?;
        Ok(BoxView::list(&value)?.into_iter().find(|view| view.name == APPLIANCE))
    }
}
