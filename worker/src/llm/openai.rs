//! Chat Completions: `OpenAI`, and every server that speaks like it (vLLM, Ollama, llama.cpp …).
//!
//! Always streams. An answer is complete only when the vendor said why it stopped; whatever ends
//! before that is truncated, however cleanly the connection closed.

mod answer;

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sseer::EventStream;
use sseer::errors::EventStreamError;
use sseer::event::Event;
use tokio::time::timeout;

use engine::llm::{Line, Llm, LlmError, OfferedTool, OnDelta, Prompt, Role, ToolCall, Turn};

use super::Timeouts;
use super::capped::{Broken, capped};
use super::failure::{Report, chain, told};
use answer::{Answer, Offered};

/// Where `OpenAI` itself listens.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// Bytes read of an error's body.
const ERROR_BODY_LIMIT: usize = 16 * 1024;
/// How long to wait for usage and `[DONE]` once the model has stopped. The answer is complete by
/// then: it must not wait for a server that keeps the connection open.
const TAIL: Duration = Duration::from_secs(2);

/// A vendor that speaks Chat Completions.
#[derive(Debug)]
pub struct OpenAi {
    http: Client,
    endpoint: Url,
    key: Option<SecretString>,
    timeouts: Timeouts,
}

impl OpenAi {
    /// A vendor at `base_url` (`https://api.openai.com/v1`). Give it [`super::http_client`].
    ///
    /// [`LlmError::Invalid`] when the URL is not HTTP, or the key cannot stand in a header.
    pub fn new(
        http: Client,
        base_url: &str,
        key: Option<SecretString>,
        timeouts: Timeouts,
    ) -> Result<Self, LlmError> {
        let address = format!("{}/chat/completions", base_url.trim().trim_end_matches('/'));
        let endpoint = Url::parse(&address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        // The address is not repeated: people put credentials into URLs.
        let endpoint = endpoint
            .ok_or_else(|| LlmError::Invalid("OPENAI_BASE_URL is not an http(s) URL".to_owned()))?;
        if key
            .as_ref()
            .is_some_and(|key| HeaderValue::from_str(key.expose_secret().trim()).is_err())
        {
            return Err(LlmError::Invalid(
                "OPENAI_API_KEY has characters that no key has".to_owned(),
            ));
        }
        Ok(Self {
            http,
            endpoint,
            key,
            timeouts,
        })
    }

    async fn run(&self, prompt: &Prompt, on_delta: OnDelta<'_>) -> Result<Turn, LlmError> {
        let asked = Instant::now();
        let response = self.send(prompt).await?;
        let response = self.accept(response).await?;
        let first = self.timeouts.first_byte.saturating_sub(asked.elapsed());
        let bytes = capped(response.bytes_stream(), first, self.timeouts.idle);
        let offered = if prompt.tools.is_empty() {
            Offered::Nothing
        } else {
            Offered::Tools
        };
        self.listen(EventStream::new(bytes), offered, on_delta)
            .await
    }

    async fn send(&self, prompt: &Prompt) -> Result<Response, LlmError> {
        let mut request = self
            .http
            .post(self.endpoint.clone())
            .json(&self.body(prompt));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret().trim());
        }
        if cfg!(feature = "faults") {
            request = crate::tool::receipt(request, &prompt.call)
                .header("x-codelab-ordinal", prompt.call.ordinal);
        }
        match timeout(self.timeouts.first_byte, request.send()).await {
            Err(_) => Err(broken(&Broken::Silent(self.timeouts.first_byte))),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.unsent(error)),
        }
    }

    fn unsent(&self, error: reqwest::Error) -> LlmError {
        // The URL may carry credentials.
        let error = error.without_url();
        let detail = told(&chain(&error), self.key.as_ref());
        if error.is_builder() {
            LlmError::Invalid(detail)
        } else {
            LlmError::Transient(detail)
        }
    }

    fn body(&self, prompt: &Prompt) -> Value {
        let system = prompt
            .system
            .iter()
            .map(|text| json!({"role": "system", "content": text}));
        let lines = prompt.lines.iter().map(message);
        let mut body = json!({
            "model": prompt.model,
            "messages": system.chain(lines).collect::<Vec<_>>(),
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if !prompt.tools.is_empty() {
            body["tools"] = prompt.tools.iter().map(offered).collect();
        }
        if let Some(temperature) = prompt.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(max_tokens) = prompt.max_tokens {
            body[self.limit_field()] = json!(max_tokens);
        }
        if let Some(answer) = &prompt.schema {
            let schema = json!({"name": answer.name, "strict": true, "schema": answer.schema});
            body["response_format"] = json!({"type": "json_schema", "json_schema": schema});
        }
        body
    }

    /// `OpenAI`'s reasoning models refuse `max_tokens`; most other servers know nothing else.
    fn limit_field(&self) -> &'static str {
        if self.endpoint.host_str() == Some("api.openai.com") {
            "max_completion_tokens"
        } else {
            "max_tokens"
        }
    }

    /// Lets a stream pass; reads anything else as the error that it is.
    async fn accept(&self, response: Response) -> Result<Response, LlmError> {
        let status = response.status();
        let page = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let (json, html) = (
            page.starts_with("application/json"),
            page.starts_with("text/html"),
        );
        if status.is_success() && !json && !html {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let body = self.error_body(response).await;
        if !status.is_success() {
            let report = Report::from_body(status.as_u16(), &headers, chrono::Utc::now(), &body);
            return Err(report.into_error(self.key.as_ref()));
        }
        match serde_json::from_str::<Value>(&body) {
            Ok(value) if value.get("error").is_some_and(|error| !error.is_null()) => {
                Err(self.reported(&value))
            }
            _ => Err(LlmError::Invalid(
                "the server does not stream; is OPENAI_BASE_URL right (it often ends in /v1)?"
                    .to_owned(),
            )),
        }
    }

    /// As much of an error's body as comes in time; the status alone already says what to do.
    async fn error_body(&self, response: Response) -> String {
        let mut body = Vec::new();
        let bytes = capped(
            response.bytes_stream(),
            self.timeouts.idle,
            self.timeouts.idle,
        );
        let read = bytes.try_for_each(|piece| {
            body.extend_from_slice(
                &piece[..std::cmp::min(piece.len(), ERROR_BODY_LIMIT.saturating_sub(body.len()))],
            );
            let full = body.len() >= ERROR_BODY_LIMIT;
            std::future::ready(if full { Err(Broken::LongBody) } else { Ok(()) })
        });
        let _ = timeout(self.timeouts.idle, read).await;
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Hears the stream to its end.
    async fn listen<S>(
        &self,
        events: S,
        offered: Offered,
        on_delta: OnDelta<'_>,
    ) -> Result<Turn, LlmError>
    where
        S: Stream<Item = Result<Event, EventStreamError<Broken>>>,
    {
        let mut events = pin!(events);
        let mut answer = Answer::to(offered);
        while let Some(event) = next(&mut events, answer.has_stopped()).await? {
            match event.data.trim() {
                "" => {}
                "[DONE]" => {
                    // Lets a connection whose end has already arrived go back to the pool.
                    let _ = events.next().now_or_never();
                    break;
                }
                data => self.hear(&mut answer, &event.event, data, on_delta)?,
            }
        }
        answer.finish().map_err(|error| match error {
            LlmError::Refused(words) => LlmError::Refused(told(&words, self.key.as_ref())),
            other => other,
        })
    }

    fn hear(
        &self,
        answer: &mut Answer,
        kind: &str,
        data: &str,
        on_delta: OnDelta<'_>,
    ) -> Result<(), LlmError> {
        let chunk = answer::Chunk::parse(kind, data);
        let chunk = chunk.ok_or_else(|| {
            LlmError::Transient("a chunk of the stream is broken JSON".to_owned())
        })?;
        if let Some(error) = chunk.error() {
            return Err(self.reported(error));
        }
        answer.take(chunk, on_delta);
        Ok(())
    }

    fn reported(&self, error: &Value) -> LlmError {
        Report::from_json(error).into_error(self.key.as_ref())
    }
}

impl Llm for OpenAi {
    fn turn<'a>(
        &'a self,
        prompt: &'a Prompt,
        on_delta: OnDelta<'a>,
    ) -> BoxFuture<'a, Result<Turn, LlmError>> {
        Box::pin(self.run(prompt, on_delta))
    }
}

/// The next event; `None` at the end, and at any failure of the connection once the model has
/// stopped: what came until then is whole.
async fn next<S>(events: &mut S, stopped: bool) -> Result<Option<Event>, LlmError>
where
    S: Stream<Item = Result<Event, EventStreamError<Broken>>> + Unpin,
{
    let item = if stopped {
        timeout(TAIL, events.next()).await.ok().flatten()
    } else {
        events.next().await
    };
    match item.transpose() {
        Ok(event) => Ok(event),
        Err(EventStreamError::Transport(Broken::Silent(_) | Broken::Connection(_))) if stopped => {
            Ok(None)
        }
        Err(EventStreamError::Transport(error)) => Err(broken(&error)),
        Err(EventStreamError::Utf8Error(_)) => Err(LlmError::Transient(
            "a chunk of the stream is not UTF-8".to_owned(),
        )),
    }
}

/// Too much is never tried again: it would cost the same and end the same.
fn broken(error: &Broken) -> LlmError {
    match error {
        Broken::LongLine | Broken::LongBody => LlmError::Invalid(error.to_string()),
        Broken::Silent(_) | Broken::Connection(_) => {
            LlmError::Transient(told(&error.to_string(), None))
        }
    }
}

/// A line as Chat Completions has it.
fn message(line: &Line) -> Value {
    let mut message = json!({"role": role(line.role), "content": line.content});
    if !line.calls.is_empty() {
        let call = |call: &ToolCall| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
        message["tool_calls"] = line.calls.iter().map(call).collect();
    }
    if let Some(call) = &line.answers_call {
        message["tool_call_id"] = json!(call);
    }
    message
}

fn offered(tool: &OfferedTool) -> Value {
    json!({"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema}})
}

fn role(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}
