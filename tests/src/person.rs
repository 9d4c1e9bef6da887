//! A person at the HTTP API: what they ask for, and the stream they watch.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::time::Duration;

use api::auth::{SecretString, dev_token};
use futures::{StreamExt, stream::BoxStream};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sseer::EventStream;
use tokio::time::timeout;

/// Signs the tokens of the stories.
pub const SECRET: &str = "a secret of the stories, 32 bytes or more";
/// Longest wait for an event or an answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Somebody with a token.
#[derive(Debug, Clone)]
pub struct Person {
    base: String,
    token: String,
    http: Client,
}

/// An event as it came; deltas have no seq.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Position in the feed.
    pub seq: Option<i64>,
    /// Type.
    pub event: String,
    /// Payload.
    pub payload: Value,
}

/// An open event stream.
pub struct Watch {
    events: BoxStream<'static, Seen>,
}

impl Person {
    /// A person of this name at the API there.
    pub fn new(base: &str, name: &str) -> Self {
        engine::install_crypto();
        let secret = SecretString::from(SECRET);
        let token = dev_token(&secret, name, Duration::from_hours(1), None, None).expect("a token");
        // A proxy of the machine has no business here.
        let http = Client::builder().no_proxy().build().expect("a client");
        Self {
            base: base.to_owned(),
            token,
            http,
        }
    }

    /// Where the API is.
    pub fn base(&self) -> String {
        self.base.clone()
    }

    /// A request to `/my/...`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/my/{path}", self.base))
            .bearer_auth(&self.token)
    }

    /// Sends it; status and document.
    pub async fn send(&self, request: RequestBuilder) -> (StatusCode, Value) {
        let response = request.timeout(PATIENCE).send().await.expect("an answer");
        (response.status(), response.json().await.expect("JSON"))
    }

    /// Reads; it has to be there.
    pub async fn get(&self, path: &str) -> Value {
        let (status, read) = self.send(self.request(Method::GET, path)).await;
        assert!(status.is_success(), "{path}: {status} {read}");
        read
    }

    /// Posts; it has to be taken.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, made) = self
            .send(self.request(Method::POST, path).json(&body))
            .await;
        assert!(status.is_success(), "{path}: {status} {made}");
        made
    }

    /// A new agent on a model; its id.
    pub async fn agent(&self, name: &str, model: &str) -> String {
        self.agent_with(name, json!({ "model": model })).await
    }

    /// A new agent; its id.
    pub async fn agent_with(&self, name: &str, config: Value) -> String {
        text(
            &self
                .post("agents/", json!({ "name": name, "config": config }))
                .await,
            "id",
        )
    }

    /// Sets the planner's model.
    pub async fn plan_with(&self, model: &str) {
        let (status, said) = self
            .send(
                self.request(Method::PUT, "orchestrator/")
                    .json(&json!({ "model": model })),
            )
            .await;
        assert!(status.is_success(), "{status} {said}");
    }

    /// A new session; its id.
    pub async fn session(&self) -> String {
        text(&self.post("chat/sessions/", json!({})).await, "id")
    }

    /// Says something and waits for the answer; the whole response.
    pub async fn ask(&self, session: &str, content: &str, agent: Option<&str>) -> Value {
        let (status, answered) = self
            .send(
                self.message(session, content, agent)
                    .header("prefer", "wait=50"),
            )
            .await;
        assert_eq!(status, StatusCode::OK, "{answered}");
        answered
    }

    /// Says something; the plan's id.
    pub async fn say(&self, session: &str, content: &str, agent: Option<&str>) -> String {
        let (status, said) = self.send(self.message(session, content, agent)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{said}");
        text(&said, "plan_id")
    }

    fn message(&self, session: &str, content: &str, agent: Option<&str>) -> RequestBuilder {
        let mut body = json!({ "content": content });
        if let Some(agent) = agent {
            body["target_agent"] = agent.into();
        }
        self.request(Method::POST, &format!("chat/{session}/message/"))
            .json(&body)
    }

    /// The next question that waits for an answer, once there is one.
    pub async fn card(&self) -> Value {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let pending = self.get("approvals/?status=pending").await;
            if let Some(card) = pending["items"].get(0) {
                return card.clone();
            }
            assert!(std::time::Instant::now() < deadline, "nothing is asked");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Answers a question; it has to be taken.
    pub async fn decide(&self, card: &Value, answer: Value) -> Value {
        let path = format!("approvals/{}/confirm/", text(card, "id"));
        self.post(&path, answer).await
    }

    /// A plan's picture: `key state` of each step, in order.
    pub async fn picture(&self, plan: &str) -> Vec<String> {
        let steps = self.steps(plan).await;
        let line = |step: &Value| format!("{} {}", text(step, "key"), text(step, "state"));
        steps.iter().map(line).collect()
    }

    /// A plan's state.
    pub async fn state(&self, plan: &str) -> String {
        text(&self.get(&format!("plans/{plan}/")).await, "state")
    }

    /// A plan's steps, at most 200.
    pub async fn steps(&self, plan: &str) -> Vec<Value> {
        self.get(&format!("plans/{plan}/steps/?limit=200")).await["items"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// What the other side said in a session, oldest first.
    pub async fn answers(&self, session: &str) -> Vec<String> {
        let messages = self.get(&format!("chat/{session}/messages/")).await;
        let items = messages["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter(|line| line["role"] == "assistant")
            .map(|line| text(line, "content"))
            .collect()
    }

    /// Opens a session's stream, from now on.
    pub async fn watch(&self, session: &str) -> Watch {
        self.watch_at(&format!("chat/{session}/events/")).await
    }

    /// Opens the whole feed from its beginning.
    pub async fn watch_all(&self) -> Watch {
        self.watch_at("events/?after=0").await
    }

    /// Opens the whole feed after this seq.
    pub async fn watch_after(&self, seq: i64) -> Watch {
        self.watch_at(&format!("events/?after={seq}")).await
    }

    async fn watch_at(&self, path: &str) -> Watch {
        let response = self
            .request(Method::GET, path)
            .send()
            .await
            .expect("a stream");
        assert_eq!(response.status(), StatusCode::OK);
        let events = EventStream::new(response.bytes_stream())
            .map(|event| Seen::of(&event.expect("the stream holds")));
        Watch {
            events: events.boxed(),
        }
    }
}

impl Seen {
    fn of(event: &sseer::event::Event) -> Self {
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        Self {
            seq: data["seq"].as_i64(),
            event: text(&data, "event_type"),
            payload: data["payload"].clone(),
        }
    }

    /// The step's name.
    pub fn key(&self) -> &str {
        self.payload["key"].as_str().unwrap_or_default()
    }
}

impl Watch {
    /// The next event.
    pub async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.events.next())
            .await
            .expect("an event in time")
            .expect("the stream goes on")
    }

    /// All events up to the first of which `last` is true.
    pub async fn until(&mut self, last: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        loop {
            let event = self.next().await;
            let done = last(&event);
            seen.push(event);
            if done {
                return seen;
            }
        }
    }

    /// All events up to the end of a plan.
    pub async fn until_done(&mut self) -> Vec<Seen> {
        self.until(|event| event.event == "plan_completed").await
    }
}

/// What a run of a step said on its way: its deltas up to the end of the step, or up to a text that takes their place.
pub fn streamed(seen: &[Seen], key: &str, attempt: u64) -> String {
    let ended = |event: &&Seen| !(event.event == "task_completed" && event.key() == key);
    let before = seen
        .iter()
        .take_while(ended)
        .filter(|event| event.key() == key && event.payload["attempt"] == attempt);
    let mut said = String::new();
    for event in before {
        if let Some(whole) = event.payload["text"].as_str() {
            whole.clone_into(&mut said);
        }
        said += event.payload["delta"].as_str().unwrap_or_default();
    }
    said
}

/// Text that came after the end of the step that it belongs to.
pub fn late(seen: &[Seen]) -> Vec<&Seen> {
    let ends = ["task_completed", "task_failed", "task_cancelled"];
    let ended = |event: &Seen| {
        seen.iter()
            .position(|end| end.key() == event.key() && ends.contains(&end.event.as_str()))
    };
    let deltas = seen
        .iter()
        .enumerate()
        .filter(|(_, event)| event.payload["delta"].is_string());
    deltas
        .filter(|(place, delta)| ended(delta).is_some_and(|end| end < *place))
        .map(|(_, delta)| delta)
        .collect()
}

/// A text field, which has to be there.
pub fn text(document: &Value, field: &str) -> String {
    document[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {document}"))
        .to_owned()
}
