//! How a stream behaves as a stream: its form, its silence, text on its way, its limits and its end.

use std::time::Duration;

use api::{
    ApiConfig,
    auth::{AuthConfig, dev_token},
};
use codelab_tests::harness::eventually;
use engine::{
    event::hints::Delta,
    id::{PlanId, SessionId, StepId, UserId},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, Feed, answer, secret};

fn config() -> ApiConfig {
    ApiConfig::new(AuthConfig::hs256(secret()))
}

fn delta(
    user: UserId,
    session: Option<SessionId>,
    step: StepId,
    offset: usize,
    text: &str,
) -> Delta {
    Delta {
        user,
        session,
        plan: PlanId::new(),
        step,
        key: "answer".to_owned(),
        attempt: 2,
        turn: 0,
        offset,
        text: text.to_owned(),
    }
}

#[tokio::test]
async fn a_stream_says_how_it_is_to_be_treated() {
    let api = Api::start().await;
    let response = api
        .request("ada", Method::GET, "/my/events/")
        .send()
        .await
        .expect("a stream");
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    assert!(!header("x-request-id").is_empty());
    let mut feed = Feed::open(api.request("ada", Method::GET, "/my/events/")).await;
    let first = feed.raw().await;
    let retry: u32 = first
        .strip_prefix("retry: ")
        .and_then(|rest| rest.strip_suffix("\n\n"))
        .expect("retry")
        .parse()
        .expect("a number");
    assert!((2000..3000).contains(&retry), "{retry}");
}

#[tokio::test]
async fn silence_is_broken_by_comments() {
    let api = Api::start_with(ApiConfig {
        heartbeat: Duration::from_millis(20),
        ..config()
    })
    .await;
    let mut feed = Feed::open(api.request("ada", Method::GET, "/my/events/")).await;
    feed.raw().await;
    for _ in 0..3 {
        assert_eq!(feed.raw().await, ": still here\n\n");
    }
    let mut lines = Feed::open(
        api.request("ada", Method::GET, "/my/events/")
            .header("accept", "application/x-ndjson"),
    )
    .await;
    assert_eq!(lines.raw().await, "\n");
}

#[tokio::test]
async fn lines_of_json_are_the_same_events() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "hello"}),
    )
    .await
    .ok();
    let path = "/my/events/?after=0";
    let mut events = Feed::open(api.request("ada", Method::GET, path)).await;
    let request = api
        .request("ada", Method::GET, path)
        .header("accept", "application/x-ndjson");
    let mut response = request.send().await.expect("a stream");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut text = String::new();
    while text.lines().count() < 2 {
        text += str::from_utf8(&response.chunk().await.expect("a chunk").expect("no end"))
            .expect("text");
    }
    for line in text.lines().take(2) {
        assert_eq!(
            serde_json::from_str::<Value>(line).expect("JSON"),
            events.event().await.data
        );
    }
}

#[tokio::test]
async fn text_on_its_way_comes_in_pieces_without_an_id() {
    let api = Api::start().await;
    let session: SessionId = api.session("ada").await.parse().expect("an id");
    let other: SessionId = api.session("ada").await.parse().expect("an id");
    let (ada, eve) = (api.scope("ada").await.user(), api.scope("eve").await.user());
    let path = format!("/my/chat/{session}/events/");
    let mut feed = Feed::open(api.request("ada", Method::GET, &path)).await;
    let mut deaf =
        Feed::open(api.request("ada", Method::GET, &format!("{path}?types=plan_completed"))).await;
    feed.raw().await;
    let (step, said) = (StepId::new(), 200);
    let strange = [(eve, Some(session)), (ada, Some(other)), (ada, None)]
        .map(|(user, session)| delta(user, session, StepId::new(), 0, "?"));
    let mut offset = 0;
    for n in 0..said {
        for delta in &strange {
            api.store.hints().delta(delta.clone());
        }
        let piece = format!("{n} ");
        api.store
            .hints()
            .delta(delta(ada, Some(session), step, offset, &piece));
        offset += piece.len();
    }
    let expected = (0..said)
        .map(|n| format!("{n} "))
        .collect::<Vec<_>>()
        .concat();
    let (mut text, mut frames) = (String::new(), 0);
    while text.len() < expected.len() {
        let frame = feed.event().await;
        assert_eq!((frame.id, frame.event.as_str()), (None, "task_progress"));
        assert_eq!(
            (
                &frame.data["payload"]["key"],
                &frame.data["payload"]["attempt"]
            ),
            (&json!("answer"), &json!(2))
        );
        assert_eq!(
            (&frame.data["session_id"], &frame.data["step_id"]),
            (&json!(session), &json!(step))
        );
        text += frame.data["payload"]["delta"].as_str().expect("text");
        frames += 1;
    }
    assert_eq!(text, expected);
    assert!(
        frames <= 20,
        "{frames} frames for {said} pieces: they are joined"
    );
    api.drain().await;
    assert_eq!(
        deaf.event().await.event,
        "reconnect",
        "nothing before the end"
    );
}

#[tokio::test]
async fn what_a_step_said_comes_before_its_end() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    api.agent("ada", "coder").await;
    let mut feed =
        Feed::open(api.request("ada", Method::GET, &format!("/my/chat/{session}/events/"))).await;
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "hello", "target_agent": "coder"}),
    )
    .await
    .ok();
    let claims = api
        .store
        .claim(engine::id::WorkerId::new(), 1)
        .await
        .expect("a claim");
    api.store.hints().feed(claims[0].scope.user());
    while feed.event().await.event != "task_started" {}
    let say = |offset, text: &str| {
        api.store.hints().delta(delta(
            claims[0].scope.user(),
            session.parse().ok(),
            claims[0].id,
            offset,
            text,
        ));
    };
    say(0, "some words, ");
    assert_eq!(
        feed.event().await.data["payload"]["delta"],
        "some words, ",
        "goes out at once"
    );
    say("some words, ".len(), "the last words");
    api.finish(&claims[0], "some words, the last words").await;
    let said = feed.event().await;
    assert_eq!(
        (said.id, &said.data["payload"]["delta"]),
        (None, &json!("the last words")),
        "is held back, but not for too long"
    );
    assert_eq!(feed.event().await.event, "task_completed");
}

#[tokio::test]
async fn a_person_has_so_many_streams_and_no_more() {
    let api = Api::start_with(ApiConfig {
        max_streams_per_user: 3,
        ..config()
    })
    .await;
    let open = || Feed::open(api.request("ada", Method::GET, "/my/events/"));
    let mut streams = vec![open().await, open().await, open().await];
    let refused = answer(api.request("ada", Method::GET, "/my/events/")).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (StatusCode::TOO_MANY_REQUESTS, "too_many_streams")
    );
    assert!(!refused.header("retry-after").is_empty());
    Feed::open(api.request("eve", Method::GET, "/my/events/"))
        .await
        .raw()
        .await;
    streams.pop();
    eventually("a closed stream makes room", async || {
        api.request("ada", Method::GET, "/my/events/")
            .send()
            .await
            .expect("an answer")
            .status()
            == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_every_stream_with_a_word() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "hello"}),
    )
    .await
    .ok();
    let last = api
        .store
        .last_seq(api.scope("ada").await)
        .await
        .expect("a seq");
    let mut busy = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
    busy.until(last).await;
    let mut idle = Feed::open(api.request("eve", Method::GET, "/my/events/")).await;
    api.drain().await;
    for (feed, cursor) in [(&mut busy, last), (&mut idle, 0)] {
        let end = feed.event().await;
        assert_eq!((end.event.as_str(), end.id), ("reconnect", None));
        assert_eq!(
            end.data["payload"],
            json!({"reason": "draining", "cursor": cursor})
        );
        assert_eq!(feed.next().await, None, "and nothing after it");
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let api = Api::start().await;
    let token = dev_token(&secret(), "ada", Duration::from_secs(2), None, None).expect("a token");
    let mut feed = Feed::open(api.open(Method::GET, "/my/events/").bearer_auth(token)).await;
    let warning = feed.event().await;
    assert_eq!(
        (
            warning.event.as_str(),
            warning.id,
            &warning.data["payload"]["cursor"]
        ),
        ("auth_expiring", None, &json!(0)),
        "less than half a minute is left"
    );
    let end = feed.event().await;
    assert_eq!(
        (end.event.as_str(), &end.data["payload"]["reason"]),
        ("reconnect", &json!("token_expired"))
    );
    assert_eq!(feed.next().await, None);
}
