//! What machine this is: for what was measured on it, and for what its network cards carry. Reads /proc and /sys.

use std::fs;
use std::path::Path;

/// Tells this kernel on this hardware, so set up, from any other.
pub fn name() -> String {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = text("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown", |(_, model)| model.trim());
    format!(
        "Linux {}, {} × {model}, {}, huge pages of shmem: {}",
        text("/proc/sys/kernel/osrelease"),
        std::thread::available_parallelism().map_or(1, usize::from),
        text("/sys/class/dmi/id/product_name"),
        selected(&text("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
    )
}

/// "always [never]" gives "never".
fn selected(choices: &str) -> &str {
    choices.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(chosen, _)| chosen)
}

/// Bits per second that all network cards with a link carry together; None: none says so.
pub fn link_bits_per_second() -> Option<u64> {
    links_in(Path::new("/sys/class/net"))
}

fn links_in(folder: &Path) -> Option<u64> {
    let interfaces = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    // Bonds, bridges and the like have no device of their own; what is below them has.
    let cards = interfaces.filter(|path| path.join("device").exists());
    let speeds =
        cards.filter_map(|path| fs::read_to_string(path.join("speed")).ok()?.trim().parse::<u64>().ok());
    // Linux, Documentation/ABI/testing/sysfs-class-net: Mbit/s; what is not known is −1, which is no u64.
    let sum = speeds.fold(0u64, |sum, speed| sum.saturating_add(speed.saturating_mul(1_000_000)));
    (sum > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_with_a_link_add_up_and_what_is_no_card_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        for (name, card, speed) in [
            ("eth0", true, "25000\n"),
            ("eth1", true, "25000"),
            ("eth2", true, "-1"),
            ("bond0", false, "50000"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(if card { path.join("device") } else { path.clone() }).unwrap();
            fs::write(path.join("speed"), speed).unwrap();
        }
        assert_eq!(links_in(folder.path()), Some(50_000_000_000));
        assert_eq!(links_in(&folder.path().join("eth2")), None);
    }

    #[test]
    fn a_machine_has_a_name_with_its_kernel_in_it() {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(name().contains(release.trim()), "{}", name());
        assert_eq!(selected("always within_size advise [never] deny force"), "never");
    }
}
