//! Receipts: what the model and the tools were really asked, kept outside of everything that is tested.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// Who was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A turn of the model.
    Model,
    /// A call of a tool.
    Tool,
}

/// How a call ended, as the server saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not.
    Open,
    /// The whole answer went out.
    Whole,
    /// An error went out.
    Refused(u16),
    /// The server broke it off.
    Cut,
    /// The client left.
    Abandoned,
}

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Receipt {
    /// When it came.
    pub begun: DateTime<Utc>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// Who was called.
    pub kind: Kind,
    /// Label of the step's program.
    pub program: String,
    /// Name of the agent that the program says it belongs to.
    pub agent: String,
    /// Step, if the caller said so.
    pub step: Option<Uuid>,
    /// Lease token, if the caller said so.
    pub token: Option<i64>,
    /// Place in the step's journal, if the caller said so.
    pub ordinal: Option<i32>,
    /// Number of the worker, if its address told.
    pub worker: Option<usize>,
    /// The turn (model) or the idempotency key (tool).
    pub place: String,
    /// The tool's name; empty for a model.
    pub name: String,
    /// What was asked.
    pub args: Value,
    /// Whether the work was done in the world.
    pub applied: bool,
    /// How it ended.
    pub ending: Ending,
}

/// All receipts of a run, in the order in which the calls came. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Book(Arc<Mutex<Vec<Receipt>>>);

impl Book {
    /// Writes a call down at its begin; where it stands.
    pub fn open(&self, receipt: Receipt) -> usize {
        let mut receipts = self.lock();
        receipts.push(receipt);
        receipts.len() - 1
    }

    /// Writes down that the work was done.
    pub fn apply(&self, at: usize) {
        if let Some(receipt) = self.lock().get_mut(at) {
            receipt.applied = true;
        }
    }

    /// Writes down the end, unless it is there already.
    pub fn close(&self, at: usize, ending: Ending) {
        if let Some(receipt) = self.lock().get_mut(at)
            && receipt.ending == Ending::Open
        {
            receipt.ending = ending;
            receipt.ended = Some(Utc::now());
        }
    }

    /// How many calls each worker is in the middle of.
    pub fn open_of_workers(&self) -> HashMap<usize, usize> {
        let mut open = HashMap::new();
        let receipts = self.lock();
        for receipt in receipts.iter().filter(|one| one.ending == Ending::Open) {
            if let Some(worker) = receipt.worker {
                *open.entry(worker).or_default() += 1;
            }
        }
        open
    }

    /// A copy of all.
    pub fn all(&self) -> Vec<Receipt> {
        self.lock().clone()
    }

    /// Those under an idempotency key that did their work.
    pub fn applied(&self, key: &str) -> usize {
        self.lock()
            .iter()
            .filter(|receipt| receipt.applied && receipt.place == key)
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Receipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
