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
    id::WaitId,
    llm::ToolCall,
    step::{
        Outcome, StateName, StepError, StepSpec,
        claimed::{Claim, Woken},
        outcome::{ErrorClass, NewWait, WaitKind},
    },
    store::Child,
    tool::{Consent, DELEGATE, Effect, Entry, EntryKind, EntryState, Tool},
    wait::Decision,
};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    exec::{
        card::said,
        delegate,
        journal::{Journal, call_id},
        patiently,
    },
    run::{RunError, Runner, backoff},
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

/// One call on its way.
struct Wanted<'a> {
    ordinal: u32,
    tool: &'a Tool,
    arguments: Value,
}

/// What to do about a call that has no answer yet.
enum Step<'a> {
    Make(Wanted<'a>, Option<WaitId>),
    Ask(NewWait),
    Delegate(u32, Value),
    Answer(Entry),
}

pub(super) struct Calls<'a> {
    pub(super) runner: &'a Runner,
    pub(super) claim: &'a Claim,
    pub(super) spec: &'a StepSpec,
    pub(super) tools: &'a [Tool],
    /// Names that the agent may call; `delegate` is none of its owner's tools.
    pub(super) allowed: &'a [String],
}

impl Calls<'_> {
    /// Answers the calls, whose entries in the journal begin at `first`.
    pub(super) async fn answer(
        &self,
        journal: &mut Journal<'_>,
        first: u32,
        calls: &[ToolCall],
    ) -> Result<Answered, RunError> {
        let children = self.children(calls).await?;
        let mut make = Vec::new();
        let mut ask = None;
        let mut delegate = Vec::new();
        for (ordinal, call) in (first..).zip(calls) {
            if journal.result(ordinal).is_some() {
                continue;
            }
            match self.next(journal, ordinal, call, &children) {
                Step::Answer(entry) => journal.note(entry),
                Step::Ask(wait) => ask = ask.or(Some((ordinal, wait))),
                Step::Delegate(ordinal, arguments) => delegate.push((ordinal, arguments)),
                Step::Make(wanted, approval) => {
                    journal.note(wanted.intent(approval));
                    make.push(wanted);
                }
            }
        }
        if let Some(stop) = self.make(journal, make).await? {
            return Ok(Answered::Stop(stop));
        }
        if let Some((ordinal, wait)) = ask {
            return Ok(Answered::Stop(asked(journal, ordinal, wait)));
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

    fn next<'b>(
        &'b self,
        journal: &Journal<'_>,
        ordinal: u32,
        call: &ToolCall,
        children: &HashMap<String, Child>,
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
            return match children.get(&key) {
                Some(child) => Step::Answer(delegate::answer(ordinal, child)),
                None => Step::Delegate(ordinal, arguments),
            };
        }
        let Some(tool) = self.tools.iter().find(|tool| tool.name == call.name) else {
            return refuse(format!("the tool {:?} was removed", call.name));
        };
        let wanted = Wanted {
            ordinal,
            tool,
            arguments,
        };
        self.known(journal, wanted)
    }

    /// What follows from what the journal and the person have said of a call.
    fn known<'b>(&self, journal: &Journal<'_>, wanted: Wanted<'b>) -> Step<'b> {
        let woken = self
            .claim
            .woken
            .as_ref()
            .filter(|woken| woken.ordinal() == Some(wanted.ordinal));
        match journal.entry(wanted.ordinal).map(|entry| entry.state) {
            Some(EntryState::Intent) if wanted.tool.effect.may_repeat() => Step::Make(wanted, None),
            Some(EntryState::Intent) => Step::Ask(wanted.what_became(self.runner)),
            Some(EntryState::Unknown) => match woken {
                Some(woken) if woken.approval() == Some("outcome_unknown") => {
                    wanted.after_the_question(woken)
                }
                _ => Step::Ask(wanted.what_became(self.runner)),
            },
            // Done entries have been passed over before.
            Some(EntryState::Done | EntryState::Withdrawn) | None => self.fresh(wanted, woken),
        }
    }

    fn fresh<'b>(&self, wanted: Wanted<'b>, woken: Option<&Woken>) -> Step<'b> {
        if wanted.tool.consent == Consent::Auto {
            return Step::Make(wanted, None);
        }
        match woken {
            Some(woken) if woken.approval() == Some("tool") && wanted.is_what(woken) => {
                match woken.decision {
                    Decision::Approved => Step::Make(wanted, Some(woken.id)),
                    other => {
                        let note = said(woken, "note").cloned().unwrap_or(Value::Null);
                        Step::Answer(told(
                            wanted.ordinal,
                            &json!({ "declined": other.as_str(), "note": note }),
                        ))
                    }
                }
            }
            _ => Step::Ask(wanted.may_i(self.runner)),
        }
    }

    /// Commits the intents, makes the calls side by side, and commits what they brought. Gives the outcome where the step has
    /// to stop here.
    async fn make(
        &self,
        journal: &mut Journal<'_>,
        wanted: Vec<Wanted<'_>>,
    ) -> Result<Option<Outcome>, RunError> {
        if wanted.is_empty() {
            return Ok(None);
        }
        journal.commit().await?;
        let made = join_all(wanted.iter().map(|wanted| self.one(wanted))).await;
        let mut stop = None;
        for (wanted, result) in wanted.iter().zip(made) {
            let ordinal = wanted.ordinal;
            match result {
                Ok(result) => journal.note(wanted.done(&result)),
                Err(Trouble::Refused(why)) => journal.note(wanted.done(&json!({ "error": why }))),
                Err(Trouble::NotDone {
                    retry_after,
                    detail,
                }) => {
                    journal.note(wanted.withdrawn());
                    stop = stop.or_else(|| Some(self.later(retry_after, &detail)));
                }
                Err(Trouble::Unknown(why)) if wanted.tool.effect.may_repeat() => {
                    stop = stop.or_else(|| Some(self.later(None, &why)));
                }
                Err(Trouble::Unknown(_)) => {
                    journal.note(wanted.unknown());
                    let asked = Outcome::Suspend {
                        wait: wanted.what_became(self.runner),
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
        Ok(stop.map(|outcome| journal.with(outcome)))
    }

    async fn one(&self, wanted: &Wanted<'_>) -> Result<Value, Trouble> {
        let id = call_id(self.claim, wanted.ordinal);
        let key = format!("{}-{}-{}", self.claim.id, self.claim.round, wanted.ordinal);
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
        Outcome::Defer {
            after: retry_after.unwrap_or_default() + backoff(self.claim.attempt),
            last_words: crate::run::apology(self.claim, &error),
            error,
        }
    }
}

impl<'a> Wanted<'a> {
    fn entry(&self, state: EntryState, result: Option<Value>, approval: Option<WaitId>) -> Entry {
        Entry {
            ordinal: self.ordinal,
            kind: EntryKind::Tool,
            effect: self.tool.effect,
            state,
            request: json!({ "tool": self.tool.name, "version": self.tool.version, "arguments": self.arguments }),
            result,
            approval,
        }
    }

    fn intent(&self, approval: Option<WaitId>) -> Entry {
        self.entry(EntryState::Intent, None, approval)
    }

    fn done(&self, result: &Value) -> Entry {
        self.entry(EntryState::Done, Some(result.clone()), None)
    }

    fn unknown(&self) -> Entry {
        self.entry(EntryState::Unknown, None, None)
    }

    fn withdrawn(&self) -> Entry {
        self.entry(EntryState::Withdrawn, None, None)
    }

    /// The question whether a call happened.
    fn what_became(&self, runner: &Runner) -> NewWait {
        self.wait(
            runner,
            "outcome_unknown",
            &json!(["done", "not_done", "check"]),
        )
    }

    /// The question whether a call may be made.
    fn may_i(&self, runner: &Runner) -> NewWait {
        self.wait(runner, "tool", &json!(["approve", "reject"]))
    }

    fn wait(&self, runner: &Runner, kind: &str, choices: &Value) -> NewWait {
        NewWait {
            id: WaitId::new(),
            kind: WaitKind::Approval,
            payload: json!({
                "type": kind, "ordinal": self.ordinal, "tool": self.tool.name, "tool_version": self.tool.version,
                "effect": self.tool.effect, "arguments": self.arguments, "choices": choices,
            }),
            deadline: Some(runner.store.limits().card),
        }
    }

    /// Whether an approval was given for exactly this call: tool, version, arguments.
    fn is_what(&self, woken: &Woken) -> bool {
        woken.payload.get("tool").and_then(Value::as_str) == Some(&self.tool.name)
            && woken.payload.get("tool_version") == Some(&json!(self.tool.version))
            && woken.payload.get("arguments") == Some(&self.arguments)
    }

    /// What follows from the person's word about a call of which nobody knew what became.
    fn after_the_question(self, woken: &Woken) -> Step<'a> {
        match (woken.decision, woken.choice()) {
            (Decision::Answered, Some("not_done")) => Step::Make(self, None),
            (Decision::Answered, Some("done")) => {
                let result = said(woken, "result").cloned().unwrap_or(Value::Null);
                let result = json!({ "done": true, "said_by": "the person", "result": result });
                Step::Answer(self.done(&result))
            }
            // To look for oneself, or nobody answered: the agent is told the truth and goes on. It is never made again unasked.
            _ => Step::Answer(self.done(&json!({
                "outcome": "unknown",
                "note": "Nobody knows whether this call happened. Find out with a tool that only reads before you do anything \
                         that would do it twice.",
            }))),
        }
    }
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
fn told(ordinal: u32, result: &Value) -> Entry {
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

/// Whether a child's end is its parent's to report.
pub(super) fn ended_well(child: &Child) -> bool {
    child.state == StateName::Succeeded
}

fn cut(text: &str, most: usize) -> &str {
    text.char_indices()
        .nth(most)
        .map_or(text, |(end, _)| &text[..end])
}
