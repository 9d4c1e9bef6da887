//! The feed's history.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, postgres::types::PgInterval};
use uuid::Uuid;

use crate::{
    error::StoreError,
    event::{Event, hints::Delta},
    id::{PlanId, SessionId, StepId, UserId},
    scope::UserScope,
    store::{Store, transitions::interval},
};

/// Partitions of the feed that are made ahead: a month, in which a worker or a migration runs at least once.
const WEEKS_AHEAD: i32 = 4;

/// What of a person's feed is there. A cursor is good from `oldest` to `newest`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct FeedBounds {
    /// Everything up to here may be forgotten, everything after it is there.
    pub oldest: i64,
    /// Seq of the newest event; 0: none yet.
    pub newest: i64,
}

/// A position in a person's feed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to this seq has been seen.
    pub seq: i64,
    /// When that event was written, where it is known: nothing after it is older, so older partitions need not be looked into.
    pub at: Option<DateTime<Utc>>,
}

impl From<i64> for Cursor {
    fn from(seq: i64) -> Self {
        Self { seq, at: None }
    }
}

impl From<&Event> for Cursor {
    fn from(event: &Event) -> Self {
        Self {
            seq: event.seq,
            at: Some(event.timestamp),
        }
    }
}

impl Store {
    /// Events after the cursor, oldest first, of one session or of all.
    pub async fn events_after(
        &self,
        scope: UserScope,
        session: Option<SessionId>,
        after: Cursor,
        limit: i64,
    ) -> Result<Vec<Event>, StoreError> {
        let query = match session {
            Some(session) => sqlx::query_as(
                "select type, payload, created_at, seq, session_id, plan_id, step_id from events
                 where user_id = $1 and seq > $2 and created_at >= coalesce($4, '-infinity') and session_id = $5
                 order by seq limit $3",
            )
            .bind(scope.user())
            .bind(after.seq)
            .bind(limit)
            .bind(after.at)
            .bind(session),
            None => sqlx::query_as(
                "select type, payload, created_at, seq, session_id, plan_id, step_id from events
                 where user_id = $1 and seq > $2 and created_at >= coalesce($4, '-infinity') order by seq limit $3",
            )
            .bind(scope.user())
            .bind(after.seq)
            .bind(limit)
            .bind(after.at),
        };
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// From where to where the person's feed can be read.
    pub async fn feed_bounds(&self, scope: UserScope) -> Result<FeedBounds, StoreError> {
        let bounds = sqlx::query_as(
            "select coalesce((select e.seq - 1 from events e where e.user_id = f.user_id order by e.seq limit 1), f.last_seq) as oldest,
                    f.last_seq as newest
             from user_feeds f where f.user_id = $1",
        )
        .bind(scope.user())
        .fetch_optional(&self.pool)
        .await?;
        Ok(bounds.unwrap_or_default())
    }

    /// Makes the partitions of the weeks to come, and forgets the weeks of which everything is older than
    /// [`RunLimits::events`](crate::store::RunLimits::events): how many of each. Another process may be at it: then it is none.
    pub async fn keep_events(&self) -> Result<(i32, i32), StoreError> {
        self.events_keep(Some(interval(self.limits.events))).await
    }

    /// Makes the partitions of the weeks to come.
    pub(super) async fn make_partitions(&self) -> Result<(i32, i32), StoreError> {
        self.events_keep(None).await
    }

    async fn events_keep(&self, keep: Option<PgInterval>) -> Result<(i32, i32), StoreError> {
        Ok(
            sqlx::query_as("select made, dropped from pg_temp.events_keep($1, $2, $3)")
                .bind(WEEKS_AHEAD)
                .bind(keep)
                .bind(self.clock.instant())
                .fetch_one(&self.pool)
                .await?,
        )
    }

    /// Position of the newest event; 0: none yet.
    pub async fn last_seq(&self, scope: UserScope) -> Result<i64, StoreError> {
        Ok(last_seq(&self.pool, scope).await?)
    }

    /// Positions of the newest events of several people at once.
    pub async fn feed_positions(
        &self,
        scopes: &[UserScope],
    ) -> Result<Vec<(UserId, i64)>, StoreError> {
        let users: Vec<Uuid> = scopes.iter().map(|scope| scope.user().0).collect();
        Ok(
            sqlx::query_as("select user_id, last_seq from user_feeds where user_id = any($1)")
                .bind(users)
                .fetch_all(&self.pool)
                .await?,
        )
    }

    /// What the person's running steps have said in their newest turns, as far as it is kept: each text from its beginning.
    pub async fn texts_so_far(&self, scope: UserScope) -> Result<Vec<Delta>, StoreError> {
        Ok(texts_so_far(&self.pool, scope).await?)
    }

    /// Whether a turn of a step has come to its end.
    pub async fn turn_is_done(
        &self,
        scope: UserScope,
        step: StepId,
        turn: u32,
    ) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "select exists (select 1 from steps s
               join effects e on e.step_id = s.id and e.round = s.round and e.ordinal = $3 and e.user_id = s.user_id
               where s.user_id = $1 and s.id = $2 and e.state = 'done')",
        )
        .bind(scope.user())
        .bind(step)
        .bind(i32::try_from(turn).unwrap_or(i32::MAX))
        .fetch_one(&self.pool)
        .await?)
    }
}

/// A text as the journal keeps it.
#[derive(Debug, sqlx::FromRow)]
struct Kept {
    session_id: Option<SessionId>,
    plan_id: PlanId,
    id: StepId,
    key: String,
    attempt: i16,
    ordinal: i32,
    text: String,
}

impl Kept {
    fn delta(self, user: UserId) -> Delta {
        Delta {
            user,
            session: self.session_id,
            plan: self.plan_id,
            step: self.id,
            key: self.key,
            attempt: u16::try_from(self.attempt).unwrap_or(0),
            turn: u32::try_from(self.ordinal).unwrap_or(0),
            offset: 0,
            text: self.text,
        }
    }
}

/// Position of the newest event; 0: none yet.
pub(super) async fn last_seq(
    executor: impl PgExecutor<'_>,
    scope: UserScope,
) -> Result<i64, sqlx::Error> {
    let seq: Option<i64> = sqlx::query_scalar("select last_seq from user_feeds where user_id = $1")
        .bind(scope.user())
        .fetch_optional(executor)
        .await?;
    Ok(seq.unwrap_or(0))
}

/// See [`Store::texts_so_far`].
pub(super) async fn texts_so_far(
    executor: impl PgExecutor<'_>,
    scope: UserScope,
) -> Result<Vec<Delta>, sqlx::Error> {
    // A plan is no answer: nobody hears it while it is made.
    let rows: Vec<Kept> = sqlx::query_as(
        "select s.session_id, s.plan_id, s.id, s.key, s.attempt, e.ordinal, e.text
         from leases l join steps s on s.user_id = l.user_id and s.id = l.step_id
         cross join lateral (
           select e.ordinal, coalesce(e.partial, e.result ->> 'text') as text from effects e
           where e.step_id = s.id and e.round = s.round and e.user_id = s.user_id and e.kind = 'model'
             and (e.state = 'done' or e.token = l.token)
           order by e.ordinal desc limit 1) e
         where l.user_id = $1 and s.kind <> 'planning' and e.text <> ''",
    )
    .bind(scope.user())
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .map(|kept| kept.delta(scope.user()))
        .collect())
}
