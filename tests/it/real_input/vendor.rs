//! Every way in which a model's vendor is known to behave, and what the person sees of it.

use std::time::{Duration, Instant};

use codelab_tests::{
    harness::eventually,
    person::{Seen, late, streamed, text},
    vendor::{GOOD, Request},
};
use engine::event::Event;
use serde_json::{Value, json};

use super::{System, place};

/// The retries of a step, each with its error.
fn retries(events: &[Event]) -> Vec<&Value> {
    events
        .iter()
        .filter(|event| event.payload["reason"] == "retry" || event.payload["reason"] == "defer")
        .map(|event| &event.payload)
        .collect()
}

fn source(seen: &[Seen]) -> &Value {
    let planned = seen
        .iter()
        .find(|event| event.event == "task_plan_created")
        .expect("a plan is made");
    &planned.payload["source"]
}

fn asks_for_a_plan(request: &Request) -> bool {
    request.body["response_format"]["json_schema"]["name"] == "plan"
}

/// What a call says to the model, all lines of it.
fn prompt(request: &Request) -> String {
    request.body["messages"].to_string()
}

#[tokio::test]
async fn a_direct_message_is_streamed_and_answered() {
    let system = System::start().await;
    let ada = &system.ada;
    let agent = ada.agent("coder", "openai/good").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let answered = ada.ask(&session, "What is a lease?", Some("coder")).await;
    assert_eq!(
        (&answered["state"], &answered["mode"]),
        (&json!("succeeded"), &json!("direct"))
    );
    assert_eq!(
        (
            &answered["answer"]["content"],
            &answered["answer"]["agent_id"]
        ),
        (&json!(GOOD), &json!(agent))
    );
    let seen = feed.until_done().await;
    assert_eq!(streamed(&seen, "answer", 1), GOOD);
    assert!(late(&seen).is_empty(), "{seen:#?}");

    ada.ask(&session, "And a fence?", Some("coder")).await;
    let asked = prompt(&system.vendor.requests()[1]);
    assert!(
        ["What is a lease?", GOOD, "And a fence?"]
            .iter()
            .all(|line| asked.contains(line)),
        "{asked}"
    );
    let steps = ada.steps(&text(&answered, "plan_id")).await;
    assert_eq!(
        steps[0]["result"]["usage"],
        json!({"input_tokens": 11, "output_tokens": 7})
    );
    system.end().await;
}

#[tokio::test]
async fn an_orchestrated_message_is_planned_carried_out_and_summed_up() {
    let system = System::start().await;
    let ada = &system.ada;
    for agent in ["coder", "writer"] {
        ada.agent(agent, "openai/good").await;
    }
    ada.plan_with("openai/plan").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let answered = ada.ask(&session, "Explain leases", None).await;
    assert_eq!(
        (&answered["state"], &answered["mode"]),
        (&json!("succeeded"), &json!("orchestrated"))
    );
    assert_eq!(
        (
            &answered["answer"]["content"],
            &answered["answer"]["agent_id"]
        ),
        (&json!(GOOD), &Value::Null)
    );
    let seen = feed.until_done().await;
    assert_eq!(source(&seen), "model");
    for key in ["step-0", "step-1", "summary"] {
        assert_eq!(streamed(&seen, key, 1), GOOD, "{key}");
    }
    assert!(late(&seen).is_empty(), "{seen:#?}");

    let steps = ada.steps(&text(&answered, "plan_id")).await;
    let keys: Vec<&Value> = steps.iter().map(|step| &step["key"]).collect();
    assert_eq!(keys, ["planning", "step-0", "step-1", "summary"]);
    let calls = system.vendor.requests();
    let models: Vec<&str> = calls.iter().map(|call| call.model.as_str()).collect();
    assert_eq!(models, ["plan", "good", "good", "plan"]);
    assert!(
        prompt(&calls[2]).contains("[result of step-0]"),
        "a step knows what it builds on"
    );
    assert!(
        prompt(&calls[3]).contains("[result of step-1]"),
        "the summary knows all"
    );
    system.end().await;
}

#[tokio::test]
async fn a_bad_plan_is_repaired_once() {
    let system = System::start().await;
    let ada = &system.ada;
    ada.agent("coder", "openai/good").await;
    ada.plan_with("openai/planjunk-then-plan").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let answered = ada.ask(&session, "Explain leases", None).await;
    assert_eq!(
        (&answered["state"], &answered["answer"]["content"]),
        (&json!("succeeded"), &json!(GOOD))
    );
    assert_eq!(source(&feed.until_done().await), "model");
    let calls = system.vendor.requests();
    let planning: Vec<String> = calls
        .iter()
        .filter(|call| asks_for_a_plan(call))
        .map(prompt)
        .collect();
    assert_eq!(planning.len(), 2);
    assert!(
        planning[1].contains("That plan is not valid"),
        "the model is told what is wrong"
    );
    system.end().await;
}

#[tokio::test]
async fn junk_in_place_of_a_plan_is_answered_by_the_fallback() {
    let system = System::start().await;
    let ada = &system.ada;
    for agent in ["coder", "writer"] {
        ada.agent(agent, "openai/good").await;
    }
    ada.plan_with("openai/planjunk").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let answered = ada.ask(&session, "A question for the writer", None).await;
    assert_eq!(
        (&answered["state"], &answered["answer"]["content"]),
        (&json!("succeeded"), &json!(GOOD))
    );
    assert_eq!(source(&feed.until_done().await), "fallback");
    let steps = ada.steps(&text(&answered, "plan_id")).await;
    assert!(
        steps[0]["result"]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("not the JSON object")),
        "{steps:?}"
    );
    assert_eq!(
        steps[1]["agent"], "writer",
        "the one whose name is in the question"
    );
    assert_eq!(system.vendor.calls(), 3, "a plan, one repair, the answer");
    system.end().await;
}

#[tokio::test]
async fn a_planner_that_does_not_come_to_an_end_is_left_behind() {
    for model in ["openai/stall", "openai/silent", "openai/no-headers"] {
        let system = System::start_planning_within(Duration::from_millis(300)).await;
        let ada = &system.ada;
        ada.agent("coder", "openai/good").await;
        ada.plan_with(model).await;
        let session = ada.session().await;
        let mut feed = ada.watch(&session).await;
        let begun = Instant::now();
        let answered = ada.ask(&session, "Explain leases", None).await;
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{model}: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            (&answered["state"], &answered["answer"]["content"]),
            (&json!("succeeded"), &json!(GOOD)),
            "{model}"
        );
        assert_eq!(source(&feed.until_done().await), "fallback", "{model}");
        assert!(
            system.vendor.saw_dropped(1, Duration::from_secs(1)).await,
            "{model}: the call is given up"
        );
        system.end().await;
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_and_the_place_is_lent_meanwhile() {
    let system = System::start().await;
    let ada = &system.ada;
    ada.agent_with(
        "coder",
        json!({"model": "openai/rate-once", "max_concurrency": 1}),
    )
    .await;
    let (session, other) = (ada.session().await, ada.session().await);
    let limited = ada.say(&session, "first", Some("coder")).await;
    eventually("the vendor refuses", async || {
        !retries(&system.events().await).is_empty()
    })
    .await;
    assert_eq!(
        ada.ask(&other, "second", Some("coder")).await["answer"]["content"],
        GOOD
    );
    eventually("the first succeeds", async || {
        ada.state(&limited).await == "succeeded"
    })
    .await;
    assert_eq!(ada.answers(&session).await, [GOOD]);

    let events = system.events().await;
    let of_limited: Vec<Event> = events
        .iter()
        .filter(|event| {
            event
                .plan_id
                .is_some_and(|plan| plan.to_string() == limited)
        })
        .cloned()
        .collect();
    let [retry] = retries(&of_limited)[..] else {
        panic!("{of_limited:#?}")
    };
    assert_eq!(retry["error"]["code"], "model_rate_limited");
    assert!(
        retry["retry_after_ms"]
            .as_i64()
            .is_some_and(|wait| (1000..=2000).contains(&wait)),
        "{retry}"
    );
    let again = &of_limited[place(&of_limited, "task_started", "answer", 2)];
    let waited =
        again.timestamp - of_limited[place(&of_limited, "task_progress", "answer", 1)].timestamp;
    assert!(waited.num_milliseconds() >= 1000, "{waited}");
    // The agent runs one step at a time: the other message ran and ended while the first waited.
    let between: Vec<&str> = events
        .iter()
        .filter(|event| {
            event.plan_id.is_some() && event.plan_id != again.plan_id && event.seq < again.seq
        })
        .map(|event| event.event_type.as_str())
        .collect();
    assert!(between.contains(&"task_completed"), "{between:?}");
    system.end().await;
}

#[tokio::test]
async fn a_cut_stream_is_run_again_and_its_text_superseded() {
    let system = System::start().await;
    let ada = &system.ada;
    ada.agent("coder", "openai/cut-once").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let answered = ada.ask(&session, "What is a lease?", Some("coder")).await;
    assert_eq!(
        (&answered["state"], &answered["answer"]["content"]),
        (&json!("succeeded"), &json!(GOOD))
    );
    let seen = feed.until_done().await;
    assert_eq!(
        streamed(&seen, "answer", 1),
        "Hello from ",
        "what came before the cut"
    );
    assert_eq!(
        streamed(&seen, "answer", 2),
        GOOD,
        "the second run says all of it"
    );
    let events = system.events().await;
    let [retry] = retries(&events)[..] else {
        panic!("{events:#?}")
    };
    assert_eq!(
        (&retry["error"]["class"], &retry["error"]["code"]),
        (&json!("transient"), &json!("model_failed"))
    );
    system.end().await;
}

/// Asks an agent that never succeeds; the attempts it made, its error, and the one answer in the session.
async fn in_vain(system: &System, model: &str) -> (Vec<Seen>, Value, String) {
    let ada = &system.ada;
    ada.agent("coder", model).await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let answered = ada.ask(&session, "What is a lease?", Some("coder")).await;
    assert_eq!(answered["state"], "failed", "{answered}");
    let steps = ada.steps(&text(&answered, "plan_id")).await;
    let answers = ada.answers(&session).await;
    let [answer] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert_eq!(
        answered["answer"]["content"],
        answer.as_str(),
        "whoever waits is told too"
    );
    assert!(answer.starts_with("I could not answer this."), "{answer}");
    (feed.until_done().await, steps[0].clone(), answer.clone())
}

#[tokio::test]
async fn no_credit_fails_at_once_and_says_so() {
    let system = System::start().await;
    let (_, step, answer) = in_vain(&system, "openai/quota").await;
    assert_eq!(
        (
            &step["attempt"],
            &step["error"]["class"],
            &step["error"]["code"]
        ),
        (&json!(1), &json!("budget"), &json!("model_budget"))
    );
    assert!(
        answer.contains("no credit") && answer.contains("current quota"),
        "{answer}"
    );
    assert_eq!(system.vendor.calls(), 1);
    system.end().await;
}

#[tokio::test]
async fn a_rate_limit_without_end_fails_when_it_is_borne_no_longer() {
    let system = System::start_impatient().await;
    let (seen, step, answer) = in_vain(&system, "openai/rate-always").await;
    assert_eq!(step["error"]["code"], "model_rate_limited");
    assert!(answer.contains("limits the rate"), "{answer}");
    let started = seen
        .iter()
        .filter(|event| event.event == "task_started")
        .count();
    assert!(started >= 2, "{started}");
    assert_eq!(step["attempt"], started);
    assert_eq!(system.vendor.calls(), started);
    system.end().await;
}

#[tokio::test]
async fn broken_json_in_a_stream_fails_when_it_is_borne_no_longer() {
    let system = System::start_impatient().await;
    let (seen, step, _) = in_vain(&system, "openai/broken-json").await;
    assert_eq!(step["error"]["code"], "model_failed");
    let attempts = step["attempt"].as_u64().unwrap();
    assert!(attempts >= 2, "{attempts}");
    for attempt in 1..=attempts {
        assert_eq!(
            streamed(&seen, "answer", attempt),
            "Hello from ",
            "attempt {attempt} is told apart"
        );
    }
    system.end().await;
}

#[tokio::test]
async fn a_failed_member_is_named_in_the_summary() {
    let system = System::start().await;
    let ada = &system.ada;
    ada.agent("coder", "openai/quota").await;
    ada.agent("writer", "openai/good").await;
    ada.plan_with("openai/plan").await;
    let session = ada.session().await;
    let plan = ada.say(&session, "Explain leases", None).await;
    let card = ada.card().await;
    assert_eq!(
        (
            &card["type"],
            &card["step_key"],
            &card["details"]["error"]["code"]
        ),
        (&json!("decision"), &json!("step-0"), &json!("model_budget"))
    );
    ada.decide(&card, json!({"choice": "accept_partial"})).await;
    // The writer needs the coder, so that nothing of substance is done; the person is told all the same.
    eventually("the plan ends", async || ada.state(&plan).await != "active").await;
    assert_eq!(ada.state(&plan).await, "failed");
    assert_eq!(ada.answers(&session).await, [GOOD]);
    let asked = prompt(system.vendor.requests().last().unwrap());
    assert!(
        asked.contains("step-0 failed: the model's account has no credit")
            && asked.contains("step-1 skipped"),
        "{asked}"
    );
    system.end().await;
}

#[tokio::test]
async fn a_cancel_reaches_a_model_that_is_speaking() {
    let system = System::start().await;
    let ada = &system.ada;
    ada.agent("coder", "openai/slow").await;
    let session = ada.session().await;
    let mut feed = ada.watch(&session).await;
    let plan = ada.say(&session, "Tell me everything", Some("coder")).await;
    feed.until(|event| event.payload["delta"].is_string()).await;
    ada.post(&format!("plans/{plan}/cancel/"), json!({})).await;
    assert!(
        system.vendor.saw_dropped(1, Duration::from_secs(1)).await,
        "the vendor's stream is closed"
    );
    let seen = feed.until_done().await;
    assert_eq!(seen.last().unwrap().payload["state"], "cancelled");
    assert_eq!(ada.state(&plan).await, "cancelled");
    assert_eq!(ada.steps(&plan).await[0]["state"], "cancelled");
    system.end().await;
}
