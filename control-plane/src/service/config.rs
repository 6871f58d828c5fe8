//! The configuration file of `oca-control` and the files that it names: read once, at the start, and checked whole.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use content::id::{ClusterId, TitleId};
use content::title::Term;
use jiff::SignedDuration;
use serde::Deserialize;

use crate::licence::TermsTable;
use crate::snapshot::Cluster;

/// A shorter secret can be guessed.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_BYTES_MAX: usize = 1024;
const TOKEN_LIFETIME_DEFAULT_S: u32 = 6 * 3600;

pub struct Config {
    /// For messages.
    pub file: PathBuf,
    pub listen: SocketAddr,
    /// None: that of the address it listens on.
    pub public_url: Option<String>,
    pub origin: PathBuf,
    pub state: PathBuf,
    pub terms: TermsTable,
    pub agent_key: Secret,
    /// None: operator's requests need no key; keep `listen` on the loopback then.
    pub operator_key: Option<Secret>,
    pub token_lifetime: SignedDuration,
    pub clusters: BTreeMap<ClusterId, Cluster>,
    /// How often the origin is read again.
    pub refresh: std::time::Duration,
}

/// A bearer secret; never printed, compared without telling where two differ.
#[derive(Clone)]
pub struct Secret(blake3::Hash);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// `blake3::Hash` compares in constant time, and hashing hides the length.
    pub fn is(&self, presented: &str) -> bool {
        self.0 == blake3::hash(presented.as_bytes())
    }
}

/// One line each: file, key, cure.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the file {file} cannot be read: {cause}; give its path with --config FILE")]
    Unreadable { file: String, cause: std::io::Error },
    #[error("{file}:{line}: {what}")]
    Malformed { file: String, line: usize, what: String },
    #[error("{file}: key `{key}`: {what}; {cure}")]
    Value { file: String, key: &'static str, what: String, cure: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    listen: String,
    public_url: Option<String>,
    origin: PathBuf,
    state: PathBuf,
    terms: Option<PathBuf>,
    agent_key_file: PathBuf,
    operator_key_file: Option<PathBuf>,
    token_lifetime_s: Option<u32>,
    refresh_ms: Option<u32>,
    #[serde(default)]
    cluster: Vec<FileCluster>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCluster {
    name: String,
    territory: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTerms {
    #[serde(default)]
    title: Vec<FileTitle>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTitle {
    title: String,
    #[serde(default)]
    term: Vec<Term>,
}

impl Config {
    /// Reads the file, the terms and the keys that it names. Relative paths are relative to the file's folder.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let parsed: FileConfig = parse_file(file)?;
        let at = |path: &Path| file.parent().unwrap_or(Path::new("")).join(path);
        let wrong = Wrong { file };
        let listen = SocketAddr::from_str(&parsed.listen);
        let listen = listen.map_err(|_| {
            wrong.value(
                "listen",
                format!("{:?} is no address", parsed.listen),
                "give IP:PORT, such as \"127.0.0.1:8000\"",
            )
        })?;
        if listen.ip().is_unspecified() && parsed.public_url.is_none() {
            let what = format!("missing, and {listen} is no address that others could use");
            return Err(wrong.value(
                "public_url",
                what,
                "give http://HOST:PORT as players and agents reach it",
            ));
        }
        let secret = |key, path: &Path| read_secret(&wrong, key, &at(path));
        let operator_key = parsed.operator_key_file.as_deref().map(|path| secret("operator_key_file", path));
        Ok(Self {
            file: file.to_owned(),
            listen,
            public_url: parsed.public_url.map(|url| check_public_url(&wrong, url)).transpose()?,
            origin: at(&parsed.origin),
            state: at(&parsed.state),
            terms: parsed.terms.map(|path| read_terms(&wrong, &at(&path))).transpose()?.unwrap_or_default(),
            agent_key: secret("agent_key_file", &parsed.agent_key_file)?,
            operator_key: operator_key.transpose()?,
            token_lifetime: token_lifetime(&wrong, parsed.token_lifetime_s)?,
            clusters: read_clusters(&wrong, parsed.cluster)?,
            refresh: refresh(&wrong, parsed.refresh_ms)?,
        })
    }
}

struct Wrong<'a> {
    file: &'a Path,
}

impl Wrong<'_> {
    fn value(&self, key: &'static str, what: String, cure: &'static str) -> ConfigError {
        ConfigError::Value { file: self.file.display().to_string(), key, what, cure }
    }
}

fn parse_file<T: for<'de> Deserialize<'de>>(file: &Path) -> Result<T, ConfigError> {
    let name = || file.display().to_string();
    let text = fs::read_to_string(file).map_err(|cause| ConfigError::Unreadable { file: name(), cause })?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        let line = before.bytes().filter(|&byte| byte == b'\n').count().saturating_add(1);
        // The message may have lines of its own; an operator's error is one.
        let what = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        ConfigError::Malformed { file: name(), line, what }
    })
}

fn check_public_url(wrong: &Wrong<'_>, url: String) -> Result<String, ConfigError> {
    let url = url.trim_end_matches('/').to_owned();
    if is_base_url(&url) {
        return Ok(url);
    }
    let cure = if url.starts_with("https://") {
        "give http://HOST:PORT; agents and oca-play do not speak TLS yet"
    } else {
        "give http://HOST:PORT, as players and agents reach it"
    };
    Err(wrong.value("public_url", format!("{url:?} is no address of that form"), cure))
}

/// `http://host:port` with nothing that would break out of a URL, a playlist's quotes or a log line. Not `https://`: the
/// agents and `oca-play` speak plain HTTP only, so a fleet behind such an address could neither fill nor be played from.
pub fn is_base_url(url: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    url.strip_prefix("http://")
        .is_some_and(|rest| (1..=200).contains(&rest.len()) && rest.bytes().all(allowed))
}

fn read_secret(wrong: &Wrong<'_>, key: &'static str, path: &Path) -> Result<Secret, ConfigError> {
    const CURE: &str = "write one there: head -c 32 /dev/urandom | base64 -w0";
    let text = fs::read_to_string(path)
        .map_err(|cause| wrong.value(key, format!("{} cannot be read: {cause}", path.display()), CURE))?;
    let text = text.trim();
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len()) || !printable {
        let what = format!("{} holds no secret of 16 to 1024 printable characters", path.display());
        return Err(wrong.value(key, what, CURE));
    }
    Ok(Secret::new(text))
}

fn token_lifetime(wrong: &Wrong<'_>, seconds: Option<u32>) -> Result<SignedDuration, ConfigError> {
    let seconds = seconds.unwrap_or(TOKEN_LIFETIME_DEFAULT_S);
    if !(60..=30 * 24 * 3600).contains(&seconds) {
        let cure = "give seconds from 60 to 2592000; a token always lives twice its title's duration";
        return Err(wrong.value("token_lifetime_s", seconds.to_string(), cure));
    }
    Ok(SignedDuration::from_secs(i64::from(seconds)))
}

fn refresh(wrong: &Wrong<'_>, ms: Option<u32>) -> Result<std::time::Duration, ConfigError> {
    let ms = ms.unwrap_or(2_000);
    if !(50..=3_600_000).contains(&ms) {
        return Err(wrong.value("refresh_ms", ms.to_string(), "give milliseconds from 50 to 3600000"));
    }
    Ok(std::time::Duration::from_millis(u64::from(ms)))
}

fn read_clusters(
    wrong: &Wrong<'_>,
    listed: Vec<FileCluster>,
) -> Result<BTreeMap<ClusterId, Cluster>, ConfigError> {
    let mut clusters = BTreeMap::new();
    for each in listed {
        let name: ClusterId = each.name.parse().map_err(|cause: content::id::NameError| {
            wrong.value("cluster.name", cause.to_string(), "choose another name")
        })?;
        if each.territory.as_ref().is_some_and(|territory| !is_territory(territory)) {
            let what = format!("{:?} is no territory", each.territory.unwrap_or_default());
            return Err(wrong.value(
                "cluster.territory",
                what,
                "give two upper-case letters, such as \"SE\"",
            ));
        }
        if clusters.insert(name.clone(), Cluster { territory: each.territory }).is_some() {
            return Err(wrong.value(
                "cluster.name",
                format!("{name} is named twice"),
                "name each cluster once",
            ));
        }
    }
    if clusters.is_empty() {
        return Err(wrong.value("cluster", "there is none".to_owned(), "add a [[cluster]] with a name"));
    }
    Ok(clusters)
}

fn is_territory(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn read_terms(named_in: &Wrong<'_>, file: &Path) -> Result<TermsTable, ConfigError> {
    let wrong = Wrong { file };
    let parsed: FileTerms = parse_file(file).map_err(|error| match error {
        // It is the key that is wrong, not the option that names the configuration file.
        ConfigError::Unreadable { file, cause } => {
            let what = format!("{file} cannot be read: {cause}");
            named_in.value("terms", what, "name a file that is there, or leave the key out")
        }
        other => other,
    })?;
    let mut table = TermsTable::default();
    for each in parsed.title {
        for territory in each.term.iter().flat_map(|term| &term.territories) {
            if territory != "*" && !is_territory(territory) {
                let cure = "give two upper-case letters, or \"*\" for the whole world";
                return Err(wrong.value(
                    "title.term.territories",
                    format!("{territory:?} of {}", each.title),
                    cure,
                ));
            }
        }
        let twice = if each.title == "*" {
            table.of_others.replace(each.term).is_some()
        } else {
            let title: TitleId = each.title.parse().map_err(|cause: content::id::NameError| {
                wrong.value(
                    "title.title",
                    cause.to_string(),
                    "give the title's slug, or \"*\" for all others",
                )
            })?;
            table.of_title.insert(title, each.term).is_some()
        };
        if twice {
            let what = format!("{:?} is named twice", each.title);
            return Err(wrong.value(
                "title.title",
                what,
                "name each title once and give it several [[title.term]]",
            ));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
listen = "127.0.0.1:8000"
public_url = "http://127.0.0.1:8000/"
origin = "origin"
state = "state"
terms = "terms.toml"
agent_key_file = "agent.key"
[[cluster]]
name = "lab"
territory = "SE"
"#;
    const TERMS: &str = r#"
[[title]]
title = "*"
[[title.term]]
territories = ["*"]
from = "2020-01-01T00:00:00Z"
[[title]]
title = "film"
"#;

    fn read(config: &str, terms: &str, key: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("control.toml"), config).unwrap();
        fs::write(folder.path().join("terms.toml"), terms).unwrap();
        fs::write(folder.path().join("agent.key"), key).unwrap();
        Config::read(&folder.path().join("control.toml"))
    }

    #[test]
    fn a_good_file_is_read_with_the_files_that_it_names() {
        let config = read(GOOD, TERMS, "0123456789abcdef\n").unwrap();
        assert_eq!(config.public_url.as_deref(), Some("http://127.0.0.1:8000"));
        assert!(config.agent_key.is("0123456789abcdef") && !config.agent_key.is("0123456789abcdeg"));
        assert_eq!(config.terms.of_others.unwrap().len(), 1);
        assert_eq!(config.terms.of_title.len(), 1);
        assert!(config.origin.is_absolute());
    }

    #[test]
    fn every_fault_is_one_line_with_file_key_and_cure() {
        let key = "0123456789abcdef";
        let faults = [
            (GOOD.replace("listen", "lisen"), TERMS.to_owned(), key, "control.toml", "lisen"),
            (GOOD.replace(":8000\"", "\""), TERMS.to_owned(), key, "control.toml", "`listen`"),
            (GOOD.replace("http://", "ftp://"), TERMS.to_owned(), key, "control.toml", "`public_url`"),
            (
                GOOD.replace("http://", "https://"),
                TERMS.to_owned(),
                key,
                "control.toml",
                "do not speak TLS yet",
            ),
            (
                GOOD.replace("127.0.0.1:8000\"\npublic_url = \"http://127.0.0.1:8000/\"", "0.0.0.0:8000\""),
                TERMS.to_owned(),
                key,
                "control.toml",
                "`public_url`",
            ),
            (GOOD.replace("[[cluster]]", "[[cluster"), TERMS.to_owned(), key, "control.toml:8", ""),
            (GOOD.replace("lab", "Lab"), TERMS.to_owned(), key, "control.toml", "`cluster.name`"),
            (GOOD.replace("\"SE\"", "\"se\""), TERMS.to_owned(), key, "control.toml", "`cluster.territory`"),
            (GOOD.split("[[").next().unwrap().to_owned(), TERMS.to_owned(), key, "control.toml", "`cluster`"),
            (
                format!("token_lifetime_s = 5\n{GOOD}"),
                TERMS.to_owned(),
                key,
                "control.toml",
                "`token_lifetime_s`",
            ),
            (
                GOOD.replace("agent.key", "none.key"),
                TERMS.to_owned(),
                key,
                "control.toml",
                "`agent_key_file`",
            ),
            (GOOD.to_owned(), TERMS.to_owned(), "short", "control.toml", "`agent_key_file`"),
            (GOOD.replace("terms.toml", "none.toml"), TERMS.to_owned(), key, "none.toml", "cannot be read"),
            (
                GOOD.to_owned(),
                TERMS.replace("[\"*\"]", "[\"Sweden\"]"),
                key,
                "terms.toml",
                "`title.term.territories`",
            ),
            (GOOD.to_owned(), TERMS.replace("film", "*"), key, "terms.toml", "`title.title`"),
            (GOOD.to_owned(), TERMS.replace("from", "since"), key, "terms.toml:6", "since"),
        ];
        for (config, terms, key, file, word) in faults {
            let Err(error) = read(&config, &terms, key) else { panic!("{word} went unnoticed") };
            let text = error.to_string();
            assert!(
                text.contains(file) && text.contains(word) && !text.contains('\n'),
                "{file} {word}: {text}"
            );
        }
    }
}
