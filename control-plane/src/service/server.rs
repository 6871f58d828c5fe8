//! The socket: accepts, serves each connection with hyper, and ends gracefully.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::config::Config;
use super::control::Control;
use super::lasting::Lasting;
use super::origin::Origin;
use super::planner::Planner;
use super::plays::Peer;
use super::{ServiceError, router};

/// Further ones wait in the listening socket's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// A head that takes longer, or a kept connection that asks nothing for so long, is closed.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// What is being answered at the end may take this long.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A control plane at work.
pub struct Running {
    pub address: SocketAddr,
    pub control: Arc<Control>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Binds, reads state and origin, serves. When this returns it answers.
pub async fn start(config: Config) -> Result<Running, ServiceError> {
    let file = config.file.display().to_string();
    let lasting = Lasting::open(&config.state)?;
    let refused = |cause| {
        let origin = config.origin.display().to_string();
        ServiceError::Origin { file: file.clone(), origin, cause }
    };
    let origin = Origin::open(&config.origin).map_err(refused)?;
    let refused_socket =
        |cause| ServiceError::Listen { file: file.clone(), listen: config.listen.to_string(), cause };
    let listener = TcpListener::bind(config.listen).await.map_err(refused_socket)?;
    let address = listener.local_addr().map_err(refused_socket)?;
    let public_url = config.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
    let control = Arc::new(Control::new(&config, &public_url, lasting, origin)?);
    let planner = Planner::start(control.clone()).await.map_err(refused)?;
    let (stop, stopped) = watch::channel(false);
    let tasks = vec![
        tokio::spawn(planner.run(config.refresh, stopped.clone())),
        tokio::spawn(accept(listener, router(control.clone()), stopped)),
    ];
    tracing::info!(%address, public_url, "serving");
    Ok(Running { address, control, stop, tasks })
}

impl Running {
    /// Lets what is being answered end, for at most ten seconds.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if task.await.is_err() {
                tracing::error!("a task of the control plane was broken off");
            }
        }
    }
}

/// Until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), ServiceError> {
    // Before the start: a signal that comes while the origin is read stops it as gently.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let next = async |signal: &mut std::io::Result<tokio::signal::unix::Signal>| match signal {
        Ok(signal) => drop(signal.recv().await),
        // Without a handler the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    };
    let running = start(config).await?;
    tokio::select! {
        () = next(&mut terminate) => {}
        () = next(&mut interrupt) => {}
    }
    tracing::info!("stopping");
    running.stop().await;
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = graceful.watch(serve(stream, peer, &router));
                tokio::spawn(async move {
                    if let Err(cause) = connection.await {
                        tracing::debug!(%peer, %cause, "connection ended");
                    }
                    drop(place);
                });
            }
            Err(cause) => {
                // Out of descriptors, most likely: what is open goes on, and frees some.
                tracing::warn!(%cause, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were cut off at the end of the time to stop");
    }
}

fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: &Router,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + 'static {
    // Answers are small and whole: waiting for more of them only delays.
    if let Err(cause) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %cause, "nodelay");
    }
    let router = TowerToHyperService::new(router.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
}
