//! What tests serve: a catalogue, files with footers, a token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use content::catalogue::{Contents, Entry, FileRecord, build, file::Catalogue};
use content::id::{CatalogueKey, Extension, ObjectId, Tier};
use content::token::{Claims, KeyRing, Signer};
use content::volume::{
    Checksums, FILES_FOLDER, FileKind, Footer, MARKER_NAME, Marker, VolumeId, file_name, footer_offset,
};

use super::random::Random;
use crate::clock::Wall;
use crate::holdings::{Holdings, Volume, VolumeIndex};

/// When a site's token was made; it lives a year.
pub const MADE: Wall = Wall(1_795_435_200);

/// Files and names; what is known of them at a moment is in [`Site::holdings`].
pub struct Site {
    pub volumes: usize,
    /// By volume and number, with footer.
    pub files: BTreeMap<(u16, u64), Vec<u8>>,
    pub objects: Vec<SiteObject>,
    contents: Contents,
}

pub struct SiteObject {
    /// Of a request.
    pub target: String,
    pub volume: u16,
    pub number: u64,
    pub offset: usize,
    pub bytes: usize,
}

impl Site {
    /// An object file of each size, on the volumes in turn; and three small objects in one file.
    pub fn new(volumes: u16, sizes: &[usize]) -> Self {
        let mut site = Self {
            volumes: usize::from(volumes),
            files: BTreeMap::new(),
            objects: Vec::new(),
            contents: Contents {
                generation: 1,
                next_file: 1000,
                volumes: (0..volumes).map(volume_id).collect(),
                ..Contents::default()
            },
        };
        for (number, size) in (0u64..).zip(sizes) {
            site.add_file(number, *size, &[(0, *size)]);
        }
        let number = u64::try_from(sizes.len()).unwrap();
        site.add_file(number, 12_000, &[(0, 1000), (4096, 4096), (8192, 3808)]);
        site
    }

    fn add_file(&mut self, number: u64, data_bytes: usize, objects: &[(usize, usize)]) {
        let volume = u16::try_from(number % u64::try_from(self.volumes).unwrap()).unwrap();
        let file = u32::try_from(self.contents.files.len()).unwrap();
        let size = u64::try_from(data_bytes).unwrap();
        let kind = if objects.len() == 1 { FileKind::Object } else { FileKind::Pack };
        self.files.insert((volume, number), file_bytes(number, data_bytes, kind));
        self.contents.files.push(FileRecord { number, data_bytes: size, volume: u32::from(volume) });
        for (offset, bytes) in objects {
            let object = match kind {
                FileKind::Object => digest(number),
                FileKind::Pack => ObjectId::of(format!("{number} {offset}").as_bytes()),
            };
            let path = format!("/night/sd/{object}.mp4");
            self.contents.entries.push(Entry {
                key: CatalogueKey::of_path(path.as_bytes()),
                object,
                file,
                offset: u64::try_from(*offset).unwrap(),
                bytes: u64::try_from(*bytes).unwrap(),
                extension: Extension::Mp4,
            });
            let target = format!("/~{}{path}", token());
            self.objects.push(SiteObject { target, volume, number, offset: *offset, bytes: *bytes });
        }
    }

    /// A server's view of it, all in order.
    pub fn holdings(&self) -> Arc<Holdings> {
        let volumes = self.contents.volumes.iter().map(|uuid| Volume::new(Some(*uuid))).collect();
        let holdings = Holdings::new(volumes);
        holdings.publish(Catalogue::from_bytes(build::to_bytes(self.contents.clone()).unwrap()).unwrap());
        holdings.set_keys(KeyRing::new(&[signer().public_key()]).unwrap());
        Arc::new(holdings)
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

/// What a file's footer calls its data: any name will do.
fn digest(number: u64) -> ObjectId {
    ObjectId::of(&number.to_le_bytes())
}

fn file_bytes(number: u64, data_bytes: usize, kind: FileKind) -> Vec<u8> {
    let mut random = Random::new(number ^ 0x0ca_0ca);
    let mut data = Vec::with_capacity(data_bytes + 8192);
    while data.len() < data_bytes {
        data.extend(random.next().to_le_bytes());
    }
    data.truncate(data_bytes);
    let mut checksums = Checksums::default();
    checksums.update(&data);
    let footer = Footer {
        kind,
        data_bytes: u64::try_from(data_bytes).unwrap(),
        digest: digest(number),
        checksums: checksums.finish(),
    };
    data.resize(usize::try_from(footer_offset(footer.data_bytes)).unwrap(), 0);
    data.extend(footer.to_bytes());
    data
}

fn volume_id(volume: u16) -> VolumeId {
    VolumeId([u8::try_from(volume).unwrap() + 1; 16])
}

fn signer() -> Signer {
    Signer::from_seed("k", &[7; 32]).unwrap()
}

fn token() -> String {
    signer().sign(&Claims {
        issuer: "c".to_owned(),
        session: "s".parse().unwrap(),
        title: "night".parse().unwrap(),
        tiers: vec![Tier::Sd],
        not_before: MADE.timestamp(),
        expires: Wall(MADE.0 + 365 * 86_400).timestamp(),
    })
}
