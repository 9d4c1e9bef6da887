//! A plan of the person's own: the graph is given, checked, and carried out as it is.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use engine::{
    UserScope,
    id::{AgentId, SessionId, StepId},
    plan::{
        Class, Join, NewNeed, NewStep, OnFailure,
        graph::{self, Limits, MAX_ERRORS, Node, When},
    },
    step::{MapSpec, OnItemFailure, StepKind, StepSpec},
    store::{Accepted, NewPlan},
};
use garde::Validate;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, objects},
    my::{
        messages::{says_something, taken_in},
        plans::Plan,
    },
    problem::{FieldError, Problem, ProblemBody},
};

/// Longest timer, in seconds: a day.
const TIMER_LIMIT: i64 = 86_400;
/// Longest plan, in seconds: thirty days.
const PLAN_LIMIT: i64 = 2_592_000;
/// Longest run of a step, in seconds: a day.
const STEP_LIMIT: i64 = 86_400;

/// A plan to carry out.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct PlanInput {
    /// The session whose feed shall show it.
    #[garde(skip)]
    session_id: Option<Uuid>,
    /// What is wanted; agents without a prompt are asked this.
    #[garde(custom(says_something), length(chars, max = 32_768))]
    #[schema(min_length = 1, max_length = 32768)]
    goal: String,
    /// What happens when a step fails for good: `decide` (the default: you are asked, for 300 seconds; then what needs it is given
    /// up), `continue` (what needs it is given up), `abort` (the rest is cancelled).
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = String, example = "decide")]
    on_failure: OnFailure,
    /// `normal` or `background`: one that may wait for others.
    #[serde(default)]
    #[garde(skip)]
    priority: Priority,
    /// Longest time until its end; then it is stopped. Absent: as long as it takes.
    #[garde(range(min = 1, max = PLAN_LIMIT))]
    #[schema(minimum = 1, maximum = 2_592_000)]
    timeout_seconds: Option<i64>,
    /// The steps, in any order; at most 2,000.
    #[serde(deserialize_with = "objects")]
    #[garde(dive)]
    steps: Vec<StepInput>,
}

/// A step of it.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct StepInput {
    /// Its name within the plan: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or a digit.
    #[garde(skip)]
    #[schema(example = "research", pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    key: String,
    #[serde(default)]
    #[garde(skip)]
    kind: Kind,
    /// Name or id of the agent that does it (`agent`, `map`).
    #[garde(skip)]
    agent: Option<String>,
    /// What the agent is asked; absent: the plan's goal.
    #[garde(inner(custom(says_something)), length(chars, max = 32_768))]
    #[schema(min_length = 1, max_length = 32768)]
    prompt: Option<String>,
    /// What it waits for: keys of steps, or with a condition `{"key", "when"}`.
    #[serde(default)]
    #[garde(skip)]
    needs: Vec<NeedInput>,
    /// `all` (the default) or `any`: which of its needs it waits for.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = String, example = "all")]
    join: Join,
    /// Longest time that its runs may take together, waiting excluded (`agent`).
    #[garde(range(min = 1, max = STEP_LIMIT))]
    #[schema(minimum = 1, maximum = 86400)]
    timeout_seconds: Option<i64>,
    /// How long passing trouble, such as a provider that is down, is borne (`agent`).
    #[garde(range(min = 0, max = STEP_LIMIT))]
    #[schema(minimum = 0, maximum = 86400)]
    retry_for_seconds: Option<i64>,
    /// The list that it goes over (`map`), at most 1,000 items; the prompt has `{{item}}` where the item goes.
    #[garde(length(max = 1000))]
    #[schema(value_type = Option<Vec<Object>>, max_items = 1000)]
    items: Option<Vec<Value>>,
    /// Or the key of a step that it needs, whose result is the list: its text is a JSON array (`map`).
    #[garde(skip)]
    over: Option<String>,
    /// Items at once (`map`); the agent's own limit holds beside it.
    #[garde(range(min = 1, max = 1000))]
    #[schema(minimum = 1, maximum = 1000)]
    max_parallel: Option<i64>,
    /// `continue` (the default: the result says which failed) or `fail` (`map`).
    #[garde(skip)]
    #[schema(value_type = Option<String>, example = "continue")]
    on_item_failure: Option<OnItemFailure>,
    /// How long it waits (`timer`).
    #[garde(range(min = 1, max = TIMER_LIMIT))]
    #[schema(minimum = 1, maximum = 86400)]
    seconds: Option<i64>,
}

/// What carries out a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// An agent answers.
    #[default]
    Agent,
    /// Some seconds pass.
    Timer,
    /// An agent answers once for each item of a list.
    Map,
}

/// How soon a plan's steps are taken on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Priority {
    /// As they come.
    #[default]
    Normal,
    /// After others that came up to a minute later.
    Background,
}

/// What a step waits for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum NeedInput {
    /// The step of this key succeeds.
    Key(String),
    /// The step of this key ends as `when` says.
    When(NeedWhen),
}

/// What a step waits for, with a condition.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NeedWhen {
    key: String,
    /// `success` (the default), `done` or `failure`: which of its ends counts.
    #[serde(default)]
    #[schema(value_type = String, example = "success")]
    when: When,
}

impl<'de> Deserialize<'de> for NeedInput {
    /// By hand, because a derived choice says only that nothing matched, and not where.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrObject;
        impl<'de> Visitor<'de> for TextOrObject {
            type Value = NeedInput;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a step's key, or an object with key and when")
            }

            fn visit_str<E>(self, key: &str) -> Result<NeedInput, E> {
                Ok(NeedInput::Key(key.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NeedInput, A::Error> {
                NeedWhen::deserialize(MapAccessDeserializer::new(map)).map(NeedInput::When)
            }
        }
        deserializer.deserialize_any(TextOrObject)
    }
}

impl NeedInput {
    fn parts(&self) -> (&str, When) {
        match self {
            Self::Key(key) => (key, When::Success),
            Self::When(need) => (&need.key, need.when),
        }
    }
}

/// Carries out a plan of your own.
///
/// The graph is checked as a whole: every unknown need, every duplicate and every circle is named. The body may have 8 MiB.
#[utoipa::path(post, path = "/plans/", operation_id = "create_plan", tag = "plans", request_body = PlanInput, responses(
    (status = 201, description = "The plan; its first steps are on their way", body = Plan,
        headers(("Location" = String, description = "Where it is"))),
    (status = 422, description = "Fields are wrong, or the graph is not one that can be carried out", body = ProblemBody,
        content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<PlanInput>,
) -> Result<impl IntoResponse, Problem> {
    let mut errors = input
        .steps
        .iter()
        .enumerate()
        .filter_map(|(index, step)| step.misfit(index))
        .collect::<Vec<_>>();
    if let Err(broken) = graph::check(&input.nodes(), &Limits::EXPLICIT) {
        errors.extend(broken.iter().map(FieldError::from));
    }
    refuse(errors)?;
    let agents = agents_of(&app, caller.scope, &input.steps).await?;
    let new = NewPlan {
        session: input.session_id.map(SessionId),
        steps: input.new_steps(&agents),
        on_failure: input.on_failure,
        timeout: input.timeout_seconds.and_then(seconds),
        class: match input.priority {
            Priority::Normal => Class::Planned,
            Priority::Background => Class::Background,
        },
        goal: input.goal,
    };
    let accepted = app.store.accept_plan(caller.scope, &new).await?;
    if accepted == Accepted::NoSession {
        return Err(Problem::field(
            "/session_id",
            "unknown_session",
            "you have no such session",
        ));
    }
    let (plan, ..) = taken_in(accepted)?;
    let plan = app
        .store
        .plan(caller.scope, plan)
        .await?
        .ok_or_else(Problem::not_found)?;
    let location = format!("/my/plans/{}/", plan.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(Plan::from(plan)),
    ))
}

fn refuse(mut errors: Vec<FieldError>) -> Result<(), Problem> {
    errors.truncate(MAX_ERRORS);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Problem::invalid(errors))
    }
}

/// The agents that the steps name, all by one statement.
async fn agents_of(
    app: &App,
    scope: UserScope,
    steps: &[StepInput],
) -> Result<HashMap<String, AgentId>, Problem> {
    let names: Vec<String> = steps
        .iter()
        .filter_map(|step| step.agent.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let found = app.store.resolve_agents(scope, &names).await?;
    let agents: HashMap<String, AgentId> = names
        .into_iter()
        .zip(found)
        .filter_map(|(name, id)| Some((name, id?)))
        .collect();
    let unknown = steps.iter().enumerate().filter(|(_, step)| {
        step.agent
            .as_ref()
            .is_some_and(|name| !agents.contains_key(name))
    });
    let error = |index| {
        FieldError::body(
            format!("/steps/{index}/agent"),
            "unknown_agent",
            "you have no agent of this name or id",
        )
    };
    refuse(unknown.map(|(index, _)| error(index)).collect())?;
    Ok(agents)
}

impl StepInput {
    /// What does not go with the kind of step.
    fn misfit(&self, index: usize) -> Option<FieldError> {
        let error = |field: &str, code, detail| {
            Some(FieldError::body(
                format!("/steps/{index}/{field}"),
                code,
                detail,
            ))
        };
        match self.kind {
            Kind::Agent if self.agent.is_none() => {
                error("agent", "missing_field", "an agent step names its agent")
            }
            Kind::Agent | Kind::Map if self.seconds.is_some() => {
                error("seconds", "misplaced_field", "only a timer has seconds")
            }
            Kind::Timer if self.seconds.is_none() => error(
                "seconds",
                "missing_field",
                "a timer says how many seconds it waits",
            ),
            Kind::Timer if self.agent.is_some() => {
                error("agent", "misplaced_field", "a timer has no agent")
            }
            Kind::Timer if self.prompt.is_some() => {
                error("prompt", "misplaced_field", "a timer has no prompt")
            }
            Kind::Map if self.agent.is_none() => {
                error("agent", "missing_field", "a map names the agent it asks")
            }
            Kind::Map => self.map_misfit(index),
            Kind::Agent | Kind::Timer => {
                let only = |field| error(field, "misplaced_field", "only a map has this field");
                match () {
                    () if self.items.is_some() => only("items"),
                    () if self.over.is_some() => only("over"),
                    () if self.max_parallel.is_some() => only("max_parallel"),
                    () if self.on_item_failure.is_some() => only("on_item_failure"),
                    () => None,
                }
            }
        }
    }
}

impl StepInput {
    fn map_misfit(&self, index: usize) -> Option<FieldError> {
        let error = |field: &str, code, detail: &str| {
            let pointer = format!("/steps/{index}/{field}");
            Some(FieldError::body(pointer, code, detail))
        };
        match (&self.items, &self.over) {
            (None, None) => error(
                "items",
                "missing_field",
                "a map goes over items, or over a step's result",
            ),
            (Some(_), Some(_)) => error(
                "over",
                "misplaced_field",
                "a map has items or over, not both",
            ),
            (None, Some(key)) if !self.needs.iter().any(|need| need.parts().0 == key) => error(
                "over",
                "unknown_need",
                "a map goes over the result of a step that it needs; add it to needs",
            ),
            _ => None,
        }
    }

    /// What a map goes over; the agent has been found.
    fn map(&self, agent: Option<AgentId>) -> Option<MapSpec> {
        let agent = agent.filter(|_| self.kind == Kind::Map)?;
        Some(MapSpec {
            agent,
            items: self.items.clone(),
            over: self.over.clone(),
            max_parallel: self.max_parallel.and_then(|most| u16::try_from(most).ok()),
            on_item_failure: self.on_item_failure.unwrap_or_default(),
        })
    }
}

/// A length that has been checked.
fn seconds(count: i64) -> Option<Duration> {
    u64::try_from(count).ok().map(Duration::from_secs)
}

fn millis(count: i64) -> Option<u64> {
    u64::try_from(count).ok().map(|count| count * 1000)
}

impl PlanInput {
    fn nodes(&self) -> Vec<Node<'_>> {
        let nodes = self.steps.iter().map(|step| Node {
            key: &step.key,
            needs: step.needs.iter().map(NeedInput::parts).collect(),
        });
        nodes.collect()
    }

    /// The steps with ids in place of names; the graph has been checked.
    fn new_steps(&self, agents: &HashMap<String, AgentId>) -> Vec<NewStep> {
        let ids: HashMap<&str, StepId> = self
            .steps
            .iter()
            .map(|step| (step.key.as_str(), StepId::new()))
            .collect();
        let need = |need: &NeedInput| {
            let (key, when) = need.parts();
            ids.get(key).map(|id| NewNeed { id: *id, when })
        };
        let step = |input: &StepInput| {
            let agent = input
                .agent
                .as_ref()
                .and_then(|name| agents.get(name))
                .copied();
            NewStep {
                id: ids
                    .get(input.key.as_str())
                    .copied()
                    .unwrap_or_else(StepId::new),
                // A map takes no place itself; its items do.
                agent_id: agent.filter(|_| input.kind == Kind::Agent),
                spec: StepSpec {
                    prompt: input.prompt.clone(),
                    seconds: input
                        .seconds
                        .and_then(|seconds| u32::try_from(seconds).ok()),
                    map: input.map(agent),
                    ..StepSpec::default()
                },
                joins: input.join,
                timeout_ms: input.timeout_seconds.and_then(millis),
                retry_for_ms: input.retry_for_seconds.and_then(millis),
                needs: input.needs.iter().filter_map(need).collect(),
                ..NewStep::new(
                    &input.key,
                    match input.kind {
                        Kind::Agent => StepKind::Agent,
                        Kind::Timer => StepKind::Timer,
                        Kind::Map => StepKind::Map,
                    },
                )
            }
        };
        self.steps.iter().map(step).collect()
    }
}
