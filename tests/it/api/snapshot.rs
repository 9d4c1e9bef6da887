//! The snapshot: state and cursor of one moment, so that nothing falls between it and the stream.

use std::collections::BTreeMap;

use engine::testing::{Shape, explicit};
use engine::{Store, UserScope, id::AgentId};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Api, Feed};

#[tokio::test]
async fn a_snapshot_shows_the_session_and_nothing_of_others() {
    let api = Api::start().await;
    let (session, other) = (api.session("ada").await, api.session("ada").await);
    api.agent("ada", "coder").await;
    for (session, content) in [(&other, "elsewhere"), (&session, "hello")] {
        let said = json!({"content": content, "target_agent": "coder"});
        api.post("ada", &format!("/my/chat/{session}/message/"), said)
            .await
            .ok();
    }
    api.work("hi").await;
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "again", "target_agent": "coder"}),
    )
    .await
    .ok();
    let plan = api.plan("ada", Some(&session), "coder").await;
    let snapshot = api
        .get("ada", &format!("/my/chat/{session}/snapshot/"))
        .await;
    let snapshot = snapshot.ok();
    let texts = |list: &Value, field: &str| -> Vec<String> {
        let items = list.as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter_map(|item| item[field].as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(snapshot["session"]["id"], json!(session));
    assert_eq!(
        texts(&snapshot["messages"], "content"),
        ["hello", "hi", "again"]
    );
    let plans = snapshot["plans"].as_array().expect("plans");
    assert_eq!(plans.len(), 2, "the answered one has ended");
    assert_eq!(plans[1]["plan"]["id"], json!(plan));
    assert_eq!(texts(&plans[1]["steps"], "key"), ["first", "second"]);
    let scope = api.scope("ada").await;
    let last = api.store.last_seq(scope).await.expect("a seq");
    assert_eq!(snapshot["cursor"], json!(last));
    for user in ["eve"] {
        let foreign = api
            .get(user, &format!("/my/chat/{session}/snapshot/"))
            .await;
        assert_eq!(
            (foreign.status.as_u16(), foreign.problem()),
            (404, "not_found")
        );
    }
}

/// States of steps as events tell of them, over those that are known.
fn follow(states: &mut BTreeMap<String, String>, event: &Value) {
    let step = event["step_id"].as_str().unwrap_or_default().to_owned();
    let state = match event["event_type"].as_str().unwrap_or_default() {
        "task_started" => "running",
        "task_completed" => "succeeded",
        _ => return,
    };
    // An event that the snapshot had taken in already would be seen as a step that goes backwards or stands still.
    let order = ["blocked", "ready", "running", "succeeded"];
    let rank = |state: &str| order.iter().position(|known| *known == state);
    let known = states.get(&step).map_or(Some(0), |known| rank(known));
    assert!(known < rank(state), "{event} after {known:?}");
    states.insert(step, state.to_owned());
}

async fn write(store: &Store, scope: UserScope, agent: AgentId, session: &str) {
    for _ in 0..12 {
        let session = session.parse().ok();
        store
            .accept_plan(scope, &explicit(Shape::Chain(3), &[agent], session))
            .await
            .expect("accepted");
    }
}

#[tokio::test]
async fn a_snapshot_and_the_stream_after_it_are_everything_once() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    let scope = api.scope("ada").await;
    let agent: AgentId = api.agent("ada", "coder").await.parse().expect("an id");
    let path = format!("/my/chat/{session}/snapshot/");
    let work = async {
        write(&api.store, scope, agent, &session).await;
        while api.work("done").await > 0 {}
    };
    let looks = async {
        let mut looks = Vec::new();
        // As many as there is time for while the steps run.
        while looks.len() < 60 {
            looks.push(api.get("ada", &path).await.ok().clone());
        }
        looks
    };
    let ((), looks) = tokio::join!(work, looks);
    while api.work("done").await > 0 {}
    let last = api.last_of("ada", &session).await;
    let mut met = 0;
    for look in looks {
        let cursor = look["cursor"].as_i64().expect("a cursor");
        let plans = look["plans"].as_array().cloned().unwrap_or_default();
        let mut states = BTreeMap::new();
        for step in plans
            .iter()
            .flat_map(|plan| plan["steps"].as_array().cloned().unwrap_or_default())
        {
            let text = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
            states.insert(text("id"), text("state"));
        }
        if cursor >= last {
            assert!(states.is_empty());
            continue;
        }
        met += usize::from(states.values().any(|state| state == "running"));
        let after = format!("/my/chat/{session}/events/?after={cursor}");
        let mut feed = Feed::open(api.request("ada", Method::GET, &after)).await;
        for frame in feed.until(last).await {
            follow(&mut states, &frame.data);
        }
        assert!(
            states.values().all(|state| state == "succeeded"),
            "{states:?} after {cursor}"
        );
    }
    assert!(met > 0, "some looks fell into the work");
}
