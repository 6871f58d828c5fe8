//! The files of one volume that are open, with their checksums; the one not used for longest gives way.

use std::collections::HashMap;
use std::rc::Rc;

/// Per volume; with 36 volumes well under a limit of 20,000 descriptors.
pub const FILES_MAX: usize = 256;

pub struct OpenFile<F> {
    pub file: Rc<F>,
    /// crc32c of each piece of its data.
    pub checksums: Rc<[u32]>,
}

impl<F> Clone for OpenFile<F> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), checksums: self.checksums.clone() }
    }
}

pub struct Files<F> {
    by_number: HashMap<u64, (OpenFile<F>, u64)>,
    uses: u64,
}

impl<F> Files<F> {
    pub fn new() -> Self {
        Self { by_number: HashMap::with_capacity(FILES_MAX + 1), uses: 0 }
    }

    pub fn find(&mut self, number: u64) -> Option<OpenFile<F>> {
        self.uses += 1;
        let (file, used) = self.by_number.get_mut(&number)?;
        *used = self.uses;
        Some(file.clone())
    }

    /// A read in flight has its own hold on its file, so one that is closed here may be read to the end.
    pub fn insert(&mut self, number: u64, file: OpenFile<F>) {
        self.uses += 1;
        self.by_number.insert(number, (file, self.uses));
        if self.by_number.len() > FILES_MAX {
            let oldest = self.by_number.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(number) = oldest.map(|(number, _)| *number) {
                self.by_number.remove(&number);
            }
        }
    }

    /// Closes the others: a file that was unlinked takes up its space as long as it is open.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.by_number.retain(|number, _| keep(*number));
    }

    pub fn remove(&mut self, number: u64) {
        self.by_number.remove(&number);
    }

    pub fn clear(&mut self) {
        self.by_number.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_not_used_for_longest_gives_way() {
        let mut files = Files::new();
        let most = u64::try_from(FILES_MAX).unwrap();
        for number in 0..most {
            files.insert(number, OpenFile { file: Rc::new(number), checksums: [].into() });
        }
        assert!(files.find(0).is_some());
        files.insert(most, OpenFile { file: Rc::new(most), checksums: [].into() });
        assert!(files.find(1).is_none());
        assert_eq!(*files.find(0).unwrap().file, 0);
    }
}
