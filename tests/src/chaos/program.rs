//! Random plans, drawn by a seed: what a person asks for, and what may come of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::script::Script;

/// Agents of each person: name and limit.
pub const AGENTS: [(&str, usize); 3] = [("one", 1), ("two", 2), ("five", 5)];
/// Names of the people, and what each of them alone may ever read.
pub const PEOPLE: [(&str, &str); 4] = [
    ("ada", "canary-ada-51b7"),
    ("bob", "canary-bob-c203"),
    ("cyd", "canary-cyd-9ee4"),
    ("dee", "canary-dee-07fa"),
];

/// When a need is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It succeeded.
    Success,
    /// It ended.
    Done,
    /// It failed.
    Failure,
}

/// What happens after a step failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// A card asks the person.
    Decide,
    /// The others go on.
    Continue,
    /// The plan ends.
    Abort,
}

/// What the person does to the plan while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steering {
    /// Nothing.
    None,
    /// Cancels it after a while.
    Cancel(Duration),
    /// Pauses it after a while, and lets it go on after another.
    Pause(Duration, Duration),
    /// Cancels its step of this number after a while.
    CancelStep(usize, Duration),
    /// Retries what failed, once the plan has ended.
    Retry,
}

/// What carries out a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// An agent by its script.
    Agent,
    /// Some seconds pass.
    Timer(u32),
    /// An agent for each of so many items.
    Map(usize),
}

/// A step of a program.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its key.
    pub key: String,
    /// What carries it out.
    pub kind: Kind,
    /// Numbers of the steps needed.
    pub needs: Vec<(usize, When)>,
    /// One met need is enough.
    pub any: bool,
    /// Number of its agent.
    pub agent: usize,
    /// What its model does.
    pub script: Script,
}

/// A plan of a program.
#[derive(Debug, Clone)]
pub struct Program {
    /// Unique in a run, and part of the goal.
    pub label: String,
    /// Whose, by number.
    pub person: usize,
    /// When it is sent.
    pub at: Duration,
    /// Its steps.
    pub steps: Vec<Step>,
    /// After a failure.
    pub on_failure: OnFailure,
    /// While it runs.
    pub steering: Steering,
}

/// What a run draws from.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The seed.
    pub seed: u64,
    /// How many people.
    pub people: usize,
    /// Plans of each.
    pub plans: usize,
    /// Over how long they are sent.
    pub over: Duration,
    /// How many steps kill their worker, in all.
    pub poison: usize,
}

/// All programs of a run, in the order in which they are sent.
pub fn draw(recipe: &Recipe) -> Vec<Program> {
    let mut rng = fastrand::Rng::with_seed(recipe.seed);
    let mut programs: Vec<Program> = (0..recipe.people * recipe.plans)
        .map(|number| {
            let mut program = one(&mut rng, number % recipe.people, number);
            program.at = recipe.over.mul_f64(rng.f64());
            program
        })
        .collect();
    programs.sort_by_key(|program| program.at);
    // Whatever is drawn, some are cancelled.
    for program in programs.iter_mut().step_by(7) {
        program.steering = Steering::Cancel(Duration::from_millis(rng.u64(50..900)));
    }
    // Some steps outlast a lease, and need it renewed.
    for program in programs.iter_mut().skip(1).step_by(5) {
        let step = &mut program.steps[0];
        (step.agent, step.script.pieces, step.script.gap_ms) = (2, 30, 160);
        step.script.agent = format!("{}/{}", PEOPLE[program.person].0, AGENTS[2].0);
        for (_, args) in &mut step.script.calls {
            args["agent"] = step.script.agent.clone().into();
        }
    }
    // Sent while all is calm, so that none gets lost on its way.
    for (program, number) in programs.iter_mut().zip(1..).take(recipe.poison) {
        make_poison(program, number);
    }
    programs
}

fn one(rng: &mut fastrand::Rng, person: usize, number: usize) -> Program {
    let label = format!("p{number}");
    let needs = shape(rng);
    let count = needs.len();
    let steps = needs
        .into_iter()
        .enumerate()
        .map(|(index, needs)| step(rng, person, &label, index, needs))
        .collect();
    Program {
        label,
        person,
        at: Duration::ZERO,
        steps,
        on_failure: on_failure(rng),
        steering: steering(rng, count),
    }
}

/// The needs of each step by number: a chain, a fan, a diamond, or anything.
fn shape(rng: &mut fastrand::Rng) -> Vec<Vec<usize>> {
    let width = rng.usize(2..6);
    match rng.u8(0..5) {
        0 => (0..width)
            .map(|n: usize| n.checked_sub(1).into_iter().collect())
            .collect(),
        1 => std::iter::once(Vec::new())
            .chain((0..width).map(|_| vec![0]))
            .collect(),
        2 | 3 => std::iter::once(Vec::new())
            .chain((0..width).map(|_| vec![0]))
            .chain([(1..=width).collect()])
            .collect(),
        _ => (0..width + 2)
            .map(|n| (0..n).filter(|_| rng.u8(0..3) == 0).collect())
            .collect(),
    }
}

fn step(
    rng: &mut fastrand::Rng,
    person: usize,
    label: &str,
    index: usize,
    needs: Vec<usize>,
) -> Step {
    let agent = rng.usize(..AGENTS.len());
    let (name, canary) = PEOPLE[person];
    let (pieces, gap_ms) = pace(rng, AGENTS[agent].1);
    let key = format!("s{index}");
    let kind = kind(rng);
    let id = format!("{label}.{key}");
    let (id, text) = match kind {
        Kind::Map(_) => (format!("{id}.{{{{item}}}}"), "{{item}} of a map"),
        _ => (id, "done"),
    };
    let calls = calls(rng, &id, &format!("{name}/{}", AGENTS[agent].0));
    Step {
        key,
        kind,
        any: needs.len() > 1 && rng.u8(0..6) == 0,
        needs: needs.into_iter().map(|need| (need, when(rng))).collect(),
        agent,
        script: Script {
            text: format!("{text} {id} {canary}"),
            id,
            agent: format!("{name}/{}", AGENTS[agent].0),
            calls,
            pieces,
            gap_ms,
            refuse: rng.u8(0..16) == 0,
            poison: false,
        },
    }
}

/// Most steps are short; some last a second or two, so that a kill finds them; a few outlast a lease, where others need not wait
/// for them.
fn pace(rng: &mut fastrand::Rng, limit: usize) -> (u32, u64) {
    match rng.u8(0..20) {
        0 if limit > 2 => (30, 160),
        0..=4 => (20, rng.u64(30..70)),
        _ => (rng.u32(1..8), rng.u64(2..20)),
    }
}

fn kind(rng: &mut fastrand::Rng) -> Kind {
    match rng.u8(0..14) {
        0 => Kind::Timer(rng.u32(1..3)),
        1 => Kind::Map(rng.usize(1..5)),
        _ => Kind::Agent,
    }
}

fn when(rng: &mut fastrand::Rng) -> When {
    match rng.u8(0..12) {
        0 | 1 => When::Done,
        2 => When::Failure,
        _ => When::Success,
    }
}

fn calls(rng: &mut fastrand::Rng, id: &str, agent: &str) -> Vec<(String, Value)> {
    let count = [0, 0, 1, 1, 2, 3][rng.usize(..6)];
    (0..count)
        .map(|place| {
            let name = ["add", "add", "add", "charge", "look", "pay"][rng.usize(..6)];
            let args =
                json!({ "n": rng.u32(1..10), "program": id, "agent": agent, "place": place });
            (name.to_owned(), args)
        })
        .collect()
}

fn on_failure(rng: &mut fastrand::Rng) -> OnFailure {
    match rng.u8(0..4) {
        0 => OnFailure::Abort,
        1 => OnFailure::Continue,
        _ => OnFailure::Decide,
    }
}

fn steering(rng: &mut fastrand::Rng, steps: usize) -> Steering {
    let mut after = |most: u64| Duration::from_millis(rng.u64(50..most));
    let (soon, later) = (after(1_500), after(2_000));
    match rng.u8(0..16) {
        0 => Steering::Cancel(soon),
        1 => Steering::Pause(soon, later),
        2 => Steering::CancelStep(rng.usize(..steps), soon),
        3 | 4 => Steering::Retry,
        _ => Steering::None,
    }
}

/// A while, and then a step that kills its worker.
fn make_poison(program: &mut Program, number: u32) {
    program.at = Duration::ZERO;
    program.steering = Steering::None;
    program.on_failure = OnFailure::Continue;
    program.steps.truncate(2);
    for step in &mut program.steps {
        step.any = false;
        step.script.refuse = false;
        step.script.calls.clear();
    }
    let [wait, poison] = program.steps.as_mut_slice() else {
        return;
    };
    (wait.kind, wait.needs) = (Kind::Timer(4 * number), Vec::new());
    (poison.kind, poison.needs) = (Kind::Agent, vec![(0, When::Success)]);
    poison.script.poison = true;
}

impl Program {
    /// The body of `POST /my/plans/`.
    pub fn body(&self, session: Option<&str>) -> Value {
        let canary = PEOPLE[self.person].1;
        let steps: Vec<Value> = self.steps.iter().map(|step| self.step_body(step)).collect();
        let mut body = json!({ "goal": format!("{} {canary}", self.label), "steps": steps });
        if let Some(session) = session {
            body["session_id"] = session.into();
        }
        body["on_failure"] = match self.on_failure {
            OnFailure::Decide => "decide",
            OnFailure::Continue => "continue",
            OnFailure::Abort => "abort",
        }
        .into();
        body
    }

    fn step_body(&self, step: &Step) -> Value {
        let needs: Vec<Value> = step
            .needs
            .iter()
            .map(|(need, when)| json!({ "key": self.steps[*need].key, "when": when.wire() }))
            .collect();
        let mut body = json!({ "key": step.key, "needs": needs });
        match step.kind {
            Kind::Timer(seconds) => {
                body["kind"] = "timer".into();
                body["seconds"] = seconds.into();
            }
            Kind::Agent => step.ask(&mut body),
            Kind::Map(items) => {
                body["kind"] = "map".into();
                body["items"] = (0..items).map(|item| format!("i{item}")).collect();
                body["max_parallel"] = 2.into();
                body["on_item_failure"] = "continue".into();
                step.ask(&mut body);
            }
        }
        if step.any {
            body["join"] = "any".into();
        }
        body
    }
}

impl Step {
    fn ask(&self, body: &mut Value) {
        body["agent"] = AGENTS[self.agent].0.into();
        body["prompt"] = self.script.prompt().into();
    }
}

impl When {
    fn wire(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Done => "done",
            Self::Failure => "failure",
        }
    }
}
