//! Which process holds a lock on a file, as the kernel's list `/proc/locks` tells it. Pure: the caller reads the list.
//!
//! Locks of `flock(2)` go with the process that holds them, however it ends, and no file has to say who that is: so none
//! can say it wrongly, and a lock can be held on a volume that cannot be written to.

/// The process that holds a `flock(2)` lock on the file of this device and inode (`st_dev`, `st_ino`). None: nobody, or
/// one of another PID namespace.
pub fn flock_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    // proc_pid_locks(5), Linux 6.1: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; one who waits has `->` in front.
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_held = words.next() == Some("FLOCK");
        let process = words.nth(2)?.parse().ok()?;
        (is_held && words.next() == Some(file.as_str()) && process != 0).then_some(process)
    })
}

/// For a sentence: `process 1234`.
pub fn in_words(holder: Option<u32>) -> String {
    holder.map_or_else(|| "a process that cannot be seen from here".to_owned(), |id| format!("process {id}"))
}

// The layout of `dev_t` in user space (glibc and musl, sys/sysmacros.h).
fn major(device: u64) -> u64 {
    ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)
}

fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & 0xffff_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n2: FLOCK  ADVISORY  READ 12 fe:00:78 0 EOF\n\
                         3: FLOCK  ADVISORY  WRITE 13 fe:00:77 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 14 fe:00:79 0 EOF\n\
                         4: FLOCK  ADVISORY  WRITE 0 07:1f:80 0 EOF\n5: rubbish\n";

    #[test]
    fn the_holder_is_told_from_other_files_other_locks_and_those_who_wait() {
        let disk = 0xfe00;
        assert_eq!(flock_holder(LOCKS, disk, 77), Some(13));
        assert_eq!(flock_holder(LOCKS, disk, 78), Some(12));
        assert_eq!(flock_holder(LOCKS, disk, 79), None);
        assert_eq!(flock_holder(LOCKS, 0x071f, 80), None, "of another namespace");
        assert_eq!(flock_holder(LOCKS, 0x0801, 77), None);
        assert_eq!(in_words(Some(13)), "process 13");
    }

    #[test]
    fn large_device_numbers_are_taken_apart_as_the_kernel_puts_them_together() {
        let device = (0x12000 << 32) | (0x345 << 8) | 0xcd | (0xab00 << 12);
        assert_eq!((major(device), minor(device)), (0x12345, 0xabcd));
    }
}
