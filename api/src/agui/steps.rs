//! The plan's steps as a run shows them: in the state, as steps, and where an agent does them, as subagents.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::words::{event, number, state_delta, text};

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

impl Outline {
    /// Of a step that the event is all that is known of.
    pub(super) fn of_event(event: &Value) -> Self {
        let payload = &event["payload"];
        Self {
            id: text(event, "step_id").to_owned(),
            key: text(payload, "key").to_owned(),
            kind: text(payload, "kind").to_owned(),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) outline: Outline,
    pub(super) state: String,
    /// How often it has asked outside: each time its model has a further turn.
    pub(super) asked: u64,
    /// The place in the journal of the turn heard last, and which one of the turns that it is.
    pub(super) heard: Option<(u64, u64)>,
    pub(super) attempt: u64,
    /// A timer runs, which needs nobody.
    pub(super) ticks: bool,
    /// Its span in this run.
    open: bool,
    /// Spans that it has had in this run.
    spans: u32,
}

/// The steps, in the order in which they came to be known.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Whether the plan is one agent's answer: then that step speaks for the run itself.
    pub(super) direct: bool,
    all: Vec<Step>,
    places: HashMap<String, usize>,
}

impl Steps {
    pub(super) fn has(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Step> {
        self.places.get(id).map(|place| &self.all[*place])
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Step> {
        let place = self.places.get(id)?;
        Some(&mut self.all[*place])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Step> {
        self.all.iter()
    }

    /// Whether one of them runs, or will without anybody's doing.
    pub(super) fn move_by_themselves(&self) -> bool {
        self.all.iter().any(|step| match step.state.as_str() {
            "running" => true,
            "ready" => step.attempt > 0,
            "suspended" => step.ticks,
            _ => false,
        })
    }

    /// As they stand in the state.
    pub(super) fn shown(&self) -> Vec<Value> {
        self.all.iter().map(Step::shown).collect()
    }

    /// A step comes to be known.
    pub(super) fn add(&mut self, outline: Outline) -> Value {
        let first = if outline.needs.is_empty() {
            "ready"
        } else {
            "blocked"
        };
        let step = Step {
            outline,
            state: first.to_owned(),
            asked: 0,
            heard: None,
            attempt: 0,
            ticks: false,
            open: false,
            spans: 0,
        };
        let added = json!([{ "op": "add", "path": "/plan/steps/-", "value": step.shown() }]);
        self.places.insert(step.outline.id.clone(), self.all.len());
        self.all.push(step);
        state_delta(&added)
    }

    /// A step changes its state.
    pub(super) fn set(&mut self, id: &str, state: &str) -> Option<Value> {
        let place = *self.places.get(id)?;
        if self.all[place].state == state {
            return None;
        }
        state.clone_into(&mut self.all[place].state);
        let path = format!("/plan/steps/{place}/state");
        Some(state_delta(
            &json!([{ "op": "replace", "path": path, "value": state }]),
        ))
    }

    /// Takes note of the attempt that an event names.
    pub(super) fn attempt(&mut self, id: &str, payload: &Value) {
        if let Some(step) = self.get_mut(id) {
            step.attempt = std::cmp::max(step.attempt, number(payload, "attempt"));
        }
    }

    /// Opens a step's span, if it is not open.
    pub(super) fn open(&mut self, id: &str) -> Vec<Value> {
        let Some(step) = self.get_mut(id).filter(|step| !step.open) else {
            return Vec::new();
        };
        step.open = true;
        step.spans += 1;
        let Outline {
            key, agent, parent, ..
        } = step.outline.clone();
        let mut told = vec![event("STEP_STARTED", json!({ "stepName": key }))];
        if let Some(subagent) = self.subagent(id) {
            let begun =
                parent.filter(|parent| self.get(parent).is_some_and(|parent| parent.spans > 0));
            let parent = begun.and_then(|parent| self.subagent(&parent));
            let fields = json!({
                "subagentRunId": subagent, "name": agent.as_ref().unwrap_or(&key), "description": key, "parentSubagentRunId": parent,
            });
            told.push(event("SUBAGENT_STARTED", fields));
        }
        told
    }

    /// Closes a step's span, if it is open; `asked` is what the step waits for.
    pub(super) fn close(
        &mut self,
        id: &str,
        trouble: Option<(&str, &str)>,
        asked: &[&str],
    ) -> Vec<Value> {
        let Some(step) = self.get_mut(id).filter(|step| step.open) else {
            return Vec::new();
        };
        step.open = false;
        let (ended, key) = (step.has_ended(), step.outline.key.clone());
        let subagent = self.subagent(id).map(|id| {
            let Some((code, why)) = trouble else {
                let outcome = if ended {
                    json!({ "type": "success" })
                } else {
                    json!({ "type": "suspended", "interruptIds": asked })
                };
                let fields = json!({ "subagentRunId": id, "outcome": outcome });
                return event("SUBAGENT_FINISHED", fields);
            };
            let fields = json!({ "subagentRunId": id, "code": code, "message": why });
            event("SUBAGENT_ERROR", fields)
        });
        let finished = event("STEP_FINISHED", json!({ "stepName": key }));
        subagent.into_iter().chain([finished]).collect()
    }

    /// What is open, the newest first.
    pub(super) fn spans(&self) -> Vec<String> {
        let open = self.all.iter().rev().filter(|step| step.open);
        open.map(|step| step.outline.id.clone()).collect()
    }

    /// Who does a step, and speaks for it; none: the run itself.
    pub(super) fn subagent(&self, id: &str) -> Option<String> {
        let step = self.get(id)?;
        let answers = self.direct && step.outline.parent.is_none();
        (step.outline.kind == "agent" && !answers).then(|| match step.spans {
            0 | 1 => id.to_owned(),
            more => format!("{id}:{more}"),
        })
    }
}

impl Step {
    /// Which turn it is whose place in the journal is this: 0, 1, 2 ... as far as it has been heard of. Calls have places
    /// there, too, and who reads the run later hears of those turns only after which something was asked.
    pub(super) fn turn(&mut self, place: u64) -> u64 {
        let turn = match self.heard {
            None => self.asked,
            Some((before, turn)) if place == before => turn,
            Some((before, turn)) if place > before => std::cmp::max(self.asked, turn + 1),
            // Too late: whatever it is, it is older than what was heard.
            Some((_, turn)) => return turn.saturating_sub(1),
        };
        self.heard = Some((place, turn));
        turn
    }

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
