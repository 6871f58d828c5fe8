//! `cargo xtask demo --check`: plays to the end, twice, and each time kills the serving appliance in the middle.
//!
//! First with `oca-play`, then in headless Chromium with the player's page. Everything is looked at from outside: what
//! the players report, and every fragment's digest against the origin (`oca-play verify`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::fleet::{BoxView, Fleet};
use crate::process::Launch;
use crate::progress::Line;
use crate::samples::Work;
use crate::stop::Stop;
use crate::webdriver::Browser;
use crate::{clock, http, process};

/// The longest wait after the first frame that nobody sees.
const STALL_MS_MAX: f64 = 250.0;
/// How far ahead the players fetch: little, so that much of a short title is still to come when its box is killed.
const BUFFER_S: &str = "8";
/// A shorter title would be fetched to its end before the kill: 40 % of it, the buffer, and a fragment of 2 s.
const TITLE_MIN: Duration = Duration::from_secs(20);
const ASK: Duration = Duration::from_secs(5);
/// To the first frame, or to the first bytes.
const BEGIN: Duration = Duration::from_secs(30);
/// Beyond a title's duration, to its end.
const GRACE: Duration = Duration::from_secs(30);
/// The check plays titles to their end, twice; nobody waits for a whole film.
const DURATION_MAX: Duration = Duration::from_secs(180);
const FILL: Duration = Duration::from_secs(60);

/// One line of the table at the end.
struct Row {
    what: String,
    figure: String,
    held: bool,
}

/// What a check needs to know of a title.
struct Title {
    slug: String,
    duration: Duration,
}

struct Check<'a> {
    stop: &'a Stop,
    fleet: Fleet,
    /// Reports, fragment lists, pictures.
    folder: PathBuf,
    rows: Vec<Row>,
}

/// Fails unless everything held. Stops the fleet in any case.
pub fn run(stop: &Stop, fleet: Fleet, works: &[Work], data: &Path) -> Result<()> {
    let folder = data.join("check");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut check = Check { stop, fleet, folder, rows: Vec::new() };
    let titles = check.titles(works)?;
    let first = titles.first().context("nothing was published")?;
    if let Some(short) = titles.iter().find(|title| title.duration < TITLE_MIN) {
        let (seconds, least) = (short.duration.as_secs_f64(), TITLE_MIN.as_secs());
        bail!(
            "--check kills a box in the middle of a title, and {} lasts {seconds:.1} s: give films of {least} s at least",
            short.slug
        );
    }
    if let Some(long) = titles.iter().find(|title| title.duration > DURATION_MAX) {
        let (minutes, most) = (long.duration.as_secs() / 60, DURATION_MAX.as_secs() / 60);
        bail!(
            "--check plays titles to their end, and {} lasts {minutes} min: give films of {most} min at most",
            long.slug
        );
    }
    let begin = clock::now();
    check.without_screen(first)?;
    check.in_browser(titles.last().unwrap_or(first))?;
    check.fleet.stop();
    conclude(&check.rows, begin.elapsed())
}

fn conclude(rows: &[Row], time: Duration) -> Result<()> {
    println!("\n  {:<62} {:>22}", "checked", "found");
    for row in rows {
        println!("  {:<62} {:>22}  {}", row.what, row.figure, if row.held { "ok" } else { "FAILED" });
    }
    let failed = rows.iter().filter(|row| !row.held).count();
    println!("\n  {} checks, {failed} failed, in {:.0} s", rows.len(), time.as_secs_f64());
    if failed > 0 {
        bail!("{failed} of {} checks failed", rows.len());
    }
    Ok(())
}

impl Check<'_> {
    fn row(&mut self, what: impl Into<String>, figure: impl Into<String>, held: bool) {
        self.rows.push(Row { what: what.into(), figure: figure.into(), held });
    }

    fn titles(&self, works: &[Work]) -> Result<Vec<Title>> {
        let list = http::get_json(&format!("{}/v1/titles", self.fleet.plan.control_url()), ASK)?;
        let list = list.as_array().context("GET /v1/titles gave no list")?;
        let title = |work: &Work| {
            let found = list.iter().find(|title| title["title"] == work.title.as_str());
            let found = found.with_context(|| format!("oca-control does not offer {}", work.title))?;
            let duration = found["duration_ms"].as_u64().context("a title without duration_ms")?;
            Ok(Title { slug: work.title.clone(), duration: Duration::from_millis(duration) })
        };
        works.iter().map(title).collect()
    }

    /// `oca-play` at playing speed.
    fn without_screen(&mut self, title: &Title) -> Result<()> {
        let report = self.folder.join("oca-play.json");
        let fragments = self.folder.join("oca-play-fragments.json");
        let mut line = Line::new();
        let before = self.fleet.view()?;
        let mut play = self.play_launch(title, &report, &fragments).start()?;
        let start = clock::now();
        let kill_at = kill_time(title);
        let victim = clock::wait_for(self.stop, "oca-play to be in the middle", kill_at + BEGIN, || {
            line.show(&format!("oca-play plays {}", title.slug));
            play.expect_running()?;
            if start.elapsed() < kill_at { Ok(None) } else { Ok(busiest(&before, &self.fleet.view()?)) }
        })?;
        self.fleet.kill_server(&victim)?;
        let limit = title.duration + GRACE;
        let status = clock::wait_for(self.stop, "oca-play to end", limit, || {
            line.show(&format!("{victim} killed, oca-play goes on"));
            play.ended()
        })?;
        line.end(&format!("oca-play ended; {victim} was killed after {} s", kill_at.as_secs()));
        self.judge_play(&victim, status, &read_json(&report)?);
        self.verify("oca-play", title, &fragments)?;
        self.revive(&victim)
    }

    fn play_launch(&self, title: &Title, report: &Path, fragments: &Path) -> Launch {
        let plan = &self.fleet.plan;
        let control = plan.control_url();
        let fixed = [
            "play",
            "--control",
            &control,
            "--title",
            &title.slug,
            "--member",
            "check",
            "--stall-max-ms",
            "250",
            "--buffer-s",
            BUFFER_S,
        ];
        let mut arguments: Vec<OsString> = fixed.iter().map(Into::into).collect();
        arguments.extend(["--json".into(), report.into(), "--fragments".into(), fragments.into()]);
        let program = plan.binaries.join("oca-play");
        Launch { name: "oca-play".to_owned(), program, arguments, log: plan.logs.join("oca-play.log") }
    }

    fn judge_play(&mut self, victim: &str, status: ExitStatus, report: &Value) {
        let code = status.code().map_or_else(|| status.to_string(), |code| format!("code {code}"));
        self.row("oca-play: ended well", code, status.success());
        let position = number(report, "position_ms") / 1000.0;
        self.row("oca-play: played to the end", format!("{position:.1} s"), report["complete"] == true);
        self.row(
            "oca-play: start",
            format!("{:.0} ms", number(report, "start_ms")),
            report["start_ms"].is_u64(),
        );
        let stall = number(report, "stall_ms_max");
        let stalls = report["stalls"].as_array().map_or(0, Vec::len);
        self.row(
            "oca-play: longest stall, at most 250 ms",
            format!("{stall:.0} ms of {stalls}"),
            stall <= STALL_MS_MAX,
        );
        let switches = report["appliance_switches"].as_array().map_or(0, Vec::len);
        let wasted = number(report, "wasted_requests");
        let figure = format!("{switches} switches, {wasted} wasted");
        self.row(format!("oca-play: left {victim} when it was killed"), figure, switches >= 1);
    }

    /// The player's page in headless Chromium.
    fn in_browser(&mut self, title: &Title) -> Result<()> {
        let mut line = Line::new();
        line.show("starting Chromium");
        let browser = Browser::start(self.stop, &self.fleet.plan.run)?;
        browser.open(&format!(
            "{}/?title={}&autoplay=1&check=1&buffer={BUFFER_S}",
            self.fleet.plan.control_url(),
            title.slug
        ))?;
        let state = |wanted: &'static str| {
            let look = browser.evaluate("return window.ocaCheck || null;")?;
            match look["state"].as_str() {
                Some("error") => bail!("the page reports an error: {}", look["error"]),
                Some(state) if state == wanted => Ok(Some(look)),
                _ => Ok(None),
            }
        };
        clock::wait_for(self.stop, "the page to play", BEGIN, || state("playing"))?;
        let kill_at = kill_time(title).as_secs_f64();
        let middle = clock::wait_for(self.stop, "the page to be in the middle", BEGIN.mul_f64(4.0), || {
            let look = state("playing")?;
            line.show(&format!("Chromium plays {}", title.slug));
            Ok(look.filter(|look| number(look, "currentTime") >= kill_at))
        })?;
        browser.screenshot(&self.folder.join("playing.png"))?;
        let victim = middle["serving"].as_str().context("the page does not say who serves")?.to_owned();
        self.fleet.kill_server(&victim)?;
        line.show(&format!("{victim} killed, Chromium goes on"));
        let seen = clock::now();
        let limit = title.duration + GRACE;
        let mut pictured = false;
        let end = clock::wait_for(self.stop, "the page to play to the end", limit, || {
            if !pictured && seen.elapsed() > Duration::from_secs(4) {
                browser.screenshot(&self.folder.join("after-the-kill.png"))?;
                pictured = true;
            }
            state("ended")
        })?;
        line.end(&format!("Chromium played to the end; {victim} was killed at {kill_at:.0} s"));
        drop(browser);
        self.judge_page(title, &victim, &end)?;
        self.revive(&victim)
    }

    fn judge_page(&mut self, title: &Title, victim: &str, end: &Value) -> Result<()> {
        let fragments = self.folder.join("browser-fragments.json");
        fs::write(&fragments, end["fragments"].to_string())?;
        fs::write(self.folder.join("browser.json"), end.to_string())?;
        let (at, duration) = (number(end, "currentTime"), number(end, "duration"));
        let whole = at >= duration - 0.5 && duration >= title.duration.as_secs_f64() - 1.0;
        self.row("browser: played to the end", format!("{at:.1} of {duration:.1} s"), whole);
        let start = number(end, "startMs");
        self.row("browser: start", format!("{start:.0} ms"), start.is_finite());
        let waits = end["waits"].as_array().context("the page reports no waits")?;
        let longest = waits.iter().filter_map(Value::as_f64).fold(0.0, f64::max);
        let held = longest <= STALL_MS_MAX && waits.iter().all(Value::is_number);
        self.row(
            "browser: longest wait, at most 250 ms",
            format!("{longest:.0} ms of {} waits", waits.len()),
            held,
        );
        let switches = number(end, "switches");
        self.row(
            format!("browser: left {victim} when it was killed"),
            format!("{switches} switches"),
            switches >= 1.0,
        );
        self.verify("browser", title, &fragments)
    }

    /// Every fragment byte-exact against the origin, every segment time covered once, and by more than one appliance.
    fn verify(&mut self, player: &str, title: &Title, fragments: &Path) -> Result<()> {
        let plan = &self.fleet.plan;
        let mut command = process::command(&plan.binaries.join("oca-play"), ["verify", "--origin"]);
        command.arg(&plan.origin).arg("--fragments").arg(fragments).arg("--complete");
        command.arg(plan.origin.join("titles").join(&title.slug).join("title.json"));
        let status = process::run(self.stop, command.stdout(Stdio::null()))?;
        let list = read_json(fragments)?;
        let list = list.as_array().with_context(|| format!("{player} gave no list of fragments"))?;
        let figure = format!("{} fragments", list.len());
        self.row(format!("{player}: each fragment as in the origin, none missing"), figure, status.success());
        let mut names: Vec<_> = list.iter().filter_map(|fragment| fragment["appliance"].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        self.row(format!("{player}: served by both appliances"), names.join(", "), names.len() >= 2);
        Ok(())
    }

    /// Starts what was killed, and waits until it serves and is offered again.
    fn revive(&mut self, name: &str) -> Result<()> {
        let mut line = Line::new();
        self.fleet.start_server(name)?;
        self.fleet.wait_until_filled(self.stop, FILL, |text| line.show(text))?;
        line.end(&format!("{name} started again"));
        self.row(format!("{name}: serves again after the kill"), "yes", true);
        Ok(())
    }
}

/// When the appliance is killed: early enough that the players' buffers do not reach the end of a sample.
fn kill_time(title: &Title) -> Duration {
    title.duration.mul_f64(0.4)
}

/// The box that sent most since `before`.
fn busiest(before: &[BoxView], now: &[BoxView]) -> Option<String> {
    let sent_before =
        |name: &str| before.iter().find(|view| view.name == name).map_or(0, |view| view.bytes_sent);
    let sent = |view: &BoxView| view.bytes_sent.saturating_sub(sent_before(&view.name));
    now.iter().max_by_key(|view| sent(view)).filter(|view| sent(view) > 0).map(|view| view.name.clone())
}

fn read_json(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))
}

/// NaN, which no comparison holds for, if there is no such number.
fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_figure_never_holds() {
        let report = serde_json::json!({"waits": [1]});
        let stall = number(&report, "longest_stall_ms");
        let row = Row { what: "stall".to_owned(), figure: stall.to_string(), held: stall <= STALL_MS_MAX };
        assert!(conclude(&[row], Duration::ZERO).is_err());
    }

    #[test]
    fn the_busiest_box_is_the_one_that_sent_since() {
        let view = |name: &str, bytes_sent| BoxView {
            name: name.to_owned(),
            offered: true,
            reason: String::new(),
            manifest_version: 1,
            missing: Some(0),
            bytes_sent,
        };
        let before = [view("box-a", 1_000), view("box-b", 0)];
        assert_eq!(busiest(&before, &[view("box-a", 1_010), view("box-b", 500)]).as_deref(), Some("box-b"));
        assert_eq!(busiest(&before, &before), None);
    }
}
