//! A front end that speaks AG-UI, as small as one can be: it posts a run, reads its events to the end, and believes nothing.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::person::{Person, text};

/// A run's input: one user message, for an agent or for the team.
pub fn input(thread: &str, run: &str, content: &str, agent: Option<&str>) -> Value {
    json!({
        "threadId": thread, "runId": run, "state": {}, "tools": [], "context": [],
        "forwardedProps": agent.map_or_else(|| json!({}), |agent| json!({ "agent": agent })),
        "messages": [{ "id": "said", "role": "user", "content": content }],
    })
}

/// The same with answers to interrupts.
pub fn resume(thread: &str, run: &str, answers: &[(&str, Value)]) -> Value {
    let mut input = input(thread, run, "begin", None);
    let answer = |(id, payload): &(&str, Value)| match payload {
        Value::Null => json!({ "interruptId": id, "status": "cancelled" }),
        payload => json!({ "interruptId": id, "status": "resolved", "payload": payload }),
    };
    input["resume"] = answers.iter().map(answer).collect();
    input
}

/// Posts a run and reads it to its end; what came has to keep the protocol's rules.
pub async fn run(person: &Person, input: &Value) -> Seen {
    read(person.request(Method::POST, "agui/").json(input)).await
}

/// The same of the run at hand in a conversation.
pub async fn framed(person: &Person, session: &str) -> Seen {
    let path = format!("chat/{session}/events/?format=agui");
    read(person.request(Method::GET, &path)).await
}

async fn read(request: reqwest::RequestBuilder) -> Seen {
    let response = request.send().await.expect("an answer");
    let (status, kind) = (
        response.status(),
        response.headers().get("content-type").cloned(),
    );
    let body = response.text().await.expect("the stream holds");
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(kind.expect("a content type"), "text/event-stream");
    Seen::read(&body)
}

/// The events of a run.
#[derive(Debug, Clone)]
pub struct Seen(pub Vec<Value>);

impl Seen {
    /// Reads a stream's text.
    pub fn read(body: &str) -> Self {
        let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
        let seen = Self(
            data.map(|data| serde_json::from_str(data).expect("JSON"))
                .collect(),
        );
        seen.check();
        seen
    }

    /// The kinds of its events, those of a kind in a row once.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self
            .0
            .iter()
            .map(|event| event["type"].as_str().unwrap_or_default())
            .collect();
        kinds.dedup();
        kinds
    }

    /// Its events of a kind.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.0
            .iter()
            .filter(|event| event["type"] == kind)
            .collect()
    }

    /// Its last event.
    pub fn last(&self) -> &Value {
        self.0.last().expect("some event")
    }

    /// Its one interrupt.
    pub fn interrupt(&self) -> &Value {
        let interrupts = self.interrupts();
        assert_eq!(interrupts.len(), 1, "{self:#?}");
        interrupts[0]
    }

    /// What it waits for.
    pub fn interrupts(&self) -> Vec<&Value> {
        let last = self.last();
        assert_eq!(last["outcome"]["type"], "interrupt", "{self:#?}");
        last["outcome"]["interrupts"]
            .as_array()
            .expect("a list")
            .iter()
            .collect()
    }

    /// The text of each message, in order of its id.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for event in &self.0 {
            let id = text_or(event, "messageId");
            match event["type"].as_str() {
                Some("TEXT_MESSAGE_START") => {
                    texts.insert(id, String::new());
                }
                Some("TEXT_MESSAGE_CONTENT") => texts
                    .get_mut(&id)
                    .expect("it began")
                    .push_str(&text(event, "delta")),
                Some("CUSTOM") if event["name"] == "codelab.text_retracted" => {
                    texts.remove(&text(&event["value"], "messageId"));
                }
                _ => {}
            }
        }
        texts
    }

    /// What stays the same when the same run is told again: everything but how the text was cut into pieces, and when.
    pub fn gist(&self) -> Vec<Value> {
        let mut gist: Vec<Value> = Vec::new();
        for event in &self.0 {
            let mut event = event.clone();
            event
                .as_object_mut()
                .expect("an object")
                .remove("timestamp");
            match gist.last_mut() {
                Some(last)
                    if last["type"] == "TEXT_MESSAGE_CONTENT"
                        && event["type"] == last["type"]
                        && event["messageId"] == last["messageId"] =>
                {
                    last["delta"] = json!(text(last, "delta") + &text(&event, "delta"));
                }
                _ => gist.push(event),
            }
        }
        // When a piece comes is nobody's promise; what it belongs to is.
        gist.sort_by_key(|event| {
            event["type"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("TEXT_"))
        });
        gist
    }

    /// The state that a client has in the end: `key state` of each step.
    pub fn steps(&self) -> Vec<String> {
        let steps = self.state()["plan"]["steps"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        steps
            .iter()
            .map(|step| format!("{} {}", text(step, "key"), text(step, "state")))
            .collect()
    }

    /// The state that a client has in the end.
    pub fn state(&self) -> Value {
        let mut state = Value::Null;
        for event in &self.0 {
            match event["type"].as_str() {
                Some("STATE_SNAPSHOT") => state = event["snapshot"].clone(),
                Some("STATE_DELTA") => {
                    for operation in event["delta"].as_array().expect("a list") {
                        patch(&mut state, operation);
                    }
                }
                _ => {}
            }
        }
        state
    }

    /// The rules that every run keeps.
    fn check(&self) {
        let first = self.0.first().expect("some event");
        assert_eq!(
            (&first["type"], &first["protocolVersion"]),
            (&json!("RUN_STARTED"), &json!("1.0"))
        );
        let ends =
            |event: &&Value| matches!(event["type"].as_str(), Some("RUN_FINISHED" | "RUN_ERROR"));
        assert_eq!(self.0.iter().filter(ends).count(), 1, "{self:#?}");
        assert!(ends(&self.last()), "{self:#?}");
        let pairs = [
            ("TEXT_MESSAGE", "START", "END", "messageId"),
            ("TOOL_CALL", "START", "END", "toolCallId"),
            ("STEP", "STARTED", "FINISHED", "stepName"),
            ("SUBAGENT", "STARTED", "FINISHED", "subagentRunId"),
        ];
        for (what, begin, end, id) in pairs {
            let mut open = BTreeSet::new();
            for event in &self.0 {
                let kind = event["type"].as_str().unwrap_or_default();
                let name = text_or(event, id);
                if kind == format!("{what}_{begin}") {
                    assert!(open.insert(name.clone()), "{kind} {name} twice: {self:#?}");
                } else if kind == format!("{what}_{end}") || kind == format!("{what}_ERROR") {
                    assert!(
                        open.remove(&name),
                        "{kind} {name} without its beginning: {self:#?}"
                    );
                }
            }
            assert!(open.is_empty(), "{what} {open:?} stays open: {self:#?}");
        }
        let empty =
            |event: &&Value| event["type"] == "TEXT_MESSAGE_CONTENT" && event["delta"] == "";
        assert_eq!(self.0.iter().filter(empty).count(), 0);
        self.state();
    }
}

fn text_or(event: &Value, field: &str) -> String {
    event[field].as_str().unwrap_or_default().to_owned()
}

/// As much of RFC 6902 as is spoken here.
fn patch(state: &mut Value, operation: &Value) {
    let path = text(operation, "path");
    let value = operation["value"].clone();
    match operation["op"].as_str() {
        Some("add") => {
            let list = path.strip_suffix("/-").expect("only lists grow");
            let list = state.pointer_mut(list).and_then(Value::as_array_mut);
            list.expect("a list is there").push(value);
        }
        Some("replace") => *state.pointer_mut(&path).expect("it is there") = value,
        other => panic!("{other:?} is not spoken"),
    }
}
