//! The configurations of agents and of the orchestrator on the wire, with their limits.

use engine::agent;
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::my::tools;

/// Longest script of the `scripted` model, as JSON text.
const SCRIPT_BYTES: usize = 32 * 1024;
/// Longest model name.
const MODEL_BYTES: usize = 200;

/// How an agent works.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct AgentConfig {
    /// `provider/model`; absent: the installation's default model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(is_model)))]
    #[schema(example = "openai/gpt-4o-mini", max_length = 200)]
    model: Option<String>,
    /// Who the agent is, for its model.
    #[serde(default)]
    #[garde(length(chars, max = 32_768))]
    #[schema(max_length = 32768)]
    system_prompt: String,
    /// What it is good at, for the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(length(chars, max = 1000))]
    #[schema(max_length = 1000)]
    about: Option<String>,
    /// Steps that it works on at once.
    #[serde(default = "three")]
    #[garde(range(min = 1, max = 10))]
    #[schema(minimum = 1, maximum = 10, default = 3)]
    max_concurrency: i64,
    /// Sampling temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 0.0, max = 2.0))]
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Bound of the tokens of one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 1, max = 128_000))]
    #[schema(minimum = 1, maximum = 128_000)]
    max_tokens: Option<i64>,
    /// Names of your tools that it may call, and `delegate`, by which it asks another agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[garde(length(max = 64), custom(are_tools))]
    #[schema(max_items = 64, example = json!(["search", "delegate"]))]
    tools: Vec<String>,
    /// What the `scripted` model shall do for this agent: for tests and demos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(is_small)))]
    script: Option<Value>,
}

/// How the planner works.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct OrchestratorConfig {
    /// `provider/model`; absent: the installation's default model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(is_model)))]
    #[schema(example = "openai/gpt-4o-mini", max_length = 200)]
    model: Option<String>,
    /// Added to the planner's own instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(length(chars, max = 32_768))]
    #[schema(max_length = 32768)]
    prompt: Option<String>,
    /// Most steps of a plan; absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 1, max = 50))]
    #[schema(minimum = 1, maximum = 50)]
    max_steps: Option<i64>,
    /// `auto` (you are asked about plans of three steps and more, and of agents with tools that change the world), `always` or
    /// `never`.
    #[serde(default, skip_serializing_if = "agent::PlanApproval::is_auto")]
    #[garde(skip)]
    #[schema(value_type = String, example = "auto")]
    approval: agent::PlanApproval,
    /// What the `scripted` model shall do when planning and summing up: for tests and demos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(is_small)))]
    script: Option<Value>,
}

fn three() -> i64 {
    3
}

fn is_model<C>(model: &str, _: &C) -> garde::Result {
    let named = model
        .split_once('/')
        .is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty());
    let plain = !model
        .chars()
        .any(|letter| letter.is_whitespace() || letter.is_control());
    if named && plain && model.len() <= MODEL_BYTES {
        return Ok(());
    }
    Err(garde::Error::new(
        "write the model as provider/model, without spaces, in at most 200 bytes",
    ))
}

fn are_tools<C>(names: &[String], _: &C) -> garde::Result {
    match names.iter().find(|name| !tools::is_name(name)) {
        Some(_) => Err(garde::Error::new(
            "tools are named with 1 to 64 of a-z, 0-9 and _, beginning with a letter",
        )),
        None => Ok(()),
    }
}

fn is_small<C>(script: &Value, _: &C) -> garde::Result {
    if script.to_string().len() <= SCRIPT_BYTES {
        return Ok(());
    }
    Err(garde::Error::new("the script is longer than 32 KiB"))
}

impl Default for AgentConfig {
    fn default() -> Self {
        agent::AgentConfig::default().into()
    }
}

impl From<agent::AgentConfig> for AgentConfig {
    fn from(config: agent::AgentConfig) -> Self {
        Self {
            model: config.model,
            system_prompt: config.system_prompt,
            about: config.about,
            max_concurrency: i64::from(config.max_concurrency),
            temperature: config.temperature,
            max_tokens: config.max_tokens.map(i64::from),
            tools: config.tools,
            script: config.script,
        }
    }
}

impl From<AgentConfig> for agent::AgentConfig {
    /// After its limits were checked, hence nothing is cut off here.
    fn from(config: AgentConfig) -> Self {
        Self {
            model: config.model,
            system_prompt: config.system_prompt,
            about: config.about,
            max_concurrency: u8::try_from(config.max_concurrency).unwrap_or(1),
            temperature: config.temperature,
            max_tokens: config
                .max_tokens
                .and_then(|tokens| u32::try_from(tokens).ok()),
            tools: config.tools,
            script: config.script,
        }
    }
}

impl From<agent::OrchestratorConfig> for OrchestratorConfig {
    fn from(config: agent::OrchestratorConfig) -> Self {
        Self {
            model: config.model,
            prompt: config.prompt,
            max_steps: config.max_steps.map(i64::from),
            approval: config.approval,
            script: config.script,
        }
    }
}

impl From<OrchestratorConfig> for agent::OrchestratorConfig {
    /// After its limits were checked, hence nothing is cut off here.
    fn from(config: OrchestratorConfig) -> Self {
        Self {
            model: config.model,
            prompt: config.prompt,
            max_steps: config.max_steps.and_then(|steps| u8::try_from(steps).ok()),
            approval: config.approval,
            script: config.script,
        }
    }
}
