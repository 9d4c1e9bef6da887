//! Tools on a socket. Every call that does its work leaves a receipt, whatever the caller heard of it.
//!
//! | path | effect | |
//! |---|---|---|
//! | `/add` | idempotent | adds `n`; the same `Idempotency-Key` adds once and answers the same again |
//! | `/charge` | irreversible | charges `n`; every call is a charge, whatever its key |
//! | `/look` | read | tells the sum |

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::Utc;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    model_server::header_of,
    mood::Moods,
    receipts::{Book, Ending, Kind, Receipt},
    socket::Socket,
};

/// How late a late answer is.
const LATE: Duration = Duration::from_millis(1_500);

/// How the tools misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolMood {
    /// The work is done and the connection cut.
    DoAndCut,
    /// 500, and nothing was done.
    FailBefore,
    /// 500, though the work was done.
    FailAfter,
    /// The work is done, and the answer comes late.
    Late,
    /// 429 with `Retry-After: 1`; nothing was done.
    Busy,
}

/// The running server; it stops when dropped.
#[derive(Debug)]
pub struct ToolServer {
    socket: Socket,
    /// Its behaviour.
    pub moods: Moods<ToolMood>,
}

struct Shop {
    book: Book,
    moods: Moods<ToolMood>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    sum: i64,
    answered: HashMap<String, Value>,
}

impl ToolServer {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When the loopback gives no port.
    pub async fn start(book: Book) -> Self {
        let moods = Moods::default();
        let shop = Arc::new(Shop {
            book,
            moods: moods.clone(),
            ledger: Mutex::default(),
        });
        let router = Router::new().route("/{name}", post(call)).with_state(shop);
        let socket = Socket::serve(router).await;
        Self { socket, moods }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.socket.address
    }
}

async fn call(
    State(shop): State<Arc<Shop>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(args): Json<Value>,
) -> Response {
    let key: String = header_of(&headers, "idempotency-key").unwrap_or_default();
    let text = |field: &str| args[field].as_str().unwrap_or_default().to_owned();
    let at = shop.book.open(Receipt {
        begun: Utc::now(),
        ended: None,
        kind: Kind::Tool,
        program: text("program"),
        agent: text("agent"),
        step: header_of(&headers, "x-codelab-step"),
        token: header_of(&headers, "x-codelab-token"),
        ordinal: header_of(&headers, "x-codelab-ordinal"),
        worker: None,
        place: key.clone(),
        name: name.clone(),
        args: args.clone(),
        applied: false,
        ending: Ending::Open,
    });
    let _closing = Closing(shop.book.clone(), at);
    let mood = shop.moods.draw();
    match mood {
        Some(ToolMood::Busy) => {
            let busy = fail(&shop, at, StatusCode::TOO_MANY_REQUESTS);
            return ([(header::RETRY_AFTER, "1")], busy).into_response();
        }
        Some(ToolMood::FailBefore) => return fail(&shop, at, StatusCode::INTERNAL_SERVER_ERROR),
        _ => {}
    }
    let Some(answer) = shop.work(at, &name, &key, &args) else {
        return fail(&shop, at, StatusCode::NOT_FOUND);
    };
    match mood {
        Some(ToolMood::DoAndCut) => {
            shop.book.close(at, Ending::Cut);
            return cut();
        }
        Some(ToolMood::FailAfter) => return fail(&shop, at, StatusCode::BAD_GATEWAY),
        Some(ToolMood::Late) => sleep(LATE).await,
        _ => {}
    }
    shop.book.close(at, Ending::Whole);
    Json(answer).into_response()
}

/// A caller that leaves while it waits drops the handler: that is written down too.
struct Closing(Book, usize);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(self.1, Ending::Abandoned);
    }
}

impl Shop {
    /// Does the work, unless the key says that it is done; none: there is no such tool.
    fn work(&self, at: usize, name: &str, key: &str, args: &Value) -> Option<Value> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let amount = args["n"].as_i64().unwrap_or(1);
        match name {
            "add" => {
                if let Some(answer) = ledger.answered.get(key) {
                    return Some(answer.clone());
                }
                ledger.sum += amount;
                let answer = json!({ "added": amount });
                ledger.answered.insert(key.to_owned(), answer.clone());
                self.book.apply(at);
                Some(answer)
            }
            "charge" => {
                self.book.apply(at);
                Some(json!({ "charged": amount }))
            }
            "look" => {
                self.book.apply(at);
                Some(json!({ "sum": ledger.sum }))
            }
            _ => None,
        }
    }
}

fn fail(shop: &Shop, at: usize, status: StatusCode) -> Response {
    shop.book.close(at, Ending::Refused(status.as_u16()));
    (status, Json(json!({ "error": "chaos" }))).into_response()
}

/// An answer that breaks off before its first byte.
fn cut() -> Response {
    let broken = Err::<Vec<u8>, _>(std::io::Error::other("cut on purpose"));
    let body = Body::from_stream(stream::once(async { broken }));
    ([(header::CONTENT_LENGTH, "100")], body).into_response()
}
