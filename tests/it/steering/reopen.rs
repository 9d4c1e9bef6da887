//! A question that got no answer, or a no, is taken up again: the step waits once more, and what was skipped because of it is back.

use chrono::TimeDelta;
use engine::{
    agent::AgentConfig,
    store::{NewTool, Reopened},
    tool::{Effect, Entry, EntryKind, Executor},
    wait::Decision,
};

use super::*;

/// A plan `a -> b` whose first step asks whether it may call the tool `pay`.
async fn asking(desk: &Desk) -> (PlanId, Claim, WaitId) {
    if desk.store.tool(desk.scope, "pay").await.unwrap().is_none() {
        desk.store
            .create_tool(desk.scope, &pay("pays"))
            .await
            .unwrap();
    }
    let plan = desk
        .plan(OnFailure::Continue, &[("a", &[]), ("b", &["a"])])
        .await;
    let claim = desk.only().await;
    let wait = ask(desk, &claim).await;
    (plan, claim, wait)
}

fn pay(description: &str) -> NewTool {
    NewTool {
        name: "pay".to_owned(),
        description: description.to_owned(),
        input_schema: json!({}),
        executor: Executor::Client,
        effect: Effect::Irreversible,
        risk: engine::tool::Risk::Low,
        consent: engine::tool::Consent::Ask,
        timeout_seconds: 30,
    }
}

/// The running step has had a model's turn, and asks about the call that it brought.
async fn ask(desk: &Desk, claim: &Claim) -> WaitId {
    let turn = Entry::done(
        0,
        EntryKind::Model,
        Effect::Idempotent,
        json!({"text": "I pay"}),
    );
    let id = WaitId::new();
    let payload = json!({"type": "tool", "ordinal": 1, "tool": "pay", "tool_version": 1, "agent_version": 1,
        "arguments": {}, "digest": "d", "choices": ["approve", "reject"]});
    let wait = NewWait {
        id,
        kind: WaitKind::Approval,
        payload,
        deadline: Some(Duration::from_mins(5)),
    };
    let outcome = Outcome::Journaled {
        entries: vec![turn],
        then: Box::new(Outcome::Suspend { wait }),
    };
    desk.finish(claim, &outcome).await;
    id
}

/// The deadline passes; the step is told, and gives up.
async fn unanswered(desk: &Desk) {
    desk.clock.advance(TimeDelta::seconds(300));
    assert_eq!(desk.store.expire_waits(10).await.unwrap(), 1);
    let woken = desk.only().await;
    assert_eq!(woken.woken.as_ref().unwrap().decision, Decision::TimedOut);
    desk.finish(&woken, &broken()).await;
}

async fn reopen(desk: &Desk, wait: WaitId) -> Reopened {
    desk.store.reopen(desk.scope, wait).await.unwrap()
}

async fn refused(desk: &Desk, wait: WaitId) -> String {
    match reopen(desk, wait).await {
        Reopened::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

async fn approve(desk: &Desk, wait: WaitId) -> bool {
    let answer = json!({"choice": "approve"});
    desk.store
        .resolve_wait(desk.scope, wait, Decision::Approved, answer)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_question_that_timed_out_is_asked_again_and_its_plan_goes_on() {
    let desk = Desk::new(1).await;
    let (plan, _, first) = asking(&desk).await;
    assert_eq!(desk.picture(plan).await, ["a suspended", "b blocked"]);
    unanswered(&desk).await;
    assert_eq!(desk.picture(plan).await, ["a failed", "b skipped"]);
    assert_eq!(desk.state(plan).await, PlanState::Failed);

    desk.clock.advance(TimeDelta::milliseconds(9_999));
    assert_eq!(reopen(&desk, first).await, Reopened::TooSoon);
    desk.clock.advance(TimeDelta::milliseconds(1));
    let Reopened::As(second) = reopen(&desk, first).await else {
        panic!("ten seconds have passed");
    };
    assert_eq!(desk.picture(plan).await, ["a suspended", "b blocked"]);
    assert_eq!(desk.state(plan).await, PlanState::Active);
    assert_eq!(refused(&desk, first).await, "again", "once is enough");
    assert!(
        !approve(&desk, first).await,
        "the old one stays as it ended"
    );
    desk.holds().await;

    let asked = desk.store.approval(desk.scope, second).await.unwrap();
    let asked = asked.unwrap();
    assert_eq!((asked.reopened_from, asked.reopenings), (Some(first), 1));
    assert_eq!(asked.payload["digest"], "d", "the same call");
    let left = asked.deadline.unwrap() - asked.created_at;
    assert_eq!(left, TimeDelta::seconds(300), "with all its time");

    assert!(approve(&desk, second).await);
    let woken = desk.only().await;
    assert_eq!(woken.woken.as_ref().unwrap().id, second);
    // What came before the call is not asked of the model again.
    let journal = desk.store.agent_context(&woken).await.unwrap().journal;
    assert_eq!(journal.len(), 1);
    assert_eq!(journal[0].result, Some(json!({"text": "I pay"})));
    desk.succeed(&woken).await;
    let last = desk.only().await;
    assert_eq!(last.key, "b");
    desk.succeed(&last).await;
    assert_eq!(desk.picture(plan).await, ["a succeeded", "b succeeded"]);
    assert_eq!(desk.state(plan).await, PlanState::Succeeded);
    desk.holds().await;
    let told: Vec<String> = desk.events(plan).await;
    let reopened: Vec<&str> = told
        .iter()
        .map(String::as_str)
        .skip_while(|line| *line != "plan_reopened -")
        .take(4)
        .collect();
    assert_eq!(
        reopened,
        [
            "plan_reopened -",
            "task_reopened a",
            "task_reopened b",
            "approval_required a"
        ]
    );
}

#[tokio::test]
async fn a_no_can_be_thought_over_and_three_times_is_enough() {
    let desk = Desk::new(1).await;
    let (plan, _, mut wait) = asking(&desk).await;
    for time in 1..=4 {
        let answer = json!({"choice": "reject"});
        let no = desk
            .store
            .resolve_wait(desk.scope, wait, Decision::Rejected, answer);
        assert!(no.await.unwrap());
        let woken = desk.only().await;
        desk.clock.advance(TimeDelta::seconds(10));
        let why = if time == 4 { "too_often" } else { "busy" };
        assert_eq!(refused(&desk, wait).await, why);
        desk.finish(&woken, &broken()).await;
        match reopen(&desk, wait).await {
            Reopened::As(new) => wait = new,
            Reopened::Refused(why) => assert_eq!((time, why.as_str()), (4, "too_often")),
            other => panic!("{other:?}"),
        }
        desk.holds().await;
    }
    assert_eq!(desk.picture(plan).await, ["a failed", "b skipped"]);
}

#[tokio::test]
async fn what_was_asked_about_has_to_be_what_it_was() {
    let desk = Desk::new(1).await;
    let (plan, _, wait) = asking(&desk).await;
    unanswered(&desk).await;
    desk.clock.advance(TimeDelta::seconds(10));
    desk.store
        .replace_tool(desk.scope, &pay("pays more"))
        .await
        .unwrap();
    let Reopened::Changed(difference) = reopen(&desk, wait).await else {
        panic!("the tool is another one");
    };
    assert_eq!(difference["tool_version"], json!({"then": 1, "now": 2}));
    desk.store.delete_tool(desk.scope, "pay").await.unwrap();
    let Reopened::Changed(difference) = reopen(&desk, wait).await else {
        panic!("the tool is gone");
    };
    assert_eq!(difference["tool_version"], json!({"then": 1, "now": null}));
    desk.store
        .create_tool(desk.scope, &pay("pays"))
        .await
        .unwrap();
    let Reopened::Changed(difference) = reopen(&desk, wait).await else {
        panic!("another tool has the name");
    };
    assert_eq!(difference["tool_version"], json!({"then": 1, "now": 3}));
    assert_eq!(
        desk.picture(plan).await,
        ["a failed", "b skipped"],
        "nothing has moved"
    );
    desk.holds().await;
}

#[tokio::test]
async fn who_asked_has_to_be_who_it_was() {
    let desk = Desk::new(1).await;
    let (_, _, wait) = asking(&desk).await;
    unanswered(&desk).await;
    desk.clock.advance(TimeDelta::seconds(10));
    let config = AgentConfig {
        system_prompt: "You spend freely.".to_owned(),
        ..AgentConfig::default()
    };
    let changed = desk
        .store
        .update_agent(desk.scope, desk.agent, "coder", &config);
    changed.await.unwrap();
    let Reopened::Changed(difference) = reopen(&desk, wait).await else {
        panic!("the agent is another one");
    };
    assert_eq!(difference["agent_version"], json!({"then": 1, "now": 2}));
    desk.holds().await;
}

#[tokio::test]
async fn what_is_open_or_answered_or_cancelled_is_not_taken_up_again() {
    let desk = Desk::new(1).await;
    let (_, _, open) = asking(&desk).await;
    assert_eq!(refused(&desk, open).await, "open");
    assert!(approve(&desk, open).await);
    desk.clock.advance(TimeDelta::seconds(10));
    assert_eq!(refused(&desk, open).await, "decided");
    desk.succeed(&desk.only().await).await;
    desk.succeed(&desk.only().await).await;
    assert_eq!(reopen(&desk, WaitId::new()).await, Reopened::Gone);
    let eve = desk.database.user(&desk.store, "eve").await;
    assert_eq!(desk.store.reopen(eve, open).await.unwrap(), Reopened::Gone);

    // Cancelling a plan closes its questions, and none of them is taken up again.
    let (plan, _, closed) = asking(&desk).await;
    desk.store.cancel_plan(desk.scope, plan).await.unwrap();
    desk.clock.advance(TimeDelta::seconds(10));
    let asked = desk.store.approval(desk.scope, closed).await.unwrap();
    assert_eq!(asked.unwrap().decision, Some(Decision::Cancelled));
    assert_eq!(refused(&desk, closed).await, "decided");
    let (plan, _, no) = asking(&desk).await;
    let answer = json!({"choice": "reject"});
    let said = desk
        .store
        .resolve_wait(desk.scope, no, Decision::Rejected, answer);
    assert!(said.await.unwrap());
    desk.store.cancel_plan(desk.scope, plan).await.unwrap();
    desk.clock.advance(TimeDelta::seconds(10));
    assert_eq!(refused(&desk, no).await, "cancelled");
    desk.holds().await;
}

#[tokio::test]
async fn a_question_of_a_step_that_another_one_made_is_not_taken_up_again() {
    let desk = Desk::new(1).await;
    desk.store
        .create_tool(desk.scope, &pay("pays"))
        .await
        .unwrap();
    desk.plan(OnFailure::Continue, &[("map", &[])]).await;
    let map = desk.only().await;
    let child = NewStep {
        agent_id: Some(desk.agent),
        ..NewStep::new("map.0", StepKind::Agent)
    };
    desk.finish(&map, &spawn(vec![child])).await;
    let child = desk.only().await;
    let asked = ask(&desk, &child).await;
    unanswered(&desk).await;
    desk.clock.advance(TimeDelta::seconds(10));
    assert_eq!(refused(&desk, asked).await, "child");
    desk.holds().await;
}
