//! A hunt in this process, without processes: every step is claimed twice by the same worker, which sleeps through its lease in
//! between and reports the old run first. A worker that takes its own step again is the one zombie that no schedule of faults
//! brings about in time.

use std::time::Duration;

use engine::{
    Store, StoreError, UserScope,
    agent::AgentConfig,
    clock::{Clock, ManualClock},
    event::hints::Hints,
    id::WorkerId,
    step::{Outcome, claimed::Claim},
    store::{self, PoolLimits},
    testing::{Shape, check_invariants, explicit},
};
use serde_json::json;
use uuid::Uuid;

use crate::checker::{Deed, check_feed, check_fence};

/// Steps that the agent may run at once.
const LIMIT: u8 = 2;
/// Rounds after which everything has ended, or never will.
const ROUNDS: usize = 40;

/// Everything that was wrong, with these transitions on this database.
pub async fn hunt(url: &str, transitions: String) -> Result<Vec<String>, StoreError> {
    let clock = ManualClock::at(chrono::Utc::now());
    let pool = store::pool_with(url, PoolLimits::default(), transitions.leak())?;
    let store = Store::new(pool, Hints::local(), Duration::from_secs(30))
        .with_clock(Clock::Manual(clock.clone()));
    let scope = UserScope::vouched(store.user_at_sight("", "ada", None).await?);
    let config = AgentConfig {
        max_concurrency: LIMIT,
        ..AgentConfig::default()
    };
    let agent = store.create_agent(scope, "coder", &config).await?.id;
    for _ in 0..2 {
        store
            .accept_plan(scope, &explicit(Shape::Diamond(3), &[agent], None))
            .await?;
    }
    // The one under which `Store::finish` reports.
    let worker = WorkerId(Uuid::nil());
    let mut deeds = Vec::new();
    for _ in 0..ROUNDS {
        let zombies = claim(&store, worker, &mut deeds).await?;
        if zombies.is_empty() {
            break;
        }
        clock.advance(chrono::TimeDelta::seconds(31));
        store.reap(100).await?;
        let again = claim(&store, worker, &mut deeds).await?;
        for claim in zombies.iter().chain(&again) {
            deeds.push(finish(&store, claim).await?);
        }
    }
    judge(&store, scope, &deeds).await
}

async fn claim(
    store: &Store,
    worker: WorkerId,
    deeds: &mut Vec<Deed>,
) -> Result<Vec<Claim>, StoreError> {
    let claimed = store.claim(worker, 100).await?;
    deeds.extend(claimed.iter().map(|one| Deed::Claimed(one.id, one.token)));
    Ok(claimed)
}

async fn finish(store: &Store, claim: &Claim) -> Result<Deed, StoreError> {
    let done = Outcome::Succeed {
        result: json!(null),
        reply: None,
    };
    Ok(if store.finish(claim, &done).await? {
        Deed::Accepted(claim.id, claim.token)
    } else {
        Deed::Refused(claim.id, claim.token)
    })
}

async fn judge(store: &Store, scope: UserScope, deeds: &[Deed]) -> Result<Vec<String>, StoreError> {
    let mut wrong = check_fence(deeds);
    let events = store.events_after(scope, None, 0.into(), 100_000).await?;
    wrong.extend(check_feed(&events, |_| LIMIT.into()));
    let broken = check_invariants(store.pool()).await?;
    wrong.extend(
        broken
            .into_iter()
            .map(|violation| violation.rule.to_owned()),
    );
    Ok(wrong)
}
