//! An agent step: the session's history, what the needed steps found, one model turn.

use engine::{
    id::MessageId,
    llm::Prompt,
    step::{Outcome, Reply, StepError, StepSpec, claimed::Claim, outcome::ErrorClass},
};

use crate::{
    exec::{lines, patiently, streamed_turn, turn_result},
    run::{RunError, Runner},
};

pub(super) async fn run(
    runner: &Runner,
    claim: &Claim,
    spec: &StepSpec,
) -> Result<Outcome, RunError> {
    let context = patiently(|| runner.store.agent_context(claim)).await?;
    if claim.agent.is_some() && context.agent.is_none() {
        let error = StepError::new(
            ErrorClass::Invalid,
            "agent_deleted",
            "the agent of this step was deleted",
        );
        return Err(RunError::Step(error));
    }
    let config = context.config;
    let prompt = Prompt {
        system: (!config.system_prompt.is_empty()).then_some(config.system_prompt),
        lines: lines(
            &context.history,
            &context.needs,
            spec.prompt.as_deref().unwrap_or(&context.goal),
        ),
        temperature: config.temperature,
        max_tokens: config.max_tokens,
        script: config.script,
        ..Prompt::default()
    };
    let turn = streamed_turn(runner, claim, config.model.as_deref(), prompt).await?;
    let reply = spec.answers.then(|| Reply {
        id: MessageId::new(),
        content: turn.text.clone(),
    });
    Ok(Outcome::Succeed {
        result: turn_result(&turn),
        reply,
    })
}
