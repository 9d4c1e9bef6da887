//! Agents, the planner, sessions, messages, plans: made, read, changed, listed, gone.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Api, answer};

#[tokio::test]
async fn an_agent_lives_and_each_change_is_a_version() {
    let api = Api::start().await;
    let config = json!({"model": "scripted/default", "system_prompt": "You code.", "temperature": 0.7, "max_concurrency": 2, "script": {"say": "hi"}});
    let made = api
        .post(
            "ada",
            "/my/agents/",
            json!({"name": "  coder ", "config": config}),
        )
        .await;
    let id = made.created();
    let path = format!("/my/agents/{id}/");
    assert_eq!(made.header("location"), path);
    let agent = api.get("ada", &path).await;
    assert_eq!(agent.json, made.json);
    assert_eq!(
        (
            agent.header("cache-control"),
            agent.header("x-content-type-options")
        ),
        ("no-store", "nosniff")
    );
    assert_eq!(agent.json["name"], "coder", "without the spaces around it");
    assert_eq!(
        (&agent.json["version"], &agent.json["status"]),
        (&json!(1), &json!("ready"))
    );
    assert_eq!(
        agent.json["config"], config,
        "as it was given, numbers included"
    );

    let patched = api
        .send(
            "ada",
            Method::PATCH,
            &path,
            json!({"config": {"temperature": null, "about": "Rust"}}),
        )
        .await;
    let expected = json!({"model": "scripted/default", "system_prompt": "You code.", "max_concurrency": 2, "script": {"say": "hi"}, "about": "Rust"});
    assert_eq!(patched.ok()["config"], expected);
    assert_eq!(
        (&patched.json["version"], &patched.json["name"]),
        (&json!(2), &json!("coder"))
    );

    let replaced = api
        .send("ada", Method::PUT, &path, json!({"name": "writer"}))
        .await;
    assert_eq!(
        replaced.ok()["config"],
        json!({"system_prompt": "", "max_concurrency": 3}),
        "the defaults"
    );
    assert_eq!(replaced.json["created_at"], made.json["created_at"]);

    assert_eq!(
        answer(api.request("ada", Method::DELETE, &path))
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        answer(api.request("ada", Method::DELETE, &path))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(api.get("ada", &path).await.status, StatusCode::NOT_FOUND);
    api.agent("ada", "writer").await;
}

#[tokio::test]
async fn changes_of_one_agent_at_the_same_time_are_all_kept() {
    let api = Api::start().await;
    let path = format!("/my/agents/{}/", api.agent("ada", "coder").await);
    for round in 1..=20 {
        let word = format!("round/{round}");
        let changes = [
            json!({"about": word}),
            json!({"system_prompt": word}),
            json!({"max_tokens": round}),
            json!({"model": word}),
        ];
        let sent = changes
            .iter()
            .map(|change| api.send("ada", Method::PATCH, &path, json!({"config": change})));
        for answered in futures::future::join_all(sent).await {
            answered.ok();
        }
        let agent = api.get("ada", &path).await;
        let expected = json!({"about": word, "system_prompt": word, "max_tokens": round, "model": word, "max_concurrency": 3});
        assert_eq!(
            (&agent.json["config"], &agent.json["version"]),
            (&expected, &json!(1 + 4 * round))
        );
    }
}

#[tokio::test]
async fn the_planner_has_defaults_until_it_is_set() {
    let api = Api::start().await;
    let path = "/my/orchestrator/";
    let defaults = api.get("ada", path).await;
    assert_eq!(
        (
            &defaults.ok()["version"],
            &defaults.json["id"],
            &defaults.json["config"]
        ),
        (&json!(0), &Value::Null, &json!({}))
    );
    let config = json!({"model": "openai/gpt-4o", "max_steps": 5});
    let set = api.send("ada", Method::PUT, path, config.clone()).await;
    assert_eq!(
        (&set.ok()["version"], &set.json["config"]),
        (&json!(1), &config)
    );
    let again = api.send("ada", Method::PUT, path, json!({})).await;
    assert_eq!(
        (&again.ok()["version"], &again.json["id"]),
        (&json!(2), &set.json["id"])
    );
    assert_eq!(api.get("ada", path).await.json, again.json);
    assert_eq!(api.get("eve", path).await.json["version"], 0);
}

#[tokio::test]
async fn a_session_is_named_renamed_and_closed_with_its_plans() {
    let api = Api::start().await;
    let made = api
        .post(
            "ada",
            "/my/chat/sessions/",
            json!({"title": "Plans for today"}),
        )
        .await;
    let id = made.created();
    let path = format!("/my/chat/sessions/{id}/");
    let title =
        async |body: Value| api.send("ada", Method::PATCH, &path, body).await.ok()["title"].clone();
    assert_eq!(title(json!({})).await, "Plans for today");
    assert_eq!(title(json!({"title": "Tomorrow"})).await, "Tomorrow");
    assert_eq!(title(json!({"title": null})).await, Value::Null);
    api.agent("ada", "coder").await;
    let plan = api.plan("ada", Some(&id), "coder").await;
    assert_eq!(
        answer(api.request("ada", Method::DELETE, &path))
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(api.get("ada", &path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        api.get("ada", &format!("/my/chat/{id}/messages/"))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        api.post(
            "ada",
            &format!("/my/chat/{id}/message/"),
            json!({"content": "x"})
        )
        .await
        .status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        api.get("ada", &format!("/my/plans/{plan}/")).await.ok()["state"],
        "cancelled"
    );
}

/// All items of a list, page by page, and how many pages there were.
async fn pages(api: &Api, path: &str, limit: usize) -> (Vec<Value>, usize) {
    let (mut items, mut count, mut cursor) = (Vec::new(), 0, None::<String>);
    loop {
        let cursor_part = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let page = api
            .get("ada", &format!("{path}?limit={limit}{cursor_part}"))
            .await;
        let found = page.ok()["items"].as_array().expect("items").clone();
        assert!(found.len() <= limit);
        items.extend(found);
        count += 1;
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return (items, count),
        }
    }
}

#[tokio::test]
async fn lists_come_in_pages_without_gaps_or_repeats() {
    let api = Api::start().await;
    let session = api.session("ada").await;
    for n in 0..7 {
        api.agent("ada", &format!("agent {n}")).await;
        api.agent("eve", &format!("agent {n}")).await;
        api.session("ada").await;
        let path = format!("/my/chat/{}/message/", api.session("eve").await);
        api.post("eve", &path, json!({"content": "not for ada"}))
            .await
            .ok();
    }
    for n in 0..7 {
        api.post(
            "ada",
            &format!("/my/chat/{session}/message/"),
            json!({"content": format!("line {n}"), "target_agent": "agent 0"}),
        )
        .await
        .ok();
    }
    let plan = api.plan("ada", None, "agent 0").await;
    let table = [
        ("/my/agents/".to_owned(), 7),
        ("/my/chat/sessions/".to_owned(), 8),
        ("/my/plans/".to_owned(), 8),
        (format!("/my/chat/{session}/messages/"), 7),
        (format!("/my/plans/{plan}/steps/"), 2),
    ];
    for (path, total) in table {
        let (whole, one) = pages(&api, &path, 200).await;
        assert_eq!((whole.len(), one), (total, 1), "{path}");
        for limit in 1..=total {
            let (items, count) = pages(&api, &path, limit).await;
            assert_eq!(items, whole, "{path} by {limit}");
            assert_eq!(
                count,
                total.div_ceil(limit),
                "{path} by {limit}: no empty page at the end"
            );
        }
    }
    let (messages, _) = pages(&api, &format!("/my/chat/{session}/messages/"), 200).await;
    let lines: Vec<&str> = messages
        .iter()
        .filter_map(|message| message["content"].as_str())
        .collect();
    assert_eq!(
        lines,
        [
            "line 0", "line 1", "line 2", "line 3", "line 4", "line 5", "line 6"
        ],
        "oldest first"
    );
}

#[tokio::test]
async fn a_plan_of_ones_own_is_read_drawn_and_cancelled() {
    let api = Api::start().await;
    let coder = api.agent("ada", "coder").await;
    let steps = json!([
        {"key": "join", "agent": "coder", "needs": ["left", {"key": "pause", "when": "done"}], "prompt": "put together"},
        {"key": "left", "agent": coder},
        {"key": "pause", "kind": "timer", "seconds": 60}
    ]);
    let made = api
        .post(
            "ada",
            "/my/plans/",
            json!({"goal": "two \"ways\" <b>\nand more", "steps": steps}),
        )
        .await;
    let path = format!("/my/plans/{}/", made.created());
    assert_eq!(made.header("location"), path);
    assert_eq!(
        (&made.json["mode"], &made.json["state"], &made.json["phase"]),
        (&json!("explicit"), &json!("active"), &json!("running"))
    );
    assert_eq!(made.json["counts"], json!({"blocked": 1, "ready": 2}));
    assert_eq!(api.get("ada", &path).await.json, made.json);

    let listed = api.get("ada", &format!("{path}steps/")).await;
    let keys: Vec<&Value> = listed.ok()["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|step| &step["key"])
        .collect();
    assert_eq!(
        keys,
        ["join", "left", "pause"],
        "in the order in which they were written"
    );
    let join = &listed.json["items"][0];
    assert_eq!(
        join["needs"],
        json!([{"key": "left", "when": "success"}, {"key": "pause", "when": "done"}])
    );
    assert_eq!(
        (&join["agent"], &join["agent_id"], &join["state"]),
        (&json!("coder"), &json!(coder), &json!("blocked"))
    );
    assert_eq!(join["spec"]["prompt"], "put together");

    let graph = api.get("ada", &format!("{path}graph/")).await;
    assert_eq!(
        graph.ok()["edges"],
        json!([{"from": "left", "to": "join", "when": "success"}, {"from": "pause", "to": "join", "when": "done"}])
    );
    assert_eq!(graph.json["nodes"].as_array().map(Vec::len), Some(3));
    let forms = [
        ("mermaid", "text/vnd.mermaid", "flowchart"),
        ("dot", "text/vnd.graphviz", "digraph"),
        ("svg", "image/svg+xml", "<svg"),
    ];
    for (form, kind, word) in forms {
        let asked = api.get("ada", &format!("{path}graph/?format={form}")).await;
        assert!(
            asked.header("content-type").starts_with(kind) && asked.text.contains(word),
            "{form}: {}",
            asked.text
        );
        assert!(
            asked
                .header("content-security-policy")
                .starts_with("default-src 'none'")
        );
        let accepted = answer(
            api.request("ada", Method::GET, &format!("{path}graph/"))
                .header("accept", format!("text/html, {kind};q=0.9")),
        )
        .await;
        assert_eq!(accepted.text, asked.text, "{form}");
    }

    let cancelled = answer(api.request("ada", Method::POST, &format!("{path}cancel/"))).await;
    assert_eq!(
        (cancelled.status, &cancelled.json["state"]),
        (StatusCode::ACCEPTED, &json!("cancelled"))
    );
    let again = answer(api.request("ada", Method::POST, &format!("{path}cancel/"))).await;
    assert_eq!(
        (again.status, &again.json),
        (StatusCode::ACCEPTED, &cancelled.json),
        "cancelling twice is cancelling once"
    );
    let plan = api.get("ada", &path).await;
    assert_eq!(
        (&plan.json["phase"], &plan.json["counts"]),
        (&json!("done"), &json!({"cancelled": 3}))
    );
}

#[tokio::test]
async fn a_plan_that_ended_otherwise_cannot_be_cancelled_and_a_running_one_takes_its_time() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let plan = api.plan("ada", None, "coder").await;
    while api.work("done").await > 0 {}
    let late = answer(api.request("ada", Method::POST, &format!("/my/plans/{plan}/cancel/"))).await;
    assert_eq!(
        (late.status, late.problem()),
        (StatusCode::CONFLICT, "plan_closed")
    );

    let plan = api.plan("ada", None, "coder").await;
    let claims = api
        .store
        .claim(engine::id::WorkerId::new(), 10)
        .await
        .expect("a claim");
    assert_eq!(
        api.get("ada", "/my/agents/").await.ok()["items"][0]["status"],
        "busy"
    );
    let cancelling =
        answer(api.request("ada", Method::POST, &format!("/my/plans/{plan}/cancel/"))).await;
    assert_eq!(
        (cancelling.status, &cancelling.json),
        (
            StatusCode::ACCEPTED,
            &json!({"state": "active", "phase": "cancelling"})
        )
    );
    assert_eq!(
        api.get("ada", &format!("/my/plans/{plan}/")).await.ok()["phase"],
        "cancelling"
    );
    api.finish(&claims[0], "too late").await;
    assert_eq!(
        api.get("ada", &format!("/my/plans/{plan}/")).await.ok()["state"],
        "cancelled"
    );
}

#[tokio::test]
async fn two_thousand_steps_are_one_plan() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let step = |n: usize| json!({"key": format!("s{n}"), "agent": "coder", "prompt": "x".repeat(2000), "needs": if n < 40 { vec![] } else { vec![format!("s{}", n - 40)] }});
    let body = json!({"goal": "much", "steps": (0..2000).map(step).collect::<Vec<_>>()});
    assert!(body.to_string().len() > 4_000_000);
    let made = api.post("ada", "/my/plans/", body).await;
    let path = format!("/my/plans/{}/", made.created());
    assert_eq!(made.json["counts"], json!({"ready": 40, "blocked": 1960}));
    let (steps, count) = pages(&api, &format!("{path}steps/"), 200).await;
    assert_eq!((steps.len(), count), (2000, 10));
    for form in ["json", "mermaid", "dot", "svg"] {
        api.get("ada", &format!("{path}graph/?format={form}"))
            .await
            .text
            .contains("s1999")
            .then_some(())
            .expect("all steps");
    }
}

#[tokio::test]
async fn requests_have_ids_and_the_process_tells_how_it_is() {
    let api = Api::start().await;
    assert_eq!(
        answer(api.open(Method::GET, "/health")).await.ok(),
        &json!({"status": "ok"})
    );
    assert_eq!(
        answer(api.open(Method::GET, "/ready")).await.ok(),
        &json!({"status": "ok"})
    );
    let named = answer(
        api.request("ada", Method::GET, "/my/agents")
            .header("x-request-id", "my-id.1"),
    )
    .await;
    assert_eq!(
        (named.status, named.header("x-request-id")),
        (StatusCode::OK, "my-id.1")
    );
    for odd in ["", "has space", &"x".repeat(65), "<script>"] {
        let made = answer(api.open(Method::GET, "/health").header("x-request-id", odd)).await;
        assert_eq!(made.header("x-request-id").len(), 32, "{odd}");
    }
    let refused = answer(
        api.request("ada", Method::PUT, "/my/agents/")
            .json(&json!({})),
    )
    .await;
    assert_eq!(refused.problem(), "method_not_allowed");
    assert!(
        refused.header("allow").contains("POST"),
        "{:?}",
        refused.headers
    );
}

#[tokio::test]
async fn a_database_without_a_free_connection_is_a_503_in_time() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let pool = api.store.pool();
    let mut held = Vec::new();
    while let Ok(connection) =
        tokio::time::timeout(std::time::Duration::from_millis(300), pool.acquire()).await
    {
        held.push(connection.expect("a connection"));
    }
    assert_eq!(held.len(), 10, "all of the pool");
    let refused = api.get("ada", "/my/agents/").await;
    assert_eq!(
        (refused.status, refused.problem()),
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    );
    assert_eq!(refused.header("retry-after"), "1");
    held.clear();
    api.get("ada", "/my/agents/").await.ok();
}
