//! Which calls run, ask or are refused: a person's rules in order, the first that fits holds; without one the tool's own word.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tool::{Consent, Effect, Risk, Tool};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is made.
    Auto,
    /// The person is asked first.
    Ask,
    /// It is refused, and the agent is told so.
    Deny,
}

/// A rule. What it leaves out fits everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name of the tool; `*` at the end stands for any rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Name of the agent; `*` at the end stands for any rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What a call does to the world: any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effect: Vec<Effect>,
    /// How bad a wrong one is: any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk: Vec<Risk>,
    /// Arguments, all of them: a JSON pointer, and what its text begins with (`*` at the end) or is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<ArgumentRule>,
    /// What becomes of a call that fits.
    pub then: Verdict,
}

/// What an argument has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgumentRule {
    /// Where: a JSON pointer such as `/path`.
    pub pointer: String,
    /// Its text; `*` at the end stands for any rest.
    pub matches: String,
}

/// A call before it is made.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'a> {
    /// Name of the agent.
    pub agent: &'a str,
    /// The tool.
    pub tool: &'a Tool,
    /// The arguments.
    pub arguments: &'a Value,
}

/// What becomes of a call, and which rule says so (none: the tool's own consent).
pub fn decide(rules: &[Rule], proposal: Proposal<'_>) -> (Verdict, Option<usize>) {
    match rules.iter().position(|rule| rule.fits(proposal)) {
        Some(place) => (rules[place].then, Some(place)),
        None => match proposal.tool.consent {
            Consent::Auto => (Verdict::Auto, None),
            Consent::Ask => (Verdict::Ask, None),
        },
    }
}

impl Rule {
    fn fits(&self, proposal: Proposal<'_>) -> bool {
        let tool = proposal.tool;
        let named = |pattern: &Option<String>, name: &str| {
            pattern
                .as_deref()
                .is_none_or(|pattern| matches(pattern, name))
        };
        named(&self.tool, &tool.name)
            && named(&self.agent, proposal.agent)
            && (self.effect.is_empty() || self.effect.contains(&tool.effect))
            && (self.risk.is_empty() || self.risk.contains(&tool.risk))
            && self
                .arguments
                .iter()
                .all(|rule| rule.fits(proposal.arguments))
    }
}

impl ArgumentRule {
    fn fits(&self, arguments: &Value) -> bool {
        arguments
            .pointer(&self.pointer)
            .is_some_and(|value| match value {
                Value::String(text) => matches(&self.matches, text),
                other => matches(&self.matches, &other.to_string()),
            })
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tool::Executor;

    fn tool(name: &str, effect: Effect, risk: Risk) -> Tool {
        Tool {
            name: name.to_owned(),
            version: 1,
            description: String::new(),
            input_schema: json!({}),
            executor: Executor::Client,
            effect,
            risk,
            consent: Consent::Ask,
            timeout_seconds: 30,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_first_rule_that_fits_holds() {
        let rules: Vec<Rule> = serde_json::from_value(json!([
            {"tool": "file_*", "arguments": [{"pointer": "/path", "matches": "/etc/*"}], "then": "deny"},
            {"tool": "file_read", "agent": "coder", "then": "auto"},
            {"effect": ["read"], "then": "auto"},
            {"risk": ["high"], "then": "deny"},
        ]))
        .unwrap_or_default();
        assert_eq!(rules.len(), 4);
        let read = tool("file_read", Effect::Irreversible, Risk::Low);
        let look = tool("look", Effect::Read, Risk::Low);
        let launch = tool("launch", Effect::Irreversible, Risk::High);
        let mail = tool("mail", Effect::Irreversible, Risk::Medium);
        let table = [
            (
                &read,
                "coder",
                json!({"path": "/etc/passwd"}),
                Verdict::Deny,
                Some(0),
            ),
            (
                &read,
                "coder",
                json!({"path": "/home/a"}),
                Verdict::Auto,
                Some(1),
            ),
            (&read, "other", json!({"path": 5}), Verdict::Ask, None),
            (&look, "other", json!({}), Verdict::Auto, Some(2)),
            (&launch, "coder", json!({}), Verdict::Deny, Some(3)),
            (&mail, "coder", json!({}), Verdict::Ask, None),
        ];
        for (tool, agent, arguments, verdict, rule) in table {
            let proposal = Proposal {
                agent,
                tool,
                arguments: &arguments,
            };
            assert_eq!(
                decide(&rules, proposal),
                (verdict, rule),
                "{} {arguments}",
                tool.name
            );
        }
    }
}
