//! The protocol around a step, explored: small worlds in which everything happens in every order, to the last state.
//!
//! The other tests drive the SQL through the orders that somebody thought of, or that a machine came upon. This one drives a
//! model of it through all of them: workers that lose their leases while their finish is on its way, die or sleep and
//! come back, a reaper beside a renewal, a person beside a deadline, a call whose result nobody heard. It says whether the rules
//! hold (`properties`) if each transition is one transaction (`rows`) and everything around it may go wrong (`system`); that
//! the SQL is such a transaction is what `model`, `transitions` and `mutants` are for. A model that finds nothing may be
//! blind, so each rule is also broken on purpose, and each world has scenes that it must come to.
//!
//! Left out: edges between steps, cancels, yields, ranks, backoff, and more than one agent.

mod properties;
mod rows;
mod system;

use std::collections::BTreeSet;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use properties::{
    DEADLINE, DECIDED_ONCE, EFFECT_ONCE, ENDS_ONCE, NEWEST_TOKEN, NO_STEP_LOST, PLACES,
};
use rows::Mutant;

/// A world: who is in it, and what they want.
#[derive(Debug, Clone)]
struct Configuration {
    /// Slots of each process. The missing fence of a finish by worker name shows only where a process has two.
    slots: &'static [usize],
    /// One for each step.
    scripts: &'static [Script],
    /// Messages on their way at once; bounds the world more than anything else.
    connections: usize,
    rules: Rules,
}

/// What a step does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Succeeds, or fails and may be tried again.
    Plain,
    /// Waits for a person, until a deadline, and goes on with either.
    Waits,
    /// Makes one irreversible call.
    Calls,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    /// Places of the agent: its `max_concurrency`.
    places: u8,
    /// `max_failures` of each step.
    lives: u16,
    mutant: Option<Mutant>,
}

impl Configuration {
    fn new(slots: &'static [usize], scripts: &'static [Script]) -> Self {
        let rules = Rules {
            places: 1,
            lives: 2,
            mutant: None,
        };
        Self {
            slots,
            scripts,
            connections: 2,
            rules,
        }
    }

    fn connections(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    fn places(mut self, places: u8) -> Self {
        self.rules.places = places;
        self
    }

    fn lives(mut self, lives: u16) -> Self {
        self.rules.lives = lives;
        self
    }

    fn with(mut self, mutant: Mutant) -> Self {
        self.rules.mutant = Some(mutant);
        self
    }

    fn has(&self, script: Script) -> bool {
        self.scripts.contains(&script)
    }

    /// Every rule holds in every state, every scene is in one, and there were at least so many.
    fn holds(self, states: usize) {
        let first_failure = HasDiscoveries::AnyFailures;
        let explored = self.checker().finish_when(first_failure).spawn_bfs().join();
        explored.assert_properties();
        let seen = explored.unique_state_count();
        assert!(
            seen >= states,
            "{seen} states are too few to mean much; {states} were expected"
        );
    }

    /// The rules that some state breaks.
    fn broken(self) -> BTreeSet<&'static str> {
        let explored = self.checker().spawn_bfs().join();
        let is_rule = |name: &&'static str| {
            let property = explored.model().property(name);
            property.expectation == Expectation::Always
        };
        explored.discoveries().into_keys().filter(is_rule).collect()
    }

    /// The mutant breaks this rule and no other, in a world in which the sound protocol breaks none.
    fn breaks(self, mutant: Mutant, rule: &'static str) {
        assert_eq!(self.clone().broken(), BTreeSet::new());
        assert_eq!(self.with(mutant).broken(), BTreeSet::from([rule]));
    }
}

impl Rules {
    fn broken(self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

#[test]
fn a_step_that_loses_its_workers_ends_once_under_its_newest_token() {
    Configuration::new(&[2, 1], &[Script::Plain])
        .lives(3)
        .connections(9)
        .holds(8_000);
}

#[test]
fn two_steps_take_turns_at_one_place() {
    Configuration::new(&[2, 1], &[Script::Plain, Script::Plain])
        .connections(3)
        .holds(42_000);
}

#[test]
fn two_steps_run_side_by_side_at_two_places() {
    Configuration::new(&[2, 1], &[Script::Plain, Script::Plain])
        .places(2)
        .holds(71_000);
}

#[test]
fn a_person_and_a_deadline_decide_a_wait_once() {
    Configuration::new(&[2, 1], &[Script::Waits])
        .connections(3)
        .holds(9_400);
}

#[test]
fn a_suspended_step_leaves_its_place_to_another() {
    Configuration::new(&[2], &[Script::Waits, Script::Plain]).holds(27_000);
}

#[test]
fn an_irreversible_effect_is_not_repeated_unasked() {
    Configuration::new(&[2, 1], &[Script::Calls]).holds(46_000);
}

#[test]
fn an_irreversible_effect_is_not_repeated_with_more_messages_under_way() {
    Configuration::new(&[2], &[Script::Calls])
        .connections(3)
        .holds(37_000);
}

/// The same with one step, message or slot more, for whoever changes the protocol.
#[test]
#[ignore = "a million states take a minute"]
fn larger_worlds_hold_too() {
    use Script::{Calls, Plain, Waits};
    let world = Configuration::new;
    world(&[2], &[Plain, Plain, Plain]).places(2).holds(240_000);
    world(&[2, 1], &[Plain, Plain])
        .places(2)
        .connections(3)
        .holds(170_000);
    world(&[2], &[Waits, Waits]).holds(120_000);
    world(&[2], &[Waits, Plain]).connections(3).holds(90_000);
    world(&[2], &[Calls, Plain]).holds(160_000);
    world(&[2, 1], &[Calls]).connections(3).holds(160_000);
}

#[test]
fn a_finish_without_its_token_breaks_the_fence() {
    Configuration::new(&[1, 1], &[Script::Plain]).breaks(Mutant::FinishWithoutToken, NEWEST_TOKEN);
}

#[test]
fn a_finish_by_worker_name_breaks_the_fence() {
    Configuration::new(&[2], &[Script::Plain]).breaks(Mutant::FinishByWorkerName, NEWEST_TOKEN);
}

/// Why the worlds above have a process with two slots.
#[test]
fn one_slot_a_process_would_hide_a_finish_by_worker_name() {
    let world = Configuration::new(&[1, 1], &[Script::Plain]).connections(9);
    assert_eq!(
        world.with(Mutant::FinishByWorkerName).broken(),
        BTreeSet::new()
    );
}

#[test]
fn a_finish_that_takes_no_lease_away_ends_a_step_twice() {
    Configuration::new(&[2], &[Script::Plain]).breaks(Mutant::FinishWithoutLease, ENDS_ONCE);
}

#[test]
fn a_fenced_finish_that_frees_its_place_breaks_the_count() {
    Configuration::new(&[2], &[Script::Plain, Script::Plain])
        .breaks(Mutant::PlaceFreedWithoutLease, PLACES);
}

#[test]
fn a_freed_place_that_goes_to_nobody_loses_a_step() {
    Configuration::new(&[2], &[Script::Plain, Script::Plain])
        .breaks(Mutant::PlaceGrantedToNobody, NO_STEP_LOST);
}

#[test]
fn a_wait_that_is_read_and_then_written_is_decided_twice() {
    Configuration::new(&[2], &[Script::Waits]).breaks(Mutant::WaitReadThenWritten, DECIDED_ONCE);
}

#[test]
fn a_deadline_that_is_read_before_the_decision_is_overrun() {
    Configuration::new(&[2], &[Script::Waits]).breaks(Mutant::DeadlineReadBefore, DEADLINE);
}

#[test]
fn an_intent_without_a_lease_lets_a_zombie_call() {
    Configuration::new(&[2], &[Script::Calls]).breaks(Mutant::IntentWithoutLease, EFFECT_ONCE);
}

#[test]
fn an_effect_that_is_retried_unasked_happens_twice() {
    Configuration::new(&[2], &[Script::Calls]).breaks(Mutant::EffectRetriedUnasked, EFFECT_ONCE);
}
