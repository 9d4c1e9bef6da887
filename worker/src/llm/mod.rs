//! The model vendors, and the way from `provider/model` to one of them.
//!
//! An adapter runs one turn and never tries again by itself: a retry costs a lease and an attempt,
//! so it belongs to the step. What comes from a vendor is hostile input: bytes are capped before
//! any parser sees them, every wait has an end, and no error text carries a secret.

mod capped;
mod failure;
mod openai;
mod scripted;

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use engine::llm::{Llm, LlmError};

pub use openai::{OPENAI_BASE_URL, OpenAi};
pub use scripted::Scripted;

/// How long to wait for a silent vendor. The time for the whole turn is the caller's to bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request until the first byte of the answer's body (60 s).
    pub first_byte: Duration,
    /// Between two pieces of the answer; a keep-alive comment counts as a piece (60 s).
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_mins(1),
            idle: Duration::from_mins(1),
        }
    }
}

/// Which vendors are there to be asked.
#[derive(Debug, Clone, Default)]
pub struct RouterConfig {
    /// `OPENAI_API_KEY`; a local server needs none. Blank counts as absent.
    pub openai_api_key: Option<SecretString>,
    /// `OPENAI_BASE_URL`; [`OPENAI_BASE_URL`] when only the key is set. Blank counts as absent.
    pub openai_base_url: Option<String>,
    /// How long to wait for a silent vendor.
    pub timeouts: Timeouts,
}

/// Finds the vendor of a model. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    scripted: Arc<dyn Llm>,
    openai: Option<Arc<dyn Llm>>,
}

impl Router {
    /// Builds the configured vendors over one pool of connections.
    ///
    /// [`LlmError::Invalid`] when the base URL or the key cannot be used, or TLS cannot start.
    pub fn new(config: RouterConfig) -> Result<Self, LlmError> {
        let key = config
            .openai_api_key
            .filter(|key| !key.expose_secret().trim().is_empty());
        let base_url = config.openai_base_url.filter(|url| !url.trim().is_empty());
        let openai: Option<Arc<dyn Llm>> = if key.is_some() || base_url.is_some() {
            let base_url = base_url.as_deref().unwrap_or(OPENAI_BASE_URL);
            Some(Arc::new(OpenAi::new(
                http_client()?,
                base_url,
                key,
                config.timeouts,
            )?))
        } else {
            None
        };
        Ok(Self {
            scripted: Arc::new(Scripted),
            openai,
        })
    }

    /// The vendor of `provider/model`, and the model's own name (which may contain `/`).
    ///
    /// [`LlmError::Invalid`] when the name has no provider, or the provider is unknown or not configured.
    pub fn for_model(&self, model: &str) -> Result<(Arc<dyn Llm>, String), LlmError> {
        let Some((provider, name)) = model.split_once('/').filter(|(_, name)| !name.is_empty())
        else {
            let shown = failure::cut(model, 100);
            return Err(LlmError::Invalid(format!(
                "model `{shown}` names no provider: write `provider/model`, for example `scripted/default`"
            )));
        };
        let vendor = match provider {
            "scripted" => &self.scripted,
            "openai" => self.openai.as_ref().ok_or_else(|| {
                LlmError::Invalid(
                    "provider `openai` is not configured: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs no key"
                        .to_owned(),
                )
            })?,
            unknown => {
                let unknown = failure::cut(unknown, 100);
                return Err(LlmError::Invalid(format!("provider `{unknown}` is unknown: the known ones are `scripted`, `openai`")));
            }
        };
        Ok((Arc::clone(vendor), name.to_owned()))
    }
}

/// The HTTP client that adapters want: a redirect would carry the prompt and the key to an address
/// nobody configured, and a proxy from the environment would read both.
///
/// [`LlmError::Invalid`] when TLS cannot start.
pub fn http_client() -> Result<reqwest::Client, LlmError> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("codelab-core/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| {
            LlmError::Invalid(format!(
                "the HTTP client does not start: {}",
                failure::chain(&error)
            ))
        })
}
