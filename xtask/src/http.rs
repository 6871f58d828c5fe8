//! HTTP as a test asks it: plain, with a time limit, a status is an answer and no error.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

const BODY_BYTES_MAX: u64 = 1 << 30;

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name; the empty string if there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }
}

pub fn agent(limit: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(limit))
        .http_status_as_error(false)
        // What listens on 127.0.0.0/8 is not reached through anybody's proxy.
        .proxy(None)
        .max_redirects(0)
        .build();
    config.into()
}

pub fn get(url: &str, headers: &[(&str, &str)], limit: Duration) -> Result<Answer> {
    let mut request = agent(limit).get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    read(request.call().with_context(|| format!("GET {url}"))?)
}

pub fn head(url: &str, headers: &[(&str, &str)], limit: Duration) -> Result<Answer> {
    let mut request = agent(limit).head(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    read(request.call().with_context(|| format!("HEAD {url}"))?)
}

pub fn post_json(url: &str, value: &Value, limit: Duration) -> Result<Answer> {
    let request = agent(limit).post(url).header("content-type", "application/json");
    read(request.send(value.to_string().as_bytes()).with_context(|| format!("POST {url}"))?)
}

pub fn delete(url: &str, limit: Duration) -> Result<Answer> {
    read(agent(limit).delete(url).call().with_context(|| format!("DELETE {url}"))?)
}

/// The JSON body of a 2xx answer; anything else is an error that shows it.
pub fn get_json(url: &str, limit: Duration) -> Result<Value> {
    let answer = get(url, &[], limit)?;
    if !(200..300).contains(&answer.status) {
        bail!("GET {url} answered {}: {}", answer.status, answer.text());
    }
    answer.json()
}

fn read(response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let (parts, mut body) = response.into_parts();
    let text = |value: &ureq::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = body.with_config().limit(BODY_BYTES_MAX).read_to_vec().context("the body broke off")?;
    Ok(Answer { status: parts.status.as_u16(), headers, body })
}
