//! All who listen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{task::JoinSet, time::sleep};

use super::client::{Log, Stream, Target};

/// Streams that are opened at a time.
const AT_ONCE: usize = 64;
/// Between two looks whether everything has come.
const LOOK: Duration = Duration::from_millis(5);

/// Streams that are being read. Cut when dropped.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    pub(super) logs: Vec<Arc<Log>>,
    following: JoinSet<anyhow::Result<()>>,
    delivered: Arc<AtomicU64>,
}

/// How streams are opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    /// Everything up to this seq has been seen.
    pub(super) after: Option<i64>,
    /// At a time.
    pub(super) at_once: usize,
}

impl Opening {
    /// From now on, not all at once.
    pub(super) const CALM: Self = Self {
        after: None,
        at_once: AT_ONCE,
    };
}

impl Crowd {
    /// Opens a stream for each target and reads all of them.
    pub(super) async fn join(targets: &[Target], opening: Opening) -> anyhow::Result<Self> {
        let mut crowd = Self::default();
        let delivered = Arc::clone(&crowd.delivered);
        let opened = stream::iter(targets)
            .map(|target| Stream::open(target, opening.after, None, Arc::clone(&delivered)));
        let mut opened = opened.buffer_unordered(opening.at_once);
        while let Some(stream) = opened.try_next().await? {
            crowd.follow(stream);
        }
        Ok(crowd)
    }

    /// Begins to read a stream that is open.
    pub(super) fn follow(&mut self, stream: Stream) {
        self.logs.push(Arc::clone(&stream.log));
        self.following.spawn(stream.follow());
    }

    /// Events that came so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// The counter of the events that came, for streams that are to be followed later.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.delivered)
    }

    /// Waits until so many have come, or for `limit`: whoever counts afterwards sees what is missing.
    pub(super) async fn wait_for(&self, events: u64, limit: Duration) {
        let began = Instant::now();
        while self.delivered() < events && began.elapsed() < limit {
            sleep(LOOK).await;
        }
    }

    /// Waits until every stream has seen this seq.
    pub(super) async fn wait_for_seq(&self, seq: i64, limit: Duration) {
        let began = Instant::now();
        let level = |log: &Arc<Log>| log.newest().is_some_and(|newest| newest >= seq);
        while !self.logs.iter().all(level) && began.elapsed() < limit {
            sleep(LOOK).await;
        }
    }

    /// No stream has ended so far.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let mut ended = 0_usize;
        while let Some(stream) = self.following.try_join_next() {
            let _ = stream?;
            ended += 1;
        }
        ensure!(ended == 0, "{ended} streams ended by themselves");
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.logs.iter().map(|log| log.bytes()).sum()
    }
}
