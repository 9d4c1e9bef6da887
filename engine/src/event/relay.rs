//! The newest events of a person in Redis, so that a thousand clients that come back at once need not ask Postgres.
//!
//! Whoever reads events from Postgres puts them here; whoever has to catch up looks here first. An entry's id is its seq, so
//! Redis itself refuses to store one twice or out of order, and a reader sees by the seqs whether all that it needs is there: what
//! is missing, for whatever reason (a flush, a process that was away, a failed write, the length limit), is read from
//! Postgres. Every key ends by itself. While Redis does not answer, it is left alone for a second at a time.
//!
//! By person, and not by session as the first design had it: seqs are gap-free per person only, and without that nobody could
//! tell that one is missing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::{event::Event, scope::UserScope};

/// Events that are kept of each person (the first design's number).
const KEPT: usize = 1000;
/// How long they are kept after the newest one, in seconds.
const SECONDS: i64 = 3600;
/// Longest wait for Redis: Postgres has the answer too.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long Redis is left alone after it did not answer.
const REST: Duration = Duration::from_secs(1);
/// Field of an entry that holds the event.
const FIELD: &str = "e";

/// The newest events in Redis. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    redis: ConnectionManager,
    /// Until when it is left alone, in milliseconds after `began`.
    resting: Arc<AtomicU64>,
    began: Instant,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// Over this Redis; no connection is opened before it is needed. To be called within a runtime.
    pub fn new(client: redis::Client) -> Result<Self, redis::RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(REST))
            .set_response_timeout(Some(REST));
        Ok(Self {
            redis: ConnectionManager::new_lazy_with_config(client, config)?,
            resting: Arc::default(),
            began: Instant::now(),
        })
    }

    /// Puts events there, which follow each other. That it could not is nobody's trouble.
    pub async fn keep(&self, scope: UserScope, events: &[Event]) {
        let key = key(scope);
        let mut batch = redis::pipe();
        batch.ignore_errors();
        let newest = events.len().saturating_sub(KEPT);
        for event in &events[newest..] {
            // An event is made of texts, numbers and JSON: this cannot fail.
            let text = serde_json::to_string(event).unwrap_or_default();
            batch
                .cmd("XADD")
                .arg(&key)
                .arg("MAXLEN")
                .arg("~")
                .arg(KEPT)
                .arg(format!("{}-0", event.seq))
                .arg(FIELD)
                .arg(text)
                .ignore();
        }
        batch.expire(&key, SECONDS).ignore();
        let mut redis = self.redis.clone();
        let _ = self.ask(batch.query_async::<()>(&mut redis)).await;
    }

    /// The events after `seq`, at most `limit`, if they are there without a gap up to `newest`, or as many as were asked for.
    pub async fn after(
        &self,
        scope: UserScope,
        seq: i64,
        newest: i64,
        limit: usize,
    ) -> Option<Vec<Event>> {
        let mut redis = self.redis.clone();
        let mut command = redis::cmd("XRANGE");
        command
            .arg(key(scope))
            .arg(format!("{}-0", seq.saturating_add(1)))
            .arg("+")
            .arg("COUNT")
            .arg(limit);
        let entries: Vec<(String, Vec<String>)> = self.ask(command.query_async(&mut redis)).await?;
        let events: Option<Vec<Event>> = entries
            .iter()
            .map(|(_, fields)| serde_json::from_str(fields.get(1)?).ok())
            .collect();
        events.filter(|events| is_whole(events, seq, newest, limit))
    }

    /// Waits for Redis, but not for long, and not at all when it has just failed.
    async fn ask<T>(&self, answer: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
        let now = millis(self.began.elapsed());
        if now < self.resting.load(Ordering::Relaxed) {
            return None;
        }
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => debug!(%error, "Redis gave no events; Postgres has them"),
            Err(_) => debug!("Redis did not answer in {PATIENCE:?}; Postgres has the events"),
        }
        self.resting.store(now + millis(REST), Ordering::Relaxed);
        None
    }
}

/// Made of nothing but the person's id.
fn key(scope: UserScope) -> String {
    format!("codelab:{}:events", scope.user())
}

fn is_whole(events: &[Event], seq: i64, newest: i64, limit: usize) -> bool {
    let follows = |(before, event): (i64, &Event)| event.seq == before + 1;
    let whole = (seq..).zip(events).all(follows);
    let last = events.last().map_or(seq, |event| event.seq);
    whole && (last >= newest || events.len() == limit)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_whole_counts() {
        let events = |seqs: &[i64]| -> Vec<Event> {
            let event = |seq: &i64| Event {
                event_type: "x".to_owned(),
                payload: json!({}),
                timestamp: Utc::now(),
                seq: *seq,
                session_id: None,
                plan_id: None,
                step_id: None,
            };
            seqs.iter().map(event).collect()
        };
        // What is there, after which seq, the newest one known, the limit; whether it can be shown.
        let table: [(&[i64], i64, i64, usize, bool); 8] = [
            (&[5, 6, 7], 4, 7, 10, true),
            (&[5, 6, 7, 8], 4, 7, 10, true),
            (&[5, 6], 4, 7, 10, false),
            (&[5, 6], 4, 7, 2, true),
            (&[6, 7], 4, 7, 10, false),
            (&[5, 7], 4, 7, 2, false),
            (&[], 7, 7, 10, true),
            (&[], 6, 7, 10, false),
        ];
        for (seqs, seq, newest, limit, whole) in table {
            assert_eq!(
                is_whole(&events(seqs), seq, newest, limit),
                whole,
                "{seqs:?} after {seq} of {newest}"
            );
        }
    }
}
