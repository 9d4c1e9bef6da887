//! Tools that run on the server: one call, made once; whether it may be made again is decided by whoever asked for it.

mod guard;
mod http;

use std::time::Duration;

use engine::{
    llm::CallId,
    tool::{Executor, Tool},
};
use reqwest::RequestBuilder;
use serde_json::Value;

pub use guard::{Egress, Network};
pub use http::Http;

/// One call of a tool.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The tool.
    pub tool: &'a Tool,
    /// Its arguments, an object.
    pub arguments: &'a Value,
    /// The same in every attempt: who honours it does the work once.
    pub key: &'a str,
    /// Who asks.
    pub id: &'a CallId,
}

/// Why a call brought no result, by what is known of the world after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It did not happen, and may later.
    NotDone {
        /// How long the other side asked to wait.
        retry_after: Option<Duration>,
        /// What was said.
        detail: String,
    },
    /// Nobody knows whether it happened.
    Unknown(String),
    /// It was refused; the same call would be refused again. For the model to know.
    Refused(String),
}

/// Makes calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tools {
    http: Http,
}

impl Tools {
    /// Tools that reach what the egress rules allow.
    pub fn new(egress: Egress) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: Http::new(egress)?,
        })
    }

    /// Makes one call.
    pub async fn call(&self, call: &Call<'_>) -> Result<Value, Trouble> {
        match &call.tool.executor {
            Executor::Http { url } => self.http.call(url, call).await,
            Executor::Client => Err(Trouble::Refused(
                "this tool runs on the person's own machine".to_owned(),
            )),
        }
    }
}

/// Says who asks, so that the other side can tell attempts of one call apart.
pub(crate) fn receipt(request: RequestBuilder, id: &CallId) -> RequestBuilder {
    request
        .header("x-codelab-step", &id.step)
        .header("x-codelab-token", id.token)
        .header("x-codelab-attempt", id.attempt)
}
