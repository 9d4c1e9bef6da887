//! What a client needs to show a session without having seen its events, and the cursor to go on from.

use sqlx::{Connection, PgConnection};

use crate::{
    error::StoreError,
    event::hints::Delta,
    id::SessionId,
    plan::{Plan, Step},
    scope::UserScope,
    store::{Approval, Message, Session, Store, events, plans, sessions, waits},
    wait::WaitKind,
};

/// Messages of a snapshot: the newest ones.
const MESSAGES: i64 = 50;
/// Plans of a snapshot: the oldest ones.
const PLANS: i64 = 20;
/// Steps of a plan in a snapshot: the first ones.
const STEPS: i64 = 200;
/// Open questions of a snapshot: the most urgent ones.
const QUESTIONS: i64 = 200;

/// A session at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Everything up to this seq is in the snapshot, and nothing after it.
    pub cursor: i64,
    /// The session.
    pub session: Session,
    /// The newest of what was said, oldest first.
    pub messages: Vec<Message>,
    /// Its plans that have not ended, each with its first steps.
    pub plans: Vec<(Plan, Vec<Step>)>,
    /// What the person is asked.
    pub approvals: Vec<Approval>,
    /// What the person's own program is asked to do.
    pub tool_calls: Vec<Approval>,
    /// What the running steps have said so far, as far as it is kept.
    pub texts: Vec<Delta>,
}

impl Store {
    /// A session as it is at one moment; none: not there. All of it is read in one snapshot of the database, in which an event
    /// and what it tells of are there together or not at all.
    pub async fn snapshot(
        &self,
        scope: UserScope,
        session: SessionId,
    ) -> Result<Option<Snapshot>, StoreError> {
        let mut connection = self.connection().await?;
        let mut moment = connection
            .begin_with("begin transaction isolation level repeatable read read only")
            .await?;
        let snapshot = self.read_snapshot(&mut moment, scope, session).await?;
        moment.commit().await?;
        Ok(snapshot)
    }

    async fn read_snapshot(
        &self,
        moment: &mut PgConnection,
        scope: UserScope,
        session: SessionId,
    ) -> Result<Option<Snapshot>, StoreError> {
        let Some(found) = sessions::session(&mut *moment, scope, session).await? else {
            return Ok(None);
        };
        let cursor = events::last_seq(&mut *moment, scope).await?;
        let mut messages: Vec<Message> = sqlx::query_as(
            "select id, session_id, role, content, plan_id, agent_id, created_at from messages
             where user_id = $1 and session_id = $2 order by created_at desc, id desc limit $3",
        )
        .bind(scope.user())
        .bind(session)
        .bind(MESSAGES)
        .fetch_all(&mut *moment)
        .await?;
        messages.reverse();
        let mut plans = Vec::new();
        for plan in plans::open_plans(&mut *moment, scope, session, PLANS).await? {
            let steps = plans::steps(&mut *moment, scope, plan.id, -1, STEPS).await?;
            plans.push((plan, steps));
        }
        let mut open = async |kinds: &[WaitKind]| {
            let of_session = Some(session);
            waits::open_waits(
                &mut *moment,
                &self.clock,
                scope,
                of_session,
                kinds,
                QUESTIONS,
            )
            .await
        };
        let approvals = open(&[WaitKind::Approval, WaitKind::Input]).await?;
        let tool_calls = open(&[WaitKind::ClientTool]).await?;
        let mut texts = events::texts_so_far(&mut *moment, scope).await?;
        texts.retain(|text| text.session == Some(session));
        Ok(Some(Snapshot {
            cursor,
            session: found,
            messages,
            plans,
            approvals,
            tool_calls,
            texts,
        }))
    }
}
