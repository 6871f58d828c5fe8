//! A headless Chromium, by chromedriver (W3C WebDriver): open a page, ask it things, take a picture.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::process::{Launch, Service};
use crate::stop::Stop;
use crate::{clock, http, ports, workspace};

const START: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_secs(30);

pub struct Browser {
    /// Of the session.
    url: String,
    driver: Service,
}

impl Browser {
    /// Starts chromedriver and a browser. `folder` takes the log and the browser's profile.
    pub fn start(stop: &Stop, folder: &Path) -> Result<Self> {
        let port = ports::any_free(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let program = workspace::find_program("chromedriver").context("no chromedriver on PATH")?;
        let arguments: Vec<OsString> = vec![format!("--port={port}").into()];
        let log = folder.join("chromedriver.log");
        let mut driver = Launch { name: "chromedriver".to_owned(), program, arguments, log }.start()?;
        let base = format!("http://127.0.0.1:{port}");
        clock::wait_for(stop, "chromedriver to answer", START, || {
            driver.expect_running()?;
            Ok(http::get_json(&format!("{base}/status"), ASK).ok())
        })?;
        let answer = post(&format!("{base}/session"), &capabilities(folder)?)?;
        let id = answer["sessionId"].as_str().context("chromedriver gave no session")?;
        Ok(Self { url: format!("{base}/session/{id}"), driver })
    }

    pub fn open(&self, page: &str) -> Result<()> {
        post(&format!("{}/url", self.url), &json!({ "url": page })).map(drop)
    }

    /// The value of `return …;` in the page.
    pub fn evaluate(&self, script: &str) -> Result<Value> {
        post(&format!("{}/execute/sync", self.url), &json!({ "script": script, "args": [] }))
    }

    /// A PNG of what the page shows.
    pub fn screenshot(&self, file: &Path) -> Result<()> {
        let value = http::get_json(&format!("{}/screenshot", self.url), ASK)?;
        let text = value["value"].as_str().context("chromedriver gave no picture")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
        fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser first, in order; if that fails, the driver's group is killed, and orphans are swept up later.
        drop(http::delete(&self.url, ASK));
        self.driver.stop();
    }
}

fn capabilities(folder: &Path) -> Result<Value> {
    let profile = format!("--user-data-dir={}", folder.join("chromium-profile").display());
    let mut arguments = vec![
        "--headless=new",
        "--window-size=1280,1000",
        "--autoplay-policy=no-user-gesture-required",
        "--mute-audio",
        "--disable-gpu",
        // A chroot or a container may have a small /dev/shm or none.
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        &profile,
    ];
    // Chromium refuses to sandbox itself for root. The pages are our own.
    if nix::unistd::geteuid().is_root() {
        arguments.push("--no-sandbox");
    }
    let options = json!({ "args": arguments, "binary": launcher(folder)? });
    Ok(json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } }))
}

/// A script that starts Chromium so that it dies with its driver.
fn launcher(folder: &Path) -> Result<PathBuf> {
    let chromium = workspace::find_program("chromium").context("no chromium on PATH")?;
    let path = folder.join("chromium-launcher");
    let text = format!("#!/bin/sh\nexec setpriv --pdeathsig KILL -- {} \"$@\"\n", chromium.display());
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn post(url: &str, body: &Value) -> Result<Value> {
    let answer = http::post_json(url, body, ASK)?;
    let mut value = answer.json()?;
    if answer.status != 200 {
        bail!("WebDriver refused {url}: {}", value["value"]["message"].as_str().unwrap_or("no reason given"));
    }
    Ok(value["value"].take())
}
