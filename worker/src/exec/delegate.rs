//! An agent asks another one: a child step, durable like every other. The parent waits for it without a lease or a place.

use engine::{
    plan::NewStep,
    step::{Outcome, StepKind, StepSpec, claimed::Claim},
    store::Child,
    tool::{Effect, Entry, EntryKind},
};
use serde_json::{Value, json};

use crate::{
    exec::{
        calls::Calls,
        children::{prefix, wait},
        journal::Journal,
        patiently,
    },
    run::RunError,
};

/// How often work may be delegated on.
const DEPTH: u16 = 3;
/// Characters of what an agent asks another one.
const PROMPT_LIMIT: usize = 32_768;

/// The key of the child that a call makes; the same in every attempt.
pub(super) fn key(claim: &Claim, ordinal: u32) -> String {
    format!("{}{ordinal}", prefix(claim))
}

/// What a child's end tells the agent that asked.
pub(super) fn answer(ordinal: u32, child: &Child) -> Entry {
    let result = if child.ended_well() {
        json!({ "answer": child.text() })
    } else {
        let why = child.error.as_ref().and_then(|error| error.get("message"));
        json!({ "error": why, "state": child.state })
    };
    Entry::done(ordinal, EntryKind::Tool, Effect::Idempotent, result)
}

/// The outcome by which the step waits for those it asks; none: there is nobody to wait for.
pub(super) async fn spawn(
    calls: &Calls<'_>,
    journal: &mut Journal<'_>,
    wanted: Vec<(u32, Value)>,
) -> Result<Option<Outcome>, RunError> {
    let mut children = Vec::new();
    for (ordinal, arguments) in wanted {
        match child(calls, ordinal, &arguments).await? {
            Ok(step) => children.push(step),
            Err(why) => journal.note(Entry::done(
                ordinal,
                EntryKind::Tool,
                Effect::Read,
                json!({ "error": why }),
            )),
        }
    }
    if children.is_empty() {
        return Ok(None);
    }
    let depth = calls.claim.depth + 1;
    Ok(Some(journal.with(Outcome::Spawn {
        wait: wait(&children),
        children,
        depth,
    })))
}

/// The step that a call asks for, or why there will be none, for the model to know.
async fn child(
    calls: &Calls<'_>,
    ordinal: u32,
    arguments: &Value,
) -> Result<Result<NewStep, String>, RunError> {
    let claim = calls.claim;
    let text = |field: &str| arguments.get(field).and_then(Value::as_str);
    let (Some(name), Some(prompt)) = (text("agent"), text("prompt")) else {
        return Ok(Err(
            "delegate takes an agent and a prompt, both texts".to_owned()
        ));
    };
    if prompt.trim().is_empty() || prompt.chars().count() > PROMPT_LIMIT {
        return Ok(Err(format!(
            "the prompt must have 1 to {PROMPT_LIMIT} characters"
        )));
    }
    if claim.depth >= DEPTH {
        return Ok(Err(format!(
            "work is delegated {DEPTH} times at most; do it yourself"
        )));
    }
    let found = patiently(|| calls.runner.store.agent_named(claim, name)).await?;
    let Some(agent) = found else {
        return Ok(Err("there is no agent of that name".to_owned()));
    };
    let mut delegated_by = calls.spec.delegated_by.clone();
    delegated_by.extend(claim.agent);
    if delegated_by.contains(&agent) {
        return Ok(Err(
            "that agent waits for this work itself; ask another one or do it yourself".to_owned(),
        ));
    }
    Ok(Ok(NewStep {
        agent_id: Some(agent),
        spec: StepSpec {
            prompt: Some(prompt.to_owned()),
            delegated_by,
            ..StepSpec::default()
        },
        ..NewStep::new(key(claim, ordinal), StepKind::Agent)
    }))
}
