//! The description of the API: complete, valid, served offline, and the same as the committed one.

use std::path::Path;

use api::document;
use reqwest::Method;
use serde_json::Value;

use super::{Api, answer};

fn description() -> Value {
    serde_json::to_value(document()).expect("JSON")
}

#[test]
fn the_committed_description_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/openapi.json");
    let generated = serde_json::to_string_pretty(&document()).expect("JSON") + "\n";
    if std::env::var_os("CODELAB_BLESS").is_some() {
        std::fs::write(&path, &generated).expect("the file is written");
    }
    let committed = std::fs::read_to_string(&path).expect("api/openapi.json");
    assert!(
        committed == generated,
        "api/openapi.json is old; run this test with CODELAB_BLESS=1 and commit the file"
    );
}

/// Each `(place, operation)`.
fn operations(document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &Value)| {
        let operations = item.as_object().expect("operations").clone();
        let path = path.clone();
        operations
            .into_iter()
            .map(move |(method, operation)| (format!("{method} {path}"), operation))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn every_operation_says_what_can_come_back() {
    let document = description();
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1.")),
        "{}",
        document["openapi"]
    );
    let mut ids = std::collections::HashSet::new();
    for (place, operation) in operations(&document) {
        assert!(
            ids.insert(operation["operationId"].to_string()),
            "{place}: its id is taken"
        );
        assert!(
            operation["summary"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{place} has no summary"
        );
        let responses = operation["responses"].as_object().expect("responses");
        for (status, response) in responses {
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{place} {status} has no description"
            );
            let status: u16 = status.parse().expect("a status");
            let problem = response["content"]["application/problem+json"]["schema"]["$ref"]
                == "#/components/schemas/Problem";
            assert!(status < 400 || problem, "{place} {status} is no problem");
        }
        if place.contains("/my/") {
            assert!(
                operation["security"][0].get("bearer").is_some(),
                "{place} needs no token"
            );
            let mut expected = vec!["401", "500", "503"];
            expected.extend(place.contains('{').then_some("404"));
            if !operation["requestBody"].is_null() {
                expected.extend(["400", "413", "415", "422"]);
            }
            let missing: Vec<_> = expected
                .into_iter()
                .filter(|status| !responses.contains_key(*status))
                .collect();
            assert!(missing.is_empty(), "{place} does not say {missing:?}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_path_parameter_is_described() {
    let document = description();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("nothing from elsewhere");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for (place, operation) in operations(&document) {
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for part in place.split('/').filter_map(|part| {
            part.strip_prefix('{')
                .and_then(|part| part.strip_suffix('}'))
        }) {
            let described = parameters.iter().any(|parameter| {
                parameter["name"] == part
                    && parameter["in"] == "path"
                    && parameter["required"] == true
            });
            assert!(described, "{place}: {part}");
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(
                fields
                    .get("$ref")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            fields.values().for_each(|field| collect(field, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_and_its_page_come_without_a_token_and_from_here() {
    let api = Api::start().await;
    let served = answer(api.open(Method::GET, "/openapi.json")).await;
    assert_eq!(served.ok(), &description());
    for path in ["/docs", "/docs/"] {
        let page = answer(api.open(Method::GET, path)).await;
        assert!(
            page.status.is_success() && page.text.contains("swagger-ui"),
            "{path}: {}",
            page.text
        );
        let elsewhere = page
            .text
            .lines()
            .find(|line| line.contains("src=\"http") || line.contains("href=\"http"));
        assert_eq!(elsewhere, None, "{path} loads nothing from elsewhere");
    }
    let script = answer(api.open(Method::GET, "/docs/swagger-ui-bundle.js")).await;
    assert!(script.status.is_success() && script.text.len() > 100_000);
    let starter = answer(api.open(Method::GET, "/docs/swagger-initializer.js")).await;
    assert!(starter.text.contains("/openapi.json"), "{}", starter.text);
}
