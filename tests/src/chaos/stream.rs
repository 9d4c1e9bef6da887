//! Clients of the feed: they read, are cut off, come back with `Last-Event-ID`, some of them slowly. What they saw is kept whole.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use serde_json::Value;
use sseer::EventStream;
use tokio::time::{sleep, timeout};

use super::client::Client;

/// The API sends a comment every 15 s; a client that hears nothing for longer opens its stream anew.
const SILENCE: Duration = Duration::from_secs(20);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// One event as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Which of the client's connections brought it, from 1.
    pub connection: usize,
    /// Its position; none for text on its way.
    pub seq: Option<i64>,
    /// The document.
    pub value: Value,
}

/// All that a client saw.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// Whose, by number.
    pub person: usize,
    /// Events, in the order in which they came.
    pub frames: Vec<Frame>,
    /// Connections that were opened.
    pub connections: usize,
    /// Position after the last stored event.
    pub cursor: i64,
}

/// A client that watches until it is told to stop.
#[derive(Debug, Clone)]
pub struct Watcher {
    client: Client,
    seen: Arc<Mutex<Transcript>>,
    /// Nothing is done slowly or broken off any more.
    hurry: Arc<AtomicBool>,
}

impl Watcher {
    /// Of the person behind the client.
    pub fn new(client: Client) -> Self {
        let transcript = Transcript {
            person: client.person,
            ..Transcript::default()
        };
        Self {
            client,
            seen: Arc::new(Mutex::new(transcript)),
            hurry: Arc::default(),
        }
    }

    /// Watches for ever. `slow`: it takes its time over each event.
    pub async fn run(self, slow: bool, mut rng: fastrand::Rng) {
        loop {
            let cursor = self.lock().cursor;
            if let Some(response) = self.client.stream(cursor).await {
                self.lock().connections += 1;
                let stay = Duration::from_millis(rng.u64(300..4_000));
                self.read(response, slow, Instant::now() + stay).await;
            }
            sleep(PAUSE).await;
        }
    }

    /// From now on it reads as fast as it can and stays.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Whose, by number.
    pub fn person(&self) -> usize {
        self.client.person
    }

    /// Position after the last stored event that it has seen.
    pub fn cursor(&self) -> i64 {
        self.lock().cursor
    }

    /// What it has seen so far.
    pub fn transcript(&self) -> Transcript {
        self.lock().clone()
    }

    async fn read(&self, response: reqwest::Response, slow: bool, until: Instant) {
        let mut events = EventStream::new(response.bytes_stream());
        loop {
            let hurry = self.hurry.load(Ordering::Relaxed);
            let left = until.saturating_duration_since(Instant::now());
            if !hurry && left.is_zero() {
                return;
            }
            let patience = if hurry { SILENCE } else { left };
            let Ok(Some(Ok(event))) = timeout(patience, events.next()).await else {
                return;
            };
            self.client.look_for_others("a stream", &event.data);
            let value: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            if value["event_type"] == "reconnect" {
                return;
            }
            self.take(value);
            if slow && !hurry {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn take(&self, value: Value) {
        let mut seen = self.lock();
        let (connection, seq) = (seen.connections, value["seq"].as_i64());
        if let Some(seq) = seq {
            seen.cursor = seq;
        }
        seen.frames.push(Frame {
            connection,
            seq,
            value,
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Transcript> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
