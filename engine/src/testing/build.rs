//! Plans by shape.

use crate::{
    id::{AgentId, SessionId, StepId},
    plan::{Class, NewNeed, NewStep, OnFailure, graph::When},
    step::{StepKind, StepSpec},
    store::NewPlan,
};

/// Shapes of graphs that tests and benchmarks run.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// One after another.
    Chain(usize),
    /// One, then so many at once, then one.
    Diamond(usize),
    /// All at once.
    Flat(usize),
}

/// A plan of agent steps, its agents taken in turn.
pub fn explicit(shape: Shape, agents: &[AgentId], session: Option<SessionId>) -> NewPlan {
    let needs: Vec<Vec<usize>> = match shape {
        Shape::Chain(length) => (0..length)
            .map(|n| n.checked_sub(1).into_iter().collect())
            .collect(),
        Shape::Flat(width) => vec![Vec::new(); width],
        Shape::Diamond(width) => {
            let mut needs = vec![Vec::new()];
            needs.extend((0..width).map(|_| vec![0]));
            needs.push((1..=width).collect());
            needs
        }
    };
    let ids: Vec<StepId> = needs.iter().map(|_| StepId::new()).collect();
    let steps = needs
        .into_iter()
        .enumerate()
        .map(|(n, needs)| NewStep {
            id: ids[n],
            agent_id: (!agents.is_empty()).then(|| agents[n % agents.len()]),
            spec: StepSpec {
                prompt: Some(format!("step {n}")),
                ..StepSpec::default()
            },
            needs: needs
                .into_iter()
                .map(|need| NewNeed {
                    id: ids[need],
                    when: When::Success,
                })
                .collect(),
            ..NewStep::new(format!("s{n}"), StepKind::Agent)
        })
        .collect();
    NewPlan {
        session,
        goal: format!("{shape:?}"),
        steps,
        on_failure: OnFailure::Continue,
        timeout: None,
        class: Class::Planned,
    }
}
