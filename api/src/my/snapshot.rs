//! What is there at one moment, and the cursor that the stream goes on from.

use axum::extract::State;
use engine::{
    event::hints::Delta,
    id::{PlanId, SessionId},
    store,
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path},
    my::{
        approvals::Approval, messages::Message, plans::Plan, sessions::Session, steps::Step,
        tool_calls::ToolCall,
    },
    problem::Problem,
};

/// A conversation at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    /// Open the stream with `after` set to this: every event up to it is in the snapshot, none after it.
    #[schema(example = 42)]
    cursor: i64,
    session: Session,
    /// The newest 50 of what was said, oldest first.
    messages: Vec<Message>,
    /// The plans that have not ended, at most 20.
    plans: Vec<OpenPlan>,
    /// What you are asked, the most urgent first.
    approvals: Vec<Approval>,
    /// What your own program is asked to do.
    tool_calls: Vec<ToolCall>,
    /// What the running steps have said so far, at most a second old; the stream brings the text whole.
    texts: Vec<Speech>,
}

/// A plan and its steps.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenPlan {
    plan: Plan,
    /// The first 200.
    steps: Vec<Step>,
}

/// What a running step has said in its newest turn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Speech {
    plan_id: Uuid,
    step_id: Uuid,
    /// The step's name.
    key: String,
    attempt: u16,
    turn: u32,
    text: String,
}

/// What of a person's feed there is at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeedSnapshot {
    /// Open the stream with `after` set to this, then read the lists: what they show is at least as new.
    #[schema(example = 42)]
    cursor: i64,
    /// The oldest cursor that the stream can still be opened with.
    #[schema(example = 0)]
    oldest_cursor: i64,
}

impl From<Delta> for Speech {
    fn from(said: Delta) -> Self {
        let PlanId(plan_id) = said.plan;
        Self {
            plan_id,
            step_id: said.step.0,
            key: said.key,
            attempt: said.attempt,
            turn: said.turn,
            text: said.text,
        }
    }
}

impl From<store::Snapshot> for Snapshot {
    fn from(snapshot: store::Snapshot) -> Self {
        let plans = snapshot.plans.into_iter().map(|(plan, steps)| OpenPlan {
            plan: plan.into(),
            steps: steps.into_iter().map(Step::from).collect(),
        });
        Self {
            cursor: snapshot.cursor,
            session: snapshot.session.into(),
            messages: snapshot.messages.into_iter().map(Message::from).collect(),
            plans: plans.collect(),
            approvals: snapshot.approvals.into_iter().map(Approval::from).collect(),
            tool_calls: snapshot
                .tool_calls
                .into_iter()
                .map(ToolCall::from)
                .collect(),
            texts: snapshot.texts.into_iter().map(Speech::from).collect(),
        }
    }
}

/// A conversation at one moment, with the cursor to go on from.
///
/// State and cursor are of the same moment: whoever shows this and then reads the stream after `cursor` misses nothing and
/// sees nothing twice.
#[utoipa::path(get, path = "/chat/{sid}/snapshot/", operation_id = "read_snapshot", tag = "feed",
    params(("sid" = Uuid, Path, description = "The conversation")),
    responses((status = 200, description = "The conversation", body = Snapshot)))]
pub(crate) async fn of_session(
    State(app): State<App>,
    caller: Caller,
    Path(session): Path<SessionId>,
) -> Result<Json<Snapshot>, Problem> {
    let snapshot = app.store.snapshot(caller.scope, session).await?;
    snapshot
        .map(|snapshot| Json(snapshot.into()))
        .ok_or_else(Problem::not_found)
}

/// The cursor of this moment, for your whole feed.
#[utoipa::path(get, path = "/snapshot/", operation_id = "read_feed_snapshot", tag = "feed",
    responses((status = 200, description = "Where the feed begins and where it is", body = FeedSnapshot)))]
pub(crate) async fn of_person(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<FeedSnapshot>, Problem> {
    let bounds = app.store.feed_bounds(caller.scope).await?;
    Ok(Json(FeedSnapshot {
        cursor: bounds.newest,
        oldest_cursor: bounds.oldest,
    }))
}
