//! Everything that can be wrong with a request: its exact problem, and not a row changed by it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use self::cases::{agents, bodies, chat, plans, queries};
use super::{Answer, Api, answer};

mod cases;
mod consent;
mod steering;

/// A wrong request, and what it gets.
struct Case {
    what: &'static str,
    method: Method,
    path: String,
    body: Body,
    status: u16,
    code: &'static str,
    /// `(pointer or parameter, code)`.
    fields: Vec<(&'static str, &'static str)>,
}

enum Body {
    None,
    Json(Value),
    /// Sent as it is, with this content type.
    Raw(String, &'static str),
}

fn case(
    what: &'static str,
    method: Method,
    path: impl Into<String>,
    body: Body,
    status: u16,
    code: &'static str,
) -> Case {
    Case {
        what,
        method,
        path: path.into(),
        body,
        status,
        code,
        fields: Vec::new(),
    }
}

fn invalid(
    what: &'static str,
    method: Method,
    path: impl Into<String>,
    body: Value,
    fields: &[(&'static str, &'static str)],
) -> Case {
    Case {
        fields: fields.to_vec(),
        ..case(
            what,
            method,
            path,
            Body::Json(body),
            422,
            "validation_failed",
        )
    }
}

fn raw(text: impl Into<String>) -> Body {
    Body::Raw(text.into(), "application/json")
}

/// What the person has: an agent, a session, a plan; and what a stranger has.
struct Things {
    agent: String,
    session: String,
    plan: String,
    step: String,
    card: String,
    foreign_agent: String,
    foreign_session: String,
}

impl Case {
    async fn run(&self, api: &Api) -> Answer {
        let mut request = api.request("ada", self.method.clone(), &self.path);
        if self.code == "not_acceptable" {
            request = request.header("accept", "image/png, text/html");
        }
        answer(match &self.body {
            Body::None => request,
            Body::Json(body) => request.json(body),
            Body::Raw(text, kind) => request.header("content-type", *kind).body(text.clone()),
        })
        .await
    }
}

/// Every row of every table, in a digest.
async fn contents(api: &Api) -> Vec<(String, String)> {
    sqlx::query_as(
        "select c.relname::text, md5(query_to_xml(format('select * from %I t order by t::text', c.relname), false, false, '')::text)
         from pg_class c where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace order by 1",
    )
    .fetch_all(api.store.pool())
    .await
    .expect("digests")
}

#[tokio::test]
async fn each_wrong_request_gets_its_exact_problem_and_changes_nothing() {
    let api = Api::start().await;
    let agent = api.agent("ada", "coder").await;
    api.agent("ada", "writer").await;
    let session = api.session("ada").await;
    let plan = api.plan("ada", Some(&session), "coder").await;
    let (foreign_agent, foreign_session) =
        (api.agent("eve", "spy").await, api.session("eve").await);
    let steps = api.get("ada", &format!("/my/plans/{plan}/steps/")).await;
    let step = steps.ok()["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let card = api.card("ada").await;
    let things = Things {
        agent,
        session,
        plan,
        step,
        card,
        foreign_agent,
        foreign_session,
    };
    let before = contents(&api).await;
    let cases = [
        bodies(),
        agents(&things),
        chat(&things),
        plans(&things),
        queries(&things),
        steering::tools(),
        steering::questions(&things),
        steering::steps(&things),
        consent::answers(&things),
        consent::batches(&things),
        consent::rules(),
        consent::calls(&things),
    ]
    .into_iter()
    .flatten();
    let mut count = 0;
    for case in cases {
        let answered = case.run(&api).await;
        let mut fields: Vec<_> = case
            .fields
            .iter()
            .map(|(place, code)| ((*place).to_owned(), (*code).to_owned()))
            .collect();
        fields.sort();
        assert_eq!(
            (answered.status.as_u16(), answered.problem()),
            (case.status, case.code),
            "{}: {}",
            case.what,
            answered.text
        );
        let mut found = answered.fields();
        found.sort();
        assert_eq!(found, fields, "{}: {}", case.what, answered.text);
        assert_eq!(
            contents(&api).await,
            before,
            "{} changed something",
            case.what
        );
        count += 1;
    }
    assert!(count > 205, "{count} cases");
}

#[tokio::test]
async fn a_circle_is_named() {
    let api = Api::start().await;
    api.agent("ada", "coder").await;
    let step = |key, need| json!({"key": key, "agent": "coder", "needs": [need]});
    let body = json!({"goal": "x", "steps": [step("a", "c"), step("b", "a"), step("c", "b")]});
    let refused = api.post("ada", "/my/plans/", body).await;
    let detail = refused.json["errors"][0]["detail"]
        .as_str()
        .expect("a detail");
    for key in ["a", "b", "c"] {
        assert!(detail.contains(key), "{detail}");
    }
}

#[tokio::test]
async fn what_the_server_sets_cannot_be_set_by_a_body() {
    let api = Api::start().await;
    let columns: Vec<String> = sqlx::query_scalar(
        "select distinct column_name::text from information_schema.columns where table_schema = 'public' order by 1",
    )
    .fetch_all(api.store.pool())
    .await
    .expect("columns");
    assert!(columns.len() > 50);
    let allowed = ["name", "config", "title", "content"];
    for column in columns
        .iter()
        .filter(|column| !allowed.contains(&column.as_str()))
    {
        for (path, mut body) in [
            ("/my/agents/", json!({"name": "new"})),
            ("/my/chat/sessions/", json!({})),
        ] {
            body[column] = json!(1);
            let refused = api.post("ada", path, body).await;
            assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{column}");
            assert_eq!(
                refused.fields(),
                [(format!("/{column}"), "unknown_field".to_owned())]
            );
        }
    }
}
