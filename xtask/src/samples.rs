//! Titles for the demo: the sample titles, or real films that the person names, published into the origin.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::process;
use crate::stop::Stop;

const SECONDS: u32 = 40;
const SAMPLES: [(&str, &str); 2] = [("night-train", "Night Train"), ("harbour-lights", "Harbour Lights")];

/// The one title of the tests and of the smoke boot.
pub const SHORT_FILM: &str = "short-film";
const SHORT_SECONDS: u32 = 12;

/// What to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub title: String,
    pub name: String,
    pub source: PathBuf,
    /// One of ours: made, this long, when it is not there.
    sample_seconds: Option<u32>,
}

/// The titles of these source files; the samples if there are none.
pub fn list(sources: &[PathBuf], data: &Path) -> Result<Vec<Work>> {
    if sources.is_empty() {
        let source = |title: &str| data.join("sources").join(format!("{title}.mkv"));
        let sample = |(title, name): &(&str, &str)| Work {
            title: (*title).to_owned(),
            name: (*name).to_owned(),
            source: source(title),
            sample_seconds: Some(SECONDS),
        };
        return Ok(SAMPLES.iter().map(sample).collect());
    }
    let mut taken = BTreeSet::new();
    sources.iter().map(|source| of_source(source, &mut taken)).collect()
}

fn of_source(source: &Path, taken: &mut BTreeSet<String>) -> Result<Work> {
    let stem = source.file_stem().and_then(|stem| stem.to_str());
    let stem =
        stem.with_context(|| format!("--source {}: its name is not readable text", source.display()))?;
    let slug = slug(stem);
    let title = (1..).map(|count| if count == 1 { slug.clone() } else { format!("{slug}-{count}") });
    let title = title.into_iter().find(|title| taken.insert(title.clone())).context("no title is free")?;
    Ok(Work { title, name: stem.to_owned(), source: source.to_owned(), sample_seconds: None })
}

/// `Some Film (2021)` gives `some-film-2021`.
fn slug(text: &str) -> String {
    let plain: String =
        text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let words: Vec<_> = plain.split('-').filter(|word| !word.is_empty()).collect();
    let slug: String = words.join("-").chars().take(60).collect();
    if slug.is_empty() { "film".to_owned() } else { slug }
}

/// Makes the source if it is a sample, and publishes it. What was published before is found unchanged in a second.
pub fn publish(stop: &Stop, binaries: &Path, origin: &Path, work: &Work) -> Result<()> {
    let media = binaries.join("oca-media");
    eprintln!("      {}", work.name);
    if let Some(seconds) = work.sample_seconds {
        make_sample(stop, &media, work, seconds)?;
    }
    let mut command = process::command(&media, ["publish", "--origin"]);
    command.arg(origin).args(["--title", &work.title, "--name", &work.name]);
    if work.sample_seconds.is_some() {
        command.arg("--label-rungs");
    }
    command.arg(&work.source).stdout(Stdio::null());
    let status = process::run(stop, &mut command)?;
    if !status.success() {
        bail!("oca-media did not publish {} ({status}); its reason is above", work.source.display());
    }
    Ok(())
}

fn make_sample(stop: &Stop, media: &Path, work: &Work, seconds: u32) -> Result<()> {
    if work.source.exists() {
        return Ok(());
    }
    let folder = work.source.parent().context("a sample has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Under another name until it is whole: a killed run must not leave half a sample behind.
    let unfinished = work.source.with_extension("unfinished.mkv");
    let mut command = process::command(media, ["sample", "--out"]);
    command.arg(&unfinished).args(["--name", &work.name, "--seconds", &seconds.to_string()]);
    command.stdout(Stdio::null());
    let status = process::run(stop, &mut command)?;
    if !status.success() {
        bail!("oca-media did not make the sample {} ({status}); its reason is above", work.name);
    }
    fs::rename(&unfinished, &work.source).with_context(|| format!("cannot name {}", work.source.display()))
}

/// An origin at `origin` with one short title: hard links to the one in `kept`, which is made if it is not there. The tests' own
/// (`tests/src/world.rs`) is the same title, so whoever ran them has it already.
pub fn link_short_film(stop: &Stop, binaries: &Path, kept: &Path, origin: &Path) -> Result<()> {
    fs::create_dir_all(kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let lock = File::create(kept.join("lock")).context("the short film's lock")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, cause)| cause)?;
    let work = Work {
        title: SHORT_FILM.to_owned(),
        name: "Short Film".to_owned(),
        source: kept.join("short-film.mkv"),
        sample_seconds: Some(SHORT_SECONDS),
    };
    publish(stop, binaries, &kept.join("origin"), &work)?;
    ["titles", "objects"]
        .iter()
        .try_for_each(|part| link_all(&kept.join("origin").join(part), &origin.join(part)))
}

/// The same files under another root, without copying bytes.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return fs::hard_link(from, to).with_context(|| format!("cannot link {}", to.display()));
    }
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    entries.iter().try_for_each(|entry| link_all(&entry.path(), &to.join(entry.file_name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_files_get_titles_that_are_slugs_and_differ() {
        let sources = ["/a/Some Film (2021).mkv", "/b/some film 2021.mp4", "/c/数.mov"].map(PathBuf::from);
        let titles: Vec<_> =
            list(&sources, Path::new("/data")).unwrap().into_iter().map(|work| work.title).collect();
        assert_eq!(titles, ["some-film-2021", "some-film-2021-2", "film"]);
    }
}
