//! Reads one person's new events from Postgres and hands them to all who listen in this process.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use engine::{
    Store, StoreError,
    event::{Event, relay::Relay},
    id::StepId,
    store::Cursor,
};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::{
    hub::Channel,
    line::{Line, ends_a_step},
};

/// Events read at once.
const PAGE: i64 = 200;
/// Text of a step goes out at most so often.
const TEXT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at what the journal keeps of a text of which a piece is missing.
const RECALL_PAUSE: Duration = Duration::from_millis(300);
/// Pause after a failed read, and the longest such pause.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(2);

/// Reads for one channel, until nobody listens.
pub(crate) struct Pump {
    store: Store,
    relay: Option<Relay>,
    channel: Arc<Channel>,
    /// Of the newest event read.
    cursor: Cursor,
}

impl Pump {
    pub(crate) fn new(store: Store, relay: Option<Relay>, channel: &Arc<Channel>) -> Self {
        Self {
            store,
            relay,
            channel: Arc::clone(channel),
            cursor: Cursor::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        let channel = Arc::clone(&self.channel);
        let mut said_at = Instant::now();
        let mut recalled_at = None;
        let mut retry = RETRY;
        loop {
            let (waits, gap) = {
                let texts = channel.texts();
                let unknown = recalled_at.is_none() && channel.is_heard();
                (texts.waits(), texts.has_gap() || unknown)
            };
            let recall_at = recalled_at.map_or_else(Instant::now, |at| at + RECALL_PAUSE);
            tokio::select! {
                () = channel.gone.cancelled() => return,
                () = channel.wake.notified() => {}
                () = sleep_until(said_at + TEXT_PAUSE), if waits => {
                    self.say();
                    said_at = Instant::now();
                }
                () = sleep_until(recall_at), if gap => {
                    self.recall().await;
                    recalled_at = Some(Instant::now());
                }
            }
            if !channel.started() || !channel.take_grown() {
                continue;
            }
            // What a step said comes before its end.
            self.say();
            if let Err(error) = self.read().await {
                warn!(%error, "a feed could not be read; it is tried again");
                channel.look();
                let again = Instant::now() + retry;
                tokio::select! {
                    () = channel.gone.cancelled() => return,
                    () = sleep_until(again) => {}
                }
                retry = std::cmp::min(retry * 2, RETRY_LIMIT);
            } else {
                retry = RETRY;
            }
        }
    }

    /// Hands out everything after the channel's position.
    async fn read(&mut self) -> Result<(), StoreError> {
        let scope = self.channel.scope;
        loop {
            // Where the channel began the time of its event is not known.
            if self.cursor.seq != self.channel.position() {
                self.cursor = self.channel.position().into();
            }
            let events = self
                .store
                .events_after(scope, None, self.cursor, PAGE)
                .await?;
            for event in &events {
                self.heed(event).await?;
                self.channel.hand_out(event);
                self.cursor = event.into();
            }
            if let Some(relay) = &self.relay
                && self.channel.is_heard()
                && !events.is_empty()
            {
                relay.keep(scope, &events).await;
            }
            if i64::try_from(events.len()).is_ok_and(|read| read < PAGE) {
                return Ok(());
            }
        }
    }

    /// What an event means for the text of its step.
    async fn heed(&self, event: &Event) -> Result<(), StoreError> {
        let Some(step) = event.step_id else {
            return Ok(());
        };
        if ends_a_step(&event.event_type) {
            self.channel.texts().end(step);
        } else if event.event_type == "task_started" {
            let attempt = event.payload.get("attempt").and_then(Value::as_u64);
            let attempt = attempt.and_then(|n| u16::try_from(n).ok()).unwrap_or(1);
            let interrupted = self.channel.texts().interrupted(step, attempt);
            // A turn that was finished stands, whatever became of the run after it.
            let void = match interrupted {
                Some(turn) if !self.is_done(step, turn).await? => Some(turn),
                _ => None,
            };
            self.channel.texts().begin(step, attempt, void, event);
        }
        Ok(())
    }

    async fn is_done(&self, step: StepId, turn: u32) -> Result<bool, StoreError> {
        self.store
            .turn_is_done(self.channel.scope, step, turn)
            .await
    }

    /// Looks up what the journal keeps.
    async fn recall(&self) {
        match self.store.texts_so_far(self.channel.scope).await {
            Ok(kept) => self.channel.texts().recall(&kept),
            Err(error) => warn!(%error, "the text of running steps could not be read"),
        }
    }

    /// Hands out what was said since the last time.
    fn say(&self) {
        // Taken first and sent then: lines go out in the order in which they were taken, since only this task takes any.
        let lines = self
            .channel
            .texts()
            .take(self.channel.position(), Utc::now());
        for line in lines {
            let _ = self.channel.lines.send(Line::Delta(line));
        }
    }
}
