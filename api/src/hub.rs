//! The feeds that somebody in this process listens to: one reader per person, however many streams they hold open.
//!
//! A hint or the poll wakes the person's [`crate::pump`], which reads what is new from Postgres once and hands it to all
//! who listen. Nothing here decides what a listener gets: events carry a seq without gaps, so each listener sees by
//! itself whether it missed one and reads that from Postgres. Losing every hint delays by one poll and loses nothing.
//!
//! Bounded: a channel holds [`LINES`] lines for all listeners together, and undelivered deltas at most
//! [`DELTA_BYTES`]; whoever is slower reads from Postgres.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use engine::{
    Store, UserScope,
    event::hints::{Delta, Hint},
    id::{StepId, UserId},
};
use tokio::sync::{
    Notify,
    broadcast::{self, error::RecvError},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{ApiConfig, line::Line, pump};

/// Lines that a slow listener may be behind before it has to read from Postgres.
const LINES: usize = 256;
/// Text on its way that one person's channel may hold; what is beyond is dropped, and the step's end brings it.
const DELTA_BYTES: usize = 64 * 1024;

/// Ended steps that a channel remembers.
const ENDED: usize = 256;

/// The feeds of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    max_streams: usize,
    listened: Mutex<HashMap<UserId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<Channel>,
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
    /// Seq of the newest event handed out.
    position: AtomicI64,
    /// The feed may have grown.
    grown: AtomicBool,
    /// Something changed here.
    pub(crate) wake: Notify,
    deltas: Mutex<Deltas>,
    /// Nobody listens any more.
    pub(crate) gone: CancellationToken,
}

/// Text that has not gone out yet, by step and attempt.
#[derive(Debug, Default)]
struct Deltas {
    waiting: BTreeMap<(StepId, u16), Delta>,
    bytes: usize,
    /// Steps of which the end went out, the newest last: what they said comes too late.
    ended: VecDeque<StepId>,
}

/// What somebody listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A stream, of which a person may have so many.
    Stream,
    /// The end of one plan.
    Wait,
}

/// A person has as many streams as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyStreams;

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
            max_streams: config.max_streams_per_user,
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
    pub(crate) fn join(
        &self,
        scope: UserScope,
        purpose: Purpose,
    ) -> Result<Listener, TooManyStreams> {
        let mut listened = self.listened();
        let streams = listened.get(&scope.user()).map_or(0, |entry| entry.streams);
        if purpose == Purpose::Stream && streams >= self.0.max_streams {
            return Err(TooManyStreams);
        }
        let entry = listened
            .entry(scope.user())
            .or_insert_with(|| self.open(scope));
        entry.listeners += 1;
        entry.streams += usize::from(purpose == Purpose::Stream);
        let channel = Arc::clone(&entry.channel);
        let lines = channel.lines.subscribe();
        let joined_live = channel.start.get().is_some();
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
            grown: AtomicBool::new(false),
            wake: Notify::new(),
            deltas: Mutex::default(),
            gone: CancellationToken::new(),
        });
        tokio::spawn(pump::run(self.0.store.clone(), Arc::clone(&channel)));
        Entry {
            channel,
            listeners: 0,
            streams: 0,
        }
    }

    fn leave(&self, user: UserId, purpose: Purpose) {
        let mut listened = self.listened();
        let Some(entry) = listened.get_mut(&user) else {
            return;
        };
        entry.listeners -= 1;
        entry.streams -= usize::from(purpose == Purpose::Stream);
        if entry.listeners == 0 {
            entry.channel.gone.cancel();
            listened.remove(&user);
        }
    }

    async fn follow(self, mut hints: broadcast::Receiver<Hint>) {
        loop {
            match hints.recv().await {
                Ok(Hint::Feed(user)) => {
                    if let Some(entry) = self.listened().get(&user) {
                        entry.channel.look();
                    }
                }
                Ok(Hint::Delta(delta)) => {
                    if let Some(entry) = self.listened().get(&delta.user) {
                        entry.channel.say(&delta);
                    }
                }
                Ok(Hint::Cancel(_)) => {}
                Ok(Hint::Resync) | Err(RecvError::Lagged(_)) => self
                    .listened()
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
            let scopes: Vec<UserScope> = self
                .listened()
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

    fn compare(&self, positions: &[(UserId, i64)]) {
        let listened = self.listened();
        for (user, last_seq) in positions {
            if let Some(entry) = listened.get(user)
                && *last_seq > entry.channel.position()
            {
                entry.channel.look();
            }
        }
    }

    fn listened(&self) -> MutexGuard<'_, HashMap<UserId, Entry>> {
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

    /// Written by the pump, after the event went to the listeners.
    pub(crate) fn advance(&self, seq: i64) {
        self.position.store(seq, Ordering::Release);
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
        let mut deltas = self.deltas();
        if deltas.ended.contains(&delta.step) || deltas.bytes + delta.text.len() > DELTA_BYTES {
            return;
        }
        deltas.bytes += delta.text.len();
        match deltas.waiting.get_mut(&(delta.step, delta.attempt)) {
            Some(known) => known.text.push_str(&delta.text),
            None => {
                deltas
                    .waiting
                    .insert((delta.step, delta.attempt), delta.clone());
            }
        }
        drop(deltas);
        self.wake.notify_one();
    }

    /// Whether text waits to go out.
    pub(crate) fn has_deltas(&self) -> bool {
        !self.deltas().waiting.is_empty()
    }

    /// All text that waits, each step's in one piece.
    pub(crate) fn take_deltas(&self) -> impl Iterator<Item = Delta> {
        let mut deltas = self.deltas();
        deltas.bytes = 0;
        mem::take(&mut deltas.waiting).into_values()
    }

    /// A step's end is about to go out: hints and events come by different ways, and what it said may still be on its own.
    pub(crate) fn end(&self, step: StepId) {
        let mut deltas = self.deltas();
        deltas.waiting.retain(|(of, _), _| *of != step);
        if deltas.ended.len() == ENDED {
            deltas.ended.pop_front();
        }
        deltas.ended.push_back(step);
    }

    /// A step that had ended runs again.
    pub(crate) fn begin(&self, step: StepId) {
        self.deltas().ended.retain(|ended| *ended != step);
    }

    fn deltas(&self) -> MutexGuard<'_, Deltas> {
        self.deltas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Whether the channel hands out events already.
    pub(crate) fn is_live(&self) -> bool {
        self.channel.started()
    }

    /// Seq of the newest event that was handed out to the listeners.
    pub(crate) fn position(&self) -> i64 {
        self.channel.position()
    }

    /// Has the channel hand out everything after `seq`, if it does not hand out yet. True: every event after `seq`, as
    /// far as it came to be after this listener joined, comes to it.
    pub(crate) fn start_after(&self, seq: i64) -> bool {
        let start = *self.channel.start.get_or_init(|| {
            self.channel.advance(seq);
            seq
        });
        self.channel.look();
        self.joined_live || start <= seq
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.leave(self.channel.scope.user(), self.purpose);
    }
}
