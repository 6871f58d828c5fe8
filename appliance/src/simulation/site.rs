//! What tests serve: a catalogue, files with footers, a token.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use content::catalogue::{Contents, Entry, FileRecord, build, file::Catalogue};
use content::id::{CatalogueKey, Extension, ObjectId, Tier};
use content::pack;
use content::token::{Claims, KeyRing, Signer};
use content::volume::{
    Checksums, FILES_FOLDER, FileKind, Footer, MARKER_NAME, Marker, VolumeId, file_name, footer_offset,
};

use super::random::Random;
use crate::clock::Wall;
use crate::holdings::{FileRef, Holdings, Volume, VolumeIndex};

/// When a site's token was made; it lives a year.
pub const MADE: Wall = Wall(1_795_435_200);

/// What all seeds serve: sizes around pieces and blocks, in four generations.
pub static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sizes = [1, 4095, 70_000, 262_144, 262_145, 600_001, 1_310_720, 524_288, 300_000];
    let mut site = Site::new(2, &sizes);
    site.add_generations();
    site
});

/// The object that the third generation lacks.
const ABSENT: usize = 2;
pub const ABSENT_GENERATION: u64 = 3;

/// Files and names; what is known of them at a moment is in [`Site::holdings`].
pub struct Site {
    pub volumes: usize,
    /// By volume and number, with footer.
    pub files: BTreeMap<(u16, u64), Vec<u8>>,
    pub objects: Vec<SiteObject>,
    /// By file: how many bytes of data.
    data_bytes: BTreeMap<(u16, u64), usize>,
    /// By generation, from 1 on: where each object is.
    layouts: Vec<Vec<Option<Place>>>,
    catalogues: Vec<Vec<u8>>,
}

/// With its place in the first generation.
pub struct SiteObject {
    /// Of a request.
    pub target: String,
    /// The target without its token.
    pub path: String,
    pub id: ObjectId,
    pub volume: u16,
    pub number: u64,
    pub offset: usize,
    pub bytes: usize,
}

#[derive(Clone, Copy)]
struct Place {
    volume: u16,
    number: u64,
    offset: usize,
}

impl Site {
    /// An object file of each size, on the volumes in turn; and a pack.
    pub fn new(volumes: u16, sizes: &[usize]) -> Self {
        let mut site = Self {
            volumes: usize::from(volumes),
            files: BTreeMap::new(),
            objects: Vec::new(),
            data_bytes: BTreeMap::new(),
            layouts: Vec::new(),
            catalogues: Vec::new(),
        };
        let mut layout = Vec::new();
        for (number, size) in (0u64..).zip(sizes) {
            let volume = u16::try_from(number % u64::from(volumes)).unwrap();
            layout.push(Some(Place { volume, number, offset: 0 }));
            let id = ObjectId::of(&number.to_le_bytes());
            let data = random_bytes(number, *size);
            site.add_file(volume, number, data, FileKind::Object, id);
            site.add_object(volume, number, 0, *size, id);
        }
        let number = u64::try_from(sizes.len()).unwrap();
        let volume = u16::try_from(number % u64::from(volumes)).unwrap();
        // One of them crosses the edge of a block of 256 KiB.
        let packed = [(0, 1000), (4096, 4096), (8192, 3808), (12_288, 300_000), (315_392, 20_000)];
        let data = random_bytes(number, 335_392);
        site.add_file(volume, number, data, FileKind::Pack, ObjectId::of(b"pack"));
        for (offset, bytes) in packed {
            layout.push(Some(Place { volume, number, offset }));
            let id = ObjectId::of(format!("{number} {offset}").as_bytes());
            site.add_object(volume, number, offset, bytes, id);
        }
        site.add_generation(layout);
        site
    }

    fn add_object(&mut self, volume: u16, number: u64, offset: usize, bytes: usize, id: ObjectId) {
        let path = format!("/night/sd/{id}.mp4");
        let target = format!("/~{}{path}", token(&claims()));
        self.objects.push(SiteObject { target, path, id, volume, number, offset, bytes });
    }

    fn add_file(&mut self, volume: u16, number: u64, data: Vec<u8>, kind: FileKind, digest: ObjectId) {
        self.data_bytes.insert((volume, number), data.len());
        let digest = match kind {
            FileKind::Object => digest,
            FileKind::Pack => pack::identity(digest, number),
        };
        self.files.insert((volume, number), with_footer(data, kind, digest));
    }

    fn add_generation(&mut self, layout: Vec<Option<Place>>) {
        let places: BTreeSet<_> = layout.iter().flatten().map(|place| (place.volume, place.number)).collect();
        let places: Vec<_> = places.into_iter().collect();
        let size = |count: usize| u64::try_from(count).unwrap();
        let file = |place: &(u16, u64)| FileRecord {
            number: place.1,
            data_bytes: size(self.data_bytes[place]),
            volume: u32::from(place.0),
        };
        let entry = |(object, place): (&SiteObject, &Option<Place>)| {
            let place = (*place)?;
            let file = places.iter().position(|file| *file == (place.volume, place.number))?;
            Some(Entry {
                key: CatalogueKey::of_path(object.path.as_bytes()),
                object: object.id,
                file: u32::try_from(file).unwrap(),
                offset: size(place.offset),
                bytes: size(object.bytes),
                extension: Extension::Mp4,
            })
        };
        let contents = Contents {
            generation: size(self.layouts.len() + 1),
            next_file: 1000,
            volumes: (0..u16::try_from(self.volumes).unwrap()).map(volume_id).collect(),
            files: places.iter().map(file).collect(),
            entries: self.objects.iter().zip(&layout).filter_map(entry).collect(),
        };
        self.catalogues.push(build::to_bytes(contents).unwrap());
        self.layouts.push(layout);
    }

    /// 2: every second object refilled in a file of its own on another volume, the pack rewritten. 3: one object less.
    /// 4: that one is back, in a pack with others.
    fn add_generations(&mut self) {
        let singles = self.objects.iter().filter(|object| object.number != 9).count();
        let mut layout = self.layouts[0].clone();
        for index in (1..singles).step_by(2) {
            let object = &self.objects[index];
            let (volume, number) = (1 - object.volume, 100 + u64::try_from(index).unwrap());
            let (data, id) = (self.object_bytes(object).to_vec(), object.id);
            self.add_file(volume, number, data, FileKind::Object, id);
            layout[index] = Some(Place { volume, number, offset: 0 });
        }
        let packed: Vec<_> = (singles..self.objects.len()).rev().chain([0]).collect();
        self.add_pack(0, 150, &packed, &mut layout);
        self.add_generation(layout.clone());
        layout[ABSENT] = None;
        self.add_generation(layout.clone());
        self.add_pack(1, 160, &[1, ABSENT, 8], &mut layout);
        self.add_generation(layout);
    }

    fn add_pack(&mut self, volume: u16, number: u64, objects: &[usize], layout: &mut [Option<Place>]) {
        let mut data = Vec::new();
        for index in objects {
            data.resize(data.len().next_multiple_of(4096), 0);
            layout[*index] = Some(Place { volume, number, offset: data.len() });
            data.extend_from_slice(self.object_bytes(&self.objects[*index]));
        }
        self.add_file(volume, number, data, FileKind::Pack, ObjectId::of(b"pack"));
    }

    /// A server's view of it, all in order.
    pub fn holdings(&self) -> Arc<Holdings> {
        let volumes =
            (0..u16::try_from(self.volumes).unwrap()).map(|index| Volume::new(Some(volume_id(index))));
        let holdings = Holdings::new(volumes.collect());
        self.publish(&holdings, 1);
        holdings.set_keys(KeyRing::new(&[signer().public_key()]).unwrap());
        Arc::new(holdings)
    }

    pub fn publish(&self, holdings: &Holdings, generation: u64) {
        let bytes = self.catalogues[index_of(generation)].clone();
        holdings.publish(Catalogue::from_bytes(bytes).unwrap());
    }

    pub fn generations(&self) -> u64 {
        u64::try_from(self.layouts.len()).unwrap()
    }

    pub fn volume_id(&self, volume: u16) -> VolumeId {
        volume_id(volume)
    }

    /// Where an object is in a generation.
    pub fn file_of(&self, object: usize, generation: u64) -> Option<FileRef> {
        let Place { volume, number, .. } = self.layouts[index_of(generation)][object]?;
        let data_bytes = u64::try_from(self.data_bytes[&(volume, number)]).unwrap();
        Some(FileRef { volume: VolumeIndex(volume), number, data_bytes })
    }

    /// Files that no generation from this one on names.
    pub fn unnamed_since(&self, oldest: u64) -> BTreeSet<(u16, u64)> {
        let places = |layouts: &[Vec<Option<Place>>]| -> BTreeSet<_> {
            layouts.iter().flatten().flatten().map(|place| (place.volume, place.number)).collect()
        };
        let named = places(&self.layouts[index_of(oldest)..]);
        places(&self.layouts[..index_of(oldest)]).difference(&named).copied().collect()
    }

    pub fn is_pack(&self, volume: u16, number: u64) -> bool {
        matches!(number, 150 | 160) || number == 9 && volume == 1
    }

    pub fn object_bytes(&self, object: &SiteObject) -> &[u8] {
        &self.files[&(object.volume, object.number)][object.offset..object.offset + object.bytes]
    }

    /// Writes a volume into a folder, as the fill agent would.
    pub fn write_volume(&self, volume: VolumeIndex, folder: &Path) {
        std::fs::create_dir_all(folder.join(FILES_FOLDER)).unwrap();
        std::fs::write(folder.join(MARKER_NAME), Marker::new(volume_id(volume.0)).to_bytes()).unwrap();
        for ((_, number), bytes) in self.files.iter().filter(|((on, _), _)| *on == volume.0) {
            std::fs::write(folder.join(FILES_FOLDER).join(file_name(*number)), bytes).unwrap();
        }
    }
}

fn index_of(generation: u64) -> usize {
    usize::try_from(generation).unwrap() - 1
}

fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0x0ca_0ca);
    let mut data = Vec::with_capacity(count + 8192);
    while data.len() < count {
        data.extend(random.next().to_le_bytes());
    }
    data.truncate(count);
    data
}

fn with_footer(mut data: Vec<u8>, kind: FileKind, digest: ObjectId) -> Vec<u8> {
    let data_bytes = u64::try_from(data.len()).unwrap();
    let mut checksums = Checksums::default();
    checksums.update(&data);
    let footer = Footer { kind, data_bytes, digest, checksums: checksums.finish() };
    data.resize(usize::try_from(footer_offset(data_bytes)).unwrap(), 0);
    data.extend(footer.to_bytes());
    data
}

fn volume_id(volume: u16) -> VolumeId {
    VolumeId([u8::try_from(volume).unwrap() + 1; 16])
}

fn signer() -> Signer {
    Signer::from_seed("k", &[7; 32]).unwrap()
}

fn claims() -> Claims {
    Claims {
        issuer: "c".to_owned(),
        session: "s".parse().unwrap(),
        title: "night".parse().unwrap(),
        tiers: vec![Tier::Sd],
        not_before: MADE.timestamp(),
        expires: Wall(MADE.0 + 365 * 86_400).timestamp(),
    }
}

fn token(claims: &Claims) -> String {
    signer().sign(claims)
}

/// When [`Tokens::brief`] expires.
pub const BRIEF: Wall = Wall(MADE.0 + 20);

/// Tokens that do not open the site, each for another reason; and one that opens it for a while.
pub struct Tokens {
    pub refused: Vec<String>,
    pub brief: String,
}

pub static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let good = token(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let days = |count: i64| Wall(MADE.0 + count * 86_400).timestamp();
    let refused = vec![
        "rubbish".to_owned(),
        Signer::from_seed("other", &[8; 32]).unwrap().sign(&claims()),
        format!("{signed}.{other}{}", &signature[1..]),
        token(&Claims { tiers: vec![], ..claims() }),
        token(&Claims { not_before: days(300), ..claims() }),
        token(&Claims { not_before: days(-2), expires: days(-1), ..claims() }),
        token(&Claims { title: "day".parse().unwrap(), ..claims() }),
    ];
    Tokens { refused, brief: token(&Claims { expires: BRIEF.timestamp(), ..claims() }) }
});
