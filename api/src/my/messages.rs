//! Messages: said, and read again. Saying one makes a plan of it; the answer may be waited for.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use engine::{
    StoreError,
    id::{AgentId, MessageId, PlanId, SessionId},
    plan::{PlanMode, PlanState},
    store::{self, Accepted, NewMessage},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    hub::{Listener, Purpose},
    line::Line,
    page::{self, Page, PageQuery},
    problem::{Code, Problem, ProblemBody},
};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A line of a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    id: Uuid,
    session_id: Uuid,
    /// `user` or `assistant`.
    role: String,
    content: String,
    /// Plan that it started, or that it answers for.
    plan_id: Option<Uuid>,
    /// Agent that speaks, or that was addressed.
    agent_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    /// A message never changes: the same as `created_at`.
    updated_at: DateTime<Utc>,
}

/// Something to say.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct MessageInput {
    /// The text.
    #[garde(custom(says_something), length(chars, max = 32_768))]
    #[schema(min_length = 1, max_length = 32768)]
    pub(crate) content: String,
    /// Name or id of the agent that shall answer; without one the orchestrator plans.
    #[garde(skip)]
    pub(crate) target_agent: Option<String>,
}

/// A message that was taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Said {
    message_id: Uuid,
    plan_id: Uuid,
    /// `direct` or `orchestrated`.
    #[schema(value_type = String, example = "direct")]
    mode: PlanMode,
    /// `?after=` this the feed has everything that comes of the message.
    cursor: i64,
}

/// A message that was answered while the request waited.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answered {
    message_id: Uuid,
    plan_id: Uuid,
    /// `direct` or `orchestrated`.
    #[schema(value_type = String, example = "direct")]
    mode: PlanMode,
    /// `?after=` this the feed has everything that came of the message.
    cursor: i64,
    /// How the plan ended.
    #[schema(value_type = String, example = "succeeded")]
    state: PlanState,
    /// Null where the plan ended without one.
    answer: Option<Answer>,
}

/// What an agent, or the orchestrator, answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer {
    id: Uuid,
    content: String,
    /// Null: the orchestrator.
    agent_id: Option<Uuid>,
    created_at: DateTime<Utc>,
}

pub(crate) fn says_something<C>(text: &str, _: &C) -> garde::Result {
    if text.trim().is_empty() {
        Err(garde::Error::new("there must be some text"))
    } else {
        Ok(())
    }
}

impl From<store::Message> for Message {
    fn from(message: store::Message) -> Self {
        Self {
            id: message.id.0,
            session_id: message.session_id.0,
            role: message.role,
            content: message.content,
            plan_id: message.plan_id.map(Uuid::from),
            agent_id: message.agent_id.map(Uuid::from),
            created_at: message.created_at,
            updated_at: message.created_at,
        }
    }
}

impl From<store::Message> for Answer {
    fn from(message: store::Message) -> Self {
        Self {
            id: message.id.0,
            content: message.content,
            agent_id: message.agent_id.map(Uuid::from),
            created_at: message.created_at,
        }
    }
}

/// What was said in a conversation, oldest first.
#[utoipa::path(get, path = "/chat/{sid}/messages/", operation_id = "list_messages", tag = "chat", params(("sid" = Uuid, Path, description = "The conversation"), PageQuery),
    responses((status = 200, description = "A page of messages", body = Page<Message>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(session): Path<SessionId>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Message>>, Problem> {
    let limit = page.limit()?;
    let after: Option<MessageId> = page.cursor()?;
    app.store
        .session(caller.scope, session)
        .await?
        .ok_or_else(Problem::not_found)?;
    let found = app
        .store
        .messages(caller.scope, session, after, page::rows(limit))
        .await?;
    Ok(Json(Page::of(found, limit, |message| {
        message.id.0.simple().to_string()
    })))
}

/// Says something: to one agent, or to the whole team.
///
/// The message is kept and its plan is on its way when this answers. With `Prefer: wait=N` the answer is waited for, at
/// most N seconds.
#[utoipa::path(post, path = "/chat/{sid}/message/", operation_id = "send_message", tag = "chat", request_body = MessageInput,
    params(("sid" = Uuid, Path, description = "The conversation"),
           ("Prefer" = Option<String>, Header, description = "`wait=N`: wait for the answer, at most N (60) seconds")),
    responses(
    (status = 200, description = "The plan has ended: how, and the answer", body = Answered,
        headers(("Preference-Applied" = String, description = "The wait that was granted"))),
    (status = 202, description = "It is taken in; the feed tells the rest", body = Said),
    (status = 429, description = "Ten messages of this conversation wait already", body = ProblemBody,
        content_type = "application/problem+json"),
    (status = 503, description = "The agent has too much to do, or the service is not available", body = ProblemBody,
        content_type = "application/problem+json")))]
pub(crate) async fn say(
    State(app): State<App>,
    caller: Caller,
    Path(session): Path<SessionId>,
    headers: HeaderMap,
    Json(input): Json<MessageInput>,
) -> Result<Response, Problem> {
    let wait = wait_of(&headers).map(|wait| std::cmp::min(wait, app.config.wait_limit));
    let target = match &input.target_agent {
        Some(agent) => Some(agent_named(&app, caller, agent, "target_agent").await?),
        None => None,
    };
    // Joined before the message is there, so that its end cannot be missed.
    let listener = wait.and_then(|_| app.hub.join(caller.scope, Purpose::Wait).ok());
    let mode = if target.is_some() {
        PlanMode::Direct
    } else {
        PlanMode::Orchestrated
    };
    let accepted = app
        .store
        .accept_message(
            caller.scope,
            &NewMessage {
                session,
                content: input.content,
                target,
            },
        )
        .await?;
    let (plan, message, cursor) = taken_in(accepted)?;
    let said = Said {
        message_id: message.map_or(Uuid::nil(), Uuid::from),
        plan_id: plan.0,
        mode,
        cursor,
    };
    let (Some(listener), Some(wait)) = (listener, wait) else {
        return Ok((StatusCode::ACCEPTED, Json(said)).into_response());
    };
    let Some(state) = ended(&app, caller, listener, plan, cursor, wait).await? else {
        return Ok((StatusCode::ACCEPTED, Json(said)).into_response());
    };
    let answer = app
        .store
        .answer_of(caller.scope, session, plan)
        .await?
        .map(Answer::from);
    let Said {
        message_id,
        plan_id,
        mode,
        cursor,
    } = said;
    let applied = [(
        PREFERENCE_APPLIED,
        HeaderValue::from_str(&format!("wait={}", wait.as_secs())).ok(),
    )];
    let headers: HeaderMap = applied
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    Ok((
        StatusCode::OK,
        headers,
        Json(Answered {
            message_id,
            plan_id,
            mode,
            cursor,
            state,
            answer,
        }),
    )
        .into_response())
}

/// The agent of a name or id that stood in a `field` of the body.
pub(crate) async fn agent_named(
    app: &App,
    caller: Caller,
    agent: &String,
    field: &str,
) -> Result<AgentId, Problem> {
    let found = app
        .store
        .resolve_agents(caller.scope, std::slice::from_ref(agent))
        .await?;
    found.into_iter().next().flatten().ok_or_else(|| {
        Problem::new(
            Code::AgentNotFound,
            format!("you have no agent of the name or id that {field} gives"),
        )
    })
}

/// What the store's verdict means to the one who asked.
pub(crate) fn taken_in(accepted: Accepted) -> Result<(PlanId, Option<MessageId>, i64), Problem> {
    match accepted {
        Accepted::Plan {
            plan,
            message,
            cursor,
        } => Ok((plan, message, cursor)),
        Accepted::NoSession => Err(Problem::not_found()),
        Accepted::SessionFull => {
            let detail =
                "ten messages of this session wait for their turn already; wait for an answer";
            Err(Problem::new(Code::SessionFull, detail).retry_after(2))
        }
        Accepted::AgentFull => {
            let detail =
                "a hundred steps of this agent wait already; wait, or raise its max_concurrency";
            Err(Problem::new(Code::AgentQueueFull, detail).retry_after(2))
        }
    }
}

/// How the plan ended, if it did in time. A stop of the process ends the wait early.
async fn ended(
    app: &App,
    caller: Caller,
    mut listener: Listener,
    plan: PlanId,
    cursor: i64,
    wait: Duration,
) -> Result<Option<PlanState>, StoreError> {
    let deadline = Instant::now() + wait;
    let mut look = !listener.start_after(cursor);
    loop {
        if look
            && let Some(known) = app
                .store
                .plan(caller.scope, plan)
                .await?
                .filter(|known| known.state != PlanState::Active)
        {
            return Ok(Some(known.state));
        }
        look = tokio::select! {
            line = listener.lines.recv() => match line {
                Ok(Line::Event(event)) if event.plan == Some(plan) && event.closed.is_some() => return Ok(event.closed),
                Ok(_) => false,
                // Lines were missed: the end may have been among them.
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return Ok(None),
            },
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = app.stop.cancelled() => return Ok(None),
        };
    }
}

/// RFC 7240; what is not understood is ignored, as it says.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let texts = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut preferences = texts
        .flat_map(|text| text.split(','))
        .map(|preference| preference.split(';').next().unwrap_or_default());
    let seconds: u64 = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("wait")
            .then(|| value.trim().trim_matches('"').parse().ok())?
    })?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_from_among_other_preferences() {
        let wait = |value: &'static str| {
            wait_of(&HeaderMap::from_iter([(
                PREFER,
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(wait("wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(
            wait("respond-async, Wait = \"7\" ;foo"),
            Some(Duration::from_secs(7))
        );
        for odd in [
            "wait", "wait=", "wait=0", "wait=-1", "wait=1.5", "waits=5", "",
        ] {
            assert_eq!(wait(odd), None, "{odd}");
        }
        assert_eq!(wait_of(&HeaderMap::new()), None);
    }
}
