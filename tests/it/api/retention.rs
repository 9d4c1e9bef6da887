//! Events are kept for so long: whoever has been away for longer is told, and told where to go.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use engine::Store;
use engine::clock::{Clock, ManualClock};
use engine::testing::{Shape, explicit};
use reqwest::Method;
use serde_json::json;

use super::{Api, Feed, answer};

/// Six events of six weeks ago, seven of two weeks ago, five of today; the person's session.
async fn a_long_life(api: &Api) -> String {
    let session = api.session("ada").await;
    let ada = api.scope("ada").await.user();
    // The partitions of then.
    let then = Clock::Manual(ManualClock::at(Utc::now() - TimeDelta::weeks(7)));
    let store = api.database.store_with(then, Duration::from_secs(30));
    store.keep_events().await.expect("partitions");
    sqlx::query(
        "with grown as (update user_feeds set last_seq = 18, last_at = now() where user_id = $1)
         insert into events (user_id, seq, session_id, type, payload, created_at)
         select $1, n, $2, 'task_progress', '{}',
                now() - case when n <= 6 then interval '45 days' when n <= 13 then interval '14 days' else interval '0' end
         from generate_series(1, 18) n",
    )
    .bind(ada)
    .bind(session.parse::<uuid::Uuid>().expect("an id"))
    .execute(api.store.pool())
    .await
    .expect("events");
    session
}

async fn partitions(api: &Api) -> Vec<String> {
    let names = "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'events'::regclass order by 1";
    sqlx::query_scalar(names)
        .fetch_all(api.store.pool())
        .await
        .expect("names")
}

#[tokio::test]
async fn a_cursor_older_than_what_is_kept_is_gone_and_says_where_to_go() {
    let api = Api::start().await;
    let session = a_long_life(&api).await;
    let of_session = format!("/my/chat/{session}/events/");
    let before = partitions(&api).await.len();
    for path in ["/my/events/", &of_session] {
        let mut feed =
            Feed::open(api.request("ada", Method::GET, &format!("{path}?after=0"))).await;
        assert_eq!(feed.until(18).await.len(), 18, "nothing is forgotten yet");
    }
    let (_, dropped) = api.store.keep_events().await.expect("kept");
    assert!(dropped >= 1);
    assert_eq!(
        partitions(&api).await.len(),
        before - usize::try_from(dropped).expect("few")
    );
    assert_eq!(api.store.keep_events().await.expect("kept").1, 0);

    for (path, see) in [
        ("/my/events/", "/my/snapshot/".to_owned()),
        (&of_session, format!("/my/chat/{session}/snapshot/")),
    ] {
        for old in ["?after=0", "?after=5"] {
            let gone = api.get("ada", &format!("{path}{old}")).await;
            assert_eq!(
                (gone.status.as_u16(), gone.problem()),
                (410, "events_forgotten")
            );
            assert_eq!(gone.json["see"], json!(see));
            let snapshot = api.get("ada", &see).await;
            assert_eq!(snapshot.ok()["cursor"], 18);
        }
        let with_header = api
            .request("ada", Method::GET, path)
            .header("last-event-id", "3");
        assert_eq!(answer(with_header).await.status.as_u16(), 410);
        let mut feed =
            Feed::open(api.request("ada", Method::GET, &format!("{path}?after=6"))).await;
        assert_eq!(feed.until(18).await.len(), 12, "the oldest that is kept");
        let future = api.get("ada", &format!("{path}?after=19")).await;
        assert_eq!(
            (future.status.as_u16(), future.problem()),
            (400, "bad_query")
        );
    }
    assert_eq!(
        api.get("ada", "/my/snapshot/").await.ok(),
        &json!({"cursor": 18, "oldest_cursor": 6})
    );
    let of_eve = api.get("eve", &format!("{of_session}?after=0")).await;
    assert_eq!(
        (of_eve.status.as_u16(), of_eve.problem()),
        (404, "not_found")
    );
}

#[tokio::test]
async fn a_reader_slower_than_the_retention_is_told() {
    for of_session in [false, true] {
        let api = Api::start().await;
        let session = a_long_life(&api).await;
        // More than the buffers between hold.
        sqlx::query("update events set payload = jsonb_build_object('text', repeat('x', 9000)) where seq <= 6")
            .execute(api.store.pool())
            .await
            .expect("long events");
        sqlx::query(
            "with moved as (update events set seq = seq + 2000 where seq > 6),
                  grown as (update user_feeds set last_seq = last_seq + 2000)
             insert into events (user_id, seq, session_id, type, payload, created_at)
             select e.user_id, n, e.session_id, e.type, e.payload, e.created_at
             from events e, generate_series(7, 2006) n where e.seq = 1",
        )
        .execute(api.store.pool())
        .await
        .expect("many events");
        let path = if of_session {
            format!("/my/chat/{session}/events/?after=0")
        } else {
            "/my/events/?after=0".to_owned()
        };
        let mut feed = Feed::open(api.request("ada", Method::GET, &path)).await;
        assert_eq!(feed.event().await.id, Some(1));
        api.store.keep_events().await.expect("kept");
        let mut read = 1;
        let end = loop {
            let frame = feed.event().await;
            if frame.event == "reset" {
                break frame;
            }
            read += 1;
            assert_eq!(frame.id, Some(read), "nothing is left out silently");
        };
        assert_eq!(end.id, None);
        assert_eq!(end.data["payload"]["reason"], "events_forgotten");
        let snapshot = end.data["payload"]["snapshot"].as_str().expect("a path");
        assert_eq!(snapshot.contains(&session), of_session);
        assert_eq!(api.get("ada", snapshot).await.ok()["cursor"], 2018);
        assert_eq!(feed.next().await, None);
    }
}

#[tokio::test]
async fn no_transition_fails_for_want_of_a_partition() {
    let api = Api::start().await;
    let scope = api.scope("ada").await;
    let agent = api.agent("ada", "coder").await.parse().expect("an id");
    for name in partitions(&api).await {
        if name != "events_default" {
            let drop = format!("drop table {name}");
            sqlx::query(sqlx::AssertSqlSafe(drop))
                .execute(api.store.pool())
                .await
                .expect("gone");
        }
    }
    let accepted = api
        .store
        .accept_plan(scope, &explicit(Shape::Chain(2), &[agent], None))
        .await;
    accepted.expect("accepted without a partition of its week");
    api.work("done").await;
    let last = api.store.last_seq(scope).await.expect("a seq");
    let mut feed = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
    assert_eq!(
        feed.until(last).await.len(),
        usize::try_from(last).expect("few")
    );
    // The weeks to come get theirs; this one stays where it is, and is forgotten in time.
    let (made, _) = api.store.keep_events().await.expect("kept");
    assert_eq!(made, 4);
    let mut again = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
    assert_eq!(
        again.until(last).await.len(),
        usize::try_from(last).expect("few")
    );
    let later = Clock::Manual(ManualClock::at(Utc::now() + TimeDelta::days(31)));
    let later = api.database.store_with(later, Duration::from_secs(30));
    later.keep_events().await.expect("kept");
    let bounds = api.store.feed_bounds(scope).await.expect("bounds");
    assert_eq!((bounds.oldest, bounds.newest), (last, last));
}

#[tokio::test]
async fn many_janitors_make_each_partition_once() {
    let api = Api::start().await;
    let later = Clock::Manual(ManualClock::at(Utc::now() + TimeDelta::weeks(10)));
    let stores: Vec<_> = (0..8)
        .map(|_| {
            api.database
                .store_with(later.clone(), Duration::from_secs(30))
        })
        .collect();
    let made = futures::future::join_all(stores.iter().map(Store::keep_events)).await;
    let made: i32 = made.into_iter().map(|made| made.expect("kept").0).sum();
    assert_eq!(made, 5);
}
