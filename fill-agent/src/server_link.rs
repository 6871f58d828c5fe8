//! Asks the segment server of this box over its UNIX socket (`content::control_socket`). One connection per question:
//! a slow one (a new generation being checked) never stands in the way of another. Impure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use content::control_socket::{LINE_BYTES_MAX, ServerAnswer, ServerRequest, ServerStatus};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A status takes no disk.
const STATUS_WAIT: Duration = Duration::from_secs(1);
/// Checking a generation takes 1 to 2 s per GB.
const PUBLISH_WAIT: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the server does not answer on its socket: {0}")]
    Away(String),
    #[error("the server refused: {0}")]
    Refused(String),
}

#[derive(Clone, Debug)]
pub struct ServerLink {
    socket: PathBuf,
}

impl ServerLink {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn ask(&self, request: &ServerRequest) -> Result<ServerStatus, ServerError> {
        let wait = match request {
            ServerRequest::Publish { .. } => PUBLISH_WAIT,
            ServerRequest::Status | ServerRequest::Drain { .. } | ServerRequest::TokenKeys { .. } => {
                STATUS_WAIT
            }
        };
        let answer = timeout(wait, self.exchange(request)).await;
        let answer =
            answer.map_err(|_| ServerError::Away(format!("no answer within {} s", wait.as_secs())))?;
        match answer.map_err(|cause| ServerError::Away(cause.to_string()))? {
            ServerAnswer::Status(status) => Ok(status),
            ServerAnswer::Refused { reason } => Err(ServerError::Refused(reason)),
        }
    }

    async fn exchange(&self, request: &ServerRequest) -> std::io::Result<ServerAnswer> {
        let mut line = serde_json::to_vec(request).map_err(std::io::Error::other)?;
        line.push(b'\n');
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(&line).await?;
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut answer = Vec::new();
        BufReader::new(stream).take(limit).read_until(b'\n', &mut answer).await?;
        serde_json::from_slice(&answer).map_err(std::io::Error::other)
    }
}
