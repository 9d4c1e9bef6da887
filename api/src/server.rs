//! The sockets: who may connect, and for how long without getting on. axum's own loop has none of these limits.
//!
//! | a client that | is cut off after |
//! |---|---|
//! | says nothing, or takes its time over the head of a request | [`Patience::head`] |
//! | takes its time over a body | [`Patience::body`], in [`crate::extract`] |
//! | keeps a connection without asking anything | [`Patience::idle`] |
//! | does not take what it is sent | [`Patience::stall`] |
//! | is not there any more (nothing acknowledged) | [`Patience::stall`], by the kernel |
//!
//! Whoever comes when all places are taken hears so at once.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    response::Response,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

/// Largest head of a request, and what is read ahead.
const HEAD_BYTES: u16 = u16::MAX;
/// Header lines of a request.
const HEADERS: usize = 100;
/// Requests at once on one HTTP/2 connection.
const H2_STREAMS: u32 = 128;
/// How often an HTTP/2 peer is asked whether it is there.
const H2_PING: Duration = Duration::from_secs(20);
/// What an HTTP/2 connection begins with.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client hears when there is no place.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// Pause when the process has no file descriptor left.
const NO_FILES: Duration = Duration::from_millis(100);

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request, from its first byte, and for the first byte of a connection (10 s).
    pub head: Duration,
    /// Between two requests (75 s: longer than common load balancers, so that they close first).
    pub idle: Duration,
    /// To take what they are sent (30 s).
    pub stall: Duration,
    /// For the body of a request (30 s).
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(30),
            body: Duration::from_secs(30),
        }
    }
}

/// Serves until `stop`, then until every request has ended.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    service: S,
    patience: Patience,
    max_connections: usize,
    stop: CancellationToken,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let places = Arc::new(Semaphore::new(max_connections));
    // Whoever gives this call up gives up its connections with it.
    let mut connections = JoinSet::new();
    while let Some(socket) = stop.run_until_cancelled(accept(&listener)).await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // What does not fit into an empty socket buffer is not waited for.
            let _ = socket.try_write(FULL);
            continue;
        };
        prepare(&socket, patience);
        let connection = Connection {
            socket,
            patience,
            // Of its own: thousands that wait for one would queue for its lock whenever they are woken.
            stop: stop.child_token(),
            _place: place,
        };
        connections.spawn(connection.run(service.clone()));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return socket,
            // The client is gone before it was there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(%error, "no connection could be accepted; trying again");
                sleep(NO_FILES).await;
            }
        }
    }
}

/// Small answers go out at once (the default would hold an event back for 40 ms), and a peer that has vanished is noticed.
fn prepare(socket: &TcpStream, patience: Patience) {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(patience.stall));
}

struct Connection {
    socket: TcpStream,
    patience: Patience,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run<S>(self, service: S)
    where
        S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let h2 = timeout(self.patience.head, is_h2(&self.socket));
        let Some(Ok(Ok(h2))) = self.stop.run_until_cancelled(h2).await else {
            return;
        };
        let running = Arc::new(AtomicUsize::new(0));
        let io = TokioIo::new(Watched {
            socket: self.socket,
            patience: self.patience,
            running: Arc::clone(&running),
            // HTTP/2 peers say something at any time; they are asked whether they are there.
            hurry: !h2,
            reading: Deadline::default(),
            writing: Deadline::default(),
        });
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let underway = Underway::begin(&running);
            let answer = service.clone().oneshot(request.map(Body::new));
            async move {
                let body = |body| Answer {
                    body,
                    _underway: underway,
                };
                answer.await.map(|answer| answer.map(body))
            }
        });
        let served = if h2 {
            let mut server = http2::Builder::new(TokioExecutor::new());
            server
                .timer(TokioTimer::new())
                .max_concurrent_streams(H2_STREAMS)
                .max_header_list_size(HEAD_BYTES.into())
                .keep_alive_interval(H2_PING)
                .keep_alive_timeout(self.patience.head);
            until_stopped(Box::pin(server.serve_connection(io, service)), &self.stop).await
        } else {
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(self.patience.idle)
                .max_headers(HEADERS)
                .max_header_size(HEAD_BYTES.into())
                .max_buf_size(HEAD_BYTES.into());
            until_stopped(Box::pin(server.serve_connection(io, service)), &self.stop).await
        };
        if let Err(error) = served {
            debug!(%error, "a connection ended early");
        }
    }
}

/// Serves a connection; after `stop` it begins no request more. In a box: a task that holds a connection itself holds room for
/// either kind, and twice.
async fn until_stopped<C: GracefulConnection>(
    mut connection: Pin<Box<C>>,
    stop: &CancellationToken,
) -> Result<(), C::Error> {
    tokio::select! {
        biased;
        served = connection.as_mut() => return served,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Whether a connection speaks HTTP/2 from its first byte.
async fn is_h2(socket: &TcpStream) -> io::Result<bool> {
    let mut start = [0; H2_PREFACE.len()];
    loop {
        let seen = socket.peek(&mut start).await?;
        if seen == 0 || start[..seen] != H2_PREFACE[..seen] {
            return Ok(false);
        }
        if seen == start.len() {
            return Ok(true);
        }
        // A part of the preface: a peek does not wait for more.
        sleep(Duration::from_millis(5)).await;
    }
}

/// A request that has not been answered to its end.
struct Underway(Arc<AtomicUsize>);

impl Underway {
    fn begin(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(running))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that keeps its request underway until it has gone out.
struct Answer {
    body: Body,
    _underway: Underway,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that breaks off when its peer does not get on.
struct Watched {
    socket: TcpStream,
    patience: Patience,
    /// Requests whose answers have not gone out.
    running: Arc<AtomicUsize>,
    /// Whether what is said while no request is underway has to become one.
    hurry: bool,
    /// Rings when the head of a request, or the taking of an answer, lasts too long.
    reading: Deadline,
    writing: Deadline,
}

impl Watched {
    /// Something was written, or could not be.
    fn wrote<T>(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.writing.clear();
            return wrote;
        }
        self.writing.set(self.patience.stall);
        ready!(self.writing.poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.running.load(Ordering::Acquire) > 0 {
            this.reading.clear();
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.socket).poll_read(context, buffer) {
            let heard = buffer.filled().len() > before;
            if this.hurry && heard && this.running.load(Ordering::Acquire) == 0 {
                this.reading.set(this.patience.head);
            }
            return Poll::Ready(read);
        }
        ready!(this.reading.poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.wrote(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.wrote(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A moment after which it is too late; none: no hurry.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Begins, unless it runs already.
    fn set(&mut self, after: Duration) {
        self.0.get_or_insert_with(|| Box::pin(sleep(after)));
    }

    fn clear(&mut self) {
        self.0 = None;
    }

    /// Ready when it has passed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}
