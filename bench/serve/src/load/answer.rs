//! The head of an answer: enough to know how many bytes follow. Not a client's parser: what is unexpected is an error.

use anyhow::{Context as _, Result, bail};

/// No server here sends a longer one.
const HEAD_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub head_bytes: usize,
    pub body_bytes: u64,
}

/// None: its end has not come yet.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        if bytes.len() > HEAD_BYTES_MAX {
            bail!("a head without an end");
        }
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3));
    let status =
        status.and_then(|status| status.parse().ok()).with_context(|| format!("no answer: {text}"))?;
    let body_bytes = lines.find_map(content_length).with_context(|| format!("no length: {text}"))?;
    Ok(Some(Head { status, head_bytes: end + 4, body_bytes }))
}

fn content_length(line: &str) -> Option<u64> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 206 Partial Content\r\nServer: x\r\ncontent-LENGTH:  16384\r\n\r\nbody";
        let head = Head { status: 206, head_bytes: text.len() - 4, body_bytes: 16384 };
        assert_eq!(parse(text).unwrap(), Some(head));
        for cut in 0..text.len() - 4 {
            assert_eq!(parse(&text[..cut]).unwrap(), None, "{cut}");
        }
    }

    #[test]
    fn what_is_no_answer_of_known_length_is_refused() {
        for text in
            ["HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 2\r\nContent-Length: 1\r\n\r\n"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(&[b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
