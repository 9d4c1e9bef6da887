//! Each transition by itself, on real rows.

use std::time::Duration;

use codelab_tests::harness::{Database, agent, assert_invariants, eventually};
use engine::{
    Store, UserScope,
    clock::{Clock, ManualClock},
    id::{AgentId, PlanId, WaitId, WorkerId},
    plan::PlanState,
    step::{
        Outcome, StepError,
        claimed::Claim,
        outcome::{NewWait, WaitKind},
    },
    store::{Accepted, Cancelled, NewMessage},
    testing::{Shape, explicit, picture},
    wait::Decision,
};
use serde_json::json;

fn done() -> Outcome {
    Outcome::Succeed {
        result: json!({"text": "ok"}),
        reply: None,
    }
}

async fn accept(store: &Store, scope: UserScope, shape: Shape, agents: &[AgentId]) -> PlanId {
    match store
        .accept_plan(scope, &explicit(shape, agents, None))
        .await
        .expect("accepted")
    {
        Accepted::Plan { plan, .. } => plan,
        other => panic!("{other:?}"),
    }
}

async fn claim(store: &Store, limit: usize) -> Vec<Claim> {
    store.claim(WorkerId::new(), limit).await.expect("a claim")
}

async fn finish(store: &Store, claims: &[Claim], outcome: &Outcome) {
    for claim in claims {
        assert!(
            store.finish(claim, outcome).await.expect("a finish"),
            "fenced"
        );
    }
}

#[tokio::test]
async fn a_diamond_runs_from_top_to_bottom() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 3).await;
    let plan = accept(&store, scope, Shape::Diamond(4), &[agent]).await;

    let top = claim(&store, 10).await;
    assert_eq!(top.len(), 1);
    finish(&store, &top, &done()).await;
    let middle = claim(&store, 10).await;
    assert_eq!(middle.len(), 3, "the agent runs three at once");
    assert_invariants(&store).await;
    assert!(claim(&store, 10).await.is_empty());
    finish(&store, &middle[..1], &done()).await;
    let fourth = claim(&store, 10).await;
    assert_eq!(fourth.len(), 1, "a freed place is granted at once");
    finish(&store, &middle[1..], &done()).await;
    finish(&store, &fourth, &done()).await;
    finish(&store, &claim(&store, 10).await, &done()).await;

    assert_eq!(
        store.plan(scope, plan).await.unwrap().unwrap().state,
        PlanState::Succeeded
    );
    assert_invariants(&store).await;
    insta::assert_snapshot!(picture(&store, scope, plan).await.unwrap());
}

#[tokio::test]
async fn a_second_finish_and_an_old_token_are_fenced() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 3).await;
    accept(&store, scope, Shape::Chain(1), &[agent]).await;
    let first = claim(&store, 1).await.remove(0);
    finish(&store, std::slice::from_ref(&first), &Outcome::Yield).await;
    let second = claim(&store, 1).await.remove(0);
    assert_eq!((first.token, second.token), (1, 2));
    assert!(
        !store.finish(&first, &done()).await.unwrap(),
        "the old token must not finish the new run"
    );
    assert!(store.finish(&second, &done()).await.unwrap());
    assert!(
        !store.finish(&second, &done()).await.unwrap(),
        "finished once"
    );
    assert_invariants(&store).await;
}

#[tokio::test]
async fn a_failed_step_skips_what_needs_it_and_the_plan_says_so() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 3).await;
    let plan = accept(&store, scope, Shape::Diamond(2), &[agent]).await;
    finish(&store, &claim(&store, 1).await, &done()).await;
    let middle = claim(&store, 2).await;
    let broken = Outcome::Fail {
        error: StepError::bug("broken", "it broke"),
        reply: None,
    };
    finish(&store, &middle[..1], &broken).await;
    finish(&store, &middle[1..], &done()).await;
    assert_eq!(
        store.plan(scope, plan).await.unwrap().unwrap().state,
        PlanState::Partial
    );
    assert_invariants(&store).await;
    insta::assert_snapshot!(picture(&store, scope, plan).await.unwrap());
}

#[tokio::test]
async fn three_lost_workers_make_a_step_poison() {
    let database = Database::fresh().await;
    let clock = ManualClock::at(chrono::Utc::now());
    let store = database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 3).await;
    let plan = accept(&store, scope, Shape::Chain(2), &[agent]).await;
    for run in 1..=3 {
        let lost = claim(&store, 1).await.remove(0);
        assert_eq!(lost.attempt, run);
        assert_eq!(store.reap(10).await.unwrap(), 0, "the lease holds");
        clock.advance(chrono::TimeDelta::seconds(31));
        assert_eq!(store.reap(10).await.unwrap(), 1);
        assert!(
            !store.finish(&lost, &done()).await.unwrap(),
            "the zombie is fenced"
        );
        assert_invariants(&store).await;
    }
    assert_eq!(
        store.plan(scope, plan).await.unwrap().unwrap().state,
        PlanState::Failed
    );
    insta::assert_snapshot!(picture(&store, scope, plan).await.unwrap());
}

#[tokio::test]
async fn a_renewed_lease_is_not_reaped() {
    let database = Database::fresh().await;
    let clock = ManualClock::at(chrono::Utc::now());
    let store = database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
    let scope = database.user(&store, "ada").await;
    accept(&store, scope, Shape::Chain(1), &[]).await;
    let held = claim(&store, 1).await.remove(0);
    clock.advance(chrono::TimeDelta::seconds(20));
    assert_eq!(
        store
            .renew(&[(scope.user(), held.id, held.token)])
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(
        store
            .renew(&[(scope.user(), held.id, held.token + 1)])
            .await
            .unwrap()
            .is_empty()
    );
    clock.advance(chrono::TimeDelta::seconds(20));
    assert_eq!(store.reap(10).await.unwrap(), 0);
    assert!(store.finish(&held, &done()).await.unwrap());
}

#[tokio::test]
async fn a_retry_gives_its_place_back_and_comes_when_due() {
    let database = Database::fresh().await;
    let clock = ManualClock::at(chrono::Utc::now());
    let store = database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 1).await;
    accept(&store, scope, Shape::Flat(2), &[agent]).await;
    let first = claim(&store, 5).await.remove(0);
    let later = Outcome::Retry {
        after: Duration::from_secs(10),
        error: StepError::bug("later", "later"),
        last_words: None,
    };
    finish(&store, std::slice::from_ref(&first), &later).await;
    assert_invariants(&store).await;
    let other = claim(&store, 5).await.remove(0);
    assert_ne!(other.id, first.id, "the place went to the other step");
    finish(&store, &[other], &done()).await;
    assert_eq!(store.admit_due(10).await.unwrap(), 0);
    assert!(claim(&store, 5).await.is_empty());
    clock.advance(chrono::TimeDelta::seconds(11));
    assert_eq!(store.admit_due(10).await.unwrap(), 1);
    let again = claim(&store, 5).await.remove(0);
    assert_eq!((again.id, again.attempt), (first.id, 2));
    finish(&store, &[again], &done()).await;
    assert_invariants(&store).await;
}

#[tokio::test]
async fn a_timer_rings_at_its_deadline_and_not_before() {
    let database = Database::fresh().await;
    let clock = ManualClock::at(chrono::Utc::now());
    let store = database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 1).await;
    let plan = accept(&store, scope, Shape::Chain(1), &[agent]).await;
    let held = claim(&store, 1).await;
    let id = WaitId::new();
    let wait = NewWait {
        id,
        kind: WaitKind::Timer,
        payload: json!({}),
        deadline: Some(Duration::from_mins(1)),
    };
    finish(&store, &held, &Outcome::Suspend { wait }).await;
    assert_invariants(&store).await;
    assert_eq!(store.expire_waits(10).await.unwrap(), 0);
    clock.advance(chrono::TimeDelta::seconds(60));
    assert!(
        !store
            .resolve_wait(scope, id, Decision::Answered, json!({}))
            .await
            .unwrap(),
        "too late"
    );
    assert_eq!(store.expire_waits(10).await.unwrap(), 1);
    assert_eq!(store.expire_waits(10).await.unwrap(), 0);
    let resumed = claim(&store, 1).await;
    let woken = resumed[0].woken.as_ref().map(|woken| woken.decision);
    assert_eq!(woken, Some(Decision::Elapsed));
    finish(&store, &resumed, &done()).await;
    assert_invariants(&store).await;
    insta::assert_snapshot!(picture(&store, scope, plan).await.unwrap());
}

/// Somebody was told that the time was up while the cancel stood in line: then that is how it ended.
#[tokio::test]
async fn a_cancel_that_stood_in_line_past_a_deadline_finds_it_passed() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    for whole in [true, false] {
        let plan = accept(&store, scope, Shape::Chain(1), &[]).await;
        let held = claim(&store, 1).await;
        let (id, step) = (WaitId::new(), held[0].id);
        let wait = NewWait {
            id,
            kind: WaitKind::Approval,
            payload: json!({"type": "tool"}),
            deadline: Some(Duration::from_mins(5)),
        };
        finish(&store, &held, &Outcome::Suspend { wait }).await;
        let gate = sqlx::PgPool::connect(&database.url).await.unwrap();
        let mut gate = gate.begin().await.unwrap();
        sqlx::query("select 1 from plans where id = $1 for update")
            .bind(plan)
            .execute(&mut *gate)
            .await
            .unwrap();
        let other = store.clone();
        let cancel = tokio::spawn(async move {
            if whole {
                other.cancel_plan(scope, plan).await
            } else {
                other.cancel_step(scope, plan, step).await
            }
        });
        let in_line = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        eventually("the cancel stands in line", async || {
            sqlx::query_scalar(in_line)
                .fetch_one(store.pool())
                .await
                .unwrap()
        })
        .await;
        sqlx::query("update waits set deadline = clock_timestamp() where id = $1")
            .bind(id)
            .execute(&mut *gate)
            .await
            .unwrap();
        gate.commit().await.unwrap();
        assert_eq!(cancel.await.unwrap().unwrap(), Cancelled::Done);
        let ended = store.approval(scope, id).await.unwrap().unwrap();
        assert_eq!(ended.decision, Some(Decision::TimedOut), "{whole}");
        assert_invariants(&store).await;
    }
}

#[tokio::test]
async fn a_wait_is_decided_once() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let stranger = database.user(&store, "eve").await;
    accept(&store, scope, Shape::Chain(1), &[]).await;
    let id = WaitId::new();
    let wait = NewWait {
        id,
        kind: WaitKind::Approval,
        payload: json!({"type": "tool"}),
        deadline: None,
    };
    finish(&store, &claim(&store, 1).await, &Outcome::Suspend { wait }).await;
    assert!(
        !store
            .resolve_wait(stranger, id, Decision::Approved, json!({}))
            .await
            .unwrap(),
        "not theirs"
    );
    let races = (0..8).map(|n| {
        let store = store.clone();
        let decision = if n % 2 == 0 {
            Decision::Approved
        } else {
            Decision::Rejected
        };
        async move {
            store
                .resolve_wait(scope, id, decision, json!({}))
                .await
                .unwrap()
        }
    });
    let won = futures::future::join_all(races)
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(won, 1);
    finish(&store, &claim(&store, 1).await, &done()).await;
    assert_invariants(&store).await;
}

#[tokio::test]
async fn a_cancel_ends_what_does_not_run_and_catches_what_does() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let stranger = database.user(&store, "eve").await;
    let agent = agent(&store, scope, "coder", 2).await;
    let plan = accept(&store, scope, Shape::Flat(5), &[agent]).await;
    let running = claim(&store, 1).await;
    assert_eq!(
        store.cancel_plan(stranger, plan).await.unwrap(),
        Cancelled::Gone
    );
    assert_eq!(
        store.cancel_plan(scope, plan).await.unwrap(),
        Cancelled::Underway
    );
    assert_invariants(&store).await;
    assert!(claim(&store, 5).await.is_empty());
    let renewed = store
        .renew(&[(scope.user(), running[0].id, running[0].token)])
        .await
        .unwrap();
    assert!(renewed[0].cancelling, "the holder is told");
    finish(&store, &running, &done()).await;
    assert_eq!(
        store.plan(scope, plan).await.unwrap().unwrap().state,
        PlanState::Cancelled
    );
    assert_eq!(
        store.cancel_plan(scope, plan).await.unwrap(),
        Cancelled::AlreadyClosed
    );
    assert_invariants(&store).await;
}

#[tokio::test]
async fn messages_of_a_session_take_turns_and_the_line_is_bounded() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 10).await;
    let session = store.create_session(scope, None).await.unwrap().id;
    let message = NewMessage {
        session,
        content: "hello".to_owned(),
        target: Some(agent),
    };
    for n in 0..11 {
        assert!(
            matches!(
                store.accept_message(scope, &message).await.unwrap(),
                Accepted::Plan { .. }
            ),
            "message {n}"
        );
    }
    assert_eq!(
        store.accept_message(scope, &message).await.unwrap(),
        Accepted::SessionFull
    );
    assert_invariants(&store).await;
    let plans = store.plans(scope, None, 50).await.unwrap();
    // The newest is cancelled while it waits; the others run one after another, oldest first.
    assert_eq!(
        store.cancel_plan(scope, plans[0].id).await.unwrap(),
        Cancelled::Done
    );
    for expected in plans.iter().rev().take(10) {
        let mut claimed = claim(&store, 5).await;
        assert_eq!(claimed.len(), 1, "one at a time");
        assert_eq!(claimed[0].plan, expected.id);
        finish(&store, &[claimed.remove(0)], &done()).await;
        assert_invariants(&store).await;
    }
    assert!(claim(&store, 5).await.is_empty());
    assert_eq!(
        store
            .session(scope, session)
            .await
            .unwrap()
            .unwrap()
            .active_plan_id,
        None
    );
}

#[tokio::test]
async fn one_users_thousand_steps_do_not_delay_anothers_first() {
    let database = Database::fresh().await;
    let store = database.store();
    let heavy = database.user(&store, "heavy").await;
    let light = database.user(&store, "light").await;
    accept(&store, heavy, Shape::Flat(1000), &[]).await;
    accept(&store, light, Shape::Flat(1), &[]).await;
    let claimed = claim(&store, 10).await;
    assert!(
        claimed.iter().any(|claim| claim.scope == light),
        "the light user's step is among the first ten"
    );
}

#[tokio::test]
async fn a_raised_limit_lets_waiting_steps_in_and_a_lowered_one_drains() {
    let database = Database::fresh().await;
    let store = database.store();
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", 1).await;
    accept(&store, scope, Shape::Flat(8), &[agent]).await;
    let mut running = claim(&store, 10).await;
    assert_eq!(running.len(), 1);
    let wider = engine::agent::AgentConfig {
        max_concurrency: 4,
        ..Default::default()
    };
    store
        .update_agent(scope, agent, "coder", &wider)
        .await
        .unwrap();
    running.extend(claim(&store, 10).await);
    assert_eq!(running.len(), 4);
    let narrower = engine::agent::AgentConfig {
        max_concurrency: 2,
        ..Default::default()
    };
    store
        .update_agent(scope, agent, "coder", &narrower)
        .await
        .unwrap();
    assert_invariants(&store).await;
    finish(&store, &running[..2], &done()).await;
    assert!(claim(&store, 10).await.is_empty(), "two still run");
    finish(&store, &running[2..3], &done()).await;
    assert_eq!(claim(&store, 10).await.len(), 1);
    assert_invariants(&store).await;
}
