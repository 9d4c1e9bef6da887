//! The one binary as a person meets it: real processes, real signals, what they print.
#![expect(clippy::expect_used, reason = "a test stops at the first surprise")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use codelab_tests::{
    harness,
    process::{Codelab, complaints},
};
use nix::sys::signal::Signal;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

/// Any port that is free.
const ANY_PORT: [&str; 3] = ["up", "--listen", "127.0.0.1:0"];

/// Longest end on a machine that does much else; whatever is cut off in the meantime is told in the log.
const STOPS_WITHIN: Duration = Duration::from_secs(25);

/// An `up` that has said all it has to say.
struct Up {
    process: Codelab,
    url: String,
    token: String,
    http: Client,
}

impl Up {
    async fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        engine::install_crypto();
        let mut process = Codelab::start(&ANY_PORT, variables, folder).await;
        let export = process.says("export CODELAB_URL=").await;
        process.says("/events/?after=0").await;
        let value = |name: &str| {
            let (_, value) = export
                .split_once(&format!("{name}="))
                .expect("it is exported");
            value
                .split_whitespace()
                .next()
                .expect("it has a value")
                .to_owned()
        };
        let http = Client::builder().no_proxy().build().expect("a client");
        Self {
            process,
            url: value("CODELAB_URL"),
            token: value("CODELAB_TOKEN"),
            http,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http
            .get(format!("{}/my/{path}", self.url))
            .bearer_auth(&self.token)
    }

    async fn read(&self, path: &str) -> Value {
        sent(self.get(path)).await.1
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        sent(
            self.http
                .post(format!("{}/my/{path}", self.url))
                .bearer_auth(&self.token)
                .header("Prefer", "wait=20")
                .json(body),
        )
        .await
    }

    async fn session(&self) -> String {
        text(&self.post("chat/sessions/", &json!({})).await.1, "id")
    }

    /// Says something that an agent cannot answer before its second try, and waits until it tries.
    async fn say_something_slow(&self) -> String {
        let script = json!({"turns": [{"until_attempt": 1, "hang": true}, {"text": "At last."}]});
        self.post(
            "agents/",
            &json!({"name": "slow", "config": {"model": "scripted/slow", "script": script}}),
        )
        .await;
        let session = self.session().await;
        let request = self
            .http
            .post(format!("{}/my/chat/{session}/message/", self.url))
            .bearer_auth(&self.token);
        let (status, said) =
            sent(request.json(&json!({"content": "Are you there?", "target_agent": "slow"}))).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{said}");
        let plan = text(&said, "plan_id");
        harness::eventually("the step runs", async || {
            self.read(&format!("plans/{plan}/")).await["counts"]["running"] == 1
        })
        .await;
        plan
    }

    async fn assert_succeeds_at_second_try(&self, plan: &str) {
        harness::eventually("the plan succeeds", async || {
            self.read(&format!("plans/{plan}/")).await["state"] == "succeeded"
        })
        .await;
        let steps = self.read(&format!("plans/{plan}/steps/")).await;
        assert_eq!(steps["items"][0]["attempt"], 2, "{steps}");
        assert_eq!(steps["items"][0]["result"]["text"], "At last.", "{steps}");
    }

    /// Stops it as a service manager does.
    async fn stop(self) {
        let asked = Instant::now();
        self.process.signal(Signal::SIGTERM);
        let (status, said) = self.process.ends().await;
        assert_eq!(status.code(), Some(0), "{said}");
        let took = asked.elapsed();
        assert!(took < STOPS_WITHIN, "it took {took:?}:\n{said}");
        let complaints = complaints(&said);
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

async fn sent(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    (response.status(), response.json().await.expect("JSON"))
}

fn text(document: &Value, field: &str) -> String {
    document[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {document}"))
        .to_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn demo_shows_every_step_and_succeeds() {
    let folder = folder();
    let (status, said) = Codelab::run(&["demo"], &[], folder.path()).await;
    assert_eq!(status.code(), Some(0), "{said}");
    for words in [
        "planning",
        "research",
        "code",
        "tests",
        "guide",
        "review",
        "summary",
        "The team answers",
        "7 of 7 steps",
    ] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    assert!(!said.contains('\x1b'), "no terminal, no escape sequences");
    assert_eq!(
        folder.path().read_dir().expect("a folder").count(),
        0,
        "nothing stays behind"
    );
}

#[tokio::test]
async fn demo_can_be_broken_off() {
    let folder = folder();
    let mut demo = Codelab::start(&["demo"], &[], folder.path()).await;
    demo.says("started").await;
    demo.signal(Signal::SIGINT);
    let (status, said) = demo.ends().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("Broken off"), "{said}");
}

#[tokio::test]
async fn up_answers_with_the_printed_token_and_keeps_it_over_a_restart() {
    let folder = folder();
    let up = Up::start(folder.path(), &[]).await;
    let session = up.session().await;
    let (status, answered) = up
        .post(
            &format!("chat/{session}/message/"),
            &json!({"content": "Compare two ways"}),
        )
        .await;
    assert_eq!(
        (status, &answered["state"]),
        (StatusCode::OK, &json!("succeeded")),
        "{answered}"
    );
    let plan = text(&answered, "plan_id");
    let environment = [
        ("CODELAB_URL", up.url.as_str()),
        ("CODELAB_TOKEN", up.token.as_str()),
    ];
    let (status, watched) = Codelab::run(&["watch", &plan], &environment, folder.path()).await;
    assert_eq!(status.code(), Some(0), "{watched}");
    assert!(
        watched.contains("reviewer") && watched.contains("6 succeeded"),
        "{watched}"
    );
    let token = up.token.clone();
    up.stop().await;

    let mut again = Up::start(folder.path(), &[]).await;
    again
        .process
        .says("researcher, coder, reviewer, writer")
        .await;
    again.token = token;
    assert_eq!(
        again.read(&format!("plans/{plan}/")).await["state"],
        "succeeded"
    );
    let (status, printed) = Codelab::run(
        &["token", "--user", "demo", "--ttl", "1h"],
        &[],
        folder.path(),
    )
    .await;
    assert_eq!(status.code(), Some(0), "{printed}");
    again.token = printed;
    assert_eq!(
        again.read(&format!("plans/{plan}/")).await["state"],
        "succeeded"
    );
    again.stop().await;
}

#[tokio::test]
async fn up_gives_steps_back_when_it_stops_and_the_next_one_runs_them() {
    let folder = folder();
    // A lease that nobody waits for: the step must have been given back.
    let lease = [("CODELAB_LEASE_SECONDS", "3600")];
    let up = Up::start(folder.path(), &lease).await;
    let plan = up.say_something_slow().await;
    up.stop().await;
    let again = Up::start(folder.path(), &lease).await;
    again.assert_succeeds_at_second_try(&plan).await;
    again.stop().await;
}

#[tokio::test]
async fn up_continues_open_plans_after_kill_9() {
    let folder = folder();
    let lease = [("CODELAB_LEASE_SECONDS", "3")];
    let up = Up::start(folder.path(), &lease).await;
    let plan = up.say_something_slow().await;
    up.process.signal(Signal::SIGKILL);
    up.process.ends().await;
    let again = Up::start(folder.path(), &lease).await;
    again.assert_succeeds_at_second_try(&plan).await;
    again.stop().await;
}

#[tokio::test]
async fn questions_are_shown_and_answered_in_the_terminal() {
    let folder = folder();
    let up = Up::start(folder.path(), &[]).await;
    let turns = json!([
        {"until_results": 1, "tool_calls": [{"name": "ask_user", "arguments": {"question": "Which colour?\u{202e}"}}]},
        {"text": "heard {{last}}"}]);
    let config = json!({"tools": ["ask_user"], "script": {"turns": turns}});
    up.post("agents/", &json!({"name": "painter", "config": config}))
        .await;
    let steps = json!([{"key": "paint", "agent": "painter"}]);
    let (_, plan) = up
        .post("plans/", &json!({"goal": "paint", "steps": steps}))
        .await;
    let plan = text(&plan, "id");
    harness::eventually("it asks", async || {
        up.read(&format!("plans/{plan}/")).await["phase"] == "awaiting_approval"
    })
    .await;
    let variables = [
        ("CODELAB_URL", up.url.as_str()),
        ("CODELAB_TOKEN", &up.token),
    ];
    let run = async |arguments: &[&str]| {
        let (status, said) = Codelab::run(arguments, &variables, folder.path()).await;
        assert_eq!(status.code(), Some(0), "{said}");
        said
    };
    let listed = run(&["approvals"]).await;
    assert!(
        listed.contains("Which colour?\\u{202e}") && listed.contains("left"),
        "what turns text around is seen: {listed}"
    );
    let id = listed.split_whitespace().next().expect("an id").to_owned();
    let answered = run(&["approvals", &id, "answer", "--input", "blue"]).await;
    assert!(answered.contains("answered"), "{answered}");
    harness::eventually("the plan ends", async || {
        up.read(&format!("plans/{plan}/")).await["state"] == "succeeded"
    })
    .await;
    assert!(run(&["approvals"]).await.contains("Nothing waits for you"));
    assert!(run(&["approvals", "--all"]).await.contains(&id));
    let (status, said) =
        Codelab::run(&["approvals", &id, "reopen"], &variables, folder.path()).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("was not declined"), "{said}");
    up.stop().await;
}

#[tokio::test]
async fn two_ups_in_two_folders_do_not_meet() {
    let (one, two) = (folder(), folder());
    let (one, mut two) = tokio::join!(Up::start(one.path(), &[]), Up::start(two.path(), &[]));
    one.session().await;
    assert_eq!(two.read("chat/sessions/").await["items"], json!([]));
    two.token.clone_from(&one.token);
    assert_eq!(
        sent(two.get("chat/sessions/")).await.0,
        StatusCode::UNAUTHORIZED,
        "another folder, another secret"
    );
    tokio::join!(one.stop(), two.stop());
}

#[tokio::test]
async fn a_second_up_in_the_same_folder_is_told_where_the_first_is() {
    let folder = folder();
    let up = Up::start(folder.path(), &[]).await;
    let (status, said) = Codelab::run(&ANY_PORT, &[], folder.path()).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("already runs") && said.contains(&up.url) && said.contains("--data-dir"),
        "{said}"
    );
    assert_eq!(
        sent(up.get("agents/")).await.0,
        StatusCode::OK,
        "the first one does not mind"
    );
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_to_use() {
    let folder = folder();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (status, said) = Codelab::run(&["up", "--listen", &address], &[], folder.path()).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains(&address) && said.contains("taken") && said.contains("--listen"),
        "{said}"
    );
}

#[tokio::test]
async fn wrong_settings_are_all_told_at_once() {
    let variables = [
        ("DATABASE_URL", "mysql://me:hunter2@host/x"),
        ("CODELAB_LISTEN", "nowhere"),
        ("CODELAB_LEASE_SECONDS", "-1"),
        ("CODELAB_JWT_SECRET", "short"),
        ("CODELAB_LOG_FORMAT", "xml"),
    ];
    let (status, said) = Codelab::run(&["api"], &variables, folder().path()).await;
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        variables.iter().all(|(name, _)| said.contains(name)),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
    let (status, said) = Codelab::run(&["worker"], &[], folder().path()).await;
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("DATABASE_URL is not set"), "{said}");
}

#[tokio::test]
async fn no_token_is_made_where_an_identity_provider_makes_them() {
    let variables = [("CODELAB_JWKS_URL", "https://id.example/jwks.json")];
    let (status, said) =
        Codelab::run(&["token", "--user", "me"], &variables, folder().path()).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("identity provider"), "{said}");
}

#[tokio::test]
async fn the_tiers_want_the_schema_and_migrate_brings_it() {
    let folder = folder();
    let name = format!("t{}", Uuid::now_v7().simple());
    let url = tokio::task::spawn_blocking(move || {
        harness::postgres()
            .create_database(&name, None)
            .expect("a database");
        harness::postgres().url(&name)
    });
    let url = url.await.expect("no panic");
    let database = [
        ("DATABASE_URL", url.as_str()),
        ("CODELAB_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    let run = |arguments: &'static [&str]| Codelab::run(arguments, &database, folder.path());
    for tier in [&["worker"][..], &["api", "--listen", "127.0.0.1:0"]] {
        let (status, said) = Codelab::run(tier, &database, folder.path()).await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("codelab migrate up"), "{said}");
    }
    assert_eq!(run(&["migrate", "status"]).await.0.code(), Some(1));
    assert_eq!(run(&["doctor"]).await.0.code(), Some(1));
    assert_eq!(run(&["migrate", "up"]).await.0.code(), Some(0));
    assert_eq!(run(&["migrate", "status"]).await.0.code(), Some(0));
    let (status, said) = run(&["doctor"]).await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("has the schema"), "{said}");

    let mut worker = Codelab::start(&["worker"], &database, folder.path()).await;
    worker.says("the worker takes steps").await;
    worker.signal(Signal::SIGTERM);
    let (status, said) = worker.ends().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("every lease is given back"), "{said}");

    let (status, said) = run(&["migrate", "down"]).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(run(&["migrate", "down", "--yes"]).await.0.code(), Some(0));
    assert_eq!(run(&["migrate", "status"]).await.0.code(), Some(1));
}
