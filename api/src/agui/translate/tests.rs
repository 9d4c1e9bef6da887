//! What the translator tells of the events that it is given.

use super::*;

const PLAN: &str = "plan";

/// A translator of a run that begins a plan.
fn begun() -> Translator {
    Translator::new(Run::default(), PLAN.to_owned())
}

/// A stored event of a step (none: of the plan).
fn stored(kind: &str, step: &str, payload: impl Into<Value>) -> Value {
    let payload = payload.into();
    json!({"event_type": kind, "payload": payload, "seq": 1, "plan_id": PLAN, "step_id": step, "timestamp": "2026-01-01T00:00:00Z"})
}

/// Text on its way.
fn said(payload: Value) -> Value {
    let mut event = stored("task_progress", "s", payload);
    event["seq"] = Value::Null;
    event
}

fn started(step: &str, attempt: u64) -> Value {
    stored(
        "task_started",
        step,
        json!({"key": step, "kind": "agent", "attempt": attempt}),
    )
}

/// The events in short: the kind, and what it is about.
fn short(translator: &mut Translator, events: &[Value]) -> Vec<String> {
    let told = events
        .iter()
        .flat_map(|event| translator.take(event))
        .collect::<Vec<_>>();
    let about = |event: &Value| {
        let fields = [
            "messageId",
            "toolCallId",
            "stepName",
            "subagentRunId",
            "name",
            "code",
        ];
        let about = fields
            .iter()
            .map(|field| text(event, field))
            .find(|found| !found.is_empty());
        let more = text(event, "delta");
        [text(event, "type"), about.unwrap_or_default(), more]
            .join(" ")
            .trim()
            .to_owned()
    };
    let told = told
        .iter()
        .filter(|event| !text(event, "type").starts_with("STATE_"));
    told.map(about).collect()
}

fn direct() -> (Translator, Vec<String>) {
    let mut translator = begun();
    let events = [stored("direct_agent_call", "", json!({})), started("s", 1)];
    let told = short(&mut translator, &events);
    (translator, told)
}

#[test]
fn pieces_and_the_whole_are_one_message() {
    let (mut translator, told) = direct();
    assert_eq!(
        told,
        [
            "RUN_STARTED",
            "CUSTOM codelab.direct_agent_call",
            "STEP_STARTED s"
        ]
    );
    let events = [
        said(json!({"key": "s", "attempt": 1, "delta": "one "})),
        said(json!({"key": "s", "attempt": 1, "turn": 0, "text": "one two "})),
        said(json!({"key": "s", "attempt": 1, "turn": 0, "text": "one two "})),
        stored(
            "task_completed",
            "s",
            json!({"attempt": 1, "result": {"text": "one two three"}}),
        ),
        stored(
            "message_created",
            "",
            json!({"role": "assistant", "message_id": "m", "content": "one two three"}),
        ),
        stored("plan_completed", "", json!({"state": "succeeded"})),
        stored("task_started", "s", json!({"attempt": 2})),
    ];
    let told = short(&mut translator, &events);
    assert_eq!(
        told,
        [
            "TEXT_MESSAGE_START s:0",
            "TEXT_MESSAGE_CONTENT s:0 one",
            "TEXT_MESSAGE_CONTENT s:0 two",
            "TEXT_MESSAGE_CONTENT s:0 three",
            "TEXT_MESSAGE_END s:0",
            "STEP_FINISHED s",
            "RUN_FINISHED"
        ]
    );
    assert!(translator.is_over());
}

#[test]
fn a_superseded_run_is_taken_back_and_said_anew() {
    // What the second run says first; each in a way of its own that the first one is over.
    let anew = [
        said(json!({"key": "s", "attempt": 2, "delta": "b"})),
        said(json!({"key": "s", "attempt": 2, "turn": 0, "text": "b", "supersedes": 1})),
    ];
    for piece in anew {
        let (mut translator, _) = direct();
        let events = [
            said(json!({"key": "s", "attempt": 1, "delta": "a"})),
            piece,
            said(json!({"key": "s", "attempt": 1, "delta": "too late"})),
            stored(
                "task_completed",
                "s",
                json!({"attempt": 2, "result": {"text": "b"}}),
            ),
        ];
        assert_eq!(
            short(&mut translator, &events),
            [
                "TEXT_MESSAGE_START s:0",
                "TEXT_MESSAGE_CONTENT s:0 a",
                "TEXT_MESSAGE_END s:0",
                "CUSTOM codelab.text_retracted",
                "TEXT_MESSAGE_START s:0:2",
                "TEXT_MESSAGE_CONTENT s:0:2 b",
                "TEXT_MESSAGE_END s:0:2",
                "STEP_FINISHED s"
            ]
        );
        assert_eq!(translator.texts.messages().len(), 1);
    }
}

#[test]
fn a_retraction_and_a_lost_worker_leave_nothing_said() {
    let ways = [
        said(json!({"key": "s", "attempt": 2, "turn": 0, "text": "", "supersedes": 1})),
        stored("task_progress", "s", json!({"reason": "worker_lost"})),
    ];
    for way in ways {
        let (mut translator, _) = direct();
        let told = short(
            &mut translator,
            &[said(json!({"key": "s", "attempt": 1, "delta": "a"})), way],
        );
        assert_eq!(
            told[2..4],
            ["TEXT_MESSAGE_END s:0", "CUSTOM codelab.text_retracted"]
        );
        assert_eq!(translator.texts.messages(), [] as [Value; 0]);
    }
}

#[test]
fn each_turn_is_a_message_of_its_own() {
    let (mut translator, _) = direct();
    let events = [
        said(json!({"key": "s", "attempt": 1, "turn": 0, "delta": "let me look"})),
        said(json!({"key": "s", "attempt": 1, "turn": 1, "delta": "found"})),
        stored(
            "task_completed",
            "s",
            json!({"attempt": 1, "result": {"text": "found"}}),
        ),
    ];
    let told = short(&mut translator, &events);
    assert_eq!(
        told.iter()
            .filter(|told| told.starts_with("TEXT_MESSAGE_END"))
            .count(),
        2
    );
    assert_eq!(translator.texts.messages().len(), 2);
    assert!(
        told.contains(&"TEXT_MESSAGE_START s:1".to_owned()),
        "{told:?}"
    );
}

fn asks(step: &str, wait: &str, kind: &str) -> Vec<Value> {
    let about = json!({"key": step, "wait_id": wait, "call_id": wait, "wait_kind": "approval", "type": kind, "tool": "t", "arguments": {"n": 1}});
    vec![
        stored("approval_required", step, about.clone()),
        stored("tool_request", step, about),
    ]
}

#[test]
fn a_run_rests_when_nothing_moves_and_the_next_event_says_so_too() {
    let team = |translator: &mut Translator| {
        let mut events = vec![started("a", 1), started("b", 1)];
        events.extend(asks("a", "w", "tool"));
        short(translator, &events)
    };
    let mut live = begun();
    team(&mut live);
    assert!(!live.may_rest(), "b runs");
    short(
        &mut live,
        &[stored("task_completed", "b", json!({"result": {}}))],
    );
    assert!(live.may_rest());
    let told: Vec<Value> = live.rest();
    assert_eq!(
        told.last().map(|last| text(&last["outcome"], "type")),
        Some("interrupt")
    );
    // Told again later, when the answer is there already: the same end at the same place.
    let mut again = begun();
    team(&mut again);
    short(
        &mut again,
        &[stored("task_completed", "b", json!({"result": {}}))],
    );
    let answered = stored(
        "approval_resolved",
        "a",
        json!({"wait_id": "w", "decision": "approved"}),
    );
    assert_eq!(again.take(&answered), told);
    // Where something moves first, it goes on.
    let mut moving = begun();
    team(&mut moving);
    let events = [
        stored("task_completed", "b", json!({"result": {}})),
        started("c", 1),
    ];
    short(&mut moving, &events);
    assert!(!moving.is_over() && !moving.may_rest());
}

#[test]
fn a_call_for_the_client_and_a_deadline_that_is_near_do_not_wait_for_others() {
    let near = stored("approval_expiring", "a", json!({"approval_id": "w"}));
    for (kind, more) in [("client_tool", None), ("tool", Some(near))] {
        let mut translator = begun();
        short(&mut translator, &[started("a", 1), started("b", 1)]);
        let mut events = asks("a", "w", kind);
        events.extend(more);
        let told: Vec<Value> = events
            .iter()
            .flat_map(|event| translator.take(event))
            .collect();
        let last = told.last().cloned().unwrap_or_default();
        assert_eq!(
            last["outcome"]["interrupts"][0]["id"], "w",
            "{kind}: {last}"
        );
    }
}

#[test]
fn a_run_of_answers_is_silent_until_the_first_of_them_and_goes_on_from_there() {
    let run = Run {
        answers: HashSet::from(["w".to_owned()]),
        ..Run::default()
    };
    let mut translator = Translator::new(run, PLAN.to_owned());
    let mut events = vec![started("a", 1)];
    events.extend(asks("a", "w", "tool"));
    assert_eq!(short(&mut translator, &events), [] as [&str; 0]);
    assert_eq!(translator.unanswered(), ["w"]);
    let events = [
        stored(
            "approval_resolved",
            "a",
            json!({"wait_id": "w", "decision": "rejected"}),
        ),
        started("a", 2),
        stored(
            "task_completed",
            "a",
            json!({"attempt": 2, "result": {"text": "well"}}),
        ),
    ];
    let told = short(&mut translator, &events);
    assert_eq!(
        told[..4],
        [
            "RUN_STARTED",
            "MESSAGES_SNAPSHOT",
            "TOOL_CALL_RESULT w:result",
            "CUSTOM codelab.approval_resolved"
        ]
    );
    assert_eq!(told[4..6], ["STEP_STARTED a", "SUBAGENT_STARTED a"]);
    assert!(
        told.contains(&"TEXT_MESSAGE_START a:1".to_owned()),
        "{told:?}"
    );
}

#[test]
fn nothing_of_another_plan_is_told() {
    let mut translator = begun();
    let mut event = started("s", 1);
    event["plan_id"] = json!("another");
    assert_eq!(translator.take(&event), [] as [Value; 0]);
    assert_eq!(translator.wants(&event), []);
}
