//! An agent step: the session's history, what the needed steps found, and turns of the model with the tools that it calls,
//! until it answers. Every turn and every call goes through the journal, so that a new run goes on where the last one was.

use engine::{
    id::MessageId,
    llm::{Line, OfferedTool, Prompt, Role, Turn},
    step::{Outcome, Reply, StepError, StepSpec, claimed::Claim, outcome::ErrorClass},
    store::AgentContext,
    tool::{ASK_USER, DELEGATE, Tool},
};
use serde_json::{Value, json};

use crate::{
    exec::{
        calls::{Answered, Calls},
        journal::{Journal, Voice},
        lines, patiently, turn_result,
    },
    run::{RunError, Runner},
};

/// Turns of one step; an agent that has not come to an answer by then goes in circles.
const TURNS: u32 = 25;
/// Bytes of a result that the model gets to read; of a longer one its beginning and its end.
const READ_BYTES: usize = 32 * 1024;

pub(super) async fn run(
    runner: &Runner,
    claim: &Claim,
    spec: &StepSpec,
) -> Result<Outcome, RunError> {
    let mut context = patiently(|| runner.store.agent_context(claim)).await?;
    if claim.agent.is_some() && context.agent.is_none() {
        let error = StepError::new(
            ErrorClass::Invalid,
            "agent_deleted",
            "the agent of this step was deleted",
        );
        return Err(RunError::Step(error));
    }
    let mut journal = Journal::of(runner, claim, std::mem::take(&mut context.journal));
    let calls = Calls {
        runner,
        claim,
        spec,
        tools: &context.tools,
        allowed: &context.config.tools,
        agent: context.agent.as_deref().unwrap_or_default(),
        agent_version: context.version,
    };
    let mut prompt = prompt(&context, spec);
    let mut ordinal = 0;
    for _ in 0..TURNS {
        let turn = journal
            .turn(
                ordinal,
                context.config.model.as_deref(),
                prompt.clone(),
                Voice::Aloud,
            )
            .await?;
        if turn.calls.is_empty() {
            return Ok(journal.with(answered(spec, &turn)));
        }
        let answers = match calls.answer(&mut journal, ordinal + 1, &turn.calls).await? {
            Answered::All(answers) => answers,
            Answered::Stop(outcome) => return Ok(outcome),
        };
        ordinal += 1 + u32::try_from(turn.calls.len()).unwrap_or(u32::MAX - ordinal - 1);
        prompt.lines.extend(talk(turn, &answers));
    }
    let error = StepError::new(
        ErrorClass::Invalid,
        "too_many_turns",
        format!("the agent came to no answer in {TURNS} turns"),
    );
    Err(RunError::Step(error))
}

fn answered(spec: &StepSpec, turn: &Turn) -> Outcome {
    let reply = spec.answers.then(|| Reply {
        id: MessageId::new(),
        content: turn.text.clone(),
    });
    Outcome::Succeed {
        result: turn_result(turn),
        reply,
    }
}

fn prompt(context: &AgentContext, spec: &StepSpec) -> Prompt {
    let config = &context.config;
    Prompt {
        system: (!config.system_prompt.is_empty()).then(|| config.system_prompt.clone()),
        lines: lines(
            &context.history,
            &context.needs,
            spec.prompt.as_deref().unwrap_or(&context.goal),
        ),
        tools: config
            .tools
            .iter()
            .filter_map(|name| offered(name, &context.tools))
            .collect(),
        temperature: config.temperature,
        max_tokens: config.max_tokens,
        script: config.script.clone(),
        ..Prompt::default()
    }
}

/// A tool as the model hears of it; none: it was removed.
fn offered(name: &str, tools: &[Tool]) -> Option<OfferedTool> {
    if name == DELEGATE {
        let text = json!({ "type": "string" });
        return Some(OfferedTool {
            name: DELEGATE.to_owned(),
            description: "Asks another agent of the team and waits for its answer.".to_owned(),
            schema: json!({ "type": "object", "additionalProperties": false, "required": ["agent", "prompt"],
                            "properties": { "agent": text, "prompt": text } }),
        });
    }
    if name == ASK_USER {
        return Some(OfferedTool {
            name: ASK_USER.to_owned(),
            description:
                "Asks the person something and waits for the answer; schema describes its form."
                    .to_owned(),
            schema: json!({ "type": "object", "additionalProperties": false, "required": ["question"],
                            "properties": { "question": { "type": "string" }, "schema": { "type": "object" } } }),
        });
    }
    let tool = tools.iter().find(|tool| tool.name == name)?;
    Some(OfferedTool {
        name: tool.name.clone(),
        description: tool.description.clone(),
        schema: tool.input_schema.clone(),
    })
}

/// What the model said and what its calls brought, as the next turn reads it.
fn talk(turn: Turn, answers: &[Value]) -> Vec<Line> {
    let results: Vec<Line> = turn
        .calls
        .iter()
        .zip(answers)
        .map(|(call, answer)| Line {
            answers_call: Some(call.id.clone()),
            ..Line::new(Role::Tool, readable(answer))
        })
        .collect();
    let said = Line {
        calls: turn.calls,
        ..Line::new(Role::Assistant, turn.text)
    };
    std::iter::once(said).chain(results).collect()
}

/// A result as text; of a long one its head and its tail.
fn readable(result: &Value) -> String {
    let text = match result {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.len() <= READ_BYTES {
        return text;
    }
    let head = text.floor_char_boundary(READ_BYTES / 2);
    let tail = text.ceil_char_boundary(text.len() - READ_BYTES / 2);
    format!(
        "{}\n[{} bytes left out]\n{}",
        &text[..head],
        tail - head,
        &text[tail..]
    )
}
