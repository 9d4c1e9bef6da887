//! The feeds that somebody in this process listens to: one reader per person, however many streams they hold open.
//!
//! A hint or the poll wakes the person's [`crate::pump`], which reads what is new from Postgres once and hands it to all
//! who listen. Nothing here decides what a listener gets: events carry a seq without gaps, so each listener sees by
//! itself whether it missed one and reads that from Postgres. Losing every hint delays by one poll and loses nothing.
//!
//! Bounded: a channel holds [`LINES`] lines for all listeners together, and the [`Texts`] on their way have a limit of their
//! own; whoever is slower reads from Postgres.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use engine::{
    Store, UserScope,
    event::{
        Event,
        hints::{Delta, Hint},
        relay::Relay,
    },
    id::UserId,
};
use tokio::{
    sync::{
        Notify,
        broadcast::{self, error::RecvError},
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    ApiConfig,
    line::{EventLine, Line},
    pump::Pump,
    texts::Texts,
};

/// Lines that a slow listener may be behind before it has to read from Postgres.
const LINES: usize = 256;

/// Newest events that are held for one person: a thousand clients that come back at once need not read each for itself.
const RECENT_BYTES: usize = 256 * 1024;
/// How long a channel is kept for somebody who lost the last stream on it.
const LINGER: Duration = Duration::from_secs(10);

/// The feeds of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    relay: Option<Relay>,
    max_streams_per_user: usize,
    max_streams: usize,
    stop: CancellationToken,
    listened: Mutex<Listened>,
}

#[derive(Debug, Default)]
struct Listened {
    people: HashMap<UserId, Entry>,
    /// Of all together.
    streams: usize,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<Channel>,
    /// When the last of them left, if nobody listens.
    left_at: Option<Instant>,
    listeners: usize,
    streams: usize,
}

/// One person's feed.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) scope: UserScope,
    pub(crate) lines: broadcast::Sender<Line>,
    /// Seq after which this channel began to hand out events; set by the first who knows one.
    start: OnceLock<i64>,
    /// Seq of the newest event handed out, or about to be.
    position: AtomicI64,
    /// The newest events handed out, for those who come back.
    recent: Mutex<Recent>,
    /// The feed may have grown.
    grown: AtomicBool,
    /// Something changed here.
    pub(crate) wake: Notify,
    texts: Mutex<Texts>,
    /// Whether a stream has been opened: whoever only waits for a plan's end does not hear what is said.
    heard: AtomicBool,
    /// Nobody listens any more, or nobody will.
    pub(crate) gone: CancellationToken,
}

/// Events as they went out, without a gap.
#[derive(Debug, Default)]
struct Recent {
    lines: VecDeque<Arc<EventLine>>,
    bytes: usize,
}

/// What somebody listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A stream, of which a person may have so many.
    Stream,
    /// The end of one plan.
    Wait,
}

/// No stream more can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// By this person.
    Person,
    /// By anybody in this process.
    Process,
}

/// Somebody listens. Made before the first look, so that nothing falls between.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) lines: broadcast::Receiver<Line>,
    channel: Arc<Channel>,
    hub: Hub,
    purpose: Purpose,
    /// Whether the channel was handing out events when this listener joined.
    joined_live: bool,
}

impl Hub {
    /// Begins to follow the hints; runs until `stop`.
    pub(crate) fn start(store: Store, config: &ApiConfig, stop: &CancellationToken) -> Self {
        // Subscribed before anybody can listen, so that no hint is missed.
        let hints = store.hints().subscribe();
        let inner = Inner {
            store,
            relay: config.relay.clone(),
            max_streams_per_user: config.max_streams_per_user,
            max_streams: config.max_streams,
            stop: stop.clone(),
            listened: Mutex::default(),
        };
        let hub = Self(Arc::new(inner));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(hub.clone().follow(hints)),
        );
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(hub.clone().poll(config.poll)),
        );
        hub
    }

    /// Joins the listeners of a person's feed.
    pub(crate) fn join(&self, scope: UserScope, purpose: Purpose) -> Result<Listener, Full> {
        let mut listened = self.listened();
        let streams = listened
            .people
            .get(&scope.user())
            .map_or(0, |entry| entry.streams);
        if purpose == Purpose::Stream {
            if streams >= self.0.max_streams_per_user {
                return Err(Full::Person);
            }
            if listened.streams >= self.0.max_streams {
                return Err(Full::Process);
            }
            listened.streams += 1;
        }
        let entry = listened
            .people
            .entry(scope.user())
            .or_insert_with(|| self.open(scope));
        entry.left_at = None;
        entry.listeners += 1;
        entry.streams += usize::from(purpose == Purpose::Stream);
        let channel = Arc::clone(&entry.channel);
        let lines = channel.lines.subscribe();
        let joined_live = channel.start.get().is_some();
        if purpose == Purpose::Stream && !channel.heard.swap(true, Ordering::AcqRel) {
            channel.wake.notify_one();
        }
        Ok(Listener {
            lines,
            channel,
            hub: self.clone(),
            purpose,
            joined_live,
        })
    }

    fn open(&self, scope: UserScope) -> Entry {
        let channel = Arc::new(Channel {
            scope,
            lines: broadcast::Sender::new(LINES),
            start: OnceLock::new(),
            position: AtomicI64::new(0),
            recent: Mutex::default(),
            grown: AtomicBool::new(false),
            wake: Notify::new(),
            texts: Mutex::default(),
            heard: AtomicBool::new(false),
            gone: self.0.stop.child_token(),
        });
        let pump = Pump::new(self.0.store.clone(), self.0.relay.clone(), &channel);
        tokio::spawn(pump.run());
        Entry {
            channel,
            left_at: None,
            listeners: 0,
            streams: 0,
        }
    }

    fn leave(&self, user: UserId, purpose: Purpose) {
        let mut listened = self.listened();
        listened.streams -= usize::from(purpose == Purpose::Stream);
        let Some(entry) = listened.people.get_mut(&user) else {
            return;
        };
        entry.listeners -= 1;
        entry.streams -= usize::from(purpose == Purpose::Stream);
        if entry.listeners > 0 {
            return;
        }
        // Who loses a stream comes back in a moment, and to what was said meanwhile. Who waited for an answer has it.
        if entry.channel.is_heard() {
            entry.left_at = Some(Instant::now());
        } else {
            entry.channel.gone.cancel();
            listened.people.remove(&user);
        }
    }

    async fn follow(self, mut hints: broadcast::Receiver<Hint>) {
        loop {
            match hints.recv().await {
                Ok(Hint::Feed(user)) => {
                    if let Some(entry) = self.listened().people.get(&user) {
                        entry.channel.look();
                    }
                }
                Ok(Hint::Delta(delta)) => {
                    if let Some(entry) = self.listened().people.get(&delta.user) {
                        entry.channel.say(&delta);
                    }
                }
                Ok(Hint::Cancel(_)) => {}
                Ok(Hint::Resync) | Err(RecvError::Lagged(_)) => self
                    .listened()
                    .people
                    .values()
                    .for_each(|entry| entry.channel.look()),
                // The store keeps the sender: only at the process's end. The poll goes on.
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Looks at all feeds at once, in one statement however many they are.
    async fn poll(self, every: Duration) {
        loop {
            tokio::time::sleep(every.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
            self.close_what_nobody_came_back_to();
            let scopes: Vec<UserScope> = self
                .listened()
                .people
                .values()
                .map(|entry| entry.channel.scope)
                .collect();
            if scopes.is_empty() {
                continue;
            }
            match self.0.store.feed_positions(&scopes).await {
                Ok(positions) => self.compare(&positions),
                Err(error) => {
                    debug!(%error, "the feeds could not be looked at; the next poll will");
                }
            }
        }
    }

    fn close_what_nobody_came_back_to(&self) {
        self.listened().people.retain(|_, entry| {
            let over = entry.left_at.is_some_and(|at| at.elapsed() > LINGER);
            if over {
                entry.channel.gone.cancel();
            }
            !over
        });
    }

    fn compare(&self, positions: &[(UserId, i64)]) {
        let listened = self.listened();
        for (user, last_seq) in positions {
            if let Some(entry) = listened.people.get(user)
                && *last_seq > entry.channel.position()
            {
                entry.channel.look();
            }
        }
    }

    fn listened(&self) -> MutexGuard<'_, Listened> {
        self.0
            .listened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    /// Where it began, once it has.
    pub(crate) fn started(&self) -> bool {
        self.start.get().is_some()
    }

    /// Seq of the newest event handed out.
    pub(crate) fn position(&self) -> i64 {
        self.position.load(Ordering::Acquire)
    }

    /// By the pump only: an event goes to the listeners.
    pub(crate) fn hand_out(&self, event: &Event) {
        let line = Arc::new(EventLine::new(event));
        if self.is_heard() {
            self.recent().push(&line);
        }
        // In this order: whoever holds a line and then asks for the position finds it at that line or after it.
        self.position.store(event.seq, Ordering::Release);
        // Without a listener it is nobody's loss: the channel is about to close.
        let _ = self.lines.send(Line::Event(line));
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be new events.
    pub(crate) fn look(&self) {
        self.grown.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether there may be new events; asking takes the answer away.
    pub(crate) fn take_grown(&self) -> bool {
        self.grown.swap(false, Ordering::AcqRel)
    }

    fn say(&self, delta: &Delta) {
        // Whether or not it can go out at once: a gap has to be mended.
        self.texts().hear(delta);
        self.wake.notify_one();
    }

    /// Whether a stream has been opened.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    /// What the running steps are saying. Never held across a wait.
    pub(crate) fn texts(&self) -> MutexGuard<'_, Texts> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Whether the channel hands out events, and everything after `seq` that it has handed out is held here.
    pub(crate) fn holds(&self, seq: i64) -> bool {
        let position = self.channel.position();
        self.channel.started()
            && (seq == position || seq < position && self.channel.recent().holds(seq))
    }

    /// Seq of the newest event that was handed out to the listeners.
    pub(crate) fn position(&self) -> i64 {
        self.channel.position()
    }

    /// All events after `seq` that were handed out, if they are still held here.
    pub(crate) fn recent(&self, seq: i64) -> Option<Vec<Arc<EventLine>>> {
        self.channel.recent().after(seq)
    }

    /// What the running steps are saying.
    pub(crate) fn texts(&self) -> MutexGuard<'_, Texts> {
        self.channel.texts()
    }

    /// Has the channel hand out everything after the newest event there is, if it does not hand out yet. True: every event after
    /// that one, as far as it came to be after this listener joined, comes to it.
    pub(crate) fn start_after(&self, newest: i64) -> bool {
        let start = *self.channel.start.get_or_init(|| {
            self.channel.position.store(newest, Ordering::Release);
            newest
        });
        self.channel.look();
        self.joined_live || start <= newest
    }
}

impl Recent {
    fn push(&mut self, line: &Arc<EventLine>) {
        self.bytes += line.frame.len();
        self.lines.push_back(Arc::clone(line));
        while self.bytes > RECENT_BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.frame.len();
        }
    }

    fn holds(&self, seq: i64) -> bool {
        self.lines.front().is_some_and(|first| first.seq <= seq + 1)
    }

    fn after(&self, seq: i64) -> Option<Vec<Arc<EventLine>>> {
        let first = self.lines.front()?.seq;
        let passed = usize::try_from(seq + 1 - first).ok()?;
        // Seqs have no gaps, and all of them were handed out one after another.
        Some(self.lines.iter().skip(passed).cloned().collect())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.leave(self.channel.scope.user(), self.purpose);
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use engine::{
        StoreError,
        event::hints::Hints,
        store::{self, PoolLimits},
    };
    use serde_json::json;

    use super::*;
    use crate::auth::{AuthConfig, SecretString, anybody};

    fn event(seq: i64) -> Event {
        Event {
            event_type: "task_started".to_owned(),
            payload: json!({}),
            timestamp: Utc::now(),
            seq,
            session_id: None,
            plan_id: None,
            step_id: None,
        }
    }

    /// Somebody who listens, over a store that is never asked.
    fn listener(stop: &CancellationToken) -> Result<Listener, StoreError> {
        let pool = store::pool("postgres://nobody@localhost/nothing", PoolLimits::default())?;
        let store = Store::new(pool, Hints::local(), Duration::from_secs(30));
        let config = ApiConfig {
            poll: Duration::from_hours(1),
            ..ApiConfig::new(AuthConfig::hs256(SecretString::from("x".repeat(32))))
        };
        let Ok(listener) = Hub::start(store, &config, stop).join(anybody(), Purpose::Stream) else {
            unreachable!("the first stream")
        };
        Ok(listener)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_holds_a_line_finds_the_position_at_it() -> Result<(), StoreError> {
        let stop = CancellationToken::new();
        let mut listener = listener(&stop)?;
        let channel = Arc::clone(&listener.channel);
        let last = 20_000;
        let handing_out = tokio::task::spawn_blocking(move || {
            (1..=last).for_each(|seq| channel.hand_out(&event(seq)));
        });
        loop {
            let Ok(Line::Event(line)) = listener.lines.recv().await else {
                continue;
            };
            assert!(listener.position() >= line.seq, "{}", line.seq);
            if line.seq == last {
                break;
            }
        }
        assert!(handing_out.await.is_ok());
        stop.cancel();
        Ok(())
    }

    #[tokio::test]
    async fn a_channel_holds_its_newest_events_and_so_many_bytes() -> Result<(), StoreError> {
        let stop = CancellationToken::new();
        let listener = listener(&stop)?;
        assert!(!listener.holds(0), "it has not begun");
        listener.start_after(10);
        assert_eq!(
            [9, 10, 11].map(|seq| listener.holds(seq)),
            [false, true, false]
        );
        for seq in 11..=5_000 {
            listener.channel.hand_out(&event(seq));
        }
        let held = |seq: i64| listener.recent(seq).map(|lines| lines.len());
        assert_eq!(held(10), None, "too long ago");
        assert_eq!((held(4_900), held(5_000)), (Some(100), Some(0)));
        let bytes = listener.channel.recent().bytes;
        assert!(
            (RECENT_BYTES / 2..=RECENT_BYTES).contains(&bytes),
            "{bytes}"
        );
        stop.cancel();
        Ok(())
    }
}
