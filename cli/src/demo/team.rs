//! The team of the demo and what it is scripted to do: slow enough to be watched, short enough to be waited for.

use serde_json::{Value, json};

/// What the person asks.
pub(super) const MESSAGE: &str =
    "Write a function that reads durations such as 1h30m, with tests and a short guide.";

const CODE: &str = "fn parse(text: &str) -> Option<Duration>: split after each letter, read the number before it, \
    take the unit from a table (h, m, s), refuse anything else, add up with overflow checked.";
const TESTS: &str = "Nine cases: 1h30m, 90m and 45s are read; the empty text, 1, h, 1x, -1h and 99999999999999h are \
    refused. All pass against the draft.";
const GUIDE: &str = "Write a number and a unit, as often as you like: 1h30m is ninety minutes. Units are h, m and s; \
    each may occur once, the largest first.";
const ANSWER: &str = "Done. `parse(\"1h30m\")` gives ninety minutes; units are h, m and s, the largest first, and anything \
    else gives `None` instead of a guess. Nine tests cover the good forms and the bad ones, overflow among them; the review \
    found one gap (a unit twice) and it is closed. The guide is three sentences long and stands above the function.";

/// The agents, as `POST /my/agents/` takes them.
pub(super) fn agents() -> [Value; 5] {
    [
        agent(
            "researcher",
            "finds out what is known",
            900,
            40,
            "Go, systemd and ISO 8601 each have a form. Go's is the one that people type: 1h30m. \
            It has no days, because a day is not always 24 hours.",
        ),
        agent("coder", "writes programs", 1100, 45, CODE),
        agent("tester", "writes tests", 700, 40, TESTS),
        agent("writer", "writes guides", 900, 25, GUIDE),
        agent(
            "reviewer",
            "looks for mistakes",
            800,
            45,
            "One gap: 1h1h is read as two hours, while the guide says that a unit may occur once. Closed by refusing it. \
            Everything else holds.",
        ),
    ]
}

/// The planner, as `PUT /my/orchestrator/` takes it: its first turn is the plan, its last the answer.
pub(super) fn orchestrator() -> Value {
    let plan = json!({ "goal": MESSAGE, "steps": [
        step("research", "researcher", "Which forms of durations do people type, and which should we read?", &[]),
        step("code", "coder", "Write the function for the form that research recommends.", &["research"]),
        step("tests", "tester", "Write tests for the form that research recommends, the bad inputs too.", &["research"]),
        step("guide", "writer", "Explain the form in three sentences.", &["research"]),
        step("review", "reviewer", "Check that code, tests and guide say the same.", &["code", "tests", "guide"]),
    ] });
    json!({ "script": { "turns": [
        { "match": "\"agents\"", "json": plan, "delay_ms": 700 },
        { "deltas": pieces(ANSWER), "delay_ms": 300, "delta_delay_ms": 20 },
    ] } })
}

fn agent(name: &str, about: &str, delay_ms: u64, delta_delay_ms: u64, says: &str) -> Value {
    let script =
        json!({ "deltas": pieces(says), "delay_ms": delay_ms, "delta_delay_ms": delta_delay_ms });
    json!({ "name": name, "config": { "about": about, "model": "scripted/demo", "script": script } })
}

fn step(key: &str, agent: &str, prompt: &str, needs: &[&str]) -> Value {
    json!({ "key": key, "agent": agent, "prompt": prompt, "needs": needs })
}

/// As a model streams: word by word.
fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}
