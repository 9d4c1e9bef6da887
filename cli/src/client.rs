//! A small client of the public API: what `up`, `demo` and `watch` know of a running service, they know from here.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use engine::event::Event;
use futures::{Stream, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect::Policy};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sseer::EventStream;

/// Longest request that is not a stream, longer than the longest `Prefer: wait`.
const REQUEST_LIMIT: Duration = Duration::from_secs(70);

/// A service and a person's token for it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: SecretString,
}

/// What came over the stream.
#[derive(Debug)]
pub(crate) enum News {
    /// A durable event.
    Event(Event),
    /// A piece of text from a step's model.
    Delta(Piece),
    /// A word about the stream itself.
    Passing,
}

/// Text from a step's model.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Of which plan.
    pub(crate) plan: String,
    /// Of which step.
    pub(crate) key: String,
    /// Of which attempt, and which turn of it: each has a text of its own.
    pub(crate) turn: (u64, u64),
    /// Whether it replaces what was said before in this turn.
    pub(crate) anew: bool,
    /// The text.
    pub(crate) text: String,
}

impl News {
    /// What is no event of the feed has no `seq`.
    fn read(data: &str) -> Self {
        let Ok(document) = serde_json::from_str::<Value>(data) else {
            return Self::Passing;
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let payload = &document["payload"];
        let anew = payload["text"].is_string();
        let said = if anew {
            &payload["text"]
        } else {
            &payload["delta"]
        };
        if document["seq"].is_null()
            && let (Some(plan), Some(key), Some(text)) = (
                text(&document["plan_id"]),
                text(&payload["key"]),
                text(said),
            )
        {
            let number = |name: &str| payload[name].as_u64().unwrap_or(0);
            return Self::Delta(Piece {
                plan,
                key,
                turn: (number("attempt"), number("turn")),
                anew,
                text,
            });
        }
        serde_json::from_value(document).map_or(Self::Passing, Self::Event)
    }
}

impl Client {
    /// Talks to the service at `url`.
    pub(crate) fn new(url: &str, token: SecretString) -> anyhow::Result<Self> {
        let base = Url::parse(url)
            .with_context(|| format!("{url:?} is not a URL such as http://127.0.0.1:8080"))?;
        if !matches!(base.scheme(), "http" | "https") {
            bail!("{url:?} is not a URL such as http://127.0.0.1:8080");
        }
        // A redirect could carry the token to an address that nobody named.
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(5));
        // A proxy from the environment cannot reach this machine's own loopback.
        let http = if is_loopback(&base) {
            http.no_proxy()
        } else {
            http
        };
        Ok(Self {
            http: http.build().context("the HTTP client does not start")?,
            base,
            token,
        })
    }

    /// Gets a document.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        json(self.request(Method::GET, path)?.timeout(REQUEST_LIMIT)).await
    }

    /// Gets a document; none: there is none.
    pub(crate) async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let response = sent(self.request(Method::GET, path)?.timeout(REQUEST_LIMIT)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            Ok(None)
        } else {
            body(response).await.map(Some)
        }
    }

    /// Posts a document.
    pub(crate) async fn post(&self, path: &str, document: &Value) -> anyhow::Result<Value> {
        json(
            self.request(Method::POST, path)?
                .json(document)
                .timeout(REQUEST_LIMIT),
        )
        .await
    }

    /// Puts a document.
    pub(crate) async fn put(&self, path: &str, document: &Value) -> anyhow::Result<Value> {
        json(
            self.request(Method::PUT, path)?
                .json(document)
                .timeout(REQUEST_LIMIT),
        )
        .await
    }

    /// The events of a session, or of all, after a cursor (none: from now on), until the connection ends.
    pub(crate) async fn events(
        &self,
        session: Option<&str>,
        after: Option<i64>,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<News>> + use<>> {
        let mut path = session.map_or_else(
            || "my/events/".to_owned(),
            |session| format!("my/chat/{session}/events/"),
        );
        if let Some(after) = after {
            path = format!("{path}?after={after}");
        }
        let request = self
            .request(Method::GET, &path)?
            .header("accept", "text/event-stream");
        let response = sent(request).await?;
        if !response.status().is_success() {
            bail!(problem(response).await);
        }
        let events = EventStream::new(response.bytes_stream())
            .map_err(|error| anyhow::Error::msg(error.to_string()));
        Ok(events.map_ok(|event| News::read(&event.data)))
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let url = format!(
            "{}/{}",
            self.base.as_str().trim_end_matches('/'),
            path.trim_start_matches('/')
        );
        let url = Url::parse(&url).with_context(|| format!("{url:?} is not a URL"))?;
        Ok(self
            .http
            .request(method, url)
            .bearer_auth(self.token.expose_secret()))
    }
}

/// How a person of this machine reaches what listens there.
pub(crate) fn url_of(address: SocketAddr) -> String {
    let host = match address {
        SocketAddr::V4(four) if four.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V4(four) => four.ip().to_string(),
        SocketAddr::V6(six) if six.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V6(six) => format!("[{}]", six.ip()),
    };
    format!("http://{host}:{}", address.port())
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("").trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

async fn json(request: RequestBuilder) -> anyhow::Result<Value> {
    body(sent(request).await?).await
}

async fn sent(request: RequestBuilder) -> anyhow::Result<Response> {
    request.send().await.map_err(|error| {
        let place = error
            .url()
            .map(|url| url.origin().ascii_serialization())
            .unwrap_or_default();
        anyhow::Error::new(error.without_url()).context(format!("could not reach {place}"))
    })
}

async fn body(response: Response) -> anyhow::Result<Value> {
    if !response.status().is_success() {
        bail!(problem(response).await);
    }
    response
        .json()
        .await
        .context("the service's answer is not JSON")
}

/// An error answer in a sentence.
async fn problem(response: Response) -> String {
    let status = response.status();
    let problem: Value = response.json().await.unwrap_or_default();
    let said = problem["detail"]
        .as_str()
        .or_else(|| problem["title"].as_str())
        .unwrap_or("it gave no reason");
    let fields = problem["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|field| format!("; {field}"));
    format!(
        "the service answered {}: {said}{}",
        status.as_u16(),
        fields.collect::<String>()
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_by_loopback() {
        assert_eq!(url_of("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(url_of("[::]:80".parse().unwrap()), "http://[::1]:80");
        assert_eq!(url_of("10.1.2.3:80".parse().unwrap()), "http://10.1.2.3:80");
        assert!(is_loopback(
            &Url::parse(&url_of("[::1]:80".parse().unwrap())).unwrap()
        ));
    }
}
