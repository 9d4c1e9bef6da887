//! Why nothing is happening: each reason in the situation that it is the reason of.

use engine::plan::explain::Explained;

use super::*;

async fn reasons(desk: &Desk, plan: PlanId) -> Vec<String> {
    let explained = desk.store.explain(desk.scope, plan).await.unwrap();
    let line = |one: Explained| {
        let facts = serde_json::to_value(&one).unwrap();
        format!("{} {}", one.key, facts["reason"].as_str().unwrap())
    };
    explained.into_iter().map(line).collect()
}

async fn facts(desk: &Desk, plan: PlanId, key: &str) -> serde_json::Value {
    let explained = desk.store.explain(desk.scope, plan).await.unwrap();
    let one = explained.into_iter().find(|one| one.key == key).unwrap();
    serde_json::to_value(one).unwrap()
}

#[tokio::test]
async fn every_step_that_has_not_ended_has_one_reason_and_its_facts() {
    let desk = Desk::new(1).await;
    let worker = WorkerId::new();
    let plan = desk
        .plan(
            OnFailure::Decide,
            &[("a", &[]), ("b", &[]), ("c", &["a", "b"])],
        )
        .await;
    assert_eq!(
        reasons(&desk, plan).await,
        ["a no_worker_online", "b agent_full", "c waits_for_steps"]
    );
    desk.store.report(worker, 4).await.unwrap();
    assert_eq!(facts(&desk, plan, "a").await["reason"], "queued");
    assert_eq!(facts(&desk, plan, "a").await["workers"], 1);
    let needs = facts(&desk, plan, "c").await["needs"].clone();
    assert_eq!(
        needs[0],
        json!({"key": "a", "state": "ready", "when": "success"})
    );

    let run = desk.store.claim(worker, 1).await.unwrap().remove(0);
    assert_eq!(
        reasons(&desk, plan).await,
        ["a running", "b agent_full", "c waits_for_steps"]
    );
    let full = facts(&desk, plan, "b").await;
    assert_eq!(full["limit"], 1);
    assert_eq!(full["with"], json!([{"plan_id": plan, "key": "a"}]));

    desk.store.pause_plan(desk.scope, plan).await.unwrap();
    assert_eq!(facts(&desk, plan, "b").await["reason"], "plan_paused");
    desk.store.resume_plan(desk.scope, plan).await.unwrap();

    desk.clock.advance(chrono::TimeDelta::seconds(20));
    assert_eq!(
        facts(&desk, plan, "a").await["reason"],
        "worker_lost",
        "it has been silent for 20 s"
    );
    desk.store.report(worker, 4).await.unwrap();
    let limited = Outcome::Defer {
        after: Duration::from_mins(1),
        error: StepError::new(ErrorClass::RateLimited, "model_rate_limited", "slow down"),
        last_words: None,
    };
    desk.finish(&run, &limited).await;
    let waits = facts(&desk, plan, "a").await;
    assert_eq!(waits["reason"], "provider_limited");
    assert_eq!(waits["error"]["message"], "slow down");

    let run = desk.only().await;
    assert_eq!(run.key, "b");
    let again = Outcome::Retry {
        after: Duration::from_mins(1),
        error: StepError::bug("broken", "it broke"),
        last_words: None,
    };
    desk.finish(&run, &again).await;
    let later = facts(&desk, plan, "b").await;
    assert_eq!(
        (later["reason"].as_str(), &later["failures"]),
        (Some("retry_later"), &json!(1))
    );
}

#[tokio::test]
async fn waits_of_every_kind_are_told_apart() {
    let desk = Desk::new(5).await;
    let kinds = [
        (WaitKind::Approval, "approval"),
        (WaitKind::Input, "input"),
        (WaitKind::ClientTool, "client_tool"),
        (WaitKind::Timer, "timer"),
        (WaitKind::Child, "children"),
    ];
    let plan = desk
        .plan(
            OnFailure::Decide,
            &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[]), ("e", &[])],
        )
        .await;
    let claims = desk.claims().await;
    for (claim, (kind, _)) in claims.iter().zip(kinds) {
        let wait = NewWait {
            id: WaitId::new(),
            kind,
            payload: json!({"type": "tool"}),
            deadline: Some(Duration::from_mins(5)),
        };
        desk.finish(claim, &Outcome::Suspend { wait }).await;
    }
    let expected: Vec<String> = kinds
        .iter()
        .zip(["a", "b", "c", "d", "e"])
        .map(|((_, reason), key)| format!("{key} {reason}"))
        .collect();
    assert_eq!(reasons(&desk, plan).await, expected);
    desk.store.cancel_plan(desk.scope, plan).await.unwrap();
    assert!(reasons(&desk, plan).await.is_empty(), "all have ended");
}
