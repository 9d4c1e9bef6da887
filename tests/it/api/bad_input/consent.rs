//! Wrong requests about consent: rules, grants, changed arguments, batches, reopening, the calls of a person's own program.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Body, Case, Things, case, invalid};

/// An id that nothing has.
const NOTHING: &str = "01890000-0000-7000-8000-000000000000";

#[expect(
    clippy::too_many_lines,
    reason = "a table of cases reads best in one piece"
)]
pub(super) fn answers(things: &Things) -> Vec<Case> {
    let path = format!("/my/approvals/{}/confirm/", things.card);
    let answer = |what, body: Value, wrong: &[(&'static str, &'static str)]| {
        invalid(what, Method::POST, path.clone(), body, wrong)
    };
    let grant = |what, grant: Value, wrong: &[(&'static str, &'static str)]| {
        answer(what, json!({"choice": "approve", "grant": grant}), wrong)
    };
    let good = |field: &str, value: Value| {
        let mut grant = json!({"match": "tool", "uses": 1, "for_seconds": 60});
        grant[field] = value;
        grant
    };
    vec![
        answer(
            "arguments that are none",
            json!({"choice": "approve", "edited_payload": [1]}),
            &[("/edited_payload", "wrong_type")],
        ),
        answer(
            "arguments of a tool that is gone",
            json!({"choice": "approve", "edited_payload": {}}),
            &[("/edited_payload", "no_tool")],
        ),
        answer(
            "arguments with a no",
            json!({"choice": "reject", "edited_payload": {}}),
            &[("/edited_payload", "misplaced_field")],
        ),
        answer(
            "an input for a tool",
            json!({"choice": "approve", "input": 1}),
            &[("/input", "misplaced_field")],
        ),
        answer(
            "a grant with a no",
            json!({"choice": "reject", "grant": good("uses", json!(1))}),
            &[("/grant", "misplaced_field")],
        ),
        grant(
            "a grant of no use",
            good("uses", json!(0)),
            &[("/grant/uses", "out_of_range")],
        ),
        grant(
            "a grant of 101",
            good("uses", json!(101)),
            &[("/grant/uses", "out_of_range")],
        ),
        grant(
            "a grant for no time",
            good("for_seconds", json!(0)),
            &[("/grant/for_seconds", "out_of_range")],
        ),
        grant(
            "a grant for a day and a second",
            good("for_seconds", json!(86_401)),
            &[("/grant/for_seconds", "out_of_range")],
        ),
        grant(
            "a grant of another kind",
            good("match", json!("all")),
            &[("/grant/match", "unknown_value")],
        ),
        grant(
            "a grant with a field too many",
            good("risk", json!("high")),
            &[("/grant/risk", "unknown_field")],
        ),
        case(
            "an answer to nothing",
            Method::POST,
            format!("/my/approvals/{NOTHING}/confirm/"),
            Body::Json(json!({"choice": "approve"})),
            404,
            "not_found",
        ),
        case(
            "an open question taken up again",
            Method::POST,
            format!("/my/approvals/{}/reopen/", things.card),
            Body::None,
            409,
            "cannot_reopen",
        ),
        case(
            "nothing taken up again",
            Method::POST,
            format!("/my/approvals/{NOTHING}/reopen/"),
            Body::None,
            404,
            "not_found",
        ),
        case(
            "a plan that does not wait",
            Method::PATCH,
            format!("/my/plans/{}/", things.plan),
            Body::Json(json!({"steps": [{"key": "a", "agent": "coder"}]})),
            409,
            "plan_frozen",
        ),
        invalid(
            "an empty draft",
            Method::PATCH,
            format!("/my/plans/{}/", things.plan),
            json!({"steps": []}),
            &[("/steps", "too_short")],
        ),
    ]
}

pub(super) fn batches(things: &Things) -> Vec<Case> {
    let batch = |what, items: Value, wrong: &[(&'static str, &'static str)]| {
        let path = "/my/approvals/batch-confirm/";
        invalid(what, Method::POST, path, json!({ "items": items }), wrong)
    };
    let one = json!({"id": things.card, "answer": {"choice": "approve"}});
    vec![
        batch("a batch of nothing", json!([]), &[("/items", "too_short")]),
        batch(
            "a batch of 51",
            json!(vec![one; 51]),
            &[("/items", "too_long")],
        ),
        batch(
            "a batch of texts",
            json!(["yes"]),
            &[("/items/0", "wrong_type")],
        ),
        batch(
            "an answer without a question",
            json!([{"answer": {"choice": "approve"}}]),
            &[("/items/0/id", "missing_field")],
        ),
        batch(
            "a question without an answer",
            json!([{"id": things.card}]),
            &[("/items/0/answer", "missing_field")],
        ),
        batch(
            "a long note in a batch",
            json!([{"id": things.card, "answer": {"choice": "reject", "note": "x".repeat(4097)}}]),
            &[("/items/0/answer/note", "too_long")],
        ),
    ]
}

pub(super) fn rules() -> Vec<Case> {
    let path = "/my/approval-policy/";
    let rules = |what, rules: Value, wrong: &[(&'static str, &'static str)]| {
        invalid(what, Method::PUT, path, json!({ "rules": rules }), wrong)
    };
    let rehearse = |what, call: Value, wrong: &[(&'static str, &'static str)]| {
        invalid(what, Method::POST, "/my/approval-policy/test/", call, wrong)
    };
    vec![
        invalid(
            "no rules",
            Method::PUT,
            path,
            json!({}),
            &[("/rules", "missing_field")],
        ),
        rules(
            "101 rules",
            json!(vec![json!({"then": "ask"}); 101]),
            &[("/rules", "too_long")],
        ),
        rules(
            "long rules",
            json!(vec![json!({"tool": "x".repeat(2000), "then": "ask"}); 40]),
            &[("/rules", "invalid")],
        ),
        rules(
            "a rule without a verdict",
            json!([{"tool": "pay"}]),
            &[("/rules/0/then", "missing_field")],
        ),
        rules(
            "a verdict that is none",
            json!([{"then": "perhaps"}]),
            &[("/rules/0/then", "unknown_value")],
        ),
        rules(
            "a rule with a field too many",
            json!([{"then": "ask", "unless": 1}]),
            &[("/rules/0/unless", "unknown_field")],
        ),
        rules(
            "a refusal that points nowhere",
            json!([{"then": "deny", "arguments": [{"pointer": "path", "matches": "/etc/*"}]}]),
            &[("/rules", "invalid")],
        ),
        rehearse(
            "a call of nothing",
            json!({}),
            &[("/tool", "missing_field")],
        ),
        rehearse(
            "a call of a tool that is not there",
            json!({"tool": "none"}),
            &[("/tool", "unknown_tool")],
        ),
        rehearse(
            "a call of what is no name",
            json!({"tool": "\u{202e}"}),
            &[("/tool", "unknown_tool")],
        ),
        case(
            "a grant that is not there",
            Method::DELETE,
            format!("/my/approval-grants/{NOTHING}/"),
            Body::None,
            404,
            "not_found",
        ),
        invalid(
            "another way to ask about plans",
            Method::PUT,
            "/my/orchestrator/",
            json!({"approval": "sometimes"}),
            &[("/approval", "unknown_value")],
        ),
    ]
}

pub(super) fn calls(things: &Things) -> Vec<Case> {
    let path = format!("/my/tool-calls/{}/result/", things.card);
    let result = |what, body: Value, wrong: &[(&'static str, &'static str)]| {
        invalid(what, Method::POST, path.clone(), body, wrong)
    };
    vec![
        result("no result", json!({}), &[("/result", "missing_field")]),
        result(
            "a result and an error",
            json!({"result": 1, "error": "x"}),
            &[("/error", "misplaced_field")],
        ),
        result(
            "a long result",
            json!({"result": "x".repeat(256 * 1024)}),
            &[("/result", "too_long")],
        ),
        result(
            "no word of error",
            json!({"error": ""}),
            &[("/error", "too_short")],
        ),
        case(
            "a result of what is no call",
            Method::POST,
            path.clone(),
            Body::Json(json!({"result": 1})),
            404,
            "not_found",
        ),
    ]
}
