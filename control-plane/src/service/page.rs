//! The player's page: three files of the committed bundle, part of the binary.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use content::id::ObjectId;

use super::agents::matches_tag;
use super::problem::{ApiProblem, PathOf};

const INDEX: &[u8] = include_bytes!("../../../player/dist/index.html");
const SCRIPT: &[u8] = include_bytes!("../../../player/dist/player.js");
const STYLE: &[u8] = include_bytes!("../../../player/dist/player.css");

/// Only our own scripts and styles run; media and playlists come from any appliance, by fetch; nothing may frame us.
const POLICY: &str = "default-src 'self'; connect-src *; media-src 'self' blob:; worker-src 'self' blob:; \
                      img-src 'self' data:; style-src 'self'; object-src 'none'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

pub(super) async fn index(headers: HeaderMap) -> Response {
    serve(INDEX, "text/html; charset=utf-8", &headers)
}

pub(super) async fn asset(PathOf(name): PathOf<String>, headers: HeaderMap) -> Result<Response, ApiProblem> {
    match name.as_str() {
        "player.js" => Ok(serve(SCRIPT, "text/javascript; charset=utf-8", &headers)),
        "player.css" => Ok(serve(STYLE, "text/css; charset=utf-8", &headers)),
        _ => Err(ApiProblem::not_found("the page has no such file")),
    }
}

/// Kept by browsers, asked for again each time: a new binary is a new page at once.
fn serve(bytes: &'static [u8], media_type: &'static str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", ObjectId::of(bytes));
    let same = matches_tag(headers, &tag);
    let mut response = if same { StatusCode::NOT_MODIFIED.into_response() } else { bytes.into_response() };
    let out = response.headers_mut();
    out.insert(
        header::ETAG,
        HeaderValue::from_str(&tag).expect("hexadecimal digits in quotes are a header value"),
    );
    for (name, value) in [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        out.insert(name, HeaderValue::from_static(value));
    }
    response
}
