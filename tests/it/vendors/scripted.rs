//! The scripted vendor: what it says by itself, and what scripts make of it.

use std::time::Instant;

use engine::llm::{AnswerSchema, Stop, Usage};
use serde_json::{Value, json};

use super::*;

async fn ask_scripted(prompt: Prompt) -> Heard {
    match Router::new(RouterConfig::default()) {
        Ok(router) => ask(&router, "scripted/default", prompt).await,
        Err(error) => Heard {
            result: Err(error),
            deltas: Vec::new(),
        },
    }
}

async fn play(script: Value, last: &str, attempt: u32) -> Result<String, LlmError> {
    let prompt = Prompt {
        script: Some(script),
        attempt,
        ..prompt(last)
    };
    ask_scripted(prompt).await.result.map(|turn| turn.text)
}

/// Each step as `key <- needs @agent`.
async fn plan(agents: &[&str]) -> anyhow::Result<Vec<String>> {
    let agents: Vec<Value> = agents
        .iter()
        .map(|name| json!({"name": name, "about": "helps", "id": 7}))
        .collect();
    let question =
        json!({"request": "compare teas", "agents": agents, "limits": {"steps": 9}}).to_string();
    let schema = Some(AnswerSchema {
        name: "plan",
        schema: json!({}),
    });
    let heard = ask_scripted(Prompt {
        schema,
        ..prompt(&question)
    })
    .await;
    let plan: Value = serde_json::from_str(&heard.result?.text)?;
    assert_eq!(plan["goal"], "compare teas");
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let step = |step: &Value| {
        let needs: Vec<String> = step["needs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(word)
            .collect();
        assert!(word(&step["prompt"]).ends_with(": compare teas"), "{step}");
        format!(
            "{} <- {} @{}",
            word(&step["key"]),
            needs.join("+"),
            word(&step["agent"])
        )
    };
    Ok(plan["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(step)
        .collect())
}

#[tokio::test]
async fn it_answers_in_a_sentence_at_once() -> anyhow::Result<()> {
    let asked = Prompt {
        system: Some("two words".to_owned()),
        ..prompt("one two three four five six seven eight nine ten eleven twelve thirteen")
    };
    let Heard { result, deltas } = ask_scripted(asked).await;
    let turn = result?;
    let expected = "You asked: \"one two three four five six seven eight nine ten eleven twelve …\". This is the scripted model's answer; no vendor was called.";
    assert_eq!((turn.text.as_str(), turn.stop), (expected, Stop::End));
    assert_eq!(
        turn.usage,
        Some(Usage {
            input_tokens: 15,
            output_tokens: 25
        })
    );
    assert!((2..=4).contains(&deltas.len()), "{deltas:?}");
    assert_eq!(deltas.concat(), expected);
    assert!(
        ask_scripted(Prompt::default()).await.result.is_ok(),
        "an empty prompt is answered too"
    );
    Ok(())
}

#[tokio::test]
async fn it_plans_for_teams_of_every_size() -> anyhow::Result<()> {
    assert_eq!(plan(&[]).await?, [""; 0]);
    assert_eq!(plan(&["Solo"]).await?, ["solo <-  @Solo"]);
    assert_eq!(plan(&["A", "B"]).await?, ["a <-  @A", "b <- a @B"]);
    assert_eq!(
        plan(&["A", "B", "C"]).await?,
        ["a <-  @A", "b <- a @B", "c <- b @C"]
    );
    let four = [
        "scout <-  @Scout",
        "data-analyst <- scout @Data Analyst",
        "step-3 <- scout @Поэт",
        "critic <- data-analyst+step-3 @Critic",
    ];
    assert_eq!(
        plan(&["Scout", "Data Analyst", "Поэт", "Critic"]).await?,
        four
    );
    assert_eq!(
        plan(&["Scout", "Data Analyst", "Поэт", "Critic", "Extra"]).await?,
        four
    );
    Ok(())
}

#[tokio::test]
async fn it_plans_again_when_its_plan_was_refused() -> anyhow::Result<()> {
    let question = json!({"request": "tea", "agents": [{"name": "Ann"}]}).to_string();
    let lines = vec![
        line(Role::User, &question),
        line(Role::Assistant, "junk"),
        line(Role::User, "{\"error\": \"not a plan\"}"),
    ];
    let schema = Some(AnswerSchema {
        name: "plan",
        schema: json!({}),
    });
    let text = ask_scripted(Prompt {
        lines,
        schema,
        ..Prompt::default()
    })
    .await
    .result?
    .text;
    assert_eq!(
        serde_json::from_str::<Value>(&text)?["steps"][0]["agent"],
        "Ann"
    );
    Ok(())
}

#[tokio::test]
async fn scripts_set_texts_json_and_deltas() -> anyhow::Result<()> {
    assert_eq!(
        play(json!({"text": "said: {{last}}"}), "hi", 1).await?,
        "said: hi"
    );
    assert_eq!(
        play(json!({"text": "{{last}}"}), &"ж".repeat(3000), 1).await?,
        "ж".repeat(2000)
    );
    let quoted = play(json!({"json": {"you": "{{last}}"}}), "a \"b\"\n", 1).await?;
    assert_eq!(
        serde_json::from_str::<Value>(&quoted)?,
        json!({"you": "a \"b\"\n"})
    );
    assert_eq!(play(json!({"json": null}), "hi", 1).await?, "null");
    let heard = ask_scripted(Prompt {
        script: Some(json!({"deltas": ["a ", "b"]})),
        ..prompt("x")
    })
    .await;
    assert_eq!(heard.deltas, ["a ", "b"]);
    assert_eq!(heard.result?.text, "a b");
    Ok(())
}

#[tokio::test]
async fn the_first_turn_that_applies_is_played() -> anyhow::Result<()> {
    let script = json!({"turns": [
        {"match": "rain", "text": "wet"},
        {"until_attempt": 2, "error": {"class": "transient", "detail": "not yet"}},
        {"match": "sun", "text": "dry"},
    ]});
    assert_eq!(play(script.clone(), "will it rain", 1).await?, "wet");
    for attempt in [0, 1, 2] {
        assert_eq!(
            play(script.clone(), "sun", attempt).await,
            Err(LlmError::Transient("not yet".to_owned()))
        );
    }
    assert_eq!(play(script.clone(), "sun", 3).await?, "dry");
    assert!(
        play(script, "fog", 3)
            .await?
            .starts_with("You asked: \"fog\""),
        "no turn applies: its own answer"
    );
    Ok(())
}

#[tokio::test]
async fn scripts_fail_in_every_class() {
    let fail = |error: Value| play(json!({"error": error}), "x", 1);
    let detail = || "d".to_owned();
    assert_eq!(
        fail(json!({"class": "transient", "detail": "d"})).await,
        Err(LlmError::Transient(detail()))
    );
    assert_eq!(
        fail(json!({"class": "invalid", "detail": "d"})).await,
        Err(LlmError::Invalid(detail()))
    );
    assert_eq!(
        fail(json!({"class": "budget", "detail": "d"})).await,
        Err(LlmError::Budget(detail()))
    );
    assert_eq!(
        fail(json!({"class": "refused", "detail": "d"})).await,
        Err(LlmError::Refused(detail()))
    );
    let limited = LlmError::RateLimited {
        detail: detail(),
        retry_after: Some(Duration::from_millis(1500)),
    };
    assert_eq!(
        fail(json!({"class": "rate_limited", "detail": "d", "retry_after_ms": 1500})).await,
        Err(limited)
    );
}

#[tokio::test]
async fn a_wrong_script_is_named_even_in_a_turn_that_would_not_be_played() {
    for (script, named) in [
        (json!({"txt": "x"}), "txt"),
        (
            json!({"turns": [{"text": "x"}, {"fail_times": 2}]}),
            "fail_times",
        ),
        (json!({"turns": [], "loop": true}), "loop"),
        (
            json!({"error": {"class": "transient", "after": 1}}),
            "after",
        ),
        (json!({"error": {"class": "sad"}}), "sad"),
        (json!({"text": "a", "hang": true}), "more than one"),
        (json!("text"), "script"),
        (json!({"text": "{{last}}".repeat(100_000)}), "longer"),
    ] {
        let result = play(script, &"x".repeat(2000), 1).await;
        assert!(
            matches!(&result, Err(LlmError::Invalid(words)) if words.contains(named)),
            "{named}: {result:?}"
        );
    }
}

#[tokio::test]
async fn it_can_be_slow_hang_and_panic() -> anyhow::Result<()> {
    let asked = Instant::now();
    play(
        json!({"delay_ms": 60, "delta_delay_ms": 20, "deltas": ["a", "b", "c"]}),
        "x",
        1,
    )
    .await?;
    assert!(
        asked.elapsed() >= Duration::from_millis(100),
        "{:?}",
        asked.elapsed()
    );
    assert!(
        play(json!({"delay_ms": 1}), "hi", 1)
            .await?
            .starts_with("You asked"),
        "only a delay: its own answer"
    );
    let hung = tokio::time::timeout(
        Duration::from_millis(50),
        play(json!({"hang": true}), "x", 1),
    )
    .await;
    assert!(hung.is_err());
    let panicked = tokio::spawn(play(json!({"panic": true}), "x", 1)).await;
    assert!(panicked.is_err_and(|error| error.is_panic()));
    Ok(())
}
