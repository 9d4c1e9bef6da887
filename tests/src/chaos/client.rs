//! A client of the public API that expects the worst: every request has one of three ends, and nothing panics.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::time::Duration;

use api::auth::{SecretString, dev_token};
use reqwest::{Client as Http, Method, RequestBuilder, Response};
use serde_json::Value;

use super::{
    history::{History, Reply},
    program::PEOPLE,
};
use crate::person::SECRET;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two tries of a request that may be repeated.
const PAUSE: Duration = Duration::from_millis(150);

/// One person's access.
#[derive(Debug, Clone)]
pub struct Client {
    /// Number of the person.
    pub person: usize,
    base: String,
    token: String,
    http: Http,
    history: History,
}

impl Client {
    /// Of the person with this number.
    pub fn new(base: &str, person: usize, history: &History) -> Self {
        Self::named(base, PEOPLE[person].0, person, history)
    }

    /// The same under another name.
    pub fn named(base: &str, name: &str, person: usize, history: &History) -> Self {
        let secret = SecretString::from(SECRET);
        let token = dev_token(&secret, name, Duration::from_hours(4), None, None).expect("a token");
        Self {
            person,
            base: base.to_owned(),
            token,
            http: Http::builder().no_proxy().build().expect("a client"),
            history: history.clone(),
        }
    }

    /// Posts once.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Reads; none while nobody answers.
    pub async fn get(&self, path: &str) -> Option<Value> {
        self.send(self.request(Method::GET, path))
            .await
            .taken()
            .cloned()
    }

    /// Posts again and again until there is an answer; for requests of which a second one does no harm.
    pub async fn insist(&self, path: &str, body: &Value) -> Reply {
        for _ in 0..400 {
            let reply = self.post(path, body).await;
            if !matches!(reply, Reply::Unknown(_)) {
                return reply;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Reply::Unknown("nobody answered for a minute".to_owned())
    }

    /// Opens a stream after a cursor.
    pub async fn stream(&self, after: i64) -> Option<Response> {
        let request = if after == 0 {
            self.request(Method::GET, "events/?after=0")
        } else {
            self.request(Method::GET, "events/")
                .header("last-event-id", after)
        };
        let opened = tokio::time::timeout(PATIENCE, request.send()).await;
        let response = opened.ok()?.ok()?;
        response.status().is_success().then_some(response)
    }

    /// Cries out when a text holds what belongs to somebody else.
    pub fn look_for_others(&self, what: &str, text: &str) {
        for (number, (_, canary)) in PEOPLE.iter().enumerate() {
            if number != self.person && text.contains(canary) {
                let outrage = format!("person {} read {canary} in {what}", self.person);
                self.history.write().outrages.push(outrage);
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/my/{path}", self.base))
            .bearer_auth(&self.token)
    }

    async fn send(&self, request: RequestBuilder) -> Reply {
        let sent = request.timeout(PATIENCE).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Reply::Unknown(error.to_string()),
        };
        let status = response.status().as_u16();
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return Reply::Unknown(error.to_string()),
        };
        self.look_for_others("an answer", &text);
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        match status {
            200..=299 => Reply::Taken(status, body),
            // Somebody between may have said it: what the service did is not known.
            500.. => Reply::Unknown(format!("{status} {text}")),
            _ => Reply::Refused(status, body),
        }
    }
}
