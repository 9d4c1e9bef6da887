//! A TCP proxy in this process that behaves like a bad network: slow, cut, silent, or losing exactly the reply of a commit.
//!
//! It listens on the loopback and forwards to TCP or to a Unix socket. What it does to its connections is commanded at run
//! time. A black hole keeps what it swallowed and hands it on when the weather clears, as a network that retransmits does: late
//! statements of a worker that has lost its leases meanwhile are the point of it.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

use super::statements::Statements;

/// Free ports are looked for here, below those that outgoing connections take: a listener that closes for a while gets its own
/// port back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Bytes moved at once.
const PIECE: usize = 16 * 1024;
/// How a complete answer of Postgres ends outside a transaction: `ReadyForQuery`, idle.
const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];

/// Where a proxy leads.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What the network is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Clear,
    /// Everything passes, each piece so much later.
    Slow(Duration),
    /// Nothing passes, no end of a connection either, and nobody is told.
    BlackHole,
    /// New connections are refused; open ones go on.
    Refuse,
}

/// A running proxy; it stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    /// Whether the statements of Postgres are followed.
    postgres: bool,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<u64>,
    thief: Mutex<Option<String>>,
    stolen: AtomicU64,
    open: AtomicU64,
}

type Server = (
    Box<dyn AsyncRead + Send + Unpin>,
    Box<dyn AsyncWrite + Send + Unpin>,
);

impl Proxy {
    /// Starts one on a free port. `postgres`: its statements are followed, so that [`Self::steal_reply`] works.
    pub async fn start(upstream: Upstream, postgres: bool) -> Self {
        let listener = free_port().await;
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            postgres,
            weather: watch::Sender::new(Weather::Clear),
            cuts: watch::Sender::new(0),
            thief: Mutex::default(),
            stolen: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, address, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather, for open connections too.
    pub fn weather(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Resets every open connection; how many there were.
    pub fn cut(&self) -> u64 {
        let open = self.shared.open.load(Ordering::Relaxed);
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        open
    }

    /// The next statement whose text has this in it is carried out, and its reply is lost together with its connection.
    pub fn steal_reply(&self, of: &str) {
        *lock(&self.shared.thief) = Some(of.to_owned());
    }

    /// No reply is to be stolen any more.
    pub fn steal_nothing(&self) {
        *lock(&self.shared.thief) = None;
    }

    /// Replies stolen so far.
    pub fn stolen(&self) -> u64 {
        self.shared.stolen.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    /// Whether the thief waits for one of these statements; takes the order away.
    fn wanted(&self, run: &[String]) -> bool {
        if run.is_empty() {
            return false;
        }
        let mut thief = lock(&self.thief);
        let hit = thief
            .as_ref()
            .is_some_and(|of| run.iter().any(|text| text.contains(of)));
        if hit {
            *thief = None;
        }
        hit
    }

    async fn connect(&self) -> io::Result<Server> {
        Ok(match &self.upstream {
            Upstream::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Upstream::Unix(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                (Box::new(read), Box::new(write))
            }
        })
    }
}

/// A listener on a port that nobody else has.
pub async fn free_port() -> TcpListener {
    loop {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", fastrand::u16(PORTS))).await {
            return listener;
        }
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut weather = shared.weather.subscribe();
    let mut open = Some(listener);
    loop {
        let refusing = *weather.borrow_and_update() == Weather::Refuse;
        if refusing {
            open = None;
        } else if open.is_none() {
            open = Some(listen_again(address).await);
        }
        tokio::select! {
            accepted = next(open.as_ref()) => if let Ok(client) = accepted {
                tokio::spawn(link(client, Arc::clone(&shared)));
            },
            changed = weather.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn listen_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn link(mut client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let _ = client.set_nodelay(true);
    shared.open.fetch_add(1, Ordering::Relaxed);
    let reset = tokio::select! {
        ended = forward(&mut client, &shared) => ended.is_err(),
        _ = cuts.changed() => true,
    };
    shared.open.fetch_sub(1, Ordering::Relaxed);
    if reset {
        // A reset and not an end: the other side learns that something went wrong.
        let _ = client.set_zero_linger();
    }
}

/// Moves bytes both ways until one side ends; an error when the link broke.
async fn forward(client: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let mut weather = shared.weather.subscribe();
    passable(&mut weather).await;
    let (mut from_server, mut to_server) = shared.connect().await?;
    let (mut from_client, mut to_client) = client.split();
    let doomed = AtomicBool::new(false);
    let mut statements = Statements::default();
    let up = pump(
        &mut from_client,
        &mut to_server,
        shared.weather.subscribe(),
        |piece| {
            if shared.postgres && shared.wanted(&statements.follow(piece)) {
                doomed.store(true, Ordering::Relaxed);
            }
            Ok(true)
        },
    );
    let down = pump(
        &mut from_server,
        &mut to_client,
        shared.weather.subscribe(),
        |piece| {
            if !doomed.load(Ordering::Relaxed) {
                return Ok(true);
            }
            if piece.ends_with(&READY) {
                shared.stolen.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::other("the reply was stolen"));
            }
            Ok(false)
        },
    );
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

/// Moves bytes one way. `look` sees each piece and says whether it is handed on.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut weather: watch::Receiver<Weather>,
    mut look: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = from.read(&mut buffer).await;
        // The end of a connection does not pass a black hole either.
        passable(&mut weather).await;
        let count = read?;
        if count == 0 {
            return Ok(());
        }
        if look(&buffer[..count])? {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

/// Waits while nothing passes, or for as long as the weather makes everything late.
async fn passable(weather: &mut watch::Receiver<Weather>) {
    let now = *weather.borrow_and_update();
    match now {
        Weather::Clear | Weather::Refuse => {}
        Weather::Slow(by) => sleep(by).await,
        Weather::BlackHole => {
            // An error: the proxy is gone, and its links with it.
            let _ = weather
                .wait_for(|weather| *weather != Weather::BlackHole)
                .await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
