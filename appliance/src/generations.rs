//! Brings a generation of the catalogue from the state volume into memory: read, locked, verified (DESIGN §3).
//!
//! Runs on the main thread before serving starts and on a helper thread afterwards, never on a worker: it waits for a disk.

use std::fs;
use std::path::Path;
use std::sync::Once;

use content::catalogue::file::Catalogue;
use content::catalogue::{
    CATALOGUE_FOLDER, CURRENT_NAME, CatalogueError, generation_name, generation_of_current,
    generation_of_name,
};
use content::rot::RotPlace;

use crate::rot;
use crate::sys::locked;

/// The generation that `current` names. None: there is no such file, or it cannot be believed.
pub fn current(state: &Path) -> Option<u64> {
    let path = state.join(CATALOGUE_FOLDER).join(CURRENT_NAME);
    let cure = "none needed: the newest generation that is whole is served, and the agent names one again";
    match generation_of_current(&fs::read(&path).ok()?) {
        Ok(Some(generation)) => return Some(generation),
        Ok(None) => rot::found(RotPlace::Current, path.display(), "it names no generation", cure),
        Err(cause) => rot::found(RotPlace::Current, path.display(), cause, cure),
    }
    None
}

/// Whole and verified: every page was read and is locked in memory if the host lets us.
pub fn load(state: &Path, generation: u64) -> Result<Catalogue, CatalogueError> {
    let loaded = load_unnoticed(state, generation);
    match &loaded {
        Ok(_) | Err(CatalogueError::Unreadable(_)) => {}
        Err(cause) => {
            let path = state.join(CATALOGUE_FOLDER).join(generation_name(generation));
            let cure = "none needed: the generation before is served until the agent publishes a newer one";
            rot::found(RotPlace::Catalogue, path.display(), cause, cure);
        }
    }
    loaded
}

fn load_unnoticed(state: &Path, generation: u64) -> Result<Catalogue, CatalogueError> {
    let path = state.join(CATALOGUE_FOLDER).join(generation_name(generation));
    let catalogue = Catalogue::open_into(&path, lock)?;
    if catalogue.generation() != generation {
        return Err(CatalogueError::Inconsistent("its name is of another generation than its header"));
    }
    catalogue.verify()?;
    Ok(catalogue)
}

/// Best effort: without the lock a page may be swapped out where there is swap; nothing is wrong, only slower.
///
/// Before the first page is touched, so that reading faults them in one by one and locks each: locking what is there,
/// or faulting it in by one call, keeps every thread that asks for memory waiting until all of it is done.
fn lock(memory: &[u8]) {
    static WARNED: Once = Once::new();
    if let Err(cause) = locked::lock_as_faulted(memory) {
        WARNED.call_once(|| {
            tracing::warn!(%cause, "the catalogue is not locked in memory; raise the memlock limit (LimitMEMLOCK=)");
        });
    }
}

/// What to serve at the start: what `current` names or, if that is damaged, the newest older one that is intact.
pub fn load_newest(state: &Path) -> Option<Catalogue> {
    let named = current(state);
    let mut known = generations(state);
    known.retain(|generation| named.is_none_or(|named| *generation <= named));
    known.sort_unstable();
    let try_load = |generation: u64| match load(state, generation) {
        Ok(catalogue) => Some(catalogue),
        Err(cause) => {
            tracing::error!(generation, %cause, "a generation of the catalogue cannot be served; trying an older one");
            None
        }
    };
    known.into_iter().rev().find_map(try_load)
}

fn generations(state: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(state.join(CATALOGUE_FOLDER)) else { return vec![] };
    let number = |name: &std::ffi::OsStr| name.to_str().and_then(generation_of_name);
    entries.filter_map(|entry| number(&entry.ok()?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use content::catalogue::{Contents, FileRecord, build, current_bytes};
    use content::volume::VolumeId;

    use super::*;

    fn write(state: &Path, generation: u64) {
        let folder = state.join(CATALOGUE_FOLDER);
        fs::create_dir_all(&folder).unwrap();
        let contents = Contents { generation, next_file: 1, ..Contents::default() };
        fs::write(folder.join(generation_name(generation)), build::to_bytes(contents).unwrap()).unwrap();
    }

    fn name_current(state: &Path, generation: u64) {
        fs::write(state.join(CATALOGUE_FOLDER).join(CURRENT_NAME), current_bytes(generation)).unwrap();
    }

    fn newest(state: &Path) -> Option<u64> {
        load_newest(state).map(|catalogue| catalogue.generation())
    }

    #[test]
    fn the_start_takes_the_current_generation_or_the_newest_intact_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert_eq!(newest(state), None);
        [1, 2, 3, 4].into_iter().for_each(|generation| write(state, generation));
        name_current(state, 3);
        assert_eq!(newest(state), Some(3));
        let damaged = state.join(CATALOGUE_FOLDER).join(generation_name(3));
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[20] ^= 1;
        fs::write(&damaged, &bytes).unwrap();
        assert_eq!(newest(state), Some(2));
        assert!(load(state, 3).is_err());
        fs::remove_file(state.join(CATALOGUE_FOLDER).join(generation_name(2))).unwrap();
        fs::write(state.join(CATALOGUE_FOLDER).join(CURRENT_NAME), "rubbish").unwrap();
        assert_eq!((newest(state), current(state)), (Some(4), None));
    }

    #[test]
    fn every_page_of_what_was_loaded_is_locked_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CATALOGUE_FOLDER).join(generation_name(1));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let files = (0..30_000).map(|number| FileRecord { number, data_bytes: 1, volume: 0 }).collect();
        let volumes = vec![VolumeId([1; 16])];
        let contents = Contents { generation: 1, next_file: 30_000, volumes, files, entries: vec![] };
        fs::write(&path, build::to_bytes(contents).unwrap()).unwrap();
        let catalogue = load(folder.path(), 1).unwrap();
        // Whatever else is locked beside it may be in the same range.
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let address = catalogue.bytes().as_ptr().addr();
        let holds = |line: &str| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).ok());
            Some((start?..end?).contains(&address))
        };
        let ours = maps.lines().skip_while(|line| holds(line) != Some(true));
        let kib = |name: &str| {
            let line = ours.clone().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        assert!(kib("Size:") >= catalogue.bytes().len() / 1024);
        assert_eq!(kib("Locked:"), kib("Size:"));
    }

    #[test]
    fn a_flipped_bit_of_current_never_names_the_generation_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        [2, 3].into_iter().for_each(|generation| write(state, generation));
        name_current(state, 3);
        let path = state.join(CATALOGUE_FOLDER).join(CURRENT_NAME);
        let good = fs::read(&path).unwrap();
        let before = rot::counts()[&RotPlace::Current];
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert_eq!((current(state), newest(state)), (None, Some(3)), "bit {bit}");
        }
        assert!(rot::counts()[&RotPlace::Current] > before);
    }

    #[test]
    fn a_generation_under_another_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1);
        let catalogue = folder.path().join(CATALOGUE_FOLDER);
        fs::rename(catalogue.join(generation_name(1)), catalogue.join(generation_name(2))).unwrap();
        assert!(load(folder.path(), 2).is_err());
    }
}
