//! `RunAgentInput`, checked; and the ids that follow from it.

use engine::id::{MessageId, SessionId, UserId};
use garde::Validate;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{translate::Run, words::text};
use crate::{
    extract::decode_at,
    my::messages::MessageInput,
    problem::{FieldError, Problem},
};

/// Below it, names that clients give become ids.
const NAMES: Uuid = Uuid::from_u128(0x8f0c_6a35_51f1_4c47_9d3e_0a60_7d3b_a961);

/// Characters of a thread's or a run's name.
const NAME_LIMIT: usize = 256;

/// A run of an AG-UI client (`RunAgentInput` of AG-UI 1.0). What the protocol may have besides is passed over.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(crate) struct RunInput {
    /// The conversation: the id of one of yours, or any other name, under which one is begun.
    #[garde(skip)]
    #[schema(min_length = 1, max_length = 256, example = "thread-1")]
    thread_id: String,
    /// The run. The same name in the same conversation is the same run: it is shown again and never carried out twice.
    #[garde(skip)]
    #[schema(min_length = 1, max_length = 256, example = "run-1")]
    run_id: String,
    /// The conversation as you have it. What the last user message says is what is wanted.
    #[garde(skip)]
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Map<String, Value>>,
    /// Tools that you carry out yourself; the agent calls those that are registered with `client` as their executor.
    #[garde(skip)]
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    tools: Vec<Map<String, Value>>,
    /// Passed over.
    #[garde(skip)]
    #[serde(default, rename = "state")]
    #[schema(value_type = Option<Object>)]
    _state: Value,
    /// Passed over.
    #[garde(skip)]
    #[serde(default, rename = "context")]
    #[schema(value_type = Vec<Object>)]
    _context: Value,
    /// `agent`: name or id of the agent that shall answer; without one the orchestrator plans.
    #[garde(skip)]
    #[serde(default)]
    #[schema(value_type = Option<Object>, example = json!({"agent": "coder"}))]
    forwarded_props: Value,
    /// Answers to the interrupts that ended the run before: to all of them.
    #[garde(length(max = 100))]
    #[serde(default)]
    resume: Option<Vec<Resume>>,
}

/// An answer to an interrupt.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(crate) struct Resume {
    /// The interrupt.
    pub(crate) interrupt_id: String,
    /// `resolved`: it is answered; `cancelled`: it is given up.
    pub(crate) status: Status,
    /// The answer, in the form that the interrupt asks for.
    #[schema(value_type = Option<Object>)]
    pub(crate) payload: Option<Value>,
}

/// What became of an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// It is answered.
    Resolved,
    /// It is given up.
    Cancelled,
}

/// An answer, and where it stands in the body.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) at: String,
    pub(crate) answer: Resume,
    /// As a message of the role `tool`, and not as an answer to an interrupt.
    pub(crate) as_message: bool,
}

/// What a run's names come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids {
    /// The conversation, if the name is an id.
    pub(crate) named: Option<SessionId>,
    /// The conversation otherwise.
    pub(crate) derived: SessionId,
    /// The message that the run begins with.
    pub(crate) message: MessageId,
}

impl RunInput {
    /// Everything that can be wrong without a look at what is there.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let names = [("/threadId", &self.thread_id), ("/runId", &self.run_id)];
        let mut errors: Vec<FieldError> = names
            .into_iter()
            .filter_map(|(at, name)| bad_name(at, name))
            .collect();
        let mut want_text = |value: Option<&Value>, at: String| {
            if value.and_then(Value::as_str).is_none() {
                errors.push(FieldError::body(
                    at,
                    "missing_field",
                    "a text is needed here",
                ));
            }
        };
        for (place, message) in self.messages.iter().enumerate() {
            want_text(message.get("id"), format!("/messages/{place}/id"));
            want_text(message.get("role"), format!("/messages/{place}/role"));
        }
        for (place, tool) in self.tools.iter().enumerate() {
            want_text(tool.get("name"), format!("/tools/{place}/name"));
        }
        if let Some(agent) = self
            .forwarded_props
            .get("agent")
            .filter(|agent| !agent.is_null())
        {
            want_text(Some(agent), "/forwardedProps/agent".to_owned());
        }
        let resume = self.resume.iter().flatten().enumerate();
        let twice = resume.filter(|(place, answer)| {
            let before = self.resume.iter().flatten().take(*place);
            before
                .clone()
                .any(|other| other.interrupt_id == answer.interrupt_id)
        });
        errors.extend(twice.map(|(place, _)| {
            FieldError::body(
                format!("/resume/{place}/interruptId"),
                "duplicate",
                "an interrupt is answered once",
            )
        }));
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(errors))
        }
    }

    /// The ids that follow from the person and the names. Nothing in a name is U+0000, so different names stay different.
    pub(crate) fn ids(&self, user: UserId) -> Ids {
        let derived = |kind: &str, names: &[&str]| {
            let name = format!("{user}\0{kind}\0{}", names.join("\0"));
            Uuid::new_v5(&NAMES, name.as_bytes())
        };
        Ids {
            named: self.thread_id.parse().ok(),
            derived: SessionId(derived("thread", &[&self.thread_id])),
            message: MessageId(derived("run", &[&self.thread_id, &self.run_id])),
        }
    }

    /// What the client answers: to interrupts, or else the results of its own tools at the end of its messages.
    pub(crate) fn answers(&self) -> Vec<Given> {
        let resume = self.resume.iter().flatten().enumerate();
        let given: Vec<Given> = resume
            .map(|(place, answer)| Given {
                at: format!("/resume/{place}"),
                answer: answer.clone(),
                as_message: false,
            })
            .collect();
        if !given.is_empty() {
            return given;
        }
        let last = self.messages.iter().enumerate().rev();
        last.map(|(place, message)| (place, Value::Object(message.clone())))
            .take_while(|(_, message)| text(message, "role") == "tool")
            .map(|(place, message)| Given {
                at: format!("/messages/{place}"),
                answer: Resume {
                    interrupt_id: text(&message, "toolCallId").to_owned(),
                    status: Status::Resolved,
                    payload: Some(result(&message["content"])),
                },
                as_message: true,
            })
            .collect()
    }

    /// What is wanted, as the route of messages takes it.
    pub(crate) fn message(&self) -> Result<MessageInput, Problem> {
        let last = self.messages.iter().enumerate().rev();
        let mut said = last.filter(|(_, message)| message.get("role") == Some(&json!("user")));
        let Some((place, message)) = said.next() else {
            return Err(Problem::field(
                "/messages",
                "no_user_message",
                "there must be a message of the role user",
            ));
        };
        let at = format!("/messages/{place}");
        let content = content(
            message.get("content").unwrap_or(&Value::Null),
            &format!("{at}/content"),
        )?;
        let agent = self.forwarded_props.get("agent").and_then(Value::as_str);
        decode_at(json!({ "content": content, "target_agent": agent }), &at)
    }

    /// The run as its translator knows it.
    pub(crate) fn run(self, answers: &[Given]) -> Run {
        let tools = self
            .tools
            .iter()
            .filter_map(|tool| tool.get("name")?.as_str());
        Run {
            tools: tools.map(str::to_owned).collect(),
            thread: self.thread_id,
            name: self.run_id,
            messages: self.messages.into_iter().map(Value::Object).collect(),
            answers: answers
                .iter()
                .map(|given| given.answer.interrupt_id.clone())
                .collect(),
        }
    }
}

/// The wire's names of these fields are not ours, which is why no derived check can name them.
fn bad_name(at: &str, name: &str) -> Option<FieldError> {
    match name.chars().count() {
        0 => Some(FieldError::body(
            at,
            "too_short",
            "a name has at least one character",
        )),
        1..=NAME_LIMIT => None,
        _ => Some(FieldError::body(
            at,
            "too_long",
            format!("a name has at most {NAME_LIMIT} characters"),
        )),
    }
}

/// The text of a user message: a text, or parts of the kind `text`.
fn content(content: &Value, at: &str) -> Result<String, Problem> {
    if let Some(content) = content.as_str() {
        return Ok(content.to_owned());
    }
    let Some(parts) = content.as_array() else {
        return Err(Problem::field(
            at,
            "wrong_type",
            "the content of a user message is a text, or a list of parts",
        ));
    };
    let mut texts = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        if text(part, "type") != "text" {
            let detail = "agents here read text only";
            return Err(Problem::field(
                format!("{at}/{place}"),
                "unsupported_content",
                detail,
            ));
        }
        texts.push(text(part, "text"));
    }
    Ok(texts.join("\n"))
}

/// A tool's result comes as text: JSON where it is.
fn result(content: &Value) -> Value {
    let parsed = content
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok());
    parsed.unwrap_or_else(|| content.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(thread: &str, run: &str) -> RunInput {
        let body = json!({"threadId": thread, "runId": run, "messages": []});
        match decode_at(body, "") {
            Ok(input) => input,
            Err(_) => unreachable!("a valid body"),
        }
    }

    #[test]
    fn ids_follow_from_the_person_the_thread_and_the_run() {
        let (ada, bob) = (UserId::new(), UserId::new());
        let ids = |user, thread, run| {
            let Ids {
                derived, message, ..
            } = input(thread, run).ids(user);
            (derived, message)
        };
        let first = ids(ada, "t", "r");
        assert_eq!(first, ids(ada, "t", "r"));
        let other_run = ids(ada, "t", "q");
        assert!(first.0 == other_run.0 && first.1 != other_run.1);
        for other in [ids(ada, "u", "r"), ids(bob, "t", "r")] {
            assert!(first.0 != other.0 && first.1 != other.1);
        }
        // Names that would run into each other.
        assert_ne!(ids(ada, "t", "r").1, ids(ada, "tr", " ").1);
    }
}
