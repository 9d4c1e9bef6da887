//! The HTTP face, over real sockets and a real Postgres. No worker runs: a test that needs one plays it, step by step.

mod agui;
mod auth;
mod bad_input;
mod browser;
mod cost;
mod document;
mod feed;
mod jwks;
mod relay;
mod resources;
mod retention;
mod snapshot;
mod sockets;
mod strangers;
mod streams;
mod texts;
mod tickets;
mod transcripts;
mod wait;

use std::{collections::VecDeque, time::Duration};

use api::{
    ApiConfig,
    auth::{AuthConfig, SecretString, dev_token},
};
use codelab_tests::harness::Database;
use engine::{
    Store, UserScope,
    id::{MessageId, WaitId, WorkerId},
    step::{
        Outcome, Reply,
        claimed::Claim,
        outcome::{NewWait, WaitKind},
    },
};
use futures::StreamExt;
use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// The secret of every test's API.
const SECRET: &str = "a secret of the tests, 32 bytes or more";
/// Longest time that anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time that a stop may take: less than the server would cut requests off after.
const DRAIN: Duration = Duration::from_secs(8);

fn secret() -> SecretString {
    SecretString::from(SECRET)
}

/// An API on a database of its own.
struct Api {
    store: Store,
    base: String,
    client: reqwest::Client,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    database: Database,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    /// Null where the body is not JSON.
    json: Value,
}

impl Api {
    async fn start() -> Self {
        Self::start_with(ApiConfig::new(AuthConfig::hs256(secret()))).await
    }

    async fn start_with(config: ApiConfig) -> Self {
        Self::on(Database::fresh().await, config).await
    }

    async fn on(database: Database, config: ApiConfig) -> Self {
        let store = database.store();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let server = tokio::spawn(api::serve(listener, store.clone(), config, stop.clone()));
        Self {
            store,
            base,
            client: reqwest::Client::new(),
            stop,
            server,
            database,
        }
    }

    fn token(user: &str) -> String {
        dev_token(&secret(), user, Duration::from_mins(10), None, None).expect("a token")
    }

    /// The scope of a person, for playing the worker.
    async fn scope(&self, user: &str) -> UserScope {
        self.database.user(&self.store, user).await
    }

    /// A request without a token.
    fn open(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.base))
            .timeout(PATIENCE)
    }

    /// A request of a person.
    fn request(&self, user: &str, method: Method, path: &str) -> RequestBuilder {
        self.open(method, path).bearer_auth(Self::token(user))
    }

    async fn get(&self, user: &str, path: &str) -> Answer {
        answer(self.request(user, Method::GET, path)).await
    }

    async fn post(&self, user: &str, path: &str, body: Value) -> Answer {
        answer(self.request(user, Method::POST, path).json(&body)).await
    }

    async fn send(&self, user: &str, method: Method, path: &str, body: Value) -> Answer {
        answer(self.request(user, method, path).json(&body)).await
    }

    /// An agent by the API; its id.
    async fn agent(&self, user: &str, name: &str) -> String {
        self.post(user, "/my/agents/", json!({"name": name}))
            .await
            .created()
    }

    /// A session by the API; its id.
    async fn session(&self, user: &str) -> String {
        self.post(user, "/my/chat/sessions/", json!({}))
            .await
            .created()
    }

    /// A plan of two steps, one after another, by the API; its id.
    async fn plan(&self, user: &str, session: Option<&str>, agent: &str) -> String {
        let steps = json!([{"key": "first", "agent": agent}, {"key": "second", "agent": agent, "needs": ["first"]}]);
        self.post(
            user,
            "/my/plans/",
            json!({"session_id": session, "goal": "two things", "steps": steps}),
        )
        .await
        .created()
    }

    /// A step of this person that asks whether a tool may be called; the question's id.
    async fn card(&self, user: &str) -> String {
        let agent = self.agent(user, "asker").await;
        let plan = self.plan(user, None, &agent).await;
        let wait = NewWait {
            id: WaitId::new(),
            kind: WaitKind::Approval,
            payload: json!({"type": "tool", "tool": "add", "tool_version": 1, "risk": "low", "arguments": {}, "choices": ["approve", "reject"]}),
            deadline: Some(Duration::from_mins(5)),
        };
        let id = wait.id.to_string();
        let asked = Outcome::Suspend { wait };
        let claims = self.store.claim(WorkerId::new(), 100).await;
        for claim in claims.expect("a claim") {
            let outcome = if claim.plan.to_string() == plan {
                &asked
            } else {
                &Outcome::Yield
            };
            assert!(self.store.finish(&claim, outcome).await.expect("a finish"));
        }
        id
    }

    /// Plays the worker: claims what there is, says `text` for each step, and tells the feed.
    async fn work(&self, text: &str) -> usize {
        let claims = self
            .store
            .claim(WorkerId::new(), 100)
            .await
            .expect("a claim");
        for claim in &claims {
            self.finish(claim, text).await;
        }
        claims.len()
    }

    async fn finish(&self, claim: &Claim, text: &str) {
        let answers = claim.spec.as_ref().is_some_and(|spec| spec.answers);
        let reply = answers.then(|| Reply {
            id: MessageId::new(),
            content: text.to_owned(),
        });
        let done = Outcome::Succeed {
            result: json!({"text": text}),
            reply,
        };
        assert!(
            self.store.finish(claim, &done).await.expect("a finish"),
            "the lease was gone"
        );
        self.store.hints().feed(claim.scope.user());
    }

    /// So many events of so many bytes at once, the first of this person, and a hint of them.
    async fn flood(&self, user: &str, many: i64, bytes: i32) {
        let user = self.scope(user).await.user();
        sqlx::query(
            "with grown as (update user_feeds set last_seq = $2, last_at = now() where user_id = $1)
             insert into events (user_id, seq, type, payload, created_at)
             select $1, n, 'task_progress', jsonb_build_object('text', repeat('x', $3)), now() from generate_series(1, $2) n",
        )
        .bind(user)
        .bind(many)
        .bind(bytes)
        .execute(self.store.pool())
        .await
        .expect("events");
        self.store.hints().feed(user);
    }

    /// Seq of the last event of a session.
    async fn last_of(&self, user: &str, session: &str) -> i64 {
        let scope = self.scope(user).await;
        let session = session.parse().ok();
        let events = self.store.events_after(scope, session, 0.into(), 1_000_000);
        events
            .await
            .expect("events")
            .last()
            .map_or(0, |event| event.seq)
    }

    /// Stops it as a signal would, and waits for its end, which nobody holds up.
    async fn drain(self) {
        self.stop.cancel();
        timeout(DRAIN, self.server)
            .await
            .expect("it ends in time")
            .expect("no panic")
            .expect("it ends well");
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer {
        status,
        headers,
        text,
        json,
    }
}

impl Answer {
    /// The body of an answer that went well.
    fn ok(&self) -> &Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        &self.json
    }

    /// The id of what was made.
    fn created(&self) -> String {
        assert_eq!(self.status, StatusCode::CREATED, "{}", self.text);
        self.json["id"].as_str().expect("an id").to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    /// Asserts that it is a problem in every respect, and gives its `error_code`.
    fn problem(&self) -> &str {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.text
        );
        assert_eq!(self.json["status"], self.status.as_u16(), "{}", self.text);
        assert_eq!(
            self.json["request_id"],
            self.header("x-request-id"),
            "{}",
            self.text
        );
        for field in ["type", "title", "detail", "error_code", "timestamp"] {
            assert!(
                self.json[field]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{field} in {}",
                self.text
            );
        }
        self.json["error_code"].as_str().unwrap_or_default()
    }

    /// `(pointer or parameter, code)` of each wrong field.
    fn fields(&self) -> Vec<(String, String)> {
        let errors = self.json["errors"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        errors
            .iter()
            .map(|error| {
                (
                    text(if error["pointer"].is_null() {
                        &error["parameter"]
                    } else {
                        &error["pointer"]
                    }),
                    text(&error["code"]),
                )
            })
            .collect()
    }
}

/// An event stream, read frame by frame.
struct Feed {
    body: futures::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    buffer: Vec<u8>,
    frames: VecDeque<Frame>,
}

/// One event as it came.
#[derive(Debug, Clone, PartialEq)]
struct Frame {
    id: Option<i64>,
    event: String,
    data: Value,
}

impl Feed {
    async fn open(request: RequestBuilder) -> Self {
        // No limit of time for the whole of it.
        let response = request
            .timeout(Duration::from_hours(1))
            .send()
            .await
            .expect("a stream");
        assert_eq!(response.status(), StatusCode::OK);
        Self::of(response)
    }

    fn of(response: reqwest::Response) -> Self {
        let body = response
            .bytes_stream()
            .map(|chunk| chunk.map(|bytes| bytes.to_vec()))
            .boxed();
        Self {
            body,
            buffer: Vec::new(),
            frames: VecDeque::new(),
        }
    }

    /// The next event; comments are passed over. None: the stream ended.
    async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read())
            .await
            .expect("an event, or the end, in time")
    }

    async fn read(&mut self) -> Option<Frame> {
        self.try_read().await.expect("the stream holds")
    }

    /// The same where the other side may be cut down.
    async fn try_read(&mut self) -> reqwest::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            let Some(chunk) = self.body.next().await else {
                return Ok(None);
            };
            self.buffer.extend(chunk?);
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
                self.frames
                    .extend(Frame::parse(&String::from_utf8(frame).expect("text")));
            }
        }
    }

    /// The next event, which must come.
    async fn event(&mut self) -> Frame {
        self.next().await.expect("another event")
    }

    /// Events up to the one with this seq.
    async fn until(&mut self, seq: i64) -> Vec<Frame> {
        let mut frames = Vec::new();
        while frames
            .last()
            .is_none_or(|frame: &Frame| frame.id != Some(seq))
        {
            frames.push(self.event().await);
        }
        frames
    }

    /// The next chunk as it came.
    async fn raw(&mut self) -> String {
        let chunk = timeout(PATIENCE, self.body.next())
            .await
            .expect("something comes in time")
            .expect("no end")
            .expect("the stream holds");
        String::from_utf8(chunk).expect("text")
    }
}

impl Frame {
    /// By the rules of `text/event-stream`; none for comments and `retry`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| {
                line.strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix(": "))
            })
        };
        let data = field("data")?;
        let id = field("id").map(|id| id.parse().expect("a seq"));
        Some(Self {
            id,
            event: field("event")?.to_owned(),
            data: serde_json::from_str(data).expect("JSON"),
        })
    }
}
