//! `cargo xtask ci`: every check a commit must pass, each with its time. `.ci/run` calls this.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::stop::Stop;
use crate::workspace::Profile;
use crate::{boot, clock, demo, fuzz, packages, process, suite, torture, workspace};

type Step = (&'static str, fn(&Stop) -> Result<()>);

/// The quick ones first.
const STEPS: [Step; 10] = [
    ("format", format),
    ("links", links),
    ("lints", lints),
    ("licences", licences),
    ("player", bundle),
    ("test suite", tests),
    ("fuzz", |stop| fuzz::run(stop, &fuzz::Options { yes: true, ..fuzz::Options::default() })),
    ("torture", |stop| torture::run(stop, torture::Options { points: 20, seed: None, yes: true })),
    ("demo check", demo_check),
    ("smoke boot", smoke_boot),
];

/// Runs all, even after one fails, so that one run tells everything.
pub fn run(stop: &Stop, yes: bool) -> Result<()> {
    packages::ensure(&packages::NODE, yes)?;
    let begin = clock::now();
    let mut rows = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n===== {name}");
        let start = clock::now();
        let result = step(stop);
        stop.check()?;
        if let Err(cause) = &result {
            eprintln!("===== {name} FAILED: {cause:#}");
        }
        rows.push((name, start.elapsed(), result.is_ok()));
    }
    println!("\ncargo xtask ci");
    for (name, time, passed) in &rows {
        println!("  {} {name:<14} {:>6.1} s", if *passed { "ok    " } else { "FAILED" }, time.as_secs_f64());
    }
    let failed = rows.iter().filter(|(_, _, passed)| !passed).count();
    println!("  {} steps, {failed} failed, in {:.1} s", rows.len(), begin.elapsed().as_secs_f64());
    if failed > 0 {
        bail!("{failed} of {} steps failed", rows.len());
    }
    Ok(())
}

fn format(stop: &Stop) -> Result<()> {
    suite::cargo(stop, &["fmt", "--all", "--check"])
}

fn lints(stop: &Stop) -> Result<()> {
    suite::cargo(stop, &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])
}

/// Licences, bans and sources need nothing from outside; advisories need their database.
fn licences(stop: &Stop) -> Result<()> {
    if workspace::find_program("cargo-deny").is_none() {
        eprintln!("      installing cargo-deny (once)");
        suite::cargo(stop, &["install", "--locked", "cargo-deny"])?;
    }
    suite::cargo(stop, &["deny", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])?;
    if !advisories_reachable(stop)? {
        eprintln!("  !!  ADVISORIES NOT CHECKED: their database cannot be reached from here");
        return Ok(());
    }
    suite::cargo(stop, &["deny", "check", "advisories"])
}

fn advisories_reachable(stop: &Stop) -> Result<bool> {
    let ask = ["20", "git", "ls-remote", "--quiet", "https://github.com/rustsec/advisory-db", "HEAD"];
    let mut command = process::command(Path::new("timeout"), ask);
    Ok(process::run(stop, command.stdout(Stdio::null()).stderr(Stdio::null()))?.success())
}

/// The committed bundle is what the sources give.
fn bundle(stop: &Stop) -> Result<()> {
    let player = workspace::root().join("player");
    let before = read_folder(&player.join("dist"))?;
    suite::prepare_player(stop)?;
    for script in ["check", "build"] {
        let mut command = process::command(Path::new("npm"), ["run", "--silent", script]);
        let status = process::run(stop, command.current_dir(&player))?;
        if !status.success() {
            bail!("npm run {script} failed ({status})");
        }
    }
    let after = read_folder(&player.join("dist"))?;
    let changed: Vec<_> =
        before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
    if let Some(name) = changed.first() {
        bail!(
            "player/dist/{} is not what the sources give: commit what `npm run build` has just written",
            name.display()
        );
    }
    Ok(())
}

/// Relative path to bytes.
fn read_folder(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it was found below this folder").to_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// Every relative link of every tracked Markdown file leads to a file.
fn links(_stop: &Stop) -> Result<()> {
    let root = workspace::root();
    let output = Command::new("git")
        .args(["ls-files", "*.md"])
        .current_dir(&root)
        .output()
        .context("cannot run git")?;
    let mut dead = Vec::new();
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in list.lines() {
        let text = fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))?;
        let folder = root.join(name);
        let folder = folder.parent().expect("a file is in a folder");
        dead.extend(
            relative_links(&text)
                .filter(|link| !folder.join(link).exists())
                .map(|link| format!("{name}: {link}")),
        );
    }
    if !dead.is_empty() {
        bail!("links that lead nowhere:\n  {}", dead.join("\n  "));
    }
    eprintln!("      {} files", list.lines().count());
    Ok(())
}

/// The targets of `](target)` that are files, without their anchors.
fn relative_links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let files = targets.map(|target| target.split_once('#').map_or(target, |(file, _)| file));
    files.filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
}

/// A third of the suite's time is spent waiting, for sockets, clocks and deadlines. Meanwhile the fuzz targets are built.
fn tests(stop: &Stop) -> Result<()> {
    fuzz::prepare(stop, true)?;
    let ahead = {
        let stop = stop.clone();
        std::thread::spawn(move || fuzz::build_ahead(&stop))
    };
    let tested = suite::run(stop, true);
    ahead.join().map_err(|_| anyhow::anyhow!("the thread that builds ahead panicked"))??;
    tested
}

/// Here and in the boot, not a release build, which would take as long as the suite: what is looked for is the same in both.
fn demo_check(stop: &Stop) -> Result<()> {
    let options = demo::Options { yes: true, check: true, profile: Profile::Dev, ..demo::Options::default() };
    demo::run(stop, &options)
}

fn smoke_boot(stop: &Stop) -> Result<()> {
    boot::run(stop, &boot::Options { yes: true, keep: false, profile: Profile::Dev })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_files_are_looked_up() {
        let text =
            "[a](docs/a.md) ![b](b.png#x) [c](https://x.example/) [d](#here) [e](mailto:x@example.org)";
        assert_eq!(relative_links(text).collect::<Vec<_>>(), ["docs/a.md", "b.png"]);
    }
}
