//! How many statements a request costs. A number that grows has to be meant.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use codelab_tests::agui::input;
use futures::future::join;
use reqwest::Method;
use serde_json::json;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{self, DefaultGuard},
};

use super::{Api, Feed, answer};

/// What a statement is about.
#[derive(Default)]
struct Summary {
    /// It prepares a connection, and is none of the request's: the transitions, and what sqlx asks about types.
    of_a_new_connection: bool,
}

impl Visit for Summary {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    fn record_str(&mut self, field: &Field, text: &str) {
        if field.name() == "summary" {
            self.of_a_new_connection =
                text.starts_with("-- types") || text.starts_with("SELECT pg_type");
        }
    }
}

/// Counts the statements that sqlx says it has run, on this thread: the test's runtime has no other.
#[derive(Clone, Default)]
struct Statements(Arc<AtomicUsize>);

impl Statements {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Subscriber for Statements {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query" && *metadata.level() <= Level::DEBUG
    }
    fn event(&self, event: &Event<'_>) {
        let mut summary = Summary::default();
        event.record(&mut summary);
        self.0
            .fetch_add(usize::from(!summary.of_a_new_connection), Ordering::SeqCst);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// An API whose statements are counted.
async fn counted() -> (Api, Statements, DefaultGuard) {
    let statements = Statements::default();
    let counting = subscriber::set_default(statements.clone());
    let api = Api::start().await;
    // Who runs a statement for the first time decides for all threads whether somebody wants to hear of it. Now that
    // one has been run, it is asked again.
    api.scope("ada").await;
    tracing::callsite::rebuild_interest_cache();
    (api, statements, counting)
}

#[tokio::test]
async fn a_request_costs_so_many_statements() {
    let (api, statements, _counting) = counted().await;
    let agent = api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    let plan = api.plan("ada", Some(&session), "coder").await;
    let say = format!("/my/chat/{session}/message/");
    let steps = json!([{"key": "a", "agent": "coder"}, {"key": "b", "agent": agent}]);
    let get = |path: &str| api.request("ada", Method::GET, path);
    let post = |path: &str, body| api.request("ada", Method::POST, path).json(&body);
    let patch = api
        .request("ada", Method::PATCH, &format!("/my/agents/{agent}/"))
        .json(&json!({"config": {"about": "x"}}));
    let table = [
        ("GET agents", get("/my/agents/"), 1),
        ("GET agent", get(&format!("/my/agents/{agent}/")), 1),
        ("PATCH agent", patch, 3),
        ("GET sessions", get("/my/chat/sessions/"), 1),
        (
            "GET messages",
            get(&format!("/my/chat/{session}/messages/")),
            2,
        ),
        ("GET plan", get(&format!("/my/plans/{plan}/")), 1),
        ("GET steps", get(&format!("/my/plans/{plan}/steps/")), 1),
        ("GET graph", get(&format!("/my/plans/{plan}/graph/")), 2),
        (
            "POST plan",
            post("/my/plans/", json!({"goal": "x", "steps": steps})),
            3,
        ),
        (
            "POST message, orchestrated",
            post(&say, json!({"content": "x"})),
            1,
        ),
        (
            "POST message, direct",
            post(&say, json!({"content": "x", "target_agent": "coder"})),
            2,
        ),
        (
            "GET snapshot: one moment of session, cursor, messages, plans and their steps, questions, calls, texts",
            get(&format!("/my/chat/{session}/snapshot/")),
            11,
        ),
        (
            "POST stream-tickets",
            post("/my/stream-tickets/", json!({})),
            1,
        ),
        (
            "POST cancel",
            api.request("ada", Method::POST, &format!("/my/plans/{plan}/cancel/")),
            1,
        ),
        ("bad JSON", post("/my/agents/", json!([])), 0),
        ("no token", api.open(Method::GET, "/my/agents/"), 0),
        (
            "a new person's first request",
            api.request("eve", Method::GET, "/my/agents/"),
            3,
        ),
    ];
    for (what, request, expected) in table {
        let before = statements.count();
        answer(request).await;
        assert_eq!(statements.count() - before, expected, "{what}");
    }
}

#[tokio::test]
async fn a_hundred_streams_of_one_person_read_an_event_once() {
    let (api, statements, _counting) = counted().await;
    let session = api.session("ada").await;
    let mut feeds = Vec::new();
    for _ in 0..100 {
        let mut feed = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
        feed.raw().await;
        feeds.push(feed);
    }
    // The last stream has begun to listen once it has shown what there was.
    let path = format!("/my/chat/{session}/message/");
    api.post("ada", &path, json!({"content": "one"})).await.ok();
    let last = api
        .store
        .last_seq(api.scope("ada").await)
        .await
        .expect("a seq");
    for feed in &mut feeds {
        feed.until(last).await;
    }
    let before = statements.count();
    api.post("ada", &path, json!({"content": "two"})).await.ok();
    for feed in &mut feeds {
        feed.until(last + 2).await;
    }
    let cost = statements.count() - before;
    // The message, its read for all hundred streams, and perhaps a poll that fell into this moment.
    assert!((2..=6).contains(&cost), "{cost}");
}

#[tokio::test]
async fn a_hundred_streams_that_come_back_read_nothing() {
    let (api, statements, _counting) = counted().await;
    let session = api.session("ada").await;
    let open = |after: i64| {
        let path = format!("/my/events/?after={after}");
        Feed::open(api.request("ada", Method::GET, &path))
    };
    let mut first = open(0).await;
    first.raw().await;
    let path = format!("/my/chat/{session}/message/");
    for n in 0..5 {
        let said = json!({"content": format!("number {n}")});
        api.post("ada", &path, said).await.ok();
    }
    let scope = api.scope("ada").await;
    let last = api.store.last_seq(scope).await.expect("a seq");
    let all = first.until(last).await;
    drop(first);
    let before = statements.count();
    for after in 0..100 {
        let after = after % last;
        let seen = open(after).await.until(last).await;
        assert_eq!(
            seen.as_slice(),
            &all[usize::try_from(after).expect("few")..]
        );
    }
    let cost = statements.count() - before;
    // A poll may fall into this moment, and there is one each second.
    assert!(cost <= 10, "{cost}");
}

#[tokio::test]
async fn a_waiting_message_costs_its_acceptance_its_answer_and_the_feed() {
    let (api, statements, _counting) = counted().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    let request = api.request("ada", Method::POST, &format!("/my/chat/{session}/message/"));
    let request = request
        .header("prefer", "wait=10")
        .json(&json!({"content": "x", "target_agent": "coder"}));
    let scope = api.scope("ada").await;
    let before = statements.count();
    // The worker that the test plays; what it costs is not the request's.
    let work = async {
        let mut looks = 1;
        while api.store.last_seq(scope).await.expect("a seq") == 0 {
            looks += 1;
            tokio::task::yield_now().await;
        }
        assert_eq!(api.work("answer").await, 1);
        looks + 2
    };
    let (answered, others) = join(answer(request), work).await;
    assert_eq!(
        answered.status,
        reqwest::StatusCode::OK,
        "{}",
        answered.text
    );
    let cost = statements.count() - before - others;
    // The agent's name, the message, its answer; and one read of the feed for each hint that came: the acceptance and the
    // finish, shared by all who listen, and perhaps a poll.
    assert!((4..=6).contains(&cost), "{cost}");
}

#[tokio::test]
async fn an_agui_run_costs_a_look_its_acceptance_and_the_feed() {
    let (api, statements, _counting) = counted().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    let run = |run: &str| {
        let body = input(&session, run, "hello", Some("coder"));
        api.request("ada", Method::POST, "/my/agui/").json(&body)
    };
    // Until its headers are there: session and message, the agent's name, the acceptance, where the feed is; and the first read
    // of the feed, of the plan's steps and of what runs say may have begun, or a poll.
    for (what, name, expected) in [("a run", "a", 4..=8), ("the same again", "a", 3..=8)] {
        let before = statements.count();
        let response = run(name).send().await.expect("an answer");
        let cost = statements.count() - before;
        drop(response);
        assert!(expected.contains(&cost), "{what}: {cost}");
    }
}
