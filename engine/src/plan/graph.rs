//! The graph of a plan: is it one that can be carried out, and in which order?
//!
//! A plan comes from a person or from a model, so that anything may be in it. `check` finds all that
//! is wrong at once, because each round trip to repair a plan costs a model turn or a person's
//! patience. It looks at keys and needs only; agents, tools and prompts are checked elsewhere.
//!
//! Nothing here recurses, and all is O(steps + needs): a chain of 10,000 steps is refused by its
//! limit and not by the stack.

use std::collections::{HashMap, VecDeque};

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use petgraph::{Direction, Graph};
use serde::{Deserialize, Serialize};

/// At most so many errors are reported at once; who made more will send the plan again anyway.
pub const MAX_ERRORS: usize = 20;

/// The longest key, in characters (all of them ASCII).
pub const MAX_KEY_LEN: usize = 64;

/// How many members of a knot are asked for the shortest cycle through them. Asking all would be
/// quadratic; a person needs one short cycle, not the shortest.
const CYCLE_STARTS: usize = 8;

/// When an edge counts as met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The needed step succeeded.
    #[default]
    Success,
    /// The needed step ended, however it ended.
    Done,
    /// The needed step failed.
    Failure,
}

/// One step as the graph sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// Its name within the plan: 1 to 64 of `a-z`, `0-9`, `_`, `-`, first a letter or a digit.
    pub key: &'a str,
    /// The keys it waits for, and what it asks of each.
    pub needs: Vec<(&'a str, When)>,
}

/// How large a plan may be. All numbers are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Steps of the plan.
    pub steps: usize,
    /// Steps on the longest chain of needs.
    pub depth: usize,
    /// Needs of one step.
    pub needs_per_step: usize,
    /// Steps that need the same step.
    pub dependents_per_step: usize,
    /// Needs of all steps together.
    pub needs: usize,
}

impl Limits {
    /// For a plan that a person or a program wrote out. Finishing a step locks all its dependents in
    /// one statement, and a joining step reads the results of all its needs: 500 keeps both within
    /// a few milliseconds and below any context window, and a wider map can be gathered in two
    /// levels. 10,000 needs bound the statement that stores the plan.
    pub const EXPLICIT: Self = Self {
        steps: 2000,
        depth: 500,
        needs_per_step: 500,
        dependents_per_step: 500,
        needs: 10_000,
    };

    /// For a plan that a model made: more than a person can review is not a plan. A summary of all
    /// steps is a usual thing, so that one step may need all others.
    pub const PLANNED: Self = Self {
        steps: 50,
        depth: 32,
        needs_per_step: 50,
        dependents_per_step: 50,
        needs: 500,
    };
}

/// What is wrong with the graph of a plan. `index` counts the plan's steps and `position` the needs
/// of that step, both from 0; keys that are not valid are shortened and escaped for showing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it; the fields are the words of the messages"
)]
pub enum GraphError {
    #[error("the plan has no steps; give it at least one")]
    Empty,
    #[error("the plan has {count} steps and {limit} are allowed; split it into several plans")]
    TooManySteps { count: usize, limit: usize },
    #[error(
        "the plan has {count} needs in all and {limit} are allowed; leave out those that other needs imply"
    )]
    TooManyNeedsInAll { count: usize, limit: usize },
    #[error(
        "step `{key}` ends a chain of {depth} steps and {limit} are allowed; let steps that do not use each other's results run side by side"
    )]
    TooDeep {
        index: usize,
        key: String,
        depth: usize,
        limit: usize,
    },
    #[error("step `{key}` has {count} needs and {limit} are allowed; gather them in steps between")]
    TooManyNeeds {
        index: usize,
        key: String,
        count: usize,
        limit: usize,
    },
    #[error(
        "{count} steps need step `{key}` and {limit} are allowed; put steps between, or map over a list in one step"
    )]
    TooManyDependents {
        index: usize,
        key: String,
        count: usize,
        limit: usize,
    },
    #[error(
        "`{key}` is not a key; use 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or a digit"
    )]
    BadKey { index: usize, key: String },
    #[error(
        "the key `{key}` is already that of step {first} (counted from 0); give each step a key of its own"
    )]
    DuplicateKey {
        index: usize,
        key: String,
        first: usize,
    },
    #[error(
        "step `{key}` needs `{need}`, which is no step of this plan; name a step's key or remove the need"
    )]
    UnknownNeed {
        index: usize,
        position: usize,
        key: String,
        need: String,
    },
    #[error("step `{key}` needs itself; remove that need")]
    SelfNeed {
        index: usize,
        position: usize,
        key: String,
    },
    #[error("step `{key}` needs `{need}` more than once; name it once")]
    DuplicateNeed {
        index: usize,
        position: usize,
        key: String,
        need: String,
    },
    /// Each of `keys` needs the next; the last is the first again. `index` and `position` are the
    /// need that leads from the first to the second.
    #[error(
        "steps wait for each other in a circle: {} (each needs the next); remove one of these needs",
        arrows(keys)
    )]
    Cycle {
        index: usize,
        position: usize,
        keys: Vec<String>,
    },
}

impl GraphError {
    /// The JSON pointer (RFC 6901) of the field at fault, within the body that carries `steps`.
    pub fn pointer(&self) -> String {
        match self {
            Self::Empty | Self::TooManySteps { .. } | Self::TooManyNeedsInAll { .. } => {
                "/steps".to_owned()
            }
            Self::TooManyDependents { index, .. } => format!("/steps/{index}"),
            Self::BadKey { index, .. } | Self::DuplicateKey { index, .. } => {
                format!("/steps/{index}/key")
            }
            Self::TooDeep { index, .. } | Self::TooManyNeeds { index, .. } => {
                format!("/steps/{index}/needs")
            }
            Self::UnknownNeed {
                index, position, ..
            }
            | Self::SelfNeed {
                index, position, ..
            }
            | Self::DuplicateNeed {
                index, position, ..
            }
            | Self::Cycle {
                index, position, ..
            } => format!("/steps/{index}/needs/{position}"),
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "plan_empty",
            Self::TooManySteps { .. } => "too_many_steps",
            Self::TooManyNeedsInAll { .. } => "too_many_needs_in_all",
            Self::TooDeep { .. } => "plan_too_deep",
            Self::TooManyNeeds { .. } => "too_many_needs",
            Self::TooManyDependents { .. } => "too_many_dependents",
            Self::BadKey { .. } => "bad_key",
            Self::DuplicateKey { .. } => "duplicate_key",
            Self::UnknownNeed { .. } => "unknown_need",
            Self::SelfNeed { .. } => "self_need",
            Self::DuplicateNeed { .. } => "duplicate_need",
            Self::Cycle { .. } => "cycle",
        }
    }
}

/// In which order the steps of a checked plan can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Indices of all steps, each after all that it needs: by level, then as they came.
    pub sequence: Vec<usize>,
    /// For each step (as they came) the length of the longest chain of needs before it: 0 for a
    /// step that can start at once.
    pub level: Vec<usize>,
}

/// Checks the graph of a plan. Errors come in the order of the fields they point at, those of the
/// whole graph (cycles, depth) last, at most [`MAX_ERRORS`].
pub fn check(nodes: &[Node<'_>], limits: &Limits) -> Result<Order, Vec<GraphError>> {
    let mut errors = sizes(nodes, limits);
    if !errors.is_empty() {
        return Err(errors);
    }
    let known = check_keys(nodes, &mut errors);
    let graph = link(nodes, &known, limits, &mut errors);
    check_fan_out(nodes, &graph, limits, &mut errors);
    match toposort(&graph, None) {
        Ok(sorted) => {
            let order = by_level(&graph, &sorted);
            check_depth(nodes, &order, limits, &mut errors);
            if errors.is_empty() {
                return Ok(order);
            }
        }
        Err(_) => errors.extend(cycles(nodes, &graph)),
    }
    errors.truncate(MAX_ERRORS);
    Err(errors)
}

/// What can be refused by counting: what is far too large is not looked at.
fn sizes(nodes: &[Node<'_>], limits: &Limits) -> Vec<GraphError> {
    if nodes.is_empty() {
        return vec![GraphError::Empty];
    }
    let mut errors = Vec::new();
    if nodes.len() > limits.steps {
        errors.push(GraphError::TooManySteps {
            count: nodes.len(),
            limit: limits.steps,
        });
    }
    let count = nodes.iter().map(|node| node.needs.len()).sum();
    if count > limits.needs {
        errors.push(GraphError::TooManyNeedsInAll {
            count,
            limit: limits.needs,
        });
    }
    errors
}

/// Where each key stands; of a duplicate the first counts, so that needs of it are not errors too.
fn check_keys<'a>(nodes: &[Node<'a>], errors: &mut Vec<GraphError>) -> HashMap<&'a str, usize> {
    let mut known = HashMap::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        if !is_key(node.key) {
            errors.push(GraphError::BadKey {
                index,
                key: shown(node.key),
            });
        }
        let first = *known.entry(node.key).or_insert(index);
        if first != index {
            errors.push(GraphError::DuplicateKey {
                index,
                key: shown(node.key),
                first,
            });
        }
    }
    known
}

/// Whether `key` may name a step.
pub fn is_key(key: &str) -> bool {
    let bytes = key.as_bytes();
    bytes.len() <= MAX_KEY_LEN
        && bytes
            .first()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && bytes
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// The graph of the needs that make sense, from the needed step to the one that needs it. The
/// weight of an edge is the need's position.
fn link(
    nodes: &[Node<'_>],
    known: &HashMap<&str, usize>,
    limits: &Limits,
    errors: &mut Vec<GraphError>,
) -> DiGraph<(), usize> {
    let edges = nodes.iter().map(|node| node.needs.len()).sum();
    let mut graph = Graph::with_capacity(nodes.len(), edges);
    for _ in nodes {
        graph.add_node(());
    }
    // Which step named a need last: finds duplicates without a set per step.
    let mut named_by = vec![usize::MAX; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let (count, limit) = (node.needs.len(), limits.needs_per_step);
        if count > limit {
            errors.push(GraphError::TooManyNeeds {
                index,
                key: shown(node.key),
                count,
                limit,
            });
        }
        for (position, (need, _)) in node.needs.iter().enumerate() {
            let found = known.get(need).copied();
            if let Some(fault) = need_fault(nodes, (index, position), found, &named_by) {
                errors.push(fault);
            } else if let Some(other) = found {
                named_by[other] = index;
                graph.add_edge(NodeIndex::new(other), NodeIndex::new(index), position);
            }
        }
    }
    graph
}

/// What is wrong with the need at a place (step, position), which was found as a step or not.
fn need_fault(
    nodes: &[Node<'_>],
    place: (usize, usize),
    found: Option<usize>,
    named_by: &[usize],
) -> Option<GraphError> {
    let (index, position) = place;
    let (key, need) = (nodes[index].key, nodes[index].needs[position].0);
    let texts = || (shown(key), shown(need));
    if key == need {
        return Some(GraphError::SelfNeed {
            index,
            position,
            key: shown(key),
        });
    }
    match found {
        None => {
            let (key, need) = texts();
            Some(GraphError::UnknownNeed {
                index,
                position,
                key,
                need,
            })
        }
        Some(other) if named_by[other] == index => {
            let (key, need) = texts();
            Some(GraphError::DuplicateNeed {
                index,
                position,
                key,
                need,
            })
        }
        Some(_) => None,
    }
}

/// A step that too many others need makes one enormous finish.
fn check_fan_out(
    nodes: &[Node<'_>],
    graph: &DiGraph<(), usize>,
    limits: &Limits,
    errors: &mut Vec<GraphError>,
) {
    let limit = limits.dependents_per_step;
    for (index, node) in nodes.iter().enumerate() {
        let count = graph.neighbors(NodeIndex::new(index)).count();
        if count > limit {
            errors.push(GraphError::TooManyDependents {
                index,
                key: shown(node.key),
                count,
                limit,
            });
        }
    }
}

/// Names the first step that stands too deep; those behind it would only repeat the news.
fn check_depth(nodes: &[Node<'_>], order: &Order, limits: &Limits, errors: &mut Vec<GraphError>) {
    let depth = order.level.iter().max().map_or(0, |level| level + 1);
    if let Some(index) = order.level.iter().position(|&level| level >= limits.depth) {
        errors.push(GraphError::TooDeep {
            index,
            key: shown(nodes[index].key),
            depth,
            limit: limits.depth,
        });
    }
}

/// petgraph's own order depends on the order of the edges; level and index do not.
fn by_level(graph: &DiGraph<(), usize>, sorted: &[NodeIndex]) -> Order {
    let mut level = vec![0; sorted.len()];
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for &node in sorted {
        let before = graph.neighbors_directed(node, Direction::Incoming);
        level[node.index()] = before
            .map(|need| level[need.index()] + 1)
            .max()
            .unwrap_or(0);
    }
    for (index, &level) in level.iter().enumerate() {
        if rows.len() <= level {
            rows.resize_with(level + 1, Vec::new);
        }
        rows[level].push(index);
    }
    Order {
        sequence: rows.concat(),
        level,
    }
}

/// One short cycle of each knot of steps that wait for each other.
fn cycles(nodes: &[Node<'_>], graph: &DiGraph<(), usize>) -> Vec<GraphError> {
    let mut knots = kosaraju_scc(graph);
    knots.retain(|knot| knot.len() > 1);
    for knot in &mut knots {
        knot.sort_unstable();
    }
    knots.sort_unstable();
    knots.truncate(MAX_ERRORS);
    knots
        .iter()
        .filter_map(|knot| shortest_cycle(nodes, graph, knot))
        .collect()
}

/// The shortest cycle through one of the first members of `knot`, beginning at its first step.
fn shortest_cycle(
    nodes: &[Node<'_>],
    graph: &DiGraph<(), usize>,
    knot: &[NodeIndex],
) -> Option<GraphError> {
    let tries = knot.iter().take(CYCLE_STARTS);
    let mut cycle = tries
        .filter_map(|&start| cycle_through(graph, start))
        .min_by_key(Vec::len)?;
    let first = cycle.iter().enumerate().min_by_key(|(_, node)| **node)?.0;
    cycle.rotate_left(first);
    cycle.push(cycle[0]);
    let position = *graph.edge_weight(graph.find_edge(cycle[1], cycle[0])?)?;
    let keys = cycle
        .iter()
        .map(|node| shown(nodes[node.index()].key))
        .collect();
    Some(GraphError::Cycle {
        index: cycle[0].index(),
        position,
        keys,
    })
}

/// Breadth first along the needs from `start` until it is met again: the steps on the way, each
/// needing the next and the last needing `start`.
fn cycle_through(graph: &DiGraph<(), usize>, start: NodeIndex) -> Option<Vec<NodeIndex>> {
    let mut reached_from = HashMap::from([(start, start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for edge in graph.edges_directed(node, Direction::Incoming) {
            if edge.source() == start {
                return Some(way_back(&reached_from, start, node));
            }
            reached_from.entry(edge.source()).or_insert_with(|| {
                queue.push_back(edge.source());
                node
            });
        }
    }
    None
}

/// The way from `start` to `end`, both included.
fn way_back(
    reached_from: &HashMap<NodeIndex, NodeIndex>,
    start: NodeIndex,
    end: NodeIndex,
) -> Vec<NodeIndex> {
    let mut way = vec![end];
    let mut at = end;
    while at != start {
        at = reached_from[&at];
        way.push(at);
    }
    way.reverse();
    way
}

/// A key fit for a message: whole if it is one, else escaped and short, because it may be anything.
fn shown(key: &str) -> String {
    if is_key(key) {
        return key.to_owned();
    }
    let mut shown: String = key
        .chars()
        .take(MAX_KEY_LEN)
        .flat_map(char::escape_debug)
        .collect();
    if key.chars().nth(MAX_KEY_LEN).is_some() {
        shown.push('…');
    }
    shown
}

/// `a -> b -> a`, with the middle left out where nobody would read it.
fn arrows(keys: &[String]) -> String {
    const ENDS: usize = 6;
    match keys.len().checked_sub(2 * ENDS) {
        None | Some(0) => keys.join(" -> "),
        Some(hidden) => {
            let (head, tail) = (&keys[..ENDS], &keys[keys.len() - ENDS..]);
            format!(
                "{} -> ({hidden} more) -> {}",
                head.join(" -> "),
                tail.join(" -> ")
            )
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A plan of `key: needs` clauses.
    fn plan(text: &str) -> Vec<Node<'_>> {
        let mut nodes = Vec::new();
        for (key, list) in text.split(';').map(|step| step.split_once(':').unwrap()) {
            let needs = list.split_whitespace().map(|need| (need, When::Success));
            nodes.push(Node {
                key: key.trim(),
                needs: needs.collect(),
            });
        }
        nodes
    }

    fn messages(text: &str, limits: &Limits) -> Vec<String> {
        let errors = check(&plan(text), limits).unwrap_err();
        errors
            .iter()
            .map(|error| format!("{} {} {error}", error.pointer(), error.code()))
            .collect()
    }

    #[test]
    fn a_diamond_is_ordered_by_level_then_as_it_came() {
        let order = check(
            &plan("join: left right; left: top; right: top; top:"),
            &Limits::PLANNED,
        )
        .unwrap();
        assert_eq!(order.sequence, [3, 1, 2, 0]);
        assert_eq!(order.level, [2, 1, 1, 0]);
    }

    #[test]
    fn all_errors_come_at_once_and_say_where() {
        let text = "a: b; b: c; c: a a; Bad:; a:; d: d ghost; e\u{202e}:";
        assert_eq!(
            messages(text, &Limits::EXPLICIT),
            [
                "/steps/3/key bad_key `Bad` is not a key; use 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or a digit",
                "/steps/4/key duplicate_key the key `a` is already that of step 0 (counted from 0); give each step a key of its own",
                "/steps/6/key bad_key `e\\u{202e}` is not a key; use 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or a digit",
                "/steps/2/needs/1 duplicate_need step `c` needs `a` more than once; name it once",
                "/steps/5/needs/0 self_need step `d` needs itself; remove that need",
                "/steps/5/needs/1 unknown_need step `d` needs `ghost`, which is no step of this plan; name a step's key or remove the need",
                "/steps/0/needs/0 cycle steps wait for each other in a circle: a -> b -> c -> a (each needs the next); remove one of these needs",
            ]
        );
    }

    #[test]
    fn the_limits_hold_and_are_inclusive() {
        let limits = Limits {
            steps: 4,
            depth: 3,
            needs_per_step: 2,
            dependents_per_step: 2,
            needs: 5,
        };
        assert!(check(&plan("a:; b: a; c: a b; d: b"), &limits).is_ok());
        let code = |text| {
            check(&plan(text), &limits)
                .unwrap_err()
                .iter()
                .map(GraphError::code)
                .collect::<Vec<_>>()
        };
        assert_eq!(code("a:; b: a; c: b; d: c"), ["plan_too_deep"]);
        assert_eq!(code("a:; b:; c:; d: a b c"), ["too_many_needs"]);
        assert_eq!(code("a:; b: a; c: a; d: a"), ["too_many_dependents"]);
        assert_eq!(code("a:; b:; c:; d:; e:"), ["too_many_steps"]);
        assert_eq!(code("a:; b: a a a a a a"), ["too_many_needs_in_all"]);
        assert_eq!(check(&[], &limits).unwrap_err(), [GraphError::Empty]);
    }

    #[test]
    fn a_chain_of_ten_thousand_and_a_ring_of_them_do_not_overflow() {
        let keys: Vec<String> = (0..10_000).map(|index| format!("s{index}")).collect();
        let need = |index: usize| (keys[index].as_str(), When::Done);
        let mut chain: Vec<_> = keys
            .iter()
            .map(|key| Node {
                key,
                needs: Vec::new(),
            })
            .collect();
        (1..keys.len()).for_each(|index| chain[index].needs.push(need(index - 1)));
        let limits = Limits {
            steps: 10_000,
            ..Limits::EXPLICIT
        };
        let error = check(&chain, &limits).unwrap_err().remove(0);
        assert_eq!(
            (error.code(), error.pointer()),
            ("plan_too_deep", "/steps/500/needs".to_owned())
        );

        chain[0].needs.push(need(9_999));
        let error = check(&chain, &limits).unwrap_err().remove(0).to_string();
        assert!(
            error.contains("s0 -> s9999 -> s9998 -> s9997 -> s9996 -> s9995 -> (9989 more) -> s5"),
            "{error}"
        );
    }

    #[test]
    fn a_short_cycle_is_found_beside_a_long_one() {
        let text = "a: e; b: a; c: b; d: c; e: d; f: e; e2: f; g: h; h: g";
        let all = messages(&text.replace("a: e", "a: e b"), &Limits::PLANNED).join("\n");
        assert!(
            all.contains(": a -> b -> a (") && all.contains(": g -> h -> g ("),
            "{all}"
        );
    }

    /// Edges from a lower to a higher number, given out in a shuffled order of steps.
    fn dag() -> impl Strategy<Value = (Vec<usize>, Vec<(usize, usize)>)> {
        (2_usize..40).prop_flat_map(|count| {
            let edge =
                (0..count, 0..count).prop_map(|(a, b)| (std::cmp::min(a, b), std::cmp::max(a, b)));
            let edges =
                proptest::collection::vec(edge.prop_filter("no loop", |(a, b)| a != b), 1..80);
            (Just((0..count).collect::<Vec<_>>()).prop_shuffle(), edges)
        })
    }

    fn nodes<'a>(places: &[usize], edges: &[(usize, usize)], keys: &'a [String]) -> Vec<Node<'a>> {
        let needs = |of: usize| {
            let needs: std::collections::BTreeSet<_> = edges
                .iter()
                .filter(|edge| edge.1 == of)
                .map(|edge| edge.0)
                .collect();
            needs
                .into_iter()
                .map(|need| (keys[need].as_str(), When::Success))
                .collect()
        };
        places
            .iter()
            .map(|&place| Node {
                key: &keys[place],
                needs: needs(place),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_dag_is_accepted_in_an_order_that_respects_its_needs((places, edges) in dag()) {
            let keys: Vec<String> = (0..places.len()).map(|index| format!("k{index}")).collect();
            let nodes = nodes(&places, &edges, &keys);
            let order = check(&nodes, &Limits { depth: 40, ..Limits::EXPLICIT }).unwrap();
            let at = |key: &str| order.sequence.iter().position(|&index| nodes[index].key == key).unwrap();
            for node in &nodes {
                prop_assert!(node.needs.iter().all(|(need, _)| at(need) < at(node.key)));
            }
            prop_assert_eq!(order.sequence.len(), nodes.len());
        }

        #[test]
        fn an_edge_back_is_refused_with_a_real_cycle((places, mut edges) in dag(), pick: prop::sample::Index) {
            let keys: Vec<String> = (0..places.len()).map(|index| format!("k{index}")).collect();
            let (from, to) = edges[pick.index(edges.len())];
            edges.push((to, from));
            let nodes = nodes(&places, &edges, &keys);
            let errors = check(&nodes, &Limits::EXPLICIT).unwrap_err();
            let Some(GraphError::Cycle { index, position, keys }) = errors.last() else { panic!("{errors:?}") };
            let needs = |key: &str| &nodes.iter().find(|node| node.key == key).unwrap().needs;
            for pair in keys.windows(2) {
                prop_assert!(needs(&pair[0]).iter().any(|(need, _)| *need == pair[1]));
            }
            prop_assert_eq!(keys.first(), keys.last());
            prop_assert_eq!(nodes[*index].needs[*position].0, keys[1].as_str());
        }

        #[test]
        fn junk_is_answered_and_never_panics(junk in proptest::collection::vec((".{0,3}|[ab]", proptest::collection::vec("[abc]|.{0,2}", 0..6)), 0..60)) {
            let nodes: Vec<_> = junk.iter().map(|(key, needs)| Node { key, needs: needs.iter().map(|need| (need.as_str(), When::Failure)).collect() }).collect();
            if let Err(errors) = check(&nodes, &Limits::PLANNED) {
                prop_assert!(!errors.is_empty() && errors.len() <= MAX_ERRORS);
                prop_assert!(errors.iter().all(|error| error.to_string().len() < 2_000));
            }
        }
    }
}
