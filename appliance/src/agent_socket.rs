//! The UNIX socket on which the fill agent of this box speaks to the server (`content::control_socket`).
//!
//! Few connections, each a line at a time; an answer that reads a disk is made on a helper thread.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use content::control_socket::{LINE_BYTES_MAX, ServerAnswer, ServerRequest};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::config::StartError;
use crate::service::Service;
use crate::sys;

const CONNECTIONS_MAX: usize = 8;
/// Between two requests, and for an answer to be taken.
const IDLE_MAX: Duration = Duration::from_secs(60);
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Takes the path: a socket that nobody answers on is a dead server's and is replaced; anything else stays.
pub fn bind(path: &Path) -> Result<StdListener, StartError> {
    let refuse = |what: String, cure| Err(StartError::Socket { path: path.to_owned(), what, cure });
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return refuse("is there and is no socket".to_owned(), "name another path, or remove it");
        }
        Ok(_) if StdStream::connect(path).is_ok() => {
            return refuse("another server answers on it".to_owned(), "stop that one, or name another path");
        }
        Ok(_) => {
            if let Err(cause) = fs::remove_file(path) {
                return refuse(format!("a dead server's socket: {cause}"), "remove it");
            }
        }
        Err(_) => {}
    }
    match listen(path) {
        Ok(listener) => Ok(listener),
        Err(cause) => refuse(cause.to_string(), "name a path in a folder that this user may write"),
    }
}

fn listen(path: &Path) -> io::Result<StdListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let listener = StdListener::bind(path)?;
    // The agent is of the same group; nobody else may drain a server or give it keys.
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(cause) => {
                tracing::warn!(%cause, "the agent's socket does not accept");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned();
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let ended = match place {
                Ok(_place) => converse(stream, service).await,
                Err(_) => refuse(stream, "too many connections").await,
            };
            match ended {
                Err(cause) if cause.kind() != ErrorKind::TimedOut => {
                    tracing::debug!(%cause, "an agent's connection ended");
                }
                Ok(()) | Err(_) => {}
            }
        });
    }
}

/// One answer per request, in order, until the agent closes or is silent for long.
async fn converse(stream: UnixStream, service: Arc<Service>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let count = timeout(IDLE_MAX, (&mut from).take(limit).read_until(b'\n', &mut line)).await??;
        if count == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return send(&mut to, &refused("a message is a line of at most a MiB")).await;
        }
        let answer = match serde_json::from_slice::<ServerRequest>(&line) {
            Ok(request) => ask(Arc::clone(&service), request).await,
            Err(cause) => refused(&format!("not a request: {cause}")),
        };
        send(&mut to, &answer).await?;
    }
}

async fn ask(service: Arc<Service>, request: ServerRequest) -> ServerAnswer {
    let answered = tokio::task::spawn_blocking(move || service.answer(request, sys::now())).await;
    answered.unwrap_or_else(|cause| refused(&format!("the server failed at it: {cause}")))
}

async fn refuse(mut stream: UnixStream, reason: &str) -> io::Result<()> {
    send(&mut stream, &refused(reason)).await
}

fn refused(reason: &str) -> ServerAnswer {
    ServerAnswer::Refused { reason: reason.to_owned() }
}

async fn send(to: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &ServerAnswer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(IDLE_MAX, to.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_servers_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/server.sock");
        let alive = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(bind(&path).unwrap_err().to_string().contains("another server"));
        drop(alive);
        drop(bind(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(
            error.contains("no socket") && error.contains("server.sock") && error.contains("`socket`"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}
