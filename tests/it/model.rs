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
    plan::{Class, NewNeed, NewStep, OnFailure, graph::When},
    step::{
        Outcome, StateName, StepError, StepEvent, StepKind, StepState,
        claimed::Claim,
        outcome::{NewWait, WaitKind},
        state::{Asks, Cancelling, Patience, Question, Runs},
    },
    store::{Accepted, NewPlan, Retry, RunLimits},
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
    /// The need that failed, if one did.
    missed: Option<StepId>,
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

fn defer() -> Outcome {
    Outcome::Defer {
        after: Duration::ZERO,
        error: error(),
        last_words: None,
    }
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
        needs: needs
            .iter()
            .map(|id| NewNeed {
                id: *id,
                when: When::Success,
            })
            .collect(),
        ..NewStep::new(key, StepKind::Agent)
    }
}

/// Long enough that only what is under test comes to its limit.
const LIMITS: RunLimits = RunLimits {
    run: Duration::from_hours(24),
    step: Duration::from_hours(24),
    patience: Duration::from_mins(15),
    card: Duration::from_mins(5),
    events: Duration::from_hours(24 * 30),
};

impl Subject {
    /// Blocked on two steps that run. A third keeps the plan open whatever happens.
    async fn blocked(database: &Database, on_failure: OnFailure) -> Self {
        let clock = ManualClock::at(chrono::Utc::now());
        let store = database
            .store_with(Clock::Manual(clock.clone()), Duration::from_secs(30))
            .with_limits(LIMITS);
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
            on_failure,
            timeout: None,
            class: Class::Planned,
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
            missed: None,
        }
    }

    async fn ready(database: &Database, on_failure: OnFailure) -> Self {
        let mut subject = Self::blocked(database, on_failure).await;
        for need in std::mem::take(&mut subject.needs) {
            assert!(subject.store.finish(&need, &done()).await.unwrap());
        }
        subject
    }

    async fn running(database: &Database, failures: u16, on_failure: OnFailure) -> Self {
        let mut subject = Self::ready(database, on_failure).await;
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

    /// Running, and kept from getting on for as long as that is borne.
    async fn out_of_patience(database: &Database, on_failure: OnFailure) -> Self {
        let mut subject = Self::running(database, 0, on_failure).await;
        assert!(subject.finish(&defer()).await);
        subject.claim = subject.take().await;
        subject.clock.advance(chrono::TimeDelta::minutes(15));
        assert!(subject.claim.is_some());
        subject
    }

    /// Failed for good, and nobody has said what shall become of it.
    async fn unanswered(database: &Database) -> Self {
        let mut subject = Self::running(database, 0, OnFailure::Decide).await;
        let failed = Outcome::Fail {
            error: error(),
            reply: None,
        };
        assert!(subject.finish(&failed).await);
        let open = subject
            .store
            .open_approvals(subject.scope, 1)
            .await
            .unwrap();
        subject.wait = open[0].id;
        subject.clock.advance(chrono::TimeDelta::minutes(5));
        assert_eq!(subject.store.expire_waits(10).await.unwrap(), 1);
        subject.claim = subject.take().await;
        subject.happen(StepEvent::GiveUp).await;
        subject.clock.advance(chrono::TimeDelta::seconds(10));
        subject
    }

    async fn suspended(database: &Database) -> Self {
        let subject = Self::running(database, 0, OnFailure::Continue).await;
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
                self.missed = self.needs.last().map(|need| need.id);
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
            StepEvent::Defer => drop(self.finish(&defer()).await),
            StepEvent::GiveUp => {
                self.finish(&Outcome::GiveUp {
                    error: error(),
                    reply: None,
                })
                .await;
            }
            StepEvent::Skip => drop(self.finish(&Outcome::Skip).await),
            StepEvent::Reopen => drop(self.store.reopen(self.scope, self.wait).await.unwrap()),
            StepEvent::Revive => self.retry(self.step).await,
            StepEvent::NeedRevived => {
                if let Some(missed) = self.missed {
                    self.retry(missed).await;
                }
            }
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

    async fn retry(&self, step: StepId) {
        let how = Retry::default();
        self.store
            .retry_step(self.scope, self.plan, step, &how)
            .await
            .unwrap();
    }

    async fn need(&mut self, outcome: &Outcome) {
        // Once all needs have ended there is nothing that could be met or missed.
        if let Some(need) = self.needs.pop() {
            assert!(self.store.finish(&need, outcome).await.unwrap());
        }
    }

    /// The row, as the types say it.
    async fn row(&self) -> StepState {
        let (state, waiting_for, token, failures, max_failures, cancelling, impatient, asks, declined): (StateName, i32, i64, i16, i16, bool, bool, bool, bool) =
            sqlx::query_as(
            "select s.state, s.waiting_for, s.token, s.failures, s.max_failures, p.cancel_requested_at is not null,
                    coalesce($3 - s.failing_since >= interval '15 minutes', false), p.on_failure = 'decide',
                    exists (select 1 from waits w where w.user_id = s.user_id and w.step_id = s.id and w.decision in ('timed_out', 'rejected')
                      and w.decided_at <= $3 - interval '10 seconds'
                      and not exists (select 1 from waits n where n.reopened_from = w.id and n.user_id = w.user_id))
             from steps s join plans p on p.user_id = s.user_id and p.id = s.plan_id where s.user_id = $1 and s.id = $2",
        )
        .bind(self.scope.user())
        .bind(self.step)
        .bind(self.clock.now())
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        let runs = Runs {
            token: token.try_into().unwrap(),
            failures: failures.try_into().unwrap(),
            max_failures: max_failures.try_into().unwrap(),
            patience: if impatient {
                Patience::Gone
            } else {
                Patience::Left
            },
            question: if declined {
                Question::Declined
            } else {
                Question::None
            },
            asks: if asks { Asks::Yes } else { Asks::No },
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
            // Its plan may be asked to end later; that is nothing to it.
            StateName::Succeeded => StepState::Succeeded(Runs {
                cancelling: Cancelling::No,
                ..runs
            }),
            StateName::Failed => StepState::Failed(runs),
            StateName::Skipped => StepState::Skipped {
                waiting_for: waiting_for.try_into().unwrap(),
            },
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
    RunningAsking,
    RunningAskingForTheLastTime,
    RunningOutOfPatience,
    RunningAskingOutOfPatience,
    Suspended,
    Succeeded,
    Failed,
    FailedUnanswered,
    Skipped,
    Cancelled,
}

impl Start {
    const ALL: [Self; 16] = [
        Self::BlockedOnTwo,
        Self::BlockedOnOne,
        Self::Ready,
        Self::Running,
        Self::RunningForTheLastTime,
        Self::RunningWhileCancelled,
        Self::RunningAsking,
        Self::RunningAskingForTheLastTime,
        Self::RunningOutOfPatience,
        Self::RunningAskingOutOfPatience,
        Self::Suspended,
        Self::Succeeded,
        Self::Failed,
        Self::FailedUnanswered,
        Self::Skipped,
        Self::Cancelled,
    ];

    async fn subject(self, database: &Database) -> Subject {
        let quiet = OnFailure::Continue;
        let asks = OnFailure::Decide;
        let blocked = || Subject::blocked(database, quiet);
        let running = || Subject::running(database, 0, quiet);
        match self {
            Self::BlockedOnTwo => blocked().await,
            Self::BlockedOnOne => after(blocked().await, StepEvent::NeedMet).await,
            Self::Ready => Subject::ready(database, quiet).await,
            Self::Running => running().await,
            Self::RunningForTheLastTime => Subject::running(database, 2, quiet).await,
            Self::RunningWhileCancelled => after(running().await, StepEvent::Cancel).await,
            Self::RunningAsking => Subject::running(database, 0, asks).await,
            Self::RunningAskingForTheLastTime => Subject::running(database, 2, asks).await,
            Self::RunningOutOfPatience => Subject::out_of_patience(database, quiet).await,
            Self::RunningAskingOutOfPatience => Subject::out_of_patience(database, asks).await,
            Self::Suspended => Subject::suspended(database).await,
            Self::Succeeded => after(running().await, StepEvent::Succeed).await,
            Self::Failed => after(running().await, StepEvent::Fail).await,
            Self::FailedUnanswered => Subject::unanswered(database).await,
            Self::Skipped => after(blocked().await, StepEvent::NeedMissed).await,
            Self::Cancelled => after(blocked().await, StepEvent::Cancel).await,
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
    // Not vacuous: sixteen ways to stand, seventeen things to happen, and many of them lead somewhere.
    assert_eq!(pairs, 272);
    assert!(moved >= 80, "only {moved} pairs moved");
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
async fn what_has_ended_stays_so_but_for_the_person() {
    let person = [StepEvent::Revive, StepEvent::NeedRevived, StepEvent::Reopen];
    for state in [
        StepState::Succeeded(Runs::fresh()),
        StepState::Failed(Runs::fresh()),
        StepState::Skipped { waiting_for: 1 },
        StepState::Cancelled,
    ] {
        for event in StepEvent::ALL {
            if state.on(event).is_ok() {
                assert!(person.contains(&event), "{state:?} on {event:?}");
            }
        }
    }
}
