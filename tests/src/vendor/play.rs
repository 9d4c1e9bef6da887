//! Plays a stream act by act, and notices when nobody listens any more.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;

use super::Ledger;

/// One thing that happens on the wire.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// These bytes, so many times.
    Send(Bytes, usize),
    /// Nothing for a while.
    Pause(Duration),
    /// Nothing for ever.
    Stall,
    /// The socket is closed in the middle of the body.
    Cut,
}

/// Counts as abandoned unless it was played to its end.
struct Playing {
    acts: VecDeque<Act>,
    ledger: Arc<Ledger>,
}

impl Drop for Playing {
    fn drop(&mut self) {
        if !self.acts.is_empty() {
            self.ledger.dropped.send_modify(|dropped| *dropped += 1);
        }
    }
}

/// Answers with a stream of server-sent events.
pub(super) fn stream(acts: Vec<Act>, ledger: Arc<Ledger>) -> Response {
    let playing = Playing {
        acts: acts.into(),
        ledger,
    };
    let body = stream::unfold(playing, |mut playing| async move {
        playing.next().await.map(|piece| (piece, playing))
    });
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(body),
    )
        .into_response()
}

/// Answers with nothing at all.
pub(super) async fn silence(ledger: Arc<Ledger>) -> Response {
    let _abandoned = Playing {
        acts: VecDeque::from([Act::Stall]),
        ledger,
    };
    std::future::pending().await
}

impl Playing {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.acts.pop_front()? {
                Act::Send(bytes, times) => {
                    if times > 1 {
                        self.acts.push_front(Act::Send(bytes.clone(), times - 1));
                    }
                    self.ledger
                        .sent_bytes
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return Some(Ok(bytes));
                }
                Act::Pause(pause) => {
                    // Stays in the list while it lasts, so that leaving now counts as abandoned.
                    self.acts.push_front(Act::Pause(pause));
                    tokio::time::sleep(pause).await;
                    self.acts.pop_front();
                }
                Act::Stall => {
                    self.acts.push_front(Act::Stall);
                    std::future::pending::<()>().await;
                }
                Act::Cut => return Some(Err(io::Error::other("cut on purpose"))),
            }
        }
    }
}
