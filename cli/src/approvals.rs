//! `codelab approvals`: what waits for you, with the time that is left, and the answers, over the public API.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::{client::Client, say};

/// Between two looks where the list is watched.
const LOOK: Duration = Duration::from_secs(1);
/// Characters of a question's details on one line.
const SHOWN: usize = 300;

/// Which service, for whom, and what to do.
#[derive(Debug, clap::Args)]
pub(crate) struct ApprovalsArgs {
    /// The question to answer; none: list what is open
    id: Option<String>,
    /// The answer: one of the question's choices; or reopen, for a question that ran out or was rejected
    choice: Option<String>,
    /// With edit or agent: what the agent is asked now
    #[arg(long)]
    prompt: Option<String>,
    /// With agent: who does it now
    #[arg(long)]
    agent: Option<String>,
    /// With done: what the call brought
    #[arg(long)]
    result: Option<String>,
    /// With answer: your answer, as JSON or as plain text
    #[arg(long)]
    input: Option<String>,
    /// With approve, for a tool: other arguments, as JSON
    #[arg(long, value_name = "JSON")]
    arguments: Option<Value>,
    /// A word to the agent
    #[arg(long)]
    note: Option<String>,
    /// List what has ended too, newest first
    #[arg(long, conflicts_with_all = ["id", "watch"])]
    all: bool,
    /// Keep the list on the screen, with the time running down
    #[arg(long, conflicts_with = "id")]
    watch: bool,
    /// Where the service is
    #[arg(long, env = "CODELAB_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Your token (better in the environment: a command line can be read by others)
    #[arg(long, env = "CODELAB_TOKEN", hide_env_values = true)]
    token: SecretString,
}

/// Lists, shows or answers.
pub(crate) async fn run(args: ApprovalsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.url, args.token.clone())?;
    match (&args.id, &args.choice) {
        (None, _) => list(&client, &args).await,
        (Some(id), None) => {
            let asked = client.get(&format!("my/approvals/{id}/")).await?;
            say::line(told(&asked, Utc::now()));
            say::line(say::clean_lines(&format!("{:#}", asked["shown"])));
            Ok(())
        }
        (Some(id), Some(choice)) if choice == "reopen" => {
            let path = format!("my/approvals/{id}/reopen/");
            let asked = client.post(&path, &json!({})).await?;
            say::line(told(&asked, Utc::now()));
            Ok(())
        }
        (Some(id), Some(choice)) => {
            let path = format!("my/approvals/{id}/confirm/");
            let decided = client.post(&path, &answer(&args, choice)).await?;
            say::line(told(&decided, Utc::now()));
            Ok(())
        }
    }
}

async fn list(client: &Client, args: &ApprovalsArgs) -> anyhow::Result<()> {
    let redraw = args.watch && say::is_terminal();
    let which = if args.all { "" } else { "?status=pending" };
    loop {
        let pending = client.get(&format!("my/approvals/{which}")).await?;
        let items = pending["items"].as_array().cloned().unwrap_or_default();
        let lines: Vec<String> = items.iter().map(|asked| told(asked, Utc::now())).collect();
        let text = if lines.is_empty() {
            "Nothing waits for you.".to_owned()
        } else {
            format!(
                "{}\nAnswer with: codelab approvals ID CHOICE",
                lines.join("\n")
            )
        };
        if redraw {
            // From the top of a cleared screen.
            say::raw(&format!("\x1b[2J\x1b[H{text}\n"));
        } else {
            say::line(text);
        }
        if !args.watch {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// A question in a few lines; its words come from the stored payload and cannot move the cursor.
fn told(asked: &Value, now: DateTime<Utc>) -> String {
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let choices: Vec<&str> = asked["choices"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let details: String = subject(&asked["shown"]).chars().take(SHOWN).collect();
    say::clean_lines(&format!(
        "{}  {}  step {}  {}\n  {details}\n  choices: {}",
        text("id"),
        text("type"),
        text("step_key"),
        state(asked, now),
        choices.join(", ")
    ))
}

fn state(asked: &Value, now: DateTime<Utc>) -> String {
    let status = asked["status"].as_str().unwrap_or_default();
    let deadline = asked["deadline"]
        .as_str()
        .and_then(|text| text.parse::<DateTime<Utc>>().ok());
    match deadline {
        Some(deadline) if status == "pending" => {
            let left = std::cmp::max((deadline - now).num_seconds(), 0);
            format!("{}:{:02} left", left / 60, left % 60)
        }
        _ => status.to_owned(),
    }
}

/// What it is about, by its kind.
fn subject(shown: &Value) -> String {
    let text = |field: &str| shown[field].as_str().unwrap_or_default();
    match shown["type"].as_str() {
        Some("decision") => format!(
            "failed: {}",
            shown["error"]["message"].as_str().unwrap_or_default()
        ),
        Some("tool" | "outcome_unknown") => format!("{} {}", text("tool"), shown["arguments"]),
        Some("input") => text("question").to_owned(),
        Some("plan") => {
            let steps = shown["steps"].as_array().into_iter().flatten();
            let step = |step: &Value| {
                let field = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
                format!("{} by {}", field("key"), field("agent"))
            };
            steps.map(step).collect::<Vec<_>>().join("; ")
        }
        _ => shown.to_string(),
    }
}

fn answer(args: &ApprovalsArgs, choice: &str) -> Value {
    let mut answer = Map::from_iter([("choice".to_owned(), json!(choice))]);
    for (field, value) in [
        ("prompt", &args.prompt),
        ("agent", &args.agent),
        ("result", &args.result),
        ("note", &args.note),
    ] {
        if let Some(value) = value {
            answer.insert(field.to_owned(), json!(value));
        }
    }
    if let Some(arguments) = &args.arguments {
        answer.insert("edited_payload".to_owned(), arguments.clone());
    }
    if let Some(input) = &args.input {
        let input = serde_json::from_str(input).unwrap_or_else(|_| json!(input));
        answer.insert("input".to_owned(), input);
    }
    Value::Object(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_told_with_the_time_that_is_left() {
        let asked = json!({"id": "x", "type": "tool", "step_key": "pay", "status": "pending", "deadline": "2026-01-01T00:05:00Z",
            "choices": ["approve", "reject"], "shown": {"type": "tool", "tool": "charge", "arguments": {"n": 5}}});
        let now = "2026-01-01T00:03:55Z".parse::<DateTime<Utc>>();
        let told = now.map(|now| told(&asked, now));
        assert!(
            told.as_ref().is_ok_and(|told| told.contains("1:05 left")
                && told.contains(r#"charge {"n":5}"#)
                && told.contains("choices: approve, reject")),
            "{told:?}"
        );
    }
}
