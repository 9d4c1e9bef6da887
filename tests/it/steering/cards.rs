//! The decision card: a step that has failed for good waits for the person before anything is given up for it.

use engine::wait::Decision;

use super::*;

/// A plan whose first step has failed; its card.
async fn failed(desk: &Desk) -> (PlanId, WaitId) {
    let plan = desk
        .plan(
            OnFailure::Decide,
            &[
                ("a", &[]),
                ("b", &["a"]),
                ("beside", &[]),
                ("last", &["a?done"]),
            ],
        )
        .await;
    let claims = desk.claims().await;
    desk.finish(&claims[0], &broken()).await;
    assert_eq!(
        desk.picture(plan).await,
        ["a suspended", "b blocked", "beside running", "last blocked"],
        "nothing is given up yet"
    );
    desk.holds().await;
    desk.succeed(&claims[1]).await;
    let card = desk
        .store
        .open_approvals(desk.scope, 10)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(card.payload["type"], "decision");
    assert_eq!(card.payload["error"]["code"], "broken");
    assert_eq!(card.step_key, "a");
    (plan, card.id)
}

async fn answer(desk: &Desk, card: WaitId, decision: Decision, answer: serde_json::Value) -> bool {
    desk.store
        .resolve_wait(desk.scope, card, decision, answer)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_retry_runs_it_again_and_a_second_failure_asks_again() {
    let desk = Desk::new(2).await;
    let (plan, card) = failed(&desk).await;
    assert!(answer(&desk, card, Decision::Answered, json!({"choice": "retry"})).await);
    assert!(!answer(&desk, card, Decision::Answered, json!({"choice": "skip"})).await);
    let again = desk.only().await;
    assert_eq!(again.woken.as_ref().unwrap().choice(), Some("retry"));
    desk.finish(&again, &broken()).await;
    let cards = desk.store.open_approvals(desk.scope, 10).await.unwrap();
    assert_eq!(cards.len(), 1);
    assert_ne!(cards[0].id, card);
    desk.holds().await;
    assert!(
        answer(
            &desk,
            cards[0].id,
            Decision::Answered,
            json!({"choice": "retry"})
        )
        .await
    );
    for key in ["a", "b", "last"] {
        let claims = desk.claims().await;
        let claim = claims.iter().find(|claim| claim.key == key);
        if let Some(claim) = claim {
            desk.succeed(claim).await;
        }
        for other in claims.iter().filter(|other| other.key != key) {
            desk.succeed(other).await;
        }
    }
    assert_eq!(desk.state(plan).await, PlanState::Succeeded);
    desk.holds().await;
}

#[tokio::test]
async fn an_edit_or_another_agent_changes_the_step_in_the_same_commit() {
    let desk = Desk::new(2).await;
    let (_, card) = failed(&desk).await;
    let other = agent(&desk.store, desk.scope, "other", 1).await;
    let patch = json!({"choice": "agent", "patch": {"agent_id": other, "prompt": "with care"}});
    assert!(answer(&desk, card, Decision::Edited, patch).await);
    let again = desk.only().await;
    assert_eq!((again.agent, again.round), (Some(other), 1));
    assert_eq!(again.spec.unwrap().prompt.as_deref(), Some("with care"));
    desk.holds().await;
}

#[tokio::test]
async fn a_step_that_is_skipped_lets_what_needs_it_go_on() {
    let desk = Desk::new(2).await;
    let (plan, card) = failed(&desk).await;
    assert!(answer(&desk, card, Decision::Answered, json!({"choice": "skip"})).await);
    let woken = desk.only().await;
    desk.finish(&woken, &Outcome::Skip).await;
    assert_eq!(
        desk.picture(plan).await,
        ["a skipped", "b ready", "beside succeeded", "last ready"]
    );
    desk.holds().await;
    for claim in desk.claims().await {
        desk.succeed(&claim).await;
    }
    assert_eq!(desk.state(plan).await, PlanState::Partial, "said honestly");
    desk.holds().await;
}

#[tokio::test]
async fn without_an_answer_what_needs_it_is_given_up() {
    let desk = Desk::new(2).await;
    let (plan, card) = failed(&desk).await;
    desk.clock.advance(chrono::TimeDelta::seconds(299));
    assert_eq!(desk.store.expire_waits(10).await.unwrap(), 0);
    desk.clock.advance(chrono::TimeDelta::seconds(1));
    assert!(
        !answer(&desk, card, Decision::Answered, json!({"choice": "retry"})).await,
        "too late"
    );
    assert_eq!(desk.store.expire_waits(10).await.unwrap(), 1);
    let woken = desk.only().await;
    assert_eq!(woken.woken.as_ref().unwrap().decision, Decision::TimedOut);
    let given_up = Outcome::GiveUp {
        error: trouble(),
        reply: None,
    };
    desk.finish(&woken, &given_up).await;
    assert_eq!(
        desk.picture(plan).await,
        ["a failed", "b skipped", "beside succeeded", "last ready"]
    );
    let last = desk.only().await;
    desk.succeed(&last).await;
    assert_eq!(desk.state(plan).await, PlanState::Partial);
    desk.holds().await;
    // Later it is retried in place.
    assert_eq!(desk.retry(plan, "a").await, Retried::Done);
    assert_eq!(
        desk.picture(plan).await,
        ["a ready", "b blocked", "beside succeeded", "last succeeded"]
    );
    desk.holds().await;
}

#[tokio::test]
async fn the_reaper_and_the_last_retry_ask_too() {
    let desk = Desk::new(2).await;
    let plan = desk
        .plan(OnFailure::Decide, &[("a", &[]), ("b", &[])])
        .await;
    for _ in 0..3 {
        let claims = desk.claims().await;
        let again = Outcome::Retry {
            after: Duration::ZERO,
            error: trouble(),
            last_words: None,
        };
        for claim in claims.iter().filter(|claim| claim.key == "b") {
            desk.finish(claim, &again).await;
        }
        desk.clock.advance(chrono::TimeDelta::seconds(31));
        desk.store.reap(10).await.unwrap();
    }
    assert_eq!(desk.picture(plan).await, ["a suspended", "b suspended"]);
    let cards = desk.store.open_approvals(desk.scope, 10).await.unwrap();
    let code = |key: &str| {
        let card = cards.iter().find(|card| card.step_key == key).unwrap();
        card.payload["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!((code("a"), code("b")), ("poison".into(), "broken".into()));
    desk.holds().await;
}
