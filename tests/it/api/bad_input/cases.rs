//! The wrong requests, by resource.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Body, Case, Things, case, invalid, raw};

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn bodies() -> Vec<Case> {
    let agents = "/my/agents/";
    let post = || Method::POST;
    let case = |what, body, status, code| case(what, Method::POST, agents, body, status, code);
    vec![
        case("no body", Body::None, 415, "unsupported_media_type"),
        case(
            "a form",
            Body::Raw("name=coder".into(), "application/x-www-form-urlencoded"),
            415,
            "unsupported_media_type",
        ),
        case(
            "text",
            Body::Raw("{}".into(), "text/plain"),
            415,
            "unsupported_media_type",
        ),
        case(
            "JSON in disguise",
            Body::Raw("{}".into(), "application/jsonp"),
            415,
            "unsupported_media_type",
        ),
        case("empty", raw(""), 400, "malformed_json"),
        case("not JSON", raw("coder"), 400, "malformed_json"),
        case("cut off", raw(r#"{"name": "cod"#), 400, "malformed_json"),
        case(
            "more than one value",
            raw(r#"{"name": "coder"} {}"#),
            400,
            "malformed_json",
        ),
        case(
            "a comma too many",
            raw(r#"{"name": "coder",}"#),
            400,
            "malformed_json",
        ),
        case(
            "a lone surrogate",
            raw(r#"{"name": "\ud800"}"#),
            400,
            "malformed_json",
        ),
        case(
            "a number out of range",
            raw(r#"{"name": "coder", "config": {"temperature": 1e999}}"#),
            400,
            "malformed_json",
        ),
        case(
            "ten thousand deep",
            raw(format!(
                r#"{{"name": "coder", "config": {{"script": {}}}}}"#,
                "[".repeat(10_000)
            )),
            400,
            "malformed_json",
        ),
        case(
            "a raw NUL",
            raw("{\"name\": \"\u{0}\"}"),
            400,
            "malformed_json",
        ),
        case(
            "larger than 1 MiB",
            raw(format!(r#"{{"name": "{}"}}"#, "x".repeat(1024 * 1024))),
            413,
            "body_too_large",
        ),
        Case {
            fields: vec![("/name", "duplicate_field")],
            ..case(
                "a field twice",
                raw(r#"{"name": "a", "name": "b"}"#),
                422,
                "validation_failed",
            )
        },
        invalid(
            "not an object",
            post(),
            agents,
            json!(["coder", {}]),
            &[("", "wrong_type")],
        ),
        invalid(
            "a text",
            post(),
            agents,
            json!("coder"),
            &[("", "wrong_type")],
        ),
        invalid(
            "NUL in a name",
            post(),
            agents,
            json!({"name": "co\u{0}der"}),
            &[("/name", "nul_character")],
        ),
        invalid(
            "NUL deep in a script",
            post(),
            agents,
            json!({"name": "a", "config": {"script": {"x": [1, "\u{0}"]}}}),
            &[("/config/script/x/1", "nul_character")],
        ),
        invalid(
            "NUL in a key",
            post(),
            agents,
            json!({"name": "a", "config": {"script": {"\u{0}": 1}}}),
            &[("/config/script", "nul_character")],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn agents(things: &Things) -> Vec<Case> {
    let (post, list) = (|| Method::POST, "/my/agents/");
    let one = format!("/my/agents/{}/", things.agent);
    let config = |what, config: Value, fields: &[(&'static str, &'static str)]| {
        invalid(
            what,
            Method::POST,
            list,
            json!({"name": "new", "config": config}),
            fields,
        )
    };
    vec![
        invalid(
            "no name",
            post(),
            list,
            json!({}),
            &[("/name", "missing_field")],
        ),
        invalid(
            "null for a name",
            post(),
            list,
            json!({"name": null}),
            &[("/name", "wrong_type")],
        ),
        invalid(
            "a number for a name",
            post(),
            list,
            json!({"name": 7}),
            &[("/name", "wrong_type")],
        ),
        invalid(
            "an empty name",
            post(),
            list,
            json!({"name": ""}),
            &[("/name", "invalid")],
        ),
        invalid(
            "a blank name",
            post(),
            list,
            json!({"name": " \u{a0} "}),
            &[("/name", "invalid")],
        ),
        invalid(
            "a long name",
            post(),
            list,
            json!({"name": "x".repeat(101)}),
            &[("/name", "too_long")],
        ),
        invalid(
            "a line break in a name",
            post(),
            list,
            json!({"name": "a\nb"}),
            &[("/name", "invalid")],
        ),
        invalid(
            "an unknown field",
            post(),
            list,
            json!({"name": "new", "admin": true}),
            &[("/admin", "unknown_field")],
        ),
        invalid(
            "an odd unknown field",
            post(),
            list,
            json!({"name": "new", "a/b~c`d": 1}),
            &[("/a~1b~0c`d", "unknown_field")],
        ),
        config(
            "an unknown field of the configuration",
            json!({"modell": "a/b"}),
            &[("/config/modell", "unknown_field")],
        ),
        config(
            "a configuration that is none",
            json!([null, "You code."]),
            &[("/config", "wrong_type")],
        ),
        config(
            "a model without a provider",
            json!({"model": "gpt"}),
            &[("/config/model", "invalid")],
        ),
        config(
            "a model with a space",
            json!({"model": "openai/gpt 4"}),
            &[("/config/model", "invalid")],
        ),
        config(
            "too many at once",
            json!({"max_concurrency": 11}),
            &[("/config/max_concurrency", "out_of_range")],
        ),
        config(
            "none at once",
            json!({"max_concurrency": 0}),
            &[("/config/max_concurrency", "out_of_range")],
        ),
        config(
            "half an agent",
            json!({"max_concurrency": 2.5}),
            &[("/config/max_concurrency", "wrong_type")],
        ),
        config(
            "more than any number",
            json!({"max_concurrency": u64::MAX}),
            &[("/config/max_concurrency", "wrong_value")],
        ),
        config(
            "too hot",
            json!({"temperature": 2.1}),
            &[("/config/temperature", "out_of_range")],
        ),
        config(
            "infinitely hot",
            json!({"temperature": 1e30}),
            &[("/config/temperature", "out_of_range")],
        ),
        config(
            "a script of 40 KB",
            json!({"script": "x".repeat(40_000)}),
            &[("/config/script", "invalid")],
        ),
        config(
            "everything at once",
            json!({"model": "", "system_prompt": "x".repeat(32_769), "about": "x".repeat(1001), "temperature": -1, "max_tokens": 128_001, "max_concurrency": -3}),
            &[
                ("/config/model", "invalid"),
                ("/config/system_prompt", "too_long"),
                ("/config/about", "too_long"),
                ("/config/max_concurrency", "out_of_range"),
                ("/config/temperature", "out_of_range"),
                ("/config/max_tokens", "out_of_range"),
            ],
        ),
        Case {
            body: Body::Json(json!({"name": "coder"})),
            ..case(
                "a name that is taken",
                post(),
                list,
                Body::None,
                409,
                "name_taken",
            )
        },
        case(
            "another's name",
            Method::PATCH,
            &one,
            Body::Json(json!({"name": "writer"})),
            409,
            "name_taken",
        ),
        case(
            "another's name, whole",
            Method::PUT,
            &one,
            Body::Json(json!({"name": " writer "})),
            409,
            "name_taken",
        ),
        invalid(
            "a wrong type in a patch",
            Method::PATCH,
            &one,
            json!({"config": {"about": 1}}),
            &[("/config/about", "wrong_type")],
        ),
        invalid(
            "a limit in a patch",
            Method::PATCH,
            &one,
            json!({"config": {"max_tokens": 0}}),
            &[("/config/max_tokens", "out_of_range")],
        ),
        invalid(
            "an unknown field in a patch",
            Method::PATCH,
            &one,
            json!({"config": {"modell": "a/b"}}),
            &[("/config/modell", "unknown_field")],
        ),
        invalid(
            "null for a configuration",
            Method::PATCH,
            &one,
            json!({"config": null}),
            &[("/config", "wrong_type")],
        ),
        invalid(
            "an odd planner",
            Method::PUT,
            "/my/orchestrator/",
            json!({"max_steps": 51, "model": "x"}),
            &[("/model", "invalid"), ("/max_steps", "out_of_range")],
        ),
        invalid(
            "a planner with tools",
            Method::PUT,
            "/my/orchestrator/",
            json!({"tools": []}),
            &[("/tools", "unknown_field")],
        ),
    ]
}

pub(super) fn chat(things: &Things) -> Vec<Case> {
    let sessions = "/my/chat/sessions/";
    let one = format!("/my/chat/sessions/{}/", things.session);
    let say = format!("/my/chat/{}/message/", things.session);
    let message =
        |what, body, status, code| case(what, Method::POST, &say, Body::Json(body), status, code);
    vec![
        invalid(
            "an empty title",
            Method::POST,
            sessions,
            json!({"title": ""}),
            &[("/title", "too_short")],
        ),
        invalid(
            "a long title",
            Method::POST,
            sessions,
            json!({"title": "x".repeat(201)}),
            &[("/title", "too_long")],
        ),
        invalid(
            "a bell in a title",
            Method::PATCH,
            &one,
            json!({"title": "\u{7}"}),
            &[("/title", "invalid")],
        ),
        invalid(
            "an id of one's own",
            Method::POST,
            sessions,
            json!({"id": things.session}),
            &[("/id", "unknown_field")],
        ),
        invalid(
            "nothing said",
            Method::POST,
            &say,
            json!({"content": " \n"}),
            &[("/content", "invalid")],
        ),
        invalid(
            "too much said",
            Method::POST,
            &say,
            json!({"content": "x".repeat(32_769)}),
            &[("/content", "too_long")],
        ),
        invalid(
            "no content",
            Method::POST,
            &say,
            json!({"target_agent": "coder"}),
            &[("/content", "missing_field")],
        ),
        invalid(
            "an agent by number",
            Method::POST,
            &say,
            json!({"content": "x", "target_agent": 1}),
            &[("/target_agent", "wrong_type")],
        ),
        message(
            "an unknown agent",
            json!({"content": "x", "target_agent": "nobody"}),
            404,
            "agent_not_found",
        ),
        message(
            "an agent without a name",
            json!({"content": "x", "target_agent": ""}),
            404,
            "agent_not_found",
        ),
        message(
            "another's agent",
            json!({"content": "x", "target_agent": things.foreign_agent}),
            404,
            "agent_not_found",
        ),
        case(
            "another's session",
            Method::POST,
            format!("/my/chat/{}/message/", things.foreign_session),
            Body::Json(json!({"content": "x"})),
            404,
            "not_found",
        ),
        case(
            "no session",
            Method::POST,
            "/my/chat/none/message/",
            Body::Json(json!({"content": "x"})),
            404,
            "not_found",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn plans(things: &Things) -> Vec<Case> {
    let plan = |what, steps: Value, fields: &[(&'static str, &'static str)]| {
        invalid(
            what,
            Method::POST,
            "/my/plans/",
            json!({"goal": "x", "steps": steps}),
            fields,
        )
    };
    let foreign = &things.foreign_agent;
    let many: Vec<Value> = (0..2001)
        .map(|n| json!({"key": format!("s{n}"), "agent": "coder"}))
        .collect();
    let with_session = |session: &Value| json!({"goal": "x", "session_id": session, "steps": [{"key": "a", "agent": "coder"}]});
    vec![
        invalid(
            "no goal",
            Method::POST,
            "/my/plans/",
            json!({"steps": []}),
            &[("/goal", "missing_field")],
        ),
        invalid(
            "a blank goal",
            Method::POST,
            "/my/plans/",
            json!({"goal": " ", "steps": [{"key": "a", "agent": "coder"}]}),
            &[("/goal", "invalid")],
        ),
        invalid(
            "another's session",
            Method::POST,
            "/my/plans/",
            with_session(&json!(things.foreign_session)),
            &[("/session_id", "unknown_session")],
        ),
        invalid(
            "a session that is none",
            Method::POST,
            "/my/plans/",
            with_session(&json!("x")),
            &[("/session_id", "invalid")],
        ),
        plan("no steps", json!([]), &[("/steps", "plan_empty")]),
        plan(
            "too many steps",
            json!(many),
            &[("/steps", "too_many_steps")],
        ),
        plan(
            "a step that is none",
            json!(["a"]),
            &[("/steps/0", "wrong_type")],
        ),
        plan(
            "a step that is a list",
            json!([["a", "agent", "coder"]]),
            &[("/steps/0", "wrong_type")],
        ),
        plan(
            "a bad key",
            json!([{"key": "A b", "agent": "coder"}]),
            &[("/steps/0/key", "bad_key")],
        ),
        plan(
            "a key twice",
            json!([{"key": "a", "agent": "coder"}, {"key": "a", "agent": "coder"}]),
            &[("/steps/1/key", "duplicate_key")],
        ),
        plan(
            "an unknown need",
            json!([{"key": "a", "agent": "coder", "needs": ["b"]}]),
            &[("/steps/0/needs/0", "unknown_need")],
        ),
        plan(
            "a need of itself",
            json!([{"key": "a", "agent": "coder", "needs": ["a"]}]),
            &[("/steps/0/needs/0", "self_need")],
        ),
        plan(
            "a need twice",
            json!([{"key": "a", "agent": "coder"}, {"key": "b", "agent": "coder", "needs": ["a", {"key": "a", "when": "done"}]}]),
            &[("/steps/1/needs/1", "duplicate_need")],
        ),
        plan(
            "a circle",
            json!([{"key": "a", "agent": "coder", "needs": ["c"]}, {"key": "b", "agent": "coder", "needs": ["a"]}, {"key": "c", "agent": "coder", "needs": ["b"]}]),
            &[("/steps/0/needs/0", "cycle")],
        ),
        plan(
            "an odd need",
            json!([{"key": "a", "agent": "coder", "needs": [7]}]),
            &[("/steps/0/needs/0", "wrong_type")],
        ),
        plan(
            "an odd condition",
            json!([{"key": "a", "agent": "coder", "needs": [{"key": "b", "when": "maybe"}]}]),
            &[("/steps/0/needs/0/when", "unknown_value")],
        ),
        plan(
            "a condition with more",
            json!([{"key": "a", "agent": "coder", "needs": [{"key": "b", "if": 1}]}]),
            &[("/steps/0/needs/0/if", "unknown_field")],
        ),
        plan(
            "an unknown agent",
            json!([{"key": "a", "agent": "coder"}, {"key": "b", "agent": "nobody"}, {"key": "c", "agent": foreign}]),
            &[
                ("/steps/1/agent", "unknown_agent"),
                ("/steps/2/agent", "unknown_agent"),
            ],
        ),
        plan(
            "no agent",
            json!([{"key": "a"}]),
            &[("/steps/0/agent", "missing_field")],
        ),
        plan(
            "an agent with a timer's seconds",
            json!([{"key": "a", "agent": "coder", "seconds": 3}]),
            &[("/steps/0/seconds", "misplaced_field")],
        ),
        plan(
            "a timer without seconds",
            json!([{"key": "a", "kind": "timer"}]),
            &[("/steps/0/seconds", "missing_field")],
        ),
        plan(
            "a timer with an agent",
            json!([{"key": "a", "kind": "timer", "seconds": 3, "agent": "coder"}]),
            &[("/steps/0/agent", "misplaced_field")],
        ),
        plan(
            "a timer of two days",
            json!([{"key": "a", "kind": "timer", "seconds": 172_800}]),
            &[("/steps/0/seconds", "out_of_range")],
        ),
        plan(
            "a kind that only the engine makes",
            json!([{"key": "a", "kind": "planning"}]),
            &[("/steps/0/kind", "unknown_value")],
        ),
        plan(
            "a state of one's own",
            json!([{"key": "a", "agent": "coder", "state": "succeeded"}]),
            &[("/steps/0/state", "unknown_field")],
        ),
        plan(
            "a long prompt",
            json!([{"key": "a", "agent": "coder", "prompt": "x".repeat(32_769)}]),
            &[("/steps/0/prompt", "too_long")],
        ),
        case(
            "larger than 8 MiB",
            Method::POST,
            "/my/plans/",
            raw(format!(r#"{{"goal": "{}"}}"#, "x".repeat(8 * 1024 * 1024))),
            413,
            "body_too_large",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn queries(things: &Things) -> Vec<Case> {
    let query = |what, path: String, field: (&'static str, &'static str)| Case {
        fields: vec![field],
        ..case(what, Method::GET, path, Body::None, 400, "bad_query")
    };
    let feed = format!("/my/chat/{}/events/", things.session);
    let graph = format!("/my/plans/{}/graph/", things.plan);
    let mut cases = vec![
        query(
            "a future cursor",
            format!("{feed}?after=1000000"),
            ("after", "future_cursor"),
        ),
        query(
            "a cursor of the far future",
            format!("{feed}?after={}", i64::MAX),
            ("after", "future_cursor"),
        ),
        query(
            "garbage for a cursor",
            format!("{feed}?after=abc"),
            ("after", "bad_cursor"),
        ),
        query(
            "a negative cursor",
            "/my/events/?after=-1".to_owned(),
            ("after", "bad_cursor"),
        ),
        query(
            "half a cursor",
            "/my/events/?after=1.5".to_owned(),
            ("after", "bad_cursor"),
        ),
        query(
            "a cursor beyond numbers",
            format!("/my/events/?after={}0", i64::MAX),
            ("after", "bad_cursor"),
        ),
        query(
            "a type that is none",
            "/my/events/?types=task%00".to_owned(),
            ("types", "wrong_value"),
        ),
        query(
            "a session that is none",
            "/my/events/?sessions=x".to_owned(),
            ("sessions", "wrong_value"),
        ),
        query(
            "an unknown parameter of the feed",
            "/my/events/?since=1".to_owned(),
            ("since", "unknown_field"),
        ),
        query(
            "an unknown form",
            format!("{graph}?format=png"),
            ("format", "unknown_value"),
        ),
        case(
            "forms that there are none of",
            Method::GET,
            &graph,
            Body::None,
            406,
            "not_acceptable",
        ),
        case(
            "a method that there is none of",
            Method::PUT,
            "/my/agents/",
            Body::Json(json!({})),
            405,
            "method_not_allowed",
        ),
        case(
            "a route that there is none of",
            Method::GET,
            "/my/secrets/",
            Body::None,
            404,
            "not_found",
        ),
        case(
            "nothing at all",
            Method::GET,
            "/nothing",
            Body::None,
            404,
            "not_found",
        ),
        case(
            "a method of a route that needs no token",
            Method::POST,
            "/health",
            Body::None,
            405,
            "method_not_allowed",
        ),
    ];
    for list in [
        "/my/agents/",
        "/my/chat/sessions/",
        "/my/plans/",
        &format!("/my/chat/{}/messages/", things.session),
        &format!("/my/plans/{}/steps/", things.plan),
    ] {
        let list = |query: &str| format!("{list}?{query}");
        cases.extend([
            query("a limit of 0", list("limit=0"), ("limit", "out_of_range")),
            query(
                "a limit of 201",
                list("limit=201"),
                ("limit", "out_of_range"),
            ),
            query("a negative limit", list("limit=-1"), ("limit", "invalid")),
            query("no number", list("limit=ten"), ("limit", "invalid")),
            query(
                "two limits",
                list("limit=1&limit=2"),
                ("", "duplicate_field"),
            ),
            query(
                "a cursor that is none",
                list("cursor=%27;--"),
                ("cursor", "bad_cursor"),
            ),
            query(
                "an unknown parameter",
                list("page=2"),
                ("page", "unknown_field"),
            ),
        ]);
    }
    cases
}
