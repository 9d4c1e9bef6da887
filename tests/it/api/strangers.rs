//! What is another's and what is not there are the same to whoever asks, byte for byte. The routes are taken from the
//! API's own description, so that a new one is asked too.

use api::document;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Api, answer};

/// `(method, path)` of every operation.
fn operations() -> Vec<(Method, String)> {
    let document = serde_json::to_value(document()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths").clone();
    let methods = |item: &Value| {
        item.as_object()
            .expect("operations")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let of_path = |(path, item): (String, Value)| {
        methods(&item)
            .into_iter()
            .map(move |method| (method, path.clone()))
    };
    let operations = paths.into_iter().flat_map(of_path);
    operations
        .map(|(method, path)| (method.to_uppercase().parse().expect("a method"), path))
        .collect()
}

/// A body that is good enough for the route to look at what the path names.
fn body(method: &Method, path: &str) -> Option<Value> {
    match (method.as_str(), path) {
        ("PUT", "/my/agents/{id}/") => Some(json!({"name": "other"})),
        ("PATCH", "/my/agents/{id}/" | "/my/chat/sessions/{sid}/")
        | ("POST", "/my/plans/{id}/steps/{sid}/retry/") => Some(json!({})),
        ("POST", "/my/chat/{sid}/message/") => Some(json!({"content": "hello"})),
        ("PUT", "/my/tools/{name}/") => {
            Some(json!({"executor": {"kind": "http", "url": "https://example.com/"}}))
        }
        ("POST", "/my/approvals/{id}/confirm/") => Some(json!({"choice": "retry"})),
        ("POST", "/my/tool-calls/{id}/result/") => Some(json!({"result": 1})),
        ("PATCH", "/my/plans/{id}/") => {
            Some(json!({"steps": [{"key": "a", "agent": "spy", "prompt": "x"}]}))
        }
        _ => None,
    }
}

/// Without what differs from one answer to the next.
fn same_for_all(answered: &Answer) -> String {
    let id = answered.header("x-request-id");
    let time = answered.json["timestamp"].as_str().expect("a timestamp");
    let mut headers: Vec<String> = answered
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.retain(|header| !header.starts_with("date:"));
    headers.sort();
    format!(
        "{}\n{}\n{}",
        answered.status,
        headers.join("\n"),
        answered.text
    )
    .replace(id, "ID")
    .replace(time, "TIME")
}

#[tokio::test]
async fn every_route_of_a_person_asks_for_a_token_first() {
    let api = Api::start().await;
    let (mine, open): (Vec<_>, Vec<_>) = operations()
        .into_iter()
        .partition(|(_, path)| path.starts_with("/my/"));
    assert!(mine.len() >= 36, "{}", mine.len());
    for (method, path) in mine {
        let path = path
            .replace("{id}", "x")
            .replace("{sid}", "x")
            .replace("{name}", "x");
        for path in [path.as_str(), path.trim_end_matches('/')] {
            let refused = answer(api.open(method.clone(), path)).await;
            assert_eq!(
                (refused.status, refused.problem()),
                (StatusCode::UNAUTHORIZED, "unauthorized"),
                "{method} {path}"
            );
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
    }
    // What is not there, and methods that are not there, are nobody's business without a token either.
    for (method, path) in [
        (Method::GET, "/my/none/"),
        (Method::GET, "/my/none"),
        (Method::DELETE, "/my/agents/"),
    ] {
        let refused = answer(api.open(method, path)).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let open: Vec<String> = open.into_iter().map(|(_, path)| path).collect();
    assert_eq!(
        open,
        ["/health", "/ready"],
        "the only routes without a token, beside the documentation"
    );
}

#[tokio::test]
async fn anothers_thing_and_no_thing_are_the_same_byte_for_byte() {
    let api = Api::start().await;
    let agent = api.agent("eve", "spy").await;
    let session = api.session("eve").await;
    let plan = api.plan("eve", Some(&session), "spy").await;
    let tool =
        json!({"name": "spying", "executor": {"kind": "http", "url": "https://example.com/"}});
    api.post("eve", "/my/tools/", tool).await.ok();
    let card = api.card("eve").await;
    let add = json!({"name": "add", "executor": {"kind": "client"}});
    api.post("eve", "/my/tools/", add).await.ok();
    let path = format!("/my/approvals/{card}/confirm/");
    let with_grant =
        json!({"choice": "approve", "grant": {"match": "tool", "uses": 1, "for_seconds": 600}});
    api.post("eve", &path, with_grant).await.ok();
    let grants = api.get("eve", "/my/approval-grants/").await;
    let grant = grants.ok()["items"][0]["id"]
        .as_str()
        .expect("a grant")
        .to_owned();
    let nothing = "01890000-0000-7000-8000-000000000000";
    let mut asked = 0;
    for (method, template) in operations() {
        let theirs: &str = if template.contains("/agents/") {
            &agent
        } else if template.contains("/plans/") {
            &plan
        } else if template.contains("/approvals/") || template.contains("/tool-calls/") {
            &card
        } else if template.contains("/approval-grants/") {
            &grant
        } else if template.contains("/tools/") {
            "spying"
        } else {
            &session
        };
        if !template.contains('{') {
            continue;
        }
        let mut answers = Vec::new();
        for id in [
            theirs,
            nothing,
            "not-an-id",
            "%00",
            "%ff",
            &"9".repeat(3000),
        ] {
            let path = template
                .replace("{id}", id)
                .replace("{sid}", id)
                .replace("{name}", id);
            let request = api.request("ada", method.clone(), &path);
            let answered = answer(match body(&method, &template) {
                Some(body) => request.json(&body),
                None => request,
            })
            .await;
            assert_eq!(
                (answered.status, answered.problem()),
                (StatusCode::NOT_FOUND, "not_found"),
                "{method} {path}"
            );
            answers.push(same_for_all(&answered));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{method} {template}: {answers:#?}");
        asked += 1;
    }
    assert!(asked >= 24, "{asked}");
    // Nothing of the stranger's was touched meanwhile.
    let grants = api.get("eve", "/my/approval-grants/").await;
    assert_eq!(
        (
            &grants.ok()["items"][0]["uses_left"],
            &grants.ok()["items"][0]["revoked_at"]
        ),
        (&json!(1), &Value::Null)
    );
    assert_eq!(
        api.get("eve", &format!("/my/agents/{agent}/")).await.ok()["version"],
        1
    );
    assert_eq!(
        api.get("eve", &format!("/my/plans/{plan}/")).await.ok()["state"],
        "active"
    );
    assert_eq!(
        api.get("eve", &format!("/my/chat/{session}/messages/"))
            .await
            .ok()["items"],
        json!([])
    );
}
