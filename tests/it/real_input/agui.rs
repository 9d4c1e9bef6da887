//! AG-UI over the whole way: real models, tools and waits behind it, and a client that reads each run to its end.

use std::time::Duration;

use codelab_tests::{
    agui::{Seen, framed, input, resume, run},
    harness::eventually,
    person::{Person, text},
};
use engine::store::RunLimits;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{System, tools::Workshop};

/// A short patience with questions.
fn hurried() -> RunLimits {
    RunLimits {
        card: Duration::from_secs(2),
        ..RunLimits::default()
    }
}

/// Says the agent's one call, and is asked about it.
async fn asked(ada: &Person, agent: &str, thread: &str) -> Seen {
    run(ada, &input(thread, "first", "begin", Some(agent))).await
}

/// How many plans there are.
async fn plans(ada: &Person) -> Option<usize> {
    ada.get("plans/").await["items"].as_array().map(Vec::len)
}

fn plan_of(seen: &Seen) -> String {
    text(&seen.of("STATE_SNAPSHOT")[0]["snapshot"]["plan"], "id")
}

#[tokio::test]
async fn agui_a_direct_run_from_its_beginning_to_its_end() {
    let system = System::start().await;
    let script = json!({"deltas": ["one ", "two ", "three"], "delta_delay_ms": 80});
    system
        .ada
        .agent_with("coder", json!({"script": script}))
        .await;
    let seen = run(&system.ada, &input("thread", "run", "count", Some("coder"))).await;
    assert_eq!(
        seen.kinds(),
        [
            "RUN_STARTED",
            "STATE_SNAPSHOT",
            "CUSTOM",
            "STATE_DELTA",
            "STEP_STARTED",
            "TEXT_MESSAGE_START",
            "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_END",
            "STATE_DELTA",
            "STEP_FINISHED",
            "STATE_DELTA",
            "RUN_FINISHED"
        ]
        .as_slice(),
        "{seen:#?}"
    );
    assert!(seen.of("TEXT_MESSAGE_CONTENT").len() > 1, "{seen:#?}");
    assert_eq!(
        seen.texts().into_values().collect::<Vec<_>>(),
        ["one two three"]
    );
    assert_eq!(seen.steps(), ["answer succeeded"]);
    let last = seen.last();
    assert_eq!(
        (&last["threadId"], &last["runId"]),
        (&json!("thread"), &json!("run"))
    );
    assert_eq!(last["outcome"], json!({"type": "success"}));
    assert_eq!(
        (&last["result"]["answer"], &last["result"]["state"]),
        (&json!("one two three"), &json!("succeeded"))
    );

    // The same run again is the same run, told from its beginning.
    let again = run(&system.ada, &input("thread", "run", "something else", None)).await;
    assert_eq!(again.gist(), seen.gist());
    // The conversation's feed in these words is the run at hand.
    let sessions = system.ada.get("chat/sessions/").await;
    let feed = framed(&system.ada, &text(&sessions["items"][0], "id")).await;
    assert_eq!(feed.last()["result"], seen.last()["result"]);
    assert_eq!(feed.steps(), seen.steps());
    assert_eq!(plans(&system.ada).await, Some(1));
    system.end().await;
}

#[tokio::test]
async fn agui_a_run_is_attached_to_while_it_goes_on_and_survives_its_client() {
    let system = System::start().await;
    let script = json!({"deltas": ["one ", "two ", "three"], "delta_delay_ms": 400});
    system
        .ada
        .agent_with("coder", json!({"script": script}))
        .await;
    let body = input("thread", "run", "count", Some("coder"));
    // The first one hangs up as soon as it has begun.
    let request = system.ada.request(Method::POST, "agui/").json(&body);
    drop(request.send().await.unwrap());
    let (first, second) = tokio::join!(run(&system.ada, &body), run(&system.ada, &body));
    let third = run(&system.ada, &body).await;
    assert_eq!(first.last()["result"]["answer"], "one two three");
    assert_eq!(first.texts(), second.texts());
    assert_eq!(first.texts(), third.texts());
    assert_eq!(
        first.gist().len(),
        third.gist().len(),
        "{first:#?} {third:#?}"
    );
    assert_eq!(plans(&system.ada).await, Some(1));
    system.end().await;
}

#[tokio::test]
async fn agui_a_planned_run_shows_its_steps_and_who_does_them() {
    let system = System::start().await;
    for name in ["ann", "ben"] {
        system
            .ada
            .agent_with(name, json!({"script": {"text": format!("{name} did it")}}))
            .await;
    }
    let plan = json!({"steps": [
        {"key": "first", "agent": "ann", "prompt": "begin", "needs": []},
        {"key": "second", "agent": "ben", "prompt": "go on", "needs": ["first"]},
    ]});
    let script =
        json!({"turns": [{"match": "\"request\"", "json": plan}, {"text": "all is done"}]});
    let orchestrator = json!({"script": script, "approval": "never"});
    let (status, said) = system
        .ada
        .send(
            system
                .ada
                .request(Method::PUT, "orchestrator/")
                .json(&orchestrator),
        )
        .await;
    assert!(status.is_success(), "{said}");
    let seen = run(&system.ada, &input("thread", "run", "do it", None)).await;
    assert_eq!(
        seen.steps(),
        [
            "planning succeeded",
            "first succeeded",
            "second succeeded",
            "summary succeeded"
        ],
        "{seen:#?}"
    );
    let names: Vec<String> = seen
        .of("SUBAGENT_STARTED")
        .iter()
        .map(|event| text(event, "name"))
        .collect();
    assert_eq!(names, ["ann", "ben"]);
    let steps: Vec<String> = seen
        .of("STEP_STARTED")
        .iter()
        .map(|event| text(event, "stepName"))
        .collect();
    assert_eq!(steps, ["planning", "first", "second", "summary"]);
    // What an agent says for its step is its own; the answer is the run's.
    for start in seen.of("TEXT_MESSAGE_START") {
        let said = &seen.texts()[&text(start, "messageId")];
        assert_eq!(
            start["subagentRunId"].is_null(),
            said == "all is done",
            "{said}"
        );
    }
    assert_eq!(seen.texts().len(), 3, "{seen:#?}");
    assert_eq!(seen.last()["result"]["answer"], "all is done");
    assert_eq!(
        run(&system.ada, &input("thread", "run", "do it", None))
            .await
            .gist(),
        seen.gist()
    );
    system.end().await;
}

#[tokio::test]
async fn agui_an_approval_ends_the_run_and_its_answer_goes_on_with_it() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 5}))]).await;
    let first = asked(shop.ada(), "payer", "thread").await;
    let interrupt = first.interrupt();
    let id = text(interrupt, "id");
    assert_eq!(
        (&interrupt["reason"], &interrupt["toolCallId"]),
        (&json!("tool_call"), &json!(id))
    );
    assert_eq!(interrupt["responseSchema"]["required"], json!(["approved"]));
    assert!(interrupt["expiresAt"].is_string());
    let call = first.of("TOOL_CALL_START")[0];
    assert_eq!(
        (&call["toolCallName"], &call["toolCallId"]),
        (&json!("pay"), &json!(id))
    );
    assert_eq!(first.of("TOOL_CALL_ARGS")[0]["delta"], r#"{"n":5}"#);
    let kinds = first.kinds();
    assert_eq!(
        kinds[kinds.len() - 3..],
        ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    );
    assert_eq!(shop.applied("charge"), 0);

    let answer = resume("thread", "second", &[(&id, json!({"approved": true}))]);
    let second = run(shop.ada(), &answer).await;
    let result = second.of("TOOL_CALL_RESULT")[0];
    assert_eq!(result["toolCallId"], json!(id));
    assert_eq!(second.last()["outcome"]["type"], "success", "{second:#?}");
    assert!(
        text(&second.last()["result"], "answer").starts_with("heard "),
        "{second:#?}"
    );
    assert!(
        second.of("TOOL_CALL_START").is_empty(),
        "it is not called again"
    );
    assert_eq!(shop.applied("charge"), 1);

    // Both runs can be had again, as often as one likes.
    assert_eq!(
        asked(shop.ada(), "payer", "thread").await.gist(),
        first.gist()
    );
    assert_eq!(run(shop.ada(), &answer).await.gist(), second.gist());
    assert_eq!(shop.applied("charge"), 1);
    // And another answer comes too late.
    let other = run(
        shop.ada(),
        &resume("thread", "third", &[(&id, json!({"approved": false}))]),
    )
    .await;
    assert_eq!(
        (&other.last()["type"], &other.last()["code"]),
        (&json!("RUN_ERROR"), &json!("already_decided"))
    );
    assert!(text(other.last(), "message").contains("approved"));
    shop.close().await;
}

#[tokio::test]
async fn agui_a_no_is_told_to_the_agent_and_changed_arguments_are_what_is_called() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 5}))]).await;
    let id = text(asked(shop.ada(), "payer", "no").await.interrupt(), "id");
    let no = run(
        shop.ada(),
        &resume(
            "no",
            "second",
            &[(&id, json!({"approved": false, "note": "too much"}))],
        ),
    )
    .await;
    assert_eq!(
        no.of("TOOL_CALL_RESULT")[0]["content"],
        r#"{"declined":"rejected"}"#
    );
    assert!(
        text(&no.last()["result"], "answer").contains("rejected"),
        "{no:#?}"
    );
    let id = text(
        asked(shop.ada(), "payer", "given up").await.interrupt(),
        "id",
    );
    let given_up = run(
        shop.ada(),
        &resume("given up", "second", &[(&id, Value::Null)]),
    )
    .await;
    assert_eq!(given_up.last()["outcome"]["type"], "success");
    assert_eq!(shop.applied("charge"), 0);
    let id = text(asked(shop.ada(), "payer", "less").await.interrupt(), "id");
    let less = json!({"approved": true, "editedArgs": {"n": 1}});
    run(shop.ada(), &resume("less", "second", &[(&id, less)])).await;
    assert_eq!(shop.receipts("charge")[0].args, json!({"n": 1}));
    shop.close().await;
}

#[tokio::test]
async fn agui_an_answer_after_the_deadline_is_told_what_was_recorded() {
    let shop = Workshop::open_with(hurried()).await;
    shop.agent("payer", &[("pay", json!({"n": 5}))]).await;
    let first = asked(shop.ada(), "payer", "thread").await;
    let id = text(first.interrupt(), "id");
    eventually("its time is up", async || {
        shop.ada().state(&plan_of(&first)).await != "active"
    })
    .await;
    let late = run(
        shop.ada(),
        &resume("thread", "second", &[(&id, json!({"approved": true}))]),
    )
    .await;
    assert_eq!(
        (&late.last()["type"], &late.last()["code"]),
        (&json!("RUN_ERROR"), &json!("timed_out"))
    );
    assert!(text(late.last(), "message").contains("timed_out"));
    assert_eq!(shop.applied("charge"), 0);
    // Giving it up is the way on: the client sees what became of the plan.
    let on = run(
        shop.ada(),
        &resume("thread", "third", &[(&id, Value::Null)]),
    )
    .await;
    assert_eq!(
        on.of("TOOL_CALL_RESULT")[0]["content"],
        r#"{"declined":"timed_out"}"#
    );
    assert_eq!(on.last()["outcome"]["type"], "success");
    shop.close().await;
}

#[tokio::test]
async fn agui_a_question_of_an_agent_is_answered_in_its_form() {
    let shop = Workshop::open().await;
    let form = json!({"type": "object", "required": ["color"], "properties": {"color": {"type": "string"}}});
    let question = json!({"question": "Which color?", "schema": form});
    shop.agent("painter", &[("ask_user", question)]).await;
    let first = asked(shop.ada(), "painter", "thread").await;
    let interrupt = first.interrupt();
    assert_eq!(
        (
            &interrupt["reason"],
            &interrupt["message"],
            &interrupt["responseSchema"]
        ),
        (&json!("input_required"), &json!("Which color?"), &form)
    );
    let id = text(interrupt, "id");
    // What does not fit decides nothing.
    let odd = run(
        shop.ada(),
        &resume("thread", "odd", &[(&id, json!({"color": 7}))]),
    )
    .await;
    assert_eq!(
        (&odd.last()["type"], &odd.last()["code"]),
        (&json!("RUN_ERROR"), &json!("validation_failed"))
    );
    // Nor does going on without an answer.
    let without = run(
        shop.ada(),
        &input("thread", "more", "and now?", Some("painter")),
    )
    .await;
    assert_eq!(
        (&without.last()["type"], &without.last()["code"]),
        (&json!("RUN_ERROR"), &json!("interrupts_open"))
    );
    let second = run(
        shop.ada(),
        &resume("thread", "second", &[(&id, json!({"color": "blue"}))]),
    )
    .await;
    assert!(
        text(&second.last()["result"], "answer").contains("blue"),
        "{second:#?}"
    );
    assert_eq!(plans(shop.ada()).await, Some(1));
    shop.close().await;
}

/// An agent that calls a tool of the client's.
async fn reader() -> System {
    let system = System::start().await;
    let tool = json!({"name": "read_file", "effect": "read", "executor": {"kind": "client"}, "timeout_seconds": 60});
    system.ada.post("tools/", tool).await;
    let turns = json!([
        {"until_results": 1, "tool_calls": [{"name": "read_file", "arguments": {"path": "a.txt"}}]},
        {"text": "heard {{last}}"},
    ]);
    let config = json!({"tools": ["read_file"], "script": {"turns": turns}});
    system.ada.agent_with("reader", config).await;
    system
}

#[tokio::test]
async fn agui_a_tool_of_the_clients_is_answered_as_an_interrupt() {
    let system = reader().await;
    let first = asked(&system.ada, "reader", "thread").await;
    let interrupt = first.interrupt();
    let id = text(interrupt, "id");
    assert_eq!(
        (&interrupt["reason"], &interrupt["toolCallId"]),
        (&json!("codelab:client_tool"), &json!(id))
    );
    assert_eq!(
        first.of("TOOL_CALL_ARGS")[0]["delta"],
        r#"{"path":"a.txt"}"#
    );
    let answer = resume("thread", "second", &[(&id, json!({"lines": ["x"]}))]);
    let second = run(&system.ada, &answer).await;
    assert_eq!(
        second.of("TOOL_CALL_RESULT")[0]["content"],
        r#"{"lines":["x"]}"#
    );
    assert_eq!(
        second.last()["result"]["answer"],
        r#"heard {"lines":["x"]}"#
    );
    assert_eq!(run(&system.ada, &answer).await.gist(), second.gist());
    system.end().await;
}

#[tokio::test]
async fn agui_a_tool_that_the_client_says_it_has_is_answered_by_a_message() {
    let system = reader().await;
    let tools =
        json!([{"name": "read_file", "description": "reads", "parameters": {"type": "object"}}]);
    let mut body = input("thread", "first", "begin", Some("reader"));
    body["tools"] = tools.clone();
    let first = run(&system.ada, &body).await;
    let outcome = &first.last()["outcome"];
    let id = outcome["pendingToolCallIds"][0]
        .as_str()
        .unwrap_or_default();
    assert_eq!(
        outcome,
        &json!({"type": "success", "pendingToolCallIds": [id]})
    );
    body["runId"] = json!("second");
    body["messages"] = first.of("MESSAGES_SNAPSHOT")[0]["messages"].clone();
    let result =
        json!({"id": "result", "role": "tool", "toolCallId": id, "content": "three lines"});
    body["messages"].as_array_mut().unwrap().push(result);
    let second = run(&system.ada, &body).await;
    assert_eq!(
        second.last()["result"]["answer"],
        "heard three lines",
        "{second:#?}"
    );
    // Sent twice it is one answer and one run.
    assert_eq!(run(&system.ada, &body).await.gist(), second.gist());
    assert_eq!(plans(&system.ada).await, Some(1));
    system.end().await;
}

#[tokio::test]
async fn agui_a_run_that_fails_ends_with_its_error_and_a_cancelled_one_says_so() {
    let system = System::start().await;
    let script = json!({"error": {"class": "refused", "detail": "not this"}});
    system
        .ada
        .agent_with("prude", json!({"script": script}))
        .await;
    let failed = run(
        &system.ada,
        &input("thread", "failing", "say it", Some("prude")),
    )
    .await;
    assert_eq!(failed.last()["type"], "RUN_ERROR", "{failed:#?}");
    assert!(
        text(failed.last(), "message").contains("not this"),
        "{failed:#?}"
    );
    assert_eq!(failed.steps(), ["answer failed"]);

    system
        .ada
        .agent_with("sloth", json!({"script": {"hang": true}}))
        .await;
    let body = input("other", "slow", "say it", Some("sloth"));
    let cancel = async {
        let mut plan = String::new();
        eventually("it runs", async || {
            let plans = system.ada.get("plans/").await;
            let active = plans["items"]
                .as_array()
                .unwrap()
                .iter()
                .find(|plan| plan["state"] == "active")
                .cloned();
            plan = active.map(|plan| text(&plan, "id")).unwrap_or_default();
            !plan.is_empty() && system.ada.picture(&plan).await == ["answer running"]
        })
        .await;
        system
            .ada
            .post(&format!("plans/{plan}/cancel/"), json!({}))
            .await;
    };
    let (cancelled, ()) = tokio::join!(run(&system.ada, &body), cancel);
    assert_eq!(
        cancelled.last()["outcome"],
        json!({"type": "cancelled"}),
        "{cancelled:#?}"
    );
    assert_eq!(run(&system.ada, &body).await.gist(), cancelled.gist());
    system.end().await;
}

#[tokio::test]
async fn agui_all_that_is_asked_is_answered_at_once() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 5}))]).await;
    let plan = json!({"steps": [
        {"key": "one", "agent": "payer", "prompt": "begin", "needs": []},
        {"key": "two", "agent": "payer", "prompt": "begin", "needs": []},
    ]});
    let script =
        json!({"turns": [{"match": "\"request\"", "json": plan}, {"text": "all is done"}]});
    let (status, said) = shop
        .ada()
        .send(
            shop.ada()
                .request(Method::PUT, "orchestrator/")
                .json(&json!({"script": script, "approval": "never"})),
        )
        .await;
    assert!(status.is_success(), "{said}");
    let first = run(shop.ada(), &input("thread", "first", "do it", None)).await;
    let ids: Vec<String> = first
        .interrupts()
        .iter()
        .map(|asked| text(asked, "id"))
        .collect();
    assert_eq!(ids.len(), 2, "{first:#?}");
    for asked in first.interrupts() {
        assert!(asked["subagentRunId"].is_string(), "{asked}");
    }
    let yes = json!({"approved": true});
    let half = run(
        shop.ada(),
        &resume("thread", "half", &[(&ids[0], yes.clone())]),
    )
    .await;
    assert_eq!(
        (&half.last()["type"], &half.last()["code"]),
        (&json!("RUN_ERROR"), &json!("interrupts_uncovered"))
    );
    assert_eq!(shop.applied("charge"), 0);
    let second = run(
        shop.ada(),
        &resume(
            "thread",
            "second",
            &[(&ids[0], yes.clone()), (&ids[1], yes)],
        ),
    )
    .await;
    assert_eq!(
        second.last()["result"]["answer"],
        "all is done",
        "{second:#?}"
    );
    assert_eq!(second.of("TOOL_CALL_RESULT").len(), 2, "{second:#?}");
    assert_eq!(shop.applied("charge"), 2);
    shop.close().await;
}

#[tokio::test]
async fn agui_anothers_thread_and_interrupt_tell_nothing() {
    let shop = Workshop::open().await;
    shop.agent("payer", &[("pay", json!({"n": 5}))]).await;
    let first = asked(shop.ada(), "payer", "thread").await;
    let id = text(first.interrupt(), "id");
    let bob = Person::new(&shop.ada().base(), "bob");
    bob.agent_with("payer", json!({"script": {"text": "bob's"}}))
        .await;
    let yes = json!({"approved": true});
    let foreign = run(&bob, &resume("thread", "second", &[(&id, yes.clone())])).await;
    let nothing = "00000000-0000-7000-8000-000000000000";
    let unknown = run(&bob, &resume("thread", "second", &[(nothing, yes.clone())])).await;
    assert_eq!(foreign.gist(), unknown.gist());
    assert_eq!(
        (&foreign.last()["type"], &foreign.last()["code"]),
        (&json!("RUN_ERROR"), &json!("validation_failed"))
    );
    // Nor does it in another conversation of its owner.
    let astray = run(shop.ada(), &resume("other", "second", &[(&id, yes)])).await;
    assert_eq!(astray.last()["message"], unknown.last()["message"]);
    // The same names are another conversation and another run for somebody else; so is the id of a session.
    let own = run(&bob, &input("thread", "first", "begin", Some("payer"))).await;
    assert_eq!(own.last()["result"]["answer"], "bob's");
    let session = shop.ada().session().await;
    let taken = run(&bob, &input(&session, "first", "begin", Some("payer"))).await;
    assert_eq!(taken.last()["result"]["answer"], "bob's");
    assert_eq!(
        shop.ada().get(&format!("chat/{session}/messages/")).await["items"],
        json!([])
    );
    let (status, _) = bob
        .send(bob.request(Method::GET, &format!("chat/{session}/messages/")))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    shop.close().await;
}
