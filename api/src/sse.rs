//! An event stream: history from Postgres, then live, without a gap and without anything that grows.
//!
//! ```text
//! join the listeners -> read pages after the cursor until Postgres has no more -> lines as they come
//!        ^ a line that is not the next one, or too many lines at once: read again
//! ```
//!
//! The reader's position is a seq of the person's whole feed, also where it shows one session: seqs have no gaps, so the
//! position tells whether a line was missed. Frames are built once, by the pump, for all streams. A page is read only
//! when the client has taken the one before.

use std::{collections::VecDeque, convert::Infallible, pin::Pin, time::Duration};

use axum::body::Bytes;
use chrono::{SecondsFormat, Utc};
use engine::{Store, UserScope, id::SessionId};
use serde_json::{Value, json};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::warn;

use crate::{
    hub::Listener,
    line::{DELTA_TYPE, EventLine, Format, Frame, Line},
};

/// Events read at once.
pub(crate) const PAGE: i64 = 200;
/// Pause after a failed read.
const RETRY: Duration = Duration::from_millis(500);

/// Which lines a stream shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// The one session of a session's stream.
    pub(crate) session: Option<SessionId>,
    /// Some sessions of a person's stream; none: all, and what belongs to no session.
    pub(crate) sessions: Option<Vec<SessionId>>,
    /// Some types; none: all.
    pub(crate) types: Option<Vec<String>>,
}

impl Filter {
    fn shows(&self, session: Option<SessionId>, kind: &str) -> bool {
        let among =
            |sessions: &Vec<SessionId>| session.is_some_and(|session| sessions.contains(&session));
        self.session.is_none_or(|wanted| session == Some(wanted))
            && self.sessions.as_ref().is_none_or(among)
            && self
                .types
                .as_ref()
                .is_none_or(|types| types.iter().any(|wanted| wanted == kind))
    }
}

/// What a stream shows, to whom, and until when.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) scope: UserScope,
    pub(crate) filter: Filter,
    pub(crate) format: Format,
    /// Everything up to this seq has been seen.
    pub(crate) position: i64,
    /// Longest silence.
    pub(crate) heartbeat: Duration,
    /// When the token ends, and the stream with it.
    pub(crate) expires: Instant,
    /// The process is told to stop.
    pub(crate) stop: CancellationToken,
}

/// One stream at work.
#[derive(Debug)]
struct Reader {
    listener: Listener,
    store: Store,
    order: Order,
    /// Whether Postgres may have more than the lines will bring.
    behind: bool,
    ready: VecDeque<Bytes>,
    ended: bool,
    /// When something was last sent.
    spoke_at: Instant,
    /// Rings when the token ends, or when the stream may have been silent for too long; set anew only when it rings,
    /// because events come more often than that.
    timer: Pin<Box<Sleep>>,
    /// Of a token of its own: thousands of streams that wait for one would queue for its lock at every event.
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The chunks of a stream's body.
pub(crate) fn chunks(
    store: Store,
    listener: Listener,
    mut order: Order,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    order.stop = order.stop.child_token();
    let spoke_at = Instant::now();
    let timer = Box::pin(sleep_until(std::cmp::min(
        order.expires,
        spoke_at + order.heartbeat,
    )));
    let stopped = Box::pin(order.stop.clone().cancelled_owned());
    let mut ready = VecDeque::new();
    if order.format == Format::Sse {
        // Jitter, so that the streams of a stopped process do not come back in step.
        let retry = 2000 + fastrand::u32(..1000);
        ready.push_back(Bytes::from(format!("retry: {retry}\n\n")));
    }
    let reader = Reader {
        listener,
        store,
        order,
        behind: true,
        ready,
        ended: false,
        spoke_at,
        timer,
        stopped,
    };
    futures::stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok(chunk), reader))
    })
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.spoke_at = Instant::now();
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            if self.order.stop.is_cancelled() {
                self.end("draining");
            } else if Instant::now() >= self.order.expires {
                self.end("token_expired");
            } else if self.behind {
                self.catch_up().await;
            } else {
                self.listen().await;
            }
        }
    }

    /// Waits for the next line, the end, or the time of a heartbeat.
    async fn listen(&mut self) {
        tokio::select! {
            biased;
            () = &mut self.stopped => self.end("draining"),
            line = self.listener.lines.recv() => match line {
                Ok(line) => self.take(&line),
                Err(RecvError::Lagged(_)) => self.behind = true,
                // The channel lives as long as a listener does.
                Err(RecvError::Closed) => self.end("draining"),
            },
            () = &mut self.timer => self.ring(),
        }
    }

    fn ring(&mut self) {
        let now = Instant::now();
        if now >= self.spoke_at + self.order.heartbeat {
            self.spoke_at = now;
            self.ready.push_back(match self.order.format {
                Format::Sse => Bytes::from_static(b": still here\n\n"),
                Format::NdJson => Bytes::from_static(b"\n"),
            });
        }
        self.timer.as_mut().reset(std::cmp::min(
            self.order.expires,
            self.spoke_at + self.order.heartbeat,
        ));
    }

    fn take(&mut self, line: &Line) {
        match line {
            Line::Event(event) if event.seq <= self.order.position => {}
            Line::Event(event) if event.seq > self.order.position + 1 => self.behind = true,
            Line::Event(event) => {
                self.order.position = event.seq;
                self.show(event);
            }
            // What was said before an event that this stream has shown already may belong to a step that has ended.
            Line::Delta(delta) => {
                if delta.after >= self.order.position
                    && self.order.filter.shows(delta.session, DELTA_TYPE)
                {
                    self.ready.push_back(delta.frame.bytes(self.order.format));
                }
            }
        }
    }

    fn show(&mut self, event: &EventLine) {
        if self.order.filter.shows(event.session, &event.kind) {
            self.ready.push_back(event.frame.bytes(self.order.format));
        }
    }

    /// Reads one page of history.
    async fn catch_up(&mut self) {
        // Whatever is handed out after this moment comes as a line; a page that is not full has everything before it.
        let handed_out = self.listener.position();
        let Order {
            scope,
            filter,
            position,
            stop,
            ..
        } = &self.order;
        let page = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            page = self.store.events_after(*scope, filter.session, *position, PAGE) => page,
        };
        let events = match page {
            Ok(events) => events,
            Err(error) => {
                warn!(%error, "a stream's history could not be read; it is tried again");
                return self.rest().await;
            }
        };
        self.behind = i64::try_from(events.len()).is_ok_and(|read| read == PAGE);
        for event in &events {
            self.order.position = event.seq;
            self.show(&EventLine::new(event));
        }
        if !self.behind {
            self.order.position = std::cmp::max(self.order.position, handed_out);
        }
    }

    async fn rest(&mut self) {
        tokio::select! {
            () = self.order.stop.cancelled() => {}
            () = sleep_until(self.order.expires) => {}
            () = sleep(RETRY) => {}
        }
    }

    /// The last event: why it ends, and the cursor to go on from. It has no seq and is stored nowhere.
    fn end(&mut self, reason: &str) {
        let data: Value = json!({
            "event_type": "reconnect",
            "payload": {"reason": reason, "cursor": self.order.position},
            "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        });
        self.ready
            .push_back(Frame::new(None, "reconnect", &data.to_string()).bytes(self.order.format));
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use engine::{
        StoreError,
        event::{
            Event,
            hints::{Delta, Hints},
        },
        id::{PlanId, StepId, UserId},
        store::{self, PoolLimits},
    };

    use super::*;
    use crate::{
        ApiConfig,
        auth::{AuthConfig, SecretString, anybody},
        hub::{Hub, Purpose},
    };

    /// A reader that has seen everything up to 5, over a store that is never asked.
    fn reader() -> Result<Reader, StoreError> {
        let pool = store::pool("postgres://nobody@localhost/nothing", PoolLimits::default())?;
        let store = Store::new(pool, Hints::local(), Duration::from_secs(30));
        let config = ApiConfig::new(AuthConfig::hs256(SecretString::from("x".repeat(32))));
        let stop = CancellationToken::new();
        let hub = Hub::start(store.clone(), &config, &stop);
        let scope = anybody();
        let Ok(listener) = hub.join(scope, Purpose::Stream) else {
            unreachable!("the first stream")
        };
        let now = Instant::now();
        let order = Order {
            scope,
            filter: Filter::default(),
            format: Format::Sse,
            position: 5,
            heartbeat: config.heartbeat,
            expires: now + config.heartbeat,
            stop: stop.clone(),
        };
        let (timer, stopped) = (Box::pin(sleep_until(now)), Box::pin(stop.cancelled_owned()));
        Ok(Reader {
            listener,
            store,
            order,
            behind: false,
            ready: VecDeque::new(),
            ended: false,
            spoke_at: now,
            timer,
            stopped,
        })
    }

    fn event(seq: i64) -> Line {
        let (event_type, payload, timestamp) = ("task_started".to_owned(), json!({}), Utc::now());
        Line::event(&Event {
            event_type,
            payload,
            timestamp,
            seq,
            session_id: None,
            plan_id: None,
            step_id: None,
        })
    }

    fn delta(after: i64) -> Line {
        let (key, text) = ("a".to_owned(), "b".to_owned());
        let delta = Delta {
            user: UserId::new(),
            session: None,
            plan: PlanId::new(),
            step: StepId::new(),
            key,
            attempt: 1,
            text,
        };
        Line::delta(&delta, after, Utc::now())
    }

    #[tokio::test]
    async fn a_line_is_shown_once_and_only_when_it_is_the_next() -> Result<(), StoreError> {
        // The line; how many frames it gives, the position after it, and whether Postgres has to be read.
        let table = [
            ("seen before", event(4), 0, 5, false),
            ("the last one seen", event(5), 0, 5, false),
            ("the next", event(6), 1, 6, false),
            ("the next but one", event(7), 0, 5, true),
            ("far ahead", event(700), 0, 5, true),
            ("text at this position", delta(5), 1, 5, false),
            ("text before an event that was shown", delta(4), 0, 5, false),
        ];
        for (what, line, frames, position, behind) in table {
            let mut reader = reader()?;
            reader.take(&line);
            assert_eq!(
                (reader.ready.len(), reader.order.position, reader.behind),
                (frames, position, behind),
                "{what}"
            );
        }
        Ok(())
    }
}
