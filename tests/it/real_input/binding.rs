//! What an approval is bound to: what was shown is what is done, once, or the person is asked again.

use codelab_tests::{harness::eventually, person::text};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    consent::{confirm, put},
    tools::Workshop,
};

/// An agent that pays `n`, and its question, decided while its plan is held: nothing is done before `then`.
async fn decided_but_held(shop: &Workshop, answer: Value) -> (String, String, Value) {
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    assert_eq!(shop.ada().picture(&plan).await, ["answer suspended"]);
    shop.ada()
        .post(&format!("plans/{plan}/pause/"), json!({}))
        .await;
    let (status, said) = confirm(shop.ada(), &card, answer).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(shop.ada().picture(&plan).await, ["answer ready"]);
    (plan, session, card)
}

async fn go_on(shop: &Workshop, plan: &str) {
    shop.ada()
        .post(&format!("plans/{plan}/resume/"), json!({}))
        .await;
}

/// The next question, which is another one than this.
async fn asked_again(shop: &Workshop, before: &Value) -> Value {
    let card = shop.ada().card().await;
    assert_ne!(card["id"], before["id"], "it is asked anew");
    assert_eq!(
        shop.receipts("charge").len(),
        0,
        "nothing was done under the old one"
    );
    card
}

async fn paid_once(shop: &Workshop, plan: &str, session: &str, card: &Value, n: i64) {
    assert_eq!(
        confirm(shop.ada(), card, json!({"decision": "approve"}))
            .await
            .0,
        200
    );
    let heard = shop.heard(plan, session).await;
    assert!(heard.contains("charged"), "{heard}");
    let receipts = shop.receipts("charge");
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].args, json!({ "n": n }));
    assert_eq!(shop.ada().picture(plan).await, ["answer succeeded"]);
}

/// The tool `pay`, by this schema.
async fn change_the_tool(shop: &Workshop) {
    let url = format!("http://{}/charge", shop.server.address());
    let tool = json!({"effect": "irreversible", "description": "pays for good", "executor": {"kind": "http", "url": url}});
    assert_eq!(put(shop.ada(), "tools/pay/", tool).await.0, 200);
}

#[tokio::test]
async fn another_tool_under_the_same_name_takes_consent_of_its_own() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    let (plan, session, first) = decided_but_held(&shop, json!({"decision": "approve"})).await;
    change_the_tool(&shop).await;
    go_on(&shop, &plan).await;
    let second = asked_again(&shop, &first).await;
    assert_ne!(second["digest"], first["digest"]);
    paid_once(&shop, &plan, &session, &second, 3).await;
    let history = shop
        .ada()
        .get(&format!("approvals/{}/history/", text(&first, "id")))
        .await;
    assert!(
        !history.to_string().contains("called"),
        "nothing was called under the first: {history}"
    );
    shop.close().await;
}

#[tokio::test]
async fn arguments_that_the_person_changed_are_bound_to_the_tool_as_well() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    let edited = json!({"decision": "approve", "edited_payload": {"n": 4}});
    let (plan, session, first) = decided_but_held(&shop, edited).await;
    change_the_tool(&shop).await;
    go_on(&shop, &plan).await;
    let second = asked_again(&shop, &first).await;
    assert_eq!(
        second["details"]["arguments"],
        json!({"n": 3}),
        "as the agent asked for it"
    );
    paid_once(&shop, &plan, &session, &second, 3).await;
    shop.close().await;
}

#[tokio::test]
async fn an_agent_that_was_changed_takes_consent_of_its_own() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    let (plan, session, first) = decided_but_held(&shop, json!({"decision": "approve"})).await;
    let agents = shop.ada().get("agents/").await;
    let id = text(&agents["items"][0], "id");
    let mut config = agents["items"][0]["config"].clone();
    config["system_prompt"] = json!("You spend freely.");
    let change = shop
        .ada()
        .request(Method::PATCH, &format!("agents/{id}/"))
        .json(&json!({ "config": config }));
    let (status, said) = shop.ada().send(change).await;
    assert_eq!(status, 200, "{said}");
    go_on(&shop, &plan).await;
    let second = asked_again(&shop, &first).await;
    assert_eq!(second["digest"], first["digest"], "the call is the same");
    assert_ne!(
        second["details"]["agent_version"],
        first["details"]["agent_version"]
    );
    paid_once(&shop, &plan, &session, &second, 3).await;
    shop.close().await;
}

#[tokio::test]
async fn a_grant_of_an_exact_call_is_of_the_call_that_was_approved() {
    let shop = Workshop::open().await;
    let url = format!("http://{}/charge", shop.server.address());
    let tool =
        json!({"effect": "irreversible", "risk": "low", "executor": {"kind": "http", "url": url}});
    put(shop.ada(), "tools/pay/", tool).await;
    let calls = [
        ("pay", json!({"n": 1})),
        ("pay", json!({"n": 2})),
        ("pay", json!({"n": 1})),
    ];
    shop.agent("payer", &calls).await;
    let (plan, session) = shop.begin("payer").await;
    let grant = json!({"match": "exact", "uses": 5, "for_seconds": 600});
    let edited = json!({"choice": "approve", "edited_payload": {"n": 2}, "grant": grant});
    let first = shop.ada().card().await;
    assert_eq!(confirm(shop.ada(), &first, edited).await.0, 200);
    // The second call is what was granted; the third is what was only asked for.
    let third = shop.ada().card().await;
    assert_eq!(third["details"]["arguments"], json!({"n": 1}));
    let paid: Vec<Value> = shop
        .receipts("charge")
        .into_iter()
        .map(|receipt| receipt.args)
        .collect();
    assert_eq!(paid, [json!({"n": 2}), json!({"n": 2})]);
    confirm(shop.ada(), &third, json!({"choice": "reject"})).await;
    shop.heard(&plan, &session).await;
    let grants = shop.ada().get("approval-grants/").await;
    assert_eq!(grants["items"][0]["uses_left"], 4);
    shop.close().await;
}

#[tokio::test]
async fn a_call_that_did_not_happen_gives_its_grant_the_use_back() {
    use codelab_tests::chaos::tool_server::ToolMood;
    let shop = Workshop::open().await;
    let url = format!("http://{}/charge", shop.server.address());
    let tool =
        json!({"effect": "irreversible", "risk": "low", "executor": {"kind": "http", "url": url}});
    put(shop.ada(), "tools/pay/", tool).await;
    shop.agent("payer", &[("pay", json!({"n": 1}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    let grant =
        json!({"choice": "approve", "grant": {"match": "tool", "uses": 1, "for_seconds": 600}});
    assert_eq!(confirm(shop.ada(), &card, grant).await.0, 200);
    shop.heard(&plan, &session).await;
    // Twice the tool is too busy to begin: a grant of one use covers the call all the same.
    shop.server.moods.next(ToolMood::Busy, 2);
    let (plan, session) = shop.begin("payer").await;
    shop.heard(&plan, &session).await;
    assert_eq!(shop.applied("charge"), 2);
    let grants = shop.ada().get("approval-grants/").await;
    assert_eq!(grants["items"][0]["uses_left"], 0);
    shop.close().await;
}

#[tokio::test]
async fn a_yes_stands_until_the_call_is_made() {
    use codelab_tests::chaos::tool_server::ToolMood;
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    // Nobody knows what became of the first try; the second cannot begin.
    shop.server.moods.next(ToolMood::FailBefore, 1);
    shop.server.moods.next(ToolMood::Busy, 1);
    let (plan, session) = shop.begin("payer").await;
    let first = shop.ada().card().await;
    let edited = json!({"decision": "approve", "edited_payload": {"n": 4}});
    assert_eq!(confirm(shop.ada(), &first, edited).await.0, 200);
    let second = shop.ada().card().await;
    assert_eq!(second["type"], "outcome_unknown");
    let not_done = json!({"choice": "not_done"});
    assert_eq!(confirm(shop.ada(), &second, not_done).await.0, 200);
    shop.heard(&plan, &session).await;
    let asked = shop.ada().get("approvals/").await;
    assert_eq!(asked["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(shop.applied("charge"), 1);
    let last = shop.receipts("charge").pop().unwrap();
    assert_eq!(last.args, json!({"n": 4}), "as it was approved");
    shop.close().await;
}

#[tokio::test]
async fn the_persons_own_program_is_asked_for_nothing_without_consent() {
    let shop = Workshop::open().await;
    let tool = json!({"name": "wipe", "effect": "irreversible", "risk": "low", "executor": {"kind": "client"}});
    shop.ada().post("tools/", tool).await;
    let calls = [
        json!({"until_results": 1, "tool_calls": [{"name": "wipe", "arguments": {}}]}),
        json!({"until_results": 2, "tool_calls": [{"name": "wipe", "arguments": {}}]}),
        json!({"text": "heard {{last}}"}),
    ];
    let config = json!({"tools": ["wipe"], "script": {"turns": calls}});
    shop.ada().agent_with("wiper", config).await;
    let mut feed = shop.ada().watch_all().await;
    let (plan, session) = shop.begin("wiper").await;
    let card = shop.ada().card().await;
    assert_eq!(card["type"], "tool");
    let grant =
        json!({"choice": "approve", "grant": {"match": "tool", "uses": 1, "for_seconds": 600}});
    assert_eq!(confirm(shop.ada(), &card, grant).await.0, 200);
    for round in 0..2 {
        let handed_out = |event: &codelab_tests::person::Seen| {
            event.event == "tool_request" && event.payload["execution"] == "client"
        };
        let call = feed.until(handed_out).await.pop().unwrap();
        let path = format!("tool-calls/{}/result/", text(&call.payload, "call_id"));
        shop.ada().post(&path, json!({"result": round})).await;
    }
    shop.heard(&plan, &session).await;
    let grants = shop.ada().get("approval-grants/").await;
    assert_eq!(grants["items"][0]["uses_left"], 0, "the second was granted");
    shop.close().await;
}

#[tokio::test]
async fn a_plan_is_frozen_once_it_is_approved() {
    let shop = Workshop::open().await;
    let ada = shop.ada();
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    put(ada, "orchestrator/", json!({"approval": "always"})).await;
    let session = ada.session().await;
    let plan = ada.say(&session, "Pay", None).await;
    let card = ada.card().await;
    ada.post(&format!("plans/{plan}/pause/"), json!({})).await;
    ada.decide(&card, json!({"decision": "approve"})).await;
    let draft = json!({"steps": [{"key": "other", "agent": "payer"}]});
    let late = ada
        .request(Method::PATCH, &format!("plans/{plan}/"))
        .json(&draft);
    let (status, said) = ada.send(late).await;
    assert_eq!(
        (status.as_u16(), &said["error_code"]),
        (409, &json!("plan_frozen"))
    );
    go_on(&shop, &plan).await;
    eventually("the plan was made", async || {
        ada.steps(&plan).await.len() > 1
    })
    .await;
    assert!(
        ada.steps(&plan)
            .await
            .iter()
            .all(|step| step["key"] != "other")
    );
    ada.post(&format!("plans/{plan}/cancel/"), json!({})).await;
    shop.close().await;
}
