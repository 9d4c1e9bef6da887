//! `Prefer: wait`: the answer with the request that asked for it, when it comes in time.

use std::time::{Duration, Instant};

use api::{ApiConfig, auth::AuthConfig};
use codelab_tests::harness::eventually;
use engine::{
    id::WorkerId,
    step::{Outcome, StepError, outcome::ErrorClass},
};
use futures::future::{join, join_all};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{Api, answer, secret};

/// Only hints wake: a lost one would show.
async fn start() -> Api {
    let config = ApiConfig {
        poll: Duration::from_hours(1),
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    };
    Api::start_with(config).await
}

fn say(api: &Api, session: &str, wait: &str) -> RequestBuilder {
    let body = json!({"content": "what is it?", "target_agent": "coder"});
    api.request("ada", Method::POST, &format!("/my/chat/{session}/message/"))
        .header("prefer", wait)
        .json(&body)
}

/// Works until so many steps are done.
async fn work(api: &Api, steps: usize) {
    let mut done = 0;
    eventually("the steps come", async || {
        done += api.work("it is this").await;
        done >= steps
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_in_time_is_the_response() {
    let api = start().await;
    let (agent, session) = (api.agent("ada", "coder").await, api.session("ada").await);
    let (answered, ()) = join(
        answer(say(&api, &session, "respond-async, wait=20")),
        work(&api, 1),
    )
    .await;
    assert_eq!(
        (answered.status, answered.header("preference-applied")),
        (StatusCode::OK, "wait=20"),
        "{}",
        answered.text
    );
    let body = &answered.json;
    assert_eq!(
        (&body["mode"], &body["state"], &body["cursor"]),
        (&json!("direct"), &json!("succeeded"), &json!(0))
    );
    let messages = api
        .get("ada", &format!("/my/chat/{session}/messages/"))
        .await;
    let [asked, answer] = messages.ok()["items"].as_array().expect("items").as_slice() else {
        panic!("{}", messages.text)
    };
    assert_eq!(
        (&body["message_id"], &body["plan_id"]),
        (&asked["id"], &asked["plan_id"])
    );
    let expected = json!({"id": answer["id"], "content": "it is this", "agent_id": agent, "created_at": answer["created_at"]});
    assert_eq!(body["answer"], expected);
}

#[tokio::test]
async fn without_the_header_or_in_vain_it_is_accepted_as_usual() {
    let api = start().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    for wait in ["", "wait=0", "wait=soon"] {
        let accepted = answer(say(&api, &session, wait)).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED, "{wait}");
        let fields: Vec<&String> = accepted
            .json
            .as_object()
            .expect("an object")
            .keys()
            .collect();
        assert_eq!(
            fields,
            ["cursor", "message_id", "mode", "plan_id"],
            "{wait}"
        );
    }
    let begun = Instant::now();
    let accepted = answer(say(&api, &session, "wait=1")).await;
    assert_eq!(
        (accepted.status, accepted.header("preference-applied")),
        (StatusCode::ACCEPTED, "")
    );
    assert!(
        (1..5).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_wait_is_cut_to_what_the_service_grants_and_by_its_stop() {
    let config = ApiConfig {
        wait_limit: Duration::from_secs(1),
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    };
    let api = Api::start_with(config).await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    assert_eq!(
        answer(say(&api, &session, "wait=100000")).await.status,
        StatusCode::ACCEPTED
    );

    let api = start().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    let begun = Instant::now();
    let stop = api.stop.clone();
    let stopped = async {
        // The message is there, so that the request is waiting or about to.
        eventually("the message arrives", async || {
            api.store
                .last_seq(api.scope("ada").await)
                .await
                .expect("a seq")
                > 0
        })
        .await;
        stop.cancel();
    };
    let (accepted, ()) = join(answer(say(&api, &session, "wait=15")), stopped).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    assert!(begun.elapsed() < Duration::from_secs(10));
    api.drain().await;
}

#[tokio::test]
async fn a_failure_is_an_answer_too() {
    let api = start().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    let fail = async {
        let mut claims = Vec::new();
        eventually("the step comes", async || {
            claims = api.store.claim(WorkerId::new(), 1).await.expect("a claim");
            !claims.is_empty()
        })
        .await;
        let error = StepError {
            class: ErrorClass::Invalid,
            code: "no_model".to_owned(),
            message: "there is no such model".to_owned(),
        };
        api.store
            .finish(&claims[0], &Outcome::Fail { error, reply: None })
            .await
            .expect("a finish");
        api.store.hints().feed(claims[0].scope.user());
    };
    let (answered, ()) = join(answer(say(&api, &session, "wait=20")), fail).await;
    assert_eq!(
        (
            answered.status,
            &answered.json["state"],
            &answered.json["answer"]
        ),
        (StatusCode::OK, &json!("failed"), &Value::Null)
    );
}

#[tokio::test]
async fn many_waits_of_one_person_end_each_with_its_own_answer() {
    let api = start().await;
    api.send(
        "ada",
        Method::POST,
        "/my/agents/",
        json!({"name": "coder", "config": {"max_concurrency": 10}}),
    )
    .await
    .created();
    let mut sessions = Vec::new();
    for _ in 0..40 {
        sessions.push(api.session("ada").await);
    }
    let asked = join_all(
        sessions
            .iter()
            .map(|session| answer(say(&api, session, "wait=20"))),
    );
    let (answers, ()) = join(asked, work(&api, 40)).await;
    let mut plans = std::collections::HashSet::new();
    for answered in &answers {
        assert_eq!(answered.status, StatusCode::OK, "{}", answered.text);
        assert!(plans.insert(answered.json["plan_id"].to_string()));
        assert_eq!(answered.json["answer"]["content"], "it is this");
    }
}

#[tokio::test]
async fn a_session_takes_ten_more_messages_and_an_agent_a_hundred_steps() {
    let api = start().await;
    api.agent("ada", "coder").await;
    let session = api.session("ada").await;
    for _ in 0..11 {
        assert_eq!(
            answer(say(&api, &session, "")).await.status,
            StatusCode::ACCEPTED
        );
    }
    let full = answer(say(&api, &session, "wait=5")).await;
    assert_eq!(
        (full.status, full.problem()),
        (StatusCode::TOO_MANY_REQUESTS, "session_full")
    );
    assert!(!full.header("retry-after").is_empty());
    // Three steps have a place, a hundred wait for one.
    let steps: Vec<Value> = (0..102)
        .map(|n| json!({"key": format!("s{n}"), "agent": "coder"}))
        .collect();
    api.post("ada", "/my/plans/", json!({"goal": "much", "steps": steps}))
        .await
        .created();
    let other = api.session("ada").await;
    let busy = answer(say(&api, &other, "")).await;
    assert_eq!(
        (busy.status, busy.problem()),
        (StatusCode::SERVICE_UNAVAILABLE, "agent_queue_full")
    );
    assert!(!busy.header("retry-after").is_empty());
}
