//! Hints: they wake, they never decide. Losing every one of them delays by a poll and loses nothing.
//!
//! Inside the process they go by channels; to other processes by one coalesced NOTIFY at most every 20 ms, sent
//! after the commit and outside its transaction (a NOTIFY inside serialises the commits of the whole instance: 8,100 ->
//! 3,300 transactions a second at 32 clients). Token deltas go by Redis where there is Redis, else by the same NOTIFY.
//! A listener, be it Postgres's or Redis's, that hears nothing for 15 s, not even this process's own ping, is half-open and is
//! opened anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgListener};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    id::{PlanId, SessionId, StepId, UserId},
    store,
};

/// One channel for all, so that a process needs one listening connection.
const CHANNEL: &str = "codelab";
/// Shortest time between two messages to other processes.
const QUIET: Duration = Duration::from_millis(20);
/// A NOTIFY holds less than 8,000 bytes.
const PAYLOAD_BYTES: usize = 7_000;
/// Text of one piece: written as JSON it is seldom twice as long.
const PIECE_BYTES: usize = 3_000;
/// How often a process pings itself through Postgres.
const PING: Duration = Duration::from_secs(10);
/// Silence after which the listener is opened anew.
const SILENCE: Duration = Duration::from_secs(15);

/// Text on its way from a model; never stored one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Whose.
    pub user: UserId,
    /// Session, if any.
    pub session: Option<SessionId>,
    /// Plan.
    pub plan: PlanId,
    /// Step.
    pub step: StepId,
    /// Name of the step.
    pub key: String,
    /// Which run it comes from; a later run supersedes what an earlier one said.
    pub attempt: u16,
    /// Which turn of the step: its place in the journal. Each turn has a text of its own.
    pub turn: u32,
    /// Bytes of the turn's text before this piece: whoever misses one sees it.
    pub offset: usize,
    /// The text.
    pub text: String,
}

impl Delta {
    /// The end of this piece in the turn's text, in bytes.
    pub fn end(&self) -> usize {
        self.offset + self.text.len()
    }

    /// Whether that one goes on where this one ends.
    fn goes_on(&self, next: &Self) -> bool {
        (self.step, self.attempt, self.turn, self.end())
            == (next.step, next.attempt, next.turn, next.offset)
    }

    /// In pieces that a NOTIFY can hold.
    fn pieces(self) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut rest = self;
        while rest.text.len() > PIECE_BYTES {
            let cut = rest.text.floor_char_boundary(PIECE_BYTES);
            let text = rest.text.split_off(cut);
            let offset = rest.end();
            let next = Self {
                offset,
                text,
                ..rest.clone()
            };
            pieces.push(std::mem::replace(&mut rest, next));
        }
        pieces.push(rest);
        pieces
    }
}

/// Something to look at.
#[derive(Debug, Clone)]
pub enum Hint {
    /// A user's feed grew.
    Feed(UserId),
    /// Anything may have been missed: look at everything.
    Resync,
    /// A plan is being cancelled.
    Cancel(PlanId),
    /// Text from a model.
    Delta(Arc<Delta>),
}

/// The hints of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hints {
    work: watch::Sender<u64>,
    local: broadcast::Sender<Hint>,
    out: mpsc::UnboundedSender<Outgoing>,
}

#[derive(Debug)]
enum Outgoing {
    Work,
    Feed(UserId),
    Cancel(PlanId),
    Delta(Arc<Delta>),
}

/// What goes to other processes at once.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Parcel {
    from: Uuid,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    work: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    feeds: BTreeSet<UserId>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    cancels: BTreeSet<PlanId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deltas: Vec<Delta>,
}

/// How hints reach other processes.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Where NOTIFY is sent; its connections also listen.
    pub postgres: PgPool,
    /// Where token deltas go, if anywhere.
    pub redis: Option<redis::Client>,
}

impl Hints {
    /// Hints that stay in this process (tests of single transitions).
    pub fn local() -> Self {
        Self::channels().0
    }

    /// Hints that reach other processes too; runs until `stop`.
    pub fn start(reach: Reach, stop: &CancellationToken) -> Self {
        let (hints, out) = Self::channels();
        let process = Uuid::now_v7();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(send_all(reach.clone(), process, out)),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen_for_ever(
            reach.postgres,
            process,
            hints.clone(),
        )));
        if let Some(client) = reach.redis {
            tokio::spawn(stop.clone().run_until_cancelled_owned(subscribe_for_ever(
                client,
                process,
                hints.clone(),
            )));
        }
        hints
    }

    fn channels() -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (out, receiver) = mpsc::unbounded_channel();
        (
            Self {
                work: watch::Sender::new(0),
                local: broadcast::Sender::new(8192),
                out,
            },
            receiver,
        )
    }

    /// There may be steps to claim, here or elsewhere.
    pub fn work(&self) {
        self.wake_workers();
        self.send(Outgoing::Work);
    }

    /// Wakes the claim loops of this process only.
    pub fn wake_workers(&self) {
        self.work
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// There may be steps to claim that this process has no room for.
    pub fn work_elsewhere(&self) {
        self.send(Outgoing::Work);
    }

    /// A user's feed grew.
    pub fn feed(&self, user: UserId) {
        let _ = self.local.send(Hint::Feed(user));
        self.send(Outgoing::Feed(user));
    }

    /// A plan is being cancelled.
    pub fn cancel(&self, plan: PlanId) {
        let _ = self.local.send(Hint::Cancel(plan));
        self.send(Outgoing::Cancel(plan));
    }

    /// A model said something.
    pub fn delta(&self, delta: Delta) {
        let delta = Arc::new(delta);
        let _ = self.local.send(Hint::Delta(Arc::clone(&delta)));
        self.send(Outgoing::Delta(delta));
    }

    /// Changes whenever there may be steps to claim. Take it before the first look.
    pub fn work_signal(&self) -> watch::Receiver<u64> {
        self.work.subscribe()
    }

    /// All other hints. Take it before the first look; a receiver that lags has to look at everything.
    pub fn subscribe(&self) -> broadcast::Receiver<Hint> {
        self.local.subscribe()
    }

    fn send(&self, outgoing: Outgoing) {
        // Without a sender task (`local`) there is nobody to tell.
        let _ = self.out.send(outgoing);
    }

    fn deliver(&self, parcel: Parcel) {
        if parcel.work {
            self.wake_workers();
        }
        let feeds = parcel.feeds.into_iter().map(Hint::Feed);
        let cancels = parcel.cancels.into_iter().map(Hint::Cancel);
        let deltas = parcel
            .deltas
            .into_iter()
            .map(|delta| Hint::Delta(Arc::new(delta)));
        // What a step said comes before its end, which the feed tells.
        for hint in deltas.chain(cancels).chain(feeds) {
            let _ = self.local.send(hint);
        }
    }

    fn resync(&self) {
        self.wake_workers();
        let _ = self.local.send(Hint::Resync);
    }
}

impl Parcel {
    fn add(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Work => self.work = true,
            Outgoing::Feed(user) => {
                self.feeds.insert(user);
            }
            Outgoing::Cancel(plan) => {
                self.cancels.insert(plan);
            }
            Outgoing::Delta(delta) => self.deltas.push(Arc::unwrap_or_clone(delta)),
        }
    }

    fn is_empty(&self) -> bool {
        !self.work && self.feeds.is_empty() && self.cancels.is_empty() && self.deltas.is_empty()
    }

    /// Joins what one step said without a break.
    fn joined_deltas(&mut self) -> Vec<Delta> {
        let mut joined: Vec<Delta> = Vec::new();
        // Where the newest piece of each step stands.
        let mut newest: BTreeMap<StepId, usize> = BTreeMap::new();
        for delta in self.deltas.drain(..) {
            let known = newest
                .get(&delta.step)
                .and_then(|place| joined.get_mut(*place))
                .filter(|known| known.goes_on(&delta));
            if let Some(known) = known {
                known.text.push_str(&delta.text);
            } else {
                newest.insert(delta.step, joined.len());
                joined.push(delta);
            }
        }
        joined
    }

    /// Cuts it into messages that a NOTIFY can hold. A piece that is too long all the same is left out: what comes after it
    /// shows that it is missing, and the text that is kept in the journal brings it.
    fn payloads(self) -> Vec<String> {
        let from = self.from;
        let mut parcels = vec![Self {
            from,
            work: self.work,
            ..Self::default()
        }];
        let one_feed = self.feeds.into_iter().map(|user| Self {
            from,
            feeds: BTreeSet::from([user]),
            ..Self::default()
        });
        let one_cancel = self.cancels.into_iter().map(|plan| Self {
            from,
            cancels: BTreeSet::from([plan]),
            ..Self::default()
        });
        let pieces = self.deltas.into_iter().flat_map(Delta::pieces);
        let one_delta = pieces.map(|delta| Self {
            from,
            deltas: vec![delta],
            ..Self::default()
        });
        let mut size = 100;
        for mut piece in one_delta.chain(one_cancel).chain(one_feed) {
            let bytes = piece
                .deltas
                .first()
                .map_or(48, |delta| 2 * delta.text.len() + 400);
            if bytes > PAYLOAD_BYTES {
                continue;
            }
            if size + bytes > PAYLOAD_BYTES {
                parcels.push(Self {
                    from,
                    ..Self::default()
                });
                size = 100;
            }
            size += bytes;
            if let Some(last) = parcels.last_mut() {
                last.feeds.append(&mut piece.feeds);
                last.cancels.append(&mut piece.cancels);
                last.deltas.append(&mut piece.deltas);
            }
        }
        parcels
            .iter()
            .filter_map(|parcel| serde_json::to_string(parcel).ok())
            .filter(|text| text.len() < 7_900)
            .collect()
    }
}

async fn send_all(reach: Reach, process: Uuid, mut out: mpsc::UnboundedReceiver<Outgoing>) {
    let mut redis = None;
    let mut next = Instant::now();
    let mut ping = Instant::now() + PING;
    loop {
        let mut parcel = Parcel {
            from: process,
            ..Parcel::default()
        };
        tokio::select! {
            first = out.recv() => match first {
                Some(first) => parcel.add(first),
                None => return,
            },
            () = sleep_until(ping) => {}
        }
        sleep_until(next).await;
        while let Ok(more) = out.try_recv() {
            parcel.add(more);
        }
        let deltas = parcel.joined_deltas();
        let pinging = Instant::now() >= ping;
        match &reach.redis {
            Some(client) if pinging || !deltas.is_empty() => {
                publish(client, &mut redis, process, deltas).await;
            }
            Some(_) => {}
            None => parcel.deltas = deltas,
        }
        if pinging || !parcel.is_empty() {
            notify(&reach.postgres, parcel).await;
        }
        if pinging {
            ping = Instant::now() + PING;
        }
        next = Instant::now() + QUIET;
    }
}

async fn notify(pool: &PgPool, parcel: Parcel) {
    for payload in parcel.payloads() {
        let sent = store::notify::notify(pool, CHANNEL, &payload).await;
        if let Err(error) = sent {
            debug!(%error, "a hint was not sent; readers poll");
            return;
        }
    }
}

async fn publish(
    client: &redis::Client,
    connection: &mut Option<redis::aio::MultiplexedConnection>,
    process: Uuid,
    deltas: Vec<Delta>,
) {
    let Ok(payload) = serde_json::to_string(&Parcel {
        from: process,
        deltas,
        ..Parcel::default()
    }) else {
        return;
    };
    if connection.is_none() {
        *connection = timeout(
            Duration::from_secs(1),
            client.get_multiplexed_async_connection(),
        )
        .await
        .ok()
        .and_then(Result::ok);
    }
    let Some(open) = connection else { return };
    let mut command = redis::cmd("PUBLISH");
    command.arg(CHANNEL).arg(payload);
    let sent = timeout(Duration::from_secs(1), command.query_async::<i64>(open)).await;
    if !matches!(sent, Ok(Ok(_))) {
        debug!("Redis did not take a delta; the step's end brings the text");
        *connection = None;
    }
}

async fn listen_for_ever(pool: PgPool, process: Uuid, hints: Hints) {
    let mut wait = Duration::from_millis(100);
    loop {
        match listen(&pool, process, &hints, &mut wait).await {
            Ok(()) => warn!("the hint listener heard nothing for {SILENCE:?}; it is opened anew"),
            // The process is about to end; `stop` will be seen in a moment.
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => warn!(%error, "the hint listener broke off; it is opened anew"),
        }
        sleep(wait + Duration::from_millis(fastrand::u64(..50))).await;
        wait = std::cmp::min(wait * 2, Duration::from_secs(5));
    }
}

async fn listen(
    pool: &PgPool,
    process: Uuid,
    hints: &Hints,
    wait: &mut Duration,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    *wait = Duration::from_millis(100);
    // Whatever was sent before is lost.
    hints.resync();
    while let Ok(heard) = timeout(SILENCE, listener.try_recv()).await {
        let Some(notification) = heard? else {
            hints.resync();
            continue;
        };
        take_in(notification.payload(), process, hints);
    }
    Ok(())
}

fn take_in(payload: &str, process: Uuid, hints: &Hints) {
    match serde_json::from_str::<Parcel>(payload) {
        Ok(parcel) if parcel.from != process => hints.deliver(parcel),
        Ok(_) => {}
        Err(error) => debug!(%error, "a hint could not be read"),
    }
}

async fn subscribe_for_ever(client: redis::Client, process: Uuid, hints: Hints) {
    let mut wait = Duration::from_millis(100);
    loop {
        if let Ok(mut pubsub) = client.get_async_pubsub().await
            && pubsub.subscribe(CHANNEL).await.is_ok()
        {
            wait = Duration::from_millis(100);
            let mut messages = pubsub.on_message();
            // This process's own ping comes back: silence is a connection that is only half there.
            while let Ok(Some(message)) = timeout(SILENCE, messages.next()).await {
                if let Ok(payload) = message.get_payload::<String>() {
                    take_in(&payload, process, &hints);
                }
            }
        }
        debug!("the Redis subscription is gone; it is opened anew");
        sleep(wait).await;
        wait = std::cmp::min(wait * 2, Duration::from_secs(5));
    }
}
