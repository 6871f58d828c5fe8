//! The origin: where chunks, objects and `title.json` are put. The only module that writes to it.
//!
//! Every put is atomic and everything but `title.json` is named by what it is, so publishers need not know of each other:
//! they put equal bytes under equal names. `title.json` is the commit point and put on condition that it is still what was
//! read. `object_store` has no conditional update for folders; there an advisory lock on `.oca-media/titles` stands around
//! compare and put. It binds every publisher on hosts that see the folder; a crashed holder loses it with its descriptor.

use std::fs::File;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use content::id::{Extension, ObjectId, TitleId};
use content::origin as places;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};

use crate::error::Error;

const DIGEST_BYTES: usize = 32;
/// Parts of an upload under way at once.
const PARTS_IN_FLIGHT: usize = 4;

#[derive(Debug, Clone)]
pub struct Origin {
    store: Arc<dyn ObjectStore>,
    locks: PathBuf,
    /// Held, shared, for as long as this publisher lives.
    _presence: Arc<File>,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    Written,
    /// Another publisher put these very bytes first.
    AlreadyThere,
}

impl Origin {
    /// Opens a folder, made if missing. If no other publisher is at work in it, removes what a killed one left unfinished.
    pub fn folder(folder: &FilePath) -> Result<Self, Error> {
        let io = |path: &FilePath, doing| {
            let path = path.to_owned();
            move |cause| Error::Io { path, doing, cause }
        };
        let locks = folder.join(".oca-media");
        std::fs::create_dir_all(&locks).map_err(io(&locks, "created"))?;
        let path = locks.join("publishers");
        let presence = open_lock(&path).map_err(io(&path, "opened"))?;
        if presence.try_lock().is_ok() {
            for part in ["chunks", "objects", "titles"] {
                remove_unfinished(&folder.join(part)).map_err(io(&folder.join(part), "tidied"))?;
            }
            presence.unlock().map_err(io(&path, "unlocked"))?;
        }
        presence.lock_shared().map_err(io(&path, "locked"))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(origin("being opened"))?;
        // A power cut after the commit must not take what the commit names.
        Ok(Self { store: Arc::new(store.with_fsync(true)), locks, _presence: Arc::new(presence) })
    }

    /// The bytes of a title's `title.json`.
    pub async fn title(&self, title: &TitleId) -> Result<Option<Bytes>, Error> {
        self.get(&title_path(title)).await
    }

    /// Puts `title.json` if it still is what was `seen`.
    pub async fn commit(
        &self,
        title: &TitleId,
        seen: Option<&Bytes>,
        bytes: Vec<u8>,
    ) -> Result<Commit, Error> {
        let path = self.locks.join("titles");
        let lock = tokio::task::spawn_blocking({
            let path = path.clone();
            move || open_lock(&path).and_then(|file| file.lock().map(|()| file))
        });
        let locked = lock.await.map_err(std::io::Error::other).flatten();
        let _lock = locked.map_err(|cause| Error::Io { path, doing: "locked", cause })?;
        let now = self.title(title).await?;
        if now.as_deref() == Some(bytes.as_slice()) {
            return Ok(Commit::AlreadyThere);
        }
        let changed = || Error::TitleChanged { title: title.to_string() };
        if now.as_ref() != seen {
            return Err(changed());
        }
        let mode = if seen.is_none() { PutMode::Create } else { PutMode::Overwrite };
        let put = self.store.put_opts(&title_path(title), bytes.into(), PutOptions::from(mode)).await;
        match put {
            Ok(_) => Ok(Commit::Written),
            Err(object_store::Error::AlreadyExists { .. }) => Err(changed()),
            Err(cause) => Err(origin("writing title.json")(cause)),
        }
    }

    /// A chunk that was encoded before. One that is damaged is as good as none.
    pub async fn chunk(&self, key: ObjectId) -> Result<Option<Bytes>, Error> {
        let Some(sealed) = self.get(&chunk_path(key)).await? else { return Ok(None) };
        let body = sealed.len().checked_sub(DIGEST_BYTES).map(|end| sealed.slice(..end));
        let whole = body.filter(|body| sealed.get(body.len()..) == Some(ObjectId::of(body).as_bytes()));
        if whole.is_none() {
            tracing::warn!("cached chunk {key} is damaged: it is encoded again");
        }
        Ok(whole)
    }

    /// Chunks carry their own digest: the cache is not named by what is in it.
    pub async fn put_chunk(&self, key: ObjectId, bytes: &[u8]) -> Result<(), Error> {
        let mut sealed = Vec::with_capacity(bytes.len() + DIGEST_BYTES);
        sealed.extend_from_slice(bytes);
        sealed.extend_from_slice(ObjectId::of(bytes).as_bytes());
        self.put(&chunk_path(key), sealed).await
    }

    /// Whether the object of this size and its verification tree are there.
    pub async fn has_object(
        &self,
        object: ObjectId,
        extension: Extension,
        bytes: u64,
    ) -> Result<bool, Error> {
        let tree = self.size(&tree_path(object)).await?;
        let found = self.size(&object_path(object, extension)).await?;
        Ok(found == Some(bytes) && tree == Some(content::tree::tree_bytes(bytes)))
    }

    pub async fn put_tree(&self, object: ObjectId, tree: Vec<u8>) -> Result<(), Error> {
        self.put(&tree_path(object), tree).await
    }

    pub async fn put_object(
        &self,
        object: ObjectId,
        extension: Extension,
        bytes: Vec<u8>,
    ) -> Result<(), Error> {
        self.put(&object_path(object, extension), bytes).await
    }

    /// An object that is too large to hold: written in parts, there only once finished.
    pub async fn upload(&self, object: ObjectId, extension: Extension) -> Result<Upload, Error> {
        let begun = self.store.put_multipart(&object_path(object, extension)).await;
        Ok(Upload { writer: WriteMultipart::new(begun.map_err(origin("beginning an upload"))?) })
    }

    async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
        let put = self.store.put(path, PutPayload::from(bytes)).await;
        put.map(drop).map_err(|cause| origin(&format!("writing {path}"))(cause))
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        let failed = |cause| origin(&format!("reading {path}"))(cause);
        match self.store.get(path).await {
            Ok(found) => found.bytes().await.map(Some).map_err(failed),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(failed(cause)),
        }
    }

    async fn size(&self, path: &Path) -> Result<Option<u64>, Error> {
        match self.store.head(path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(origin(&format!("looking for {path}"))(cause)),
        }
    }
}

pub struct Upload {
    writer: WriteMultipart,
}

impl Upload {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(origin("uploading"))?;
        self.writer.write(bytes);
        Ok(())
    }

    pub async fn finish(self) -> Result<(), Error> {
        self.writer.finish().await.map(drop).map_err(origin("finishing an upload"))
    }
}

fn origin(doing: &str) -> impl FnOnce(object_store::Error) -> Error + use<> {
    let doing = doing.to_owned();
    move |cause| {
        let full = is_full(&cause);
        let cause = Box::new(cause);
        if full { Error::OriginFull { doing, cause } } else { Error::Origin { doing, cause } }
    }
}

/// A folder's disk, as deep as `object_store` puts it.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let here = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(here, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
        || error.source().is_some_and(is_full)
}

fn open_lock(path: &FilePath) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

/// `object_store` writes `NAME#1` and renames it to `NAME`; a killed publisher leaves the former.
fn remove_unfinished(folder: &FilePath) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_unfinished(&entry.path())?;
        } else if is_unfinished(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn title_path(title: &TitleId) -> Path {
    Path::from(places::title_path(title))
}

fn chunk_path(key: ObjectId) -> Path {
    Path::from(format!("chunks/{key}"))
}

fn object_path(object: ObjectId, extension: Extension) -> Path {
    Path::from(places::object_path(object, extension))
}

fn tree_path(object: ObjectId) -> Path {
    Path::from(places::tree_path(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title() -> TitleId {
        "film".parse().unwrap()
    }

    #[tokio::test]
    async fn a_title_that_changed_since_it_was_read_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin::folder(folder.path()).unwrap();
        assert_eq!(origin.title(&title()).await.unwrap(), None);
        let put =
            async |seen: Option<&Bytes>, bytes: &[u8]| origin.commit(&title(), seen, bytes.to_vec()).await;
        assert_eq!(put(None, b"one").await.unwrap(), Commit::Written);
        assert_eq!(put(None, b"one").await.unwrap(), Commit::AlreadyThere);
        assert!(matches!(put(None, b"two").await, Err(Error::TitleChanged { .. })));
        let one = Bytes::from_static(b"one");
        assert_eq!(put(Some(&one), b"two").await.unwrap(), Commit::Written);
        assert!(matches!(put(Some(&one), b"three").await, Err(Error::TitleChanged { .. })));
        assert_eq!(origin.title(&title()).await.unwrap().as_deref(), Some(&b"two"[..]));
    }

    #[tokio::test]
    async fn of_many_who_read_the_same_title_one_commits() {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin::folder(folder.path()).unwrap();
        for seen in [None, Some(Bytes::from_static(b"0"))] {
            if let Some(seen) = &seen {
                std::fs::write(folder.path().join("titles/film/title.json"), seen).unwrap();
            }
            let commits = (1..=8_u8).map(|number| {
                let (origin, seen) = (origin.clone(), seen.clone());
                tokio::spawn(async move { origin.commit(&title(), seen.as_ref(), vec![number]).await })
            });
            let written = futures::future::join_all(commits)
                .await
                .into_iter()
                .filter(|done| matches!(done.as_ref().unwrap(), Ok(Commit::Written)));
            assert_eq!(written.count(), 1);
        }
    }

    #[tokio::test]
    async fn a_chunk_with_a_changed_byte_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin::folder(folder.path()).unwrap();
        let key = ObjectId::of(b"key");
        assert_eq!(origin.chunk(key).await.unwrap(), None);
        origin.put_chunk(key, b"frames").await.unwrap();
        assert_eq!(origin.chunk(key).await.unwrap().as_deref(), Some(&b"frames"[..]));
        let path = folder.path().join(format!("chunks/{key}"));
        let good = std::fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(origin.chunk(key).await.unwrap(), None, "byte {index}");
            std::fs::write(&path, &good[..index]).unwrap();
            assert_eq!(origin.chunk(key).await.unwrap(), None, "cut at {index}");
        }
    }

    #[test]
    fn what_a_killed_publisher_left_goes_once_no_other_is_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let at_work = Origin::folder(folder.path()).unwrap();
        let (left, kept) = (folder.path().join("objects/ab/x.mp4#1"), folder.path().join("objects/ab/x.mp4"));
        std::fs::create_dir_all(folder.path().join("objects/ab")).unwrap();
        std::fs::write(&left, b"half").unwrap();
        std::fs::write(&kept, b"whole").unwrap();
        let other = Origin::folder(folder.path()).unwrap();
        assert!(left.exists(), "removed under another publisher's hands");
        drop((at_work, other));
        Origin::folder(folder.path()).unwrap();
        assert!(!left.exists() && kept.exists());
    }
}
