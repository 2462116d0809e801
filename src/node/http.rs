//! Serving HTTP/1.1 to clients that are not trusted: any program on the host can
//! connect to loopback.
//!
//! Everything that a client can make the service hold is bounded: connections,
//! the size of a request's head, the time to send one, and the time without
//! taking what was answered.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{self, Listener};

/// What an answer carries.
pub type Body = BoxBody<Bytes, io::Error>;

/// The largest head of a request, in bytes: a request line with the longest
/// possible reference, and a client's headers.
const MAX_HEAD: usize = 16 << 10;

/// How many headers a request may have.
const MAX_HEADERS: usize = 64;

/// The time that a connection without a request gets when the service stops.
const FIRST: Duration = Duration::from_secs(3);

/// What a server allows its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once; more wait in the listener's queue.
    pub connections: usize,
    /// The time for sending a request's head, idle time before it included.
    pub head: Duration,
    /// The time for which a client may take nothing of what is sent to it.
    pub stall: Duration,
    /// The time for which requests in hand may go on when the service stops.
    pub drain: Duration,
}

/// Serves the listener until `stop`, then lets requests in hand end.
pub async fn serve<L, H, F>(listener: L, limits: Limits, handler: H, stop: CancellationToken)
where
    L: Listener,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some((place, stream)) = accept::next(&listener, &places, &stop).await {
        let (handler, stop) = (handler.clone(), stop.clone());
        connections.spawn(async move {
            connection(stream, limits, handler, stop).await;
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection<S, H, F>(stream: S, limits: Limits, handler: H, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let asked = CancellationToken::new();
    let service = service_fn(|request| {
        asked.cancel();
        let answer = handler(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Stalling::new(stream, limits.stall)), service);
    let mut served = std::pin::pin!(served);
    // How a connection ends is the client's affair: it has been answered, or has gone.
    let ends = async {
        stop.cancelled().await;
        // Who has just connected is about to ask.
        let _ = tokio::time::timeout(FIRST, asked.cancelled()).await;
    };
    tokio::select! {
        _ = served.as_mut() => {}
        () = ends => {
            served.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(limits.drain, served).await;
        }
    }
}

/// A stream whose writes fail when the other side takes nothing for too long.
struct Stalling<S> {
    stream: S,
    patience: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Stalling {
            stream,
            patience,
            deadline: None,
        }
    }

    /// Passes on what a write said, unless it has been pending for too long.
    fn watch<T>(&mut self, task: &mut Task<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.deadline = None;
            return wrote;
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match deadline.as_mut().poll(task) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(task, bytes);
        self.watch(task, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(task, parts);
        self.watch(task, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(task);
        self.watch(task, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

/// An answer without content.
pub fn empty() -> Body {
    whole(Bytes::new())
}

/// An answer that is JSON.
pub fn json(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn whole(bytes: Bytes) -> Body {
    BodyExt::boxed(Full::new(bytes).map_err(|never| match never {}))
}
