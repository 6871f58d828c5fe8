//! The origin's verification trees: each is checked before it is given away, and one that rotted is made again from its
//! object. An agent would refuse it anyway, but nobody else has one: without it the object could not be pulled at all.

use std::sync::Arc;

use content::id::{Extension, ObjectId};
use content::origin::{object_path, tree_path};
use content::rot::RotPlace;
use content::tree::{Tree, TreeBuilder};
use futures::StreamExt as _;
use object_store::path::Path as StorePath;
use object_store::{Error as StoreError, ObjectStoreExt as _};

use super::{Control, rot};

/// The tree of an object of 256 GiB. A longer one is given away unchecked: the agent checks it.
const CHECKED_BYTES_MAX: u64 = 64 << 20;

/// Whether the tree may be given away. If not, it is being made again: ask later.
pub(super) async fn is_whole(
    control: &Arc<Control>,
    object: ObjectId,
    bytes: u64,
) -> Result<bool, StoreError> {
    if bytes > CHECKED_BYTES_MAX {
        return Ok(true);
    }
    let path = StorePath::from(tree_path(object));
    let encoded = control.origin.store.get(&path).await?.bytes().await?;
    let what = match Tree::parse(object, &encoded) {
        Err(cause) => cause.to_string(),
        // The length in the tree of a single piece is proven by nothing in it.
        Ok(tree) => match find_object(control, object).await {
            Some((_, size)) if size != tree.object_bytes() => {
                format!("it is of {} bytes and the object has {size}", tree.object_bytes())
            }
            Some(_) | None => return Ok(true),
        },
    };
    let cure = "none needed: it is made again from the object, if that is whole";
    rot::found(RotPlace::OriginTree, &path, what, cure);
    // Dropped at the end of the work; whoever finds it taken asks again later.
    if let Ok(turn) = control.mending.clone().try_lock_owned() {
        let control = control.clone();
        tokio::spawn(async move {
            mend(&control, object).await;
            drop(turn);
        });
    }
    Ok(false)
}

async fn find_object(control: &Control, object: ObjectId) -> Option<(StorePath, u64)> {
    for extension in Extension::ALL {
        let path = StorePath::from(object_path(object, extension));
        if let Ok(meta) = control.origin.store.head(&path).await {
            return Some((path, meta.size));
        }
    }
    None
}

async fn mend(control: &Control, object: ObjectId) {
    let Some((path, _)) = find_object(control, object).await else {
        tracing::error!(%object, "its tree is rotten and the origin has not got the object: publish its title again");
        return;
    };
    match rebuild(control, &path).await {
        Ok((found, tree)) if found == object => {
            match control.origin.store.put(&StorePath::from(tree_path(object)), tree.into()).await {
                Ok(_) => tracing::info!(%object, "its verification tree was made again"),
                Err(cause) => {
                    tracing::error!(%object, %cause, "its verification tree cannot be written again")
                }
            }
        }
        Ok(_) => {
            let what = "its bytes are not those that it is named after";
            let cure = "move the file away and publish its title again; boxes that have the object serve on";
            rot::found(RotPlace::OriginObject, &path, what, cure);
        }
        Err(cause) => tracing::error!(%object, %cause, "the object cannot be read to make its tree again"),
    }
}

async fn rebuild(control: &Control, path: &StorePath) -> Result<(ObjectId, Vec<u8>), StoreError> {
    let mut builder = TreeBuilder::new();
    let mut bytes = control.origin.store.get(path).await?.into_stream();
    while let Some(part) = bytes.next().await {
        builder.update(&part?);
    }
    Ok(builder.finish())
}
