//! Ten thousand questions whose deadlines come at the same moment, and somebody who talks to an agent meanwhile.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    service::{Person, Service},
    setup::Bench,
    workloads::{millis, percentiles},
};

/// People, with a plan each.
const PEOPLE: usize = 100;
/// Questions of each.
const QUESTIONS: usize = 100;
/// Messages before the storm: what it is measured against.
const CALM: usize = 200;
/// Over how long the statements of an idle service are counted.
const IDLE: Duration = Duration::from_secs(5);

pub(crate) async fn storm(bench: &Bench) -> anyhow::Result<Value> {
    let service = Service::start(bench).await?;
    let visitor = service.person()?;
    let coder = json!({ "name": "coder", "config": { "model": "scripted/default" } });
    visitor.post("agents/", &coder).await?;
    let session = visitor.session().await?;
    let empty = transactions(bench).await?;
    let everybody = stream::iter(0..PEOPLE).map(|_| async { ask(&service.person()?).await });
    everybody
        .buffer_unordered(8)
        .try_collect::<Vec<()>>()
        .await?;
    let open = "select count(*) from waits where decision is null";
    reached(bench, open, PEOPLE * QUESTIONS).await?;
    let suspended = transactions(bench).await?;
    let mut calm = Vec::new();
    for _ in 0..CALM {
        calm.push(visitor.ask(&session).await?);
    }
    let due = "update waits set deadline = clock_timestamp() + interval '1 second' where decision is null";
    sqlx::query(due).execute(&bench.raw).await?;
    sleep(Duration::from_secs(1)).await;

    let began = Instant::now();
    let settled = async {
        reached(bench, open, 0).await?;
        let decided = began.elapsed();
        reached(bench, "select count(*) from steps where finished_at is null and agent_id is not null and started_at is not null", 0).await?;
        anyhow::Ok((decided, began.elapsed()))
    };
    tokio::pin!(settled);
    let mut meanwhile = Vec::new();
    let (decided, ended) = loop {
        tokio::select! {
            settled = &mut settled => break settled?,
            took = visitor.ask(&session) => meanwhile.push(took?),
        }
    };
    service.stop().await?;
    let (calm_p50, calm_p99) = percentiles(&mut calm, 99);
    let (p50, p99) = percentiles(&mut meanwhile, 99);
    let longest = meanwhile.last().copied().unwrap_or_default();
    Ok(json!({
        "workload": "storm", "questions": PEOPLE * QUESTIONS,
        "decided_s": decided.as_secs_f64(), "bar_decided_s": 60, "answered_by_agents_s": ended.as_secs_f64(),
        "direct_p50_ms": millis(p50), "direct_p99_ms": millis(p99), "direct_longest_ms": millis(longest),
        "messages": meanwhile.len(),
        "calm_direct_p50_ms": millis(calm_p50), "calm_direct_p99_ms": millis(calm_p99),
        "idle_transactions_per_s": empty, "idle_transactions_per_s_with_questions": suspended,
    }))
}

/// Somebody whose hundred steps all ask whether they may pay.
async fn ask(person: &Person) -> anyhow::Result<()> {
    let pay = json!({ "name": "pay", "effect": "irreversible", "executor": { "kind": "client" } });
    person.post("tools/", &pay).await?;
    let turns = json!([
        { "until_results": 1, "tool_calls": [{ "name": "pay", "arguments": {} }] },
        { "text": "So be it." }]);
    let config = json!({ "tools": ["pay"], "max_concurrency": 10, "script": { "turns": turns } });
    let payer = json!({ "name": "payer", "config": config });
    person.post("agents/", &payer).await?;
    let steps: Vec<Value> = (0..QUESTIONS)
        .map(|n| json!({ "key": format!("s{n}"), "agent": "payer" }))
        .collect();
    person
        .post("plans/", &json!({ "goal": "pay", "steps": steps }))
        .await?;
    Ok(())
}

async fn reached(bench: &Bench, count: &'static str, wanted: usize) -> anyhow::Result<()> {
    loop {
        let now: i64 = sqlx::query_scalar(count).fetch_one(&bench.raw).await?;
        if usize::try_from(now)? == wanted {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Transactions a second of a service that nobody uses.
async fn transactions(bench: &Bench) -> anyhow::Result<f64> {
    let so_far = "select xact_commit from pg_stat_database where datname = current_database()";
    // What a connection did before it fell idle is known ten seconds later at most.
    sleep(Duration::from_secs(11)).await;
    let before: i64 = sqlx::query_scalar(so_far).fetch_one(&bench.raw).await?;
    sleep(IDLE).await;
    let after: i64 = sqlx::query_scalar(so_far).fetch_one(&bench.raw).await?;
    let count = i32::try_from(after - before)?;
    Ok(f64::from(count) / IDLE.as_secs_f64())
}
