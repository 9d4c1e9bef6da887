//! The journal of a run: what earlier runs have done is answered from it, what this run does is written into it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use engine::{
    StoreError,
    event::hints::Delta,
    fault,
    llm::{CallId, Prompt, Turn},
    step::{Outcome, claimed::Claim},
    store::Written,
    tool::{Entry, EntryState},
};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::{
    exec::patiently,
    run::{RunError, Runner},
};

/// How often the text of a running turn is kept.
const KEEP: Duration = Duration::from_secs(1);
/// When it is kept for the first time: short answers are none the worse for it, and whoever comes back in the middle of a longer one
/// need not wait.
const KEEP_FIRST: Duration = Duration::from_millis(250);

/// Whether a turn's text goes to the person while it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// Piece by piece.
    Aloud,
    /// Not at all: it is a plan, not an answer.
    Silent,
}

/// What a run knows of its step's calls.
pub(super) struct Journal<'a> {
    runner: &'a Runner,
    claim: &'a Claim,
    known: BTreeMap<u32, Entry>,
    /// Done in this run and not committed yet; goes with the next commit.
    pending: Vec<Entry>,
}

impl<'a> Journal<'a> {
    /// What earlier runs have left.
    pub(super) fn of(runner: &'a Runner, claim: &'a Claim, entries: Vec<Entry>) -> Self {
        Self {
            runner,
            claim,
            known: entries
                .into_iter()
                .map(|entry| (entry.ordinal, entry))
                .collect(),
            pending: Vec::new(),
        }
    }

    /// What is known of a call.
    pub(super) fn entry(&self, ordinal: u32) -> Option<&Entry> {
        self.known.get(&ordinal)
    }

    /// What a finished call brought.
    pub(super) fn result(&self, ordinal: u32) -> Option<&Value> {
        self.entry(ordinal)
            .filter(|entry| entry.state == EntryState::Done)?
            .result
            .as_ref()
    }

    /// Notes an entry for the next commit.
    pub(super) fn note(&mut self, entry: Entry) {
        self.known.insert(entry.ordinal, entry.clone());
        self.pending.push(entry);
    }

    /// Commits what was noted. Once this returns, whatever dies finds it here.
    pub(super) async fn commit(&mut self) -> Result<(), RunError> {
        // Without an intent that needs consent there is nothing else to hear.
        self.commit_with_consent().await.map(drop)
    }

    /// The same with intents that need consent: the call that has lost it, if one has; nothing was committed then.
    pub(super) async fn commit_with_consent(&mut self) -> Result<Option<u32>, RunError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let pending = std::mem::take(&mut self.pending);
        match patiently(|| self.runner.store.journal(self.claim, &pending)).await? {
            Written::Fenced => Err(StoreError::LeaseLost(self.claim.id).into()),
            Written::All => Ok(None),
            Written::NoConsent(ordinal) => {
                // What was done before stays to be committed; the intents are not.
                let (done, intents): (Vec<Entry>, Vec<Entry>) = pending
                    .into_iter()
                    .partition(|entry| entry.state == EntryState::Done);
                for intent in intents {
                    self.known.remove(&intent.ordinal);
                }
                self.pending = done;
                Ok(Some(ordinal))
            }
        }
    }

    /// An outcome that takes what was noted along into its commit.
    pub(super) fn with(&mut self, outcome: Outcome) -> Outcome {
        let entries = std::mem::take(&mut self.pending);
        if entries.is_empty() {
            outcome
        } else {
            Outcome::Journaled {
                entries,
                then: Box::new(outcome),
            }
        }
    }

    /// A model's turn: from the journal, or asked for and noted. The first turn's intent is in the journal since the step's
    /// data were read; that of a later one is committed here, with what was noted before.
    pub(super) async fn turn(
        &mut self,
        ordinal: u32,
        model: Option<&str>,
        mut prompt: Prompt,
        voice: Voice,
    ) -> Result<Turn, RunError> {
        if let Some(turn) = self
            .result(ordinal)
            .and_then(|result| serde_json::from_value(result.clone()).ok())
        {
            return Ok(turn);
        }
        if ordinal > 0 {
            self.note(Entry::turn_begun(ordinal));
        }
        self.commit().await?;
        let (llm, name) = self.runner.model(model)?;
        prompt.model = name;
        prompt.attempt = u32::from(self.claim.attempt);
        prompt.call = call_id(self.claim, ordinal);
        let text = Mutex::new(String::new());
        let on_delta = |piece: &str| {
            if voice == Voice::Aloud {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                self.say(ordinal, text.len(), piece);
                text.push_str(piece);
            }
        };
        fault::point("model.before");
        let turn = self
            .keeping(ordinal, &text, llm.turn(&prompt, &on_delta))
            .await?;
        fault::point("model.after");
        let result = serde_json::to_value(&turn).unwrap_or_default();
        self.note(Entry::turn_done(ordinal, result));
        Ok(turn)
    }

    fn say(&self, turn: u32, offset: usize, piece: &str) {
        let claim = self.claim;
        self.runner.store.hints().delta(Delta {
            user: claim.scope.user(),
            session: claim.session,
            plan: claim.plan,
            step: claim.id,
            key: claim.key.clone(),
            attempt: claim.attempt,
            turn,
            offset,
            text: piece.to_owned(),
        });
    }

    /// Runs a turn, and keeps what it has said so far, soon and then once a second: it may take minutes, and people come back in between.
    async fn keeping<T>(
        &self,
        ordinal: u32,
        text: &Mutex<String>,
        turn: impl Future<Output = T>,
    ) -> T {
        let mut turn = std::pin::pin!(turn);
        let mut tick = interval_at(Instant::now() + KEEP_FIRST, KEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = 0;
        loop {
            tokio::select! {
                biased;
                done = &mut turn => return done,
                _ = tick.tick() => {}
            }
            let so_far = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if so_far.len() > kept {
                kept = so_far.len();
                let keep = self.runner.store.journal_text(self.claim, ordinal, &so_far);
                // A convenience: what is not kept comes with the step's end.
                let _ = timeout(KEEP, keep).await;
            }
        }
    }
}

/// What a call is known by at the other side: the same in every run of the step's round.
pub(super) fn call_key(claim: &Claim, ordinal: u32) -> String {
    format!("{}-{}-{ordinal}", claim.id, claim.round)
}

/// Who asks, for the other side of a call.
pub(super) fn call_id(claim: &Claim, ordinal: u32) -> CallId {
    CallId {
        step: claim.id.to_string(),
        token: claim.token,
        attempt: claim.attempt,
        ordinal,
    }
}
