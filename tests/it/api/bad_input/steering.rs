//! Wrong requests about tools, questions, steps, and the newer fields of plans.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Body, Case, Things, case, invalid};

#[expect(
    clippy::too_many_lines,
    reason = "a table of cases reads best in one piece"
)]
pub(super) fn tools() -> Vec<Case> {
    let path = "/my/tools/";
    let http = json!({"kind": "http", "url": "https://example.com/"});
    let tool = |what, fields: Value, wrong: &[(&'static str, &'static str)]| {
        let mut body = json!({"name": "search", "executor": http.clone()});
        for (field, value) in fields.as_object().into_iter().flatten() {
            body[field] = value.clone();
        }
        invalid(what, Method::POST, path, body, wrong)
    };
    let deep = (0..40).fold(json!({}), |inner, _| json!({"not": inner}));
    let long = json!({"description": "x".repeat(65_536)});
    vec![
        invalid(
            "a tool without a name",
            Method::POST,
            path,
            json!({"executor": http.clone()}),
            &[("/name", "missing_field")],
        ),
        invalid(
            "a tool that nothing carries out",
            Method::POST,
            path,
            json!({"name": "search"}),
            &[("/executor", "missing_field")],
        ),
        tool(
            "a bad name",
            json!({"name": "Search It"}),
            &[("/name", "invalid")],
        ),
        tool(
            "a builtin's name",
            json!({"name": "delegate"}),
            &[("/name", "invalid")],
        ),
        tool(
            "65 letters",
            json!({"name": "a".repeat(65)}),
            &[("/name", "invalid")],
        ),
        tool(
            "a field too many",
            json!({"user_id": 1}),
            &[("/user_id", "unknown_field")],
        ),
        tool(
            "an unknown effect",
            json!({"effect": "none"}),
            &[("/effect", "unknown_value")],
        ),
        tool(
            "an unknown consent",
            json!({"consent": "maybe"}),
            &[("/consent", "unknown_value")],
        ),
        tool(
            "no time",
            json!({"timeout_seconds": 0}),
            &[("/timeout_seconds", "out_of_range")],
        ),
        tool(
            "too much time",
            json!({"timeout_seconds": 301}),
            &[("/timeout_seconds", "out_of_range")],
        ),
        tool(
            "a schema that is none",
            json!({"input_schema": []}),
            &[("/input_schema", "invalid")],
        ),
        tool(
            "a schema of texts",
            json!({"input_schema": {"type": "string"}}),
            &[("/input_schema", "invalid")],
        ),
        tool(
            "a long schema",
            json!({"input_schema": long}),
            &[("/input_schema", "invalid")],
        ),
        tool(
            "a deep schema",
            json!({"input_schema": deep}),
            &[("/input_schema", "invalid")],
        ),
        tool(
            "a schema that reads files",
            json!({"input_schema": {"properties": {"a": {"$ref": "file:///etc/passwd"}}}}),
            &[("/input_schema", "invalid")],
        ),
        tool(
            "a schema that calls others",
            json!({"input_schema": {"$dynamicRef": "http://127.0.0.1/"}}),
            &[("/input_schema", "invalid")],
        ),
        tool(
            "another kind of executor",
            json!({"executor": {"kind": "shell", "command": "rm"}}),
            &[("/executor/kind", "unknown_value")],
        ),
        tool(
            "a file",
            json!({"executor": {"kind": "http", "url": "file:///etc/passwd"}}),
            &[("/executor", "invalid")],
        ),
        tool(
            "an address with a line's end",
            json!({"executor": {"kind": "http", "url": "https://example.com/\nHost: x"}}),
            &[("/executor", "invalid")],
        ),
        case(
            "a tool that is not there",
            Method::GET,
            "/my/tools/none/",
            Body::None,
            404,
            "not_found",
        ),
        case(
            "a tool of no name",
            Method::DELETE,
            "/my/tools/NONE/",
            Body::None,
            404,
            "not_found",
        ),
        invalid(
            "another name for a tool",
            Method::PUT,
            "/my/tools/search/",
            json!({"name": "find", "executor": http}),
            &[("/name", "unchangeable")],
        ),
    ]
}

pub(super) fn questions(things: &Things) -> Vec<Case> {
    let path = format!("/my/approvals/{}/confirm/", things.card);
    let answer = |what, body: Value, wrong: &[(&'static str, &'static str)]| {
        invalid(what, Method::POST, path.clone(), body, wrong)
    };
    vec![
        answer("no answer", json!({}), &[("/choice", "missing_field")]),
        answer(
            "an answer that is none of them",
            json!({"choice": "maybe"}),
            &[("/choice", "unknown_choice")],
        ),
        answer(
            "a choice of another question",
            json!({"choice": "retry"}),
            &[("/choice", "unknown_choice")],
        ),
        answer(
            "a decision that is none",
            json!({"decision": "yes"}),
            &[("/decision", "unknown_choice")],
        ),
        answer(
            "both words",
            json!({"choice": "approve", "decision": "approve"}),
            &[("/decision", "misplaced_field")],
        ),
        answer(
            "a prompt for a tool",
            json!({"choice": "approve", "prompt": "x"}),
            &[("/prompt", "misplaced_field")],
        ),
        answer(
            "an agent for a tool",
            json!({"choice": "approve", "agent": "coder"}),
            &[("/agent", "misplaced_field")],
        ),
        answer(
            "a result before the call",
            json!({"choice": "approve", "result": "x"}),
            &[("/result", "misplaced_field")],
        ),
        answer(
            "a long note",
            json!({"choice": "reject", "note": "x".repeat(4097)}),
            &[("/note", "too_long")],
        ),
        Case {
            fields: vec![("status", "unknown_value")],
            ..case(
                "an unknown status",
                Method::GET,
                "/my/approvals/?status=open",
                Body::None,
                400,
                "bad_query",
            )
        },
    ]
}

#[expect(
    clippy::too_many_lines,
    reason = "a table of cases reads best in one piece"
)]
pub(super) fn steps(things: &Things) -> Vec<Case> {
    let of_plan = |what: &str| format!("/my/plans/{}/{what}", things.plan);
    let plan = |what, more: Value, step: Value, wrong: &[(&'static str, &'static str)]| {
        let mut body = json!({"goal": "x", "steps": [{"key": "list", "agent": "coder"}, step]});
        for (field, value) in more.as_object().into_iter().flatten() {
            body[field] = value.clone();
        }
        invalid(what, Method::POST, "/my/plans/", body, wrong)
    };
    let good = || json!({"key": "b", "agent": "coder"});
    let step = |what, step: Value, wrong: &[(&'static str, &'static str)]| {
        plan(what, json!({}), step, wrong)
    };
    let nobody = "steps/01890000-0000-7000-8000-000000000000";
    vec![
        case(
            "a step that is not there",
            Method::POST,
            of_plan(&format!("{nobody}/cancel/")),
            Body::None,
            404,
            "not_found",
        ),
        case(
            "a retry of a step that is not there",
            Method::POST,
            of_plan(&format!("{nobody}/retry/")),
            Body::Json(json!({})),
            404,
            "not_found",
        ),
        case(
            "a retry of a step that has not failed",
            Method::POST,
            of_plan(&format!("steps/{}/retry/", things.step)),
            Body::Json(json!({})),
            409,
            "step_not_failed",
        ),
        invalid(
            "a retry by a stranger's agent",
            Method::POST,
            of_plan(&format!("steps/{}/retry/", things.step)),
            json!({"agent": things.foreign_agent}),
            &[("/agent", "unknown_agent")],
        ),
        plan(
            "an unknown policy",
            json!({"on_failure": "pray"}),
            good(),
            &[("/on_failure", "unknown_value")],
        ),
        plan(
            "an unknown priority",
            json!({"priority": "high"}),
            good(),
            &[("/priority", "unknown_value")],
        ),
        plan(
            "no time",
            json!({"timeout_seconds": 0}),
            good(),
            &[("/timeout_seconds", "out_of_range")],
        ),
        plan(
            "a year",
            json!({"timeout_seconds": 31_536_000}),
            good(),
            &[("/timeout_seconds", "out_of_range")],
        ),
        step(
            "an unknown join",
            json!({"key": "b", "agent": "coder", "join": "most"}),
            &[("/steps/1/join", "unknown_value")],
        ),
        step(
            "a step without time",
            json!({"key": "b", "agent": "coder", "timeout_seconds": 0}),
            &[("/steps/1/timeout_seconds", "out_of_range")],
        ),
        step(
            "a list that no map goes over",
            json!({"key": "b", "agent": "coder", "items": [1]}),
            &[("/steps/1/items", "misplaced_field")],
        ),
        step(
            "a map over nothing",
            json!({"key": "b", "kind": "map", "agent": "coder"}),
            &[("/steps/1/items", "missing_field")],
        ),
        step(
            "a map over two things",
            json!({"key": "b", "kind": "map", "agent": "coder", "items": [], "over": "list", "needs": ["list"]}),
            &[("/steps/1/over", "misplaced_field")],
        ),
        step(
            "a map over what it does not need",
            json!({"key": "b", "kind": "map", "agent": "coder", "over": "list"}),
            &[("/steps/1/over", "unknown_need")],
        ),
        step(
            "a map by nobody",
            json!({"key": "b", "kind": "map", "items": [1]}),
            &[("/steps/1/agent", "missing_field")],
        ),
        step(
            "a map over too much",
            json!({"key": "b", "kind": "map", "agent": "coder", "items": vec![1; 1001]}),
            &[("/steps/1/items", "too_long")],
        ),
        step(
            "a map of none at once",
            json!({"key": "b", "kind": "map", "agent": "coder", "items": [1], "max_parallel": 0}),
            &[("/steps/1/max_parallel", "out_of_range")],
        ),
        invalid(
            "a tool of no name",
            Method::PUT,
            format!("/my/agents/{}/", things.agent),
            json!({"name": "coder", "config": {"tools": ["Bad Tool"]}}),
            &[("/config/tools", "invalid")],
        ),
    ]
}
