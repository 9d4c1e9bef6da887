//! Ten thousand deadlines at the same moment, and two workers that look at the clock.

use std::time::Duration;

use chrono::TimeDelta;
use codelab_tests::harness::agent;
use engine::{
    Store,
    clock::{Clock, ManualClock},
    id::{WaitId, WorkerId},
    step::{
        Outcome,
        outcome::{NewWait, WaitKind},
    },
    store::Finish,
    testing::{Shape, explicit},
};

use super::*;

/// People, with a plan and ten agents each.
const PEOPLE: usize = 20;
/// Questions of each.
const QUESTIONS: usize = 500;
/// What a look at the clock takes at once, as in the product.
const BATCH: i64 = 500;

fn question() -> Outcome {
    Outcome::Suspend {
        wait: NewWait {
            id: WaitId::new(),
            kind: WaitKind::Approval,
            payload: json!({"type": "tool", "ordinal": 1, "tool": "pay", "arguments": {}, "choices": ["approve", "reject"]}),
            deadline: Some(Duration::from_mins(5)),
        },
    }
}

/// Everybody's steps run until they ask.
async fn ask(database: &Database, store: &Store) {
    for person in 0..PEOPLE {
        let scope = database.user(store, &format!("person-{person}")).await;
        let mut team = Vec::new();
        for place in 0..10 {
            team.push(agent(store, scope, &format!("agent-{place}"), 10).await);
        }
        store
            .accept_plan(scope, &explicit(Shape::Flat(QUESTIONS), &team, None))
            .await
            .unwrap();
    }
    let worker = WorkerId::new();
    loop {
        let claims = store.claim(worker, 200).await.unwrap();
        if claims.is_empty() {
            return;
        }
        let outcomes: Vec<Outcome> = claims.iter().map(|_| question()).collect();
        let finishes: Vec<Finish<'_>> = claims
            .iter()
            .zip(&outcomes)
            .map(|(claim, outcome)| Finish::of(claim, outcome))
            .collect();
        let turn = store.turn(&finishes, worker, 0).await.unwrap();
        assert!(turn.fenced.is_empty());
    }
}

async fn count(store: &Store, what: &'static str) -> usize {
    let count: i64 = sqlx::query_scalar(what)
        .fetch_one(store.pool())
        .await
        .unwrap();
    usize::try_from(count).unwrap()
}

/// Looks until nothing is left; how many it closed.
async fn look(store: Store) -> usize {
    let mut closed = 0;
    loop {
        let due: i64 = sqlx::query_scalar("select count(*) from waits where decision is null")
            .fetch_one(store.pool())
            .await
            .unwrap();
        if due == 0 {
            return closed;
        }
        closed += store.expire_waits(BATCH).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_deadlines_are_each_kept_once() {
    let database = Database::fresh().await;
    let clock = ManualClock::at(chrono::Utc::now());
    let store = |_| database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
    let stores = [store(1), store(2)];
    ask(&database, &stores[0]).await;
    let all = PEOPLE * QUESTIONS;
    let open = "select count(*) from waits where decision is null";
    assert_eq!(count(&stores[0], open).await, all);
    // They cost rows, and nothing else.
    for nothing in [
        "select count(*) from leases",
        "select count(*) from ready_steps",
        "select count(*) from user_agents where running_steps > 0",
    ] {
        assert_eq!(count(&stores[0], nothing).await, 0, "{nothing}");
    }
    clock.advance(TimeDelta::milliseconds(299_999));
    assert_eq!(
        stores[0].expire_waits(BATCH).await.unwrap(),
        0,
        "not before"
    );
    clock.advance(TimeDelta::milliseconds(1));
    let (one, two) = tokio::join!(
        tokio::spawn(look(stores[0].clone())),
        tokio::spawn(look(stores[1].clone()))
    );
    assert_eq!(one.unwrap() + two.unwrap(), all, "each by one of them");
    for everybody in [
        "select count(*) from waits where decision = 'timed_out'",
        "select count(*) from steps where state = 'ready' and woken_by is not null",
        "select count(*) from events where type = 'approval_resolved' and payload ->> 'decision' = 'timed_out'",
    ] {
        assert_eq!(count(&stores[0], everybody).await, all, "{everybody}");
    }
    // Somebody who comes now does not stand behind all of them.
    let visitor = database.user(&stores[0], "visitor").await;
    let coder = agent(&stores[0], visitor, "coder", 1).await;
    let plan = explicit(Shape::Flat(1), &[coder], None);
    stores[0].accept_plan(visitor, &plan).await.unwrap();
    let claims = stores[0].claim(WorkerId::new(), 200).await.unwrap();
    assert!(
        claims.iter().any(|claim| claim.scope == visitor),
        "the visitor's step is none of the first two hundred"
    );
    assert_invariants(&stores[0]).await;
}
