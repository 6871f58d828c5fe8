//! Fake disks: slow, short, torn, wrong, failing, or hanging, as the seed says.

use std::rc::Rc;

use nix::errno::Errno;

use super::faults::Fault;
use super::random::Random;
use super::shared::Shared;
pub use super::site::SITE;
use crate::clock::Now;
use crate::disk::{DiskIo, Opened, ReadDone, ReadPlace};
use crate::sys::arena::Block;

use content::volume::footer_offset;

/// Of a read that does not end before the clients have gone.
const NEVER: Now = Now(u64::MAX);
const SECTOR_BYTES: usize = 512;

/// How often a disk does what it should not, in a thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub error: usize,
    pub host: usize,
    pub wrong: usize,
    pub torn: usize,
    pub short: usize,
    pub hang: usize,
    pub never: usize,
    pub missing: usize,
    /// The whole volume is gone for a while.
    pub away: bool,
}

impl Faults {
    pub fn random(random: &mut Random) -> Self {
        let mut rate = |most: usize| if random.chance(1, 3) { random.below(most) } else { 0 };
        Self {
            error: rate(400),
            host: rate(200),
            wrong: rate(200),
            torn: rate(200),
            short: rate(500),
            hang: rate(200),
            never: rate(60),
            missing: rate(100),
            away: rate(10) > 7,
        }
    }

    pub fn harmless(random: &mut Random) -> Self {
        Self { short: random.below(300), ..Self::default() }
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

    pub fn set_away(&mut self, away: bool) {
        self.faults.away = away;
    }

    /// When something will happen here by itself.
    pub fn next(&self) -> Option<Now> {
        self.pending.iter().map(|read| read.due).filter(|due| *due < NEVER).chain(self.until).min()
    }

    /// What would never have ended ends now.
    pub fn end_hanging(&mut self) {
        let now = self.shared.now.get();
        self.pending.iter_mut().for_each(|read| read.due = read.due.min(now));
    }

    fn happens(&self, in_thousand: usize, fault: Fault) -> bool {
        let happens = self.shared.chance(in_thousand, 1000);
        if happens {
            self.shared.saw(fault);
        }
        happens
    }

    fn finish(&self, read: Pending) -> ReadDone {
        let Pending { slot, number, place, mut block, .. } = read;
        let file = &SITE.files[&(self.volume, number)];
        let start = usize::try_from(place.file_offset).unwrap();
        let mut count = place.bytes.min(file.len().saturating_sub(start));
        if self.faults.away || self.happens(self.faults.error, Fault::DiskError) {
            return ReadDone { slot, block, result: Err(Errno::EIO) };
        }
        if self.happens(self.faults.host, Fault::DiskHost) {
            let errno = if self.shared.chance(1, 2) { Errno::ENOMEM } else { Errno::EAGAIN };
            return ReadDone { slot, block, result: Err(errno) };
        }
        if count > 4096 && self.happens(self.faults.short, Fault::DiskShort) {
            count = self.shared.random.borrow_mut().between(4096, count);
        }
        let into = &mut block.bytes_mut()[place.block_offset..place.block_offset + count];
        into.copy_from_slice(&file[start..start + count]);
        if self.happens(self.faults.wrong, Fault::DiskWrong) {
            let at = self.shared.below(count);
            into[at] ^= 0x40;
        }
        if self.happens(self.faults.torn, Fault::DiskTorn) {
            let from = self.shared.below(count) / SECTOR_BYTES * SECTOR_BYTES;
            into[from..].fill(0x5a);
        }
        if SITE.is_pack(self.volume, number) {
            self.shared.saw(Fault::PackRead);
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
        let unlinked = self.shared.unlinked.borrow().contains(&(self.volume, number));
        if self.faults.away || unlinked || self.happens(self.faults.missing, Fault::FileMissing) {
            return Err(Errno::ENOENT);
        }
        if self.happens(self.faults.error, Fault::DiskError) {
            return Err(Errno::EIO);
        }
        let file = &SITE.files[&(self.volume, number)];
        let mut footer = file[usize::try_from(footer_offset(data_bytes)).unwrap()..].to_vec();
        if self.happens(self.faults.wrong, Fault::FooterTorn) {
            footer.truncate(1000);
        }
        Ok(Opened { file: number, footer })
    }

    fn read(&mut self, slot: usize, file: &Rc<u64>, place: ReadPlace, mut block: Block) {
        assert!(self.pending.iter().all(|read| read.slot != slot), "one read per slot");
        // A read in flight may have written anything: nobody may look.
        block.bytes_mut()[place.block_offset..].fill(0xee);
        let latency_ms = if self.happens(self.faults.hang, Fault::DiskLate) { 20_000 } else { 20 };
        let latency = self.shared.below(latency_ms * 1_000_000);
        let mut due = Now(self.shared.now.get().0 + u64::try_from(latency).unwrap());
        if self.happens(self.faults.never, Fault::DiskNever) {
            due = NEVER;
        }
        self.pending.push(Pending { slot, number: **file, place, block, due });
        self.shared.happened();
    }

    fn turn(&mut self, until: Option<Now>, done: &mut Vec<ReadDone>) {
        self.until = until;
        while let Some(place) = self.pending.iter().position(|read| read.due <= self.shared.now.get()) {
            let read = self.pending.swap_remove(place);
            self.shared.note(read.place.file_offset);
            done.push(self.finish(read));
            self.shared.happened();
        }
    }
}
