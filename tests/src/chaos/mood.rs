//! Bad behaviour of the stand-in servers, on command: for the next calls, for a while, or at a rate.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// The mood of a server, of which `M` are the bad ones. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Moods<M>(Arc<Mutex<State<M>>>);

#[derive(Debug)]
struct State<M> {
    next: VecDeque<M>,
    lasting: Option<M>,
    rate: Option<(f64, Vec<M>, fastrand::Rng)>,
    shown: u64,
}

impl<M> Default for Moods<M> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            next: VecDeque::new(),
            lasting: None,
            rate: None,
            shown: 0,
        })))
    }
}

impl<M: Copy> Moods<M> {
    /// The next `count` calls meet this.
    pub fn next(&self, mood: M, count: usize) {
        self.with(|state| state.next.extend(std::iter::repeat_n(mood, count)));
    }

    /// All calls meet this until told otherwise.
    pub fn lasting(&self, mood: Option<M>) {
        self.with(|state| state.lasting = mood);
    }

    /// Of all calls this share meets one of these; drawn by the seed.
    pub fn rate(&self, share: f64, of: Vec<M>, seed: u64) {
        self.with(|state| state.rate = Some((share, of, fastrand::Rng::with_seed(seed))));
    }

    /// Good behaviour from now on.
    pub fn calm(&self) {
        self.with(|state| {
            state.next.clear();
            state.lasting = None;
            state.rate = None;
        });
    }

    /// What this call meets; none: good behaviour.
    pub fn draw(&self) -> Option<M> {
        self.with(|state| {
            let mood = state.next.pop_front().or(state.lasting).or_else(|| {
                let (share, of, rng) = state.rate.as_mut()?;
                (rng.f64() < *share).then(|| of[rng.usize(..of.len())])
            });
            state.shown += u64::from(mood.is_some());
            mood
        })
    }

    /// How many calls met a bad one.
    pub fn shown(&self) -> u64 {
        self.with(|state| state.shown)
    }

    fn with<R>(&self, f: impl FnOnce(&mut State<M>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
