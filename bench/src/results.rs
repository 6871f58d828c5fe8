//! Rows of `bench/results/catalogue.json`: what the design asks for, beside what was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use xtask::workspace;

const NONE: &str = "";
type Figures = BTreeMap<String, Vec<f64>>;

/// After `cargo bench --bench catalogue`.
pub fn catalogue() -> Result<()> {
    let target = std::env::current_exe()?;
    let target = target.parent().and_then(Path::parent).context("a program is in target/release")?;
    let file = target.join("tmp/catalogue.built");
    let built = task(&["build", file.to_str().context("a path in UTF-8")?]);
    fs::remove_file(&file)?;
    let (built, swapped) = (built?, task(&["swap"])?);
    let look = |name: &str| look_up(&target.join("criterion"), name);
    let mut rows = Vec::new();
    for (kind, words) in [("hit", "a held path"), ("miss", "an absent path")] {
        let work = format!("look-up of {words} among 10 million, warm, each waiting for the one before");
        for (peer, against) in [("hash map", "std HashMap"), ("array", "binary search in a sorted array")] {
            rows.push(row(&work, against, look(kind)?, "ns", Some(300.0)));
            rows.push(row(
                &format!("the same by {against}"),
                NONE,
                look(&format!("{peer} {kind}"))?,
                "ns",
                None,
            ));
        }
    }
    let floor = "one record of it by its place: what memory takes here";
    rows.push(row(floor, NONE, look("one record")?, "ns", None));
    rows.push(row("look-up of a held path and its file", NONE, look("hit and file")?, "ns", Some(300.0)));
    let mib = 1024.0 * 1024.0;
    let build = "10 million entries and 1 million files: sort, write, sync";
    rows.push(row(build, NONE, median(&built, "build_s")?, "s", Some(60.0)));
    rows.push(row(
        "the same, peak memory of the process",
        NONE,
        median(&built, "peak_bytes")? / mib,
        "MiB",
        Some(2048.0),
    ));
    let verify = estimate(&target.join("criterion/verify"))? / 1e9;
    rows.push(row("every page and reference of it checked, in memory", NONE, verify, "s", None));
    rows.push(row(
        "read, lock, check, index and swap it in the server",
        NONE,
        median(&swapped, "publish_s")?,
        "s",
        None,
    ));
    let quiet = median(&swapped, "quiet_us")? / 1000.0;
    let longest = median(&swapped, "swap_us")? / 1000.0;
    let work = "longest wait for 512 bytes on 4 connections while it is swapped, and the old one freed";
    rows.push(row(work, &format!("{quiet:.1} ms undisturbed"), longest, "ms", Some(250.0)));
    let path = workspace::root().join("bench/results/catalogue.json");
    fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")?;
    rows.iter().for_each(|row| println!("{row}"));
    Ok(())
}

/// `reach`: at most this; none where nothing is asked.
fn row(work: &str, against: &str, value: f64, unit: &str, reach: Option<f64>) -> Value {
    let met = reach.map(|reach| value <= reach);
    let value = (value * 100.0).round() / 100.0;
    json!({"work": work, "against": against, "value": value, "unit": unit, "reach": reach, "met": met})
}

/// The lines that the task prints, by their first word.
fn task(arguments: &[&str]) -> Result<Figures> {
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut figures = Figures::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("{line}");
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            figures.entry(name.to_owned()).or_default().push(value);
        }
    }
    Ok(figures)
}

fn median(figures: &Figures, name: &str) -> Result<f64> {
    middle(figures.get(name).with_context(|| format!("no {name}"))?)
}

fn middle(values: &[f64]) -> Result<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was measured")
}

/// The median round of criterion's medians, in ns.
fn look_up(criterion: &Path, name: &str) -> Result<f64> {
    let rounds = (1..4).map(|round| estimate(&criterion.join(format!("{name}_round {round}"))));
    middle(&rounds.collect::<Result<Vec<_>>>()?)
}

fn estimate(folder: &Path) -> Result<f64> {
    let path = folder.join("new/estimates.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{}: run the bench first", path.display()))?;
    let estimates: Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"].as_f64().context("criterion wrote no median")
}
