//! Workers die by SIGKILL at random moments while 200 diamonds run; nothing is lost, nothing succeeds twice, no agent is ever above
//! its limit, and the feed has no gaps.

use std::{collections::HashMap, time::Duration};

use codelab_tests::{
    checker::check_feed,
    harness::{Database, assert_invariants, eventually},
    process::Codelab,
};
use engine::{
    Store, UserScope,
    agent::AgentConfig,
    plan::PlanState,
    store::Accepted,
    testing::{Shape, explicit},
};
use nix::sys::signal::Signal;

const PLANS: usize = 200;
const KILLS: usize = 5;

async fn worker(database: &Database, folder: &tempfile::TempDir) -> Codelab {
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("CODELAB_LEASE_SECONDS", "3"),
        ("CODELAB_WORKER_CONCURRENCY", "12"),
        ("CODELAB_LOG", "warn"),
    ];
    Codelab::start(&["worker"], &variables, folder.path()).await
}

async fn ended(store: &Store) -> i64 {
    sqlx::query_scalar("select count(*) from steps where finished_at is not null")
        .fetch_one(store.pool())
        .await
        .unwrap()
}

async fn workers(store: &Store) -> i64 {
    sqlx::query_scalar("select count(distinct worker_id) from leases")
        .fetch_one(store.pool())
        .await
        .unwrap()
}

async fn survive(seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let database = Database::fresh().await;
    let store = database.store_with(engine::clock::Clock::Database, Duration::from_secs(3));
    let mut limits: HashMap<String, usize> = HashMap::new();
    let mut scopes: Vec<UserScope> = Vec::new();
    for name in ["ada", "eve"] {
        let scope = database.user(&store, name).await;
        let mut agents = Vec::new();
        for (name, limit) in [("one", 1), ("three", 3), ("ten", 10), ("five", 5)] {
            // Long enough that a kill finds steps at work.
            let script = Some(serde_json::json!({ "delay_ms": 20 }));
            let config = AgentConfig {
                max_concurrency: limit,
                script,
                ..AgentConfig::default()
            };
            let id = store.create_agent(scope, name, &config).await.unwrap().id;
            limits.insert(id.to_string(), limit.into());
            agents.push(id);
        }
        for turn in 0..PLANS / 2 {
            agents.rotate_left(turn % 4);
            let accepted = store
                .accept_plan(scope, &explicit(Shape::Diamond(8), &agents, None))
                .await
                .unwrap();
            assert!(matches!(accepted, Accepted::Plan { .. }));
        }
        scopes.push(scope);
    }

    let folder = tempfile::tempdir().unwrap();
    let total = i64::try_from(PLANS * 10).unwrap();
    let _steady = worker(&database, &folder).await;
    for _ in 0..KILLS {
        let victim = worker(&database, &folder).await;
        // Somewhere in the next stretch of the work, wherever that happens to be inside the victim.
        let until = ended(&store).await
            + chance.i64(1..std::cmp::max(total / i64::try_from(KILLS + 1).unwrap(), 2));
        eventually("both workers at work", async || workers(&store).await >= 2).await;
        eventually("some progress", async || {
            ended(&store).await >= std::cmp::min(until, total)
        })
        .await;
        tokio::time::sleep(Duration::from_micros(chance.u64(0..20_000))).await;
        victim.signal(Signal::SIGKILL);
        victim.ends().await;
    }
    eventually("all steps to end", async || ended(&store).await == total).await;

    for scope in scopes {
        for plan in store.plans(scope, None, 200).await.unwrap() {
            assert_eq!(
                plan.state,
                PlanState::Succeeded,
                "seed {seed}: plan {}",
                plan.id
            );
        }
        let events = store
            .events_after(scope, None, 0.into(), 1_000_000)
            .await
            .unwrap();
        let wrong = check_feed(&events, |agent| limits.get(agent).copied().unwrap_or(0));
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
    assert_invariants(&store).await;
    let lost: i64 = sqlx::query_scalar("select count(*) from events where type = 'task_progress' and payload ->> 'reason' = 'worker_lost'")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert!(
        lost > 0,
        "seed {seed}: no kill caught a running step; the test proves nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_seed_1() {
    survive(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_seed_2() {
    survive(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_seed_3() {
    survive(3).await;
}
