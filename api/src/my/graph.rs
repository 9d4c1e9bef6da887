//! A plan as a graph: as data, or drawn.

use std::collections::HashMap;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use engine::{
    id::{PlanId, StepId},
    plan::{
        self,
        picture::{Picture, PictureNode},
    },
    step::StateName,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    problem::{Code, Problem, ProblemBody},
};

/// Scripts in a picture's words must stay words, also when it is opened by itself.
const PICTURE_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");

/// Which form.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GraphQuery {
    /// `json`, `mermaid`, `dot` or `svg`; absent: as `Accept` says, else `json`.
    #[param(value_type = Option<String>)]
    format: Option<Form>,
}

/// The forms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Json,
    Mermaid,
    Dot,
    Svg,
}

/// A plan as a graph.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Graph {
    plan_id: Uuid,
    goal: String,
    /// In the order in which the plan was written.
    nodes: Vec<GraphNode>,
    edges: Vec<GraphEdge>,
}

/// A step.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GraphNode {
    id: Uuid,
    key: String,
    kind: String,
    /// Key of the step that made it: a map, or an agent that asked another one.
    parent: Option<String>,
    /// The agent's name.
    agent: Option<String>,
    #[schema(value_type = String, example = "succeeded")]
    state: StateName,
    attempt: i16,
}

/// A need: `to` waits for `from`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GraphEdge {
    from: String,
    to: String,
    /// `success`, `done` or `failure`.
    #[schema(value_type = String, example = "success")]
    when: plan::graph::When,
}

impl Form {
    /// What the query says, else what the client accepts.
    fn chosen(query: &GraphQuery, headers: &HeaderMap) -> Result<Self, Problem> {
        if let Some(form) = query.format {
            return Ok(form);
        }
        let accepted = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut kinds = accepted
            .flat_map(|value| value.split(','))
            .map(|kind| kind.split(';').next().unwrap_or_default().trim())
            .peekable();
        if kinds.peek().is_none() {
            return Ok(Self::Json);
        }
        let not_acceptable = || {
            Problem::new(
                Code::NotAcceptable,
                "a graph comes as json, mermaid, dot or svg",
            )
        };
        kinds.find_map(Self::of_kind).ok_or_else(not_acceptable)
    }

    fn of_kind(kind: &str) -> Option<Self> {
        match kind.to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" => Some(Self::Json),
            "text/vnd.mermaid" | "text/*" => Some(Self::Mermaid),
            "text/vnd.graphviz" => Some(Self::Dot),
            "image/svg+xml" | "image/*" => Some(Self::Svg),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Mermaid => "text/vnd.mermaid; charset=utf-8",
            Self::Dot => "text/vnd.graphviz; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }
}

/// A plan's graph, as data or as a picture.
#[utoipa::path(get, path = "/plans/{id}/graph/", operation_id = "get_graph", tag = "plans", params(("id" = Uuid, Path, description = "The plan"), GraphQuery), responses(
    (status = 200, description = "The graph", content(
        (Graph = "application/json"), (String = "text/vnd.mermaid"), (String = "text/vnd.graphviz"), (String = "image/svg+xml"))),
    (status = 406, description = "None of the accepted forms exists", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PlanId>,
    Query(query): Query<GraphQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = Form::chosen(&query, &headers)?;
    let plan = app
        .store
        .plan(caller.scope, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let steps = app.store.outline(caller.scope, id).await?;
    if form == Form::Json {
        return Ok(Json(graph(&plan, steps)).into_response());
    }
    let keys = keys(&steps);
    let picture = Picture {
        title: plan.goal.lines().next().unwrap_or_default().to_owned(),
        nodes: steps.into_iter().map(|step| node(step, &keys)).collect(),
    };
    // Two thousand boxes take a while to place; other requests go on meanwhile.
    let drawn = tokio::task::spawn_blocking(move || match form {
        Form::Json => String::new(),
        Form::Mermaid => picture.to_mermaid(),
        Form::Dot => picture.to_dot(),
        Form::Svg => picture.to_svg(),
    });
    let drawn = drawn
        .await
        .map_err(|_| Problem::new(Code::Internal, "the picture could not be drawn"))?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(form.content_type()),
        ),
        (header::CONTENT_SECURITY_POLICY, PICTURE_POLICY),
    ];
    Ok((headers, drawn).into_response())
}

/// Keys of the steps by their ids.
fn keys(steps: &[plan::Step]) -> HashMap<StepId, String> {
    steps
        .iter()
        .map(|step| (step.id, step.key.clone()))
        .collect()
}

fn parent(step: &plan::Step, keys: &HashMap<StepId, String>) -> Option<String> {
    keys.get(&step.parent_id?).cloned()
}

fn graph(plan: &plan::Plan, steps: Vec<plan::Step>) -> Graph {
    let keys = keys(&steps);
    let edge = |to: &str, need: &plan::NeedView| GraphEdge {
        from: need.key.clone(),
        to: to.to_owned(),
        when: need.when,
    };
    let edges = steps
        .iter()
        .flat_map(|step| step.needs.iter().map(|need| edge(&step.key, need)))
        .collect();
    let node = |step: plan::Step| GraphNode {
        id: step.id.0,
        parent: parent(&step, &keys),
        key: step.key,
        kind: step.kind,
        agent: step.agent_name,
        state: step.state,
        attempt: step.attempt,
    };
    Graph {
        plan_id: plan.id.0,
        goal: plan.goal.clone(),
        nodes: steps.into_iter().map(node).collect(),
        edges,
    }
}

fn node(step: plan::Step, keys: &HashMap<StepId, String>) -> PictureNode {
    let took = step
        .started_at
        .zip(step.finished_at)
        .map(|(started, finished)| {
            let tenths = (finished - started).num_milliseconds() / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        });
    let note = if step.attempt > 1 && took.is_none() {
        Some(format!("attempt {}", step.attempt))
    } else {
        took
    };
    // What was made by another step hangs from it, where nothing else comes in between.
    let mut needs: Vec<String> = step.needs.iter().map(|need| need.key.clone()).collect();
    if needs.is_empty() {
        needs.extend(parent(&step, keys));
    }
    PictureNode {
        key: step.key,
        label: step.agent_name.unwrap_or_default(),
        kind: step.kind,
        state: step.state,
        needs,
        note,
    }
}
