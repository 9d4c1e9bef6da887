//! A model vendor on a socket: Chat Completions, streamed, with tool calls. It does what the prompt says ([`Script`]), unless it is
//! told to misbehave. Each worker comes by a path of its own, so that receipts tell who asked.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::Utc;
use futures::stream;
use serde_json::{Value, json};
use tokio::{sync::mpsc::UnboundedSender, time::sleep};

use super::{
    mood::Moods,
    receipts::{Book, Ending, Kind, Receipt},
    script::Script,
    socket::Socket,
};

/// A vendor that stalls gives up at last; a client that waits longer than this does not wait for ever.
const STALL: Duration = Duration::from_secs(4);
/// Pieces of an answer that has no end, before the server is stopped by its operator.
const ENDLESS: usize = 2_000;

/// How the vendor misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelMood {
    /// 429 with `Retry-After: 1`.
    Busy,
    /// 500.
    Down,
    /// Headers and a first piece, then nothing for a while, then a cut.
    Stall,
    /// Pieces without an end.
    Endless,
    /// Tool calls with broken JSON; a broken chunk when there is no tool to call.
    Garbled,
    /// A cut in the middle.
    Cut,
}

/// The running server; it stops when dropped.
#[derive(Debug)]
pub struct ModelServer {
    socket: Socket,
    /// Its behaviour.
    pub moods: Moods<ModelMood>,
}

struct Shop {
    book: Book,
    moods: Moods<ModelMood>,
    deaths: UnboundedSender<usize>,
}

/// What goes onto the wire.
enum Act {
    Say(Bytes),
    Rest(Duration),
    Cut,
}

impl ModelServer {
    /// Starts it. `deaths` hears the number of each worker that shall die for what it asked.
    ///
    /// # Panics
    ///
    /// When the loopback gives no port.
    pub async fn start(book: Book, deaths: UnboundedSender<usize>) -> Self {
        let moods = Moods::default();
        let shop = Arc::new(Shop {
            book,
            moods: moods.clone(),
            deaths,
        });
        let router = Router::new()
            .route("/{worker}/v1/chat/completions", post(complete))
            .with_state(shop);
        let socket = Socket::serve(router).await;
        Self { socket, moods }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.socket.address
    }
}

async fn complete(
    State(shop): State<Arc<Shop>>,
    Path(worker): Path<usize>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response {
    let (script, turn) = Script::read(&request).unwrap_or_default();
    let at = shop.book.open(receipt(&script, turn, worker, &headers));
    let mood = shop.moods.draw();
    if script.poison {
        // The process dies of it; nobody waits for an answer.
        let _ = shop.deaths.send(worker);
        sleep(STALL).await;
        return refuse(&shop, at, StatusCode::BAD_GATEWAY, "nobody is there");
    }
    match mood {
        Some(ModelMood::Busy) => {
            let busy = refuse(&shop, at, StatusCode::TOO_MANY_REQUESTS, "slow down");
            return ([(header::RETRY_AFTER, "1")], busy).into_response();
        }
        Some(ModelMood::Down) => {
            return refuse(&shop, at, StatusCode::INTERNAL_SERVER_ERROR, "out of order");
        }
        _ => {}
    }
    if script.refuse {
        return refuse(&shop, at, StatusCode::BAD_REQUEST, "this cannot be asked");
    }
    play(&shop, at, acts(&script, turn, mood))
}

fn receipt(script: &Script, turn: usize, worker: usize, headers: &HeaderMap) -> Receipt {
    Receipt {
        begun: Utc::now(),
        ended: None,
        kind: Kind::Model,
        program: script.id.clone(),
        agent: script.agent.clone(),
        step: header_of(headers, "x-codelab-step"),
        token: header_of(headers, "x-codelab-token"),
        ordinal: header_of(headers, "x-codelab-ordinal"),
        worker: Some(worker),
        place: turn.to_string(),
        name: String::new(),
        args: Value::Null,
        applied: true,
        ending: Ending::Open,
    }
}

/// A header that says what it should, or nothing.
pub(super) fn header_of<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn refuse(shop: &Shop, at: usize, status: StatusCode, message: &str) -> Response {
    shop.book.close(at, Ending::Refused(status.as_u16()));
    let error = json!({ "error": { "message": message, "type": "chaos" } });
    (status, Json(error)).into_response()
}

fn acts(script: &Script, turn: usize, mood: Option<ModelMood>) -> Vec<Act> {
    let head = Act::Say(chunk(&json!({ "role": "assistant", "content": "" }), None));
    let body = match (mood, script.calls.get(turn)) {
        (Some(ModelMood::Endless), _) => endless(),
        (Some(ModelMood::Stall), _) => vec![say("well "), Act::Rest(STALL), Act::Cut],
        (Some(ModelMood::Cut), _) => {
            let mut body = spoken(script);
            body.truncate(body.len() / 2);
            body.push(Act::Cut);
            body
        }
        (Some(ModelMood::Garbled), None) => vec![Act::Say(Bytes::from_static(
            b"data: {\"choices\":[{\"index\":0,\"del\n\n",
        ))],
        (garbled, Some((name, args))) => called(script, turn, name, args, garbled.is_some()),
        (_, None) => spoken(script),
    };
    std::iter::once(head).chain(body).collect()
}

fn spoken(script: &Script) -> Vec<Act> {
    let gap = Duration::from_millis(script.gap_ms);
    let letters: Vec<char> = script.text.chars().collect();
    let pieces = std::cmp::max(script.pieces, 1) as usize;
    let size = std::cmp::max(letters.len().div_ceil(pieces), 1);
    let mut acts = Vec::new();
    for index in 0..pieces {
        let from = std::cmp::min(index * size, letters.len());
        let to = std::cmp::min(from + size, letters.len());
        acts.push(say(&letters[from..to].iter().collect::<String>()));
        acts.push(Act::Rest(gap));
    }
    acts.extend(end("stop"));
    acts
}

fn called(script: &Script, turn: usize, name: &str, args: &Value, garbled: bool) -> Vec<Act> {
    let id = format!("call_{}_{turn}", script.id);
    let text = args.to_string();
    let (first, rest) = text.split_at(text.len() / 2);
    let piece = |function: Value, id: Option<&str>| {
        let mut call = json!({ "index": 0, "type": "function", "function": function });
        if let Some(id) = id {
            call["id"] = id.into();
        }
        Act::Say(chunk(&json!({ "tool_calls": [call] }), None))
    };
    let mut acts = vec![
        Act::Rest(Duration::from_millis(script.gap_ms)),
        piece(json!({ "name": name, "arguments": "" }), Some(&id)),
        piece(json!({ "arguments": first }), None),
    ];
    if !garbled {
        acts.push(piece(json!({ "arguments": rest }), None));
    }
    acts.extend(end("tool_calls"));
    acts
}

fn endless() -> Vec<Act> {
    let mut acts: Vec<Act> = (0..ENDLESS)
        .flat_map(|_| [say("and so on "), Act::Rest(Duration::from_millis(2))])
        .collect();
    acts.push(Act::Cut);
    acts
}

fn say(text: &str) -> Act {
    Act::Say(chunk(&json!({ "content": text }), None))
}

fn end(reason: &str) -> [Act; 2] {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16 } });
    [
        Act::Say(chunk(&json!({}), Some(reason))),
        Act::Say(Bytes::from(format!("data: {usage}\n\ndata: [DONE]\n\n"))),
    ]
}

fn chunk(delta: &Value, finish: Option<&str>) -> Bytes {
    let chunk = json!({ "object": "chat.completion.chunk",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
    Bytes::from(format!("data: {chunk}\n\n"))
}

/// Closes its receipt as abandoned unless the answer was played to its end.
struct Playing {
    acts: std::vec::IntoIter<Act>,
    book: Book,
    at: usize,
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.book.close(self.at, Ending::Abandoned);
    }
}

impl Playing {
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        loop {
            match self.acts.next()? {
                Act::Say(bytes) => {
                    if self.acts.as_slice().is_empty() {
                        // Before the bytes leave: who has them may go on at once.
                        self.book.close(self.at, Ending::Whole);
                    }
                    return Some(Ok(bytes));
                }
                Act::Rest(gap) => sleep(gap).await,
                Act::Cut => {
                    self.book.close(self.at, Ending::Cut);
                    return Some(Err(std::io::Error::other("cut on purpose")));
                }
            }
        }
    }
}

fn play(shop: &Shop, at: usize, acts: Vec<Act>) -> Response {
    let playing = Playing {
        acts: acts.into_iter(),
        book: shop.book.clone(),
        at,
    };
    let body = stream::unfold(playing, |mut playing| async move {
        playing.next().await.map(|piece| (piece, playing))
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream")];
    (head, Body::from_stream(body)).into_response()
}
