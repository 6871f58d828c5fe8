//! The run as a whole: which groups, what the machine is set to meanwhile, and where the results go.
//!
//! Each group's report is kept in the folder as soon as it is measured; the three files of results are made of all that are
//! kept. So an interrupted run loses one group, and `--rows` measures one again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use xtask::stop::{Interrupted, Stop};
use xtask::workspace;

use crate::lab::Lab;
use crate::options::Options;
use crate::plot;
use crate::results::markdown;
use crate::rows::{GROUPS, LATER, Report};
use crate::servers::NGINX;
use crate::setting::{Setting, chosen};

const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

pub fn run(options: Options) -> Result<()> {
    let stop = Stop::on_signals()?;
    raise_open_files()?;
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => workspace::target()?.join("bench-serve"),
    };
    // A group's whole name means it alone: hot-1 is not hot-100.
    let whole = GROUPS.iter().any(|(name, _)| *name == options.rows);
    let fits = |name: &str| if whole { name == options.rows } else { name.contains(&options.rows) };
    let wanted: Vec<_> = GROUPS.into_iter().filter(|(name, _)| fits(name)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("--rows {:?} is in none of: {}", options.rows, names.join(", "));
    }
    eprintln!("==> files in {}", folder.display());
    let lab = Lab::new(options, &folder, stop)?;
    fs::create_dir_all(&lab.folder)?;
    let results = Results::new(&lab)?;
    // As the appliance's own kernel is set. It is part of what the machine is told to be, and of no program's configuration.
    let huge = Setting::set(SHMEM_HUGE, "advise", |took| took == "advise");
    if huge.is_none() {
        eprintln!("      {SHMEM_HUGE} cannot be set to advise: oca-appliance goes without huge pages");
    }
    let mut failed = Vec::new();
    for (name, measure) in wanted {
        eprintln!("==> {name}");
        let facts = machine(&lab.options);
        match measure(&lab) {
            Ok(report) => results.keep(name, &Report { facts: [facts, report.facts].concat(), ..report })?,
            Err(cause) if cause.is::<Interrupted>() => return Err(cause),
            Err(cause) => {
                eprintln!("      {name} FAILED: {cause:#}");
                failed.push(name);
            }
        }
    }
    drop(huge);
    if failed.is_empty() { Ok(()) } else { bail!("not measured: {}", failed.join(", ")) }
}

/// A thousand connections and more: this process and those that it starts may open all that they could be allowed.
pub fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit on open files")
}

struct Results {
    /// One report a group.
    kept: PathBuf,
    /// Where the files for people and programs go.
    written: PathBuf,
}

impl Results {
    fn new(lab: &Lab) -> Result<Self> {
        let folder = lab.folder.parent().context("the run has a folder of its own")?;
        let results = if lab.options.quick {
            let quick = folder.join("quick");
            Self { kept: quick.join("groups"), written: quick }
        } else {
            Self { kept: folder.join("groups"), written: workspace::root().join("bench/results") }
        };
        fs::create_dir_all(&results.kept)?;
        fs::create_dir_all(&results.written)?;
        Ok(results)
    }

    fn path(&self, group: &str) -> PathBuf {
        self.kept.join(format!("{group}.json"))
    }

    fn keep(&self, group: &str, report: &Report) -> Result<()> {
        fs::write(self.path(group), serde_json::to_vec_pretty(report)?)?;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let (mut comparisons, mut facts) = (Vec::new(), Vec::<String>::new());
        for (name, _) in GROUPS {
            if let Some(report) = read(&self.path(name)) {
                comparisons.extend(report.comparisons);
                for fact in report.facts {
                    if !facts.contains(&fact) {
                        facts.push(fact);
                    }
                }
            }
        }
        facts.extend(LATER.iter().map(|(name, why)| format!("{name}: {why}")));
        let rows: Vec<_> = comparisons.iter().flat_map(|comparison| comparison.rows()).collect();
        fs::write(self.written.join("serve.json"), serde_json::to_string_pretty(&rows)? + "\n")?;
        fs::write(self.written.join("serve.md"), markdown(&facts, &comparisons))?;
        fs::write(self.written.join("serve.svg"), plot::svg(&comparisons))?;
        eprintln!("      written: {}/serve.{{json,md,svg}}", self.written.display());
        Ok(())
    }
}

/// None: not measured yet, or by another version of this program.
fn read(path: &Path) -> Option<Report> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// What the figures depend on.
fn machine(options: &Options) -> Vec<String> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = text("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok();
        let both = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&both).lines().next().unwrap_or("unknown").to_owned()
    };
    vec![
        format!(
            "Linux {}, {} × {}; huge pages of shmem: {}",
            text("/proc/sys/kernel/osrelease"),
            std::thread::available_parallelism().map_or(1, usize::from),
            model.map_or("unknown", |(_, model)| model.trim()),
            chosen(&text(SHMEM_HUGE))
        ),
        format!("{}; {}", version(NGINX, "-v"), version("fio", "--version")),
        format!(
            "{} rounds of {} s in turn; server on core 0, load generator on core 1, over loopback; {} MiB hot, {} MiB cold, \
             {} MiB of memory for blocks, nginx with all the machine's page cache",
            options.pairs,
            options.window.as_secs_f64(),
            options.hot_mib,
            options.cold_mib,
            options.memory_mib
        ),
    ]
}
