//! The model vendors against a real socket: every way a vendor is known to behave, and what the
//! adapter makes of it.

mod limits;
mod openai;
mod scripted;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use codelab_tests::vendor::{KEY, Vendor};
use engine::llm::{Line, LlmError, Prompt, Role, Turn};
use worker::llm::{Router, RouterConfig, Timeouts};

/// Short enough for a test, long enough for two busy cores.
const TIMEOUTS: Timeouts = Timeouts {
    first_byte: Duration::from_millis(1500),
    idle: Duration::from_millis(700),
};

/// A turn, and what was streamed on the way.
struct Heard {
    result: Result<Turn, LlmError>,
    deltas: Vec<String>,
}

fn config(vendor: &Vendor, key: Option<&str>) -> RouterConfig {
    RouterConfig {
        openai_api_key: key.map(Into::into),
        openai_base_url: Some(vendor.base_url()),
        timeouts: TIMEOUTS,
    }
}

fn prompt(text: &str) -> Prompt {
    Prompt {
        lines: vec![line(Role::User, text)],
        attempt: 1,
        ..Prompt::default()
    }
}

fn line(role: Role, text: &str) -> Line {
    Line::new(role, text)
}

/// Asks `model` by the public way: router, then adapter.
async fn ask(router: &Router, model: &str, prompt: Prompt) -> Heard {
    let deltas = Mutex::new(Vec::new());
    let on_delta = |delta: &str| {
        deltas
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(delta.to_owned());
    };
    let result = match router.for_model(model) {
        Ok((vendor, name)) => {
            vendor
                .turn(
                    &Prompt {
                        model: name,
                        ..prompt
                    },
                    &on_delta,
                )
                .await
        }
        Err(error) => Err(error),
    };
    Heard {
        result,
        deltas: deltas.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

/// Asks the stand-in vendor with the right key.
async fn ask_vendor(vendor: &Vendor, model: &str) -> Result<Heard, LlmError> {
    let heard = ask_at_once(vendor, &[model]).await?;
    heard
        .into_iter()
        .next()
        .ok_or_else(|| LlmError::Invalid("nothing was heard".to_owned()))
}

/// Asks the stand-in vendor for all these models at the same time; fails when that takes more than
/// 6 s, as no timeout here is nearly as long.
async fn ask_at_once(vendor: &Vendor, models: &[&str]) -> Result<Vec<Heard>, LlmError> {
    // One router for all: to build one reads the system's certificates, which stops the clock of short timeouts.
    let router = &Router::new(config(vendor, Some(KEY)))?;
    let calls = models
        .iter()
        .map(|model| async move { ask(router, &format!("openai/{model}"), prompt("hello")).await });
    let heard = futures::future::join_all(calls);
    tokio::time::timeout(Duration::from_secs(6), heard)
        .await
        .map_err(|_| LlmError::Invalid(format!("one of {models:?} does not end")))
}

#[tokio::test]
async fn the_router_says_what_is_missing() -> anyhow::Result<()> {
    let bare = Router::new(RouterConfig::default())?;
    let refused = |model: &str| match bare.for_model(model) {
        Err(LlmError::Invalid(words)) => words,
        Err(other) => format!("wrong class: {other}"),
        Ok((_, name)) => format!("accepted as {name}"),
    };
    assert!(
        refused("openai/gpt-4o").contains("set OPENAI_API_KEY, or OPENAI_BASE_URL"),
        "{}",
        refused("openai/gpt-4o")
    );
    assert!(
        refused("acme/x").contains("the known ones are `scripted`, `openai`"),
        "{}",
        refused("acme/x")
    );
    for nameless in ["gpt-4o", "", "openai/", "/"] {
        assert!(!refused(nameless).starts_with("accepted"), "{nameless}");
    }
    assert_eq!(refused("scripted/default"), "accepted as default");
    Ok(())
}

#[tokio::test]
async fn a_key_or_a_base_url_is_enough_and_blank_is_neither() -> anyhow::Result<()> {
    let with = |key: Option<&str>, url: Option<&str>| {
        let config = RouterConfig {
            openai_api_key: key.map(Into::into),
            openai_base_url: url.map(Into::into),
            timeouts: TIMEOUTS,
        };
        Router::new(config)
            .and_then(|router| router.for_model("openai/meta/llama").map(|(_, name)| name))
    };
    assert_eq!(with(Some("k"), None)?, "meta/llama");
    assert_eq!(with(None, Some("http://127.0.0.1:9/v1/"))?, "meta/llama");
    for (key, url) in [
        (Some(" "), Some("")),
        (None, Some("ftp://x")),
        (None, Some("no url")),
        (Some("a\nb"), None),
    ] {
        assert!(
            matches!(with(key, url), Err(LlmError::Invalid(_))),
            "{key:?} {url:?}"
        );
    }
    Ok(())
}
