//! The model test: every (state, event) pair through `StepState::on` and through the SQL, and both say the same.
//!
//! Each pair gets a database of its own making: a step is driven to its state by transitions alone, the event comes as
//! it comes in production, and the row is read back.

use std::time::Duration;

use codelab_tests::harness::{Database, assert_invariants};
use engine::{
    Store, UserScope,
    clock::{Clock, ManualClock},
    id::{PlanId, StepId, WaitId, WorkerId},
    plan::{NewNeed, NewStep, graph::When},
    step::{
        Outcome, StateName, StepError, StepEvent, StepKind, StepSpec, StepState,
        claimed::Claim,
        outcome::{NewWait, WaitKind},
        state::{Cancelling, Runs},
    },
    store::{Accepted, NewPlan},
    wait::Decision,
};
use serde_json::json;

/// A step in a state, and what is needed to let things happen to it.
struct Subject {
    store: Store,
    clock: ManualClock,
    scope: UserScope,
    plan: PlanId,
    /// The step under test; it needs `first` and `second`.
    step: StepId,
    /// Its claim, if it was ever claimed.
    claim: Option<Claim>,
    /// Its wait, if it was ever suspended.
    wait: WaitId,
    /// Claims of the steps that it needs and that have not ended.
    needs: Vec<Claim>,
}

fn done() -> Outcome {
    Outcome::Succeed {
        result: json!(null),
        reply: None,
    }
}

fn error() -> StepError {
    StepError::bug("broken", "it broke")
}

fn suspend(id: WaitId) -> Outcome {
    let wait = NewWait {
        id,
        kind: WaitKind::Timer,
        payload: json!({}),
        deadline: Some(Duration::from_mins(1)),
    };
    Outcome::Suspend { wait }
}

fn step(id: StepId, key: &str, needs: &[StepId]) -> NewStep {
    NewStep {
        id,
        key: key.to_owned(),
        kind: StepKind::Agent,
        agent_id: None,
        spec: StepSpec::default(),
        max_failures: None,
        needs: needs
            .iter()
            .map(|id| NewNeed {
                id: *id,
                when: When::Success,
            })
            .collect(),
    }
}

impl Subject {
    /// Blocked on two steps that run. A third keeps the plan open whatever happens.
    async fn blocked(database: &Database) -> Self {
        let clock = ManualClock::at(chrono::Utc::now());
        let store = database.store_with(Clock::Manual(clock.clone()), Duration::from_secs(30));
        let scope = database.user(&store, &StepId::new().to_string()).await;
        let [first, second, subject, other] =
            [StepId::new(), StepId::new(), StepId::new(), StepId::new()];
        let steps = vec![
            step(first, "first", &[]),
            step(second, "second", &[]),
            step(subject, "subject", &[first, second]),
            step(other, "other", &[subject]),
        ];
        let plan = NewPlan {
            session: None,
            goal: "model".to_owned(),
            steps,
        };
        let Accepted::Plan { plan, .. } = store.accept_plan(scope, &plan).await.unwrap() else {
            panic!("not accepted")
        };
        let needs = store.claim(WorkerId::new(), 2).await.unwrap();
        assert_eq!(needs.len(), 2);
        Self {
            store,
            clock,
            scope,
            plan,
            step: subject,
            claim: None,
            wait: WaitId::new(),
            needs,
        }
    }

    async fn ready(database: &Database) -> Self {
        let mut subject = Self::blocked(database).await;
        for need in std::mem::take(&mut subject.needs) {
            assert!(subject.store.finish(&need, &done()).await.unwrap());
        }
        subject
    }

    async fn running(database: &Database, failures: u16) -> Self {
        let mut subject = Self::ready(database).await;
        for _ in 0..failures {
            let claim = subject.take().await.expect("claimable");
            let again = Outcome::Retry {
                after: Duration::ZERO,
                error: error(),
                last_words: None,
            };
            assert!(subject.store.finish(&claim, &again).await.unwrap());
        }
        subject.claim = subject.take().await;
        assert!(subject.claim.is_some());
        subject
    }

    async fn take(&self) -> Option<Claim> {
        self.store
            .claim(WorkerId::new(), 10)
            .await
            .unwrap()
            .into_iter()
            .find(|claim| claim.id == self.step)
    }

    async fn suspended(database: &Database) -> Self {
        let subject = Self::running(database, 0).await;
        assert!(subject.finish(&suspend(subject.wait)).await);
        subject
    }

    async fn finish(&self, outcome: &Outcome) -> bool {
        match &self.claim {
            Some(claim) => self.store.finish(claim, outcome).await.unwrap(),
            None => false,
        }
    }

    /// The event as it comes in production.
    async fn happen(&mut self, event: StepEvent) {
        match event {
            StepEvent::NeedMet => self.need(&done()).await,
            StepEvent::NeedMissed => {
                self.need(&Outcome::Fail {
                    error: error(),
                    reply: None,
                })
                .await;
            }
            StepEvent::Claim => drop(self.store.claim(WorkerId::new(), 10).await.unwrap()),
            StepEvent::Succeed => drop(self.finish(&done()).await),
            StepEvent::Retry => {
                let again = Outcome::Retry {
                    after: Duration::ZERO,
                    error: error(),
                    last_words: None,
                };
                self.finish(&again).await;
            }
            StepEvent::Yield => drop(self.finish(&Outcome::Yield).await),
            StepEvent::Suspend => drop(self.finish(&suspend(WaitId::new())).await),
            StepEvent::Fail => drop(
                self.finish(&Outcome::Fail {
                    error: error(),
                    reply: None,
                })
                .await,
            ),
            StepEvent::Lose => {
                self.clock.advance(chrono::TimeDelta::seconds(31));
                self.store.reap(1).await.unwrap();
            }
            StepEvent::Wake => {
                self.store
                    .resolve_wait(self.scope, self.wait, Decision::Answered, json!({}))
                    .await
                    .unwrap();
            }
            StepEvent::Cancel => drop(self.store.cancel_plan(self.scope, self.plan).await.unwrap()),
        }
    }

    async fn need(&mut self, outcome: &Outcome) {
        // Once all needs have ended there is nothing that could be met or missed.
        if let Some(need) = self.needs.pop() {
            assert!(self.store.finish(&need, outcome).await.unwrap());
        }
    }

    /// The row, as the types say it.
    async fn row(&self) -> StepState {
        let (state, waiting_for, token, failures, max_failures, cancelling): (StateName, i32, i64, i16, i16, bool) = sqlx::query_as(
            "select s.state, s.waiting_for, s.token, s.failures, s.max_failures, p.cancel_requested_at is not null
             from steps s join plans p on p.user_id = s.user_id and p.id = s.plan_id where s.user_id = $1 and s.id = $2",
        )
        .bind(self.scope.user())
        .bind(self.step)
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        let runs = Runs {
            token: token.try_into().unwrap(),
            failures: failures.try_into().unwrap(),
            max_failures: max_failures.try_into().unwrap(),
            cancelling: if cancelling {
                Cancelling::Yes
            } else {
                Cancelling::No
            },
        };
        match state {
            StateName::Blocked => StepState::Blocked {
                waiting_for: waiting_for.try_into().unwrap(),
            },
            StateName::Ready => StepState::Ready(runs),
            StateName::Running => StepState::Running(runs),
            StateName::Suspended => StepState::Suspended(runs),
            StateName::Succeeded => StepState::Succeeded,
            StateName::Failed => StepState::Failed,
            StateName::Skipped => StepState::Skipped,
            StateName::Cancelled => StepState::Cancelled,
        }
    }
}

/// Every state that matters to some event, by the way it is reached.
#[derive(Debug, Clone, Copy)]
enum Start {
    BlockedOnTwo,
    BlockedOnOne,
    Ready,
    Running,
    RunningForTheLastTime,
    RunningWhileCancelled,
    Suspended,
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
}

impl Start {
    const ALL: [Self; 11] = [
        Self::BlockedOnTwo,
        Self::BlockedOnOne,
        Self::Ready,
        Self::Running,
        Self::RunningForTheLastTime,
        Self::RunningWhileCancelled,
        Self::Suspended,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
    ];

    async fn subject(self, database: &Database) -> Subject {
        match self {
            Self::BlockedOnTwo => Subject::blocked(database).await,
            Self::BlockedOnOne => after(Subject::blocked(database).await, StepEvent::NeedMet).await,
            Self::Ready => Subject::ready(database).await,
            Self::Running => Subject::running(database, 0).await,
            Self::RunningForTheLastTime => Subject::running(database, 2).await,
            Self::RunningWhileCancelled => {
                after(Subject::running(database, 0).await, StepEvent::Cancel).await
            }
            Self::Suspended => Subject::suspended(database).await,
            Self::Succeeded => after(Subject::running(database, 0).await, StepEvent::Succeed).await,
            Self::Failed => after(Subject::running(database, 0).await, StepEvent::Fail).await,
            Self::Skipped => after(Subject::blocked(database).await, StepEvent::NeedMissed).await,
            Self::Cancelled => after(Subject::blocked(database).await, StepEvent::Cancel).await,
        }
    }
}

async fn after(mut subject: Subject, event: StepEvent) -> Subject {
    subject.happen(event).await;
    subject
}

#[tokio::test]
async fn types_and_sql_agree_on_every_pair() {
    let mut pairs = 0;
    let mut moved = 0;
    for start in Start::ALL {
        // One database a state: the reaper and the claim see all users of a database.
        let database = Database::fresh().await;
        for event in StepEvent::ALL {
            let mut subject = start.subject(&database).await;
            let before = subject.row().await;
            subject.happen(event).await;
            let (expected, legal) = match before.on(event) {
                Ok(state) => (state, true),
                Err(_) => (before, false),
            };
            let found = subject.row().await;
            assert_eq!(found, expected, "{start:?} on {event:?} (legal: {legal})");
            assert_invariants(&subject.store).await;
            pairs += 1;
            moved += usize::from(legal);
            clear(&subject.store).await;
        }
    }
    // Not vacuous: eleven ways to stand, eleven things to happen, and many of them lead somewhere.
    assert_eq!(pairs, 121);
    assert!(moved >= 30, "only {moved} pairs moved");
}

/// Takes everything that is left out of the way of the next pair.
async fn clear(store: &Store) {
    sqlx::query("truncate users cascade")
        .execute(store.pool())
        .await
        .unwrap();
    sqlx::query("truncate events, leases, ready_steps")
        .execute(store.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn final_states_stay() {
    for state in [
        StepState::Succeeded,
        StepState::Failed,
        StepState::Skipped,
        StepState::Cancelled,
    ] {
        for event in StepEvent::ALL {
            assert!(state.on(event).is_err(), "{state:?} on {event:?}");
        }
    }
}
