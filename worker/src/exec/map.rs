//! A map: one child for each item of a list that is known only when the step runs. It waits for them without a lease or a
//! place and then gathers what they found. Children have fixed keys, so a run that is repeated finds what is there already.

use std::collections::BTreeMap;

use engine::{
    plan::{NewNeed, NewStep, graph::When},
    step::{
        MapSpec, OnItemFailure, Outcome, StateName, StepError, StepKind, StepSpec,
        claimed::Claim,
        outcome::{ErrorClass, WaitKind},
    },
    store::{Child, NeedResult},
};
use serde_json::{Value, json};

use crate::{
    exec::{
        children::{prefix, wait},
        patiently, within,
    },
    run::{RunError, Runner},
};

/// Items of one map.
const ITEMS: usize = 1000;
/// Bytes of one item as text.
const ITEM_BYTES: usize = 16 * 1024;

pub(super) async fn run(
    runner: &Runner,
    claim: &Claim,
    spec: &StepSpec,
) -> Result<Outcome, RunError> {
    let Some(map) = &spec.map else {
        return Err(wrong("this map does not say what it goes over"));
    };
    let children = patiently(|| runner.store.children(claim)).await?;
    let known = newest(claim, children);
    let gathers = claim
        .woken
        .as_ref()
        .is_some_and(|woken| woken.kind == WaitKind::Child);
    if gathers {
        return Ok(gathered(map, &known));
    }
    let items = match (&map.items, &map.over) {
        (Some(items), _) => items.clone(),
        (None, Some(key)) => {
            let needs = patiently(|| runner.store.needs(claim)).await?;
            list(&needs, key)?
        }
        (None, None) => return Err(wrong("this map does not say what it goes over")),
    };
    if items.len() > ITEMS {
        return Err(wrong(&format!(
            "the list has {} items and {ITEMS} are allowed",
            items.len()
        )));
    }
    let missing: Vec<usize> = (0..items.len())
        .filter(|index| !known.get(index).is_some_and(Child::ended_well))
        .collect();
    if missing.is_empty() {
        return Ok(gathered(map, &known));
    }
    Ok(spawned(claim, spec, map, &items, &missing, &known))
}

/// The child of each item that came last: after a retry in place an item that failed has another one.
fn newest(claim: &Claim, children: Vec<Child>) -> BTreeMap<usize, Child> {
    let prefix = prefix(claim);
    children
        .into_iter()
        .filter_map(|child| {
            let rest = child.key.strip_prefix(&prefix)?;
            let index = rest.split('.').next()?.parse().ok()?;
            Some((index, child))
        })
        .collect()
}

fn list(needs: &[NeedResult], key: &str) -> Result<Vec<Value>, RunError> {
    let result = needs
        .iter()
        .find(|need| need.key == key)
        .and_then(|need| need.result.as_ref());
    let Some(result) = result else {
        return Err(wrong(&format!("step {key:?} returned nothing to go over")));
    };
    if let Some(items) = result.get("items").and_then(Value::as_array) {
        return Ok(items.clone());
    }
    let text = result
        .get("text")
        .and_then(Value::as_str)
        .unwrap_or_default();
    serde_json::from_str(within(text, '[', ']'))
        .map_err(|_| wrong(&format!("the result of step {key:?} is no JSON array")))
}

/// One child an item. `max_parallel` is kept by edges: a child waits for the end of the one that many places before it.
fn spawned(
    claim: &Claim,
    spec: &StepSpec,
    map: &MapSpec,
    items: &[Value],
    missing: &[usize],
    known: &BTreeMap<usize, Child>,
) -> Outcome {
    let lanes = usize::from(map.max_parallel.unwrap_or(u16::MAX));
    let prefix = prefix(claim);
    let mut children: Vec<NewStep> = Vec::with_capacity(missing.len());
    for (place, &index) in missing.iter().enumerate() {
        let key = match known.get(&index) {
            None => format!("{prefix}{index}"),
            Some(_) => format!("{prefix}{index}.{}", claim.attempt),
        };
        let before = place
            .checked_sub(lanes)
            .and_then(|earlier| children.get(earlier));
        let needs = before.map(|earlier| NewNeed {
            id: earlier.id,
            when: When::Done,
        });
        children.push(NewStep {
            agent_id: Some(map.agent),
            spec: StepSpec {
                prompt: Some(question(spec.prompt.as_deref(), &items[index])),
                ..StepSpec::default()
            },
            needs: needs.into_iter().collect(),
            ..NewStep::new(key, StepKind::Agent)
        });
    }
    Outcome::Spawn {
        wait: wait(&children),
        children,
        depth: claim.depth,
    }
}

fn question(prompt: Option<&str>, item: &Value) -> String {
    let mut item = match item {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    item.truncate(item.floor_char_boundary(ITEM_BYTES));
    match prompt {
        Some(prompt) => prompt.replace("{{item}}", &item),
        None => item,
    }
}

fn gathered(map: &MapSpec, known: &BTreeMap<usize, Child>) -> Outcome {
    let item = |child: &Child| {
        let text = child.text().filter(|_| child.ended_well());
        text.cloned().unwrap_or(Value::Null)
    };
    let items: Vec<Value> = known.values().map(item).collect();
    let failed: Vec<Value> = known
        .iter()
        .filter(|(_, child)| !child.ended_well())
        .map(|(index, child)| json!({ "index": index, "state": child.state, "error": child.error }))
        .collect();
    if map.on_item_failure == OnItemFailure::Fail && !failed.is_empty() {
        return Outcome::Fail {
            error: StepError::new(
                ErrorClass::Invalid,
                "items_failed",
                format!("{} of {} items failed", failed.len(), items.len()),
            ),
            reply: None,
        };
    }
    let text = text(known);
    Outcome::Succeed {
        result: json!({ "text": text, "items": items, "failed": failed }),
        reply: None,
    }
}

/// What the items came to, for a step that reads text.
fn text(known: &BTreeMap<usize, Child>) -> String {
    let line = |(index, child): (&usize, &Child)| match child.state {
        StateName::Succeeded => {
            let text = child.text().and_then(Value::as_str);
            format!("{}. {}", index + 1, text.unwrap_or_default())
        }
        other => format!("{}. ({})", index + 1, other.as_str()),
    };
    known.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn wrong(message: &str) -> RunError {
    RunError::Step(StepError::new(ErrorClass::Invalid, "map_invalid", message))
}
