//! What the disk gives: fio over the very files that are served, O_DIRECT, in any order, each piece once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xtask::process;
use xtask::stop::Stop;

use crate::setting::Setting;

/// Pages of 2 MiB for fio's buffers: a depth of 16 blocks of 2 MiB, and as much to spare.
const HUGE_PAGES: &str = "32";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub block_mib: u32,
    pub depth: u32,
}

pub const SHAPES: [Shape; 4] = [
    Shape { block_mib: 1, depth: 8 },
    Shape { block_mib: 1, depth: 16 },
    Shape { block_mib: 2, depth: 8 },
    Shape { block_mib: 2, depth: 16 },
];

/// fio with buffers in huge pages, if the kernel has any to reserve.
pub struct Fio {
    huge: Option<Setting>,
}

impl Fio {
    pub fn new() -> Self {
        let enough = |took: &str| took.parse::<u32>().is_ok_and(|count| count >= 32);
        Self { huge: Setting::set("/proc/sys/vm/nr_hugepages", HUGE_PAGES, enough) }
    }

    /// For the report.
    pub fn buffers(&self) -> &'static str {
        match self.huge {
            Some(_) => "buffers in reserved huge pages (mem=mmaphuge)",
            None => "buffers in pages of 4 KiB: huge pages could not be reserved",
        }
    }

    /// Bytes a second, over at most `window`.
    pub fn run(
        &self,
        stop: &Stop,
        files: &Path,
        shape: Shape,
        window: Duration,
        seed: u64,
        output: &Path,
    ) -> Result<f64> {
        let arguments = [
            "--name=cold".to_owned(),
            format!("--opendir={}", files.display()),
            "--rw=randread".to_owned(),
            "--direct=1".to_owned(),
            "--ioengine=io_uring".to_owned(),
            "--file_service_type=random".to_owned(),
            format!("--bs={}m", shape.block_mib),
            format!("--iodepth={}", shape.depth),
            format!("--mem={}", if self.huge.is_some() { "mmaphuge" } else { "mmap" }),
            format!("--runtime={}ms", window.as_millis()),
            format!("--randseed={seed}"),
            "--output-format=json".to_owned(),
            format!("--output={}", output.display()),
        ];
        let status = process::run(stop, &mut process::command(Path::new("fio"), arguments))?;
        let text = fs::read_to_string(output).context("fio wrote nothing")?;
        ensure!(status.success(), "fio failed ({status}): {text}");
        bandwidth(&text)
    }
}

impl Default for Fio {
    fn default() -> Self {
        Self::new()
    }
}

/// fio may put notes before its JSON.
fn bandwidth(text: &str) -> Result<f64> {
    let start = text.find('{').context("fio gave no JSON")?;
    let value: Value = serde_json::from_str(&text[start..]).context("fio gave no JSON")?;
    let found = value["jobs"][0]["read"]["bw_bytes"].as_f64();
    found.filter(|bytes| *bytes > 0.0).context("fio read nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bandwidth_is_found_behind_notes() {
        let text = "note: something\n{\"jobs\": [{\"read\": {\"bw_bytes\": 1500000000}}]}";
        assert!((bandwidth(text).unwrap() - 1.5e9).abs() < 1.0);
        assert!(bandwidth("{\"jobs\": []}").is_err());
        assert!(bandwidth("nothing").is_err());
    }
}
