//! What a person does to a plan that is under way, and what failures do to it: transitions on real rows, a clock that is moved.

mod cards;
mod explain;
mod reopen;
mod time;

use std::time::Duration;

use codelab_tests::harness::{Database, agent, assert_invariants};
use engine::{
    Store, UserScope,
    clock::{Clock, ManualClock},
    id::{AgentId, PlanId, StepId, WaitId, WorkerId},
    plan::{Class, Join, NewNeed, NewStep, OnFailure, PlanState, graph::When},
    step::{
        Outcome, StateName, StepError, StepKind,
        claimed::Claim,
        outcome::{ErrorClass, NewWait, WaitKind},
    },
    store::{
        Accepted, Cancelled, Held, NewPlan, Retried, Retry,
        claims::{ClaimOptions, claims},
    },
};
use futures::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Somebody with an agent, a store and a clock.
struct Desk {
    database: Database,
    store: Store,
    clock: ManualClock,
    scope: UserScope,
    agent: AgentId,
}

impl Desk {
    async fn new(max_concurrency: u8) -> Self {
        let database = Database::fresh().await;
        let clock = ManualClock::at(chrono::Utc::now());
        let store = database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
        let scope = database.user(&store, "ada").await;
        let agent = agent(&store, scope, "coder", max_concurrency).await;
        Self {
            database,
            store,
            clock,
            scope,
            agent,
        }
    }

    /// Accepts steps `(key, needs)`; a need is `key`, `key?done` or `key?failure`; a key that ends with `|` joins any.
    async fn plan(&self, on_failure: OnFailure, steps: &[(&str, &[&str])]) -> PlanId {
        let ids: Vec<StepId> = steps.iter().map(|_| StepId::new()).collect();
        let id_of = |key: &str| {
            let place = steps
                .iter()
                .position(|(known, _)| known.trim_end_matches('|') == key)
                .unwrap();
            ids[place]
        };
        let need = |need: &&str| {
            let (key, when) = need.split_once('?').unwrap_or((need, "success"));
            let when = match when {
                "done" => When::Done,
                "failure" => When::Failure,
                _ => When::Success,
            };
            NewNeed {
                id: id_of(key),
                when,
            }
        };
        let step = |(place, (key, needs)): (usize, &(&str, &[&str]))| NewStep {
            id: ids[place],
            agent_id: (*key != "summary").then_some(self.agent),
            joins: if key.ends_with('|') {
                Join::Any
            } else {
                Join::All
            },
            needs: needs.iter().map(need).collect(),
            ..NewStep::new(
                key.trim_end_matches('|'),
                if *key == "summary" {
                    StepKind::Summary
                } else {
                    StepKind::Agent
                },
            )
        };
        let plan = NewPlan {
            session: None,
            goal: "a story".to_owned(),
            steps: steps.iter().enumerate().map(step).collect(),
            on_failure,
            timeout: None,
            class: Class::Planned,
        };
        match self.store.accept_plan(self.scope, &plan).await.unwrap() {
            Accepted::Plan { plan, .. } => plan,
            other => panic!("{other:?}"),
        }
    }

    /// Claims everything that may run, by key.
    async fn claims(&self) -> Vec<Claim> {
        let mut claims = self.store.claim(WorkerId::new(), 100).await.unwrap();
        claims.sort_by(|one, other| one.key.cmp(&other.key));
        claims
    }

    async fn keys(&self) -> Vec<String> {
        self.claims()
            .await
            .into_iter()
            .map(|claim| claim.key)
            .collect()
    }

    /// The one that may run.
    async fn only(&self) -> Claim {
        let mut claims = self.claims().await;
        assert_eq!(claims.len(), 1, "{claims:?}");
        claims.remove(0)
    }

    async fn finish(&self, claim: &Claim, outcome: &Outcome) {
        assert!(self.store.finish(claim, outcome).await.unwrap(), "fenced");
    }

    async fn succeed(&self, claim: &Claim) {
        self.finish(claim, &done()).await;
    }

    /// `key state` of each step, in order.
    async fn picture(&self, plan: PlanId) -> Vec<String> {
        let steps = self.store.steps(self.scope, plan, -1, 2000).await.unwrap();
        let line = |step: engine::plan::Step| format!("{} {}", step.key, step.state.as_str());
        steps.into_iter().map(line).collect()
    }

    async fn step(&self, plan: PlanId, key: &str) -> engine::plan::Step {
        let steps = self.store.steps(self.scope, plan, -1, 2000).await.unwrap();
        steps.into_iter().find(|step| step.key == key).unwrap()
    }

    async fn state(&self, plan: PlanId) -> PlanState {
        self.store
            .plan(self.scope, plan)
            .await
            .unwrap()
            .unwrap()
            .state
    }

    async fn retry(&self, plan: PlanId, key: &str) -> Retried {
        let step = self.step(plan, key).await.id;
        let how = Retry::default();
        self.store
            .retry_step(self.scope, plan, step, &how)
            .await
            .unwrap()
    }

    async fn holds(&self) {
        assert_invariants(&self.store).await;
    }

    /// Types of the events of a plan since the cursor, with the key of their step.
    async fn events(&self, plan: PlanId) -> Vec<String> {
        let events = self
            .store
            .events_after(self.scope, None, 0.into(), 10_000)
            .await
            .unwrap();
        let of_plan = events
            .into_iter()
            .filter(|event| event.plan_id == Some(plan));
        of_plan
            .map(|event| {
                let key = event.payload["key"].as_str().unwrap_or("-").to_owned();
                format!("{} {key}", event.event_type)
            })
            .collect()
    }
}

fn done() -> Outcome {
    Outcome::Succeed {
        result: json!({ "text": "ok" }),
        reply: None,
    }
}

fn broken() -> Outcome {
    Outcome::Fail {
        error: trouble(),
        reply: None,
    }
}

/// The step waits for these.
fn spawn(children: Vec<NewStep>) -> Outcome {
    Outcome::Spawn {
        wait: NewWait {
            id: WaitId::new(),
            kind: WaitKind::Child,
            payload: json!({}),
            deadline: None,
        },
        children,
        depth: 0,
    }
}

fn trouble() -> StepError {
    StepError::new(ErrorClass::Invalid, "broken", "it broke")
}

#[tokio::test]
async fn a_plan_that_is_held_begins_nothing_and_goes_on_where_it_was() {
    let desk = Desk::new(2).await;
    let plan = desk
        .plan(
            OnFailure::Continue,
            &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &["a"])],
        )
        .await;
    let first = desk
        .store
        .claim(WorkerId::new(), 1)
        .await
        .unwrap()
        .remove(0);
    let hold = || desk.store.pause_plan(desk.scope, plan);
    assert_eq!(hold().await.unwrap(), Held::Done);
    assert_eq!(hold().await.unwrap(), Held::Already);
    desk.holds().await;
    assert!(desk.keys().await.is_empty(), "what was ready is held");

    // What runs may end; what that makes ready, or brings back later, is held too.
    desk.succeed(&first).await;
    assert!(desk.keys().await.is_empty());
    desk.holds().await;
    // Its places are free for others meanwhile.
    let other = desk
        .plan(OnFailure::Continue, &[("x", &[]), ("y", &[])])
        .await;
    assert_eq!(desk.keys().await, ["x", "y"]);
    desk.store.cancel_plan(desk.scope, other).await.unwrap();

    let go = || desk.store.resume_plan(desk.scope, plan);
    assert_eq!(go().await.unwrap(), Held::Done);
    assert_eq!(go().await.unwrap(), Held::Already);
    desk.holds().await;
    // x and y still hold their places until they come home.
    assert!(desk.keys().await.is_empty());
    desk.clock.advance(chrono::TimeDelta::seconds(31));
    desk.store.reap(10).await.unwrap();
    let mut ran = Vec::new();
    loop {
        let claims = desk.claims().await;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            ran.push(claim.key.clone());
            desk.succeed(&claim).await;
        }
    }
    ran.sort();
    assert_eq!(ran, ["b", "c", "d"]);
    assert_eq!(desk.state(plan).await, PlanState::Succeeded);
    assert_eq!(hold().await.unwrap(), Held::Closed);
    desk.holds().await;
}

#[tokio::test]
async fn a_retry_that_comes_due_while_its_plan_is_held_waits_for_the_end_of_that() {
    let desk = Desk::new(2).await;
    let plan = desk.plan(OnFailure::Continue, &[("a", &[])]).await;
    let run = desk.only().await;
    let later = Outcome::Defer {
        after: Duration::from_secs(5),
        error: trouble(),
        last_words: None,
    };
    desk.finish(&run, &later).await;
    desk.store.pause_plan(desk.scope, plan).await.unwrap();
    desk.clock.advance(chrono::TimeDelta::seconds(6));
    assert_eq!(desk.store.admit_due(10).await.unwrap(), 0);
    assert!(desk.keys().await.is_empty());
    desk.store.resume_plan(desk.scope, plan).await.unwrap();
    assert_eq!(desk.store.admit_due(10).await.unwrap(), 1);
    assert_eq!(desk.keys().await, ["a"]);
    desk.holds().await;
}

#[tokio::test]
async fn one_step_is_cancelled_and_its_plan_goes_on() {
    let desk = Desk::new(3).await;
    let plan = desk
        .plan(
            OnFailure::Decide,
            &[
                ("a", &[]),
                ("b", &[]),
                ("c", &["a"]),
                ("d", &["b?done"]),
                ("e", &["b"]),
            ],
        )
        .await;
    let claims = desk.claims().await;
    let cancel = async |key: &str| {
        let step = desk.step(plan, key).await.id;
        desk.store
            .cancel_step(desk.scope, plan, step)
            .await
            .unwrap()
    };
    assert_eq!(cancel("c").await, Cancelled::Done, "it is blocked");
    assert_eq!(cancel("c").await, Cancelled::AlreadyClosed);
    assert_eq!(cancel("b").await, Cancelled::Underway, "it runs");
    let watched = desk
        .store
        .watch(&[(desk.scope.user(), claims[1].id, claims[1].token)])
        .await
        .unwrap();
    assert!(watched[0].cancelling, "its worker hears of it");
    desk.holds().await;
    desk.finish(&claims[1], &done()).await;
    assert_eq!(
        desk.picture(plan).await,
        [
            "a running",
            "b cancelled",
            "c cancelled",
            "d ready",
            "e skipped"
        ],
        "whatever it returned"
    );
    desk.succeed(&claims[0]).await;
    let last = desk.only().await;
    desk.succeed(&last).await;
    assert_eq!(desk.state(plan).await, PlanState::Partial);
    let nobody = desk
        .store
        .cancel_step(desk.scope, plan, StepId::new())
        .await
        .unwrap();
    assert_eq!(nobody, Cancelled::Gone);
    desk.holds().await;
}

#[tokio::test]
async fn a_cancel_is_heard_without_any_hint() {
    let database = Database::fresh().await;
    // Two processes that share nothing but the rows: no hint goes from one to the other.
    let (here, there) = (database.store(), database.store());
    let scope = database.user(&here, "ada").await;
    let agent = agent(&here, scope, "coder", 1).await;
    let options = ClaimOptions {
        places: 1,
        drain: CancellationToken::new(),
        abandon: CancellationToken::new(),
    };
    let mut steps = Box::pin(claims(there, options.clone()));
    let shape = engine::testing::Shape::Chain(1);
    let plan = engine::testing::explicit(shape, &[agent], None);
    let Accepted::Plan { plan, .. } = here.accept_plan(scope, &plan).await.unwrap() else {
        panic!("not accepted")
    };
    let step = steps.next().await.unwrap();
    here.cancel_plan(scope, plan).await.unwrap();
    // Leases are renewed every ten seconds: whoever hears of it before that has looked by himself.
    let heard = step.claim.cancelled.clone();
    tokio::time::timeout(Duration::from_secs(5), heard.cancelled())
        .await
        .expect("it is told in time");
    step.finish(Outcome::Yield);
    options.drain.cancel();
    assert!(steps.next().await.is_none());
    assert_invariants(&here).await;
}

#[tokio::test]
async fn a_failed_step_runs_again_in_place_and_what_was_skipped_comes_back() {
    let desk = Desk::new(3).await;
    let plan = desk
        .plan(
            OnFailure::Continue,
            &[
                ("a", &[]),
                ("b", &[]),
                ("c", &["a", "b"]),
                ("d", &["b", "c"]),
                ("x", &["d?done"]),
                ("other", &["x"]),
                ("summary", &["a?done", "b?done", "c?done", "d?done"]),
            ],
        )
        .await;
    let claims = desk.claims().await;
    desk.succeed(&claims[0]).await;
    desk.finish(&claims[1], &broken()).await;
    let [summary, x] = desk.claims().await.try_into().unwrap();
    assert_eq!((summary.key.as_str(), x.key.as_str()), ("summary", "x"));
    desk.succeed(&summary).await;
    desk.succeed(&x).await;
    let other = desk.only().await;
    desk.succeed(&other).await;
    assert_eq!(desk.state(plan).await, PlanState::Partial);
    desk.holds().await;

    assert_eq!(desk.retry(plan, "a").await, Retried::NotFailed);
    assert_eq!(desk.retry(plan, "b").await, Retried::Done);
    assert_eq!(
        desk.picture(plan).await,
        [
            "a succeeded",
            "b ready",
            "c blocked",
            "d blocked",
            "x succeeded",
            "other succeeded",
            "summary blocked"
        ],
        "what succeeded stays; the summary will answer anew"
    );
    assert_eq!(desk.state(plan).await, PlanState::Active);
    desk.holds().await;
    for key in ["b", "c", "d", "summary"] {
        let claim = desk.only().await;
        assert_eq!(claim.key, key);
        desk.succeed(&claim).await;
        desk.holds().await;
    }
    assert_eq!(desk.state(plan).await, PlanState::Succeeded);
    let told = desk.events(plan).await;
    for line in [
        "plan_reopened -",
        "task_reopened b",
        "task_reopened d",
        "task_reopened summary",
    ] {
        assert!(told.iter().any(|event| event == line), "{line}: {told:?}");
    }
}

#[tokio::test]
async fn what_another_failure_rules_out_does_not_come_back() {
    let desk = Desk::new(3).await;
    let plan = desk
        .plan(
            OnFailure::Continue,
            &[
                ("a", &[]),
                ("b", &[]),
                ("c", &["a", "b"]),
                ("d", &["a"]),
                ("any|", &["a", "b"]),
                ("end", &["any"]),
            ],
        )
        .await;
    let claims = desk.claims().await;
    desk.finish(&claims[0], &broken()).await;
    desk.finish(&claims[1], &broken()).await;
    assert_eq!(desk.state(plan).await, PlanState::Failed);
    assert_eq!(desk.retry(plan, "a").await, Retried::Done);
    assert_eq!(
        desk.picture(plan).await,
        [
            "a ready",
            "b failed",
            "c skipped",
            "d blocked",
            "any blocked",
            "end blocked"
        ]
    );
    desk.holds().await;
    let a = desk.only().await;
    desk.succeed(&a).await;
    assert_eq!(desk.keys().await, ["any", "d"]);
    desk.holds().await;
}

#[tokio::test]
async fn a_retry_takes_the_agent_as_it_is_now_and_another_question_begins_a_new_journal() {
    let desk = Desk::new(3).await;
    let plan = desk.plan(OnFailure::Continue, &[("a", &[])]).await;
    let run = desk.only().await;
    desk.finish(&run, &broken()).await;
    let other = agent(&desk.store, desk.scope, "other", 1).await;
    let how = Retry {
        prompt: Some("otherwise".to_owned()),
        agent: Some(other),
        fresh: false,
    };
    let retried = desk
        .store
        .retry_step(desk.scope, plan, run.id, &how)
        .await
        .unwrap();
    assert_eq!(retried, Retried::Done);
    let again = desk.only().await;
    assert_eq!((again.round, again.agent), (1, Some(other)));
    let spec = again.spec.clone().unwrap();
    assert_eq!(spec.prompt.as_deref(), Some("otherwise"));
    assert!(again.token > run.token, "tokens only grow");
    assert!(!desk.store.finish(&run, &done()).await.unwrap(), "fenced");
    desk.succeed(&again).await;
    desk.holds().await;

    let cancelled = desk
        .plan(OnFailure::Continue, &[("a", &[]), ("b", &[])])
        .await;
    let claims = desk.claims().await;
    desk.finish(&claims[0], &broken()).await;
    desk.store.cancel_plan(desk.scope, cancelled).await.unwrap();
    assert_eq!(desk.retry(cancelled, "a").await, Retried::Cancelled);
}

#[tokio::test]
async fn a_plan_that_aborts_ends_the_rest_and_still_sums_up() {
    let desk = Desk::new(2).await;
    let plan = desk
        .plan(
            OnFailure::Abort,
            &[
                ("a", &[]),
                ("b", &[]),
                ("c", &[]),
                ("d", &["a"]),
                ("summary", &["a?done", "b?done", "c?done", "d?done"]),
            ],
        )
        .await;
    let claims = desk.claims().await;
    desk.finish(&claims[0], &broken()).await;
    assert_eq!(
        desk.picture(plan).await,
        [
            "a failed",
            "b running",
            "c cancelled",
            "d cancelled",
            "summary blocked"
        ]
    );
    desk.holds().await;
    desk.finish(&claims[1], &done()).await;
    assert_eq!(desk.step(plan, "b").await.state, StateName::Cancelled);
    let summary = desk.only().await;
    desk.succeed(&summary).await;
    assert_eq!(desk.state(plan).await, PlanState::Failed);
    desk.holds().await;
}

#[tokio::test]
async fn whoever_joins_any_begins_with_the_first_and_is_skipped_by_the_last() {
    let desk = Desk::new(3).await;
    let plan = desk
        .plan(
            OnFailure::Continue,
            &[
                ("a", &[]),
                ("b", &[]),
                ("c", &[]),
                ("first|", &["a", "b", "c"]),
                ("none|", &["a", "b?failure"]),
            ],
        )
        .await;
    let claims = desk.claims().await;
    desk.finish(&claims[0], &broken()).await;
    assert_eq!(desk.step(plan, "first").await.state, StateName::Blocked);
    desk.succeed(&claims[1]).await;
    assert_eq!(desk.step(plan, "first").await.state, StateName::Ready);
    assert_eq!(desk.step(plan, "none").await.state, StateName::Skipped);
    desk.succeed(&claims[2]).await;
    desk.holds().await;
    let first = desk.only().await;
    desk.succeed(&first).await;
    assert_eq!(desk.state(plan).await, PlanState::Partial);
    desk.holds().await;
}

#[tokio::test]
async fn a_step_waits_for_those_it_made_without_a_place_and_wakes_when_all_have_ended() {
    let desk = Desk::new(1).await;
    let plan = desk
        .plan(OnFailure::Decide, &[("map", &[]), ("after", &["map"])])
        .await;
    let map = desk.only().await;
    let child = |key: &str, needs: Vec<NewNeed>| NewStep {
        agent_id: Some(desk.agent),
        needs,
        ..NewStep::new(key, StepKind::Agent)
    };
    let first = child("map.0", Vec::new());
    let second = child(
        "map.1",
        vec![NewNeed {
            id: first.id,
            when: When::Done,
        }],
    );
    desk.finish(&map, &spawn(vec![first, second])).await;
    desk.holds().await;
    let zero = desk.only().await;
    assert_eq!(zero.key, "map.0", "the only place is free for the children");
    // A child that fails asks nobody: its parent reports it.
    desk.finish(&zero, &broken()).await;
    let one = desk.only().await;
    assert_eq!(one.key, "map.1", "one after another");
    desk.holds().await;
    desk.succeed(&one).await;
    let map = desk.only().await;
    assert_eq!((map.key.as_str(), map.attempt), ("map", 2));
    assert_eq!(map.woken.as_ref().unwrap().kind, WaitKind::Child);
    let children = desk.store.children(&map).await.unwrap();
    let states: Vec<StateName> = children.iter().map(|child| child.state).collect();
    assert_eq!(states, [StateName::Failed, StateName::Succeeded]);
    desk.succeed(&map).await;
    let after = desk.only().await;
    desk.succeed(&after).await;
    assert_eq!(desk.state(plan).await, PlanState::Partial, "an item failed");
    desk.holds().await;
}

#[tokio::test]
async fn a_parent_that_is_cancelled_takes_its_children_along() {
    let desk = Desk::new(1).await;
    let plan = desk.plan(OnFailure::Decide, &[("map", &[])]).await;
    let map = desk.only().await;
    let children: Vec<NewStep> = (0..3)
        .map(|n| NewStep {
            agent_id: Some(desk.agent),
            ..NewStep::new(format!("map.{n}"), StepKind::Agent)
        })
        .collect();
    desk.finish(&map, &spawn(children)).await;
    let running = desk.only().await;
    let cancelled = desk
        .store
        .cancel_step(desk.scope, plan, map.id)
        .await
        .unwrap();
    assert_eq!(cancelled, Cancelled::Done);
    desk.holds().await;
    desk.finish(&running, &done()).await;
    assert_eq!(
        desk.picture(plan).await,
        [
            "map cancelled",
            "map.0 cancelled",
            "map.1 cancelled",
            "map.2 cancelled"
        ]
    );
    assert_eq!(desk.state(plan).await, PlanState::Failed);
    desk.holds().await;
}
