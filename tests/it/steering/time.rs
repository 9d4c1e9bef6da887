//! Time: patience with passing trouble, the length of a run, of a step, of a plan; all by the clock of the rows.

use engine::store::Written;

use super::*;

fn limited() -> Outcome {
    Outcome::Defer {
        after: Duration::from_mins(1),
        error: StepError::new(ErrorClass::RateLimited, "model_rate_limited", "slow down"),
        last_words: None,
    }
}

async fn after_a_minute(desk: &Desk) -> Claim {
    desk.clock.advance(chrono::TimeDelta::seconds(60));
    assert_eq!(desk.store.admit_due(10).await.unwrap(), 1);
    desk.only().await
}

#[tokio::test]
async fn a_provider_may_be_down_for_ten_minutes_and_nothing_fails() {
    let desk = Desk::new(1).await;
    let plan = desk
        .plan(OnFailure::Continue, &[("a", &[]), ("b", &[])])
        .await;
    let mut run = desk.only().await;
    for minute in 0..10 {
        desk.finish(&run, &limited()).await;
        // The place is free while it waits.
        if minute == 0 {
            let other = desk.only().await;
            assert_eq!(other.key, "b");
            desk.succeed(&other).await;
        }
        run = after_a_minute(&desk).await;
    }
    let failures = desk.step(plan, "a").await.failures;
    assert_eq!(failures, 0, "passing trouble counts nothing");
    desk.succeed(&run).await;
    assert_eq!(desk.state(plan).await, PlanState::Succeeded);
    desk.holds().await;
}

#[tokio::test]
async fn patience_has_an_end_and_begins_anew_when_the_step_gets_on() {
    let desk = Desk::new(1).await;
    let plan = desk.plan(OnFailure::Continue, &[("a", &[])]).await;
    let mut run = desk.only().await;
    for minute in 0..30 {
        if minute == 14 {
            let done = engine::tool::Entry::turn_done(0, json!({"text": "half"}));
            assert_eq!(
                desk.store.journal(&run, &[done]).await.unwrap(),
                Written::All
            );
        }
        desk.finish(&run, &limited()).await;
        assert_eq!(
            desk.step(plan, "a").await.state,
            StateName::Ready,
            "{minute}"
        );
        run = after_a_minute(&desk).await;
        if minute == 28 {
            break;
        }
    }
    desk.finish(&run, &limited()).await;
    let step = desk.step(plan, "a").await;
    assert_eq!(step.state, StateName::Failed);
    assert_eq!(step.error.unwrap()["code"], "model_rate_limited");
    desk.holds().await;
}

#[tokio::test]
async fn a_run_ends_with_its_time_and_a_step_with_all_of_it() {
    let desk = Desk::new(1).await;
    let plan = desk.plan(OnFailure::Continue, &[("a", &[])]).await;
    // Two runs of 300 s: each is renewed for as long as it may last and not longer.
    for attempt in 1..=2 {
        let run = desk.only().await;
        assert_eq!(run.attempt, attempt);
        for _ in 0..29 {
            desk.clock.advance(chrono::TimeDelta::seconds(10));
            let held = [(desk.scope.user(), run.id, run.token)];
            assert_eq!(desk.store.renew(&held).await.unwrap().len(), 1);
            assert_eq!(desk.store.reap(10).await.unwrap(), 0);
        }
        desk.clock.advance(chrono::TimeDelta::seconds(10));
        assert_eq!(desk.store.reap(10).await.unwrap(), 1, "300 s are over");
        assert!(!desk.store.finish(&run, &done()).await.unwrap(), "fenced");
    }
    let step = desk.step(plan, "a").await;
    assert_eq!(step.state, StateName::Failed);
    assert_eq!(step.error.unwrap()["code"], "step_timeout");
    desk.holds().await;
}

#[tokio::test]
async fn waiting_is_no_running() {
    let desk = Desk::new(1).await;
    let plan = desk.plan(OnFailure::Continue, &[("a", &[])]).await;
    let run = desk.only().await;
    let wait = NewWait {
        id: WaitId::new(),
        kind: WaitKind::Timer,
        payload: json!({}),
        deadline: Some(Duration::from_hours(2)),
    };
    desk.finish(&run, &Outcome::Suspend { wait }).await;
    desk.clock.advance(chrono::TimeDelta::hours(2));
    assert_eq!(desk.store.expire_waits(10).await.unwrap(), 1);
    let run = desk.only().await;
    desk.clock.advance(chrono::TimeDelta::seconds(20));
    desk.finish(
        &run,
        &Outcome::Retry {
            after: Duration::ZERO,
            error: trouble(),
            last_words: None,
        },
    )
    .await;
    assert_eq!(desk.step(plan, "a").await.state, StateName::Ready);
    desk.holds().await;
}

#[tokio::test]
async fn a_plan_past_its_time_is_stopped_and_says_why() {
    let desk = Desk::new(1).await;
    let plan = NewPlan {
        session: None,
        goal: "in time".to_owned(),
        steps: vec![
            NewStep {
                agent_id: Some(desk.agent),
                ..NewStep::new("a", StepKind::Agent)
            },
            NewStep::new("b", StepKind::Timer),
        ],
        on_failure: OnFailure::Decide,
        timeout: Some(Duration::from_mins(1)),
        class: Class::Planned,
    };
    let Accepted::Plan { plan, .. } = desk.store.accept_plan(desk.scope, &plan).await.unwrap()
    else {
        panic!("not accepted")
    };
    let claims = desk.claims().await;
    desk.clock.advance(chrono::TimeDelta::seconds(59));
    assert_eq!(desk.store.stop_overdue_plans(10).await.unwrap(), 0);
    desk.clock.advance(chrono::TimeDelta::seconds(1));
    assert_eq!(desk.store.stop_overdue_plans(10).await.unwrap(), 1);
    assert_eq!(desk.store.stop_overdue_plans(10).await.unwrap(), 0);
    for claim in &claims {
        desk.finish(claim, &done()).await;
    }
    let ended = desk.store.plan(desk.scope, plan).await.unwrap().unwrap();
    assert_eq!(ended.state, PlanState::Cancelled);
    assert_eq!(ended.cancel_reason.as_deref(), Some("timed_out"));
    desk.holds().await;
}

#[tokio::test]
async fn who_waits_for_long_is_told_once_and_why() {
    let desk = Desk::new(1).await;
    let plan = desk
        .plan(OnFailure::Continue, &[("a", &[]), ("b", &[])])
        .await;
    let _run = desk.store.claim(WorkerId::new(), 1).await.unwrap();
    assert_eq!(desk.store.tell_of_waiting(10).await.unwrap(), 0);
    desk.clock.advance(chrono::TimeDelta::seconds(6));
    assert_eq!(desk.store.tell_of_waiting(10).await.unwrap(), 1);
    assert_eq!(desk.store.tell_of_waiting(10).await.unwrap(), 0, "once");
    let events = desk
        .store
        .events_after(desk.scope, None, 0.into(), 100)
        .await
        .unwrap();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.plan_id == Some(plan) && event.event_type == "task_waiting")
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].payload["reason"], "agent_full");
    assert_eq!(told[0].payload["waited_ms"], 6000);
    desk.holds().await;
}

#[tokio::test]
async fn the_journal_is_fenced_and_keeps_what_is_done() {
    use engine::tool::{Effect, Entry, EntryKind, EntryState};
    let desk = Desk::new(1).await;
    desk.plan(OnFailure::Continue, &[("a", &[])]).await;
    let old = desk.only().await;
    let context = desk.store.agent_context(&old).await.unwrap();
    assert!(context.journal.is_empty());
    let charged = Entry::done(1, EntryKind::Tool, Effect::Irreversible, json!("charged"));
    let first = Entry::turn_done(0, json!({"text": "one"}));
    assert_eq!(
        desk.store.journal(&old, &[first, charged]).await.unwrap(),
        Written::All
    );
    desk.clock.advance(chrono::TimeDelta::seconds(31));
    desk.store.reap(10).await.unwrap();

    let new = desk.only().await;
    let late = Entry::done(1, EntryKind::Tool, Effect::Irreversible, json!("again"));
    let written = desk.store.journal(&old, std::slice::from_ref(&late)).await;
    assert_eq!(written.unwrap(), Written::Fenced);
    assert!(matches!(
        desk.store.agent_context(&old).await,
        Err(engine::StoreError::LeaseLost(_))
    ));
    let written = desk.store.journal(&new, &[late]).await;
    assert_eq!(written.unwrap(), Written::All);
    let context = desk.store.agent_context(&new).await.unwrap();
    let known: Vec<_> = context
        .journal
        .iter()
        .map(|entry| (entry.ordinal, entry.state, entry.result.clone().unwrap()))
        .collect();
    assert_eq!(
        known,
        [
            (0, EntryState::Done, json!({"text": "one"})),
            (1, EntryState::Done, json!("charged")),
        ],
        "what is done stays as it is"
    );
    desk.holds().await;
}
