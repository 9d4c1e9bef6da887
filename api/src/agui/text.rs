//! What the steps of a run say: each turn of a step is a message. Pieces come on their way and may be lost or taken back; the
//! whole text comes with the step's end.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::words::{custom, event};

/// What belongs to whom: a step, and the subagent that speaks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speaker<'a> {
    pub(super) step: &'a str,
    /// None: the run itself.
    pub(super) subagent: Option<&'a str>,
}

/// Which saying of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) turn: u64,
    pub(super) attempt: u64,
}

/// The messages of a run, and of what was said before it.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// The conversation as a client would have it.
    messages: Vec<Value>,
    /// What each step says now.
    current: HashMap<String, Saying>,
    /// An id is used once.
    used: HashSet<String>,
}

#[derive(Debug)]
struct Saying {
    message: String,
    place: Place,
    text: String,
    open: bool,
    subagent: Option<String>,
}

impl Texts {
    pub(super) fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// The conversation so far.
    pub(super) fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// Adds a message, or puts it in the place of an older version of itself.
    pub(super) fn put(&mut self, message: Value) {
        let known = self
            .messages
            .iter_mut()
            .find(|known| known["id"] == message["id"]);
        match known {
            Some(known) => *known = message,
            None => self.messages.push(message),
        }
    }

    /// A piece of text.
    pub(super) fn append(&mut self, who: Speaker<'_>, place: Place, delta: &str) -> Vec<Value> {
        let mut out = Vec::new();
        if delta.is_empty() {
            return out;
        }
        match self.current.get(who.step) {
            // A piece of an older run comes too late.
            Some(saying) if place < saying.place => return out,
            Some(saying) if saying.open && saying.place == place => {}
            _ => {
                out.extend(self.leave(who.step, place));
                out.push(self.start(who, place));
            }
        }
        out.extend(self.add(who.step, delta));
        out
    }

    /// The whole text of a turn so far; empty: it is taken back.
    pub(super) fn replace(&mut self, who: Speaker<'_>, place: Place, whole: &str) -> Vec<Value> {
        let current = self.current.get(who.step);
        if current.is_some_and(|saying| place < saying.place) {
            return Vec::new();
        }
        let rest = current
            .filter(|saying| saying.open && saying.place == place)
            .and_then(|saying| whole.strip_prefix(saying.text.as_str()));
        if let Some(rest) = rest.map(str::to_owned) {
            return self.add(who.step, &rest).into_iter().collect();
        }
        let mut out = self.retract(who.step);
        out.extend(self.append(who, place, whole));
        out
    }

    /// The final text of a step's last turn.
    pub(super) fn finish(&mut self, who: Speaker<'_>, place: Place, whole: &str) -> Vec<Value> {
        let place = self.current.get(who.step).map_or(place, |saying| Place {
            turn: std::cmp::max(saying.place.turn, place.turn),
            attempt: std::cmp::max(saying.place.attempt, place.attempt),
        });
        let same = self.current.get(who.step).is_some_and(|saying| {
            saying.place.turn == place.turn && whole.starts_with(&saying.text)
        });
        if same && let Some(saying) = self.current.get_mut(who.step) {
            // The same words again are not said again, whichever run says them.
            saying.place = place;
        }
        let mut out = self.replace(who, place, whole);
        out.extend(self.end(who.step));
        out
    }

    /// Ends what a step is saying.
    pub(super) fn end(&mut self, step: &str) -> Option<Value> {
        let saying = self.current.get_mut(step).filter(|saying| saying.open)?;
        saying.open = false;
        let fields = json!({ "messageId": saying.message, "subagentRunId": saying.subagent });
        Some(event("TEXT_MESSAGE_END", fields))
    }

    /// Ends what anybody is saying.
    pub(super) fn end_all(&mut self) -> Vec<Value> {
        let mut open: Vec<String> = self.current.keys().cloned().collect();
        open.sort_unstable();
        open.iter().filter_map(|step| self.end(step)).collect()
    }

    /// Takes back what a step is saying: its run broke off, and the next one says it anew.
    pub(super) fn retract(&mut self, step: &str) -> Vec<Value> {
        let Some(saying) = self.current.get(step).filter(|saying| saying.open) else {
            return Vec::new();
        };
        let message = saying.message.clone();
        let mut out: Vec<Value> = self.end(step).into_iter().collect();
        self.messages.retain(|known| known["id"] != json!(message));
        out.push(custom("text_retracted", &json!({ "messageId": message })));
        out
    }

    /// A whole message that no step is saying.
    pub(super) fn whole(&mut self, id: &str, text: &str) -> Vec<Value> {
        let place = Place {
            turn: 0,
            attempt: 0,
        };
        let saying = Saying {
            message: id.to_owned(),
            place,
            text: String::new(),
            open: true,
            subagent: None,
        };
        let mut out = vec![self.open(id, saying)];
        out.extend(self.add(id, text));
        out.extend(self.end(id));
        out
    }

    /// The text that was said last under this name.
    pub(super) fn said(&self, step: &str) -> Option<&str> {
        self.current.get(step).map(|saying| saying.text.as_str())
    }

    /// What is said now gives way to what is said at another place.
    fn leave(&mut self, step: &str, next: Place) -> Vec<Value> {
        let same_turn = self
            .current
            .get(step)
            .is_some_and(|saying| saying.place.turn == next.turn);
        if same_turn {
            self.retract(step)
        } else {
            self.end(step).into_iter().collect()
        }
    }

    fn start(&mut self, who: Speaker<'_>, place: Place) -> Value {
        let saying = Saying {
            message: self.fresh(who.step, place),
            place,
            text: String::new(),
            open: true,
            subagent: who.subagent.map(str::to_owned),
        };
        self.open(who.step, saying)
    }

    fn open(&mut self, step: &str, saying: Saying) -> Value {
        let fields = json!({ "messageId": saying.message, "role": "assistant", "subagentRunId": saying.subagent });
        self.used.insert(saying.message.clone());
        self.current.insert(step.to_owned(), saying);
        event("TEXT_MESSAGE_START", fields)
    }

    fn add(&mut self, step: &str, delta: &str) -> Option<Value> {
        let saying = self.current.get_mut(step).filter(|_| !delta.is_empty())?;
        saying.text.push_str(delta);
        let mut message =
            json!({ "id": saying.message, "role": "assistant", "content": saying.text });
        let fields = json!({ "messageId": saying.message, "delta": delta, "subagentRunId": saying.subagent });
        if let Some(subagent) = &saying.subagent {
            message["subagentRunId"] = json!(subagent);
        }
        self.put(message);
        Some(event("TEXT_MESSAGE_CONTENT", fields))
    }

    /// `step:turn` where that has not been said before.
    fn fresh(&self, step: &str, place: Place) -> String {
        let Place { turn, attempt } = place;
        let first = format!("{step}:{turn}");
        let later = (0..).map(|n| match n {
            0 => format!("{step}:{turn}:{attempt}"),
            n => format!("{step}:{turn}:{attempt}:{n}"),
        });
        std::iter::once(first)
            .chain(later)
            .find(|id| !self.used.contains(id))
            .unwrap_or_default()
    }
}
