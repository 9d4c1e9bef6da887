//! Our events into the words of AG-UI, one by one: a state machine without a clock, a socket or a database.
//!
//! It is given the plan's events from the first one on, in order, text on its way among them. Before the run begins it is silent
//! and only takes note. A run begins with the first event, or, where it brings answers, with the first of their effects; it ends
//! with the plan, or at a point of rest: something is asked and nothing moves. That nothing moves shows in the events where
//! the next one is not a move; at the end of the feed the caller asks the store and says so ([`Translator::rest`]).

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::DateTime;
use serde_json::{Value, json};

use super::{
    ask::Ask,
    steps::{Outline, Steps},
    text::{Place, Speaker, Texts},
    words::{self, custom, event, number, text},
};
use crate::line;

/// Which run it is, by the client's words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    pub(crate) thread: String,
    pub(crate) name: String,
    /// The conversation as the client has it.
    pub(crate) messages: Vec<Value>,
    /// Tools that the client says it has.
    pub(crate) tools: HashSet<String>,
    /// The waits that this run answers; none: it begins the plan.
    pub(crate) answers: HashSet<String>,
}

/// What has to be looked up before an event can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The plan's outline.
    Outline,
    /// What was asked, whole: the event only links to it.
    Asked(String),
    /// What a call brought that was made here under this approval.
    Executed(String),
    /// What the client's program brought.
    Answered(String),
    /// What a step has come to, whole: the event only links to it.
    Result(String),
    /// The plan's answer, whole: the event only links to it.
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Silent,
    Speaking,
    Over,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Translator {
    run: Run,
    plan: String,
    phase: Phase,
    state: String,
    steps: Steps,
    asks: Vec<Ask>,
    /// What a client has been told to answer, by the newest point of rest that was passed in silence.
    announced: BTreeSet<String>,
    /// Calls that were told, by the step that made them, and whose results are not.
    calls: Vec<(String, String)>,
    results: HashMap<String, String>,
    texts: Texts,
    answer: Option<String>,
    trouble: Option<(String, String)>,
    now: Option<i64>,
    out: Vec<Value>,
}

impl Translator {
    pub(crate) fn new(run: Run, plan: String) -> Self {
        let messages = run.messages.iter().map(words::message).collect();
        Self {
            texts: Texts::new(messages),
            run,
            plan,
            phase: Phase::Silent,
            state: "active".to_owned(),
            steps: Steps::default(),
            asks: Vec::new(),
            announced: BTreeSet::new(),
            calls: Vec::new(),
            results: HashMap::new(),
            answer: None,
            trouble: None,
            now: None,
            out: Vec::new(),
        }
    }

    /// Whether the run has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether something is asked and, as far as the events tell, nothing moves.
    pub(crate) fn may_rest(&self) -> bool {
        self.phase != Phase::Over && !self.asks.is_empty() && !self.steps.move_by_themselves()
    }

    /// What the client was told to answer and nobody has answered, at the end of the feed.
    pub(crate) fn unanswered(&self) -> Vec<&str> {
        let resting = self.may_rest();
        let told = |ask: &&Ask| resting || self.announced.contains(&ask.id);
        self.asks
            .iter()
            .filter(told)
            .map(|ask| ask.id.as_str())
            .collect()
    }

    /// Whether the run begins with this event.
    pub(crate) fn begins(&self, event: &Value) -> bool {
        let payload = &event["payload"];
        let answered =
            !payload["decision"].is_null() && self.run.answers.contains(text(payload, "wait_id"));
        self.phase == Phase::Silent
            && self.is_ours(event)
            && (self.run.answers.is_empty()
                || answered
                || text(event, "event_type") == "plan_completed")
    }

    fn is_ours(&self, event: &Value) -> bool {
        text(event, "plan_id") == self.plan
    }

    /// What has to be looked up before this event is told.
    pub(crate) fn wants(&self, event: &Value) -> Vec<Want> {
        if !self.is_ours(event) || self.is_over() {
            return Vec::new();
        }
        let (kind, payload, step) = (
            text(event, "event_type"),
            &event["payload"],
            text(event, "step_id"),
        );
        let mut wants = Vec::new();
        if kind == "task_plan_created" || (!step.is_empty() && !self.steps.has(step)) {
            wants.push(Want::Outline);
        }
        if !payload["details_link"].is_null() {
            wants.push(Want::Asked(wait_of(payload).to_owned()));
        }
        if !payload["result_link"].is_null() {
            wants.push(Want::Result(step.to_owned()));
        }
        if kind == "message_created" && !payload["content_link"].is_null() {
            wants.push(Want::Reply);
        }
        if text(payload, "wait_kind") == "client_tool" && text(payload, "decision") == "answered" {
            wants.push(Want::Answered(wait_of(payload).to_owned()));
        }
        let goes_on = !matches!(kind, "task_started" | "approval_resolved" | "tool_request")
            && payload["decision"].is_null();
        let calls = self.calls.iter().filter(|(_, of)| goes_on && of == step);
        wants.extend(calls.map(|(call, _)| Want::Executed(call.clone())));
        wants
    }

    /// Takes in the plan's outline, as far as its steps were there at the time of the event that is told next.
    pub(crate) fn learn(&mut self, outline: Vec<Outline>, event: &Value) {
        let at = millis(event).unwrap_or(i64::MAX);
        for step in outline {
            if step.made_at <= at && !self.steps.has(&step.id) {
                self.add(step);
            }
        }
    }

    /// Takes in what a call brought.
    pub(crate) fn result(&mut self, call: &str, content: String) {
        self.results.insert(call.to_owned(), content);
    }

    /// The next event.
    pub(crate) fn take(&mut self, event: &Value) -> Vec<Value> {
        if !self.is_ours(event) || self.is_over() {
            return Vec::new();
        }
        let before = self.now;
        self.now = millis(event).or(self.now);
        if self.begins(event) {
            self.begin();
        } else if self.may_rest() && is_no_move(event) {
            self.now = before;
            self.stop(false);
        }
        if !self.is_over() {
            self.apply(event);
        }
        if self.phase != Phase::Over
            && self.steps.move_by_themselves()
            && self.asks.iter().any(|ask| ask.presses)
        {
            self.stop(true);
        }
        std::mem::take(&mut self.out)
    }

    /// Nothing moves any more: the run ends and says what it waits for.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        if self.phase == Phase::Silent {
            self.begin();
        }
        self.stop(false);
        std::mem::take(&mut self.out)
    }

    /// The run ends for a reason that is none of the plan's.
    pub(crate) fn break_off(&mut self, code: &str, message: &str) -> Vec<Value> {
        if self.phase == Phase::Silent {
            self.begin();
        }
        self.close_all();
        self.emit(words::run_error(code, message));
        self.phase = Phase::Over;
        std::mem::take(&mut self.out)
    }

    fn begin(&mut self) {
        self.phase = Phase::Speaking;
        self.emit(words::run_started(&self.run.thread, &self.run.name));
        self.emit(event(
            "STATE_SNAPSHOT",
            json!({ "snapshot": self.snapshot() }),
        ));
        if self.run.answers.is_empty() {
            return;
        }
        let messages = self.texts.messages().to_vec();
        self.emit(event("MESSAGES_SNAPSHOT", json!({ "messages": messages })));
        // They are answered, each as soon as its effect is told.
        let answered: Vec<Ask> = self
            .asks
            .extract_if(.., |ask| self.run.answers.contains(&ask.id))
            .collect();
        for ask in answered {
            self.set(&ask.step, "ready");
        }
        let running = self.steps.iter().filter(|step| step.state == "running");
        for step in running
            .map(|step| step.outline.id.clone())
            .collect::<Vec<_>>()
        {
            self.open(&step);
        }
    }

    fn apply(&mut self, event: &Value) {
        let (kind, payload, step) = (
            text(event, "event_type"),
            &event["payload"],
            text(event, "step_id"),
        );
        if !step.is_empty() && !self.steps.has(step) {
            self.add(Outline::of_event(event));
        }
        self.tell_results(step, kind);
        match kind {
            "message_created" => self.message(payload),
            "direct_agent_call" => {
                self.steps.direct = true;
                self.emit(custom(kind, payload));
            }
            "task_plan_created" => self.emit(custom(kind, payload)),
            "task_started" => {
                self.steps.attempt(step, payload);
                self.set(step, "running");
                self.open(step);
            }
            "task_progress" if event["seq"].is_null() => self.speak(step, payload),
            "task_progress" => self.progress(step, payload),
            "task_waiting" if !payload["wait_kind"].is_null() => self.suspend(step, payload),
            "approval_required" => {
                self.suspend(step, payload);
                self.ask(step, payload);
                self.emit(custom(kind, payload));
            }
            "tool_request" => self.call(step, payload),
            "plan_request" => self.ask(step, payload),
            "approval_expiring" => {
                let expiring = wait_of(payload);
                let ask = self.asks.iter_mut().find(|ask| ask.id == expiring);
                if let Some(ask) = ask {
                    ask.presses = true;
                }
                self.emit(custom(kind, payload));
            }
            "approval_resolved" => {
                self.resolve(step, payload);
                self.emit(custom(kind, payload));
            }
            _ if ends_a_step(kind) => self.end(kind, step, payload),
            "plan_completed" => self.complete(payload),
            other => self.emit(custom(other, payload)),
        }
    }

    fn message(&mut self, payload: &Value) {
        let content = text(payload, "content");
        if text(payload, "role") != "assistant" || content.is_empty() {
            return;
        }
        self.answer = Some(content.to_owned());
        let told = self.steps.iter().map(|step| &step.outline.id).any(|step| {
            self.steps.subagent(step).is_none() && self.texts.said(step) == Some(content)
        });
        if told {
            return;
        }
        let out = self.texts.whole(text(payload, "message_id"), content);
        self.emit_all(out);
    }

    /// A piece of text, or all of a turn's text so far.
    fn speak(&mut self, step: &str, payload: &Value) {
        let at = number(payload, "turn");
        let place = Place {
            turn: self.steps.get_mut(step).map_or(0, |step| step.turn(at)),
            attempt: number(payload, "attempt"),
        };
        self.open(step);
        let out = self.with_speaker(step, |texts, who, _| match payload["text"].as_str() {
            Some(whole) => texts.replace(who, place, whole),
            None => texts.append(who, place, text(payload, "delta")),
        });
        self.emit_all(out);
    }

    fn progress(&mut self, step: &str, payload: &Value) {
        if !payload["decision"].is_null() {
            self.resolve(step, payload);
        } else if !payload["reason"].is_null() || text(payload, "phase") == "children_ended" {
            self.set(step, "ready");
            let out = self.texts.retract(step);
            self.emit_all(out);
        }
        self.emit(custom("task_progress", payload));
    }

    fn suspend(&mut self, step: &str, payload: &Value) {
        self.set(step, "suspended");
        let ended = self.texts.end(step);
        self.emit_all(ended.into_iter().collect());
        if let Some(step) = self.steps.get_mut(step) {
            step.ticks = text(payload, "wait_kind") == "timer";
            step.asked += u64::from(text(payload, "type") != "decision");
        }
    }

    fn ask(&mut self, step: &str, payload: &Value) {
        let ask = Ask::new(wait_of(payload), step, payload);
        match self.asks.iter_mut().find(|known| known.id == ask.id) {
            Some(known) => *known = ask,
            None => self.asks.push(ask),
        }
    }

    /// A call that is proposed: to the person, or to the client's own program.
    fn call(&mut self, step: &str, payload: &Value) {
        self.ask(step, payload);
        let Some(ask) = self
            .asks
            .iter()
            .find(|ask| ask.id == wait_of(payload))
            .cloned()
        else {
            return;
        };
        self.open(step);
        self.begin_call(&ask);
    }

    fn begin_call(&mut self, ask: &Ask) {
        let Some(tool) = ask.tool() else { return };
        let (id, arguments) = (&ask.id, ask.arguments());
        let subagent = self.steps.subagent(&ask.step);
        let fields = |more: Value| {
            let mut fields = json!({ "toolCallId": id, "subagentRunId": subagent });
            if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
                fields.extend(more);
            }
            fields
        };
        let events = vec![
            event("TOOL_CALL_START", fields(json!({ "toolCallName": tool }))),
            event("TOOL_CALL_ARGS", fields(json!({ "delta": arguments }))),
            event("TOOL_CALL_END", fields(json!({}))),
        ];
        let call = json!({ "id": id, "type": "function", "function": { "name": tool, "arguments": arguments } });
        let message = json!({ "id": id, "role": "assistant", "toolCalls": [call], "subagentRunId": subagent });
        self.texts.put(words::message(&message));
        self.calls.push((id.clone(), ask.step.clone()));
        self.emit_all(events);
    }

    /// What was asked is decided.
    fn resolve(&mut self, step: &str, payload: &Value) {
        let wait = wait_of(payload);
        self.asks.retain(|ask| ask.id != wait);
        self.set(step, "ready");
        let decision = text(payload, "decision");
        let comes_later = matches!(decision, "approved" | "edited");
        if self.calls.iter().any(|(call, _)| call == wait) && !comes_later {
            let content = self
                .results
                .remove(wait)
                .unwrap_or_else(|| json!({ "declined": decision }).to_string());
            self.tell_result(wait, &content);
        }
    }

    /// Tells the results that have come; at a step's end also that one has not.
    fn tell_results(&mut self, step: &str, kind: &str) {
        let of_step = self.calls.iter().filter(|(_, of)| of == step);
        for call in of_step.map(|(call, _)| call.clone()).collect::<Vec<_>>() {
            let asked = self.asks.iter().any(|ask| ask.id == call);
            match self.results.remove(&call) {
                // It is told with the decision.
                Some(content) if asked => {
                    self.results.insert(call, content);
                }
                Some(content) => self.tell_result(&call, &content),
                None if ends_a_step(kind) => {
                    self.tell_result(&call, &json!({ "outcome": "unknown" }).to_string());
                }
                None => {}
            }
        }
    }

    fn tell_result(&mut self, call: &str, content: &str) {
        self.calls.retain(|(known, _)| known != call);
        let message = format!("{call}:result");
        self.texts
            .put(json!({ "id": message, "role": "tool", "toolCallId": call, "content": content }));
        let fields =
            json!({ "messageId": message, "toolCallId": call, "content": content, "role": "tool" });
        self.emit(event("TOOL_CALL_RESULT", fields));
    }

    fn end(&mut self, kind: &str, step: &str, payload: &Value) {
        self.steps.attempt(step, payload);
        self.asks.retain(|ask| ask.step != step);
        let error = &payload["error"];
        let (state, trouble) = match kind {
            "task_completed" => ("succeeded", None),
            "task_failed" => (
                "failed",
                Some((code_of(error).to_owned(), text(error, "message").to_owned())),
            ),
            "task_cancelled" => (
                "cancelled",
                Some(("cancelled".to_owned(), "the step was cancelled".to_owned())),
            ),
            _ => ("skipped", None),
        };
        if let Some(said) = payload["result"]["text"].as_str() {
            self.open(step);
            let out = self.with_speaker(step, |texts, who, place| texts.finish(who, place, said));
            self.emit_all(out);
        } else {
            let ended = self.texts.end(step);
            self.emit_all(ended.into_iter().collect());
        }
        if state != "skipped" {
            self.open(step);
        }
        self.set(step, state);
        self.close(
            step,
            trouble
                .as_ref()
                .map(|(code, why)| (code.as_str(), why.as_str())),
        );
        if kind == "task_failed" {
            self.trouble = trouble;
        }
    }

    fn complete(&mut self, payload: &Value) {
        let state = text(payload, "state").to_owned();
        self.asks.clear();
        self.state.clone_from(&state);
        self.emit(words::state_delta(
            &json!([{ "op": "replace", "path": "/plan/state", "value": state }]),
        ));
        self.close_all();
        let result = json!({ "planId": self.plan, "state": state, "answer": self.answer });
        let result = words::message(&result);
        let Run { thread, name, .. } = &self.run;
        let last = match state.as_str() {
            "failed" => {
                let (code, why) = self.trouble.clone().unwrap_or_default();
                let why = if why.is_empty() {
                    "the plan has failed".to_owned()
                } else {
                    why
                };
                words::run_error(
                    if code.is_empty() {
                        "plan_failed"
                    } else {
                        &code
                    },
                    &why,
                )
            }
            "cancelled" => {
                words::run_finished(thread, name, &json!({ "type": "cancelled" }), &result)
            }
            _ => words::run_finished(thread, name, &json!({ "type": "success" }), &result),
        };
        self.emit(last);
        self.phase = Phase::Over;
    }

    /// A point of rest: all that is open is closed, and the client is told what is waited for.
    fn stop(&mut self, pressed: bool) {
        let told: Vec<Ask> = self
            .asks
            .iter()
            .filter(|ask| ask.presses || !pressed)
            .cloned()
            .collect();
        self.announced = told.iter().map(|ask| ask.id.clone()).collect();
        if self.phase != Phase::Speaking {
            // Whoever was told is not told again because of the same wait.
            for ask in self.asks.iter_mut().filter(|_| pressed) {
                ask.presses = false;
            }
            return;
        }
        for ask in &told {
            if ask.tool().is_some()
                && self
                    .texts
                    .messages()
                    .iter()
                    .all(|message| message["id"] != json!(ask.id))
            {
                self.begin_call(ask);
            }
        }
        self.close_all();
        self.emit(event(
            "STATE_SNAPSHOT",
            json!({ "snapshot": self.snapshot() }),
        ));
        let messages = self.texts.messages().to_vec();
        self.emit(event("MESSAGES_SNAPSHOT", json!({ "messages": messages })));
        let outcome = self.outcome(&told);
        let result = json!({ "planId": self.plan, "state": self.state });
        self.emit(words::run_finished(
            &self.run.thread,
            &self.run.name,
            &outcome,
            &result,
        ));
        self.phase = Phase::Over;
    }

    /// Calls of tools that the client has said to have are its own business: the run has stopped, and is not interrupted.
    fn outcome(&self, told: &[Ask]) -> Value {
        let own = |ask: &Ask| {
            ask.is_for_client() && ask.tool().is_some_and(|tool| self.run.tools.contains(tool))
        };
        if told.iter().all(own) {
            let calls: Vec<&str> = told.iter().map(|ask| ask.id.as_str()).collect();
            return json!({ "type": "success", "pendingToolCallIds": calls });
        }
        let interrupt = |ask: &Ask| {
            let subagent = self.steps.subagent(&ask.step);
            ask.interrupt(subagent.as_deref())
        };
        json!({ "type": "interrupt", "interrupts": told.iter().map(interrupt).collect::<Vec<Value>>() })
    }

    fn snapshot(&self) -> Value {
        json!({ "plan": { "id": self.plan, "state": self.state, "steps": self.steps.shown() } })
    }

    fn add(&mut self, outline: Outline) {
        let told = self.steps.add(outline);
        self.emit(told);
    }

    fn set(&mut self, step: &str, state: &str) {
        let told = self.steps.set(step, state);
        self.emit_all(told.into_iter().collect());
    }

    fn open(&mut self, step: &str) {
        if self.phase == Phase::Speaking {
            let told = self.steps.open(step);
            self.emit_all(told);
        }
    }

    fn close(&mut self, step: &str, trouble: Option<(&str, &str)>) {
        let asked = self.asks.iter().filter(|ask| ask.step == step);
        let asked: Vec<&str> = asked.map(|ask| ask.id.as_str()).collect();
        let told = self.steps.close(step, trouble, &asked);
        self.emit_all(told);
    }

    /// Closes whatever is open, the innermost first.
    fn close_all(&mut self) {
        let ended = self.texts.end_all();
        self.emit_all(ended);
        for step in self.steps.spans() {
            self.close(&step, None);
        }
    }

    fn with_speaker(
        &mut self,
        step: &str,
        say: impl FnOnce(&mut Texts, Speaker<'_>, Place) -> Vec<Value>,
    ) -> Vec<Value> {
        let known = self.steps.get(step);
        let subagent = self.steps.subagent(step);
        let place = Place {
            turn: known.map_or(0, |step| step.asked),
            attempt: known.map_or(0, |step| step.attempt),
        };
        let who = Speaker {
            step,
            subagent: subagent.as_deref(),
        };
        say(&mut self.texts, who, place)
    }

    fn emit_all(&mut self, events: Vec<Value>) {
        for event in events {
            self.emit(event);
        }
    }

    fn emit(&mut self, mut event: Value) {
        if self.phase != Phase::Speaking {
            return;
        }
        if let (Some(now), Value::Object(fields)) = (self.now, &mut event) {
            fields.insert("timestamp".to_owned(), json!(now));
        }
        self.out.push(event);
    }
}

/// The wait that an event speaks of.
fn wait_of(payload: &Value) -> &str {
    let names = ["wait_id", "call_id", "approval_id"];
    names
        .iter()
        .map(|name| text(payload, name))
        .find(|id| !id.is_empty())
        .unwrap_or_default()
}

/// Whether nothing moves by itself when this comes next. What belongs to the suspension itself comes right behind it.
fn is_no_move(event: &Value) -> bool {
    let kind = text(event, "event_type");
    !event["seq"].is_null()
        && !matches!(
            kind,
            "task_started"
                | "task_waiting"
                | "tool_request"
                | "plan_request"
                | "approval_required"
                | "message_created"
        )
}

/// Whether a step is over, run or not.
fn ends_a_step(kind: &str) -> bool {
    kind == "task_skipped" || line::ends_a_step(kind)
}

fn code_of(error: &Value) -> &str {
    match text(error, "code") {
        "" => "step_failed",
        code => code,
    }
}

fn millis(event: &Value) -> Option<i64> {
    let at = DateTime::parse_from_rfc3339(text(event, "timestamp")).ok()?;
    Some(at.timestamp_millis())
}

#[cfg(test)]
mod tests;
