//! A plan before it is one: what a planner proposes and a person is asked about.
//!
//! It is checked as a whole, bound to a digest, and becomes steps only by being approved (or by not having to be).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    id::{AgentId, StepId},
    plan::{
        NewNeed, NewStep,
        graph::{GraphError, Limits, Node, When, check},
    },
    step::{StepKind, StepSpec},
    tool::digest,
};

/// The steps that a planner proposes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDraft {
    /// In any order.
    #[serde(default)]
    pub steps: Vec<DraftStep>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftStep {
    /// Its name within the plan.
    pub key: String,
    /// Name of the agent that does it.
    pub agent: String,
    /// What the agent is asked; absent: the plan's goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Keys of the steps whose results it builds on.
    #[serde(default)]
    pub needs: Vec<String>,
}

/// Why a draft cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftError {
    /// The graph is wrong.
    Graph(Vec<GraphError>),
    /// A step names an agent that is not there.
    Agent {
        /// Which step, from 0.
        index: usize,
        /// The name.
        name: String,
    },
}

impl PlanDraft {
    /// The steps as JSON.
    pub fn steps_json(&self) -> Value {
        json!(self.steps)
    }

    /// What an approval of it is bound to.
    pub fn digest(&self) -> String {
        digest::of(&self.steps_json())
    }

    /// What it will take, as far as it can be known: money is not among it, because prices are not known yet.
    pub fn estimate(&self) -> Value {
        let mut agents: Vec<&str> = self.steps.iter().map(|step| step.agent.as_str()).collect();
        agents.sort_unstable();
        agents.dedup();
        json!({ "steps": self.steps.len(), "agents": agents, "model_turns_at_least": self.steps.len() + 1 })
    }

    /// The steps to insert; at most `most` of them, by agents that `agent_id` knows.
    pub fn to_steps(
        &self,
        most: usize,
        agent_id: impl Fn(&str) -> Option<AgentId>,
    ) -> Result<Vec<NewStep>, DraftError> {
        let limits = Limits {
            steps: most,
            ..Limits::PLANNED
        };
        let nodes: Vec<Node<'_>> = self.steps.iter().map(node).collect();
        check(&nodes, &limits).map_err(DraftError::Graph)?;
        let ids: HashMap<&str, StepId> = self
            .steps
            .iter()
            .map(|step| (step.key.as_str(), StepId::new()))
            .collect();
        self.steps
            .iter()
            .enumerate()
            .map(|(index, step)| {
                let agent = agent_id(&step.agent).ok_or_else(|| DraftError::Agent {
                    index,
                    name: step.agent.clone(),
                })?;
                Ok(new_step(step, agent, &ids))
            })
            .collect()
    }
}

fn node(step: &DraftStep) -> Node<'_> {
    Node {
        key: &step.key,
        needs: step
            .needs
            .iter()
            .map(|need| (need.as_str(), When::Success))
            .collect(),
    }
}

/// The graph has been checked: every need is there.
fn new_step(step: &DraftStep, agent: AgentId, ids: &HashMap<&str, StepId>) -> NewStep {
    let id = ids.get(step.key.as_str()).copied();
    let needs = step.needs.iter().filter_map(|key| {
        ids.get(key.as_str()).map(|id| NewNeed {
            id: *id,
            when: When::Success,
        })
    });
    NewStep {
        id: id.unwrap_or_else(StepId::new),
        agent_id: Some(agent),
        spec: StepSpec {
            prompt: step.prompt.clone(),
            ..StepSpec::default()
        },
        needs: needs.collect(),
        ..NewStep::new(&step.key, StepKind::Agent)
    }
}
