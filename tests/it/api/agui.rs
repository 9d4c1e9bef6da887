//! AG-UI at the edge: what is refused and how, one run however often and wherever it is asked for, and what it costs.

use std::{collections::HashSet, time::Duration};

use api::{ApiConfig, auth::AuthConfig};
use codelab_tests::{
    agui::{Seen, input},
    harness::eventually,
};
use futures::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Api, answer, secret};

/// A run of ada's, read to its end.
async fn run(api: &Api, body: &Value) -> Seen {
    let told = answer(api.request("ada", Method::POST, "/my/agui/").json(body)).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text);
    Seen::read(&told.text)
}

/// Works until so many steps are done.
async fn work(api: &Api, steps: usize, text: &str) {
    let mut done = 0;
    eventually("the steps come", async || {
        done += api.work(text).await;
        done >= steps
    })
    .await;
}

async fn plans(api: &Api) -> usize {
    let plans = api.get("ada", "/my/plans/").await;
    plans.ok()["items"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn agui_equal_runs_at_once_at_two_processes_are_one() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let config = ApiConfig::new(AuthConfig::hs256(secret()));
    let other = Api::on(api.database.twin(), config).await;

    let body = input("thread", "run", "hello", Some("coder"));
    let request = |base: &str| {
        let request = api.client.post(format!("{base}/my/agui/"));
        answer(request.bearer_auth(Api::token("ada")).json(&body))
    };
    let bases = [&api.base, &other.base].into_iter().cycle().take(12);
    let told = join(
        join_all(bases.map(|base| request(base))),
        work(&api, 1, "it is this"),
    );
    let (told, ()) = told.await;
    let told: Vec<Seen> = told.iter().map(|told| Seen::read(&told.text)).collect();
    let ended: HashSet<String> = told
        .iter()
        .map(|told| told.last()["result"].to_string())
        .collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(told[0].last()["result"]["answer"], "it is this");
    assert_eq!(plans(&api).await, 1);
    // Nothing is left that would run.
    assert_eq!(api.work("again").await, 0);
    other.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn agui_a_thread_is_a_session_of_ones_own_or_gets_one() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    for (thread, run_id) in [(session.as_str(), "a"), ("by name", "b"), ("by name", "c")] {
        let body = input(thread, run_id, "hello", Some("coder"));
        let (told, ()) = join(run(&api, &body), work(&api, 1, "it is this")).await;
        assert_eq!(told.last()["threadId"], thread);
    }
    let sessions = api.get("ada", "/my/chat/sessions/").await;
    let sessions = sessions.ok()["items"].as_array().expect("items").clone();
    assert_eq!(sessions.len(), 2);
    for found in sessions {
        let id = found["id"].as_str().expect("an id");
        let messages = api.get("ada", &format!("/my/chat/{id}/messages/")).await;
        let count = messages.ok()["items"].as_array().map_or(0, Vec::len);
        assert_eq!(count, if id == session { 2 } else { 4 });
        // What was closed stays closed, by whichever name.
        api.send(
            "ada",
            Method::DELETE,
            &format!("/my/chat/sessions/{id}/"),
            json!({}),
        )
        .await;
    }
    let gone = api
        .post(
            "ada",
            "/my/agui/",
            input("by name", "d", "hello", Some("coder")),
        )
        .await;
    assert_eq!(
        (gone.status, gone.problem()),
        (StatusCode::NOT_FOUND, "not_found")
    );
    let gone = api
        .post(
            "ada",
            "/my/agui/",
            input("by name", "b", "hello", Some("coder")),
        )
        .await;
    assert_eq!(
        (gone.status, gone.problem()),
        (StatusCode::NOT_FOUND, "not_found")
    );
}

#[tokio::test]
async fn agui_a_long_answer_comes_whole_each_time() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let long = "a long story ".repeat(2000);
    let body = input("thread", "run", "tell", Some("coder"));
    let (told, ()) = join(run(&api, &body), work(&api, 1, &long)).await;
    let again = run(&api, &body).await;
    for told in [told, again] {
        assert_eq!(
            told.texts().into_values().collect::<Vec<_>>(),
            [long.as_str()]
        );
        assert_eq!(told.last()["result"]["answer"], long.as_str());
    }
}

#[tokio::test]
async fn agui_a_stop_of_the_service_ends_the_stream_and_not_the_run() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let body = input("thread", "run", "hello", Some("coder"));
    let stop = async {
        eventually("it is taken in", async || plans(&api).await == 1).await;
        api.stop.cancel();
    };
    let (told, ()) = join(run(&api, &body), stop).await;
    assert_eq!(
        (&told.last()["type"], &told.last()["code"]),
        (&json!("RUN_ERROR"), &json!("reconnect"))
    );
    assert_eq!(api.work("it goes on").await, 1);
}

/// `(pointer, code)` of each wrong field.
type Fields = &'static [(&'static str, &'static str)];

/// Inputs that are wrong in themselves, and what they get.
#[expect(clippy::too_many_lines, reason = "a table")]
fn wrong() -> Vec<(&'static str, Value, Fields)> {
    let good = input("thread", "run", "hello", Some("coder"));
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).expect("it is there") = value;
        body
    };
    let without = |field: &str| {
        let mut body = good.clone();
        body.as_object_mut().expect("an object").remove(field);
        body
    };
    let resume = |answers: Value| {
        let mut body = good.clone();
        body["resume"] = answers;
        body
    };
    let one = json!({"interruptId": "x", "status": "resolved"});
    vec![
        (
            "no thread",
            without("threadId"),
            &[("/threadId", "missing_field")],
        ),
        ("no run", without("runId"), &[("/runId", "missing_field")]),
        (
            "no messages",
            without("messages"),
            &[("/messages", "missing_field")],
        ),
        (
            "empty names",
            json!({"threadId": "", "runId": "", "messages": []}),
            &[("/threadId", "too_short"), ("/runId", "too_short")],
        ),
        (
            "a long name",
            with("/threadId", json!("x".repeat(257))),
            &[("/threadId", "too_long")],
        ),
        (
            "a thread of another type",
            with("/threadId", json!(7)),
            &[("/threadId", "wrong_type")],
        ),
        (
            "messages of another type",
            with("/messages", json!({})),
            &[("/messages", "wrong_type")],
        ),
        (
            "a message of another type",
            with("/messages/0", json!("x")),
            &[("/messages/0", "wrong_type")],
        ),
        (
            "a message without id and role",
            with("/messages/0", json!({"content": "x"})),
            &[
                ("/messages/0/id", "missing_field"),
                ("/messages/0/role", "missing_field"),
            ],
        ),
        (
            "nothing said",
            with("/messages", json!([])),
            &[("/messages", "no_user_message")],
        ),
        (
            "nothing in it",
            with("/messages/0/content", json!(" ")),
            &[("/messages/0/content", "invalid")],
        ),
        (
            "content of another type",
            with("/messages/0/content", json!(7)),
            &[("/messages/0/content", "wrong_type")],
        ),
        (
            "a picture",
            with(
                "/messages/0/content",
                json!([{"type": "text", "text": "see"}, {"type": "image"}]),
            ),
            &[("/messages/0/content/1", "unsupported_content")],
        ),
        (
            "much content",
            with("/messages/0/content", json!("x".repeat(32_769))),
            &[("/messages/0/content", "too_long")],
        ),
        (
            "an agent of another type",
            with("/forwardedProps", json!({"agent": 7})),
            &[("/forwardedProps/agent", "missing_field")],
        ),
        (
            "a tool without a name",
            with("/tools", json!([{}])),
            &[("/tools/0/name", "missing_field")],
        ),
        (
            "an answer to nothing",
            resume(json!([{"status": "resolved"}])),
            &[("/resume/0/interruptId", "missing_field")],
        ),
        (
            "an answer of another kind",
            resume(json!([{"interruptId": "x", "status": "done"}])),
            &[("/resume/0/status", "unknown_value")],
        ),
        (
            "an answer twice",
            resume(json!([one, one])),
            &[("/resume/1/interruptId", "duplicate")],
        ),
        (
            "many answers",
            resume(vec![one; 101].into()),
            &[("/resume", "too_long")],
        ),
    ]
}

#[tokio::test]
async fn agui_each_wrong_input_gets_its_problem_before_any_stream() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    for (what, body, fields) in wrong() {
        let refused = api.post("ada", "/my/agui/", body).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed"),
            "{what}"
        );
        let fields: Vec<(String, String)> = fields
            .iter()
            .map(|(at, code)| ((*at).to_owned(), (*code).to_owned()))
            .collect();
        assert_eq!(refused.fields(), fields, "{what}: {}", refused.text);
    }
    let nobody = api
        .post(
            "ada",
            "/my/agui/",
            input("thread", "run", "hello", Some("nobody")),
        )
        .await;
    assert_eq!(
        (nobody.status, nobody.problem()),
        (StatusCode::NOT_FOUND, "agent_not_found")
    );
    let foreign = api.agent("bob", "spy").await;
    let foreign = api
        .post(
            "ada",
            "/my/agui/",
            input("thread", "run", "hello", Some(&foreign)),
        )
        .await;
    assert_eq!(foreign.json["detail"], nobody.json["detail"]);
    let raw = api.request("ada", Method::POST, "/my/agui/").body("{}");
    assert_eq!(answer(raw).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let sessions = api.get("ada", "/my/chat/sessions/").await;
    assert_eq!(
        (sessions.ok()["items"].clone(), plans(&api).await),
        (json!([]), 0)
    );
}

#[tokio::test]
async fn agui_the_line_of_a_thread_is_bounded_and_a_known_run_needs_no_room() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    // Whoever has its headers has been taken in.
    let begin = async |run: usize| -> Answer {
        let body = input("thread", &run.to_string(), "hello", Some("coder"));
        let response = api
            .request("ada", Method::POST, "/my/agui/")
            .json(&body)
            .send()
            .await
            .expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let text = if status.is_success() {
            String::new()
        } else {
            response.text().await.expect("a body")
        };
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer {
            status,
            headers,
            text,
            json,
        }
    };
    for run in 0..11 {
        assert_eq!(begin(run).await.status, StatusCode::OK);
    }
    let full = begin(11).await;
    assert_eq!(
        (full.status, full.problem()),
        (StatusCode::TOO_MANY_REQUESTS, "session_full")
    );
    assert_eq!(begin(5).await.status, StatusCode::OK);
    assert_eq!(plans(&api).await, 11);
}

#[tokio::test]
async fn agui_too_many_streams_turn_nobody_away_who_was_taken_in() {
    let config = ApiConfig {
        max_streams_per_user: 1,
        heartbeat: Duration::from_millis(50),
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    };
    let api = Api::start_with(config).await;
    api.agent("ada", "coder").await;
    let body = input("thread", "run", "hello", Some("coder"));
    let first = api
        .request("ada", Method::POST, "/my/agui/")
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(first.status(), StatusCode::OK);
    let second = api
        .post(
            "ada",
            "/my/agui/",
            input("thread", "other", "hello", Some("coder")),
        )
        .await;
    assert_eq!(
        (second.status, second.problem()),
        (StatusCode::TOO_MANY_REQUESTS, "too_many_streams")
    );
    assert_eq!(plans(&api).await, 1);
    // Silence is broken by comments, which are no events.
    tokio::time::sleep(Duration::from_millis(200)).await;
    work(&api, 1, "it is this").await;
    let told = first.text().await.expect("the stream holds");
    assert!(told.contains(": still here\n\n"), "{told}");
    assert_eq!(Seen::read(&told).last()["result"]["answer"], "it is this");
}

#[tokio::test]
async fn agui_as_a_framing_of_the_feed_shows_a_run_whole_or_says_why_not() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    let path = |session: &str, query: &str| format!("/my/chat/{session}/events/?{query}");
    for query in ["format=xml", "format=agui&after=0", "format=agui&types=x"] {
        let refused = api.get("ada", &path(&session, query)).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::BAD_REQUEST, "bad_query"),
            "{query}"
        );
    }
    let said = json!({"content": "hello"});
    for (user, session) in [("ada", session.as_str()), ("eve", session.as_str())] {
        let nothing = api.get(user, &path(session, "format=agui")).await;
        assert_eq!(
            (nothing.status, nothing.problem()),
            (StatusCode::NOT_FOUND, "not_found")
        );
    }
    let message = format!("/my/chat/{session}/message/");
    let plan = api.post("ada", &message, said).await.ok()["plan_id"].clone();
    let foreign = api.get("eve", &path(&session, "format=agui")).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    let mut feed = api
        .request("ada", Method::GET, &path(&session, "format=agui"))
        .send()
        .await
        .expect("a stream");
    let first = feed.chunk().await.expect("a chunk").expect("no end");
    let first = String::from_utf8_lossy(&first).into_owned();
    let data = first.lines().find_map(|line| line.strip_prefix("data: "));
    let first: Value = serde_json::from_str(data.expect("an event")).expect("JSON");
    assert_eq!(first["type"], "RUN_STARTED");
    assert_eq!(
        (&first["threadId"], &first["runId"]),
        (&json!(session), &plan)
    );
}
