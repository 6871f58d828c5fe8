//! The generations of the catalogue in the state folder: reads them at start, writes the next, makes it current by
//! rename, removes old ones. Impure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use content::catalogue::file::Catalogue;
use content::catalogue::{
    CATALOGUE_FOLDER, CURRENT_NAME, CatalogueError, Contents, FileRecord, build, current_bytes,
    generation_name, generation_of_current, generation_of_name,
};
use content::control_socket::FileName;
use content::rot::RotPlace;

use crate::rot;
use crate::volumes::{make_folder, sync_folder, write_staged, write_whole};

/// What the state folder says at start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// What to go on from: the current generation, or the newest intact older one, or nothing.
    pub contents: Contents,
    /// `contents` is what `current` names, undamaged.
    pub is_current: bool,
    /// Each other generation that there is or was, and the files that it names.
    pub others: Vec<(u64, Named)>,
}

/// The files that a generation names. None: it cannot be read, and a server that opened it earlier may serve any file.
pub type Named = Option<Vec<FileName>>;

/// Reads every generation; changes nothing.
pub fn load(state: &Path) -> io::Result<Loaded> {
    let folder = state.join(CATALOGUE_FOLDER);
    let mut generations = list(&folder)?;
    generations.sort_unstable_by(|a, b| b.cmp(a));
    let current = read_current(&folder.join(CURRENT_NAME));
    let candidates = generations.iter().filter(|generation| current.is_none_or(|now| **generation <= now));
    let chosen = candidates.copied().find_map(|generation| read(&folder, generation));
    let chosen = chosen.map(|catalogue| catalogue.contents());
    let mut loaded = Loaded::default();
    if let Some(contents) = chosen {
        loaded.is_current = current == Some(contents.generation);
        loaded.contents = contents;
    } else if !generations.is_empty() {
        tracing::error!("no generation of the catalogue in {} is intact", folder.display());
    }
    // Its number was given away even if its file is gone, and a server may still have the file open.
    let gone = current.filter(|current| !generations.contains(current));
    if let Some(gone) = gone {
        tracing::error!(
            "{} names generation {gone:x}, which is not there",
            folder.join(CURRENT_NAME).display()
        );
    }
    for generation in generations.into_iter().filter(|other| *other != loaded.contents.generation) {
        let named = read(&folder, generation).map(|catalogue| {
            loaded.contents.next_file = loaded.contents.next_file.max(catalogue.next_file());
            files_of(&catalogue)
        });
        loaded.others.push((generation, named));
    }
    loaded.others.extend(gone.map(|gone| (gone, None)));
    Ok(loaded)
}

/// Removes files that a kill left half-written.
pub fn remove_temporary(state: &Path) -> io::Result<()> {
    let folder = state.join(CATALOGUE_FOLDER);
    make_folder(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes a generation and makes it current. A kill at any point leaves the old one or the new one current, whole.
pub fn publish(state: &Path, contents: &Contents) -> Result<(), String> {
    let folder = state.join(CATALOGUE_FOLDER);
    let name = generation_name(contents.generation);
    let at_fault = |cause: &dyn std::fmt::Display| format!("{}: {cause}", folder.display());
    make_folder(&folder).map_err(|cause| at_fault(&cause))?;
    let built = write_staged(&folder, &name, |file| build::write(contents, file));
    built.map_err(|cause| at_fault(&cause))?;
    let named = write_whole(&folder, CURRENT_NAME, &current_bytes(contents.generation));
    named.map_err(|cause| at_fault(&cause))
}

/// Removes generations older than `oldest_in_use`; the newest two stay, one to fall back to.
pub fn remove_old(state: &Path, oldest_in_use: u64) -> io::Result<()> {
    let folder = state.join(CATALOGUE_FOLDER);
    let mut generations = list(&folder)?;
    generations.sort_unstable_by(|a, b| b.cmp(a));
    let old: Vec<_> = generations.into_iter().skip(2).filter(|old| *old < oldest_in_use).collect();
    if old.is_empty() {
        return Ok(());
    }
    for generation in old {
        fs::remove_file(folder.join(generation_name(generation)))?;
    }
    sync_folder(&folder)
}

fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(generation_of_name)));
    names.filter_map(io::Result::transpose).collect()
}

/// None: there is none, or it cannot be believed; then the newest generation that is whole is as good.
fn read_current(path: &Path) -> Option<u64> {
    let cure = "none needed: the newest generation that is whole is taken, and a newer one is published";
    match generation_of_current(&fs::read(path).ok()?) {
        Ok(Some(generation)) => return Some(generation),
        Ok(None) => rot::found(RotPlace::Current, path.display(), "it names no generation", cure),
        Err(cause) => rot::found(RotPlace::Current, path.display(), cause, cure),
    }
    None
}

/// Verified, and still on the disk: only what is asked of it comes into memory.
fn read(folder: &Path, generation: u64) -> Option<Catalogue> {
    let path: PathBuf = folder.join(generation_name(generation));
    let opened = Catalogue::open(&path).and_then(|catalogue| {
        catalogue.verify()?;
        Ok(catalogue)
    });
    match opened {
        Ok(catalogue) if catalogue.generation() == generation => Some(catalogue),
        Ok(_) => {
            rot::found(RotPlace::Catalogue, path.display(), "its name is of another generation", CURE);
            None
        }
        Err(CatalogueError::Unreadable(cause)) => {
            tracing::error!("{}: {cause}", path.display());
            None
        }
        Err(cause) => {
            rot::found(RotPlace::Catalogue, path.display(), cause, CURE);
            None
        }
    }
}

fn files_of(catalogue: &Catalogue) -> Vec<FileName> {
    let name = |file: FileRecord| Some(FileName { uuid: catalogue.volume(file.volume)?, file: file.number });
    catalogue.files().filter_map(name).collect()
}

const CURE: &str = "none needed: the generation before is used, the files on the volumes are found by their footers, \
                    and a newer generation is published";

#[cfg(test)]
mod tests {
    use content::volume::VolumeId;

    use super::*;

    fn contents(generation: u64) -> Contents {
        let files = vec![FileRecord { number: generation, data_bytes: 1, volume: 0 }];
        Contents {
            generation,
            next_file: generation + 1,
            volumes: vec![VolumeId([1; 16])],
            files,
            entries: vec![],
        }
    }

    #[test]
    fn a_damaged_current_generation_gives_way_to_the_newest_intact_older_one() {
        let state = tempfile::tempdir().unwrap();
        for generation in [1, 2, 3] {
            publish(state.path(), &contents(generation)).unwrap();
        }
        let intact = load(state.path()).unwrap();
        assert_eq!((intact.contents.clone(), intact.is_current), (contents(3), true));
        let path = state.path().join(CATALOGUE_FOLDER).join(generation_name(3));
        let mut bytes = fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        fs::write(&path, bytes).unwrap();
        let loaded = load(state.path()).unwrap();
        assert_eq!((loaded.contents.generation, loaded.is_current), (2, false));
        assert_eq!(loaded.others[0], (3, None), "what it named is not known");
        assert_eq!(loaded.others[1].1.as_ref().map(Vec::len), Some(1));
        fs::write(state.path().join(CATALOGUE_FOLDER).join(CURRENT_NAME), b"nonsense").unwrap();
        assert_eq!(load(state.path()).unwrap().contents.generation, 2);
    }

    #[test]
    fn nothing_intact_and_an_empty_folder_start_from_nothing() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), Loaded::default());
        fs::create_dir(state.path().join(CATALOGUE_FOLDER)).unwrap();
        fs::write(state.path().join(CATALOGUE_FOLDER).join(generation_name(7)), b"rubbish").unwrap();
        let loaded = load(state.path()).unwrap();
        assert_eq!(loaded.contents, Contents::default());
        assert_eq!(loaded.others, [(7, None)]);
    }

    #[test]
    fn the_number_of_a_current_generation_whose_file_is_gone_is_not_given_away_again() {
        let state = tempfile::tempdir().unwrap();
        for generation in [1, 2] {
            publish(state.path(), &contents(generation)).unwrap();
        }
        fs::remove_file(state.path().join(CATALOGUE_FOLDER).join(generation_name(2))).unwrap();
        let loaded = load(state.path()).unwrap();
        assert_eq!((loaded.contents.generation, loaded.is_current), (1, false));
        let mut shelf = crate::shelf::Shelf::new(&loaded.contents, &loaded.others);
        assert_eq!(shelf.next_generation(&Contents::default()).unwrap().generation, 3);
    }

    #[test]
    fn old_generations_go_when_nobody_uses_them_and_one_stays_to_fall_back_to() {
        let state = tempfile::tempdir().unwrap();
        for generation in 1..=5 {
            publish(state.path(), &contents(generation)).unwrap();
        }
        remove_old(state.path(), 3).unwrap();
        let mut left = list(&state.path().join(CATALOGUE_FOLDER)).unwrap();
        left.sort_unstable();
        assert_eq!(left, [3, 4, 5]);
        remove_old(state.path(), 5).unwrap();
        assert_eq!(list(&state.path().join(CATALOGUE_FOLDER)).unwrap().len(), 2);
    }
}
