//! Consent over the whole way: rules, grants, changed arguments, questions, the person's own program, plans.

use std::time::Duration;

use codelab_tests::{
    harness::eventually,
    person::{Person, Seen, text},
};
use engine::store::RunLimits;
use reqwest::Method;
use serde_json::{Value, json};

use super::{System, tools::Workshop};

/// The answer's status and document.
pub(super) async fn confirm(ada: &Person, card: &Value, answer: Value) -> (u16, Value) {
    let path = format!("approvals/{}/confirm/", text(card, "id"));
    let (status, said) = ada
        .send(ada.request(Method::POST, &path).json(&answer))
        .await;
    (status.as_u16(), said)
}

pub(super) async fn put(ada: &Person, path: &str, body: Value) -> (u16, Value) {
    let (status, said) = ada.send(ada.request(Method::PUT, path).json(&body)).await;
    (status.as_u16(), said)
}

#[tokio::test]
async fn changed_arguments_are_checked_and_are_what_is_called() {
    let shop = Workshop::open().await;
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 10}}});
    let url = format!("http://{}/charge", shop.server.address());
    let tool = json!({"effect": "irreversible", "input_schema": schema, "executor": {"kind": "http", "url": url}});
    assert_eq!(put(shop.ada(), "tools/pay/", tool).await.0, 200);
    // What does not fit is told to the model and nobody is asked.
    shop.agent(
        "payer",
        &[("pay", json!({"n": 99})), ("pay", json!({"n": 3}))],
    )
    .await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    assert_eq!(card["details"]["arguments"], json!({"n": 3}));

    let refused = confirm(
        shop.ada(),
        &card,
        json!({"choice": "approve", "edited_payload": {"n": 11}}),
    )
    .await;
    assert_eq!(
        (refused.0, &refused.1["errors"][0]["pointer"]),
        (422, &json!("/edited_payload/n"))
    );
    let path = format!("approvals/{}/confirm/", text(&card, "id"));
    let other = shop
        .ada()
        .request(Method::POST, &path)
        .header("if-match", "\"something else\"")
        .json(&json!({"choice": "approve"}));
    let (status, problem) = shop.ada().send(other).await;
    assert_eq!(
        (status.as_u16(), &problem["error_code"]),
        (412, &json!("precondition_failed"))
    );
    let seen = shop
        .ada()
        .request(Method::POST, &path)
        .header("if-match", format!("\"{}\"", text(&card, "digest")))
        .json(&json!({"choice": "approve", "edited_payload": {"n": 7}}));
    let (status, decided) = shop.ada().send(seen).await;
    assert_eq!(
        (status.as_u16(), &decided["status"]),
        (200, &json!("edited"))
    );
    shop.heard(&plan, &session).await;
    let receipts = shop.receipts("charge");
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].args, json!({"n": 7}));

    let history = shop
        .ada()
        .get(&format!("approvals/{}/history/", text(&card, "id")))
        .await;
    let what: Vec<&str> = history["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["what"].as_str())
        .collect();
    assert_eq!(what, ["asked", "edited", "called", "came_back"]);
    shop.close().await;
}

#[tokio::test]
async fn a_grant_covers_so_many_calls_and_no_more() {
    let shop = Workshop::open().await;
    let url = format!("http://{}/charge", shop.server.address());
    let tool = |risk: &str| json!({"effect": "irreversible", "risk": risk, "executor": {"kind": "http", "url": url}});
    put(shop.ada(), "tools/pay/", tool("low")).await;
    let calls: Vec<(&str, Value)> = vec![("pay", json!({"n": 1})); 4];
    shop.agent("payer", &calls).await;
    let (plan, session) = shop.begin("payer").await;
    let first = shop.ada().card().await;
    let grant =
        json!({"choice": "approve", "grant": {"match": "exact", "uses": 2, "for_seconds": 600}});
    assert_eq!(confirm(shop.ada(), &first, grant.clone()).await.0, 200);
    // One was approved, two were granted, the fourth asks again.
    let second = shop.ada().card().await;
    assert_ne!(first["id"], second["id"]);
    assert_eq!(shop.receipts("charge").len(), 3);
    let grants = shop.ada().get("approval-grants/").await;
    assert_eq!(grants["items"][0]["uses_left"], 0);
    confirm(shop.ada(), &second, grant.clone()).await;
    shop.heard(&plan, &session).await;
    assert_eq!(shop.receipts("charge").len(), 4);

    // Taken back, it covers nothing; for a tool of high risk there is none; a changed tool asks again.
    let grants = shop.ada().get("approval-grants/").await;
    let id = text(&grants["items"][0], "id");
    let revoke = shop
        .ada()
        .request(Method::DELETE, &format!("approval-grants/{id}/"));
    assert_eq!(revoke.send().await.unwrap().status(), 204);
    let (plan, _) = shop.begin("payer").await;
    let third = shop.ada().card().await;
    put(shop.ada(), "tools/pay/", tool("high")).await;
    confirm(shop.ada(), &third, grant.clone()).await;
    let fourth = shop.ada().card().await;
    assert_eq!(fourth["details"]["risk"], "high");
    let refused = confirm(shop.ada(), &fourth, grant).await;
    assert_eq!(
        (refused.0, &refused.1["errors"][0]["code"]),
        (422, &json!("high_risk"))
    );
    assert_eq!(shop.receipts("charge").len(), 4);
    shop.ada()
        .post(&format!("plans/{plan}/cancel/"), json!({}))
        .await;
    assert_eq!(
        confirm(shop.ada(), &fourth, json!({"choice": "approve"}))
            .await
            .0,
        409
    );
    shop.close().await;
}

#[tokio::test]
async fn rules_decide_before_anybody_is_asked() {
    let shop = Workshop::open().await;
    let rules = json!({"rules": [
        {"tool": "pay", "arguments": [{"pointer": "/to", "matches": "bank*"}], "then": "deny"},
        {"tool": "p*", "agent": "payer", "then": "auto"}]});
    assert_eq!(
        put(shop.ada(), "approval-policy/", rules).await.1["version"],
        1
    );
    let foretold = shop
        .ada()
        .post(
            "approval-policy/test/",
            json!({"tool": "pay", "agent": "payer", "arguments": {"to": "bank of x"}}),
        )
        .await;
    assert_eq!(foretold, json!({"verdict": "deny", "rule": 0}));
    let foretold = shop
        .ada()
        .post(
            "approval-policy/test/",
            json!({"tool": "pay", "agent": "other"}),
        )
        .await;
    assert_eq!(foretold, json!({"verdict": "ask", "rule": null}));
    shop.agent(
        "payer",
        &[
            ("pay", json!({"to": "ada"})),
            ("pay", json!({"to": "bank of x"})),
        ],
    )
    .await;
    let (plan, session) = shop.begin("payer").await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("refuses this call"), "{heard}");
    assert_eq!(shop.receipts("charge").len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn an_agent_asks_the_person_and_gets_an_answer_in_form() {
    let shop = Workshop::open().await;
    let form = json!({"type": "object", "required": ["colour"], "properties": {"colour": {"enum": ["red", "blue"]}}});
    let ask = json!({"question": "Which colour?\u{202e}", "schema": form});
    shop.agent("painter", &[("ask_user", ask)]).await;
    let (plan, session) = shop.begin("painter").await;
    let card = shop.ada().card().await;
    assert_eq!(card["type"], "input");
    assert_eq!(
        card["shown"]["question"], "Which colour?\\u{202e}",
        "what turns text around is seen"
    );
    let wrong = confirm(
        shop.ada(),
        &card,
        json!({"choice": "answer", "input": {"colour": "green"}}),
    )
    .await;
    assert_eq!(
        (wrong.0, &wrong.1["errors"][0]["pointer"]),
        (422, &json!("/input/colour"))
    );
    let taken = confirm(
        shop.ada(),
        &card,
        json!({"choice": "answer", "input": {"colour": "blue"}}),
    )
    .await;
    assert_eq!((taken.0, &taken.1["status"]), (200, &json!("answered")));
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("blue"), "{heard}");

    // One that ran out is taken up again, and the answer reaches the agent after all.
    let (plan, session) = shop.begin("painter").await;
    let card = shop.ada().card().await;
    let pool = shop.system.store.pool();
    let past = "update waits set created_at = created_at - interval '1 hour', deadline = deadline - interval '1 hour' where decision is null";
    sqlx::query(past).execute(pool).await.unwrap();
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("timed_out"), "{heard}");
    let reopen = format!("approvals/{}/reopen/", text(&card, "id"));
    let request = shop.ada().request(Method::POST, &reopen);
    let (status, _) = shop.ada().send(request).await;
    assert_eq!(status.as_u16(), 429, "ten seconds have to pass");
    let past = "update waits set decided_at = decided_at - interval '10 seconds' where decision = 'timed_out'";
    sqlx::query(past).execute(pool).await.unwrap();
    let again = shop.ada().post(&reopen, json!({})).await;
    assert_eq!(
        (&again["type"], &again["reopened_from"]),
        (&json!("input"), &card["id"])
    );
    assert_eq!(shop.ada().picture(&plan).await, ["answer suspended"]);
    let answer = json!({"choice": "answer", "input": {"colour": "red"}});
    assert_eq!(confirm(shop.ada(), &again, answer).await.0, 200);
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("red"), "{heard}");
    shop.close().await;
}

#[tokio::test]
async fn the_persons_own_program_carries_a_call_out() {
    let limits = RunLimits::default();
    let shop = Workshop::open_with(limits).await;
    let tool = json!({"name": "read_file", "effect": "read", "executor": {"kind": "client"}, "timeout_seconds": 2});
    shop.ada().post("tools/", tool).await;
    let calls = [
        json!({"until_results": 1, "tool_calls": [{"name": "read_file", "arguments": {"path": "a.txt"}}]}),
        json!({"until_results": 2, "tool_calls": [{"name": "read_file", "arguments": {"path": "b.txt"}}]}),
        json!({"text": "heard {{last}}"}),
    ];
    let config = json!({"tools": ["read_file"], "script": {"turns": calls}});
    shop.ada().agent_with("reader", config).await;
    let mut feed = shop.ada().watch_all().await;
    let (plan, session) = shop.begin("reader").await;
    let request = |event: &Seen| event.event == "tool_request";
    let seen = feed.until(request).await.pop().unwrap();
    assert_eq!(
        (&seen.payload["execution"], &seen.payload["arguments"]),
        (&json!("client"), &json!({"path": "a.txt"}))
    );
    let call = text(&seen.payload, "call_id");
    let open = shop.ada().get("tool-calls/").await;
    assert_eq!(
        (
            open["items"].as_array().map(Vec::len),
            &open["items"][0]["id"]
        ),
        (Some(1), &seen.payload["call_id"]),
        "it is found without the feed too"
    );
    let path = format!("tool-calls/{call}/result/");
    let eve = Person::new(&shop.ada().base(), "eve");
    let foreign = eve
        .request(Method::POST, &path)
        .json(&json!({"result": "stolen"}));
    assert_eq!(eve.send(foreign).await.0, 404);
    shop.ada()
        .post(&path, json!({"result": {"text": "hello"}}))
        .await;
    let again = shop
        .ada()
        .post(&path, json!({"result": {"text": "hello"}}))
        .await;
    assert_eq!(again["status"], "answered");
    let other = shop
        .ada()
        .request(Method::POST, &path)
        .json(&json!({"result": 5}));
    assert_eq!(shop.ada().send(other).await.0, 409);
    // The second call is not answered in time; the agent is told so, and a late result is too late.
    let seen = feed.until(request).await.pop().unwrap();
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("timed_out"), "{heard}");
    let late = format!("tool-calls/{}/result/", text(&seen.payload, "call_id"));
    let late = shop
        .ada()
        .request(Method::POST, &late)
        .json(&json!({"result": 5}));
    assert_eq!(shop.ada().send(late).await.0, 410);
    shop.close().await;
}

/// A team of four whose planner makes a step for each.
async fn team(ada: &Person) {
    for name in ["one", "two", "three", "four"] {
        ada.agent_with(name, json!({"script": {"text": format!("{name} did it")}}))
            .await;
    }
}

#[tokio::test]
async fn a_plan_is_asked_for_changed_and_then_carried_out_as_approved() {
    let system = System::start().await;
    let ada = &system.ada;
    team(ada).await;
    let session = ada.session().await;
    let mut feed = ada.watch_all().await;
    let plan = ada.say(&session, "Do all of it", None).await;
    let request = feed
        .until(|event| event.event == "plan_request")
        .await
        .pop()
        .unwrap();
    assert_eq!(request.payload["steps"].as_array().map(Vec::len), Some(4));
    let card = ada.card().await;
    assert_eq!(
        (&card["type"], &card["digest"]),
        (&json!("plan"), &request.payload["digest"])
    );
    let head = ada.get(&format!("plans/{plan}/")).await;
    assert_eq!(head["phase"], "awaiting_approval");
    assert_eq!(ada.picture(&plan).await, ["planning suspended"]);

    // Another draft: two steps, one by another agent. Wrong ones change nothing.
    let draft_is = async |body: Value| {
        let request = ada
            .request(Method::PATCH, &format!("plans/{plan}/"))
            .json(&body);
        let (status, said) = ada.send(request).await;
        (status.as_u16(), said)
    };
    let circle = json!({"steps": [{"key": "a", "agent": "one", "needs": ["b"]}, {"key": "b", "agent": "one", "needs": ["a"]}]});
    assert_eq!(draft_is(circle).await.1["errors"][0]["code"], "cycle");
    let nobody = json!({"steps": [{"key": "a", "agent": "nobody"}]});
    assert_eq!(
        draft_is(nobody).await.1["errors"][0]["code"],
        "unknown_agent"
    );
    let draft = json!({"steps": [{"key": "first", "agent": "three"}, {"key": "then", "agent": "two", "prompt": "go on", "needs": ["first"]}]});
    let (status, changed) = draft_is(draft.clone()).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["id"], card["id"], "it is the same question");
    assert_ne!(changed["digest"], card["digest"], "about something else");
    assert_eq!(ada.get(&format!("plans/{plan}/")).await["revision"], 2);
    // Who has seen the old one does not approve the new one.
    let path = format!("approvals/{}/confirm/", text(&card, "id"));
    let old = ada
        .request(Method::POST, &path)
        .header("if-match", text(&card, "digest"))
        .json(&json!({"decision": "approve"}));
    assert_eq!(ada.send(old).await.0, 412);
    ada.decide(&card, json!({"decision": "approve"})).await;
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    assert_eq!(ada.state(&plan).await, "succeeded");
    assert_eq!(
        ada.picture(&plan).await,
        [
            "planning succeeded",
            "first succeeded",
            "then succeeded",
            "summary succeeded"
        ]
    );
    let (status, frozen) = draft_is(draft).await;
    assert_eq!(
        (status, &frozen["error_code"]),
        (409, &json!("plan_frozen"))
    );
    system.end().await;
}

#[tokio::test]
async fn a_plan_that_is_declined_begins_nothing_and_says_so() {
    let system = System::start().await;
    let ada = &system.ada;
    team(ada).await;
    let session = ada.session().await;
    let plan = ada.say(&session, "Do all of it", None).await;
    let card = ada.card().await;
    ada.decide(&card, json!({"decision": "reject", "note": "too much"}))
        .await;
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    assert_eq!(ada.state(&plan).await, "failed");
    let answer = ada.answers(&session).await.pop().unwrap();
    assert!(
        answer.contains("too much") && answer.contains("plan_rejected"),
        "{answer}"
    );
    assert_eq!(ada.picture(&plan).await, ["planning failed"]);
    // Small plans are not asked about, and with `never` none are.
    let (status, _) = put(ada, "orchestrator/", json!({"approval": "never"})).await;
    assert_eq!(status, 200);
    let answered = ada.ask(&session, "Do all of it", None).await;
    assert_eq!(answered["state"], "succeeded");
    system.end().await;
}

#[tokio::test]
async fn several_questions_of_one_plan_are_answered_in_any_order() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 1}))]).await;
    let ada = shop.ada();
    let steps: Vec<Value> = (0..3)
        .map(|n| json!({"key": format!("s{n}"), "agent": "payer"}))
        .collect();
    let plan = text(
        &ada.post("plans/", json!({"goal": "pay", "steps": steps}))
            .await,
        "id",
    );
    let pending = async || {
        let page = ada.get("approvals/?status=pending").await;
        page["items"].as_array().cloned().unwrap_or_default()
    };
    eventually("all three ask", async || pending().await.len() == 3).await;
    assert_eq!(
        ada.picture(&plan).await,
        ["s0 suspended", "s1 suspended", "s2 suspended"]
    );
    let cards = pending().await;
    let of = |key: &str| {
        cards
            .iter()
            .find(|card| card["step_key"] == key)
            .cloned()
            .unwrap()
    };
    // One batch: a yes, a no, and one that is no answer.
    let batch = json!({"items": [
        {"id": of("s2")["id"], "answer": {"decision": "approve"}},
        {"id": of("s0")["id"], "answer": {"decision": "reject", "note": "not this one"}},
        {"id": of("s1")["id"], "answer": {"choice": "retry"}}]});
    let report = ada.post("approvals/batch-confirm/", batch).await;
    let statuses: Vec<u64> = report["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item["status"].as_u64())
        .collect();
    assert_eq!(statuses, [200, 200, 422]);
    ada.decide(&of("s1"), json!({"decision": "approve"})).await;
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    let said: Vec<String> = ada
        .steps(&plan)
        .await
        .iter()
        .map(|step| text(&step["result"], "text"))
        .collect();
    assert!(said[0].contains("not this one"), "{said:?}");
    assert!(
        said[1].contains("charged") && said[2].contains("charged"),
        "{said:?}"
    );
    assert_eq!(shop.receipts("charge").len(), 2);
    assert_eq!(
        ada.picture(&plan).await,
        ["s0 succeeded", "s1 succeeded", "s2 succeeded"],
        "a no is no failure: the agent was told"
    );
    shop.close().await;
}

#[tokio::test]
async fn a_near_deadline_is_told_once() {
    let limits = RunLimits {
        card: Duration::from_mins(2),
        ..RunLimits::default()
    };
    let shop = Workshop::open_with(limits).await;
    shop.agent("payer", &[("pay", json!({"n": 1}))]).await;
    let (plan, _) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    // A minute passes for this question: its begin and its end are moved back.
    sqlx::query("update waits set created_at = created_at - interval '70 seconds', deadline = deadline - interval '70 seconds'")
        .execute(shop.system.store.pool())
        .await
        .unwrap();
    eventually("a warning", async || {
        let read = shop
            .ada()
            .get(&format!("approvals/{}/", text(&card, "id")))
            .await;
        read["warned_at"].is_string()
    })
    .await;
    let events = shop.system.events().await;
    let warned = events
        .iter()
        .filter(|event| event.event_type == "approval_expiring")
        .count();
    assert_eq!(warned, 1);
    shop.ada()
        .post(&format!("plans/{plan}/cancel/"), json!({}))
        .await;
    shop.close().await;
}
