//! The feed: nothing is lost and nothing comes twice, wherever one begins and however slowly one reads.

use std::time::Duration;

use api::{ApiConfig, auth::AuthConfig};
use engine::id::AgentId;
use engine::testing::{Shape, explicit};
use futures::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Api, Feed, Frame, answer, secret};

/// Without a poll in the test's time: only hints wake.
fn hints_only() -> ApiConfig {
    ApiConfig {
        poll: Duration::from_hours(1),
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    }
}

/// Polls fast, for tests in which nobody gives hints.
fn polls_only() -> ApiConfig {
    ApiConfig {
        poll: Duration::from_millis(20),
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    }
}

fn ids(frames: &[Frame]) -> Vec<i64> {
    frames.iter().filter_map(|frame| frame.id).collect()
}

fn all(from: i64, to: i64) -> Vec<i64> {
    (from..=to).collect()
}

fn from_start(api: &Api) -> RequestBuilder {
    api.request("ada", Method::GET, "/my/events/?after=0")
}

/// Accepts so many plans of eight steps without a hint to anybody.
async fn events_in_silence(api: &Api, plans: usize) {
    let scope = api.scope("ada").await;
    let other = api.database.store();
    let agent: AgentId = match api
        .store
        .agents(scope, None, 1)
        .await
        .expect("agents")
        .first()
    {
        Some(agent) => agent.id,
        None => codelab_tests::harness::agent(&api.store, scope, "coder", 3).await,
    };
    for _ in 0..plans {
        other
            .accept_plan(scope, &explicit(Shape::Diamond(6), &[agent], None))
            .await
            .expect("accepted");
        other
            .claim(engine::id::WorkerId::new(), 100)
            .await
            .expect("a claim");
    }
}

async fn last_seq(api: &Api) -> i64 {
    let scope = api.scope("ada").await;
    api.store.last_seq(scope).await.expect("a seq")
}

#[tokio::test]
async fn an_event_is_sent_as_it_was_stored() {
    let api = Api::start_with(hints_only()).await;
    let session = api.session("ada").await;
    api.agent("ada", "coder").await;
    let said = api
        .post(
            "ada",
            &format!("/my/chat/{session}/message/"),
            json!({"content": "a\r\nb\n\nid: 99\nevent: x", "target_agent": "coder"}),
        )
        .await;
    let mut feed = Feed::open(from_start(&api)).await;
    let first = feed.event().await;
    assert_eq!(
        (first.id, first.event.as_str()),
        (Some(1), "message_created")
    );
    assert_eq!(
        first.data["payload"]["content"], "a\r\nb\n\nid: 99\nevent: x",
        "and cannot break out of its line"
    );
    assert_eq!(
        (&first.data["seq"], &first.data["event_type"]),
        (&json!(1), &json!("message_created"))
    );
    assert_eq!(
        (&first.data["session_id"], &first.data["plan_id"]),
        (&json!(session), &said.json["plan_id"])
    );
    let stamp = first.data["timestamp"].as_str().expect("a timestamp");
    assert!(
        chrono::DateTime::parse_from_rfc3339(stamp).is_ok(),
        "{stamp}"
    );
    assert_eq!(
        said.json["cursor"], 0,
        "everything of the message comes after its cursor"
    );
}

#[tokio::test]
async fn streams_begun_at_any_moment_see_every_event_once() {
    let api = Api::start_with(hints_only()).await;
    let scope = api.scope("ada").await;
    let agent: AgentId = api.agent("ada", "coder").await.parse().expect("an id");
    // Writers and readers at the same time; the hints come as they come.
    let write = async {
        for _ in 0..60 {
            api.store
                .accept_plan(scope, &explicit(Shape::Chain(3), &[agent], None))
                .await
                .expect("accepted");
            api.work("done").await;
        }
        while api.work("done").await > 0 {}
        last_seq(&api).await
    };
    let read = join_all((0..12).map(|n| {
        let api = &api;
        async move {
            // The readers begin one after another, while events come: each waits for one more plan.
            while last_seq(api).await < i64::from(n) * 35 {
                tokio::task::yield_now().await;
            }
            Feed::open(from_start(api)).await
        }
    }));
    let (last, feeds) = tokio::join!(write, read);
    assert!(last > 400, "{last}");
    for mut feed in feeds {
        assert_eq!(ids(&feed.until(last).await), all(1, last));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_up_and_loses_nothing() {
    let api = Api::start_with(hints_only()).await;
    let mut slow = Feed::open(from_start(&api)).await;
    let mut fast = Feed::open(from_start(&api)).await;
    slow.raw().await;
    // More than all buffers between hold: 20 MB in events of 8 KB.
    let many = 2500;
    api.flood("ada", many, 8000).await;
    assert_eq!(
        ids(&fast.until(many).await),
        all(1, many),
        "while the other one does not read"
    );
    assert_eq!(ids(&slow.until(many).await), all(1, many));
}

#[tokio::test]
async fn a_reader_that_was_left_behind_is_served_from_postgres() {
    let api = Api::start_with(hints_only()).await;
    let mut feed = Feed::open(from_start(&api)).await;
    let mut session_feed = {
        let session = api.session("ada").await;
        Feed::open(api.request(
            "ada",
            Method::GET,
            &format!("/my/chat/{session}/events/?after=0"),
        ))
        .await
    };
    // Far more lines than the channel holds, before anybody reads one.
    events_in_silence(&api, 500).await;
    let last = last_seq(&api).await;
    assert!(last > 300, "{last}");
    api.store.hints().feed(api.scope("ada").await.user());
    assert_eq!(ids(&feed.until(last).await), all(1, last));
    // A session without events stays silent, and goes on after all that was not for it.
    events_in_silence(&api, 1).await;
    api.store.hints().feed(api.scope("ada").await.user());
    let more = last_seq(&api).await;
    assert_eq!(ids(&feed.until(more).await), all(last + 1, more));
    api.drain().await;
    let end = session_feed.event().await;
    assert_eq!((end.event.as_str(), end.id), ("reconnect", None));
}

#[tokio::test]
async fn the_poll_finds_what_no_hint_told() {
    let api = Api::start_with(polls_only()).await;
    let mut feed = Feed::open(from_start(&api)).await;
    for _ in 0..3 {
        let before = last_seq(&api).await;
        events_in_silence(&api, 1).await;
        let last = last_seq(&api).await;
        assert_eq!(ids(&feed.until(last).await), all(before + 1, last));
    }
}

#[tokio::test]
async fn a_stream_is_taken_up_again_where_it_broke() {
    let api = Api::start_with(hints_only()).await;
    events_in_silence(&api, 50).await;
    let last = last_seq(&api).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let position = seen.last().copied().unwrap_or(0);
        // A browser repeats the old query and adds the header: the header counts.
        let mut feed =
            Feed::open(from_start(&api).header("last-event-id", position.to_string())).await;
        for _ in 0..7 {
            seen.extend(feed.event().await.id);
        }
    }
    assert_eq!(seen, all(1, 35));
    let mut rest = Feed::open(api.request("ada", Method::GET, "/my/events/?after=35")).await;
    assert_eq!(ids(&rest.until(last).await), all(36, last));
    // An empty header is what a browser sends that has seen nothing.
    let mut empty = Feed::open(from_start(&api).header("last-event-id", "")).await;
    assert_eq!(empty.event().await.id, Some(1));
    for odd in [
        "abc",
        "-1",
        "+1",
        "1.0",
        "99999999999999999999",
        &(last + 1).to_string(),
    ] {
        let refused = answer(from_start(&api).header("last-event-id", odd)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.problem()),
            (400, "bad_header"),
            "{odd}"
        );
    }
}

#[tokio::test]
async fn without_a_cursor_a_stream_begins_now() {
    let api = Api::start_with(hints_only()).await;
    events_in_silence(&api, 3).await;
    let last = last_seq(&api).await;
    let mut feed = Feed::open(api.request("ada", Method::GET, "/my/events/")).await;
    let session = api.session("ada").await;
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "now"}),
    )
    .await
    .ok();
    assert_eq!(feed.event().await.id, Some(last + 1));
}

#[tokio::test]
async fn each_feed_shows_what_is_its_own() {
    let api = Api::start_with(hints_only()).await;
    let (one, two) = (api.session("ada").await, api.session("ada").await);
    for user in ["ada", "eve"] {
        api.agent(user, "coder").await;
    }
    let foreign = api.session("eve").await;
    let open = async |path: String| Feed::open(api.request("ada", Method::GET, &path)).await;
    let mut of_one = open(format!("/my/chat/{one}/events/")).await;
    let mut of_all = open("/my/events/".to_owned()).await;
    let mut of_two_by_filter = open(format!("/my/events/?sessions={two},{foreign}")).await;
    let mut of_types = open(format!(
        "/my/chat/{one}/events/?types=plan_completed,task_started"
    ))
    .await;
    for (user, session) in [
        ("eve", &foreign),
        ("ada", &two),
        ("ada", &one),
        ("eve", &foreign),
        ("ada", &one),
    ] {
        api.post(
            user,
            &format!("/my/chat/{session}/message/"),
            json!({"content": session, "target_agent": "coder"}),
        )
        .await
        .ok();
        while api.work("answer").await > 0 {}
    }
    api.plan("ada", None, "coder").await;
    let last = last_seq(&api).await;

    let frames = of_all.until(last).await;
    assert_eq!(ids(&frames), all(1, last));
    let of_session = |session: &Value| {
        frames
            .iter()
            .filter(|frame| &frame.data["session_id"] == session)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (mine, other) = (of_session(&json!(one)), of_session(&json!(two)));
    assert!(
        !of_session(&Value::Null).is_empty(),
        "a plan without a session is in the person's feed only"
    );
    assert_eq!(
        of_one
            .until(mine.last().and_then(|frame| frame.id).expect("events"))
            .await,
        mine
    );
    assert_eq!(
        of_two_by_filter
            .until(other.last().and_then(|frame| frame.id).expect("events"))
            .await,
        other
    );
    let wanted: Vec<Frame> = mine
        .iter()
        .filter(|frame| ["plan_completed", "task_started"].contains(&frame.event.as_str()))
        .cloned()
        .collect();
    assert_eq!(wanted.len(), 4);
    assert_eq!(
        of_types
            .until(wanted.last().and_then(|frame| frame.id).expect("events"))
            .await,
        wanted
    );
}

#[tokio::test]
async fn two_processes_show_the_same_feed() {
    let api = Api::start_with(polls_only()).await;
    let second = Api::on(api.database.twin(), polls_only()).await;
    let mut here = Feed::open(from_start(&api)).await;
    let mut there = Feed::open(from_start(&second)).await;
    events_in_silence(&api, 5).await;
    let last = last_seq(&api).await;
    assert_eq!(here.until(last).await, there.until(last).await);
    second.drain().await;
}
