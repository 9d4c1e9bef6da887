//! The feed's history.

use uuid::Uuid;

use crate::{
    error::StoreError,
    event::Event,
    id::{SessionId, UserId},
    scope::UserScope,
    store::Store,
};

impl Store {
    /// Events after the cursor, oldest first, of one session or of all.
    pub async fn events_after(
        &self,
        scope: UserScope,
        session: Option<SessionId>,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Event>, StoreError> {
        let query = match session {
            Some(session) => sqlx::query_as(
                "select type, payload, created_at, seq, session_id, plan_id, step_id from events
                 where user_id = $1 and seq > $2 and session_id = $4 order by seq limit $3",
            )
            .bind(scope.user())
            .bind(after)
            .bind(limit)
            .bind(session),
            None => sqlx::query_as(
                "select type, payload, created_at, seq, session_id, plan_id, step_id from events
                 where user_id = $1 and seq > $2 order by seq limit $3",
            )
            .bind(scope.user())
            .bind(after)
            .bind(limit),
        };
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// Position of the newest event; 0: none yet.
    pub async fn last_seq(&self, scope: UserScope) -> Result<i64, StoreError> {
        let seq: Option<i64> =
            sqlx::query_scalar("select last_seq from user_feeds where user_id = $1")
                .bind(scope.user())
                .fetch_optional(&self.pool)
                .await?;
        Ok(seq.unwrap_or(0))
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
}
