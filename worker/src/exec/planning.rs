//! The planning step: a model makes the graph, petgraph checks it, one repair is allowed, and when time or patience runs
//! out a fallback plan goes ahead. Planning never fails a message.

use engine::{
    id::{MessageId, WaitId},
    llm::{AnswerSchema, Line, Prompt, Role},
    plan::{
        NewNeed, NewStep,
        draft::{DraftError, DraftStep, PlanDraft},
        graph::{Limits, When},
    },
    step::{
        Outcome, Reply, StepError, StepKind, StepSpec,
        claimed::{Claim, Woken},
        outcome::{ErrorClass, NewWait, WaitKind},
    },
    store::{PlanContext, TeamMember},
    wait::Decision,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::info;

use crate::{
    exec::{
        card::said,
        journal::{Journal, Voice},
        patiently, within,
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

pub(super) async fn run(runner: &Runner, claim: &Claim) -> Result<Outcome, RunError> {
    let mut context = patiently(|| runner.store.plan_context(claim)).await?;
    let woken = claim.woken.as_ref();
    if let Some(woken) = woken.filter(|woken| woken.approval() == Some("plan")) {
        return after_the_question(claim, &context, woken);
    }
    let mut journal = Journal::of(runner, claim, std::mem::take(&mut context.journal));
    let (draft, source, why) = if context.team.is_empty() {
        (PlanDraft::default(), "no_team", None)
    } else {
        match timeout(runner.planning_timeout, planned(&mut journal, &context)).await {
            Ok(Ok(draft)) => (draft, "model", None),
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
    let dangerous = draft.steps.iter().any(|step| {
        let agent = context.team.iter().find(|member| member.name == step.agent);
        agent.is_some_and(|agent| agent.dangerous)
    });
    let made = json!({ "source": source, "reason": why });
    if context.config.approval.asks(draft.steps.len(), dangerous) {
        let wait = question(runner, &context, &draft, &made);
        return Ok(journal.with(Outcome::Suspend { wait }));
    }
    let outcome = expanded(&draft, &context, made)?;
    Ok(journal.with(outcome))
}

/// Puts the plan before the person. What is approved is what stands in the question then, which the person may change before.
fn question(runner: &Runner, context: &PlanContext, draft: &PlanDraft, made: &Value) -> NewWait {
    NewWait {
        id: WaitId::new(),
        kind: WaitKind::Approval,
        payload: json!({
            "type": "plan", "goal": context.goal, "steps": draft.steps_json(), "digest": draft.digest(),
            "estimate": draft.estimate(), "made": made, "choices": ["approve", "reject"],
        }),
        deadline: Some(runner.store.limits().card),
    }
}

/// Carries out what was approved, and nothing else; or says why there is nothing to carry out.
fn after_the_question(
    claim: &Claim,
    context: &PlanContext,
    woken: &Woken,
) -> Result<Outcome, RunError> {
    if woken.decision == Decision::Approved {
        let draft = serde_json::from_value(woken.payload.clone()).unwrap_or_default();
        let made = woken.payload.get("made").cloned().unwrap_or(Value::Null);
        return expanded(&draft, context, made);
    }
    let note = said(woken, "note").and_then(Value::as_str);
    let (code, message) = match woken.decision {
        Decision::Rejected => ("plan_rejected", "the plan was not approved"),
        Decision::TimedOut => ("plan_timed_out", "nobody approved the plan in time"),
        _ => ("plan_not_approved", "the plan was not approved"),
    };
    let message = match note {
        Some(note) => format!("{message}: {note}"),
        None => message.to_owned(),
    };
    let error = StepError::new(ErrorClass::Refused, code, message);
    let reply = claim.session.map(|_| Reply {
        id: MessageId::new(),
        content: format!("I did not begin: {} ({}).", error.message, error.code),
    });
    Ok(Outcome::GiveUp { error, reply })
}

fn expanded(draft: &PlanDraft, context: &PlanContext, made: Value) -> Result<Outcome, RunError> {
    let steps = if draft.steps.is_empty() {
        Vec::new()
    } else {
        // What a person has approved may be longer than what a planner is asked for.
        to_steps(draft, context, Limits::PLANNED.steps).map_err(|why| {
            let error = StepError::new(ErrorClass::Invalid, "plan_invalid", why);
            RunError::Step(error)
        })?
    };
    let steps = with_answer(steps);
    let mut result = made;
    result["steps"] = json!(steps.len());
    Ok(Outcome::Expand { result, steps })
}

fn to_steps(draft: &PlanDraft, context: &PlanContext, most: usize) -> Result<Vec<NewStep>, String> {
    let id = |name: &str| {
        let named = |member: &&TeamMember| member.name == name || member.id.to_string() == name;
        let member = context.team.iter().find(named);
        member.map(|member| member.id)
    };
    draft.to_steps(most, id).map_err(|error| match error {
        DraftError::Graph(errors) => {
            let sentences: Vec<String> = errors.iter().map(ToString::to_string).collect();
            sentences.join("; ")
        }
        DraftError::Agent { index, name } => {
            let names: Vec<&str> = context
                .team
                .iter()
                .map(|member| member.name.as_str())
                .collect();
            let key = &draft.steps[index].key;
            format!("step {key:?} names the agent {name:?}; the agents are {names:?}")
        }
    })
}

/// The model's plan, after at most one repair; otherwise why there is none.
async fn planned(journal: &mut Journal<'_>, context: &PlanContext) -> Result<PlanDraft, String> {
    let model = context.config.model.as_deref();
    let mut prompt = prompt(context);
    let mut turn = journal
        .turn(0, model, prompt.clone(), Voice::Silent)
        .await
        .map_err(|error| error.to_string())?;
    let problem = match read(&turn.text, context) {
        Ok(draft) => return Ok(draft),
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
fn read(text: &str, context: &PlanContext) -> Result<PlanDraft, String> {
    let draft: PlanDraft = serde_json::from_str(within(text, '{', '}'))
        .map_err(|error| format!("it is not the JSON object asked for ({error})"))?;
    let most = usize::from(context.config.max_steps.unwrap_or(MAX_STEPS));
    to_steps(&draft, context, most)?;
    Ok(draft)
}

/// One step by the agent whose description shares the most words with the request; the first agent when none does.
fn fallback(context: &PlanContext) -> PlanDraft {
    let wanted = words(&context.goal);
    let score = |member: &TeamMember| {
        words(&format!("{} {}", member.name, member.about))
            .iter()
            .filter(|word| wanted.contains(*word))
            .count()
    };
    let best = context.team.iter().rev().max_by_key(|member| score(member));
    let step = best.map(|agent| DraftStep {
        key: "answer".to_owned(),
        agent: agent.name.clone(),
        prompt: None,
        needs: Vec::new(),
    });
    PlanDraft {
        steps: step.into_iter().collect(),
    }
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
