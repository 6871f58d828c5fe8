//! What the kernel says of a process: its processor time, its memory, what it had from disks. Reads /proc.

use std::fs;

use anyhow::{Context as _, Result};

/// USER_HZ: 100 on every architecture that we build for (Linux, `asm-generic/param.h`).
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of all threads of these processes together, in seconds. To 10 ms a process.
pub fn cpu_s(processes: &[u32]) -> Result<f64> {
    let each = processes.iter().map(|process| {
        let path = format!("/proc/{process}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        cpu_ticks(&text).with_context(|| format!("{path}: {text:?}"))
    });
    Ok(each.sum::<Result<u32>>().map(f64::from)? / TICKS_PER_SECOND)
}

/// proc_pid_stat(5): fields 14 and 15; field 2 is the name in parentheses and may hold anything.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// What all threads of these processes together have had read from disks, in bytes (proc_pid_io(5), read_bytes).
pub fn read_bytes(processes: &[u32]) -> Result<u64> {
    let each = processes.iter().map(|process| {
        let path = format!("/proc/{process}/io");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let found = text.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse::<u64>().ok());
        found.with_context(|| format!("{path} has no read_bytes"))
    });
    each.sum()
}

/// Memory of their own that these processes have together, in bytes: anonymous pages, not files and not shared memory
/// (proc_pid_status(5), RssAnon).
pub fn own_bytes(processes: &[u32]) -> Result<u64> {
    let each = processes.iter().map(|process| {
        let path = format!("/proc/{process}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        rss_anon(&text).with_context(|| format!("{path} has no RssAnon"))
    });
    each.sum()
}

fn rss_anon(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The children of a process's first thread.
pub fn children(process: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    Ok(text.split_whitespace().filter_map(|id| id.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 125 9 9 20 0 3 0 5 1 2";
        assert_eq!(cpu_ticks(stat), Some(375));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        assert!(cpu_s(&[std::process::id()]).unwrap() >= 0.0);
    }

    #[test]
    fn own_memory_is_anonymous_memory() {
        assert_eq!(rss_anon("VmRSS:\t 9 kB\nRssAnon:\t    12 kB\nRssFile:\t 7 kB\n"), Some(12 << 10));
        assert!(own_bytes(&[std::process::id()]).unwrap() > 0);
    }
}
