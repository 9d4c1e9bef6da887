//! What a step's model shall do, written in the prompt of the step: the model server remembers nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The word before the JSON.
pub const MARK: &str = "PROGRAM ";

/// What the model does in one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// Label of the step, unique in a run.
    pub id: String,
    /// Name of the agent, with its user's: `ada/one`.
    pub agent: String,
    /// Tools to call, one a turn: name and arguments.
    #[serde(default)]
    pub calls: Vec<(String, Value)>,
    /// What it says in the end.
    pub text: String,
    /// In so many pieces.
    #[serde(default)]
    pub pieces: u32,
    /// So far apart, in ms.
    #[serde(default)]
    pub gap_ms: u64,
    /// It answers with a 400: the step can never succeed.
    #[serde(default)]
    pub refuse: bool,
    /// Its worker is killed as soon as it asks.
    #[serde(default)]
    pub poison: bool,
}

impl Script {
    /// The prompt that makes the model server do this.
    pub fn prompt(&self) -> String {
        let script = serde_json::to_string(self).unwrap_or_default();
        format!("Do as you are told.\n{MARK}{script}")
    }

    /// Reads the newest script of a conversation, and how many calls have brought something after it.
    pub fn read(request: &Value) -> Option<(Self, usize)> {
        let messages = request["messages"].as_array()?;
        let found = |line: &Value| {
            let content = text_of(line)?;
            let at = content.find(MARK)? + MARK.len();
            let mut values = serde_json::Deserializer::from_str(&content[at..]).into_iter();
            values.next()?.ok()
        };
        let (place, script) = messages
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, line)| line["role"] == "user")
            .find_map(|(place, line)| Some((place, found(line)?)))?;
        // A call that came to nothing is made again.
        let results = messages[place..].iter().filter(|line| {
            line["role"] == "tool" && text_of(line).is_some_and(|text| !text.contains("\"error\""))
        });
        Some((script, results.count()))
    }
}

fn text_of(line: &Value) -> Option<String> {
    match &line["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(
            parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_script_comes_back_from_its_prompt_with_its_place() {
        let script = Script {
            id: "a".to_owned(),
            text: "done {with} it".to_owned(),
            calls: vec![("add".to_owned(), json!({ "n": 3 }))],
            ..Script::default()
        };
        let request = json!({ "messages": [
            { "role": "system", "content": "be good" },
            { "role": "user", "content": format!("{} and so on", script.prompt()) },
            { "role": "assistant", "content": null, "tool_calls": [] },
            { "role": "tool", "content": "3" },
        ]});
        assert_eq!(Script::read(&request), Some((script, 1)));
        assert_eq!(Script::read(&json!({ "messages": [] })), None);
    }
}
