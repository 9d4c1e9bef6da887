//! The Chat Completions adapter against the stand-in's whole table.

use codelab_tests::vendor::GOOD;
use engine::llm::{AnswerSchema, Stop, Usage};
use serde_json::json;

use super::*;

/// A result in one word, and the time it asked to wait.
fn class(result: &Result<Turn, LlmError>) -> String {
    match result {
        Ok(Turn {
            stop: Stop::End, ..
        }) => "end".to_owned(),
        Ok(Turn {
            stop: Stop::Length, ..
        }) => "length".to_owned(),
        Ok(Turn {
            stop: Stop::Tools, ..
        }) => "tools".to_owned(),
        Ok(Turn {
            stop: Stop::Other(word),
            ..
        }) => format!("other {word}"),
        Err(LlmError::RateLimited {
            retry_after: Some(wait),
            ..
        }) => format!("rate {}", wait.as_secs()),
        Err(LlmError::RateLimited {
            retry_after: None, ..
        }) => "rate".to_owned(),
        Err(LlmError::Transient(_)) => "transient".to_owned(),
        Err(LlmError::Budget(_)) => "budget".to_owned(),
        Err(LlmError::Invalid(_)) => "invalid".to_owned(),
        Err(LlmError::Refused(_)) => "refused".to_owned(),
    }
}

/// What each behaviour must become, and a word that its error must say.
const TABLE: &[(&str, &str, &str)] = &[
    ("good", "end", ""),
    ("plan", "end", ""),
    (
        "rate-always",
        "rate 1",
        "429 rate_limit_exceeded: slow down",
    ),
    ("quota", "budget", "exceeded your current quota"),
    ("no-credit", "budget", "402"),
    ("html-502", "transient", "502: a page of HTML"),
    ("overloaded-529", "transient", "529"),
    ("busy-503", "rate 2", "503"),
    ("redirect", "invalid", "307"),
    ("status-408", "transient", "408"),
    ("status-409", "transient", "409"),
    ("status-500", "transient", "500"),
    ("status-504", "transient", "504"),
    ("status-400", "invalid", "400"),
    ("status-401", "invalid", "401"),
    ("status-403", "invalid", "403"),
    ("status-413", "invalid", "413"),
    ("status-422", "invalid", "422"),
    ("nobody", "invalid", "404 model_not_found"),
    ("cut", "transient", "truncated"),
    ("eof", "transient", "truncated"),
    ("eof-done", "transient", "truncated"),
    ("no-done", "end", ""),
    ("broken-json", "transient", "broken JSON"),
    ("mid-error", "transient", "overloaded"),
    ("mid-quota", "budget", "no money"),
    ("json-error", "transient", "overloaded"),
    ("web-page", "invalid", "OPENAI_BASE_URL"),
    ("stall", "transient", "nothing came for 700 ms"),
    ("silent", "transient", "nothing came for"),
    ("no-headers", "transient", "nothing came for 1500 ms"),
    ("keep-alive", "end", ""),
    ("foreign-finish", "other eos_token", ""),
    ("tool-noise", "end", ""),
    (
        "tool-calls",
        "invalid",
        "asked for a tool although none was offered",
    ),
    ("refuse", "refused", "I will not."),
    ("filtered", "refused", "content filter"),
    ("slow", "end", ""),
];

#[tokio::test]
async fn every_behaviour_of_a_vendor_has_its_class() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let models: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
    let heard = ask_at_once(&vendor, &models).await?;
    for ((model, expected, said), Heard { result, deltas }) in TABLE.iter().zip(heard) {
        assert_eq!(class(&result), *expected, "{model}: {result:?}");
        match result {
            Ok(turn) => assert_eq!(
                turn.text,
                deltas.concat(),
                "{model}: what was streamed is what was said"
            ),
            Err(error) => assert!(error.to_string().contains(said), "{model}: {error}"),
        }
    }
    assert_eq!(
        vendor.calls(),
        TABLE.len(),
        "an adapter never tries again by itself"
    );
    Ok(())
}

#[tokio::test]
async fn a_good_answer_is_whole_and_counted() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let heard = ask_vendor(&vendor, "good").await?;
    let usage = Some(Usage {
        input_tokens: 11,
        output_tokens: 7,
    });
    assert_eq!(
        heard.result,
        Ok(Turn {
            text: GOOD.to_owned(),
            stop: Stop::End,
            usage,
            calls: Vec::new(),
        })
    );
    assert_eq!(
        heard.deltas.len(),
        GOOD.split(' ').count(),
        "each piece is passed on as it comes"
    );
    let early = ask_vendor(&vendor, "cut").await?;
    assert_eq!(
        early.deltas.len(),
        2,
        "what came before the cut was streamed"
    );
    Ok(())
}

#[tokio::test]
async fn the_request_says_all_that_was_asked() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let router = Router::new(config(&vendor, Some(KEY)))?;
    let schema = json!({"type": "object"});
    let asked = Prompt {
        system: Some("be brief".to_owned()),
        lines: vec![
            line(Role::User, "a"),
            line(Role::Assistant, "b"),
            line(Role::User, "c"),
        ],
        schema: Some(AnswerSchema {
            name: "answer",
            schema: schema.clone(),
        }),
        temperature: Some(0.5),
        max_tokens: Some(9),
        script: Some(json!({"text": "not for vendors"})),
        ..Prompt::default()
    };
    ask(&router, "openai/good", asked).await.result?;
    let requests = vendor.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].authorized);
    let expected = json!({
        "model": "good",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
        ],
        "stream": true,
        "stream_options": {"include_usage": true},
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}},
        "temperature": 0.5,
        "max_tokens": 9,
    });
    assert_eq!(requests[0].body, expected);
    Ok(())
}

#[tokio::test]
async fn a_local_server_needs_no_key_and_a_key_may_end_in_a_newline() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    ask(
        &Router::new(config(&vendor, None))?,
        "openai/good",
        prompt("x"),
    )
    .await
    .result?;
    ask(
        &Router::new(config(&vendor, Some("other")))?,
        "openai/good",
        prompt("x"),
    )
    .await
    .result?;
    ask(
        &Router::new(config(&vendor, Some(&format!("{KEY}\n"))))?,
        "openai/good",
        prompt("x"),
    )
    .await
    .result?;
    let seen: Vec<_> = vendor
        .requests()
        .iter()
        .map(|request| (request.has_authorization, request.authorized))
        .collect();
    assert_eq!(seen, [(false, false), (true, false), (true, true)]);
    Ok(())
}

#[tokio::test]
async fn the_key_is_in_no_error() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let models: Vec<&str> = TABLE.iter().map(|row| row.0).chain(["echo-key"]).collect();
    let heard = ask_at_once(&vendor, &models).await?;
    for (model, heard) in models.iter().zip(heard) {
        let Err(error) = heard.result else { continue };
        let told = format!("{error} {error:?}");
        assert!(!told.contains(KEY), "{model}: {told}");
        assert!(
            !told.contains("127.0.0.1"),
            "{model}: a URL may carry credentials: {told}"
        );
    }
    let quoted = ask_vendor(&vendor, "echo-key").await?.result;
    let expected = "401 invalid_api_key: not accepted: Authorization: Bearer [key]";
    assert_eq!(quoted, Err(LlmError::Invalid(expected.to_owned())));
    let shown = format!("{:?}", config(&vendor, Some(KEY)));
    assert!(!shown.contains(KEY), "{shown}");
    Ok(())
}

#[tokio::test]
async fn retry_after_may_be_a_date() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let result = ask_vendor(&vendor, "rate-date").await?.result;
    let Err(LlmError::RateLimited {
        retry_after: Some(wait),
        ..
    }) = &result
    else {
        anyhow::bail!("{result:?}");
    };
    assert!((28..=30).contains(&wait.as_secs()), "{wait:?}");
    Ok(())
}

#[tokio::test]
async fn what_failed_once_works_when_asked_again() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    for (model, first) in [("rate-once", "rate 1"), ("cut-once", "transient")] {
        assert_eq!(class(&ask_vendor(&vendor, model).await?.result), first);
        assert_eq!(ask_vendor(&vendor, model).await?.result?.text, GOOD);
    }
    Ok(())
}

#[tokio::test]
async fn the_stand_in_plans_junk_and_repairs() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let router = Router::new(config(&vendor, None))?;
    let question =
        json!({"request": "tea", "agents": [{"name": "Ann"}, {"name": "Bob"}]}).to_string();
    let asked = |lines| Prompt {
        lines,
        schema: Some(AnswerSchema {
            name: "plan",
            schema: json!({}),
        }),
        ..Prompt::default()
    };
    let first = || vec![line(Role::User, &question)];
    let repair = || {
        [
            first(),
            vec![line(Role::Assistant, "junk"), line(Role::User, "not JSON")],
        ]
        .concat()
    };
    let mut valid = Vec::new();
    for (model, lines) in [
        ("plan", first()),
        ("planjunk-then-plan", first()),
        ("planjunk-then-plan", repair()),
        ("planjunk", repair()),
    ] {
        let text = ask(&router, &format!("openai/{model}"), asked(lines))
            .await
            .result?
            .text;
        valid.push(serde_json::from_str::<serde_json::Value>(&text).ok());
    }
    let plan = json!({"goal": "tea", "steps": [
        {"key": "step-0", "agent": "Ann", "prompt": "tea", "needs": []},
        {"key": "step-1", "agent": "Bob", "prompt": "tea", "needs": ["step-0"]},
    ]});
    assert_eq!(valid, [Some(plan.clone()), None, Some(plan), None]);
    Ok(())
}
