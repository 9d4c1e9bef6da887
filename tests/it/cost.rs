//! What a step costs in rows read, and that the schema explains itself.
//!
//! Times are for benchmarks; what is counted here does not depend on the machine: index entries read a step, in a database where
//! one user has 20,000 other steps and the planner has no statistics. The first form of the keys read 6,700 a look-up.

use std::time::Duration;

use codelab_tests::harness::{Database, agent};
use engine::{
    Store,
    event::hints::Hints,
    id::{WaitId, WorkerId},
    step::{
        Outcome,
        outcome::{NewWait, WaitKind},
    },
    store::{self, Accepted, PoolLimits},
    testing::{Shape, explicit},
    wait::Decision,
};
use serde_json::json;

/// Sequential scans of growing tables, and index entries read, so far.
async fn reads(store: &Store) -> (i64, i64) {
    // A connection reports what it did when it is asked to; there is only one.
    sqlx::query("select pg_stat_force_next_flush()")
        .execute(store.pool())
        .await
        .unwrap();
    let scans: i64 = sqlx::query_scalar("select coalesce(sum(seq_scan), 0)::bigint from pg_stat_user_tables where relname <> '_sqlx_migrations'")
        .fetch_one(store.pool())
        .await
        .unwrap();
    let entries: i64 = sqlx::query_scalar(
        "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    (scans, entries)
}

/// A connection reports what it did; there is only one.
fn over_one_connection(database: &Database) -> Store {
    let limits = PoolLimits {
        max: 1,
        ..PoolLimits::default()
    };
    let pool = store::pool(&database.url, limits).unwrap();
    Store::new(pool, Hints::local(), Duration::from_secs(30))
}

#[tokio::test]
async fn a_step_reads_few_rows_however_many_there_are() {
    let database = Database::fresh().await;
    let store = over_one_connection(&database);
    let scope = database.user(&store, "ada").await;
    let full = agent(&store, scope, "full", 1).await;
    for _ in 0..10 {
        let accepted = store
            .accept_plan(scope, &explicit(Shape::Flat(2_000), &[full], None))
            .await
            .unwrap();
        assert!(matches!(accepted, Accepted::Plan { .. }));
    }
    let worker = WorkerId::new();
    assert_eq!(
        store.claim(worker, 10).await.unwrap().len(),
        1,
        "the full agent runs one"
    );
    let agent = agent(&store, scope, "coder", 10).await;

    let (scans_before, read_before) = reads(&store).await;
    let mut steps = 0;
    let done = Outcome::Succeed {
        result: json!(null),
        reply: None,
    };
    for _ in 0..20 {
        store
            .accept_plan(scope, &explicit(Shape::Diamond(8), &[agent], None))
            .await
            .unwrap();
        loop {
            let claimed = store.claim(worker, 8).await.unwrap();
            if claimed.is_empty() {
                break;
            }
            for claim in &claimed {
                assert!(store.finish(claim, &done).await.unwrap());
                steps += 1;
            }
        }
    }
    let (scans, read) = reads(&store).await;
    assert_eq!(steps, 200);
    assert_eq!(scans - scans_before, 0, "a transition scanned a table");
    let a_step = (read - read_before) / steps;
    // It is 17 to 36 by itself; dead entries not yet vacuumed count too, and 61 were seen on a machine that had much else to do.
    // What this is about reads thousands.
    assert!(a_step <= 100, "{a_step} index entries read a step");
}

#[tokio::test]
async fn a_look_for_expired_leases_does_not_read_the_steps() {
    let database = Database::fresh().await;
    let store = over_one_connection(&database);
    let scope = database.user(&store, "ada").await;
    let coder = agent(&store, scope, "coder", 10).await;
    for _ in 0..2 {
        let plan = explicit(Shape::Flat(2_000), &[coder], None);
        store.accept_plan(scope, &plan).await.unwrap();
    }
    // Nobody cleans up after leases that are long gone.
    let other = sqlx::PgPool::connect(&database.url).await.unwrap();
    sqlx::query("alter table leases set (autovacuum_enabled = off)")
        .execute(&other)
        .await
        .unwrap();
    let worker = WorkerId::new();
    for _ in 0..200 {
        for claim in store.claim(worker, 10).await.unwrap() {
            assert!(store.finish(&claim, &Outcome::Yield).await.unwrap());
        }
    }
    sqlx::query("analyze").execute(&other).await.unwrap();
    let (scans_before, read_before) = reads(&store).await;
    assert_eq!(store.reap(500).await.unwrap(), 0);
    let (scans, read) = reads(&store).await;
    assert_eq!(
        scans - scans_before,
        1,
        "the leases are scanned: they are few"
    );
    assert!(
        read - read_before <= 10,
        "{} index entries, of steps there are 4,000",
        read - read_before
    );
}

#[tokio::test]
async fn an_inbox_reads_what_it_shows_however_much_was_decided() {
    let database = Database::fresh().await;
    let store = over_one_connection(&database);
    // Somebody with little, then somebody whose questions are all open, then somebody who has decided nearly all of them.
    let eve = database.user(&store, "eve").await;
    let bob = database.user(&store, "bob").await;
    let ada = database.user(&store, "ada").await;
    let question = || Outcome::Suspend {
        wait: NewWait {
            id: WaitId::new(),
            kind: WaitKind::Approval,
            payload: json!({"type": "tool"}),
            deadline: Some(Duration::from_mins(5)),
        },
    };
    for (scope, questions) in [(eve, 5), (bob, 500), (ada, 500)] {
        let coder = agent(&store, scope, "coder", 10).await;
        let plan = explicit(Shape::Flat(questions), &[coder], None);
        store.accept_plan(scope, &plan).await.unwrap();
        for _ in 0..questions {
            let claim = store.claim(WorkerId::new(), 1).await.unwrap().remove(0);
            assert!(store.finish(&claim, &question()).await.unwrap());
        }
    }
    for open in store.open_approvals(ada, 497).await.unwrap() {
        let no = store.resolve_wait(ada, open.id, Decision::Rejected, json!({}));
        assert!(no.await.unwrap());
    }
    // As the autovacuum does; what it has not come round to yet costs one look.
    sqlx::query("vacuum analyze waits")
        .execute(store.pool())
        .await
        .unwrap();
    // Entries that a scan passes over are not counted, so it is asked which index was taken.
    let taken = async || {
        let names = "select sum(idx_scan) filter (where indexrelname = 'waits_inbox_idx')::bigint,
            sum(idx_scan) filter (where indexrelname = 'waits_history_idx')::bigint from pg_stat_user_indexes";
        let (inbox, history): (Option<i64>, Option<i64>) =
            sqlx::query_as(names).fetch_one(store.pool()).await.unwrap();
        (inbox.unwrap_or(0), history.unwrap_or(0))
    };
    for (scope, open) in [(ada, 3), (eve, 5)] {
        let (scans_before, read_before) = reads(&store).await;
        let taken_before = taken().await;
        assert_eq!(store.open_approvals(scope, 200).await.unwrap().len(), open);
        assert_eq!(store.approvals(scope, None, 5).await.unwrap().len(), 5);
        assert_eq!(store.open_tool_calls(scope, 200).await.unwrap().len(), 0);
        let (scans, read) = reads(&store).await;
        assert_eq!(scans, scans_before, "nothing is scanned");
        let (inbox, history) = taken().await;
        assert!(
            inbox >= taken_before.0 + 2 && history > taken_before.1,
            "{inbox} {history} {taken_before:?}"
        );
        let read = read - read_before;
        // A row of `waits` and one of `steps` for each shown, and some to spare.
        assert!(read <= 40, "{read} index entries");
    }
}

#[tokio::test]
async fn every_table_and_column_says_what_it_is() {
    let database = Database::fresh().await;
    let store = database.store();
    let silent: Vec<String> = sqlx::query_scalar(
        "select c.relname || coalesce('.' || a.attname, '') from pg_class c
         left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and c.relkind = 'r'
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v') and c.relname <> '_sqlx_migrations'
           and coalesce(obj_description(c.oid, 'pg_class'), '') = ''
            or c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname <> '_sqlx_migrations'
           and col_description(c.oid, a.attnum) is null",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert!(silent.is_empty(), "without a comment: {silent:?}");
}

#[tokio::test]
async fn the_schema_goes_down_and_up_again() {
    let database = Database::fresh().await;
    engine::store::migrate_down(&database.url).await.unwrap();
    let store = database.store();
    let left: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relname not like '\\_sqlx%'",
    )
    .fetch_one(&sqlx::PgPool::connect(&database.url).await.unwrap())
    .await
    .unwrap();
    assert_eq!(left, 0, "the way down leaves something behind");
    engine::store::migrate(&database.url).await.unwrap();
    database.user(&store, "ada").await;
}

#[tokio::test]
async fn a_row_of_one_user_cannot_point_at_a_row_of_another() {
    let database = Database::fresh().await;
    let store = database.store();
    let ada = database.user(&store, "ada").await;
    let eve = database.user(&store, "eve").await;
    let theirs = agent(&store, ada, "coder", 3).await;
    let refused = store
        .accept_plan(eve, &explicit(Shape::Chain(1), &[theirs], None))
        .await;
    assert!(
        refused.is_err(),
        "the schema refuses an agent of somebody else"
    );
    assert_eq!(store.plans(eve, None, 10).await.unwrap().len(), 0);
    assert_eq!(store.last_seq(eve).await.unwrap(), 0);
}
