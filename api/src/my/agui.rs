//! AG-UI: a run of a front end that speaks that protocol. It begins a plan, attaches to one that it began before, or brings
//! the answers that one waits for.

use axum::{body::Body, extract::State, response::Response};
use engine::{
    StoreError,
    id::{PlanId, SessionId, WaitId},
    store::{self, Accepted, NewMessage, Thread},
    wait::WaitKind,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    App,
    agui::{
        ask,
        input::{Given, Ids, RunInput, Status},
        stream::{Teller, frames},
        translate::{Run, Translator},
    },
    auth::Caller,
    extract::{Json, decode_at},
    hub::Listener,
    line::Format,
    my::{
        approvals, events,
        messages::{agent_named, taken_in},
        tool_calls,
    },
    problem::{Problem, ProblemBody},
    sse::Filter,
};

/// Runs an agent, or the team, for an AG-UI 1.0 client.
///
/// The events of the run come as `text/event-stream`. A client that hangs up does not stop it; the same `threadId` and `runId`
/// again follow it from its beginning, and never begin it a second time. What waits for you ends the run with an interrupt;
/// `resume` in the next run of the conversation answers it, and the plan goes on.
#[utoipa::path(post, path = "/agui/", operation_id = "run_agui", tag = "agui", request_body = RunInput,
    responses(
    (status = 200, description = "AG-UI events, until the run ends", content((String = "text/event-stream"))),
    (status = 404, description = "The agent is not there, or not yours", body = ProblemBody, content_type = "application/problem+json"),
    (status = 429, description = "Ten messages of this conversation wait already, or too many streams are open", body = ProblemBody,
        content_type = "application/problem+json"),
    (status = 503, description = "The agent has too much to do, or the service is not available", body = ProblemBody,
        content_type = "application/problem+json")))]
pub(crate) async fn run(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<RunInput>,
) -> Result<Response, Problem> {
    input.check()?;
    // Joined before anything begins, so that nobody is turned away whose message was taken in.
    let listener = events::join(&app, caller)?;
    let ids = input.ids(caller.scope.user());
    let thread = look(&app, caller, ids).await?;
    let given = input.answers();
    let request = Request {
        app: &app,
        caller,
        session: thread.session,
    };
    if !given.is_empty() {
        return request.resume(listener, input, &given).await;
    }
    let (plan, cursor) = match thread.plan {
        Some(plan) => (plan, request.cursor(plan).await?),
        None if !thread.open.is_empty() => {
            let detail = format!(
                "the conversation waits for answers to {:?}: send them as resume",
                texts(&thread.open)
            );
            return Ok(refusal(input.run(&[]), "interrupts_open", &detail));
        }
        None => request.begin(&input, ids, &thread).await?,
    };
    let teller = request.teller(plan, input.run(&[]));
    request.tell(listener, teller, cursor).await
}

/// The feed of a conversation in the words of AG-UI: the run that goes on there, else the last one, from its beginning to its end.
/// The plan's id is the run's name.
pub(crate) async fn of_session(
    app: &App,
    caller: Caller,
    session: SessionId,
) -> Result<Response, Problem> {
    let listener = events::join(app, caller)?;
    let plan = app.store.newest_plan(caller.scope, session).await?;
    let plan = plan.ok_or_else(Problem::not_found)?;
    let request = Request {
        app,
        caller,
        session,
    };
    let run = Run {
        thread: session.to_string(),
        name: plan.to_string(),
        ..Run::default()
    };
    let cursor = request.cursor(plan).await?;
    request
        .tell(listener, request.teller(plan, run), cursor)
        .await
}

async fn look(app: &App, caller: Caller, ids: Ids) -> Result<Thread, StoreError> {
    let Ids {
        named,
        derived,
        message,
    } = ids;
    app.store
        .thread(caller.scope, named, derived, message)
        .await
}

/// Who asks, and in which conversation.
struct Request<'a> {
    app: &'a App,
    caller: Caller,
    session: SessionId,
}

impl Request<'_> {
    /// Takes the message in: its plan, and where that begins. Whoever asks for the same run at the same time finds its plan.
    async fn begin(
        &self,
        input: &RunInput,
        ids: Ids,
        thread: &Thread,
    ) -> Result<(PlanId, i64), Problem> {
        let (store, scope) = (&self.app.store, self.caller.scope);
        let said = input.message()?;
        let target = match &said.target_agent {
            Some(agent) => {
                Some(agent_named(self.app, self.caller, agent, "forwardedProps.agent").await?)
            }
            None => None,
        };
        if !thread.there {
            store.create_session_as(scope, self.session).await?;
        }
        let message = NewMessage {
            session: self.session,
            content: said.content,
            target,
        };
        let accepted = store.accept_message_as(scope, ids.message, &message).await;
        if let Ok(Accepted::Plan { plan, cursor, .. }) = accepted {
            return Ok((plan, cursor));
        }
        // It may have been taken in meanwhile, by another request for this run.
        match look(self.app, self.caller, ids).await?.plan {
            Some(plan) => Ok((plan, self.cursor(plan).await?)),
            None => taken_in(accepted?).map(|(plan, _, cursor)| (plan, cursor)),
        }
    }

    /// Brings the answers in, and follows what comes of them.
    async fn resume(
        &self,
        listener: Listener,
        input: RunInput,
        given: &[Given],
    ) -> Result<Response, Problem> {
        let asked = match self.asked(given).await {
            Ok(asked) => asked,
            Err(problem) => return refused(input.run(given), problem),
        };
        let Some(plan) = asked.first().map(|asked| asked.plan_id) else {
            return Err(Problem::not_found());
        };
        let cursor = self.cursor(plan).await?;
        let run = input.run(given);
        let mut teller = self.teller(plan, run.clone());
        let position = teller.catch_up(cursor).await?;
        let forgotten = teller
            .unanswered()
            .into_iter()
            .filter(|wait| !run.answers.contains(*wait));
        let forgotten: Vec<String> = forgotten.map(str::to_owned).collect();
        if !forgotten.is_empty() && asked.iter().all(|asked| asked.decision.is_none()) {
            let detail =
                format!("all open interrupts have to be answered at once; {forgotten:?} are not");
            return Ok(refusal(run, "interrupts_uncovered", &detail));
        }
        if let Err(problem) = self.settle(given, &asked).await {
            return refused(run, problem);
        }
        self.tell(listener, teller, position).await
    }

    /// What the answers are for: all of this conversation, and of one plan.
    async fn asked(&self, given: &[Given]) -> Result<Vec<store::Approval>, Problem> {
        let (store, scope) = (&self.app.store, self.caller.scope);
        let mut asked: Vec<store::Approval> = Vec::new();
        for given in given {
            let unknown = || {
                Problem::field(
                    &given.at,
                    "unknown_interrupt",
                    "this conversation has no such interrupt",
                )
            };
            let id: WaitId = given.answer.interrupt_id.parse().map_err(|_| unknown())?;
            let found = match store.tool_call(scope, id).await? {
                None if !given.as_message => store.approval(scope, id).await?,
                found => found,
            };
            let first = asked.first().map(|first| first.plan_id);
            let found = found.filter(|found| {
                found.session_id == Some(self.session)
                    && first.is_none_or(|plan| plan == found.plan_id)
            });
            asked.push(found.ok_or_else(unknown)?);
        }
        Ok(asked)
    }

    /// Decides all of them, or none where an answer does not fit.
    async fn settle(&self, given: &[Given], asked: &[store::Approval]) -> Result<(), Problem> {
        let (app, caller) = (self.app, self.caller);
        let mut bodies = Vec::new();
        for (given, asked) in given.iter().zip(asked) {
            let body = body(given, asked)?;
            if let Some(Brought::Answer(answer)) = &body {
                approvals::decision(app, caller, asked, answer).await?;
            }
            bodies.push(body);
        }
        for (body, asked) in bodies.into_iter().zip(asked) {
            match body {
                None => {}
                Some(Brought::Answer(answer)) => {
                    approvals::settle(app, caller, asked.id, None, &answer).await?;
                }
                Some(Brought::Result(result)) => {
                    tool_calls::hand_in(app, caller, asked.id, result).await?;
                }
            }
        }
        Ok(())
    }

    /// Where the plan's events begin.
    async fn cursor(&self, plan: PlanId) -> Result<i64, Problem> {
        let cursor = self
            .app
            .store
            .plan_cursor(self.caller.scope, self.session, plan)
            .await?;
        cursor.ok_or_else(Problem::not_found)
    }

    fn teller(&self, plan: PlanId, run: Run) -> Teller {
        let translator = Translator::new(run, plan.to_string());
        Teller::new(
            self.app.store.clone(),
            self.caller.scope,
            self.session,
            plan,
            translator,
        )
    }

    async fn tell(
        &self,
        listener: Listener,
        teller: Teller,
        after: i64,
    ) -> Result<Response, Problem> {
        let filter = Filter {
            session: Some(self.session),
            ..Filter::default()
        };
        let after = Some(events::Cursor::known(after));
        let lines = events::follow(
            self.app,
            self.caller,
            listener,
            after,
            filter,
            Format::NdJson,
        )
        .await?;
        Ok(events::response(
            Format::Sse,
            Body::from_stream(teller.frames(lines.boxed())),
        ))
    }
}

/// An answer in the words of the route that takes it.
enum Brought {
    Answer(Box<approvals::Answer>),
    Result(tool_calls::CallResult),
}

/// None: it is given up, and has ended already.
fn body(given: &Given, asked: &store::Approval) -> Result<Option<Brought>, Problem> {
    let resolved = given.answer.status == Status::Resolved;
    if !resolved && asked.status() != "pending" {
        return Ok(None);
    }
    let at = format!(
        "{}/{}",
        given.at,
        if given.as_message {
            "content"
        } else {
            "payload"
        }
    );
    let payload = given.answer.payload.clone().filter(|_| resolved);
    if asked.kind == WaitKind::ClientTool {
        let body = match payload {
            Some(result) => json!({ "result": result }),
            None if resolved => json!({ "result": Value::Null }),
            None => json!({ "error": "given up" }),
        };
        return decode_at(body, &at).map(Brought::Result).map(Some);
    }
    let payload = if resolved {
        Some(payload.unwrap_or_default())
    } else {
        None
    };
    let answer = decode_at(ask::answer(&asked.payload, payload.as_ref(), &at)?, &at)?;
    Ok(Some(Brought::Answer(Box::new(answer))))
}

/// What is wrong with answers is told in the stream, as the protocol wants it; what is wrong here is not.
fn refused(run: Run, problem: Problem) -> Result<Response, Problem> {
    if problem.status() >= 500 {
        return Err(problem);
    }
    Ok(refusal(run, problem.word(), problem.detail()))
}

/// A run that ends before it has begun.
fn refusal(run: Run, code: &str, message: &str) -> Response {
    let told = Translator::new(run, String::new()).break_off(code, message);
    let frames = frames(&told, None)
        .into_iter()
        .map(Ok::<_, std::convert::Infallible>);
    events::response(Format::Sse, Body::from_stream(stream::iter(frames)))
}

fn texts(waits: &[WaitId]) -> Vec<String> {
    waits.iter().map(WaitId::to_string).collect()
}
