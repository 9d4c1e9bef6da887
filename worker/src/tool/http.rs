//! A tool behind an address: a POST of the arguments, whose answer is the result.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::Value;
use tokio::time::timeout;

use super::{Call, Egress, Trouble, receipt};

/// Bytes of a result.
const RESULT_BYTES: usize = 256 * 1024;
/// Bytes of a refusal that the model is told.
const REFUSAL_BYTES: usize = 2000;
/// Longest time to connect; nothing has happened yet when it is over.
const CONNECT: Duration = Duration::from_secs(10);
/// A server that asks for longer is not taken at its word.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Calls addresses.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    egress: Egress,
}

impl Http {
    /// Over one pool of connections; errors when TLS cannot start.
    pub fn new(egress: Egress) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .dns_resolver(std::sync::Arc::new(egress.clone()))
            .user_agent(concat!("codelab-core/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, egress })
    }

    pub(super) async fn call(&self, url: &str, call: &Call<'_>) -> Result<Value, Trouble> {
        let url = Url::parse(url)
            .map_err(|_| Trouble::Refused("the tool's address is no URL".to_owned()))?;
        self.egress.check(&url).map_err(Trouble::Refused)?;
        let request = self
            .client
            .post(url)
            .header("idempotency-key", call.key)
            .json(call.arguments);
        let limit = Duration::from_secs(u64::try_from(call.tool.timeout_seconds).unwrap_or(30));
        let answered = timeout(limit, answer(receipt(request, call.id))).await;
        answered.unwrap_or_else(|_| Err(Trouble::Unknown(format!("no answer within {limit:?}"))))
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value, Trouble> {
    let response = request.send().await.map_err(unsent)?;
    let status = response.status();
    let retry_after = retry_after(&response);
    match status.as_u16() {
        200..300 => result(response).await,
        // The server says that it has not begun; 503 without a time to come back says nothing.
        429 => Err(not_done(status, retry_after)),
        503 if retry_after.is_some() => Err(not_done(status, retry_after)),
        408 | 500.. => Err(Trouble::Unknown(format!("the tool answered {status}"))),
        _ => {
            let words = refusal(response).await;
            Err(Trouble::Refused(format!(
                "the tool answered {status}: {words}"
            )))
        }
    }
}

fn unsent(error: reqwest::Error) -> Trouble {
    // The URL may carry a secret.
    let error = error.without_url();
    if error.is_connect() {
        Trouble::NotDone {
            retry_after: None,
            detail: "the tool's server could not be reached".to_owned(),
        }
    } else if error.is_builder() {
        Trouble::Refused("the call could not be put together".to_owned())
    } else {
        Trouble::Unknown("the connection broke before an answer came".to_owned())
    }
}

fn not_done(status: StatusCode, retry_after: Option<Duration>) -> Trouble {
    Trouble::NotDone {
        retry_after,
        detail: format!("the tool answered {status}"),
    }
}

/// Only seconds are understood; a date is taken as no hint.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = value.trim().parse().ok()?;
    Some(std::cmp::min(Duration::from_secs(seconds), LONGEST_WAIT))
}

async fn result(response: Response) -> Result<Value, Trouble> {
    let json = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"));
    let body = read(response, RESULT_BYTES).await?;
    if body.len() > RESULT_BYTES {
        // It happened; only its words are too many.
        return Ok(Value::String(format!(
            "(the result is longer than {RESULT_BYTES} bytes and was not kept)"
        )));
    }
    let text = String::from_utf8_lossy(&body).replace('\0', "\u{fffd}");
    Ok(match serde_json::from_str(&text) {
        Ok(value) if json => value,
        _ => Value::String(text),
    })
}

async fn refusal(response: Response) -> String {
    let body = read(response, REFUSAL_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body[..std::cmp::min(body.len(), REFUSAL_BYTES)])
        .replace('\0', "\u{fffd}");
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// The body, or its beginning and a byte more than asked for.
async fn read(response: Response, limit: usize) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|_| Trouble::Unknown("the answer broke off in the middle".to_owned()))?;
        let room = (limit + 1).saturating_sub(body.len());
        body.extend_from_slice(&piece[..std::cmp::min(piece.len(), room)]);
        if body.len() > limit {
            break;
        }
    }
    Ok(body)
}
