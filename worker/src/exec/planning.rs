//! The planning step: a model makes the graph, petgraph checks it, one repair is allowed, and when time or patience runs
//! out a fallback plan goes ahead. Planning never fails a message.

use std::collections::HashMap;

use engine::{
    id::StepId,
    llm::{AnswerSchema, Line, Prompt, Role},
    plan::{
        NewNeed, NewStep,
        graph::{Limits, Node, When, check},
    },
    step::{Outcome, StepKind, StepSpec, claimed::Claim},
    store::{PlanContext, TeamMember},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::info;

use crate::{
    exec::{
        journal::{Journal, Voice},
        patiently,
    },
    run::{RunError, Runner},
};

const SYSTEM: &str = "You plan the work of a team of agents. The last message is a JSON object with the person's request and \
    the agents. Answer with a JSON object {\"goal\": string, \"steps\": [{\"key\", \"agent\", \"prompt\", \"needs\"}]}. A step's \
    key is short, of lowercase letters, digits and dashes, and unique; agent is the name of one of the agents; needs lists the keys \
    of steps whose results it builds on. Steps that do not need each other run at the same time. Use as few steps as the \
    request needs.";
/// Steps of a plan when the person has set no bound.
const MAX_STEPS: u8 = 20;

#[derive(Debug, Deserialize)]
struct Draft {
    #[serde(default)]
    steps: Vec<DraftStep>,
}

#[derive(Debug, Deserialize)]
struct DraftStep {
    key: String,
    agent: String,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    needs: Vec<String>,
}

pub(super) async fn run(runner: &Runner, claim: &Claim) -> Result<Outcome, RunError> {
    let mut context = patiently(|| runner.store.plan_context(claim)).await?;
    let mut journal = Journal::of(runner, claim, std::mem::take(&mut context.journal));
    let (steps, source, why) = if context.team.is_empty() {
        (Vec::new(), "no_team", None)
    } else {
        match timeout(runner.planning_timeout, planned(&mut journal, &context)).await {
            Ok(Ok(steps)) => (steps, "model", None),
            Ok(Err(why)) => (fallback(&context), "fallback", Some(why)),
            Err(_) => (
                fallback(&context),
                "fallback",
                Some(format!(
                    "planning took longer than {:?}",
                    runner.planning_timeout
                )),
            ),
        }
    };
    if let Some(why) = &why {
        info!(plan.id = %claim.plan, why, "the fallback plan goes ahead");
    }
    let steps = with_answer(steps);
    let result = json!({ "source": source, "reason": why, "steps": steps.len() });
    Ok(journal.with(Outcome::Expand { result, steps }))
}

/// The model's plan, after at most one repair; otherwise why there is none.
async fn planned(journal: &mut Journal<'_>, context: &PlanContext) -> Result<Vec<NewStep>, String> {
    let model = context.config.model.as_deref();
    let mut prompt = prompt(context);
    let mut turn = journal
        .turn(0, model, prompt.clone(), Voice::Silent)
        .await
        .map_err(|error| error.to_string())?;
    let problem = match read(&turn.text, context) {
        Ok(steps) => return Ok(steps),
        Err(problem) => problem,
    };
    prompt.lines.push(Line::new(Role::Assistant, turn.text));
    prompt.lines.push(Line::new(
        Role::User,
        format!("That plan is not valid: {problem}. Answer again with the corrected JSON object and nothing else."),
    ));
    turn = journal
        .turn(1, model, prompt, Voice::Silent)
        .await
        .map_err(|error| error.to_string())?;
    read(&turn.text, context)
}

fn prompt(context: &PlanContext) -> Prompt {
    let agents: Vec<Value> = context
        .team
        .iter()
        .map(|agent| json!({ "name": agent.name, "about": agent.about }))
        .collect();
    let request = json!({ "request": context.goal, "agents": agents });
    let mut lines = context.history.clone();
    lines.push(Line::new(Role::User, request.to_string()));
    Prompt {
        system: Some(match &context.config.prompt {
            Some(own) => format!("{SYSTEM}\n\n{own}"),
            None => SYSTEM.to_owned(),
        }),
        lines,
        schema: Some(AnswerSchema {
            name: "plan",
            schema: schema(),
        }),
        temperature: Some(0.0),
        script: context.config.script.clone(),
        ..Prompt::default()
    }
}

fn schema() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object", "additionalProperties": false, "required": ["goal", "steps"],
        "properties": { "goal": text, "steps": { "type": "array", "items": {
            "type": "object", "additionalProperties": false, "required": ["key", "agent", "prompt", "needs"],
            "properties": { "key": text, "agent": text, "prompt": text, "needs": { "type": "array", "items": text } }
        } } }
    })
}

/// Reads and checks a plan; the error is a sentence that a model can act on.
fn read(text: &str, context: &PlanContext) -> Result<Vec<NewStep>, String> {
    let draft: Draft = serde_json::from_str(json_part(text))
        .map_err(|error| format!("it is not the JSON object asked for ({error})"))?;
    let most = usize::from(context.config.max_steps.unwrap_or(MAX_STEPS));
    let limits = Limits {
        steps: most,
        ..Limits::PLANNED
    };
    let nodes: Vec<Node<'_>> = draft
        .steps
        .iter()
        .map(|step| Node {
            key: &step.key,
            needs: step
                .needs
                .iter()
                .map(|need| (need.as_str(), When::Success))
                .collect(),
        })
        .collect();
    check(&nodes, &limits).map_err(|errors| {
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    })?;
    let ids: HashMap<&str, StepId> = draft
        .steps
        .iter()
        .map(|step| (step.key.as_str(), StepId::new()))
        .collect();
    draft
        .steps
        .iter()
        .map(|step| new_step(step, &ids, &context.team))
        .collect()
}

fn new_step(
    step: &DraftStep,
    ids: &HashMap<&str, StepId>,
    team: &[TeamMember],
) -> Result<NewStep, String> {
    let agent = team
        .iter()
        .find(|member| member.name == step.agent)
        .ok_or_else(|| {
            let names: Vec<&str> = team.iter().map(|member| member.name.as_str()).collect();
            format!(
                "step {:?} names the agent {:?}; the agents are {names:?}",
                step.key, step.agent
            )
        })?;
    let id_of = |key: &str| {
        ids.get(key)
            .copied()
            .ok_or_else(|| format!("step {:?} needs {key:?}, which is not there", step.key))
    };
    Ok(NewStep {
        id: id_of(&step.key)?,
        agent_id: Some(agent.id),
        spec: StepSpec {
            prompt: step.prompt.clone(),
            ..StepSpec::default()
        },
        needs: step
            .needs
            .iter()
            .map(|key| {
                Ok(NewNeed {
                    id: id_of(key)?,
                    when: When::Success,
                })
            })
            .collect::<Result<_, String>>()?,
        ..NewStep::new(&step.key, StepKind::Agent)
    })
}

/// Models like to wrap JSON in prose or fences: from the first brace to the last.
fn json_part(text: &str) -> &str {
    match (text.find('{'), text.rfind('}')) {
        (Some(start), Some(end)) if start < end => &text[start..=end],
        _ => text,
    }
}

/// One step by the agent whose description shares the most words with the request; the first agent when none does.
fn fallback(context: &PlanContext) -> Vec<NewStep> {
    let wanted = words(&context.goal);
    let score = |member: &TeamMember| {
        words(&format!("{} {}", member.name, member.about))
            .iter()
            .filter(|word| wanted.contains(*word))
            .count()
    };
    let best = context.team.iter().rev().max_by_key(|member| score(member));
    best.map(|agent| NewStep {
        agent_id: Some(agent.id),
        ..NewStep::new("answer", StepKind::Agent)
    })
    .into_iter()
    .collect()
}

fn words(text: &str) -> std::collections::BTreeSet<String> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| word.chars().count() > 3)
        .map(str::to_lowercase)
        .collect()
}

/// Somebody owes the person an answer: a lone step gives it itself, otherwise a summary once all others have ended in any way.
fn with_answer(mut steps: Vec<NewStep>) -> Vec<NewStep> {
    if let [only] = steps.as_mut_slice() {
        only.spec.answers = true;
        return steps;
    }
    let needs = steps
        .iter()
        .map(|step| NewNeed {
            id: step.id,
            when: When::Done,
        })
        .collect();
    let mut key = "summary".to_owned();
    while steps
        .iter()
        .any(|step| step.key == key || step.key == "planning")
        && key.len() < 60
    {
        key.push_str("-1");
    }
    steps.push(NewStep {
        spec: StepSpec {
            answers: true,
            ..StepSpec::default()
        },
        needs,
        ..NewStep::new(key, StepKind::Summary)
    });
    steps
}
