//! What Postgres holds, and the transitions over it.
//!
//! A function that changes rows stands for one file of `engine/src/store/sql` and happens at once: there, whatever moves
//! a step out of running or suspended is under its plan's lock, and a claim deletes the ready row. What a step becomes
//! is not written here a second time: [`StepState::on`] says it.

use std::ops::Range;

use engine::step::{StateName, StepEvent, StepState, state::Runs};

use super::Rules;

/// The rows of one plan whose steps all belong to one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rows {
    pub(super) steps: Vec<Step>,
    /// `user_agents.running_steps`: places granted.
    pub(super) in_use: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Step {
    pub(super) state: StateName,
    pub(super) token: u64,
    pub(super) failures: u16,
    /// Has a place of its agent: waits with it in `ready_steps`, or runs.
    pub(super) placed: bool,
    pub(super) lease: Option<Lease>,
    /// The last one.
    pub(super) wait: Option<Wait>,
    /// Its one entry in the journal.
    pub(super) effect: Option<Effect>,
    pub(super) history: History,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub(super) holder: Worker,
    pub(super) token: u64,
    /// By Postgres's clock.
    pub(super) expired: bool,
}

/// Who holds a lease or sends a finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Worker {
    Process(usize),
    /// A process that died, for the next one has another name; or the reaper.
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wait {
    /// Its id: a decision of one wait is none of the next.
    pub(super) number: u8,
    /// Its deadline has passed, by Postgres's clock.
    pub(super) passed: bool,
    pub(super) verdict: Option<Verdict>,
}

/// How a wait ends. Where the question is whether an effect happened, yes and no answer that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Verdict {
    Yes,
    No,
    TimedOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    /// Committed before the call.
    Intent,
    /// Nobody here knows whether it happened, and the person was asked.
    Unknown,
    /// It happened, and its result is known.
    Done,
}

/// What happened to a step, for the properties; no transition reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct History {
    /// Transitions into a final state.
    pub(super) ends: u8,
    /// A finish was accepted under a token that was not the newest.
    pub(super) stale: bool,
    /// Decisions of the last wait.
    pub(super) decisions: u8,
    /// The deadline decided before it had passed, or a person afterwards.
    pub(super) untimely: bool,
    /// Calls that arrived in the world.
    pub(super) calls: u8,
    /// Times that the person said that the call had not happened.
    pub(super) denials: u8,
}

/// An outcome on its way to `step_finish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Finish {
    pub(super) from: Worker,
    pub(super) step: usize,
    pub(super) token: u64,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Outcome {
    Succeed,
    Fail,
    Retry,
    Suspend,
    Lost,
}

/// A verdict on its way to `waits_close`, from somebody who saw the wait open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Decide {
    pub(super) step: usize,
    pub(super) number: u8,
    pub(super) verdict: Verdict,
}

/// What the journal tells an attempt that wants to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    Fenced,
    /// The intent is committed.
    Call,
    /// The result is there.
    Answered,
    /// An earlier attempt may have called.
    Ask,
    /// The person was asked and did not answer.
    GiveUp,
}

/// What a mutant has wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// A finish needs a lease of its step, whatever the token.
    FinishWithoutToken,
    /// A finish needs a lease of its step held by the same process (as in apalis-postgres).
    FinishByWorkerName,
    /// A finish compares its token with the step and takes no lease away.
    FinishWithoutLease,
    /// A finish gives the place back even if it was fenced.
    PlaceFreedWithoutLease,
    /// A place that falls free is granted to nobody but the step that had it.
    PlaceGrantedToNobody,
    /// Whether a wait is open is looked up before, and not when it is decided.
    WaitReadThenWritten,
    /// Whether the deadline has passed is looked up before, and not when the wait is decided.
    DeadlineReadBefore,
    /// An intent is committed without a look at the lease; the entry of another attempt counts as one's own.
    IntentWithoutLease,
    /// An attempt that finds an intent without a result calls again.
    EffectRetriedUnasked,
}

impl Rows {
    /// The plan as it is accepted: all steps are ready, and as many as there is room for have a place.
    pub(super) fn accept(steps: usize, rules: Rules) -> Self {
        let mut rows = Self {
            steps: vec![Step::new(); steps],
            in_use: 0,
        };
        rows.admit(0..steps, rules);
        rows
    }

    /// `steps_take`, for one step: only a placed one can be taken.
    pub(super) fn take(&mut self, step: usize, process: usize) -> u64 {
        let step = &mut self.steps[step];
        step.state = StateName::Running;
        step.token += 1;
        step.lease = Some(Lease {
            holder: Worker::Process(process),
            token: step.token,
            expired: false,
        });
        step.token
    }

    /// `lease_renew`: an expired lease that nobody took away yet is as good as any.
    pub(super) fn renew(&mut self, step: usize) {
        if let Some(lease) = &mut self.steps[step].lease {
            lease.expired = false;
        }
    }

    /// `step_finish`: whoever takes the lease away moves the step and gives its place back; others change nothing.
    pub(super) fn finish(&mut self, finish: Finish, rules: Rules) {
        let all = 0..self.steps.len();
        let step = &mut self.steps[finish.step];
        if !step.lets_in(finish, rules) {
            if rules.broken(Mutant::PlaceFreedWithoutLease) {
                self.in_use = self.in_use.saturating_sub(1);
                self.admit(all, rules);
            }
            return;
        }
        step.history.stale |= finish.token != step.token;
        step.lease = None;
        step.move_by(finish.outcome.event(), rules);
        if std::mem::take(&mut step.placed) {
            self.in_use = self.in_use.saturating_sub(1);
        }
        let next = if rules.broken(Mutant::PlaceGrantedToNobody) {
            finish.step..finish.step + 1
        } else {
            all
        };
        self.admit(next, rules);
    }

    /// `steps_admit`: grants what is free. Whose turn it is, is a question of rank; here the first in line gets it.
    fn admit(&mut self, line: Range<usize>, rules: Rules) {
        for step in &mut self.steps[line] {
            if step.state == StateName::Ready && !step.placed && self.in_use < rules.places {
                step.placed = true;
                self.in_use += 1;
            }
        }
    }

    /// `waits_close`: a comparison and a change in one statement, with the clock read once for both.
    pub(super) fn decide(&mut self, decide: Decide, rules: Rules) {
        let all = 0..self.steps.len();
        let step = &mut self.steps[decide.step];
        let Some(wait) = step.wait.as_mut().filter(|w| w.number == decide.number) else {
            return;
        };
        let open = wait.verdict.is_none() || rules.broken(Mutant::WaitReadThenWritten);
        let timely = wait.passed == (decide.verdict == Verdict::TimedOut);
        if !open || !(timely || rules.broken(Mutant::DeadlineReadBefore)) {
            return;
        }
        count(&mut step.history.decisions);
        step.history.untimely |= !timely;
        wait.verdict = Some(decide.verdict);
        if step.state == StateName::Suspended {
            step.wake(decide.verdict);
            self.admit(all, rules);
        }
    }

    /// The intent of a call, committed before it and under the lease. Says what to do instead if there is an entry.
    pub(super) fn begin(&mut self, step: usize, token: u64, rules: Rules) -> Begun {
        let unfenced = rules.broken(Mutant::IntentWithoutLease);
        let unasked = rules.broken(Mutant::EffectRetriedUnasked);
        let step = &mut self.steps[step];
        if !step.holds(token) && !unfenced {
            return Begun::Fenced;
        }
        match step.effect {
            Some(Effect::Done) => Begun::Answered,
            Some(_)
                if step
                    .wait
                    .is_some_and(|w| w.verdict == Some(Verdict::TimedOut)) =>
            {
                Begun::GiveUp
            }
            Some(_) if step.holds(token) && !unasked => Begun::Ask,
            _ => {
                step.effect = Some(Effect::Intent);
                Begun::Call
            }
        }
    }

    /// The result of a call, committed under the lease; `false`: fenced.
    pub(super) fn record(&mut self, step: usize, token: u64) -> bool {
        let step = &mut self.steps[step];
        let holds = step.holds(token);
        if holds {
            step.effect = Some(Effect::Done);
        }
        holds
    }
}

impl Step {
    fn new() -> Self {
        Self {
            state: StateName::Ready,
            token: 0,
            failures: 0,
            placed: false,
            lease: None,
            wait: None,
            effect: None,
            history: History::default(),
        }
    }

    pub(super) fn holds(&self, token: u64) -> bool {
        self.lease.is_some_and(|lease| lease.token == token)
    }

    pub(super) fn open_wait(&self) -> Option<Wait> {
        self.wait.filter(|wait| wait.verdict.is_none())
    }

    /// The fence.
    fn lets_in(&self, finish: Finish, rules: Rules) -> bool {
        let lost = finish.outcome == Outcome::Lost;
        let expired = self.lease.is_some_and(|lease| lease.expired);
        let fits = match rules.mutant {
            Some(Mutant::FinishWithoutToken) => self.lease.is_some(),
            // The dead and the reaper share a name here, so theirs would say too little.
            Some(Mutant::FinishByWorkerName) if finish.from != Worker::Nobody => {
                self.lease.is_some_and(|lease| lease.holder == finish.from)
            }
            Some(Mutant::FinishWithoutLease) if !lost => self.token == finish.token,
            _ => self.holds(finish.token),
        };
        fits && (expired || !lost)
    }

    fn move_by(&mut self, event: StepEvent, rules: Rules) {
        let running = StepState::Running(self.runs(rules.lives));
        let next = running.on(event).expect("an outcome of a running step");
        self.state = next.name();
        if let StepState::Ready(runs) = next {
            self.failures = runs.failures;
        }
        match self.state {
            StateName::Suspended => self.suspend(),
            state if state.is_final() => count(&mut self.history.ends),
            _ => {}
        }
    }

    fn runs(&self, lives: u16) -> Runs {
        Runs {
            token: self.token,
            failures: self.failures,
            max_failures: lives,
            ..Runs::fresh()
        }
    }

    fn suspend(&mut self) {
        self.wait = Some(Wait {
            number: self.wait.map_or(0, |wait| wait.number + 1),
            passed: false,
            verdict: None,
        });
        self.history.decisions = 0;
        self.effect = self.effect.map(|_| Effect::Unknown);
    }

    fn wake(&mut self, verdict: Verdict) {
        let suspended = StepState::Suspended(Runs::fresh());
        let next = suspended.on(StepEvent::Wake);
        self.state = next.expect("a suspended step wakes").name();
        if self.effect.is_none() {
            return;
        }
        match verdict {
            Verdict::Yes => self.effect = Some(Effect::Done),
            Verdict::No => {
                self.effect = None;
                self.history.denials += 1;
            }
            Verdict::TimedOut => {}
        }
    }
}

impl Outcome {
    fn event(self) -> StepEvent {
        match self {
            Self::Succeed => StepEvent::Succeed,
            Self::Fail => StepEvent::Fail,
            Self::Retry => StepEvent::Retry,
            Self::Suspend => StepEvent::Suspend,
            Self::Lost => StepEvent::Lose,
        }
    }
}

/// Once or more than once: a mutant that goes on for ever is explored to its end nevertheless.
fn count(times: &mut u8) {
    *times = std::cmp::min(*times + 1, 2);
}
