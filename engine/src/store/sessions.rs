//! Conversations and what was said in them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;

use crate::{
    error::StoreError,
    id::{AgentId, MessageId, PlanId, SessionId},
    scope::UserScope,
    store::Store,
};

/// A conversation.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What the person calls it.
    pub title: Option<String>,
    /// The plan whose turn it is.
    pub active_plan_id: Option<PlanId>,
    /// Creation.
    pub created_at: DateTime<Utc>,
    /// Last change of the title.
    pub updated_at: DateTime<Utc>,
}

/// A line of a conversation.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Conversation.
    pub session_id: SessionId,
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Plan that it started or answers.
    pub plan_id: Option<PlanId>,
    /// Agent that speaks or was addressed.
    pub agent_id: Option<AgentId>,
    /// When.
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Opens a conversation.
    pub async fn create_session(
        &self,
        scope: UserScope,
        title: Option<&str>,
    ) -> Result<Session, StoreError> {
        Ok(sqlx::query_as(
            "insert into chat_sessions (user_id, id, title) values ($1, $2, $3)
             returning id, title, active_plan_id, created_at, updated_at",
        )
        .bind(scope.user())
        .bind(SessionId::new())
        .bind(title)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Conversations, newest first, older than `before`.
    pub async fn sessions(
        &self,
        scope: UserScope,
        before: Option<SessionId>,
        limit: i64,
    ) -> Result<Vec<Session>, StoreError> {
        Ok(sqlx::query_as(
            "select id, title, active_plan_id, created_at, updated_at from chat_sessions
             where user_id = $1 and id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff') and deleted_at is null
             order by id desc limit $3",
        )
        .bind(scope.user())
        .bind(before)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One conversation.
    pub async fn session(
        &self,
        scope: UserScope,
        id: SessionId,
    ) -> Result<Option<Session>, StoreError> {
        Ok(session(&self.pool, scope, id).await?)
    }

    /// Renames a conversation; none: not there.
    pub async fn rename_session(
        &self,
        scope: UserScope,
        id: SessionId,
        title: Option<&str>,
    ) -> Result<Option<Session>, StoreError> {
        Ok(sqlx::query_as(
            "update chat_sessions set title = $3, updated_at = now()
             where user_id = $1 and id = $2 and deleted_at is null
             returning id, title, active_plan_id, created_at, updated_at",
        )
        .bind(scope.user())
        .bind(id)
        .bind(title)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Closes a conversation and cancels its open plans; `false`: not there.
    pub async fn delete_session(
        &self,
        scope: UserScope,
        id: SessionId,
    ) -> Result<bool, StoreError> {
        let closed = sqlx::query("update chat_sessions set deleted_at = now() where user_id = $1 and id = $2 and deleted_at is null")
            .bind(scope.user())
            .bind(id)
            .execute(&self.pool)
            .await?
            .rows_affected();
        if closed == 0 {
            return Ok(false);
        }
        // No plan can join a closed session any more: it is closed under the row that acceptance locks.
        let open: Vec<PlanId> =
            sqlx::query_scalar("select id from plans where user_id = $1 and session_id = $2 and state = 'active' order by id desc")
                .bind(scope.user())
                .bind(id)
                .fetch_all(&self.pool)
                .await?;
        for plan in open {
            self.cancel_plan(scope, plan).await?;
        }
        Ok(true)
    }

    /// What was said, oldest first, after `after`.
    pub async fn messages(
        &self,
        scope: UserScope,
        session: SessionId,
        after: Option<MessageId>,
        limit: i64,
    ) -> Result<Vec<Message>, StoreError> {
        Ok(sqlx::query_as(
            "select m.id, m.session_id, m.role, m.content, m.plan_id, m.agent_id, m.created_at from messages m
             where m.user_id = $1 and m.session_id = $2
               and (m.created_at, m.id) > (
                 coalesce((select a.created_at from messages a where a.user_id = $1 and a.id = $3), '-infinity'),
                 coalesce($3, '00000000-0000-0000-0000-000000000000'))
             order by m.created_at, m.id limit $4",
        )
        .bind(scope.user())
        .bind(session)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The answer that a plan gave, if it gave one.
    pub async fn answer_of(
        &self,
        scope: UserScope,
        session: SessionId,
        plan: PlanId,
    ) -> Result<Option<Message>, StoreError> {
        Ok(sqlx::query_as(
            "select id, session_id, role, content, plan_id, agent_id, created_at from messages
             where user_id = $1 and session_id = $2 and plan_id = $3 and role = 'assistant'
             order by created_at desc, id desc limit 1",
        )
        .bind(scope.user())
        .bind(session)
        .bind(plan)
        .fetch_optional(&self.pool)
        .await?)
    }
}

/// One conversation.
pub(super) async fn session(
    executor: impl PgExecutor<'_>,
    scope: UserScope,
    id: SessionId,
) -> Result<Option<Session>, sqlx::Error> {
    sqlx::query_as(
        "select id, title, active_plan_id, created_at, updated_at from chat_sessions
         where user_id = $1 and id = $2 and deleted_at is null",
    )
    .bind(scope.user())
    .bind(id)
    .fetch_optional(executor)
    .await
}
