//! The tool calls of one turn: each is answered from the journal, made now, or put before the person.
//!
//! | journal says | then |
//! |---|---|
//! | done | its result is the answer |
//! | nothing | the intent is committed, the call is made, its result is committed |
//! | an intent of an earlier run | made again with the same key where the effect allows it; else the person is asked what became of it |
//! | unknown | what the person has said of it; asked again where nothing was said |

use std::{collections::HashMap, time::Duration};

use engine::{
    fault,
    llm::ToolCall,
    step::{
        Outcome, StepError, StepSpec,
        claimed::{Claim, Woken},
        outcome::{ErrorClass, NewWait},
    },
    store::{Child, Consents},
    tool::{ASK_USER, DELEGATE, Effect, Entry, EntryKind, EntryState, Tool, schema},
    wait::{Decision, WaitKind},
};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    exec::{
        card::said,
        consent::{self, Leave},
        delegate,
        journal::{Journal, call_id, call_key},
        patiently, question,
        wanted::{Right, Wanted},
    },
    run::{RunError, Runner, backoff, defer},
    tool::{Call, Trouble},
};

/// Bytes of a call's arguments.
const ARGUMENTS_BYTES: usize = 64 * 1024;

/// What a turn's calls came to.
pub(super) enum Answered {
    /// Every call has its answer, in order.
    All(Vec<Value>),
    /// The step ends its run here.
    Stop(Outcome),
}

/// What is read once for all calls of a turn.
struct Known {
    /// What earlier runs have delegated, by key.
    children: HashMap<String, Child>,
    /// The person's rules and grants.
    consents: Consents,
}

/// What to do about a call that has no answer yet.
pub(super) enum Step<'a> {
    Make(Wanted<'a>, Right),
    Ask(NewWait),
    /// The person's own program, or the person, carries it out.
    HandOut(HandOut),
    Delegate(u32, Value),
    Answer(Entry),
}

/// A call on its way to the person or the person's program.
pub(super) struct HandOut {
    pub(super) intent: Entry,
    pub(super) wait: NewWait,
    /// What is asked should the consent not hold any more; none: it needs none.
    pub(super) otherwise: Option<NewWait>,
}

pub(super) struct Calls<'a> {
    pub(super) runner: &'a Runner,
    pub(super) claim: &'a Claim,
    pub(super) spec: &'a StepSpec,
    pub(super) tools: &'a [Tool],
    /// Names that the agent may call; the builtins are none of its owner's tools.
    pub(super) allowed: &'a [String],
    /// Name of the agent.
    pub(super) agent: &'a str,
    /// Its version now.
    pub(super) agent_version: Option<i32>,
}

impl Calls<'_> {
    /// Answers the calls, whose entries in the journal begin at `first`.
    pub(super) async fn answer(
        &self,
        journal: &mut Journal<'_>,
        first: u32,
        calls: &[ToolCall],
    ) -> Result<Answered, RunError> {
        let known = Known {
            children: self.children(calls).await?,
            consents: self.consents(journal, first, calls).await?,
        };
        let mut make = Vec::new();
        let mut ask = None;
        let mut hand_out = None;
        let mut delegate = Vec::new();
        for (ordinal, call) in (first..).zip(calls) {
            if journal.result(ordinal).is_some() {
                continue;
            }
            match self.next(journal, ordinal, call, &known) {
                Step::Answer(entry) => journal.note(entry),
                Step::Ask(wait) => ask = ask.or(Some((ordinal, wait))),
                Step::HandOut(call) => hand_out = hand_out.or(Some(call)),
                Step::Delegate(ordinal, arguments) => delegate.push((ordinal, arguments)),
                Step::Make(wanted, right) => make.push((wanted, right)),
            }
        }
        if let Some(stop) = self.make(journal, make).await? {
            return Ok(Answered::Stop(stop));
        }
        // A suspended step has one wait: what else is asked of anybody comes up when the step has been woken.
        if let Some((ordinal, wait)) = ask {
            return Ok(Answered::Stop(asked(journal, ordinal, wait)));
        }
        if let Some(call) = hand_out {
            return Ok(Answered::Stop(hand_out_now(journal, call).await?));
        }
        if let Some(spawn) = delegate::spawn(self, journal, delegate).await? {
            return Ok(Answered::Stop(spawn));
        }
        let answers = (first..).zip(calls).map(|(ordinal, _)| {
            let answer = journal.result(ordinal).cloned();
            answer.unwrap_or(Value::Null)
        });
        Ok(Answered::All(answers.collect()))
    }

    /// What earlier runs have delegated, by the key of the child.
    async fn children(&self, calls: &[ToolCall]) -> Result<HashMap<String, Child>, RunError> {
        if !calls.iter().any(|call| call.name == DELEGATE) {
            return Ok(HashMap::new());
        }
        let children = patiently(|| self.runner.store.children(self.claim)).await?;
        Ok(children
            .into_iter()
            .map(|child| (child.key.clone(), child))
            .collect())
    }

    /// The person's rules and grants, where some call may still be made.
    async fn consents(
        &self,
        journal: &Journal<'_>,
        first: u32,
        calls: &[ToolCall],
    ) -> Result<Consents, RunError> {
        let open = (first..).zip(calls).any(|(ordinal, call)| {
            journal.result(ordinal).is_none()
                && self.tools.iter().any(|tool| tool.name == call.name)
        });
        if open {
            Ok(patiently(|| self.runner.store.consents(self.claim.scope)).await?)
        } else {
            Ok(Consents::default())
        }
    }

    fn next<'b>(
        &'b self,
        journal: &Journal<'_>,
        ordinal: u32,
        call: &ToolCall,
        known: &Known,
    ) -> Step<'b> {
        let refuse = |why: String| Step::Answer(told(ordinal, &json!({ "error": why })));
        if !self.allowed.contains(&call.name) {
            return refuse(format!(
                "there is no tool {:?}; the tools are {:?}",
                cut(&call.name, 100),
                self.allowed
            ));
        }
        let arguments = match arguments(&call.arguments) {
            Ok(arguments) => arguments,
            Err(why) => return refuse(why),
        };
        if call.name == DELEGATE {
            let key = delegate::key(self.claim, ordinal);
            return match known.children.get(&key) {
                Some(child) => Step::Answer(delegate::answer(ordinal, child)),
                None => Step::Delegate(ordinal, arguments),
            };
        }
        if call.name == ASK_USER {
            return question::next(self.runner, self.woken(ordinal), ordinal, &arguments);
        }
        let Some(tool) = self.tools.iter().find(|tool| tool.name == call.name) else {
            return refuse(format!("the tool {:?} was removed", call.name));
        };
        // Checked before anybody is asked.
        if let Err(why) = schema::check(&tool.input_schema, &arguments) {
            return refuse(why.to_string());
        }
        let wanted = Wanted {
            ordinal,
            tool,
            arguments,
        };
        self.known(journal, wanted, known)
    }

    /// The wait about this call that the step was woken by.
    fn woken(&self, ordinal: u32) -> Option<&Woken> {
        let woken = self.claim.woken.as_ref();
        woken.filter(|woken| woken.ordinal() == Some(ordinal))
    }

    /// What follows from what the journal and the person have said of a call.
    fn known<'b>(
        &'b self,
        journal: &Journal<'_>,
        mut wanted: Wanted<'b>,
        known: &Known,
    ) -> Step<'b> {
        let woken = self.woken(wanted.ordinal);
        let Some(entry) = journal.entry(wanted.ordinal) else {
            return match woken.and_then(|woken| to_be_made(&wanted, woken)) {
                Some(again) => Step::Make(again, Right::default()),
                None => self.fresh(wanted, known, woken),
            };
        };
        // What is known of it was written with the arguments that it was, or shall be, made with: the person may have changed them.
        if let Some(arguments) = entry.request.get("arguments") {
            wanted.arguments = arguments.clone();
        }
        // Consent was for the tool as it was then.
        let as_then = entry.request.get("version") == Some(&json!(wanted.tool.version));
        let came_back = woken.is_some_and(|woken| woken.kind == WaitKind::ClientTool);
        match entry.state {
            EntryState::Intent if wanted.is_clients() && (as_then || came_back) => {
                Self::handed_out(&wanted, woken)
            }
            EntryState::Intent if wanted.tool.effect.may_repeat() && as_then => {
                Step::Make(wanted, Right::default())
            }
            EntryState::Intent if wanted.tool.effect.may_repeat() => {
                self.fresh(wanted, known, woken)
            }
            EntryState::Intent => Step::Ask(wanted.what_became(self.runner, self.claim)),
            EntryState::Unknown => match woken {
                Some(woken) if woken.approval() == Some("tool") => {
                    self.fresh(wanted, known, Some(woken))
                }
                Some(woken) if woken.approval() == Some("outcome_unknown") => {
                    match after_the_question(wanted, woken) {
                        Step::Make(wanted, _) if !as_then => self.fresh(wanted, known, None),
                        step => step,
                    }
                }
                _ => Step::Ask(wanted.what_became(self.runner, self.claim)),
            },
            // Done entries have been passed over before.
            EntryState::Done | EntryState::Withdrawn => self.fresh(wanted, known, woken),
        }
    }

    fn fresh<'b>(&'b self, wanted: Wanted<'b>, known: &Known, woken: Option<&Woken>) -> Step<'b> {
        let ordinal = wanted.ordinal;
        match consent::leave(wanted, self.agent, &known.consents, woken) {
            Leave::Granted(wanted, right) if wanted.is_clients() => Step::HandOut(HandOut {
                intent: wanted.intent(right),
                wait: wanted.for_the_client(),
                otherwise: (right != Right::default()).then(|| self.may_i(&wanted)),
            }),
            Leave::Granted(wanted, right) => Step::Make(wanted, right),
            Leave::Refused(why) => Step::Answer(told(ordinal, &why)),
            Leave::Ask(wanted) => Step::Ask(self.may_i(&wanted)),
        }
    }

    fn may_i(&self, wanted: &Wanted<'_>) -> NewWait {
        wanted.may_i(self.runner, self.agent_version)
    }

    /// What the person's own program has made of a call.
    fn handed_out<'b>(wanted: &Wanted<'b>, woken: Option<&Woken>) -> Step<'b> {
        // It may have been woken by the approval, and its run broken off before the call was handed out.
        match woken.filter(|woken| woken.kind == WaitKind::ClientTool) {
            Some(woken) if woken.decision == Decision::Answered => {
                let result = woken.answer.clone().unwrap_or(Value::Null);
                Step::Answer(wanted.done(&result))
            }
            Some(woken) => {
                let why = format!(
                    "the person's program gave no result ({})",
                    woken.decision.as_str()
                );
                Step::Answer(wanted.done(&json!({ "error": why })))
            }
            None => Step::HandOut(HandOut {
                intent: wanted.intent(Right::default()),
                wait: wanted.for_the_client(),
                otherwise: None,
            }),
        }
    }

    /// Commits the intents. Gives the question about the first call that has lost its consent in this moment, if one has:
    /// that one is left out.
    async fn intend(
        &self,
        journal: &mut Journal<'_>,
        wanted: &mut Vec<(Wanted<'_>, Right)>,
    ) -> Result<Option<NewWait>, RunError> {
        let mut ask = None;
        loop {
            for (wanted, right) in wanted.iter() {
                journal.note(wanted.intent(*right));
            }
            let Some(lost) = journal.commit_with_consent().await? else {
                return Ok(ask);
            };
            let of_lost = |(wanted, _): &(Wanted<'_>, Right)| wanted.ordinal == lost;
            if let Some(place) = wanted.iter().position(of_lost) {
                let (lost, _) = wanted.remove(place);
                ask = ask.or_else(|| Some(self.may_i(&lost)));
            }
        }
    }

    /// Commits the intents, makes the calls side by side, and commits what they brought. Gives the outcome where the step has
    /// to stop here.
    async fn make(
        &self,
        journal: &mut Journal<'_>,
        mut wanted: Vec<(Wanted<'_>, Right)>,
    ) -> Result<Option<Outcome>, RunError> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let ask = self.intend(journal, &mut wanted).await?;
        let made = join_all(wanted.iter().map(|(wanted, _)| self.one(wanted))).await;
        let mut stop = None;
        for ((wanted, right), result) in wanted.iter().zip(made) {
            let ordinal = wanted.ordinal;
            match result {
                Ok(result) => journal.note(wanted.done(&result)),
                Err(Trouble::Refused(why)) => journal.note(wanted.done(&json!({ "error": why }))),
                Err(Trouble::NotDone {
                    retry_after,
                    detail,
                }) => {
                    journal.note(wanted.withdrawn(*right));
                    stop = stop.or_else(|| Some(self.later(retry_after, &detail)));
                }
                Err(Trouble::Unknown(why)) if wanted.tool.effect.may_repeat() => {
                    stop = stop.or_else(|| Some(self.later(None, &why)));
                }
                Err(Trouble::Unknown(_)) => {
                    journal.note(wanted.unknown());
                    let asked = Outcome::Suspend {
                        wait: wanted.what_became(self.runner, self.claim),
                    };
                    // The question comes first: a retry would only come to it again.
                    stop = match stop {
                        Some(other @ Outcome::Suspend { .. }) => Some(other),
                        _ => Some(asked),
                    };
                }
            }
            tracing::debug!(step.id = %self.claim.id, ordinal, tool = wanted.tool.name, "a tool was called");
        }
        let stop = stop.or_else(|| ask.map(|wait| Outcome::Suspend { wait }));
        Ok(stop.map(|outcome| journal.with(outcome)))
    }

    async fn one(&self, wanted: &Wanted<'_>) -> Result<Value, Trouble> {
        let id = call_id(self.claim, wanted.ordinal);
        let key = call_key(self.claim, wanted.ordinal);
        fault::point("tool.before");
        // A process that was asleep may have lost the lease without having been told; after this line a call is under way.
        if !self.claim.trust.holds() {
            return Err(Trouble::NotDone {
                retry_after: None,
                detail: "the lease ran out before the call".to_owned(),
            });
        }
        let call = Call {
            tool: wanted.tool,
            arguments: &wanted.arguments,
            key: &key,
            id: &id,
        };
        let result = self.runner.tools.call(&call).await;
        fault::point("tool.after");
        result
    }

    fn later(&self, retry_after: Option<Duration>, detail: &str) -> Outcome {
        let class = match retry_after {
            Some(_) => ErrorClass::RateLimited,
            None => ErrorClass::Transient,
        };
        let error = StepError::new(class, "tool_failed", detail);
        let after = retry_after.unwrap_or_default() + backoff(self.claim);
        defer(self.claim, after, error)
    }
}

/// The call that the person has said was not made, and that could not be made since either: the consent to it stands.
fn to_be_made<'a>(wanted: &Wanted<'a>, woken: &Woken) -> Option<Wanted<'a>> {
    let not_done = woken.approval() == Some("outcome_unknown")
        && woken.decision == Decision::Answered
        && woken.choice() == Some("not_done");
    // As it was asked about, which may be as the person had changed it.
    let asked = Wanted {
        arguments: woken.payload.get("arguments")?.clone(),
        ..wanted.clone()
    };
    (not_done && asked.is_what(woken)).then_some(asked)
}

/// What follows from the person's word about a call of which nobody knew what became.
fn after_the_question<'a>(wanted: Wanted<'a>, woken: &Woken) -> Step<'a> {
    match (woken.decision, woken.choice()) {
        (Decision::Answered, Some("not_done")) => Step::Make(wanted, Right::default()),
        (Decision::Answered, Some("done")) => {
            let result = said(woken, "result").cloned().unwrap_or(Value::Null);
            let result = json!({ "done": true, "said_by": "the person", "result": result });
            Step::Answer(wanted.done(&result))
        }
        // To look for oneself, or nobody answered: the agent is told the truth and goes on. It is never made again unasked.
        _ => Step::Answer(wanted.done(&json!({
            "outcome": "unknown",
            "note": "Nobody knows whether this call happened. Find out with a tool that only reads before you do anything that \
                     would do it twice.",
        }))),
    }
}

/// Gives a call away.
async fn hand_out_now(journal: &mut Journal<'_>, call: HandOut) -> Result<Outcome, RunError> {
    journal.note(call.intent);
    let wait = match call.otherwise {
        // Consent is used up before anybody hears of the call.
        Some(question) if journal.commit_with_consent().await?.is_some() => question,
        // Here or with the suspension.
        _ => call.wait,
    };
    Ok(journal.with(Outcome::Suspend { wait }))
}

/// The run ends with a question about a call.
fn asked(journal: &mut Journal<'_>, ordinal: u32, wait: NewWait) -> Outcome {
    if let Some(entry) = journal.entry(ordinal).cloned() {
        // From here on it is not known, and the person's word decides.
        journal.note(Entry {
            state: EntryState::Unknown,
            ..entry
        });
    }
    journal.with(Outcome::Suspend { wait })
}

/// An answer that needs no call.
pub(super) fn told(ordinal: u32, result: &Value) -> Entry {
    Entry::done(ordinal, EntryKind::Tool, Effect::Read, result.clone())
}

fn arguments(text: &str) -> Result<Value, String> {
    if text.len() > ARGUMENTS_BYTES {
        return Err(format!(
            "the arguments are longer than {ARGUMENTS_BYTES} bytes"
        ));
    }
    let text = if text.trim().is_empty() { "{}" } else { text };
    match serde_json::from_str::<Value>(text) {
        // Postgres takes no NUL.
        Ok(value @ Value::Object(_)) if !text.contains("\\u0000") => Ok(value),
        Ok(_) => Err("the arguments must be a JSON object without NUL characters".to_owned()),
        Err(error) => Err(format!("the arguments are not valid JSON: {error}")),
    }
}

fn cut(text: &str, most: usize) -> &str {
    text.char_indices()
        .nth(most)
        .map_or(text, |(end, _)| &text[..end])
}
