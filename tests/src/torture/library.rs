//! What is known to be right: every object's bytes by its name, and which titles there should be now.
//!
//! An object is taken in only if its BLAKE3 is its name, so that nothing wrong in the origin passes for a good copy.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use content::id::{Extension, MediaPath, ObjectId, TitleId};
use content::origin;
use content::title::{ObjectRef, Stream, StreamKind, TITLE_FORMAT, Title};
use content::tree::TreeBuilder;
use fleet_tests::shelf::noise;

use crate::points::Draw;

pub type Bytes = Arc<Vec<u8>>;

#[derive(Clone, Default)]
pub struct Library(Arc<Mutex<Shelves>>);

#[derive(Default)]
struct Shelves {
    objects: HashMap<ObjectId, Bytes>,
    titles: BTreeMap<TitleId, Title>,
}

impl Library {
    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn object(&self, object: &ObjectId) -> Option<Bytes> {
        self.lock().objects.get(object).cloned()
    }

    pub fn titles(&self) -> Vec<Title> {
        self.lock().titles.values().cloned().collect()
    }

    /// Every path that a box should serve now, with its object's size.
    pub fn paths(&self) -> BTreeMap<MediaPath, u64> {
        self.lock().titles.values().flat_map(|title| title.objects().collect::<Vec<_>>()).collect()
    }

    pub fn keep(&self, bytes: Vec<u8>) -> ObjectId {
        let object = ObjectId::of(&bytes);
        self.lock().objects.insert(object, Arc::new(bytes));
        object
    }

    /// Takes in the objects of a title that lies in the origin.
    pub fn learn(&self, origin: &Path, title: &Title) -> Result<()> {
        for (path, bytes) in title.objects() {
            if self.object(&path.object).is_some() {
                continue;
            }
            let file = origin.join(origin::object_path(path.object, path.extension));
            let found = std::fs::read(&file).with_context(|| format!("{path}: {}", file.display()))?;
            ensure!(u64::try_from(found.len())? == bytes, "{path} has {} bytes, not {bytes}", found.len());
            ensure!(self.keep(found) == path.object, "the origin's {path} is not what its name says");
        }
        self.list(title.clone());
        Ok(())
    }

    pub fn list(&self, title: Title) {
        self.lock().titles.insert(title.title.clone(), title);
    }

    /// Its objects, if no title names them any more, leave the origin and our memory.
    pub fn forget(&self, origin: &Path, title: &Title) -> Result<()> {
        let wanted: Vec<_> = self.paths().into_keys().map(|path| path.object).collect();
        for (path, _) in title.objects().filter(|(path, _)| !wanted.contains(&path.object)) {
            self.lock().objects.remove(&path.object);
            for name in [origin::object_path(path.object, path.extension), origin::tree_path(path.object)] {
                match std::fs::remove_file(origin.join(name)) {
                    Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub fn unlist(&self, title: &TitleId) {
        self.lock().titles.remove(title);
    }
}

/// A title of noise: a track of some pieces, sound under a mebibyte, subtitles and playlists of a few bytes.
pub fn invent(library: &Library, slug: &str, draw: &mut Draw) -> Result<Title> {
    let mut object = |size: u64, extension| -> Result<ObjectRef> {
        let bytes = noise(usize::try_from(size)?, draw.next());
        Ok(ObjectRef { object: library.keep(bytes), extension, bytes: size })
    };
    let id = |text: &str| text.parse().context("a stream's name");
    let video = Stream {
        id: id("video-avc-540p")?,
        tier: content::id::Tier::Sd,
        kind: StreamKind::Video { width: 960, height: 540, frame_rate: (24, 1) },
        codecs: "avc1.64001f".to_owned(),
        bandwidth_bps: 1_400_000,
        average_bandwidth_bps: 1_100_000,
        track: object(1_100_000 + noise_size(slug, 2_600_000), Extension::Mp4)?,
        playlist: object(900, Extension::M3u8)?,
        init: content::id::ByteSpan::new(0, 799),
        index: content::id::ByteSpan::new(800, 1200),
    };
    let audio = Stream {
        id: id("audio-aac-en")?,
        tier: content::id::Tier::Base,
        kind: StreamKind::Audio { language: "en".to_owned(), channels: 2, sample_rate_hz: 48_000 },
        codecs: "mp4a.40.2".to_owned(),
        track: object(290_000 + noise_size(slug, 600_000), Extension::Mp4)?,
        playlist: object(700, Extension::M3u8)?,
        ..video.clone()
    };
    let subtitles = Stream {
        id: id("subtitles-en")?,
        tier: content::id::Tier::Base,
        kind: StreamKind::Subtitles { language: "en".to_owned() },
        codecs: String::new(),
        track: object(5_000, Extension::Vtt)?,
        playlist: object(200, Extension::M3u8)?,
        init: None,
        index: None,
        ..video.clone()
    };
    Ok(Title {
        format: TITLE_FORMAT,
        title: slug.parse()?,
        name: slug.to_owned(),
        duration_ms: 48_000,
        streams: vec![video, audio, subtitles],
        terms: Vec::new(),
        source: ObjectId::of(slug.as_bytes()),
        recipe: ObjectId::of(b"noise"),
    })
}

/// So much more for this title: odd sizes, another for each.
fn noise_size(slug: &str, end: u64) -> u64 {
    let seed = ObjectId::of(slug.as_bytes());
    let first = seed.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first) % end
}

/// Another title over the same objects: nothing to pull for it.
pub fn alias(of: &Title, slug: &str, name: &str) -> Result<Title> {
    Ok(Title { title: slug.parse()?, name: name.to_owned(), ..of.clone() })
}

/// Puts what the origin lacks of a title, as a publisher does: trees, objects, and `title.json` last.
pub fn put(library: &Library, origin: &Path, title: &Title) -> Result<()> {
    for (path, _) in title.objects() {
        let file = origin.join(origin::object_path(path.object, path.extension));
        if file.exists() {
            continue;
        }
        let bytes = library.object(&path.object).context("an object that was never made")?;
        let mut tree = TreeBuilder::new();
        tree.update(&bytes);
        replace(&origin.join(origin::tree_path(path.object)), &tree.finish().1)?;
        replace(&file, &bytes)?;
    }
    replace(&origin.join(origin::title_path(&title.title)), &title.to_bytes())?;
    library.list(title.clone());
    Ok(())
}

/// Whole or not at all, under a name that nobody reads.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder)?;
    let staged = folder.join(".harness");
    std::fs::write(&staged, bytes)?;
    std::fs::rename(&staged, path).with_context(|| format!("cannot put {}", path.display()))
}

/// As an operator removes a title: its `title.json`. Objects that no title names any more follow.
pub fn remove(library: &Library, origin: &Path, title: &TitleId) -> Result<()> {
    let file = origin.join(origin::title_path(title));
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    library.unlist(title);
    Ok(())
}
