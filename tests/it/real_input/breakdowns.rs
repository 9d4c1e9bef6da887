//! What the two processes live through: a Postgres that crashes, connections that are cut, a row that cannot be read, a
//! handler that panics.

use std::{collections::HashSet, time::Duration};

use codelab_tests::{
    harness::{Database, assert_invariants, eventually},
    person::{Person, text},
    tiers::Tiers,
};
use engine::{
    Store,
    event::hints::Hints,
    store::{self, PoolLimits},
};
use serde_json::{Value, json};
use servers::Postgres;
use sqlx::PgPool;

/// Layers of steps side by side, each step after one of the layer before.
fn layers(count: usize, width: usize, agent: &str) -> Value {
    let step = |n: usize| {
        let needs: Vec<String> = n
            .checked_sub(width)
            .map(|before| format!("s{before}"))
            .into_iter()
            .collect();
        json!({"key": format!("s{n}"), "agent": agent, "prompt": "go on", "needs": needs})
    };
    json!({"goal": "much", "steps": (0..count * width).map(step).collect::<Vec<Value>>()})
}

async fn counts(ada: &Person, plan: &str) -> Value {
    ada.get(&format!("plans/{plan}/")).await["counts"].clone()
}

/// Waits until so many steps of the plan have succeeded.
async fn progress(pool: &PgPool, least: i64) {
    eventually("some progress", async || {
        let done =
            sqlx::query_scalar::<_, i64>("select count(*) from steps where state = 'succeeded'")
                .fetch_one(pool)
                .await;
        done.is_ok_and(|done| done >= least)
    })
    .await;
}

async fn assert_succeeds_once_each(url: &str, ada: &Person, plan: &str, steps: usize) {
    eventually("the plan ends", async || ada.state(plan).await != "active").await;
    assert_eq!(
        ada.state(plan).await,
        "succeeded",
        "{}",
        counts(ada, plan).await
    );
    let store = store_at(url);
    let completed: Vec<String> =
        sqlx::query_scalar("select step_id::text from events where type = 'task_completed'")
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert_eq!(
        (
            completed.len(),
            completed.iter().collect::<HashSet<_>>().len()
        ),
        (steps, steps)
    );
    let failures: i16 = sqlx::query_scalar("select max(failures) from steps")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(
        failures, 0,
        "the database's trouble costs no step an attempt"
    );
    assert_invariants(&store).await;
}

/// Of connections that are gone there may be warnings; an error of our own would mean that somebody has to act.
fn assert_complains_only_of_connections(log: &str) {
    let ours = log
        .lines()
        .find(|line| line.contains("ERROR") && !line.contains("error returned from after_connect"));
    assert_eq!(ours, None, "{log}");
}

/// A store with new connections: old ones may have been cut.
fn store_at(url: &str) -> Store {
    Store::new(
        store::pool(url, PoolLimits::default()).unwrap(),
        Hints::local(),
        Duration::from_secs(30),
    )
}

/// A cluster of its own, with a migrated database.
async fn own_postgres() -> (Postgres, String) {
    let started = tokio::task::spawn_blocking(|| {
        // What was committed must survive: the throwaway's default may lose the last moments.
        let postgres = Postgres::start_throwaway(
            150,
            vec![("synchronous_commit".to_owned(), "on".to_owned())],
        )
        .unwrap();
        postgres.create_database("story", None).unwrap();
        let url = postgres.url("story");
        (postgres, url)
    });
    let (postgres, url) = started.await.unwrap();
    store::migrate(&url).await.unwrap();
    (postgres, url)
}

#[tokio::test]
async fn postgres_crashes_in_the_middle_of_a_plan() {
    engine::install_crypto();
    let (mut postgres, url) = own_postgres().await;
    let store = store_at(&url);
    let tiers = Tiers::start(&url, &[]).await;
    let ada = &tiers.ada;
    ada.agent_with(
        "coder",
        json!({"max_concurrency": 10, "script": {"delay_ms": 50}}),
    )
    .await;
    let plan = text(&ada.post("plans/", layers(30, 10, "coder")).await, "id");
    let mut feed = ada.watch_all().await;
    for done in [40, 150] {
        progress(store.pool(), done).await;
        postgres = tokio::task::spawn_blocking(move || {
            postgres.crash().unwrap();
            postgres.start_again().unwrap();
            postgres
        })
        .await
        .unwrap();
    }
    eventually("the API answers again", async || {
        ada.send(ada.request(reqwest::Method::GET, "agents/"))
            .await
            .0
            .is_success()
    })
    .await;
    assert_succeeds_once_each(&url, ada, &plan, 300).await;
    // The stream that was open all the time has missed nothing.
    let seqs: Vec<i64> = feed
        .until_done()
        .await
        .iter()
        .filter_map(|event| event.seq)
        .collect();
    assert!(
        seqs.iter()
            .copied()
            .eq(1..=i64::try_from(seqs.len()).unwrap()),
        "{seqs:?}"
    );
    let (api, worker) = tiers.stop().await;
    assert_complains_only_of_connections(&api);
    assert_complains_only_of_connections(&worker);
    drop(postgres);
}

#[tokio::test]
async fn connections_are_cut_again_and_again() {
    let database = Database::fresh().await;
    let store = database.store();
    let tiers = Tiers::start(&database.url, &[]).await;
    let ada = &tiers.ada;
    ada.agent_with(
        "coder",
        json!({"max_concurrency": 10, "script": {"delay_ms": 30}}),
    )
    .await;
    let plan = text(&ada.post("plans/", layers(40, 10, "coder")).await, "id");
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name = 'codelab' and pid <> pg_backend_pid()";
    let mut cuts = 0;
    for round in 1..=12 {
        progress(store.pool(), round * 25).await;
        let fresh = store_at(&database.url);
        cuts += sqlx::query_scalar::<_, i64>(cut)
            .fetch_one(fresh.pool())
            .await
            .unwrap();
    }
    assert!(cuts >= 24, "only {cuts} connections were cut");
    eventually("the API answers again", async || {
        ada.send(ada.request(reqwest::Method::GET, "agents/"))
            .await
            .0
            .is_success()
    })
    .await;
    assert_succeeds_once_each(&database.url, ada, &plan, 400).await;
    let (api, worker) = tiers.stop().await;
    assert_complains_only_of_connections(&api);
    assert_complains_only_of_connections(&worker);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_fails_its_step_and_nothing_else() {
    let database = Database::fresh().await;
    let store = database.store();
    let tiers = Tiers::start(&database.url, &[]).await;
    let ada = &tiers.ada;
    ada.agent_with(
        "coder",
        json!({"script": {"turns": [{"match": "gate", "delay_ms": 500}, {"text": "done"}]}}),
    )
    .await;
    let steps = json!([
        {"key": "gate", "agent": "coder", "prompt": "gate"},
        {"key": "bad", "agent": "coder", "needs": ["gate"]},
        {"key": "after-bad", "agent": "coder", "needs": ["bad"]},
        {"key": "good", "agent": "coder", "needs": ["gate"]},
        {"key": "after-all", "agent": "coder", "needs": [{"key": "bad", "when": "done"}, "good"]},
    ]);
    let plan = text(
        &ada.post(
            "plans/",
            json!({"goal": "much", "steps": steps, "on_failure": "continue"}),
        )
        .await,
        "id",
    );
    let spoiled = sqlx::query(
        r#"update steps set spec = '"garbage"'::jsonb where key = 'bad' and state = 'blocked'"#,
    );
    assert_eq!(
        spoiled.execute(store.pool()).await.unwrap().rows_affected(),
        1
    );
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    let steps = ada.steps(&plan).await;
    let states: Vec<&Value> = steps.iter().map(|step| &step["state"]).collect();
    assert_eq!(
        states,
        ["succeeded", "failed", "skipped", "succeeded", "succeeded"]
    );
    assert_eq!(
        (&steps[1]["error"]["code"], &steps[1]["attempt"]),
        (&json!("unreadable_step"), &json!(1))
    );
    assert_eq!(ada.state(&plan).await, "partial");
    assert_invariants(&store).await;
    let session = ada.session().await;
    assert_eq!(
        ada.ask(&session, "Are you there?", Some("coder")).await["state"],
        "succeeded",
        "the worker lives"
    );
    tiers.stop_content().await;
}

#[tokio::test]
async fn a_handler_that_panics_is_run_again() {
    let database = Database::fresh().await;
    let tiers = Tiers::start(&database.url, &[]).await;
    let ada = &tiers.ada;
    let script = json!({"turns": [{"until_attempt": 1, "panic": true}, {"text": "At last."}]});
    ada.agent_with("coder", json!({ "script": script })).await;
    ada.agent_with("doomed", json!({"script": {"panic": true}}))
        .await;
    let (session, other) = (ada.session().await, ada.session().await);
    let answered = ada.ask(&session, "Are you there?", Some("coder")).await;
    assert_eq!(
        (&answered["state"], &answered["answer"]["content"]),
        (&json!("succeeded"), &json!("At last."))
    );
    assert_eq!(
        ada.steps(&text(&answered, "plan_id")).await[0]["attempt"],
        2
    );

    let answered = ada.ask(&other, "Are you there?", Some("doomed")).await;
    assert_eq!(answered["state"], "failed", "{answered}");
    let step = ada.steps(&text(&answered, "plan_id")).await.remove(0);
    assert_eq!(
        (&step["attempt"], &step["error"]["code"]),
        (&json!(3), &json!("panicked"))
    );
    assert_eq!(
        ada.answers(&other).await.len(),
        1,
        "the person is told: {answered}"
    );
    let (_, worker) = tiers.stop().await;
    assert!(
        worker.contains("the script asked for a panic"),
        "the log says where: {worker}"
    );
    assert_invariants(&database.store()).await;
}
