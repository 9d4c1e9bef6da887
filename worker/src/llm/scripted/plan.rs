//! The plan that `scripted` makes: the first agent prepares, those in the middle work side by
//! side, the last one reviews.

use serde::Deserialize;
use serde_json::{Value, json};

use engine::llm::Line;

use super::first_chars;

/// Agents that get a step.
const TEAM: usize = 4;
/// Bytes of a step's key.
const KEY_LIMIT: usize = 40;
/// Characters of the goal.
const GOAL_LIMIT: usize = 200;

/// What the planner's question holds; whatever else it holds is not read.
#[derive(Debug, Deserialize)]
struct Question {
    #[serde(default)]
    request: String,
    // Required: it tells the question from any other JSON, such as a complaint's.
    agents: Vec<Agent>,
}

#[derive(Debug, Deserialize)]
struct Agent {
    name: String,
    #[serde(default)]
    about: String,
}

/// Plans for the latest line that holds a question: a repair turn puts a complaint after it.
pub(super) fn answer(lines: &[Line]) -> String {
    let question = lines
        .iter()
        .rev()
        .find_map(|line| serde_json::from_str::<Question>(&line.content).ok());
    let question = question.unwrap_or_else(|| Question {
        request: lines
            .last()
            .map(|line| line.content.clone())
            .unwrap_or_default(),
        agents: Vec::new(),
    });
    let team = team(&question);
    json!({"goal": goal(&question.request), "steps": steps(&team, &question.request)}).to_string()
}

/// The agents whose words are nearest to the request's, in the order in which they were listed.
fn team(question: &Question) -> Vec<&str> {
    let request = question.request.to_lowercase();
    let asked: std::collections::HashSet<&str> = terms(&request).collect();
    let nearness = |agent: &Agent| {
        let own = format!("{} {}", agent.name, agent.about).to_lowercase();
        terms(&own).filter(|term| asked.contains(term)).count()
    };
    let mut ranked: Vec<(usize, &Agent)> = question.agents.iter().enumerate().collect();
    ranked.sort_by_cached_key(|(index, agent)| (std::cmp::Reverse(nearness(agent)), *index));
    ranked.truncate(TEAM);
    ranked.sort_by_key(|(index, _)| *index);
    ranked
        .into_iter()
        .map(|(_, agent)| agent.name.as_str())
        .collect()
}

/// Short words are in every sentence and tell nothing.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|term| term.chars().count() > 3)
}

fn goal(request: &str) -> String {
    let line = request.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(GOAL_LIMIT).collect()
}

fn steps(team: &[&str], request: &str) -> Vec<Value> {
    let keys = keys(team);
    let request = first_chars(request);
    let last = team.len().saturating_sub(1);
    let step = |(place, agent): (usize, &&str)| {
        let (task, needs) = match place {
            0 if last == 0 => ("Answer the request", &keys[..0]),
            0 => ("Find out what is needed for the request", &keys[..0]),
            _ if place < last => (
                "Do your part of the request with what was found out",
                &keys[..1],
            ),
            // With two agents there is no middle: the last needs the first.
            _ => (
                "Review the work and write the final answer to the request",
                &keys[usize::from(last > 1)..last],
            ),
        };
        json!({"key": keys[place], "agent": agent, "prompt": format!("{task}: {request}"), "needs": needs})
    };
    team.iter().enumerate().map(step).collect()
}

/// Keys from names: `Data Analyst` is `data-analyst`; a name without a Latin letter is `step-2`.
fn keys(team: &[&str]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::with_capacity(team.len());
    for (place, name) in team.iter().enumerate() {
        let base = key(name).unwrap_or_else(|| format!("step-{}", place + 1));
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let free = std::iter::once(base.clone())
            .chain(numbered)
            .find(|key| !keys.contains(key));
        keys.extend(free);
    }
    keys
}

fn key(name: &str) -> Option<String> {
    let parts = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty());
    let mut key = parts.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    key.truncate(KEY_LIMIT);
    let key = key.trim_end_matches('-');
    (!key.is_empty()).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_and_apart() {
        assert_eq!(
            keys(&["Data Analyst", "data-analyst", "Аналитик", "C++"]),
            ["data-analyst", "data-analyst-2", "step-3", "c"]
        );
    }

    #[test]
    fn a_large_team_sends_those_whose_words_are_asked_for() {
        let agents = [
            "Chef cooking",
            "Writer poems",
            "Editor poems",
            "Driver trucks",
            "Critic poems",
            "Poet rhymes",
        ];
        let agents = agents.iter().filter_map(|pair| pair.split_once(' '));
        let agents = agents
            .map(|(name, about)| Agent {
                name: name.to_owned(),
                about: about.to_owned(),
            })
            .collect();
        let question = Question {
            request: "Poems with rhymes, please".to_owned(),
            agents,
        };
        assert_eq!(team(&question), ["Writer", "Editor", "Critic", "Poet"]);
    }
}
