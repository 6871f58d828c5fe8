//! A server's holdings as the request targets see them, and the key that its tokens are signed with.

use appliance::clock::Wall;
use appliance::holdings::{Holdings, Volume};
use content::box_config::Limits;
use content::catalogue::{Contents, Entry, FileRecord, build, file::Catalogue};
use content::id::{CatalogueKey, Extension, ObjectId, Tier};
use content::token::{Claims, KeyRing, Signer};
use content::volume::VolumeId;

pub const NOW: Wall = Wall(1_795_435_200);
/// Where every object starts in its file.
pub const OFFSET: u64 = 4096;
pub const DATA_BYTES: u64 = 10_000;
pub const KEY_SEED: [u8; 32] = [7; 32];
pub const KEY_ID: &str = "k";

pub struct Site {
    pub holdings: Holdings,
    pub limits: Limits,
    token: String,
}

pub fn signer() -> Signer {
    Signer::from_seed(KEY_ID, &KEY_SEED).expect("aws-lc takes any 32 bytes")
}

pub fn keys() -> KeyRing {
    KeyRing::new(&[signer().public_key()]).expect("the signer's own key is one")
}

pub fn claims() -> Claims {
    Claims {
        issuer: "oca-control".to_owned(),
        session: "s-1".parse().expect("a session's name"),
        title: "night".parse().expect("a slug"),
        tiers: vec![Tier::Base, Tier::Sd],
        not_before: NOW.timestamp(),
        expires: Wall(NOW.0 + 3600).timestamp(),
    }
}

pub fn object() -> ObjectId {
    ObjectId::of(b"x")
}

/// The path of the object of so many bytes.
pub fn media_path(size: u64) -> String {
    format!("/night/sd/{}{size:02}.mp4", &object().to_string()[..62])
}

impl Default for Site {
    /// Objects of 0, 1 and 20 bytes on a volume that is there, and one on a volume that is not.
    fn default() -> Self {
        let uuids = [VolumeId([1; 16]), VolumeId([2; 16]), VolumeId([3; 16])];
        let holdings = Holdings::new(vec![Volume::new(Some(uuids[0])), Volume::new(Some(uuids[1]))]);
        let entry = |size, file| Entry {
            key: CatalogueKey::of_path(media_path(size).as_bytes()),
            object: object(),
            file,
            offset: OFFSET,
            bytes: size,
            extension: Extension::Mp4,
        };
        let record = |number, volume| FileRecord { number, data_bytes: DATA_BYTES, volume };
        let contents = Contents {
            generation: 3,
            next_file: 9,
            volumes: vec![uuids[1], uuids[2]],
            files: vec![record(5, 0), record(6, 1)],
            entries: vec![entry(0, 0), entry(1, 0), entry(20, 0), entry(99, 1)],
        };
        let bytes = build::to_bytes(contents).expect("it is consistent");
        holdings.publish(Catalogue::from_bytes(bytes).expect("it was just written"));
        holdings.set_keys(keys());
        Self { holdings, limits: Limits::default(), token: signer().sign(&claims()) }
    }
}

impl Site {
    /// `$T` stands for a token that opens `$0`, `$1`, `$2` (objects of 0, 1 and 20 bytes) and `$9` (on the lost volume).
    pub fn expand(&self, text: &[u8]) -> Vec<u8> {
        let paths = [0, 1, 20, 99].map(media_path);
        let [empty, one, twenty, lost] = paths.each_ref().map(|path| path.as_bytes());
        let marks: [(&[u8], &[u8]); 5] =
            [(b"$T", self.token.as_bytes()), (b"$0", empty), (b"$1", one), (b"$2", twenty), (b"$9", lost)];
        crate::expand(text, &marks)
    }
}
