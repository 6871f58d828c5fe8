//! The origin's objects for the agents: the fill source of the embedded set-up, where no store with addresses of its
//! own stands behind the control plane. Streams; never holds a whole object.

use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use content::id::{Extension, ObjectId};
use content::origin::{TREE_EXTENSION, object_path, tree_path};
use object_store::path::Path as StorePath;
use object_store::{
    Error as StoreError, GetOptions, GetResultPayload, ObjectStore as _, ObjectStoreExt as _,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::agents::{bearer, matches_tag};
use super::problem::{ApiProblem, PathOf};
use super::range::{Selection, select};
use super::{Control, api_doc, trees};

/// One read of the disk, one write to the network.
const CHUNK_BYTES: usize = 256 * 1024;

/// An object of the origin or its verification tree, whole or one range of bytes.
#[utoipa::path(
    get, path = "/v1/origin/objects/{first2}/{name}", tag = "agents", security(("fill" = [])),
    params(
        ("first2" = String, Path, description = "The first two digits of the name"),
        ("name" = String, Path, description = "`<blake3>.<mp4|m3u8|vtt|obao>`"),
        ("Range" = Option<String>, Header),
    ),
    responses(
        (status = 200, description = "The whole", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "It is the one that If-None-Match names"),
        (status = 401, description = "Not a key of this object that a fill source gave, or no longer", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 404, description = "The origin has it not", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 503, description = "A verification tree that is damaged and being made again", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 416, description = "A range past its end", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn object(
    State(control): State<Arc<Control>>,
    PathOf((first2, name)): PathOf<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    let unknown = || ApiProblem::not_found("an object's address is <first 2 digits>/<blake3>.<extension>");
    let wanted = Wanted::parse(&first2, &name).ok_or_else(unknown)?;
    let opened =
        bearer(&headers).is_some_and(|key| control.fill_secret.opens(key, &wanted.object, control.now()));
    if !opened {
        return Err(ApiProblem::unauthorized(
            "send the headers that POST /v1/agent/fill-sources gave for this object; they end",
        ));
    }
    let size =
        control.origin.store.head(&wanted.path).await.map_err(|cause| store_problem(&name, &cause))?.size;
    let unreadable = |cause| store_problem(&name, &cause);
    if wanted.is_tree && !trees::is_whole(&control, wanted.object, size).await.map_err(unreadable)? {
        return Err(rotten_tree(&name));
    }
    let tag = format!("\"{name}\"");
    if matches_tag(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    // RFC 9110 §13.1.5: a validator that does not match makes the range go away. Ours never change, so few ask.
    let if_range = headers.get(header::IF_RANGE);
    let range = range.filter(|_| if_range.is_none_or(|validator| validator == tag.as_str()));
    let (status, first, count) = match select(range, size) {
        Selection::Whole => (StatusCode::OK, 0, size),
        Selection::Part(span) => (StatusCode::PARTIAL_CONTENT, span.first(), span.count()),
        Selection::Unsatisfiable => return Err(unsatisfiable(size)),
    };
    let body = if method == Method::HEAD || count == 0 {
        Body::empty()
    } else {
        read(&control, &wanted.path, first, count).await.map_err(|cause| store_problem(&name, &cause))?
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let mut insert = |name, value: String| {
        headers
            .insert(name, HeaderValue::from_str(&value).expect("digits, names and quotes are header values"));
    };
    insert(header::CONTENT_TYPE, wanted.media_type.to_owned());
    insert(header::ACCEPT_RANGES, "bytes".to_owned());
    insert(header::ETAG, tag);
    insert(header::CACHE_CONTROL, "private, immutable".to_owned());
    insert(header::CONTENT_LENGTH, count.to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        insert(
            header::CONTENT_RANGE,
            format!("bytes {first}-{}/{size}", first.saturating_add(count).saturating_sub(1)),
        );
    }
    Ok(response)
}

/// Only these names reach the store: no path of a request ever does.
struct Wanted {
    object: ObjectId,
    path: StorePath,
    media_type: &'static str,
    is_tree: bool,
}

impl Wanted {
    fn parse(first2: &str, name: &str) -> Option<Self> {
        let (digest, extension) = name.split_once('.')?;
        let object: ObjectId = digest.parse().ok()?;
        if !digest.starts_with(first2) || first2.len() != 2 {
            return None;
        }
        if extension == TREE_EXTENSION {
            let media_type = "application/octet-stream";
            return Some(Self {
                object,
                path: StorePath::from(tree_path(object)),
                media_type,
                is_tree: true,
            });
        }
        let extension: Extension = extension.parse().ok()?;
        let path = StorePath::from(object_path(object, extension));
        Some(Self { object, path, media_type: extension.media_type(), is_tree: false })
    }
}

async fn read(control: &Control, path: &StorePath, first: u64, count: u64) -> Result<Body, StoreError> {
    let range = first..first.saturating_add(count);
    let got = control.origin.store.get_opts(path, GetOptions::new().with_range(Some(range))).await?;
    match got.payload {
        // object_store would read a folder's files in 8 KiB steps.
        GetResultPayload::File(mut file, _) => {
            let sought = file.seek(SeekFrom::Start(first));
            sought.map_err(|cause| StoreError::Generic { store: "origin", source: cause.into() })?;
            let reader = tokio::fs::File::from_std(file).take(count);
            Ok(Body::from_stream(ReaderStream::with_capacity(reader, CHUNK_BYTES)))
        }
        GetResultPayload::Stream(stream) => Ok(Body::from_stream(stream)),
    }
}

fn store_problem(name: &str, cause: &StoreError) -> ApiProblem {
    if matches!(cause, StoreError::NotFound { .. }) {
        return ApiProblem::not_found(format!("the origin has no {name}"));
    }
    tracing::warn!(name, %cause, "the origin cannot be read");
    ApiProblem::new(
        StatusCode::BAD_GATEWAY,
        "origin",
        "The origin failed",
        "the origin cannot be read; see the log",
    )
}

/// RFC 9110 §15.6.4: for a while.
fn rotten_tree(name: &str) -> ApiProblem {
    let detail =
        format!("{name} is damaged in the origin and is being made again from its object; ask later");
    ApiProblem::new(StatusCode::SERVICE_UNAVAILABLE, "rotten-tree", "Being made again", detail)
        .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// RFC 9110 §15.5.17: says how long it is.
fn unsatisfiable(size: u64) -> ApiProblem {
    let value = HeaderValue::from_str(&format!("bytes */{size}")).expect("a number is a header value");
    let detail = format!("the object has {size} bytes");
    ApiProblem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", "Range not satisfiable", detail)
        .with(header::CONTENT_RANGE, value)
}
