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

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    time::Duration,
};

use axum::body::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use engine::{
    Store, StoreError, UserScope,
    event::{Event, relay::Relay},
    id::{SessionId, StepId},
    store::Cursor,
};
use serde_json::{Value, json};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::warn;

use crate::{
    hub::Listener,
    line::{DELTA_TYPE, DeltaLine, EventLine, Format, Frame, Line},
    openapi::MY,
    texts::Mark,
};

/// Events read at once: what a client that does not read holds in memory, at 10 KB each at worst.
const PAGE: u8 = 50;
/// How long before the token's end a client is told.
const EXPIRY_WARNING: Duration = Duration::from_secs(30);
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
    pub(crate) begin: Begin,
    /// Where the newest events may be had without asking Postgres.
    pub(crate) relay: Option<Relay>,
    /// Longest silence.
    pub(crate) heartbeat: Duration,
    /// When the token ends, and the stream with it.
    pub(crate) expires_at: DateTime<Utc>,
    /// The same by this process's clock.
    pub(crate) expires: Instant,
    /// The process is told to stop.
    pub(crate) stop: CancellationToken,
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    /// Everything up to this seq has been seen.
    pub(crate) seq: i64,
    /// Whether there was more after it when the stream was asked for.
    pub(crate) history: bool,
}

impl Begin {
    /// Nothing has been missed.
    pub(crate) fn now(seq: i64) -> Self {
        Self {
            seq,
            history: false,
        }
    }
}

/// Where a client finds what it needs when events were forgotten before it has seen them.
pub(crate) fn snapshot_path(session: Option<SessionId>) -> String {
    session.map_or_else(
        || format!("{MY}/snapshot/"),
        |session| format!("{MY}/chat/{session}/snapshot/"),
    )
}

/// One stream at work.
#[derive(Debug)]
struct Reader {
    listener: Listener,
    store: Store,
    order: Order,
    /// Everything up to here has been shown or passed over.
    position: Cursor,
    /// Whether Postgres may have more than the lines will bring.
    behind: bool,
    /// How far the client has the texts of running steps.
    marks: HashMap<StepId, Mark>,
    ready: VecDeque<Bytes>,
    ended: bool,
    /// Whether the end of the token was announced.
    warned: bool,
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
    let timer = Box::pin(sleep_until(spoke_at));
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
        position: order.begin.seq.into(),
        order,
        behind: true,
        marks: HashMap::new(),
        ready,
        ended: false,
        warned: false,
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
            // Asked for here only where nothing else waits for it: the answer costs a lock, for each line of each stream.
            if self.behind && self.order.stop.is_cancelled() {
                self.end("draining");
            } else if Instant::now() >= self.order.expires {
                self.end("token_expired");
            } else if self.behind {
                // Apart: what reading takes is not held by thousands of streams that only listen.
                Box::pin(self.catch_up()).await;
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
        let warn_at = self
            .order
            .expires
            .checked_sub(EXPIRY_WARNING)
            .unwrap_or(now);
        if !self.warned && now >= warn_at {
            self.warned = true;
            let expires_at = self
                .order
                .expires_at
                .to_rfc3339_opts(SecondsFormat::Secs, true);
            self.tell("auth_expiring", json!({ "expires_at": expires_at }));
        } else if now >= self.spoke_at + self.order.heartbeat {
            self.spoke_at = now;
            self.ready.push_back(match self.order.format {
                Format::Sse => Bytes::from_static(b": still here\n\n"),
                Format::NdJson => Bytes::from_static(b"\n"),
            });
        }
        let next = if self.warned {
            self.order.expires
        } else {
            warn_at
        };
        let heartbeat = self.spoke_at + self.order.heartbeat;
        self.timer.as_mut().reset(std::cmp::min(next, heartbeat));
    }

    fn take(&mut self, line: &Line) {
        match line {
            Line::Event(event) if event.seq <= self.position.seq => {}
            Line::Event(event) if event.seq > self.position.seq + 1 => self.behind = true,
            Line::Event(event) => {
                self.position = event.seq.into();
                self.show(event);
            }
            Line::Delta(delta) => self.hear(delta),
        }
    }

    /// A piece of text. One that does not go on where the client is means that others were missed.
    fn hear(&mut self, delta: &DeltaLine) {
        // What was said before an event that this stream has shown already may belong to a step that has ended.
        if delta.after < self.position.seq || !self.order.filter.shows(delta.session, DELTA_TYPE) {
            return;
        }
        let read = self
            .marks
            .get(&delta.step)
            .filter(|mark| (mark.attempt, mark.turn) == (delta.mark.attempt, delta.mark.turn));
        let read = read.map(|mark| mark.to);
        if delta.from == read.unwrap_or(0) {
            self.say(delta);
        } else if read.is_none_or(|read| read < delta.mark.to) {
            self.fill_in();
        }
    }

    fn say(&mut self, delta: &DeltaLine) {
        self.marks.insert(delta.step, delta.mark);
        self.ready.push_back(delta.frame.bytes(self.order.format));
    }

    /// Brings the client all that was said so far and that it does not have.
    fn fill_in(&mut self) {
        let filter = &self.order.filter;
        let missing = self.listener.texts().missing(
            |session| filter.shows(session, DELTA_TYPE),
            &self.marks,
            self.position.seq,
            Utc::now(),
        );
        for delta in missing {
            self.say(&delta);
        }
    }

    fn show(&mut self, event: &EventLine) {
        if let Some(step) = event.ended {
            self.marks.remove(&step);
        }
        if self.order.filter.shows(event.session, &event.kind) {
            self.ready.push_back(event.frame.bytes(self.order.format));
        }
    }

    /// Reads one page of history.
    async fn catch_up(&mut self) {
        // Whatever is handed out after this moment comes as a line, and no line has come that is newer; a page that is not full has
        // everything before it.
        let handed_out = self.listener.position();
        if handed_out <= self.position.seq {
            return self.level(handed_out);
        }
        if let Some(lines) = self.listener.recent(self.position.seq) {
            for line in lines {
                self.position = line.seq.into();
                self.show(&line);
            }
            return self.level(handed_out);
        }
        let stop = self.order.stop.clone();
        let page = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            page = self.page(handed_out) => page,
        };
        let (events, gap) = match page {
            Ok(page) => page,
            Err(error) => {
                warn!(%error, "a stream's history could not be read; it is tried again");
                return self.rest().await;
            }
        };
        if gap {
            return self.reset();
        }
        for event in &events {
            self.position = event.into();
            self.show(&EventLine::new(event));
        }
        if events.len() < usize::from(PAGE) || self.position.seq >= handed_out {
            self.level(handed_out);
        }
    }

    /// Everything up to here was shown; what follows comes as lines.
    fn level(&mut self, handed_out: i64) {
        if handed_out > self.position.seq {
            self.position = handed_out.into();
        }
        self.behind = false;
        self.order.begin.history = false;
        self.fill_in();
    }

    /// The next page, and whether some of what it should hold is forgotten.
    async fn page(&self, newest: i64) -> Result<(Vec<Event>, bool), StoreError> {
        let Order {
            scope,
            filter,
            begin,
            relay,
            ..
        } = &self.order;
        if let Some(relay) = relay
            && let Some(events) = relay
                .after(*scope, self.position.seq, newest, usize::from(PAGE))
                .await
        {
            return Ok((events, false));
        }
        let events = self
            .store
            .events_after(*scope, filter.session, self.position, i64::from(PAGE))
            .await?;
        let gap = match (filter.session, events.first()) {
            (None, first) => first.is_some_and(|first| first.seq > self.position.seq + 1),
            // Seqs of one session have gaps of their own. What was dropped before this look was dropped before the page was read.
            (Some(_), _) if begin.history => {
                self.store.feed_bounds(*scope).await?.oldest > self.position.seq
            }
            (Some(_), _) => false,
        };
        Ok((events, gap))
    }

    async fn rest(&mut self) {
        tokio::select! {
            () = self.order.stop.cancelled() => {}
            () = sleep_until(self.order.expires) => {}
            () = sleep(RETRY) => {}
        }
    }

    /// The last event: why it ends, and the cursor to go on from.
    fn end(&mut self, reason: &str) {
        self.tell("reconnect", json!({ "reason": reason }));
        self.ended = true;
    }

    /// The last event for somebody who was slower than the retention.
    fn reset(&mut self) {
        let snapshot = snapshot_path(self.order.filter.session);
        self.tell(
            "reset",
            json!({ "reason": "events_forgotten", "snapshot": snapshot }),
        );
        self.ended = true;
    }

    /// A word about the stream itself: it has no seq, is stored nowhere, and comes whatever types are asked for.
    fn tell(&mut self, event_type: &str, mut payload: Value) {
        payload["cursor"] = self.position.seq.into();
        let data = json!({
            "event_type": event_type,
            "payload": payload,
            "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        });
        let frame = Frame::new(None, event_type, &data.to_string());
        self.ready.push_back(frame.bytes(self.order.format));
    }
}

#[cfg(test)]
mod tests {
    use engine::{
        event::hints::Hints,
        id::PlanId,
        store::{self, PoolLimits},
    };

    use super::*;
    use crate::{
        ApiConfig,
        auth::{AuthConfig, SecretString, anybody},
        hub::{Hub, Purpose},
        line::Said,
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
            begin: Begin::now(5),
            relay: None,
            heartbeat: config.heartbeat,
            expires_at: Utc::now(),
            expires: now + config.heartbeat,
            stop: stop.clone(),
        };
        let (timer, stopped) = (Box::pin(sleep_until(now)), Box::pin(stop.cancelled_owned()));
        Ok(Reader {
            listener,
            store,
            position: order.begin.seq.into(),
            order,
            behind: false,
            marks: HashMap::new(),
            ready: VecDeque::new(),
            ended: false,
            warned: false,
            spoke_at: now,
            timer,
            stopped,
        })
    }

    fn event(seq: i64) -> Line {
        let (event_type, payload, timestamp) = ("task_started".to_owned(), json!({}), Utc::now());
        Line::Event(
            EventLine::new(&Event {
                event_type,
                payload,
                timestamp,
                seq,
                session_id: None,
                plan_id: None,
                step_id: None,
            })
            .into(),
        )
    }

    fn delta(after: i64) -> Line {
        let said = Said {
            session: None,
            plan: PlanId::new(),
            step: StepId::new(),
            key: "a",
            mark: Mark {
                attempt: 1,
                turn: 0,
                to: 1,
            },
            text: "b",
            replaces: false,
            supersedes: None,
        };
        Line::Delta(DeltaLine::new(&said, 0, after, Utc::now()).into())
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
                (reader.ready.len(), reader.position.seq, reader.behind),
                (frames, position, behind),
                "{what}"
            );
        }
        Ok(())
    }
}
