//! A client of one stream that costs as little as it can: a socket, a buffer, and a look at the beginning of each line.
//!
//! It knows the least of HTTP/1.1 and of `text/event-stream`: chunks are not taken apart, because no frame is
//! ever cut by one, and of a frame only its `id: ` line is read.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// Read at once: a few frames. Five thousand clients have a buffer each.
const BUFFER: usize = 2048;
/// Longest head of an answer.
const HEAD: usize = 8192;

/// Where to listen, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) path: String,
    pub(super) token: Option<Arc<str>>,
    /// Whose feed it is, by number.
    pub(super) user: usize,
}

/// What one stream was given.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) user: usize,
    received: Mutex<Vec<(i64, Instant)>>,
    bytes: AtomicU64,
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    buffer: Box<[u8]>,
    ids: Ids,
    pub(super) log: Arc<Log>,
    /// Events of all streams together.
    delivered: Arc<AtomicU64>,
}

impl Log {
    fn received(&self) -> MutexGuard<'_, Vec<(i64, Instant)>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seqs in the order in which they came, and when.
    pub(super) fn events(&self) -> Vec<(i64, Instant)> {
        self.received().clone()
    }

    /// Seq of the newest event.
    pub(super) fn newest(&self) -> Option<i64> {
        self.received().last().map(|(seq, _)| *seq)
    }

    /// What came over the wire, heads and heartbeats included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// Opens the stream and waits until the server has answered: from then on nothing is missed.
    pub(super) async fn open(
        target: &Target,
        after: Option<i64>,
        room: Option<u32>,
        delivered: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = room {
            socket.set_recv_buffer_size(room)?;
        }
        let mut socket = socket.connect(target.address).await?;
        socket.write_all(request(target, after).as_bytes()).await?;
        let log = Log {
            user: target.user,
            received: Mutex::default(),
            bytes: AtomicU64::new(0),
        };
        let mut stream = Self {
            socket,
            buffer: vec![0; BUFFER].into(),
            ids: Ids::default(),
            log: Arc::new(log),
            delivered,
        };
        stream.answer().await?;
        Ok(stream)
    }

    /// Reads the head, and takes in what came with it.
    async fn answer(&mut self) -> anyhow::Result<()> {
        let mut head = Vec::new();
        let end = loop {
            let read = self.socket.read(&mut self.buffer).await?;
            ensure!(read > 0 && head.len() < HEAD, "no whole answer");
            head.extend_from_slice(&self.buffer[..read]);
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        ensure!(
            head.starts_with(b"HTTP/1.1 200 "),
            "no stream: {}",
            String::from_utf8_lossy(&head)
        );
        take(&mut self.ids, &self.log, &self.delivered, &head[end..]);
        Ok(())
    }

    /// Follows the stream until its end, which is an error: it has none of its own.
    pub(super) async fn follow(mut self) -> anyhow::Result<()> {
        loop {
            let read = self.socket.read(&mut self.buffer).await;
            match read.context("a stream broke off")? {
                0 => bail!("a stream ended"),
                read => {
                    let bytes = &self.buffer[..read];
                    take(&mut self.ids, &self.log, &self.delivered, bytes);
                }
            }
        }
    }
}

fn take(ids: &mut Ids, log: &Log, delivered: &AtomicU64, bytes: &[u8]) {
    let now = Instant::now();
    log.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    let mut received = log.received();
    let before = received.len();
    ids.scan(bytes, |seq| received.push((seq, now)));
    let more = received.len() - before;
    drop(received);
    delivered.fetch_add(more as u64, Ordering::Relaxed);
}

fn request(target: &Target, after: Option<i64>) -> String {
    let token = target.token.as_deref();
    let token = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let after = after.map_or_else(String::new, |after| format!("last-event-id: {after}\r\n"));
    format!(
        "GET {} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n{token}{after}\r\n",
        target.path
    )
}

/// Finds the ids in a stream, however it is cut.
#[derive(Debug, Default)]
struct Ids {
    /// The beginning of the line that is being read.
    line: [u8; Ids::LENGTH],
    length: usize,
}

impl Ids {
    /// `id: ` and a number.
    const LENGTH: usize = 24;

    fn scan(&mut self, mut bytes: &[u8], mut on_id: impl FnMut(i64)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            if let Some(id) = self.id() {
                on_id(id);
            }
            self.length = 0;
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = std::cmp::min(bytes.len(), Self::LENGTH - self.length);
        self.line[self.length..self.length + kept].copy_from_slice(&bytes[..kept]);
        self.length += kept;
    }

    fn id(&self) -> Option<i64> {
        let digits = self.line[..self.length].strip_prefix(b"id: ")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_wherever_the_bytes_are_cut() {
        let text = b"1f\r\nretry: 2000\n\n\r\n2a\r\nid: 7\nevent: x\ndata: {\"a\":\"id: 9\"}\n\n\r\nid: 123456\ndata: {}\n\nid: 1";
        for cut in 0..text.len() {
            let mut ids = Ids::default();
            let mut found = Vec::new();
            let (one, two) = text.split_at(cut);
            ids.scan(one, |id| found.push(id));
            ids.scan(two, |id| found.push(id));
            assert_eq!(found, [7, 123_456], "cut at {cut}");
        }
    }
}
