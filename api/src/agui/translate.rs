//! Our events into the words of AG-UI, one by one: a state machine without a clock, a socket or a database.
//!
//! It is given the plan's events from the first one on, in order, text on its way among them. Before the run begins it is silent
//! and only takes note. A run begins with the first event, or, where it brings answers, with the first of their effects; it ends
//! with the plan, or at a point of rest: something is asked and nothing moves. That nothing moves shows in the events where
//! the next one is not a move; at the end of the feed the caller asks the store and says so ([`Translator::rest`]).

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::{
    ask::Ask,
    text::{Place, Speaker, Texts},
    words::{self, custom, event, number, text},
};

/// Which run it is, by the client's words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    pub(crate) thread: String,
    pub(crate) run: String,
    /// The conversation as the client has it.
    pub(crate) messages: Vec<Value>,
    /// Tools that the client says it has.
    pub(crate) tools: HashSet<String>,
    /// The waits that this run answers; none: it begins the plan.
    pub(crate) answers: HashSet<String>,
}

/// A step, as the plan's outline has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) agent: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) needs: Vec<String>,
    /// Milliseconds of the epoch.
    pub(crate) made_at: i64,
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
    /// The plan's answer, whole: the event only links to it.
    Reply,
}

#[derive(Debug)]
struct Step {
    outline: Outline,
    state: String,
    /// How often it has asked outside: each time its model has a further turn.
    asked: u64,
    attempt: u64,
    /// Its span in this run.
    open: bool,
    /// Spans that it has had in this run.
    spans: u32,
    /// A timer runs, which needs nobody.
    ticks: bool,
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
    direct: bool,
    state: String,
    steps: Vec<Step>,
    places: HashMap<String, usize>,
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
            direct: false,
            state: "active".to_owned(),
            steps: Vec::new(),
            places: HashMap::new(),
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
        self.phase != Phase::Over && !self.asks.is_empty() && !self.moves()
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
        if kind == "task_plan_created" || (!step.is_empty() && !self.places.contains_key(step)) {
            wants.push(Want::Outline);
        }
        if !payload["details_link"].is_null() {
            wants.push(Want::Asked(wait_of(payload).to_owned()));
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
            if step.made_at <= at && !self.places.contains_key(&step.id) {
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
        if self.phase != Phase::Over && self.moves() && self.asks.iter().any(|ask| ask.presses) {
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
        self.emit(words::run_started(&self.run.thread, &self.run.run));
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
        if !step.is_empty() && !self.places.contains_key(step) {
            self.add(of_event(event));
        }
        self.tell_results(step, kind);
        match kind {
            "message_created" => self.message(payload),
            "direct_agent_call" => {
                self.direct = true;
                self.emit(custom(kind, payload));
            }
            "task_plan_created" => self.emit(custom(kind, payload)),
            "task_started" => {
                self.attempt(step, payload);
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
            "task_completed" | "task_failed" | "task_cancelled" | "task_skipped" => {
                self.end(kind, step, payload)
            }
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
        let told = self.steps.iter().any(|step| {
            self.subagent(step).is_none() && self.texts.said(&step.outline.id) == Some(content)
        });
        if told {
            return;
        }
        // A long answer: what came of it on its way is continued.
        let speaking = self.steps.iter().find(|step| {
            step.outline.kind == "summary" || (self.direct && step.outline.parent.is_none())
        });
        let speaking = speaking
            .filter(|step| step.state == "succeeded")
            .map(|step| step.outline.id.clone());
        let out = match speaking {
            Some(step) => {
                self.with_speaker(&step, |texts, who, place| texts.finish(who, place, content))
            }
            None => self.texts.whole(text(payload, "message_id"), content),
        };
        self.emit_all(out);
    }

    /// A piece of text, or all of a turn's text so far.
    fn speak(&mut self, step: &str, payload: &Value) {
        let asked = self.step(step).map_or(0, |step| step.asked);
        let place = Place {
            turn: std::cmp::max(number(payload, "turn"), asked),
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
        if let Some(step) = self.step_mut(step) {
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
        let subagent = self.step(&ask.step).and_then(|step| self.subagent(step));
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
        let ends = matches!(
            kind,
            "task_completed" | "task_failed" | "task_cancelled" | "task_skipped"
        );
        let of_step = self.calls.iter().filter(|(_, of)| of == step);
        for call in of_step.map(|(call, _)| call.clone()).collect::<Vec<_>>() {
            let asked = self.asks.iter().any(|ask| ask.id == call);
            match self.results.remove(&call) {
                // It is told with the decision.
                Some(content) if asked => {
                    self.results.insert(call, content);
                }
                Some(content) => self.tell_result(&call, &content),
                None if ends => {
                    self.tell_result(&call, &json!({ "outcome": "unknown" }).to_string())
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
        self.attempt(step, payload);
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
        } else if payload["result_link"].is_null() {
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
        self.patch(json!([{ "op": "replace", "path": "/plan/state", "value": state }]));
        self.close_all();
        let result = json!({ "planId": self.plan, "state": state, "answer": self.answer });
        let result = words::message(&result);
        let Run { thread, run, .. } = &self.run;
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
                words::run_finished(thread, run, &json!({ "type": "cancelled" }), &result)
            }
            _ => words::run_finished(thread, run, &json!({ "type": "success" }), &result),
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
            &self.run.run,
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
            let subagent = self.step(&ask.step).and_then(|step| self.subagent(step));
            ask.interrupt(subagent.as_deref())
        };
        json!({ "type": "interrupt", "interrupts": told.iter().map(interrupt).collect::<Vec<Value>>() })
    }

    fn moves(&self) -> bool {
        self.steps.iter().any(|step| {
            step.state == "running"
                || (step.state == "ready" && step.attempt > 0)
                || (step.state == "suspended" && step.ticks)
        })
    }

    fn snapshot(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(Step::shown).collect();
        json!({ "plan": { "id": self.plan, "state": self.state, "steps": steps } })
    }

    fn add(&mut self, outline: Outline) {
        let step = Step {
            state: if outline.needs.is_empty() {
                "ready"
            } else {
                "blocked"
            }
            .to_owned(),
            outline,
            asked: 0,
            attempt: 0,
            open: false,
            spans: 0,
            ticks: false,
        };
        self.patch(json!([{ "op": "add", "path": "/plan/steps/-", "value": step.shown() }]));
        self.places
            .insert(step.outline.id.clone(), self.steps.len());
        self.steps.push(step);
    }

    fn set(&mut self, step: &str, state: &str) {
        let Some(place) = self.places.get(step).copied() else {
            return;
        };
        if self.steps[place].state != state {
            state.clone_into(&mut self.steps[place].state);
            self.patch(json!([{ "op": "replace", "path": format!("/plan/steps/{place}/state"), "value": state }]));
        }
    }

    fn attempt(&mut self, step: &str, payload: &Value) {
        if let Some(step) = self.step_mut(step) {
            step.attempt = std::cmp::max(step.attempt, number(payload, "attempt"));
        }
    }

    fn open(&mut self, step: &str) {
        let Some(place) = self.places.get(step).copied() else {
            return;
        };
        if self.phase != Phase::Speaking || self.steps[place].open {
            return;
        }
        let step = &mut self.steps[place];
        step.open = true;
        step.spans += 1;
        let step = &self.steps[place];
        let started = event("STEP_STARTED", json!({ "stepName": step.outline.key }));
        let subagent = self.subagent(step).map(|id| {
            let parent = step.outline.parent.as_ref().and_then(|parent| self.step(parent));
            let parent = parent.filter(|parent| parent.spans > 0).and_then(|parent| self.subagent(parent));
            let name = step.outline.agent.as_deref().unwrap_or(&step.outline.key);
            event("SUBAGENT_STARTED", json!({ "subagentRunId": id, "name": name, "description": step.outline.key, "parentSubagentRunId": parent }))
        });
        self.emit(started);
        self.emit_all(subagent.into_iter().collect());
    }

    fn close(&mut self, step: &str, trouble: Option<(&str, &str)>) {
        let Some(place) = self.places.get(step).copied() else {
            return;
        };
        if !std::mem::take(&mut self.steps[place].open) {
            return;
        }
        let step = &self.steps[place];
        let asked: Vec<&str> = self
            .asks
            .iter()
            .filter(|ask| ask.step == step.outline.id)
            .map(|ask| ask.id.as_str())
            .collect();
        let ended = step.has_ended();
        let subagent = self.subagent(step).map(|id| match trouble {
            Some((code, why)) => event("SUBAGENT_ERROR", json!({ "subagentRunId": id, "code": code, "message": why })),
            None if ended => event("SUBAGENT_FINISHED", json!({ "subagentRunId": id, "outcome": { "type": "success" } })),
            None => event("SUBAGENT_FINISHED", json!({ "subagentRunId": id, "outcome": { "type": "suspended", "interruptIds": asked } })),
        });
        let finished = event("STEP_FINISHED", json!({ "stepName": step.outline.key }));
        self.emit_all(subagent.into_iter().collect());
        self.emit(finished);
    }

    /// Closes whatever is open, the innermost first.
    fn close_all(&mut self) {
        let ended = self.texts.end_all();
        self.emit_all(ended);
        let open = self.steps.iter().rev().filter(|step| step.open);
        for step in open.map(|step| step.outline.id.clone()).collect::<Vec<_>>() {
            self.close(&step, None);
        }
    }

    /// Who speaks for a step: the run itself where it answers, else the agent.
    fn subagent(&self, step: &Step) -> Option<String> {
        let own = self.direct && step.outline.parent.is_none();
        (step.outline.kind == "agent" && !own).then(|| match step.spans {
            0 | 1 => step.outline.id.clone(),
            more => format!("{}:{more}", step.outline.id),
        })
    }

    fn with_speaker(
        &mut self,
        step: &str,
        say: impl FnOnce(&mut Texts, Speaker<'_>, Place) -> Vec<Value>,
    ) -> Vec<Value> {
        let known = self.step(step);
        let subagent = known.and_then(|step| self.subagent(step));
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

    fn step(&self, id: &str) -> Option<&Step> {
        self.places.get(id).map(|place| &self.steps[*place])
    }

    fn step_mut(&mut self, id: &str) -> Option<&mut Step> {
        let place = self.places.get(id)?;
        Some(&mut self.steps[*place])
    }

    fn patch(&mut self, delta: Value) {
        self.emit(event("STATE_DELTA", json!({ "delta": delta })));
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

impl Step {
    fn has_ended(&self) -> bool {
        matches!(
            self.state.as_str(),
            "succeeded" | "failed" | "skipped" | "cancelled"
        )
    }

    fn shown(&self) -> Value {
        let Outline {
            id,
            key,
            kind,
            agent,
            needs,
            ..
        } = &self.outline;
        let mut shown = Map::from_iter([
            ("id".to_owned(), json!(id)),
            ("key".to_owned(), json!(key)),
            ("kind".to_owned(), json!(kind)),
            ("state".to_owned(), json!(self.state)),
            ("needs".to_owned(), json!(needs)),
        ]);
        if let Some(agent) = agent {
            shown.insert("agent".to_owned(), json!(agent));
        }
        Value::Object(shown)
    }
}

/// A step of which the event is all that is known.
fn of_event(event: &Value) -> Outline {
    let payload = &event["payload"];
    Outline {
        id: text(event, "step_id").to_owned(),
        key: text(payload, "key").to_owned(),
        kind: text(payload, "kind").to_owned(),
        ..Outline::default()
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
mod tests {
    use super::*;

    const PLAN: &str = "plan";

    /// A translator of a run that begins a plan.
    fn begun() -> Translator {
        Translator::new(Run::default(), PLAN.to_owned())
    }

    /// A stored event of a step (none: of the plan).
    fn stored(kind: &str, step: &str, payload: Value) -> Value {
        json!({"event_type": kind, "payload": payload, "seq": 1, "plan_id": PLAN, "step_id": step, "timestamp": "2026-01-01T00:00:00Z"})
    }

    /// Text on its way.
    fn said(payload: Value) -> Value {
        let mut event = stored("task_progress", "s", payload);
        event["seq"] = Value::Null;
        event
    }

    fn started(step: &str, attempt: u64) -> Value {
        stored(
            "task_started",
            step,
            json!({"key": step, "kind": "agent", "attempt": attempt}),
        )
    }

    /// The events in short: the kind, and what it is about.
    fn short(translator: &mut Translator, events: &[Value]) -> Vec<String> {
        let told = events
            .iter()
            .flat_map(|event| translator.take(event))
            .collect::<Vec<_>>();
        let about = |event: &Value| {
            let fields = [
                "messageId",
                "toolCallId",
                "stepName",
                "subagentRunId",
                "name",
                "code",
            ];
            let about = fields
                .iter()
                .map(|field| text(event, field))
                .find(|found| !found.is_empty());
            let more = text(event, "delta");
            [text(event, "type"), about.unwrap_or_default(), more]
                .join(" ")
                .trim()
                .to_owned()
        };
        let told = told
            .iter()
            .filter(|event| !text(event, "type").starts_with("STATE_"));
        told.map(about).collect()
    }

    fn direct() -> (Translator, Vec<String>) {
        let mut translator = begun();
        let events = [stored("direct_agent_call", "", json!({})), started("s", 1)];
        let told = short(&mut translator, &events);
        (translator, told)
    }

    #[test]
    fn pieces_and_the_whole_are_one_message() {
        let (mut translator, told) = direct();
        assert_eq!(
            told,
            [
                "RUN_STARTED",
                "CUSTOM codelab.direct_agent_call",
                "STEP_STARTED s"
            ]
        );
        let events = [
            said(json!({"key": "s", "attempt": 1, "delta": "one "})),
            said(json!({"key": "s", "attempt": 1, "turn": 0, "text": "one two "})),
            said(json!({"key": "s", "attempt": 1, "turn": 0, "text": "one two "})),
            stored(
                "task_completed",
                "s",
                json!({"attempt": 1, "result": {"text": "one two three"}}),
            ),
            stored(
                "message_created",
                "",
                json!({"role": "assistant", "message_id": "m", "content": "one two three"}),
            ),
            stored("plan_completed", "", json!({"state": "succeeded"})),
            stored("task_started", "s", json!({"attempt": 2})),
        ];
        let told = short(&mut translator, &events);
        assert_eq!(
            told,
            [
                "TEXT_MESSAGE_START s:0",
                "TEXT_MESSAGE_CONTENT s:0 one",
                "TEXT_MESSAGE_CONTENT s:0 two",
                "TEXT_MESSAGE_CONTENT s:0 three",
                "TEXT_MESSAGE_END s:0",
                "STEP_FINISHED s",
                "RUN_FINISHED"
            ]
        );
        assert!(translator.is_over());
    }

    #[test]
    fn a_superseded_run_is_taken_back_and_said_anew() {
        // What the second run says first; each in a way of its own that the first one is over.
        let anew = [
            said(json!({"key": "s", "attempt": 2, "delta": "b"})),
            said(json!({"key": "s", "attempt": 2, "turn": 0, "text": "b", "supersedes": 1})),
        ];
        for piece in anew {
            let (mut translator, _) = direct();
            let events = [
                said(json!({"key": "s", "attempt": 1, "delta": "a"})),
                piece,
                said(json!({"key": "s", "attempt": 1, "delta": "too late"})),
                stored(
                    "task_completed",
                    "s",
                    json!({"attempt": 2, "result": {"text": "b"}}),
                ),
            ];
            assert_eq!(
                short(&mut translator, &events),
                [
                    "TEXT_MESSAGE_START s:0",
                    "TEXT_MESSAGE_CONTENT s:0 a",
                    "TEXT_MESSAGE_END s:0",
                    "CUSTOM codelab.text_retracted",
                    "TEXT_MESSAGE_START s:0:2",
                    "TEXT_MESSAGE_CONTENT s:0:2 b",
                    "TEXT_MESSAGE_END s:0:2",
                    "STEP_FINISHED s"
                ]
            );
            assert_eq!(translator.texts.messages().len(), 1);
        }
    }

    #[test]
    fn a_retraction_and_a_lost_worker_leave_nothing_said() {
        let ways = [
            said(json!({"key": "s", "attempt": 2, "turn": 0, "text": "", "supersedes": 1})),
            stored("task_progress", "s", json!({"reason": "worker_lost"})),
        ];
        for way in ways {
            let (mut translator, _) = direct();
            let told = short(
                &mut translator,
                &[said(json!({"key": "s", "attempt": 1, "delta": "a"})), way],
            );
            assert_eq!(
                told[2..4],
                ["TEXT_MESSAGE_END s:0", "CUSTOM codelab.text_retracted"]
            );
            assert_eq!(translator.texts.messages(), [] as [Value; 0]);
        }
    }

    #[test]
    fn each_turn_is_a_message_of_its_own() {
        let (mut translator, _) = direct();
        let events = [
            said(json!({"key": "s", "attempt": 1, "turn": 0, "delta": "let me look"})),
            said(json!({"key": "s", "attempt": 1, "turn": 1, "delta": "found"})),
            stored(
                "task_completed",
                "s",
                json!({"attempt": 1, "result": {"text": "found"}}),
            ),
        ];
        let told = short(&mut translator, &events);
        assert_eq!(
            told.iter()
                .filter(|told| told.starts_with("TEXT_MESSAGE_END"))
                .count(),
            2
        );
        assert_eq!(translator.texts.messages().len(), 2);
        assert!(
            told.contains(&"TEXT_MESSAGE_START s:1".to_owned()),
            "{told:?}"
        );
    }

    fn asks(step: &str, wait: &str, kind: &str) -> Vec<Value> {
        let about = json!({"key": step, "wait_id": wait, "call_id": wait, "wait_kind": "approval", "type": kind, "tool": "t", "arguments": {"n": 1}});
        vec![
            stored("approval_required", step, about.clone()),
            stored("tool_request", step, about),
        ]
    }

    #[test]
    fn a_run_rests_when_nothing_moves_and_the_next_event_says_so_too() {
        let team = |translator: &mut Translator| {
            let mut events = vec![started("a", 1), started("b", 1)];
            events.extend(asks("a", "w", "tool"));
            short(translator, &events)
        };
        let mut live = begun();
        team(&mut live);
        assert!(!live.may_rest(), "b runs");
        short(
            &mut live,
            &[stored("task_completed", "b", json!({"result": {}}))],
        );
        assert!(live.may_rest());
        let told: Vec<Value> = live.rest();
        assert_eq!(
            told.last().map(|last| text(&last["outcome"], "type")),
            Some("interrupt")
        );
        // Told again later, when the answer is there already: the same end at the same place.
        let mut again = begun();
        team(&mut again);
        short(
            &mut again,
            &[stored("task_completed", "b", json!({"result": {}}))],
        );
        let answered = stored(
            "approval_resolved",
            "a",
            json!({"wait_id": "w", "decision": "approved"}),
        );
        assert_eq!(again.take(&answered), told);
        // Where something moves first, it goes on.
        let mut moving = begun();
        team(&mut moving);
        let events = [
            stored("task_completed", "b", json!({"result": {}})),
            started("c", 1),
        ];
        short(&mut moving, &events);
        assert!(!moving.is_over() && !moving.may_rest());
    }

    #[test]
    fn a_call_for_the_client_and_a_deadline_that_is_near_do_not_wait_for_others() {
        let near = stored("approval_expiring", "a", json!({"approval_id": "w"}));
        for (kind, more) in [("client_tool", None), ("tool", Some(near))] {
            let mut translator = begun();
            short(&mut translator, &[started("a", 1), started("b", 1)]);
            let mut events = asks("a", "w", kind);
            events.extend(more);
            let told: Vec<Value> = events
                .iter()
                .flat_map(|event| translator.take(event))
                .collect();
            let last = told.last().cloned().unwrap_or_default();
            assert_eq!(
                last["outcome"]["interrupts"][0]["id"], "w",
                "{kind}: {last}"
            );
        }
    }

    #[test]
    fn a_run_of_answers_is_silent_until_the_first_of_them_and_goes_on_from_there() {
        let run = Run {
            answers: HashSet::from(["w".to_owned()]),
            ..Run::default()
        };
        let mut translator = Translator::new(run, PLAN.to_owned());
        let mut events = vec![started("a", 1)];
        events.extend(asks("a", "w", "tool"));
        assert_eq!(short(&mut translator, &events), [] as [&str; 0]);
        assert_eq!(translator.unanswered(), ["w"]);
        let events = [
            stored(
                "approval_resolved",
                "a",
                json!({"wait_id": "w", "decision": "rejected"}),
            ),
            started("a", 2),
            stored(
                "task_completed",
                "a",
                json!({"attempt": 2, "result": {"text": "well"}}),
            ),
        ];
        let told = short(&mut translator, &events);
        assert_eq!(
            told[..4],
            [
                "RUN_STARTED",
                "MESSAGES_SNAPSHOT",
                "TOOL_CALL_RESULT w:result",
                "CUSTOM codelab.approval_resolved"
            ]
        );
        assert_eq!(told[4..6], ["STEP_STARTED a", "SUBAGENT_STARTED a"]);
        assert!(
            told.contains(&"TEXT_MESSAGE_START a:1".to_owned()),
            "{told:?}"
        );
    }

    #[test]
    fn nothing_of_another_plan_is_told() {
        let mut translator = begun();
        let mut event = started("s", 1);
        event["plan_id"] = json!("another");
        assert_eq!(translator.take(&event), [] as [Value; 0]);
        assert_eq!(translator.wants(&event), []);
    }
}
