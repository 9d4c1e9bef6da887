//! The newest events in Redis: they spare Postgres, and decide nothing.

use api::{ApiConfig, auth::AuthConfig};
use codelab_tests::harness::{commands, redis, tell_redis};
use engine::event::relay::Relay;
use reqwest::Method;
use serde_json::json;
use servers::Redis;

use super::{Api, Feed, Frame, secret};

fn over(redis: &Redis) -> ApiConfig {
    let client = redis::Client::open(redis.url()).expect("an address");
    ApiConfig {
        relay: Some(Relay::new(client).expect("a relay")),
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    }
}

/// Conversations with somebody listening; seq of the last event.
async fn talk(api: &Api, session: &str, times: usize) -> i64 {
    for _ in 0..times {
        let said = json!({"content": "hello", "target_agent": "coder"});
        api.post("ada", &format!("/my/chat/{session}/message/"), said)
            .await
            .ok();
        while api.work("answer").await > 0 {}
    }
    let scope = api.scope("ada").await;
    api.store.last_seq(scope).await.expect("a seq")
}

async fn all(api: &Api, path: &str, last: i64) -> Vec<Frame> {
    Feed::open(api.request("ada", Method::GET, path))
        .await
        .until(last)
        .await
}

#[tokio::test]
async fn who_comes_back_is_served_from_redis_as_from_postgres() {
    let redis = redis().await;
    let api = Api::start_with(over(&redis)).await;
    let plain = ApiConfig::new(AuthConfig::hs256(secret()));
    let plain = Api::on(api.database.twin(), plain).await;
    api.agent("ada", "coder").await;
    let (one, two) = (api.session("ada").await, api.session("ada").await);
    let mut listening = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
    talk(&api, &one, 10).await;
    talk(&api, &two, 5).await;
    let last = talk(&api, &one, 5).await;
    listening.until(last).await;
    let last_of_one = api.last_of("ada", &one).await;
    // A process that was not there when it happened.
    let late = Api::on(api.database.twin(), over(&redis)).await;

    for after in [0, 1, last / 2, last_of_one - 1] {
        let path = format!("/my/events/?after={after}");
        let before = commands(&redis, "xrange").await;
        let there = all(&late, &path, last).await;
        assert!(commands(&redis, "xrange").await > before, "after {after}");
        assert_eq!(there, all(&plain, &path, last).await);
        let path = format!("/my/chat/{one}/events/?after={after}");
        assert_eq!(
            all(&late, &path, last_of_one).await,
            all(&plain, &path, last_of_one).await
        );
    }

    // Nothing of what can happen to Redis is seen by anybody.
    tell_redis(&redis, "FLUSHALL").await;
    let everything = all(&plain, "/my/events/?after=0", last).await;
    assert_eq!(all(&late, "/my/events/?after=0", last).await, everything);
    // The newest events are there again, the older ones are not.
    let last = talk(&api, &one, 3).await;
    listening.until(last).await;
    let everything = all(&plain, "/my/events/?after=0", last).await;
    assert_eq!(all(&late, "/my/events/?after=0", last).await, everything);
    tell_redis(&redis, "CONFIG SET maxmemory 1").await;
    let last = talk(&api, &one, 3).await;
    listening.until(last).await;
    let everything = all(&plain, "/my/events/?after=0", last).await;
    assert_eq!(all(&late, "/my/events/?after=0", last).await, everything);
}

#[tokio::test]
async fn every_key_ends_by_itself_and_holds_so_much() {
    let redis = redis().await;
    let api = Api::start_with(over(&redis)).await;
    let ada = api.scope("ada").await.user();
    let mut listening = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
    let many = 3000;
    api.flood("ada", many, 0).await;
    listening.until(many).await;
    let key = format!("codelab:{ada}:events");
    let number = |said: String| -> i64 {
        let line = said.lines().next().unwrap_or_default();
        line.trim_start_matches(':').parse().expect("a number")
    };
    codelab_tests::harness::eventually("the newest are there", async || {
        let newest = tell_redis(&redis, &format!("XREVRANGE {key} + - COUNT 1")).await;
        newest.contains(&format!("{many}-0"))
    })
    .await;
    let kept = number(tell_redis(&redis, &format!("XLEN {key}")).await);
    assert!((1000..1200).contains(&kept), "{kept}");
    let seconds = number(tell_redis(&redis, &format!("TTL {key}")).await);
    assert!((3000..=3600).contains(&seconds), "{seconds}");
    let keys = tell_redis(&redis, "DBSIZE").await;
    assert_eq!(number(keys), 1);
    let late = Api::on(api.database.twin(), over(&redis)).await;
    assert_eq!(
        all(&late, "/my/events/?after=0", many).await.len(),
        usize::try_from(many).expect("few"),
        "what Redis does not hold comes from Postgres"
    );
}
