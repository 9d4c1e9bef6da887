//! One call of a tool on its way: its entries in the journal, and the questions that are asked about it.

use engine::{
    id::{GrantId, WaitId},
    step::{
        claimed::{Claim, Woken},
        outcome::{NewWait, WaitKind},
    },
    tool::{Entry, EntryKind, EntryState, Executor, Tool, digest},
};
use serde_json::{Value, json};

use crate::{exec::journal::call_key, run::Runner};

/// A call that a model asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    /// Place in the journal.
    pub(super) ordinal: u32,
    /// The tool.
    pub(super) tool: &'a Tool,
    /// What it is called with.
    pub(super) arguments: Value,
}

/// What a call is made by: the tool's own consent and the rules, an approval, or a grant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Right {
    /// The approval that it uses up.
    pub(super) approval: Option<WaitId>,
    /// The grant that it counts against.
    pub(super) grant: Option<GrantId>,
}

impl Wanted<'_> {
    fn entry(&self, state: EntryState, result: Option<Value>, right: Right) -> Entry {
        Entry {
            ordinal: self.ordinal,
            kind: EntryKind::Tool,
            effect: self.tool.effect,
            state,
            request: json!({
                "tool": self.tool.name, "version": self.tool.version, "arguments": self.arguments, "digest": self.digest(),
            }),
            result,
            approval: right.approval,
            grant: right.grant,
        }
    }

    /// Before the call.
    pub(super) fn intent(&self, right: Right) -> Entry {
        self.entry(EntryState::Intent, None, right)
    }

    /// After it.
    pub(super) fn done(&self, result: &Value) -> Entry {
        self.entry(EntryState::Done, Some(result.clone()), Right::default())
    }

    /// When nobody knows.
    pub(super) fn unknown(&self) -> Entry {
        self.entry(EntryState::Unknown, None, Right::default())
    }

    /// When it did not happen after all.
    pub(super) fn withdrawn(&self, right: Right) -> Entry {
        self.entry(EntryState::Withdrawn, None, right)
    }

    /// What an approval of it is bound to.
    pub(super) fn digest(&self) -> String {
        digest::of_call(&self.tool.name, self.tool.version, &self.arguments)
    }

    /// Whether an approval was asked for exactly this call: tool, version, arguments.
    pub(super) fn is_what(&self, woken: &Woken) -> bool {
        woken.payload.get("digest").and_then(Value::as_str) == Some(self.digest().as_str())
    }

    /// The question whether it happened.
    /// By the key that it was made with it can be found at the other side.
    pub(super) fn what_became(&self, runner: &Runner, claim: &Claim) -> NewWait {
        let choices = json!(["done", "not_done", "check"]);
        let mut wait = self.question(runner, "outcome_unknown", &choices);
        wait.payload["idempotency_key"] = json!(call_key(claim, self.ordinal));
        wait
    }

    /// The question whether it may be made.
    pub(super) fn may_i(&self, runner: &Runner, agent_version: Option<i32>) -> NewWait {
        let mut wait = self.question(runner, "tool", &json!(["approve", "reject"]));
        wait.payload["agent_version"] = json!(agent_version);
        wait
    }

    fn question(&self, runner: &Runner, kind: &str, choices: &Value) -> NewWait {
        NewWait {
            id: WaitId::new(),
            kind: WaitKind::Approval,
            payload: json!({
                "type": kind, "ordinal": self.ordinal, "tool": self.tool.name, "tool_version": self.tool.version,
                "effect": self.tool.effect, "risk": self.tool.risk, "arguments": self.arguments, "choices": choices,
                "digest": self.digest(),
            }),
            deadline: Some(runner.store.limits().card),
        }
    }

    /// Whether the person's own program carries it out.
    pub(super) fn is_clients(&self) -> bool {
        self.tool.executor == Executor::Client
    }

    /// The wait for that program's answer.
    pub(super) fn for_the_client(&self) -> NewWait {
        let seconds = u64::try_from(self.tool.timeout_seconds).unwrap_or(30);
        NewWait {
            id: WaitId::new(),
            kind: WaitKind::ClientTool,
            payload: json!({
                "type": "client_tool", "ordinal": self.ordinal, "tool": self.tool.name, "tool_version": self.tool.version,
                "arguments": self.arguments, "digest": self.digest(),
            }),
            deadline: Some(std::time::Duration::from_secs(seconds)),
        }
    }
}
