//! `GET /my/plans/{id}/graph/` made into a picture for a person.

use std::collections::{HashMap, HashSet};

use engine::{
    plan::picture::{Picture, PictureNode},
    step::StateName,
};
use serde::Deserialize;

/// Lines that others imply are left out up to so many steps; larger plans are drawn as lists anyway.
const REDUCED: usize = 64;

/// The graph as the API gives it.
#[derive(Debug, Deserialize)]
pub(crate) struct Graph {
    goal: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
struct Node {
    key: String,
    kind: String,
    agent: Option<String>,
    parent: Option<String>,
    state: StateName,
}

#[derive(Debug, Deserialize)]
struct Edge {
    from: String,
    to: String,
}

impl Graph {
    /// As a person sees it: all work comes after the planning, or the step, that made it, and a line that others imply is left out.
    pub(crate) fn into_picture(self) -> Picture {
        let mut needs: HashMap<String, Vec<String>> = HashMap::new();
        for edge in self.edges {
            needs.entry(edge.to).or_default().push(edge.from);
        }
        let planning = self
            .nodes
            .iter()
            .find(|node| node.kind == "planning")
            .map(|node| node.key.clone());
        let nodes = self.nodes.into_iter().map(|node| {
            let mut needs = needs.remove(&node.key).unwrap_or_default();
            if needs.is_empty() && node.kind != "planning" {
                needs.extend(node.parent.or_else(|| planning.clone()));
            }
            PictureNode {
                label: node.agent.unwrap_or_default(),
                key: node.key,
                kind: node.kind,
                state: node.state,
                needs,
                note: None,
            }
        });
        let mut picture = Picture {
            title: self.goal.lines().next().unwrap_or_default().to_owned(),
            nodes: nodes.collect(),
        };
        if picture.nodes.len() <= REDUCED {
            reduce(&mut picture.nodes);
        }
        picture
    }
}

/// Leaves out needs that another need has itself: a summary of all steps comes after the last of them.
fn reduce(nodes: &mut [PictureNode]) {
    let direct: HashMap<String, Vec<String>> = nodes
        .iter()
        .map(|node| (node.key.clone(), node.needs.clone()))
        .collect();
    for node in nodes {
        let implied: HashSet<&String> = node
            .needs
            .iter()
            .flat_map(|need| behind(need, &direct))
            .collect();
        node.needs.retain(|need| !implied.contains(need));
    }
}

/// All that a step needs, and what that needs in turn.
fn behind<'a>(key: &str, direct: &'a HashMap<String, Vec<String>>) -> HashSet<&'a String> {
    let mut found = HashSet::new();
    let mut open: Vec<&String> = direct.get(key).into_iter().flatten().collect();
    while let Some(need) = open.pop() {
        if found.insert(need) {
            open.extend(direct.get(need).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn work_comes_after_its_planning_and_implied_lines_are_left_out() {
        let node = |key: &str, kind: &str| json!({ "id": "x", "key": key, "kind": kind, "agent": null, "state": "blocked", "attempt": 0 });
        let edge = |from: &str, to: &str| json!({ "from": from, "to": to, "when": "success" });
        let graph = json!({ "plan_id": "x", "goal": "Two\nlines",
            "nodes": [node("planning", "planning"), node("a", "agent"), node("b", "agent"), node("summary", "summary")],
            "edges": [edge("a", "b"), edge("a", "summary"), edge("b", "summary")] });
        let picture = serde_json::from_value::<Graph>(graph)
            .unwrap()
            .into_picture();
        let needs: Vec<_> = picture
            .nodes
            .iter()
            .map(|node| node.needs.join(" "))
            .collect();
        assert_eq!(needs, ["", "planning", "a", "b"]);
        assert_eq!(picture.title, "Two");
    }
}
