//! Tickets: a stream for who cannot send a header, once, for a moment, and for nothing else.

use std::time::Duration;

use api::auth::dev_token;
use engine::id::SessionId;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Api, Feed, answer, secret};

async fn buy(api: &Api, user: &str, session: Option<&str>) -> String {
    let bought = api
        .post(
            user,
            "/my/stream-tickets/",
            json!({ "session_id": session }),
        )
        .await;
    assert_eq!(bought.status, StatusCode::CREATED, "{}", bought.text);
    let path = bought.json["path"].as_str().expect("a path").to_owned();
    assert!(path.ends_with(bought.json["ticket"].as_str().expect("a ticket")));
    path
}

async fn show(api: &Api, path: &str) -> Answer {
    answer(api.open(Method::GET, path)).await
}

#[tokio::test]
async fn a_ticket_opens_its_stream_once() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    for session in [None, Some(session.as_str())] {
        let path = buy(&api, "ada", session).await;
        let mut feed = Feed::open(api.open(Method::GET, &path)).await;
        assert!(feed.raw().await.starts_with("retry: "));
        let again = show(&api, &path).await;
        assert_eq!(
            (again.status.as_u16(), again.problem()),
            (401, "unauthorized")
        );
    }
    // The cursor goes beside it.
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "hello"}),
    )
    .await
    .ok();
    let path = buy(&api, "ada", Some(&session)).await;
    let mut feed = Feed::open(api.open(Method::GET, &format!("{path}&after=0"))).await;
    assert_eq!(feed.event().await.id, Some(1));
}

#[tokio::test]
async fn a_ticket_opens_nothing_else() {
    let api = Api::start().await;
    let (one, two) = (api.session("ada").await, api.session("ada").await);
    let of_eve = api.session("eve").await;
    let ticket = |path: &str| path.split_once("ticket=").expect("a ticket").1.to_owned();
    let routes = [
        format!("/my/chat/{two}/events/"),
        format!("/my/chat/{of_eve}/events/"),
        "/my/events/".to_owned(),
        format!("/my/chat/{one}/messages/"),
        format!("/my/chat/{one}/snapshot/"),
        "/my/agents/".to_owned(),
    ];
    for route in &routes {
        let ticket = ticket(&buy(&api, "ada", Some(&one)).await);
        let refused = show(&api, &format!("{route}?ticket={ticket}")).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{route}");
    }
    for odd in ["", "x", &"0".repeat(64), "%00", "' or 1=1"] {
        let refused = show(&api, &format!("/my/events/?ticket={odd}")).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{odd}");
    }
    // It is no token for anything that changes something, and nobody buys one for what is not theirs.
    let path = buy(&api, "ada", None).await;
    let posted = answer(api.open(Method::POST, &path)).await;
    assert_eq!(posted.status, StatusCode::UNAUTHORIZED);
    for foreign in [of_eve, SessionId::new().to_string()] {
        let refused = api
            .post(
                "ada",
                "/my/stream-tickets/",
                json!({ "session_id": foreign }),
            )
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.problem()),
            (404, "not_found")
        );
    }
    let bought = answer(
        api.open(Method::POST, "/my/stream-tickets/")
            .json(&json!({})),
    )
    .await;
    assert_eq!(bought.status, StatusCode::UNAUTHORIZED, "a token buys it");
}

#[tokio::test]
async fn many_hands_with_one_ticket_open_one_stream() {
    let api = Api::start().await;
    let path = buy(&api, "ada", None).await;
    let shown = join_all((0..20).map(|_| api.open(Method::GET, &path).send())).await;
    let opened = shown.into_iter().filter(|shown| {
        shown
            .as_ref()
            .is_ok_and(|shown| shown.status() == StatusCode::OK)
    });
    assert_eq!(opened.count(), 1);
}

#[tokio::test]
async fn a_ticket_is_good_for_half_a_minute_and_for_as_long_as_its_token() {
    let api = Api::start().await;
    let path = buy(&api, "ada", None).await;
    let age = "update stream_tickets set expires_at = expires_at - interval '30 seconds'";
    sqlx::query(age)
        .execute(api.store.pool())
        .await
        .expect("aged");
    assert_eq!(show(&api, &path).await.status, StatusCode::UNAUTHORIZED);
    // The next ones sweep old ones out: the table does not grow.
    for _ in 0..30 {
        buy(&api, "ada", None).await;
    }
    sqlx::query(age)
        .execute(api.store.pool())
        .await
        .expect("aged");
    for _ in 0..4 {
        buy(&api, "ada", None).await;
    }
    let left: i64 = sqlx::query_scalar("select count(*) from stream_tickets")
        .fetch_one(api.store.pool())
        .await
        .expect("a count");
    assert!(left <= 4, "{left}");

    let token = dev_token(&secret(), "ada", Duration::from_secs(3), None, None).expect("a token");
    let bought = answer(
        api.open(Method::POST, "/my/stream-tickets/")
            .bearer_auth(token)
            .json(&json!({})),
    )
    .await;
    let path = bought.ok()["path"].as_str().expect("a path").to_owned();
    let mut feed = Feed::open(api.open(Method::GET, &path)).await;
    assert_eq!(feed.event().await.event, "auth_expiring");
    let end = feed.event().await;
    assert_eq!(
        (end.event.as_str(), &end.data["payload"]["reason"]),
        ("reconnect", &json!("token_expired"))
    );
}

#[tokio::test]
async fn a_ticket_is_kept_as_a_digest_only() {
    let api = Api::start().await;
    let path = buy(&api, "ada", None).await;
    let ticket = path.split_once("ticket=").expect("a ticket").1;
    let kept: Value = sqlx::query_scalar("select jsonb_agg(t) from stream_tickets t")
        .fetch_one(api.store.pool())
        .await
        .expect("rows");
    assert!(!kept.to_string().contains(ticket));
    assert_eq!(kept[0]["digest"].as_str().map(str::len), Some(2 + 64));
}
