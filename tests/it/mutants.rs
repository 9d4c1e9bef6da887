//! The checker proves itself: with the SQL as it is, a run full of zombies shows nothing wrong; with the fence or the limit
//! taken out, it shows exactly that.

use std::time::Duration;

use codelab_tests::{
    checker::{Deed, check_feed, check_fence},
    harness::{Database, agent},
};
use engine::{
    Store, UserScope,
    clock::{Clock, ManualClock},
    event::hints::Hints,
    id::WorkerId,
    step::{Outcome, claimed::Claim},
    store::{self, Accepted, PoolLimits},
    testing::{Shape, check_invariants, explicit},
};
use serde_json::json;

const LIMIT: u8 = 2;

/// A deliberate breakage: what is replaced in the SQL, and what has to give way in the schema.
struct Mutant {
    replace: &'static [(&'static str, &'static str)],
    schema: &'static [&'static str],
}

const SOUND: Mutant = Mutant {
    replace: &[],
    schema: &[],
};
const NO_TOKEN_IN_FINISH: Mutant = Mutant {
    replace: &[(
        " and l.token = g.token\n        and (g.outcome",
        "\n        and (g.outcome",
    )],
    schema: &[],
};
const NO_LIMIT: Mutant = Mutant {
    replace: &[
        ("r.agent_id is null or r.place <= r.agent_room", "true"),
        ("r.kept + least(r.wanting, r.room)", "r.kept + r.wanting"),
    ],
    schema: &[
        "alter table user_agents drop constraint user_agents_limit_check",
        "alter table user_agents drop constraint user_agents_places_check",
    ],
};
const SEQ_NOT_COUNTED: Mutant = Mutant {
    replace: &[("f.last_seq + c.n,", "f.last_seq + c.n + 1,")],
    schema: &[],
};

async fn broken_store(database: &Database, mutant: &Mutant, clock: &ManualClock) -> Store {
    let mut source = store::transitions().to_owned();
    for (from, to) in mutant.replace {
        assert!(
            source.contains(from),
            "the mutant no longer fits the SQL: {from}"
        );
        source = source.replace(from, to);
    }
    let pool = store::pool_with(&database.url, PoolLimits::default(), source.leak()).unwrap();
    for change in mutant.schema {
        sqlx::query(*change).execute(&pool).await.unwrap();
    }
    Store::new(pool, Hints::local(), Duration::from_secs(30))
        .with_clock(Clock::Manual(clock.clone()))
}

/// Every step is claimed twice: the first worker sleeps through its lease and wakes up after the second has begun.
async fn a_run_full_of_zombies(mutant: &Mutant) -> Vec<String> {
    let database = Database::fresh().await;
    let clock = ManualClock::at(chrono::Utc::now());
    let store = broken_store(&database, mutant, &clock).await;
    let scope = database.user(&store, "ada").await;
    let agent = agent(&store, scope, "coder", LIMIT).await;
    for _ in 0..3 {
        let accepted = store
            .accept_plan(scope, &explicit(Shape::Diamond(4), &[agent], None))
            .await
            .unwrap();
        assert!(matches!(accepted, Accepted::Plan { .. }));
    }
    let done = Outcome::Succeed {
        result: json!(null),
        reply: None,
    };
    let mut deeds = Vec::new();
    for _round in 0..40 {
        let zombies = claim(&store, &mut deeds).await;
        if zombies.is_empty() {
            break;
        }
        clock.advance(chrono::TimeDelta::seconds(31));
        store.reap(100).await.unwrap();
        let second = claim(&store, &mut deeds).await;
        for claim in zombies.iter().chain(&second) {
            let accepted = store.finish(claim, &done).await.unwrap();
            deeds.push(if accepted {
                Deed::Accepted(claim.id, claim.token)
            } else {
                Deed::Refused(claim.id, claim.token)
            });
        }
    }
    verdict(&store, scope, &deeds).await
}

async fn claim(store: &Store, deeds: &mut Vec<Deed>) -> Vec<Claim> {
    let claimed = store.claim(WorkerId::new(), 100).await.unwrap();
    deeds.extend(
        claimed
            .iter()
            .map(|claim| Deed::Claimed(claim.id, claim.token)),
    );
    claimed
}

async fn verdict(store: &Store, scope: UserScope, deeds: &[Deed]) -> Vec<String> {
    let refused = deeds
        .iter()
        .filter(|deed| matches!(deed, Deed::Refused(..)))
        .count();
    let mut wrong = check_fence(deeds);
    let events = store
        .events_after(scope, None, 0.into(), 100_000)
        .await
        .unwrap();
    wrong.extend(check_feed(&events, |_| LIMIT.into()));
    wrong.extend(
        check_invariants(store.pool())
            .await
            .unwrap()
            .into_iter()
            .map(|violation| violation.rule.to_owned()),
    );
    if wrong.is_empty() {
        // Nothing passes vacuously: there were zombies, and they were sent away.
        assert!(refused >= 15, "only {refused} zombies");
    }
    wrong
}

#[tokio::test]
async fn the_sql_as_it_is_survives_zombies() {
    assert_eq!(a_run_full_of_zombies(&SOUND).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_finish_without_the_token_is_caught() {
    let wrong = a_run_full_of_zombies(&NO_TOKEN_IN_FINISH).await;
    assert!(
        wrong
            .iter()
            .any(|line| line.contains("was accepted, the newest is")),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn an_admission_without_the_limit_is_caught() {
    let wrong = a_run_full_of_zombies(&NO_LIMIT).await;
    assert!(
        wrong.iter().any(|line| line.contains("steps at once")),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn a_sequence_with_gaps_is_caught() {
    let wrong = a_run_full_of_zombies(&SEQ_NOT_COUNTED).await;
    assert!(
        wrong.iter().any(|line| line.contains("stands at place")),
        "{wrong:?}"
    );
}
