//! Fake disks: slow, short, wrong, failing, or hanging, as the seed says.

use std::rc::Rc;
use std::sync::LazyLock;

use nix::errno::Errno;

use super::kernel::Shared;
use super::random::Random;
use super::site::Site;
use crate::clock::Now;
use crate::disk::{DiskIo, Opened, ReadDone, ReadPlace};
use crate::sys::arena::Block;

use content::volume::footer_offset;

/// What all seeds serve: sizes around pieces and blocks.
pub static SITE: LazyLock<Site> = LazyLock::new(|| {
    Site::new(2, &[1, 4095, 70_000, 262_144, 262_145, 600_001, 1_310_720, 524_288, 300_000])
});

/// How often a disk does what it should not, in a thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub error: usize,
    pub wrong: usize,
    pub short: usize,
    pub hang: usize,
    pub missing: usize,
    /// The whole volume is gone for a while.
    pub away: bool,
}

impl Faults {
    pub fn random(random: &mut Random) -> Self {
        let mut rate = |most: usize| if random.chance(1, 3) { random.below(most) } else { 0 };
        Self {
            error: rate(400),
            wrong: rate(200),
            short: rate(500),
            hang: rate(200),
            missing: rate(100),
            away: rate(10) > 7,
        }
    }
}

struct Pending {
    slot: usize,
    number: u64,
    place: ReadPlace,
    block: Block,
    due: Now,
}

pub struct FakeDisk {
    shared: Rc<Shared>,
    volume: u16,
    faults: Faults,
    pending: Vec<Pending>,
    pub until: Option<Now>,
}

impl FakeDisk {
    pub fn new(shared: Rc<Shared>, volume: u16, faults: Faults) -> Self {
        Self { shared, volume, faults, pending: Vec::new(), until: None }
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// When something will happen here by itself.
    pub fn next(&self) -> Option<Now> {
        self.pending.iter().map(|read| read.due).chain(self.until).min()
    }

    fn happens(&self, in_thousand: usize) -> bool {
        self.shared.chance(in_thousand, 1000)
    }

    fn finish(&self, read: Pending) -> ReadDone {
        let Pending { slot, number, place, mut block, .. } = read;
        let file = &SITE.files[&(self.volume, number)];
        let start = usize::try_from(place.file_offset).unwrap();
        let mut count = place.bytes.min(file.len().saturating_sub(start));
        if self.happens(self.faults.error) || self.faults.away {
            return ReadDone { slot, block, result: Err(Errno::EIO) };
        }
        if self.happens(self.faults.short) && count > 4096 {
            count = self.shared.random.borrow_mut().between(4096, count);
        }
        let into = &mut block.bytes_mut()[place.block_offset..place.block_offset + count];
        into.copy_from_slice(&file[start..start + count]);
        if self.happens(self.faults.wrong) {
            let at = self.shared.random.borrow_mut().below(count);
            into[at] ^= 0x40;
        }
        ReadDone { slot, block, result: Ok(count) }
    }
}

impl DiskIo for FakeDisk {
    type File = u64;

    fn now(&self) -> Now {
        self.shared.now.get()
    }

    fn marker_present(&mut self) -> bool {
        !self.faults.away
    }

    fn open(&mut self, number: u64, data_bytes: u64) -> Result<Opened<u64>, Errno> {
        self.shared.happened();
        if self.faults.away || self.happens(self.faults.missing) {
            return Err(Errno::ENOENT);
        }
        if self.happens(self.faults.error) {
            return Err(Errno::EIO);
        }
        let file = &SITE.files[&(self.volume, number)];
        let mut footer = file[usize::try_from(footer_offset(data_bytes)).unwrap()..].to_vec();
        if self.happens(self.faults.wrong) {
            footer.truncate(1000);
        }
        Ok(Opened { file: number, footer })
    }

    fn read(&mut self, slot: usize, file: &Rc<u64>, place: ReadPlace, mut block: Block) {
        assert!(self.pending.iter().all(|read| read.slot != slot), "one read per slot");
        // A read in flight may have written anything: nobody may look.
        block.bytes_mut()[place.block_offset..].fill(0xee);
        let latency_ms = if self.happens(self.faults.hang) { 20_000 } else { 20 };
        let latency = self.shared.random.borrow_mut().below(latency_ms * 1_000_000);
        let due = Now(self.shared.now.get().0 + u64::try_from(latency).unwrap());
        self.pending.push(Pending { slot, number: **file, place, block, due });
        self.shared.happened();
    }

    fn turn(&mut self, until: Option<Now>, done: &mut Vec<ReadDone>) {
        self.until = until;
        while let Some(place) = self.pending.iter().position(|read| read.due <= self.shared.now.get()) {
            let read = self.pending.swap_remove(place);
            done.push(self.finish(read));
            self.shared.happened();
        }
    }
}
