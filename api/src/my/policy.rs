//! Rules about calls of tools, what they would say, and consent given ahead.

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use engine::{
    id::GrantId,
    store,
    tool::policy::{self, Proposal, Rule, Verdict},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, Path, Query},
    my::{approvals::misfits, tools},
    page::{self, Page, PageQuery},
    problem::Problem,
};

/// Rules of one person.
const RULES: usize = 100;
/// Bytes of all of them as JSON text.
const RULES_BYTES: usize = 64 * 1024;

/// Your rules.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalPolicy {
    /// Counts changes; 0: there are none.
    version: i32,
    /// In order; the first that fits holds, and without one the tool's own `consent`.
    #[schema(value_type = Vec<Object>)]
    rules: Vec<Rule>,
    updated_at: DateTime<Utc>,
}

/// Rules to hold from now on.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct PolicyInput {
    /// In order: `{tool?, agent?, effect?: [], risk?: [], arguments?: [{pointer, matches}], then: auto | ask | deny}`. What a rule leaves
    /// out fits everything; `*` at the end of a text stands for any rest.
    #[garde(length(max = RULES), custom(are_rules))]
    #[schema(value_type = Vec<Object>, max_items = 100, example = json!([{"tool": "file_*", "effect": ["read"], "then": "auto"}]))]
    rules: Vec<Rule>,
}

/// A call that nobody makes.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Rehearsal {
    /// The tool.
    #[garde(skip)]
    #[schema(example = "search")]
    tool: String,
    /// Name of the agent that would call it.
    #[serde(default)]
    #[garde(skip)]
    agent: String,
    /// With which arguments.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Object)]
    arguments: Value,
}

/// What would become of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Foretold {
    /// `auto`, `ask` or `deny`.
    #[schema(value_type = String, example = "ask")]
    verdict: Verdict,
    /// The rule that says so, from 0; null: the tool's own consent.
    rule: Option<usize>,
}

/// Consent given ahead.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Grant {
    id: Uuid,
    tool: String,
    tool_version: i32,
    /// The exact call; null: any call of this version of the tool.
    digest: Option<String>,
    /// Calls that it still covers.
    uses_left: i32,
    expires_at: DateTime<Utc>,
    /// The approval that it came with.
    approval_id: Uuid,
    revoked_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// When it was taken back, else when it was given.
    updated_at: DateTime<Utc>,
}

fn are_rules<C>(rules: &[Rule], _: &C) -> garde::Result {
    let text = serde_json::to_string(rules).map_err(|_| garde::Error::new("they are no rules"))?;
    if text.len() > RULES_BYTES {
        return Err(garde::Error::new("the rules are longer than 64 KiB"));
    }
    // One that points nowhere would fit nothing, and a refusal would refuse nothing.
    let points_nowhere = |rule: &Rule| {
        let mut pointers = rule.arguments.iter().map(|argument| &argument.pointer);
        pointers.any(|pointer| !pointer.is_empty() && !pointer.starts_with('/'))
    };
    match rules.iter().position(points_nowhere) {
        None => Ok(()),
        Some(place) => Err(garde::Error::new(format!(
            "in rule {place} a pointer does not begin with /"
        ))),
    }
}

impl From<store::ApprovalPolicy> for ApprovalPolicy {
    fn from(policy: store::ApprovalPolicy) -> Self {
        Self {
            version: policy.version,
            rules: policy.rules,
            updated_at: policy.updated_at,
        }
    }
}

impl From<store::Grant> for Grant {
    fn from(grant: store::Grant) -> Self {
        Self {
            id: grant.id.0,
            tool: grant.tool,
            tool_version: grant.tool_version,
            digest: grant.digest,
            uses_left: grant.uses_left,
            expires_at: grant.expires_at,
            approval_id: grant.wait_id.0,
            revoked_at: grant.revoked_at,
            created_at: grant.created_at,
            updated_at: grant.revoked_at.unwrap_or(grant.created_at),
        }
    }
}

/// Your rules about calls of tools.
#[utoipa::path(get, path = "/approval-policy/", operation_id = "get_approval_policy", tag = "approvals", responses(
    (status = 200, description = "The rules", body = ApprovalPolicy)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<ApprovalPolicy>, Problem> {
    Ok(Json(app.store.approval_policy(caller.scope).await?.into()))
}

/// Puts other rules in their place; calls that are proposed from now on go by them.
#[utoipa::path(put, path = "/approval-policy/", operation_id = "replace_approval_policy", tag = "approvals", request_body = PolicyInput, responses(
    (status = 200, description = "The rules", body = ApprovalPolicy)))]
pub(crate) async fn replace(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<PolicyInput>,
) -> Result<Json<ApprovalPolicy>, Problem> {
    let policy = app
        .store
        .put_approval_policy(caller.scope, &input.rules)
        .await?;
    Ok(Json(policy.into()))
}

/// Says what would become of a call; nothing is called.
#[utoipa::path(post, path = "/approval-policy/test/", operation_id = "test_approval_policy", tag = "approvals", request_body = Rehearsal, responses(
    (status = 200, description = "What would become of it", body = Foretold)))]
pub(crate) async fn test(
    State(app): State<App>,
    caller: Caller,
    Json(call): Json<Rehearsal>,
) -> Result<Json<Foretold>, Problem> {
    let unknown = || {
        let detail = "you have no tool of this name";
        Problem::field("/tool", "unknown_tool", detail)
    };
    if !tools::is_name(&call.tool) {
        return Err(unknown());
    }
    let tool = app.store.tool(caller.scope, &call.tool).await?;
    let tool = tool.ok_or_else(unknown)?;
    let arguments = match call.arguments {
        Value::Null => Value::Object(serde_json::Map::new()),
        given => given,
    };
    misfits("/arguments", &tool.input_schema, &arguments)?;
    let rules = app.store.approval_policy(caller.scope).await?.rules;
    let proposal = Proposal {
        agent: &call.agent,
        tool: &tool,
        arguments: &arguments,
    };
    let (verdict, rule) = policy::decide(&rules, proposal);
    Ok(Json(Foretold { verdict, rule }))
}

/// Consent that you have given ahead, newest first; what has ended too.
#[utoipa::path(get, path = "/approval-grants/", operation_id = "list_approval_grants", tag = "approvals", params(PageQuery), responses(
    (status = 200, description = "A page of grants", body = Page<Grant>)))]
pub(crate) async fn grants(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Grant>>, Problem> {
    let limit = page.limit()?;
    let found = app
        .store
        .grants(caller.scope, page.cursor()?, page::rows(limit))
        .await?;
    Ok(Json(Page::of(found, limit, |grant| {
        grant.id.0.simple().to_string()
    })))
}

/// Takes a grant back. A call that is under way goes on.
#[utoipa::path(delete, path = "/approval-grants/{id}/", operation_id = "revoke_approval_grant", tag = "approvals",
    params(("id" = Uuid, Path, description = "The grant")), responses((status = 204, description = "It covers nothing any more")))]
pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<GrantId>,
) -> Result<StatusCode, Problem> {
    if app.store.revoke_grant(caller.scope, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found())
    }
}
