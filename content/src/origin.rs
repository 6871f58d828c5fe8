//! Where things lie in the origin: the paths below its root, which every backend of `object_store` shares (DESIGN §1).
//!
//! ```text
//! titles/<title>/title.json                      mutable, sealed, written last by a conditional put
//! objects/<first 2 hex>/<blake3>.<ext>           immutable
//! objects/<first 2 hex>/<blake3>.obao            its verification tree
//! clusters/<cluster>/manifests/<version>.ndjson  immutable
//! clusters/<cluster>/current                     {"version":N}, sealed, by a conditional put
//! chunks/…                                       the pipeline's encoded chunks
//! control/…                                      the control plane's lasting state
//! ```

use crate::id::{ClusterId, Extension, ObjectId, TitleId};

/// The folder below which titles are listed.
pub const TITLES_FOLDER: &str = "titles";
pub const TREE_EXTENSION: &str = "obao";

pub fn title_path(title: &TitleId) -> String {
    format!("{TITLES_FOLDER}/{title}/title.json")
}

pub fn object_path(object: ObjectId, extension: Extension) -> String {
    placed(object, extension.as_str())
}

pub fn tree_path(object: ObjectId) -> String {
    placed(object, TREE_EXTENSION)
}

pub fn manifest_path(cluster: &ClusterId, version: u64) -> String {
    format!("clusters/{cluster}/manifests/{version}.ndjson")
}

pub fn current_manifest_path(cluster: &ClusterId) -> String {
    format!("clusters/{cluster}/current")
}

fn placed(object: ObjectId, extension: &str) -> String {
    let name = object.to_string();
    // 256 folders: a folder of a million names is slow to list on every filesystem.
    let folder: String = name.chars().take(2).collect();
    format!("objects/{folder}/{name}.{extension}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_and_its_tree_lie_side_by_side() {
        let object = ObjectId::of(b"x");
        let track = object_path(object, Extension::Mp4);
        assert_eq!(track.replace(".mp4", ".obao"), tree_path(object));
        assert_eq!(track, format!("objects/{}/{object}.mp4", &object.to_string()[..2]));
    }
}
