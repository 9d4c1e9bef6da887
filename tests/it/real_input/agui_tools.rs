//! AG-UI judged by those who made it: the public validator and the public client, against an API and a worker as processes.
//!
//! They come from their registries into the target folder, in fixed versions. Where that cannot be, the stories say so and pass;
//! with `CODELAB_TEST_TOOLS=required` they fail.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use api::auth::{SecretString, dev_token};
use codelab_tests::{harness::Database, person::SECRET, tiers::Tiers};
use serde_json::json;
use tokio::{process::Command, time::timeout};

/// Longest time that a program may take; the first time it is fetched.
const PATIENCE: Duration = Duration::from_mins(4);

/// Where the scripts are.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/agui")
}

/// Where what they need goes.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("agui")
        .join(name)
}

/// Runs a program to its end: what it said, or why it did not end well.
async fn program(command: &mut Command) -> Result<String, String> {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await;
    let output = ended
        .map_err(|_| "it took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    if output.status.success() {
        Ok(said.concat())
    } else {
        Err(said.concat())
    }
}

/// The validator's Python.
async fn python() -> Result<PathBuf, String> {
    let place = place("python");
    let python = place.join("bin/python");
    program(Command::new("python3").args(["-m", "venv"]).arg(&place)).await?;
    let requirements = scripts().join("requirements.txt");
    let install = ["-m", "pip", "install", "--quiet", "--requirement"];
    program(Command::new(&python).args(install).arg(requirements)).await?;
    Ok(python)
}

/// The client's script, beside what it needs.
async fn node() -> Result<PathBuf, String> {
    let place = place("node");
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    for file in ["package.json", "client.mjs"] {
        std::fs::copy(scripts().join(file), place.join(file)).map_err(|error| error.to_string())?;
    }
    let install = ["install", "--no-audit", "--no-fund", "--silent"];
    program(Command::new("npm").args(install).current_dir(&place)).await?;
    Ok(place.join("client.mjs"))
}

/// What was got, unless it cannot be had here, which is said.
fn had<T>(what: &str, got: Result<T, String>) -> Option<T> {
    match got {
        Ok(got) => Some(got),
        Err(why) if std::env::var("CODELAB_TEST_TOOLS").is_ok_and(|word| word == "required") => {
            panic!("{what} cannot be had: {why}")
        }
        Err(why) => {
            eprintln!("skipped: {what} cannot be had: {why}");
            None
        }
    }
}

/// Agents that answer, ask, and call; and a team.
async fn judged(mut judge: Command) {
    let database = Database::fresh().await;
    let tiers = Tiers::start(&database.url, &[]).await;
    let ada = &tiers.ada;
    let tool = json!({"name": "wipe", "effect": "irreversible", "executor": {"kind": "client"}, "timeout_seconds": 60});
    ada.post("tools/", tool).await;
    let count = json!({"deltas": ["one ", "two ", "three"], "delta_delay_ms": 100});
    let calls = |name: &str, arguments| {
        let call =
            json!({"until_results": 1, "tool_calls": [{"name": name, "arguments": arguments}]});
        json!({"turns": [call, {"text": "heard {{last}}"}]})
    };
    for (name, tools, script) in [
        ("counter", json!([]), count),
        (
            "wiper",
            json!(["wipe"]),
            calls("wipe", json!({"all": true})),
        ),
        (
            "asker",
            json!(["ask_user"]),
            calls("ask_user", json!({"question": "Which color?"})),
        ),
    ] {
        ada.agent_with(name, json!({"tools": tools, "script": script}))
            .await;
    }
    let token = dev_token(
        &SecretString::from(SECRET),
        "ada",
        Duration::from_mins(10),
        None,
        None,
    );
    judge
        .env("AGUI_URL", format!("{}/my/agui/", ada.base()))
        .env("AGUI_TOKEN", token.expect("a token"))
        .env("AGUI_AGENTS", "counter,wiper,asker,");
    let verdict = program(&mut judge).await;
    if let Err(why) = verdict {
        panic!("{why}")
    }
    tiers.stop_content().await;
}

#[tokio::test]
async fn agui_the_public_validator_finds_nothing() {
    let Some(python) = had("the validator", python().await) else {
        return;
    };
    let mut judge = Command::new(python);
    judge.arg(scripts().join("validate.py"));
    judged(judge).await;
}

#[tokio::test]
async fn agui_the_public_client_gets_along_with_it() {
    let Some(script) = had("the client", node().await) else {
        return;
    };
    let mut judge = Command::new("node");
    judge.arg(script);
    judged(judge).await;
}
