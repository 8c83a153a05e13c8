//! The HTTP server of a node, on the control thread's tokio runtime.
//!
//! ```text
//! /health/live     200 while the control thread runs
//! /health/ready    200 when clients are served; 503 while starting and while stopping
//! /metrics         admin::metrics
//! /profile         admin::profile
//! /shards          admin::shards
//! ```
//! Whoever reaches the port is not trusted: at most [`MAX_CONNECTIONS`] at a time (others wait in the
//! kernel's queue), each may send [`MAX_REQUEST_BYTES`] until it is answered, and one that does not get on
//! with it is closed. So a hostile client costs a bounded piece of memory, and the shards nothing.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::metrics::Metrics;
use super::profile::Profiler;
use super::shards::ShardSource;
use crate::base::listeners::HostPort;

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Bytes that a client may send between two answers. Requests are short: a line and headers.
pub const MAX_REQUEST_BYTES: usize = 16 << 10;
/// How long a new connection may take to send its first request.
pub const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a connection may then be idle, or take for a request or an answer. Longer than the usual
/// interval between two scrapes.
pub const IDLE: Duration = Duration::from_secs(75);
/// How long a stop waits for answers under way.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// Where the node is between its start and its stop. Shared by the node, which sets it, and the server.
#[derive(Clone, Default)]
pub struct Health(Arc<AtomicU8>);

const STARTING: u8 = 0;
const READY: u8 = 1;
const STOPPING: u8 = 2;

impl Health {
    /// Clients are served from now on. After `set_stopping` it changes nothing.
    pub fn set_ready(&self) {
        let _ = self
            .0
            .compare_exchange(STARTING, READY, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The node stops.
    pub fn set_stopping(&self) {
        self.0.store(STOPPING, Ordering::Release);
    }

    fn state(&self) -> (StatusCode, &'static str) {
        match self.0.load(Ordering::Acquire) {
            STARTING => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            READY => (StatusCode::OK, "ready\n"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        }
    }
}

/// An open port without a server yet.
pub struct Bound {
    listener: StdListener,
    address: SocketAddr,
}

/// Opens the port of `ringspun.http.listener`. Port 0 takes a free one; an empty host is every interface.
pub fn bind(at: &HostPort) -> io::Result<Bound> {
    let listener = match at.host.as_str() {
        "" => StdListener::bind(("::", at.port)).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            // A machine without IPv6.
            _ => StdListener::bind(("0.0.0.0", at.port)),
        })?,
        host => StdListener::bind((host, at.port))?,
    };
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address })
}

impl Bound {
    /// With the port that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done, then finishes the answers under way, for at most a second. To be
    /// called within a tokio runtime that drives I/O and time.
    pub async fn serve(
        self,
        health: Health,
        metrics: Metrics,
        shards: ShardSource,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let listener = Bounded {
            listener: TcpListener::from_std(self.listener)?,
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        };
        let (stopped, mut stopping) = tokio::sync::watch::channel(());
        let server =
            axum::serve(listener, router(health, metrics, shards)).with_graceful_shutdown(async {
                stop.await;
                drop(stopped);
            });
        let late = async {
            // Ends when `stopped` is dropped; nothing is ever sent.
            let _ = stopping.changed().await;
            tokio::time::sleep(STOP_WAIT).await;
        };
        tokio::select! {
            done = server => done,
            () = late => Ok(()),
        }
    }
}

fn router(health: Health, metrics: Metrics, shards: ShardSource) -> Router {
    let profile = metrics.profiler().map(Profiler::routes).unwrap_or_default();
    Router::new()
        .route("/health/live", get(async || "live\n"))
        .route(
            "/health/ready",
            get(async |State((health, _)): State<(Health, Metrics)>| health.state()),
        )
        .route("/metrics", get(render))
        .with_state((health, metrics))
        .merge(profile)
        .merge(super::shards::routes(shards))
}

async fn render(State((_, metrics)): State<(Health, Metrics)>) -> impl IntoResponse {
    match metrics.render().await {
        Ok(page) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A listener that accepts while there is room.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                // The semaphore is never closed.
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    return (Connection::new(stream, permit), address);
                }
                Err(error) => {
                    // Out of descriptors, or the client is gone again: the next may fare better.
                    tracing::debug!("http accept: {error}");
                    let _ = timeout(Duration::from_millis(100), std::future::pending::<()>()).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with a deadline that only our own progress moves, and a bound on what it may send before
/// it is answered.
struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// What it may still send before we write.
    may_send: usize,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            deadline: Box::pin(sleep_until(Instant::now() + FIRST_REQUEST)),
            may_send: MAX_REQUEST_BYTES,
            _permit: permit,
        }
    }

    /// Fails when the time is up; otherwise sees to it that the task is woken then.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// The client took a piece of an answer.
    fn written(&mut self, bytes: usize) {
        if bytes > 0 {
            self.may_send = MAX_REQUEST_BYTES;
            self.deadline.as_mut().reset(Instant::now() + IDLE);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        if self.may_send == 0 {
            return Poll::Ready(Err(io::Error::other("the request is too long")));
        }
        // Through a small buffer of our own: to lend out a part of the caller's takes unsafe code.
        let mut scratch = [0; 2048];
        let room = scratch.len().min(buffer.remaining()).min(self.may_send);
        let mut part = ReadBuf::new(&mut scratch[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        buffer.put_slice(part.filled());
        self.may_send -= part.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(cx)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::ShardCounters;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;

    /// A server on a free port; `then` gets its address, its health and the way to stop it.
    fn with_server<F: Future<Output = ()>>(
        then: impl FnOnce(SocketAddr, Health, oneshot::Sender<()>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let bound = bind(&HostPort {
                host: "127.0.0.1".into(),
                port: 0,
            })
            .unwrap();
            let (address, health) = (bound.address(), Health::default());
            let (stop, stopped) = oneshot::channel();
            let metrics = Metrics::new(ShardCounters::for_shards(1), None, || 0);
            let (shards, _) = tokio::sync::mpsc::channel(1);
            let server = tokio::spawn(bound.serve(health.clone(), metrics, shards, async {
                let _ = stopped.await;
            }));
            then(address, health, stop).await;
            server.await.unwrap().unwrap();
        });
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn ready_only_between_the_start_and_the_stop_and_live_always() {
        with_server(async |address, health, stop| {
            assert!(
                get(address, "/health/ready")
                    .await
                    .starts_with("HTTP/1.1 503")
            );
            assert!(
                get(address, "/health/live")
                    .await
                    .starts_with("HTTP/1.1 200")
            );
            health.set_ready();
            assert!(
                get(address, "/health/ready")
                    .await
                    .starts_with("HTTP/1.1 200")
            );
            health.set_stopping();
            health.set_ready();
            let stopping = get(address, "/health/ready").await;
            assert!(stopping.starts_with("HTTP/1.1 503") && stopping.ends_with("stopping\n"));
            assert!(get(address, "/nowhere").await.starts_with("HTTP/1.1 404"));
            stop.send(()).unwrap();
        });
    }

    #[test]
    fn metrics_are_openmetrics() {
        with_server(async |address, _, stop| {
            let page = get(address, "/metrics").await;
            assert!(
                page.contains("content-type: application/openmetrics-text"),
                "{page}"
            );
            assert!(page.contains("ringspun_shards 1") && page.ends_with("# EOF\n"));
            stop.send(()).unwrap();
        });
    }

    #[test]
    fn a_request_without_end_is_cut_off() {
        with_server(async |address, _, stop| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            // Refused by a reset or an early end, whatever of the two comes first.
            let header = [[b'h'; 1000].as_slice(), b": v\r\n"].concat();
            let mut sent = 0;
            while stream.write_all(&header).await.is_ok() {
                sent += header.len();
                tokio::task::yield_now().await;
                assert!(sent < 64 << 20, "the server reads on");
            }
            stop.send(()).unwrap();
        });
    }

    #[test]
    fn more_connections_than_allowed_wait_for_room() {
        with_server(async |address, _, stop| {
            let mut idle = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                idle.push(TcpStream::connect(address).await.unwrap());
            }
            // All are answered once, so all were accepted.
            for stream in &mut idle {
                stream
                    .write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                    .await
                    .unwrap();
                let mut some = [0; 16];
                stream.read_exact(&mut some).await.unwrap();
            }
            let mut waiting = Box::pin(get(address, "/health/live"));
            assert!(
                timeout(Duration::from_millis(50), &mut waiting)
                    .await
                    .is_err()
            );
            idle.pop();
            assert!(waiting.await.starts_with("HTTP/1.1 200"));
            stop.send(()).unwrap();
        });
    }

    #[test]
    fn a_stop_does_not_wait_for_idle_clients() {
        with_server(async |address, _, stop| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut some = [0; 16];
            stream.read_exact(&mut some).await.unwrap();
            stop.send(()).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let first = bind(&HostPort {
            host: "127.0.0.1".into(),
            port: 0,
        })
        .unwrap();
        let again = HostPort {
            host: "127.0.0.1".into(),
            port: first.address().port(),
        };
        assert_eq!(bind(&again).err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }
}
