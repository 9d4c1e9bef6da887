//! Everything around the rows: processes with slots, messages, time, people and the world; and who may do what next.
//!
//! A worker that is paused needs no action of its own: a slot may stand still for as long as the others please, and
//! goes on afterwards with what it believed before.

use std::collections::BTreeSet;

use engine::step::StateName;
use stateright::{Model, Property};

use super::{
    Configuration, Script, properties,
    rows::{Begun, Decide, Finish, Outcome, Rows, Step, Verdict, Worker},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) rows: Rows,
    /// Sorted within a process, for its slots are all the same.
    pub(super) slots: Vec<Slot>,
    /// On their way to Postgres, in no order, and still on it when their sender has died.
    pub(super) wires: BTreeSet<Message>,
}

/// A place of a process to run one step: all that it knows is gone when the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) process: usize,
    pub(super) job: Option<Job>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Job {
    pub(super) step: usize,
    pub(super) token: u64,
    pub(super) at: Moment,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Moment {
    Begun,
    /// Its intent is committed.
    Intended,
    /// It knows the result of its call.
    Called,
    /// The journal has the result.
    Recorded,
    /// It has to ask whether the call happened.
    Unsure,
    /// It asked and got no answer.
    Hopeless,
    /// Its outcome is on its way.
    Sent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    Finish(Finish),
    Decide(Decide),
}

/// Whether the caller hears how its call ended. It happened either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Heard,
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// A slot claims a step. Without a reply the lease is there, and nobody knows.
    Claim(usize, usize, Reply),
    /// A slot commits the intent of its call, or learns what the journal has.
    Begin(usize),
    /// The call arrives in the world.
    Call(usize, Reply),
    /// A slot commits the result.
    Record(usize),
    /// A slot is done and sends its outcome.
    Send(usize, Outcome),
    /// Postgres executes a message. A sender that hears nothing sends it again, so then it stays on the wire.
    Arrive(Message, Reply),
    LeaseExpires(usize),
    Renew(usize),
    /// The reaper reads an expired lease, and will finish its step as lost.
    Reap(usize),
    DeadlinePasses(usize),
    /// A person, or the clockmaker, reads an open wait, and will decide it.
    Look(usize, Verdict),
    Crash(usize),
}

impl Model for Configuration {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slot = |(process, &slots)| vec![Slot { process, job: None }; slots];
        vec![State {
            rows: Rows::accept(self.scripts.len(), self.rules),
            slots: self.slots.iter().enumerate().flat_map(slot).collect(),
            wires: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (number, slot) in state.slots.iter().enumerate() {
            match slot.job {
                Some(job) => self.work(state, number, job, actions),
                None if state.is_first_idle(number) => state.claims(number, actions),
                None => {}
            }
        }
        for (number, step) in state.rows.steps.iter().enumerate() {
            Self::time(number, step, actions);
        }
        for message in &state.wires {
            actions.push(Action::Arrive(*message, Reply::Heard));
            if message.is_repeated() {
                actions.push(Action::Arrive(*message, Reply::Lost));
            }
        }
        if state.wires.len() >= self.connections {
            actions.retain(|action| !action.sends());
        }
        for process in 0..self.slots.len() {
            let busy = |slot: &Slot| slot.process == process && slot.job.is_some();
            if state.slots.iter().any(busy) {
                actions.push(Action::Crash(process));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, action);
        state.slots.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}

impl Action {
    fn sends(&self) -> bool {
        matches!(self, Self::Send(..) | Self::Reap(_) | Self::Look(..))
    }
}

impl Message {
    /// Whether its sender insists on a reply: workers and people do; the duties look again instead, and the dead do nothing.
    fn is_repeated(&self) -> bool {
        match self {
            Self::Finish(finish) => finish.from != Worker::Nobody,
            Self::Decide(decide) => decide.verdict != Verdict::TimedOut,
        }
    }
}

impl Configuration {
    /// What an attempt may do next, by its own knowledge and the script of its step.
    fn work(&self, state: &State, slot: usize, job: Job, actions: &mut Vec<Action>) {
        let step = &state.rows.steps[job.step];
        if step.holds(job.token) && step.lease.is_some_and(|lease| lease.expired) {
            actions.push(Action::Renew(job.step));
        }
        let mut send = |outcome| actions.push(Action::Send(slot, outcome));
        match (job.at, self.scripts[job.step]) {
            (Moment::Begun, Script::Plain) => {
                send(Outcome::Succeed);
                send(Outcome::Retry);
            }
            (Moment::Begun, Script::Waits) if step.wait.is_some() => send(Outcome::Succeed),
            (Moment::Begun, Script::Waits) | (Moment::Unsure, _) => send(Outcome::Suspend),
            (Moment::Begun, Script::Calls) => actions.push(Action::Begin(slot)),
            (Moment::Intended, _) => {
                actions.push(Action::Call(slot, Reply::Heard));
                actions.push(Action::Call(slot, Reply::Lost));
            }
            (Moment::Called, _) => actions.push(Action::Record(slot)),
            (Moment::Recorded, _) => send(Outcome::Succeed),
            (Moment::Hopeless, _) => send(Outcome::Fail),
            (Moment::Sent, _) => {}
        }
    }

    /// What time, the duties and people may do to a step.
    fn time(number: usize, step: &Step, actions: &mut Vec<Action>) {
        match step.lease {
            Some(lease) if lease.expired => actions.push(Action::Reap(number)),
            Some(_) => actions.push(Action::LeaseExpires(number)),
            None => {}
        }
        let Some(wait) = step.open_wait() else { return };
        if wait.passed {
            actions.push(Action::Look(number, Verdict::TimedOut));
            return;
        }
        actions.push(Action::DeadlinePasses(number));
        actions.push(Action::Look(number, Verdict::Yes));
        // Whoever says it every time keeps the model busy for ever.
        if step.effect.is_some() && step.history.denials == 0 {
            actions.push(Action::Look(number, Verdict::No));
        }
    }

    fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Claim(slot, step, reply) => state.claim(slot, step, reply),
            Action::Begin(slot) => self.begin(state, slot),
            Action::Call(slot, reply) => state.call(slot, reply),
            Action::Record(slot) => state.record(slot),
            Action::Send(slot, outcome) => state.send(slot, outcome),
            Action::Arrive(message, reply) => self.arrive(state, message, reply),
            Action::LeaseExpires(step) => state.expire_lease(step),
            Action::Renew(step) => state.rows.renew(step),
            Action::Reap(step) => state.reap(step),
            Action::DeadlinePasses(step) => state.pass_deadline(step),
            Action::Look(step, verdict) => state.look(step, verdict),
            Action::Crash(process) => state.crash(process),
        }
    }

    fn begin(&self, state: &mut State, slot: usize) {
        let Some(job) = state.slots[slot].job else {
            return;
        };
        let at = match state.rows.begin(job.step, job.token, self.rules) {
            Begun::Fenced => None,
            Begun::Call => Some(Moment::Intended),
            Begun::Answered => Some(Moment::Recorded),
            Begun::Ask => Some(Moment::Unsure),
            Begun::GiveUp => Some(Moment::Hopeless),
        };
        state.slots[slot].job = at.map(|at| Job { at, ..job });
    }

    fn arrive(&self, state: &mut State, message: Message, reply: Reply) {
        match message {
            Message::Finish(finish) => state.rows.finish(finish, self.rules),
            Message::Decide(decide) => state.rows.decide(decide, self.rules),
        }
        if reply == Reply::Heard {
            state.wires.remove(&message);
            if let Message::Finish(finish) = message {
                state.hear(finish);
            }
        }
    }
}

impl State {
    fn is_first_idle(&self, slot: usize) -> bool {
        let process = self.slots[slot].process;
        !self.slots[..slot]
            .iter()
            .any(|other| other.process == process && other.job.is_none())
    }

    fn claims(&self, slot: usize, actions: &mut Vec<Action>) {
        for (step, row) in self.rows.steps.iter().enumerate() {
            if row.placed && row.state == StateName::Ready {
                actions.push(Action::Claim(slot, step, Reply::Heard));
                actions.push(Action::Claim(slot, step, Reply::Lost));
            }
        }
    }

    fn claim(&mut self, slot: usize, step: usize, reply: Reply) {
        let token = self.rows.take(step, self.slots[slot].process);
        let at = Moment::Begun;
        if reply == Reply::Heard {
            self.slots[slot].job = Some(Job { step, token, at });
        }
    }

    fn call(&mut self, slot: usize, reply: Reply) {
        let Some(job) = &mut self.slots[slot].job else {
            return;
        };
        self.rows.steps[job.step].history.calls += 1;
        job.at = match reply {
            Reply::Heard => Moment::Called,
            Reply::Lost => Moment::Unsure,
        };
    }

    fn record(&mut self, slot: usize) {
        let job = &mut self.slots[slot].job;
        let recorded = job.filter(|job| self.rows.record(job.step, job.token));
        let at = Moment::Recorded;
        *job = recorded.map(|job| Job { at, ..job });
    }

    fn send(&mut self, slot: usize, outcome: Outcome) {
        let Slot { process, job } = &mut self.slots[slot];
        let Some(job) = job else { return };
        job.at = Moment::Sent;
        self.wires.insert(Message::Finish(Finish {
            from: Worker::Process(*process),
            step: job.step,
            token: job.token,
            outcome,
        }));
    }

    /// The slot is free again; whether its finish was accepted makes no difference to it.
    fn hear(&mut self, finish: Finish) {
        for slot in &mut self.slots {
            let sent = |job: &Job| {
                (job.step, job.token, job.at) == (finish.step, finish.token, Moment::Sent)
            };
            if finish.from == Worker::Process(slot.process) && slot.job.as_ref().is_some_and(sent) {
                slot.job = None;
            }
        }
    }

    fn expire_lease(&mut self, step: usize) {
        if let Some(lease) = &mut self.rows.steps[step].lease {
            lease.expired = true;
        }
    }

    fn reap(&mut self, step: usize) {
        if let Some(lease) = self.rows.steps[step].lease {
            self.wires.insert(Message::Finish(Finish {
                from: Worker::Nobody,
                step,
                token: lease.token,
                outcome: Outcome::Lost,
            }));
        }
    }

    fn pass_deadline(&mut self, step: usize) {
        if let Some(wait) = &mut self.rows.steps[step].wait {
            wait.passed = true;
        }
    }

    fn look(&mut self, step: usize, verdict: Verdict) {
        if let Some(wait) = self.rows.steps[step].wait {
            self.wires.insert(Message::Decide(Decide {
                step,
                number: wait.number,
                verdict,
            }));
        }
    }

    /// The process starts anew under another name: it knows of nothing, and what it had sent is under way.
    fn crash(&mut self, process: usize) {
        let name = Worker::Process(process);
        for slot in self.slots.iter_mut().filter(|s| s.process == process) {
            slot.job = None;
        }
        let leases = self.rows.steps.iter_mut().filter_map(|s| s.lease.as_mut());
        for lease in leases.filter(|lease| lease.holder == name) {
            lease.holder = Worker::Nobody;
        }
        let sent = std::mem::take(&mut self.wires).into_iter();
        let unsigned = sent.map(|message| match message {
            Message::Finish(finish) if finish.from == name => Message::Finish(Finish {
                from: Worker::Nobody,
                ..finish
            }),
            other => other,
        });
        self.wires = unsigned.collect();
    }
}
