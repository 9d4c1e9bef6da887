//! Much at once: a plan of 2,000 steps, 50 plans at the same time, and four claim loops that get into each other's way.

mod decisions;
mod races;
mod storm;

use std::collections::HashMap;

use codelab_tests::{
    checker::check_feed,
    harness::{Database, assert_invariants, eventually},
    person::{Person, text},
    tiers::Tiers,
};
use futures::future::join_all;
use serde_json::{Value, json};

/// Agents, each with the limit that it is created with.
const TEAM: [(&str, usize); 4] = [("one", 10), ("two", 10), ("three", 3), ("four", 1)];

/// Makes the team; the limits by id.
async fn team(ada: &Person) -> HashMap<String, usize> {
    let mut limits = HashMap::new();
    for (name, limit) in TEAM {
        limits.insert(
            ada.agent_with(name, json!({ "max_concurrency": limit }))
                .await,
            limit,
        );
    }
    limits
}

/// A plan in layers; each step needs up to three of the layer before, and the agents take turns.
fn layered(layers: usize, width: usize, agents: usize) -> Value {
    let step = |n: usize| {
        let (layer, column) = (n / width, n % width);
        let above =
            |shift: usize| format!("s{}", (layer - 1) * width + (column + shift * 7) % width);
        let needs: Vec<String> = if layer == 0 {
            Vec::new()
        } else {
            (0..std::cmp::min(3, width)).map(above).collect()
        };
        let needs: std::collections::BTreeSet<String> = needs.into_iter().collect();
        json!({"key": format!("s{n}"), "agent": TEAM[n % agents].0, "prompt": "Do your part.", "needs": needs})
    };
    json!({"goal": "much", "steps": (0..layers * width).map(step).collect::<Vec<Value>>()})
}

async fn assert_all_is_well(database: &Database, limits: &HashMap<String, usize>) {
    let store = database.store();
    assert_invariants(&store).await;
    let scope = database.user(&store, "ada").await;
    let events = store
        .events_after(scope, None, 0.into(), 1_000_000)
        .await
        .unwrap();
    let wrong = check_feed(&events, |agent| limits.get(agent).copied().unwrap_or(0));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_plan_of_two_thousand_steps() {
    let database = Database::fresh().await;
    let tiers = Tiers::start(&database.url, &[]).await;
    let ada = &tiers.ada;
    let limits = team(ada).await;
    let plan = text(&ada.post("plans/", layered(20, 100, 3)).await, "id");
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    let plan = ada.get(&format!("plans/{plan}/")).await;
    assert_eq!(
        (&plan["state"], &plan["counts"]),
        (&json!("succeeded"), &json!({"succeeded": 2000}))
    );
    tiers.stop_content().await;
    assert_all_is_well(&database, &limits).await;
}

#[tokio::test]
async fn fifty_plans_at_once() {
    let database = Database::fresh().await;
    let tiers = Tiers::start(&database.url, &[]).await;
    let ada = &tiers.ada;
    let limits = team(ada).await;
    let plans = join_all((0..50).map(|_| ada.post("plans/", layered(5, 2, 4)))).await;
    for plan in plans {
        let plan = text(&plan, "id");
        eventually("the plan ends", async || ada.state(&plan).await != "active").await;
        let plan = ada.get(&format!("plans/{plan}/")).await;
        assert_eq!(
            (&plan["state"], &plan["counts"]),
            (&json!("succeeded"), &json!({"succeeded": 10}))
        );
    }
    tiers.stop_content().await;
    assert_all_is_well(&database, &limits).await;
}
