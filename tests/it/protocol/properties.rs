//! What must hold in every state, and what must happen in some for that to mean anything.

use engine::step::StateName;
use stateright::{Model, Property};

use super::{
    Configuration, Script,
    rows::{Decide, Effect, Finish, Outcome, Step, Verdict, Worker},
    system::{Action, Message, Moment, Reply, State},
};

pub(super) const ENDS_ONCE: &str = "a step ends at most once";
pub(super) const NEWEST_TOKEN: &str = "an accepted finish carries the newest token";
const LEASE_WHILE_RUNNING: &str = "a step has a lease exactly while it runs";
pub(super) const PLACES: &str = "the places in use are those of placed steps, within the limit";
pub(super) const DECIDED_ONCE: &str = "a wait is decided once";
pub(super) const DEADLINE: &str = "a wait is decided by its deadline after it, by people before";
pub(super) const EFFECT_ONCE: &str = "an effect happens once, and again only when told it had not";
pub(super) const NO_STEP_LOST: &str = "whatever happened, every step can still end";

/// More calm actions than any state needs to come to its end.
const PATIENCE: usize = 64;

type Properties = Vec<Property<Configuration>>;

/// The rules, and the scenes that the scripts of a configuration have to lead to.
pub(super) fn of(configuration: &Configuration) -> Properties {
    let mut all = rules();
    all.extend(scenes());
    if configuration.has(Script::Plain) {
        all.extend(scenes_of_failures());
    }
    if configuration.has(Script::Waits) {
        all.extend(scenes_of_a_wait());
    }
    if configuration.has(Script::Calls) {
        all.extend(scenes_of_a_call());
    }
    if configuration.scripts.len() > usize::from(configuration.rules.places) {
        all.push(Property::sometimes("a step has no place", |_, state| {
            any(state, |step| step.state == StateName::Ready && !step.placed)
        }));
    }
    all
}

fn rules() -> Properties {
    vec![
        Property::always(ENDS_ONCE, |_, state| {
            every(state, |step| step.history.ends <= 1)
        }),
        Property::always(NEWEST_TOKEN, |_, state| {
            every(state, |step| !step.history.stale)
        }),
        Property::always(LEASE_WHILE_RUNNING, |_, state| {
            every(state, |step| {
                let running = step.state == StateName::Running;
                step.lease.map(|lease| lease.token) == running.then_some(step.token)
            })
        }),
        Property::always(PLACES, places),
        Property::always(DECIDED_ONCE, |_, state| {
            every(state, |step| step.history.decisions <= 1)
        }),
        Property::always(DEADLINE, |_, state| {
            every(state, |step| !step.history.untimely)
        }),
        Property::always(EFFECT_ONCE, |_, state| {
            every(state, |step| step.history.calls <= 1 + step.history.denials)
        }),
        Property::always(NO_STEP_LOST, ends_calmly),
    ]
}

fn scenes() -> Properties {
    vec![
        Property::sometimes("all steps end", |_, state| ended(state)),
        Property::sometimes(
            "a zombie's finish meets the lease of another",
            |_, state| {
                finishes(state).any(|(finish, step)| {
                    finish.outcome != Outcome::Lost
                        && step.token > finish.token
                        && step.lease.is_some()
                })
            },
        ),
        Property::sometimes("the reaper comes after a renewal", |_, state| {
            finishes(state).any(|(finish, step)| {
                finish.outcome == Outcome::Lost
                    && step.holds(finish.token)
                    && step.lease.is_some_and(|lease| !lease.expired)
            })
        }),
        Property::sometimes("a finish outlives its process", |_, state| {
            finishes(state).any(|(finish, step)| {
                (finish.from, finish.outcome) == (Worker::Nobody, Outcome::Succeed)
                    && step.holds(finish.token)
            })
        }),
    ]
}

fn scenes_of_failures() -> Properties {
    vec![Property::sometimes("a step fails as poison", |_, state| {
        any(state, |step| step.state == StateName::Failed)
    })]
}

fn scenes_of_a_wait() -> Properties {
    vec![
        Property::sometimes("a person decides", |_, state| {
            any(state, |step| verdict(step) == Some(Verdict::Yes))
        }),
        Property::sometimes("the deadline decides", |_, state| {
            any(state, |step| verdict(step) == Some(Verdict::TimedOut))
        }),
        Property::sometimes("two verdicts race", |_, state| {
            decides(state).any(|(decide, step)| {
                verdict(step).is_some_and(|verdict| verdict != decide.verdict)
            })
        }),
        Property::sometimes("a person's verdict comes after the deadline", |_, state| {
            decides(state).any(|(decide, step)| {
                decide.verdict != Verdict::TimedOut
                    && step.open_wait().is_some_and(|wait| wait.passed)
            })
        }),
    ]
}

fn scenes_of_a_call() -> Properties {
    vec![
        Property::sometimes("the effect happened and nobody knows", |_, state| {
            any(state, |step| {
                step.history.calls == 1 && step.effect == Some(Effect::Unknown)
            })
        }),
        Property::sometimes("a call is made good after a denial", |_, state| {
            any(state, |step| {
                (step.history.calls, step.history.denials) == (1, 1)
                    && step.state == StateName::Succeeded
            })
        }),
        Property::sometimes("a wrong denial doubles the effect", |_, state| {
            any(state, |step| step.history.calls == 2)
        }),
        Property::sometimes(
            "a new attempt is answered from the journal",
            |_, state: &State| {
                let jobs = state.slots.iter().filter_map(|slot| slot.job);
                let mut fresh = jobs.filter(|job| job.at == Moment::Begun);
                fresh.any(|job| state.rows.steps[job.step].effect == Some(Effect::Done))
            },
        ),
        Property::sometimes("a question without an answer fails the step", |_, state| {
            any(state, |step| {
                step.state == StateName::Failed && verdict(step) == Some(Verdict::TimedOut)
            })
        }),
    ]
}

/// A running step has its place, a ready one may have it, and no other has.
fn places(configuration: &Configuration, state: &State) -> bool {
    let placed = state.rows.steps.iter().filter(|step| step.placed).count();
    usize::from(state.rows.in_use) == placed
        && state.rows.in_use <= configuration.rules.places
        && every(state, |step| match step.state {
            StateName::Running => step.placed,
            StateName::Ready => true,
            _ => !step.placed,
        })
}

/// From here on nothing breaks and no person comes: that must be enough, or a step is lost.
fn ends_calmly(configuration: &Configuration, state: &State) -> bool {
    let mut state = state.clone();
    let mut actions = Vec::new();
    for _ in 0..PATIENCE {
        if ended(&state) {
            return true;
        }
        actions.clear();
        configuration.actions(&state, &mut actions);
        let calm = actions.drain(..).filter(|action| turn(*action).is_some());
        let next = calm.min_by_key(|action| turn(*action));
        let Some(next) = next.and_then(|action| configuration.next_state(&state, action)) else {
            return false;
        };
        state = next;
    }
    false
}

/// Whose turn it is where nothing breaks: time passes only when there is nothing else to do.
fn turn(action: Action) -> Option<u8> {
    match action {
        Action::Arrive(_, Reply::Heard) => Some(0),
        Action::Begin(_) | Action::Call(_, Reply::Heard) | Action::Record(_) => Some(1),
        Action::Send(_, outcome) if outcome != Outcome::Retry => Some(1),
        Action::Claim(_, _, Reply::Heard)
        | Action::Reap(_)
        | Action::Look(_, Verdict::TimedOut) => Some(2),
        Action::LeaseExpires(_) | Action::DeadlinePasses(_) => Some(3),
        _ => None,
    }
}

fn ended(state: &State) -> bool {
    every(state, |step| step.state.is_final())
}

fn every(state: &State, holds: impl Fn(&Step) -> bool) -> bool {
    state.rows.steps.iter().all(holds)
}

fn any(state: &State, holds: impl Fn(&Step) -> bool) -> bool {
    state.rows.steps.iter().any(holds)
}

fn verdict(step: &Step) -> Option<Verdict> {
    step.wait.and_then(|wait| wait.verdict)
}

/// The finishes on their way, each with its step.
fn finishes(state: &State) -> impl Iterator<Item = (Finish, &Step)> {
    state.wires.iter().filter_map(|message| match *message {
        Message::Finish(finish) => Some((finish, &state.rows.steps[finish.step])),
        Message::Decide(_) => None,
    })
}

/// The verdicts on their way, each with the step that waits for it or did.
fn decides(state: &State) -> impl Iterator<Item = (Decide, &Step)> {
    state.wires.iter().filter_map(|message| match *message {
        Message::Decide(decide) => Some((decide, &state.rows.steps[decide.step])),
        Message::Finish(_) => None,
    })
}
