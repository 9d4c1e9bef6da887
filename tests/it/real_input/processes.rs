//! An API process and a worker process that share nothing but Postgres, and Redis where there is Redis.

use std::time::Duration;

use codelab_tests::{
    harness::{Database, assert_invariants, commands, eventually, redis},
    person::{Person, Seen, late, streamed, text},
    tiers::Tiers,
    vendor::{GOOD, KEY, Vendor},
};
use engine::Store;
use serde_json::json;
use servers::Redis;

/// What the vendor `slow` says.
fn slowly() -> String {
    let mut text = (0..20)
        .map(|number: u8| number.to_string())
        .collect::<Vec<_>>()
        .join(" ");
    text.push(' ');
    text
}

async fn start(database: &Database, vendor: &Vendor, redis: Option<&Redis>) -> Tiers {
    let (base, redis) = (vendor.base_url(), redis.map(Redis::url).unwrap_or_default());
    let variables = [
        ("OPENAI_BASE_URL", base.as_str()),
        ("OPENAI_API_KEY", KEY),
        ("REDIS_URL", redis.as_str()),
    ];
    Tiers::start(&database.url, &variables).await
}

fn assert_without_gaps(seen: &[Seen]) {
    let seqs: Vec<i64> = seen.iter().filter_map(|event| event.seq).collect();
    let last = i64::try_from(seqs.len()).unwrap();
    assert_eq!(seqs, (1..=last).collect::<Vec<_>>());
}

/// A direct and an orchestrated message over two processes: answers, deltas and events.
async fn converse(ada: &Person) {
    ada.agent("coder", "openai/good").await;
    ada.agent("talker", "openai/slow").await;
    ada.plan_with("openai/plan").await;
    let mut feed = ada.watch_all().await;

    let session = ada.session().await;
    let answered = ada.ask(&session, "What is a lease?", Some("coder")).await;
    assert_eq!(
        (&answered["state"], &answered["answer"]["content"]),
        (&json!("succeeded"), &json!(GOOD))
    );
    let mut seen = feed.until_done().await;

    let answered = ada.ask(&session, "Explain leases", None).await;
    assert_eq!(
        (&answered["state"], &answered["answer"]["content"]),
        (&json!("succeeded"), &json!(GOOD))
    );
    let planned = feed.until_done().await;
    assert_eq!(streamed(&planned, "step-1", 1), slowly());
    let pieces = planned
        .iter()
        .filter(|event| event.key() == "step-1" && event.payload["delta"].is_string())
        .count();
    assert!(pieces >= 5, "a second of talk comes in {pieces} pieces");
    seen.extend(planned);
    // What a step says in less time than hints take may not arrive before its end; then it does not arrive at all.
    for key in ["answer", "step-0", "summary"] {
        assert!(
            GOOD.starts_with(&streamed(&seen, key, 1)),
            "{key}: {seen:#?}"
        );
    }
    assert!(late(&seen).is_empty(), "{:#?}", late(&seen));
    assert_without_gaps(&seen);
}

#[tokio::test]
async fn over_postgres_alone() {
    let (database, vendor) = (Database::fresh().await, Vendor::start().await);
    let tiers = start(&database, &vendor, None).await;
    converse(&tiers.ada).await;
    tiers.stop_content().await;
    assert_invariants(&database.store()).await;
}

#[tokio::test]
async fn a_deadline_that_passes_while_nobody_is_there_is_kept_by_whoever_comes() {
    let (database, vendor) = (Database::fresh().await, Vendor::start().await);
    let tiers = start(&database, &vendor, None).await;
    let pay = json!({"name": "pay", "effect": "irreversible", "executor": {"kind": "client"}});
    tiers.ada.post("tools/", pay).await;
    let turns = json!([
        {"until_results": 1, "tool_calls": [{"name": "pay", "arguments": {}}]},
        {"text": "heard {{last}}"}]);
    let config = json!({"tools": ["pay"], "script": {"turns": turns}});
    tiers.ada.agent_with("payer", config).await;
    let session = tiers.ada.session().await;
    let plan = tiers.ada.say(&session, "pay", Some("payer")).await;
    let card = tiers.ada.card().await;
    assert_eq!(tiers.ada.picture(&plan).await, ["answer suspended"]);
    tiers.stop().await;

    let store = database.store();
    sqlx::query("update waits set created_at = created_at - interval '1 hour', deadline = deadline - interval '1 hour'")
        .execute(store.pool())
        .await
        .unwrap();
    let tiers = start(&database, &vendor, None).await;
    let there = chrono::Utc::now();
    let path = format!("approvals/{}/confirm/", text(&card, "id"));
    let late = tiers.ada.request(reqwest::Method::POST, &path);
    let late = late.json(&json!({"decision": "approve"}));
    let (status, said) = tiers.ada.send(late).await;
    assert_eq!(
        (status.as_u16(), &said["error_code"]),
        (410, &json!("timed_out"))
    );
    eventually("the plan ends", async || {
        tiers.ada.state(&plan).await != "active"
    })
    .await;
    let answer = tiers.ada.answers(&session).await.pop().unwrap();
    assert!(answer.contains("timed_out"), "{answer}");
    assert_eq!(tiers.ada.picture(&plan).await, ["answer succeeded"]);
    let decided: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select decided_at from waits where decision = 'timed_out'")
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert!(
        decided - there < chrono::TimeDelta::seconds(5),
        "{decided} {there}"
    );
    tiers.stop_content().await;
    assert_invariants(&store).await;
}

#[tokio::test]
async fn with_redis() {
    let (database, vendor, redis) = (
        Database::fresh().await,
        Vendor::start().await,
        redis().await,
    );
    let tiers = start(&database, &vendor, Some(&redis)).await;
    eventually("both listen", async || {
        commands(&redis, "subscribe").await >= 2
    })
    .await;
    converse(&tiers.ada).await;
    assert!(commands(&redis, "publish").await > 5, "deltas go by Redis");
    tiers.stop_content().await;
    assert_invariants(&database.store()).await;
}

#[tokio::test]
async fn redis_may_die_and_come_back() {
    let (database, vendor, mut redis) = (
        Database::fresh().await,
        Vendor::start().await,
        redis().await,
    );
    let tiers = start(&database, &vendor, Some(&redis)).await;
    eventually("both listen", async || {
        commands(&redis, "subscribe").await >= 2
    })
    .await;
    let ada = &tiers.ada;
    ada.agent("talker", "openai/slow").await;
    let session = ada.session().await;
    let mut feed = ada.watch_all().await;
    let plan = ada.say(&session, "Talk", Some("talker")).await;
    let mut seen = feed.until(|event| event.payload["delta"].is_string()).await;
    redis.kill().unwrap();
    seen.extend(feed.until_done().await);
    assert_eq!(ada.state(&plan).await, "succeeded");
    // Without Redis from the beginning of a message.
    assert_eq!(
        ada.ask(&session, "Talk", Some("talker")).await["answer"]["content"],
        slowly()
    );
    seen.extend(feed.until_done().await);

    redis.start_again().unwrap();
    eventually("both listen again", async || {
        commands(&redis, "subscribe").await >= 2
    })
    .await;
    ada.ask(&session, "Talk", Some("talker")).await;
    let again = feed.until_done().await;
    assert_eq!(streamed(&again, "answer", 1), slowly(), "deltas come again");
    seen.extend(again);
    assert_without_gaps(&seen);
    tiers.stop_content().await;
    assert_invariants(&database.store()).await;
}

#[tokio::test]
async fn who_comes_back_in_the_middle_of_a_text_gets_it_whole() {
    let (database, vendor) = (Database::fresh().await, Vendor::start().await);
    let tiers = start(&database, &vendor, None).await;
    let ada = &tiers.ada;
    ada.agent("talker", "openai/slow").await;
    let session = ada.session().await;
    let mut feed = ada.watch_all().await;
    ada.say(&session, "Talk", Some("talker")).await;
    let mut seen = Vec::new();
    let mut times = 0;
    // Comes back at each piece: nobody else keeps the feed warm meanwhile.
    while !seen
        .iter()
        .any(|event: &Seen| event.event == "plan_completed")
    {
        seen.push(feed.next().await);
        let last = seen.last().unwrap();
        if last.payload["delta"].is_string() || last.payload["text"].is_string() {
            let after = seen.iter().filter_map(|event| event.seq).max().unwrap();
            drop(feed);
            feed = ada.watch_after(after).await;
            times += 1;
        }
    }
    assert!(times >= 5, "{times}");
    assert_without_gaps(&seen);
    let said = streamed(&seen, "answer", 1);
    assert!(said.len() > 10 && slowly().starts_with(&said), "{said:?}");
    tiers.stop_content().await;
}

#[tokio::test]
async fn a_cancel_reaches_a_model_in_another_process() {
    let (database, vendor) = (Database::fresh().await, Vendor::start().await);
    let tiers = start(&database, &vendor, None).await;
    let ada = &tiers.ada;
    ada.agent("talker", "openai/slow").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let plan = ada.say(&session, "Talk", Some("talker")).await;
    feed.until(|event| event.payload["delta"].is_string()).await;
    ada.post(&format!("plans/{plan}/cancel/"), json!({})).await;
    assert!(
        vendor.saw_dropped(1, Duration::from_secs(1)).await,
        "the vendor's stream is closed"
    );
    assert_eq!(
        feed.until_done().await.last().unwrap().payload["state"],
        "cancelled"
    );
    tiers.stop_content().await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_lets_the_model_finish() {
    let (database, vendor) = (Database::fresh().await, Vendor::start().await);
    let tiers = start(&database, &vendor, None).await;
    let store: Store = database.store();
    tiers.ada.agent("talker", "openai/slow").await;
    let session = tiers.ada.session().await;
    let mut feed = tiers.ada.watch(&session).await;
    let said = tiers
        .ada
        .request(reqwest::Method::POST, &format!("chat/{session}/message/"));
    let (_, said) = tiers
        .ada
        .send(said.json(&json!({"content": "Talk", "target_agent": "talker"})))
        .await;
    feed.until(|event| event.payload["delta"].is_string()).await;
    tiers.stop_content().await;
    let scope = database.user(&store, "ada").await;
    let plan = store
        .plan(scope, text(&said, "plan_id").parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(plan.state.as_str(), "succeeded");
    assert_eq!(vendor.dropped(), 0);
    assert_invariants(&store).await;
}
