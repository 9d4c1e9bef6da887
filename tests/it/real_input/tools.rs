//! What agents do to the world: calls that are made once, made again, asked about; other agents, and lists.

use std::time::Duration;

use codelab_tests::{
    chaos::{
        receipts::{Book, Receipt},
        tool_server::{ToolMood, ToolServer},
    },
    harness::eventually,
    person::{Person, text},
};
use engine::store::RunLimits;
use serde_json::{Value, json};

use super::System;

/// A system with tools behind a socket.
pub(super) struct Workshop {
    pub(super) system: System,
    pub(super) server: ToolServer,
    book: Book,
}

impl Workshop {
    pub(super) async fn open() -> Self {
        Self::open_with(RunLimits::default()).await
    }

    pub(super) async fn open_with(limits: RunLimits) -> Self {
        let book = Book::default();
        let server = ToolServer::start(book.clone()).await;
        let system = System::start_with(Duration::from_secs(5), limits).await;
        let address = server.address();
        for (name, effect, consent) in [
            ("add", "idempotent", "auto"),
            ("charge", "irreversible", "auto"),
            ("look", "read", "auto"),
            ("pay", "irreversible", "ask"),
        ] {
            let path = if name == "pay" { "charge" } else { name };
            let tool = json!({
                "name": name, "effect": effect, "consent": consent,
                "executor": {"kind": "http", "url": format!("http://{address}/{path}")},
            });
            system.ada.post("tools/", tool).await;
        }
        Self {
            system,
            server,
            book,
        }
    }

    pub(super) fn ada(&self) -> &Person {
        &self.system.ada
    }

    /// An agent whose model makes these calls, one a turn, and then says what came back last.
    pub(super) async fn agent(&self, name: &str, calls: &[(&str, Value)]) {
        let mut turns: Vec<Value> = (1..)
            .zip(calls)
            .map(|(place, (tool, arguments))| {
                json!({"until_results": place, "tool_calls": [{"name": tool, "arguments": arguments}]})
            })
            .collect();
        turns.push(json!({"text": "heard {{last}}"}));
        let tools = json!(["add", "charge", "look", "pay", "delegate", "ask_user"]);
        let config = json!({"tools": tools, "script": {"turns": turns}});
        self.ada().agent_with(name, config).await;
    }

    /// Tells the agent to begin; its plan and session.
    pub(super) async fn begin(&self, agent: &str) -> (String, String) {
        let session = self.ada().session().await;
        let plan = self.ada().say(&session, "begin", Some(agent)).await;
        (plan, session)
    }

    /// What the agent said in the end.
    pub(super) async fn heard(&self, plan: &str, session: &str) -> String {
        eventually("the agent answers", async || {
            self.ada().state(plan).await != "active"
        })
        .await;
        self.ada().answers(session).await.pop().unwrap_or_default()
    }

    pub(super) fn receipts(&self, name: &str) -> Vec<Receipt> {
        let all = self.book.all().into_iter();
        all.filter(|receipt| receipt.name == name).collect()
    }

    /// Calls that did their work.
    pub(super) fn applied(&self, name: &str) -> usize {
        let receipts = self.receipts(name).into_iter();
        receipts.filter(|receipt| receipt.applied).count()
    }

    pub(super) async fn close(self) {
        self.system.end().await;
    }
}

#[tokio::test]
async fn a_call_that_broke_off_is_asked_about_and_never_made_again_unasked() {
    let shop = Workshop::open().await;
    shop.server.moods.next(ToolMood::DoAndCut, 1);
    shop.agent("payer", &[("charge", json!({"n": 5}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    assert_eq!(
        (
            &card["type"],
            &card["details"]["tool"],
            &card["details"]["arguments"]
        ),
        (
            &json!("outcome_unknown"),
            &json!("charge"),
            &json!({"n": 5})
        )
    );
    assert_eq!(card["choices"], json!(["done", "not_done", "check"]));
    shop.ada()
        .decide(&card, json!({"choice": "done", "result": "charged 5"}))
        .await;
    let heard = shop.heard(&plan, &session).await;
    assert!(
        heard.contains("charged 5") && heard.contains("the person"),
        "{heard}"
    );
    assert_eq!(shop.receipts("charge").len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn who_says_not_done_has_it_made_again_under_the_same_key() {
    let shop = Workshop::open().await;
    shop.server.moods.next(ToolMood::FailBefore, 1);
    shop.agent("payer", &[("charge", json!({"n": 5}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    let answered = shop
        .ada()
        .decide(&card, json!({"choice": "not_done"}))
        .await;
    // The same answer once more is the same reply; another one is too late.
    assert_eq!(
        shop.ada()
            .decide(&card, json!({"choice": "not_done"}))
            .await,
        answered
    );
    let path = format!("approvals/{}/confirm/", text(&card, "id"));
    let other = shop
        .ada()
        .request(reqwest::Method::POST, &path)
        .json(&json!({"choice": "done"}));
    assert_eq!(shop.ada().send(other).await.0, 409);
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("charged"), "{heard}");
    let receipts = shop.receipts("charge");
    assert_eq!(receipts.len(), 2);
    assert_eq!(receipts[0].place, receipts[1].place, "one key for both");
    assert!(receipts[0].token < receipts[1].token);
    shop.close().await;
}

#[tokio::test]
async fn who_wants_to_check_lets_the_agent_look_for_itself() {
    let shop = Workshop::open().await;
    shop.server.moods.next(ToolMood::FailAfter, 1);
    shop.agent("payer", &[("charge", json!({"n": 5})), ("look", json!({}))])
        .await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    shop.ada().decide(&card, json!({"choice": "check"})).await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("sum"), "{heard}");
    assert_eq!(shop.receipts("charge").len(), 1);
    assert_eq!(shop.receipts("look").len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn an_idempotent_call_is_made_again_with_the_same_key_and_done_once() {
    let shop = Workshop::open().await;
    shop.server.moods.next(ToolMood::DoAndCut, 2);
    shop.agent("adder", &[("add", json!({"n": 7}))]).await;
    let (plan, session) = shop.begin("adder").await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("added"), "{heard}");
    let receipts = shop.receipts("add");
    assert_eq!(receipts.len(), 3);
    assert!(
        receipts
            .iter()
            .all(|receipt| receipt.place == receipts[0].place)
    );
    assert_eq!(shop.book.applied(&receipts[0].place), 1);
    let step = shop.ada().steps(&plan).await.remove(0);
    assert_eq!(step["attempt"], 3);
    shop.close().await;
}

#[tokio::test]
async fn a_tool_that_is_busy_has_not_begun_and_nobody_is_asked() {
    let shop = Workshop::open().await;
    shop.server.moods.next(ToolMood::Busy, 1);
    shop.agent("payer", &[("charge", json!({"n": 1}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("charged"), "{heard}");
    let events = shop.system.events().await;
    let deferred = events
        .iter()
        .find(|event| event.payload["reason"] == "defer")
        .expect("it gave its place back and waited");
    assert!(deferred.payload["retry_after_ms"].as_i64() >= Some(1000));
    assert!(
        events
            .iter()
            .all(|event| event.event_type != "approval_required"),
        "nothing was unknown"
    );
    shop.close().await;
}

#[tokio::test]
async fn a_tool_that_asks_is_called_with_exactly_what_was_approved() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    assert_eq!(
        (&card["type"], &card["details"]["arguments"]),
        (&json!("tool"), &json!({"n": 3}))
    );
    assert!(
        shop.receipts("charge").is_empty(),
        "nothing has happened yet"
    );
    shop.ada()
        .decide(&card, json!({"decision": "approve"}))
        .await;
    shop.heard(&plan, &session).await;
    let receipts = shop.receipts("charge");
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].args, json!({"n": 3}));
    shop.close().await;
}

#[tokio::test]
async fn a_tool_that_was_changed_meanwhile_asks_again() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let first = shop.ada().card().await;
    let url = format!("http://{}/charge", shop.server.address());
    let other = json!({"description": "pays more", "effect": "irreversible", "executor": {"kind": "http", "url": url}});
    let changed = shop
        .ada()
        .request(reqwest::Method::PUT, "tools/pay/")
        .json(&other);
    assert_eq!(shop.ada().send(changed).await.1["version"], 2);
    let path = format!("approvals/{}/confirm/", text(&first, "id"));
    let stale = shop.ada().request(reqwest::Method::POST, &path);
    let stale = stale.json(&json!({"decision": "approve"}));
    let (status, said) = shop.ada().send(stale).await;
    assert_eq!(status.as_u16(), 409, "{said}");
    assert!(text(&said, "detail").contains("superseded"), "{said}");
    let ended = shop
        .ada()
        .get(&format!("approvals/{}/", text(&first, "id")))
        .await;
    assert_eq!(ended["status"], "superseded");
    let second = shop.ada().card().await;
    assert_eq!(second["details"]["tool_version"], 2);
    assert!(shop.receipts("charge").is_empty());
    shop.ada()
        .decide(&second, json!({"decision": "approve"}))
        .await;
    shop.heard(&plan, &session).await;
    assert_eq!(shop.receipts("charge").len(), 1);
    shop.close().await;
}

#[tokio::test]
async fn a_no_and_a_silence_are_told_apart() {
    let limits = RunLimits {
        card: Duration::from_secs(2),
        ..RunLimits::default()
    };
    let shop = Workshop::open_with(limits).await;
    shop.agent("payer", &[("pay", json!({"n": 3}))]).await;
    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    shop.ada()
        .decide(&card, json!({"decision": "reject", "note": "too dear"}))
        .await;
    let heard = shop.heard(&plan, &session).await;
    assert!(
        heard.contains("rejected") && heard.contains("too dear"),
        "{heard}"
    );

    let (plan, session) = shop.begin("payer").await;
    let card = shop.ada().card().await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("timed_out"), "{heard}");
    let path = format!("approvals/{}/confirm/", text(&card, "id"));
    let late = shop
        .ada()
        .request(reqwest::Method::POST, &path)
        .json(&json!({"decision": "approve"}));
    assert_eq!(shop.ada().send(late).await.0, 410);
    assert!(shop.receipts("charge").is_empty());
    shop.close().await;
}

#[tokio::test]
async fn what_a_model_makes_up_is_told_to_it_and_called_by_nobody() {
    let shop = Workshop::open().await;
    let turns = json!({"turns": [
        {"until_results": 3, "tool_calls": [
            {"name": "launch", "arguments": {}}, {"name": "add", "arguments": "seven"}, {"name": "delegate", "arguments": {"agent": 5}}]},
        {"text": "heard {{last}}"}]});
    let config = json!({"tools": ["add", "delegate"], "script": turns});
    shop.ada().agent_with("dreamer", config).await;
    let (plan, session) = shop.begin("dreamer").await;
    let heard = shop.heard(&plan, &session).await;
    assert!(
        heard.contains("delegate takes an agent and a prompt"),
        "{heard}"
    );
    assert!(shop.book.all().is_empty());
    let journal: Vec<Value> =
        sqlx::query_scalar("select result from effects where kind = 'tool' order by ordinal")
            .fetch_all(shop.system.store.pool())
            .await
            .unwrap();
    let said = serde_json::to_string(&journal).unwrap();
    assert!(
        said.contains("there is no tool") && said.contains("must be a JSON object"),
        "{said}"
    );
    shop.close().await;
}

#[tokio::test]
async fn an_agent_that_goes_in_circles_is_stopped() {
    let shop = Workshop::open().await;
    let script = json!({"tool_calls": [{"name": "look", "arguments": {}}]});
    let config = json!({"tools": ["look"], "script": script});
    shop.ada().agent_with("looper", config).await;
    let (plan, session) = shop.begin("looper").await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("too_many_turns"), "{heard}");
    assert_eq!(shop.receipts("look").len(), 25);
    shop.close().await;
}

#[tokio::test]
async fn an_agent_asks_another_and_no_circle_comes_of_it() {
    let shop = Workshop::open().await;
    let ask = |agent: &str| ("delegate", json!({"agent": agent, "prompt": "help"}));
    // one -> two -> three -> four, who may ask nobody any more; and each tries those above first.
    shop.agent("four", &[ask("five")]).await;
    shop.agent("three", &[ask("one"), ask("four")]).await;
    shop.agent("two", &[ask("one"), ask("two"), ask("three")])
        .await;
    shop.agent("one", &[ask("nobody"), ask("two")]).await;
    shop.agent("five", &[]).await;
    let (plan, session) = shop.begin("one").await;
    let heard = shop.heard(&plan, &session).await;
    assert!(heard.contains("delegated 3 times at most"), "{heard}");
    let steps = shop.ada().steps(&plan).await;
    let keys: Vec<String> = steps.iter().map(|step| text(step, "key")).collect();
    assert_eq!(keys, ["answer", "answer.3", "answer.3.5", "answer.3.5.3"]);
    assert!(steps.iter().all(|step| step["state"] == "succeeded"));
    assert_eq!(steps[1]["parent_id"], steps[0]["id"]);
    assert_eq!(shop.ada().state(&plan).await, "succeeded");
    shop.close().await;
}

#[tokio::test]
async fn a_map_asks_for_each_item_of_a_list_that_another_step_found() {
    let shop = Workshop::open().await;
    let ada = shop.ada();
    let list: Vec<String> = (0..12).map(|n| format!("item {n}")).collect();
    let found = format!("I found {}", serde_json::to_string(&list).unwrap());
    ada.agent_with("finder", json!({"script": {"text": found}}))
        .await;
    let turns = json!([{"match": "item 7", "error": {"class": "invalid"}}, {"text": "did {{last}}", "delay_ms": 10}]);
    let config = json!({"max_concurrency": 10, "script": {"turns": turns}});
    ada.agent_with("doer", config).await;
    let plan = json!({"goal": "all of it", "steps": [
        {"key": "find", "agent": "finder"},
        {"key": "each", "kind": "map", "agent": "doer", "prompt": "with {{item}}", "over": "find", "needs": ["find"], "max_parallel": 3},
        {"key": "end", "agent": "finder", "needs": ["each"]}]});
    let plan = text(&ada.post("plans/", plan).await, "id");
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    assert_eq!(
        ada.state(&plan).await,
        "partial",
        "an item failed, said honestly"
    );
    let steps = ada.steps(&plan).await;
    let map = steps.iter().find(|step| step["key"] == "each").unwrap();
    assert_eq!(map["result"]["items"][0], "did with item 0");
    assert_eq!(map["result"]["items"][7], Value::Null);
    assert_eq!(map["result"]["failed"][0]["index"], 7);
    assert_eq!(steps.len(), 15);
    let graph = ada.get(&format!("plans/{plan}/graph/")).await;
    assert_eq!(graph["nodes"][3]["parent"], "each");
    let path = format!("plans/{plan}/graph/?format=dot");
    let picture = ada.request(reqwest::Method::GET, &path).send().await;
    let picture = picture.unwrap().text().await.unwrap();
    let lines = picture.matches("->").count();
    assert_eq!(
        lines,
        2 + 12,
        "each item hangs from its map, or from the one before: {picture}"
    );
    // Never more than three at once.
    let (mut now, mut most) = (0_i32, 0_i32);
    for event in shop.system.events().await {
        let item = event.payload["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("each."));
        match event.event_type.as_str() {
            "task_started" if item => now += 1,
            "task_completed" | "task_failed" if item => now -= 1,
            _ => {}
        }
        most = std::cmp::max(most, now);
    }
    assert_eq!(most, 3);

    // With a longer list than a map may have, or none at all, the map fails and says why.
    let wrong = json!({"goal": "no list", "on_failure": "continue", "steps": [
        {"key": "say", "agent": "doer", "prompt": "no list here"},
        {"key": "each", "kind": "map", "agent": "doer", "over": "say", "needs": ["say"]}]});
    let plan = text(&ada.post("plans/", wrong).await, "id");
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    let steps = ada.steps(&plan).await;
    assert_eq!(steps[1]["error"]["code"], "map_invalid");
    shop.close().await;
}

#[tokio::test]
async fn a_map_that_failed_runs_only_what_is_missing_when_it_is_retried() {
    let shop = Workshop::open().await;
    let ada = shop.ada();
    let turns = json!([{"match": "bad", "until_attempt": 1, "error": {"class": "invalid"}}, {"text": "did {{last}}"}]);
    let doer = ada
        .agent_with("doer", json!({"script": {"turns": turns}}))
        .await;
    let plan = json!({"goal": "all of it", "on_failure": "continue", "steps": [
        {"key": "each", "kind": "map", "agent": "doer", "items": ["good", "bad", 3], "on_item_failure": "fail"}]});
    let plan = text(&ada.post("plans/", plan).await, "id");
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    let steps = ada.steps(&plan).await;
    assert_eq!(steps[0]["error"]["code"], "items_failed");
    // The owner mends the agent and tries again.
    let mended = json!({"config": {"script": {"text": "did {{last}}"}}});
    let patch = ada
        .request(reqwest::Method::PATCH, &format!("agents/{doer}/"))
        .json(&mended);
    assert!(ada.send(patch).await.0.is_success());
    let retry = format!("plans/{plan}/steps/{}/retry/", text(&steps[0], "id"));
    ada.post(&retry, json!({})).await;
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    let steps = ada.steps(&plan).await;
    assert_eq!(
        steps[0]["result"]["items"],
        json!(["did good", "did bad", "did 3"])
    );
    let keys: Vec<String> = steps.iter().map(|step| text(step, "key")).collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
    shop.close().await;
}

#[tokio::test]
async fn a_long_turn_is_kept_while_it_comes() {
    let shop = Workshop::open().await;
    let deltas: Vec<String> = (0..40).map(|n| format!("{n} ")).collect();
    let config = json!({"script": {"deltas": deltas, "delta_delay_ms": 60}});
    shop.ada().agent_with("talker", config).await;
    let (plan, session) = shop.begin("talker").await;
    let whole = deltas.concat();
    eventually("what has been said so far", async || {
        let step = shop.ada().steps(&plan).await.remove(0);
        let partial = step["partial_text"].as_str().unwrap_or_default();
        assert!(whole.starts_with(partial), "{partial}");
        !partial.is_empty() && partial.len() < whole.len()
    })
    .await;
    assert_eq!(shop.heard(&plan, &session).await, whole);
    let step = shop.ada().steps(&plan).await.remove(0);
    assert_eq!(step["partial_text"], Value::Null, "the result has it now");
    shop.close().await;
}
