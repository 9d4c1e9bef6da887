//! A stand-in for a model vendor: a real HTTP server that speaks Chat Completions, well or badly.
//!
//! What it does is chosen by the model's name:
//!
//! | model | does |
//! |---|---|
//! | `good` | streams [`GOOD`](crate::vendor::GOOD) word by word, usage, `[DONE]` |
//! | `plan` | a valid plan of the question's agents when asked for the schema `plan`, else `good` |
//! | `planjunk-then-plan` | junk; the plan once the conversation holds an answer of the model (a repair) |
//! | `planjunk` | junk, always |
//! | `rate-once` | 429 with `Retry-After: 1` at the first call, then `good` |
//! | `rate-always`, `rate-date` | 429 with `Retry-After: 1`; with an HTTP date 30 s ahead |
//! | `quota`, `no-credit` | 429 `insufficient_quota`; 402 |
//! | `status-NNN` | that status with an error body |
//! | `html-502`, `overloaded-529`, `busy-503` | a page; 529; 503 with `Retry-After: 2` |
//! | `echo-key` | 401 whose text quotes the whole `Authorization` header |
//! | `redirect` | 307 to another path of this server |
//! | `cut`, `cut-once` | closes the socket mid-way; only at the first call |
//! | `eof`, `eof-done` | a clean end without a `finish_reason`; the same after `[DONE]` |
//! | `no-done`, `open-end` | a `finish_reason`, then a clean end; then silence |
//! | `broken-json`, `mid-error`, `mid-quota` | half a chunk; an error in mid-stream; one about money |
//! | `json-error`, `web-page` | 200 with a JSON error; 200 with a page |
//! | `stall`, `silent`, `no-headers` | one piece, then nothing; headers only; not even headers |
//! | `keep-alive` | 20 comments, 50 ms apart, then `good` |
//! | `foreign-finish` | `good` with the `finish_reason` `eos_token` |
//! | `tool-noise`, `tool-calls` | huge tool indexes, then `stop`; the `finish_reason` `tool_calls` |
//! | `refuse`, `filtered` | a `refusal`; the `finish_reason` `content_filter` |
//! | `huge-line`, `endless` | 600 MB without a line's end; pieces for ever |
//! | `slow` | 20 pieces, 50 ms apart |
//!
//! Any other model: 404 `model_not_found`.

mod play;
mod table;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What `good` answers.
pub const GOOD: &str = "Hello from the stand-in vendor, grüße.";
/// The key that counts as right.
pub const KEY: &str = "test-key-0123456789abcdef";

/// One call, as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model asked for.
    pub model: String,
    /// The whole body.
    pub body: Value,
    /// Did it carry `Authorization: Bearer` with [`KEY`]?
    pub authorized: bool,
    /// Did it carry any `Authorization`?
    pub has_authorization: bool,
}

/// The running server; it stops when dropped.
#[derive(Debug)]
pub struct Vendor {
    base_url: String,
    ledger: Arc<Ledger>,
    server: JoinHandle<()>,
}

/// What is known about the calls so far.
#[derive(Debug)]
struct Ledger {
    requests: Mutex<Vec<Request>>,
    /// Models of which the first call is over.
    seen: Mutex<HashSet<String>>,
    sent_bytes: AtomicU64,
    dropped: watch::Sender<usize>,
}

impl Vendor {
    /// Starts a server on a free port of the loopback.
    ///
    /// # Panics
    ///
    /// When the loopback gives no port.
    pub async fn start() -> Self {
        let bound = async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            Ok::<_, std::io::Error>((listener.local_addr()?, listener))
        };
        let (address, listener) = bound
            .await
            .unwrap_or_else(|error| panic!("no port on the loopback: {error}"));
        let ledger = Arc::new(Ledger {
            requests: Mutex::default(),
            seen: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            dropped: watch::Sender::new(0),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .with_state(Arc::clone(&ledger));
        let server = tokio::spawn(async move {
            // Ends with the task; an error here shows as a refused connection in the test.
            let _ = axum::serve(listener, router).await;
        });
        Self {
            base_url: format!("http://{address}/v1"),
            ledger,
            server,
        }
    }

    /// What belongs into `OPENAI_BASE_URL`.
    pub fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// Calls so far, of every kind.
    pub fn calls(&self) -> usize {
        self.requests().len()
    }

    /// All calls, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.ledger.requests).clone()
    }

    /// Calls that the client abandoned before the answer's end.
    pub fn dropped(&self) -> usize {
        *self.ledger.dropped.borrow()
    }

    /// Waits until `count` calls were abandoned; false when that takes longer than `patience`.
    pub async fn saw_dropped(&self, count: usize, patience: Duration) -> bool {
        let mut dropped = self.ledger.dropped.subscribe();
        let enough = dropped.wait_for(|dropped| *dropped >= count);
        tokio::time::timeout(patience, enough)
            .await
            .is_ok_and(|seen| seen.is_ok())
    }

    /// Bytes of streams handed to the socket so far.
    pub fn sent_bytes(&self) -> u64 {
        self.ledger.sent_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Ledger {
    /// Writes the call down; true when it is the first one of its model.
    fn record(&self, request: Request) -> bool {
        let first = locked(&self.seen).insert(request.model.clone());
        locked(&self.requests).push(request);
        first
    }
}

async fn complete(State(ledger): State<Arc<Ledger>>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    let request = Request {
        model: model.clone(),
        authorized: authorization.is_some_and(|value| value == format!("Bearer {KEY}")),
        has_authorization: authorization.is_some(),
        body,
    };
    let first = ledger.record(request.clone());
    match table::reply(&request, first, authorization.unwrap_or_default()) {
        table::Reply::Whole(response) => response,
        table::Reply::Stream(acts) => play::stream(acts, ledger),
        table::Reply::Silence => play::silence(ledger).await,
    }
}

/// A test that panicked has failed already; the others may go on reading.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
