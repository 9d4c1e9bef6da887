//! Conversations by a name that somebody else gave them, and runs in them by theirs: what is known of both in one look.
//! Such ids are derived from the names, so that the same request finds what it began before, in whichever process.

use serde_json::Value;

use crate::{
    error::StoreError,
    id::{MessageId, PlanId, SessionId, StepId, WaitId},
    scope::UserScope,
    store::Store,
};

/// A conversation and a run in it, as far as they are there.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Thread {
    /// The conversation, there or to be made.
    pub session: SessionId,
    /// Whether it is there.
    pub there: bool,
    /// The plan that the run's message began, if it was ever taken in.
    pub plan: Option<PlanId>,
    /// What the plan whose turn it is waits for from outside.
    pub open: Vec<WaitId>,
}

impl Store {
    /// What is known of a conversation and of a message in it. The conversation is `named` where that is one of the person's,
    /// else `derived`.
    pub async fn thread(
        &self,
        scope: UserScope,
        named: Option<SessionId>,
        derived: SessionId,
        message: MessageId,
    ) -> Result<Thread, StoreError> {
        Ok(sqlx::query_as(
            "with session as (
               select coalesce((select s.id from chat_sessions s
                                where s.user_id = $1 and s.id = $2 and s.deleted_at is null), $3) as id)
             select h.id as session, s.id is not null as there,
                    (select m.plan_id from messages m
                     where m.id = $4 and m.user_id = $1 and m.session_id = s.id and s.deleted_at is null) as plan,
                    array(select w.id from waits w
                          where w.user_id = $1 and num_nulls(w.decision) = 1 and w.kind = any ('{approval, input, client_tool}')
                            and w.plan_id = s.active_plan_id and (w.deadline is null or w.deadline > coalesce($5, clock_timestamp()))
                          order by w.id) as open
             from session h left join chat_sessions s on s.user_id = $1 and s.id = h.id",
        )
        .bind(scope.user())
        .bind(named)
        .bind(derived)
        .bind(message)
        .bind(self.clock.instant())
        .fetch_one(&self.pool)
        .await?)
    }

    /// Opens a conversation under an id of the caller's; nothing happens where it is there.
    pub async fn create_session_as(
        &self,
        scope: UserScope,
        session: SessionId,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "insert into chat_sessions (user_id, id) values ($1, $2) on conflict do nothing",
        )
        .bind(scope.user())
        .bind(session)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The plan of a session that goes on, else the one that answered its newest message; none: nothing was said there, or it is
    /// not there.
    pub async fn newest_plan(
        &self,
        scope: UserScope,
        session: SessionId,
    ) -> Result<Option<PlanId>, StoreError> {
        let plan: Option<Option<PlanId>> = sqlx::query_scalar(
            "select coalesce(s.active_plan_id, (
               select m.plan_id from messages m where m.user_id = $1 and m.session_id = s.id
               order by m.created_at desc, m.id desc limit 1))
             from chat_sessions s where s.user_id = $1 and s.id = $2 and s.deleted_at is null",
        )
        .bind(scope.user())
        .bind(session)
        .fetch_optional(&self.pool)
        .await?;
        Ok(plan.flatten())
    }

    /// Position of the feed just before a message's plan began; none: there is no such plan. Read from the end, because it is
    /// newer plans that are asked for.
    pub async fn plan_cursor(
        &self,
        scope: UserScope,
        session: SessionId,
        plan: PlanId,
    ) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar(
            "select seq - 1 from events
             where user_id = $1 and session_id = $2 and plan_id = $3 and type = 'message_created' and payload ->> 'role' = 'user'
             order by seq desc limit 1",
        )
        .bind(scope.user())
        .bind(session)
        .bind(plan)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// What a step has come to; none: nothing yet.
    pub async fn step_result(
        &self,
        scope: UserScope,
        step: StepId,
    ) -> Result<Option<Value>, StoreError> {
        let result: Option<Option<Value>> =
            sqlx::query_scalar("select result from steps where user_id = $1 and id = $2")
                .bind(scope.user())
                .bind(step)
                .fetch_optional(&self.pool)
                .await?;
        Ok(result.flatten())
    }

    /// Whether nothing of a plan can move by itself, and nothing has happened to it since `seq`.
    pub async fn plan_rests(
        &self,
        scope: UserScope,
        plan: PlanId,
        seq: i64,
    ) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "select not exists (select 1 from steps s where s.user_id = $1 and s.plan_id = $2 and s.state in ('ready', 'running'))
                and not exists (select 1 from steps s join waits w on w.step_id = s.id and w.user_id = s.user_id
                                where s.user_id = $1 and s.plan_id = $2 and s.state = 'suspended' and w.decision is null and w.kind = 'timer')
                and not exists (select 1 from events e where e.user_id = $1 and e.seq > $3 and e.plan_id = $2)",
        )
        .bind(scope.user())
        .bind(plan)
        .bind(seq)
        .fetch_one(&self.pool)
        .await?)
    }
}
