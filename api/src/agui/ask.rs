//! What a plan waits for from outside, as an interrupt; and the answer to one, as the routes of approvals and of tool calls
//! take it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::words::{event, text};
use crate::problem::Problem;

/// Something that is asked and not decided yet.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The wait: also the interrupt, and the tool call where it is about one.
    pub(super) id: String,
    /// The step that waits.
    pub(super) step: String,
    /// What is asked, as the event told it.
    payload: Value,
    /// Whether the run has to end for it although other steps move: the client's own program is called, or the time is
    /// nearly up.
    pub(super) presses: bool,
}

impl Ask {
    pub(super) fn new(id: &str, step: &str, payload: &Value) -> Self {
        Self {
            id: id.to_owned(),
            step: step.to_owned(),
            payload: payload.clone(),
            presses: text(payload, "type") == "client_tool",
        }
    }

    /// The tool that is called, where the question is about one call.
    pub(super) fn tool(&self) -> Option<&str> {
        let call = matches!(text(&self.payload, "type"), "tool" | "client_tool");
        call.then(|| text(&self.payload, "tool"))
    }

    /// Whether the client itself carries the call out.
    pub(super) fn is_for_client(&self) -> bool {
        text(&self.payload, "type") == "client_tool"
    }

    /// The arguments of the call, as text.
    pub(super) fn arguments(&self) -> String {
        let arguments = self.payload.get("arguments");
        arguments.map_or_else(|| "{}".to_owned(), Value::to_string)
    }

    /// The interrupt.
    pub(super) fn interrupt(&self, subagent: Option<&str>) -> Value {
        let asked = &self.payload;
        let (reason, message, schema) = self.question();
        let fields = json!({
            "id": self.id, "reason": reason, "message": message, "toolCallId": self.tool().map(|_| &self.id),
            "responseSchema": schema, "expiresAt": asked.get("deadline"), "subagentRunId": subagent,
            "metadata": { "codelab": about(asked) },
        });
        let mut interrupt = event("", fields);
        if let Some(interrupt) = interrupt.as_object_mut() {
            interrupt.remove("type");
        }
        interrupt
    }

    /// Reason, question and form of the answer.
    fn question(&self) -> (&'static str, String, Value) {
        let asked = &self.payload;
        let (tool, key) = (text(asked, "tool"), text(asked, "key"));
        match text(asked, "type") {
            "tool" => (
                "tool_call",
                format!("May {tool} be called with these arguments?"),
                consent(
                    json!({ "editedArgs": { "type": "object", "description": "Full replacement of the arguments." } }),
                ),
            ),
            "client_tool" => (
                "codelab:client_tool",
                format!("Carry out {tool} and hand in what it brought."),
                json!({ "description": "What the call brought: any JSON." }),
            ),
            "plan" => (
                "confirmation",
                "May this plan be carried out?".to_owned(),
                consent(json!({})),
            ),
            "input" => (
                "input_required",
                text(asked, "question").to_owned(),
                match asked.get("schema").filter(|schema| schema.is_object()) {
                    Some(schema) => schema.clone(),
                    None => json!({ "type": "string" }),
                },
            ),
            "outcome_unknown" => (
                "codelab:outcome_unknown",
                format!("Nobody knows whether {tool} was carried out. Was it?"),
                choice(asked, json!({ "result": { "type": "string" } })),
            ),
            _ => (
                "codelab:decision",
                format!(
                    "The step {key} has failed: {}",
                    text(&asked["error"], "message")
                ),
                choice(
                    asked,
                    json!({ "prompt": { "type": "string" }, "agent": { "type": "string" } }),
                ),
            ),
        }
    }
}

/// What a client may show beside the question.
fn about(asked: &Value) -> Value {
    const SHOWN: [&str; 12] = [
        "type",
        "key",
        "tool",
        "arguments",
        "risk",
        "effect",
        "digest",
        "choices",
        "error",
        "steps",
        "estimate",
        "details_link",
    ];
    let fields = SHOWN.iter().filter_map(|name| {
        Some((
            (*name).to_owned(),
            asked.get(*name).filter(|value| !value.is_null())?.clone(),
        ))
    });
    Value::Object(fields.collect())
}

fn form(mut properties: Value, more: Value, required: &str) -> Value {
    if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
        properties.extend(more);
    }
    json!({ "type": "object", "properties": properties, "required": [required], "additionalProperties": false })
}

fn consent(more: Value) -> Value {
    let properties = json!({ "approved": { "type": "boolean" }, "note": { "type": "string" } });
    form(properties, more, "approved")
}

fn choice(asked: &Value, more: Value) -> Value {
    let properties =
        json!({ "choice": { "enum": asked["choices"] }, "note": { "type": "string" } });
    form(properties, more, "choice")
}

/// A yes or a no.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Consent {
    approved: bool,
    edited_args: Option<Value>,
    note: Option<String>,
}

/// The body that `confirm` takes for what a client answered (none: it gives up) to a question with this payload; `at` is
/// where it stands.
pub(crate) fn answer(asked: &Value, given: Option<&Value>, at: &str) -> Result<Value, Problem> {
    let takes = |choice: &str| {
        let choices = asked["choices"].as_array().into_iter().flatten();
        choices.clone().any(|known| known == choice)
    };
    let Some(given) = given else {
        // Whoever gives up says no; where there is no such answer, the least that lets the plan come to an end.
        let no = ["reject", "accept_partial", "check"]
            .into_iter()
            .find(|no| takes(no));
        return Ok(json!({ "choice": no }));
    };
    match text(asked, "type") {
        "tool" | "plan" => {
            let given = match given {
                Value::Bool(approved) => json!({ "approved": approved }),
                other => other.clone(),
            };
            let Consent {
                approved,
                edited_args,
                note,
            } = Consent::deserialize(given).map_err(|error| {
                Problem::field(
                    at,
                    "misfit",
                    format!("the answer does not fit its form: {error}"),
                )
            })?;
            let mut body = json!({ "choice": if approved { "approve" } else { "reject" } });
            if let Some(arguments) = edited_args {
                body["edited_payload"] = arguments;
            }
            if let Some(note) = note {
                body["note"] = json!(note);
            }
            Ok(body)
        }
        "input" => Ok(json!({ "choice": "answer", "input": given })),
        _ => Ok(given.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_becomes_the_body_of_its_route() {
        let tool = json!({"type": "tool", "choices": ["approve", "reject"]});
        let input = json!({"type": "input", "choices": ["answer", "reject"]});
        let card =
            json!({"type": "decision", "choices": ["retry", "skip", "accept_partial", "stop"]});
        let unknown = json!({"type": "outcome_unknown", "choices": ["done", "not_done", "check"]});
        let table = [
            (
                &tool,
                Some(json!({"approved": true})),
                json!({"choice": "approve"}),
            ),
            (&tool, Some(json!(false)), json!({"choice": "reject"})),
            (
                &tool,
                Some(json!({"approved": true, "editedArgs": {"n": 1}, "note": "less"})),
                json!({"choice": "approve", "edited_payload": {"n": 1}, "note": "less"}),
            ),
            (&tool, None, json!({"choice": "reject"})),
            (
                &input,
                Some(json!("blue")),
                json!({"choice": "answer", "input": "blue"}),
            ),
            (&input, None, json!({"choice": "reject"})),
            (
                &card,
                Some(json!({"choice": "skip"})),
                json!({"choice": "skip"}),
            ),
            (&card, None, json!({"choice": "accept_partial"})),
            (&unknown, None, json!({"choice": "check"})),
        ];
        for (asked, given, expected) in table {
            let body = answer(asked, given.as_ref(), "/resume/0/payload").ok();
            assert_eq!(body, Some(expected), "{asked} {given:?}");
        }
        for odd in [
            json!({}),
            json!("yes"),
            json!({"approved": "yes"}),
            json!({"approved": true, "more": 1}),
        ] {
            assert!(
                answer(&tool, Some(&odd), "/resume/0/payload").is_err(),
                "{odd}"
            );
        }
    }
}
