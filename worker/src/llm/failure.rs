//! What a vendor's failure means, and what of it may be told.
//!
//! The table is the same for an HTTP status and for an `{"error":…}` in the middle of a stream.
//! Money and refusals are told by words, because vendors hide them behind 400, 403 and 429.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use engine::llm::LlmError;

/// Bytes of an error's detail.
const DETAIL_LIMIT: usize = 500;
/// A vendor that asks for longer is not taken at its word; this also keeps `now + wait` in range.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// What a vendor said when it failed.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The HTTP status, or the one inside a stream's error.
    pub(super) status: Option<u16>,
    /// How long it asked to wait.
    pub(super) retry_after: Option<Duration>,
    /// The machine-readable words, the most precise first.
    words: Vec<String>,
    /// The words for people.
    message: String,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Rate,
    Transient,
    Budget,
    Invalid,
    Refused,
}

impl Report {
    /// Reads an error body: JSON in any of the shapes in use, else the text as it is.
    pub(super) fn from_body(
        status: u16,
        headers: &HeaderMap,
        now: DateTime<Utc>,
        body: &str,
    ) -> Self {
        let mut report = match serde_json::from_str::<Value>(body) {
            Ok(value) => Self::from_json(&value),
            Err(_) if body.trim_start().starts_with('<') => Self {
                message: "a page of HTML".to_owned(),
                ..Self::default()
            },
            Err(_) => Self {
                message: body.to_owned(),
                ..Self::default()
            },
        };
        report.status = Some(status);
        report.retry_after = retry_after(headers, now);
        report
    }

    /// Reads `{"error":{"message","type","code"}}`, `{"error":"…"}`, `[{"error":…}]`, or the inner object alone.
    pub(super) fn from_json(value: &Value) -> Self {
        let value = value.get(0).unwrap_or(value);
        let error = value
            .get("error")
            .filter(|error| !error.is_null())
            .unwrap_or(value);
        let text = |key| error.get(key).and_then(Value::as_str);
        let number = error
            .get("code")
            .and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()));
        Self {
            status: number
                .and_then(|code| u16::try_from(code).ok())
                .filter(|code| (400..600).contains(code)),
            retry_after: None,
            words: ["code", "type", "status"]
                .into_iter()
                .filter_map(text)
                .map(str::to_ascii_lowercase)
                .collect(),
            message: error
                .as_str()
                .or_else(|| text("message"))
                .or_else(|| text("detail"))
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// The error to return. `key` is taken out of its text.
    pub(super) fn into_error(self, key: Option<&SecretString>) -> LlmError {
        let detail = self.detail(key);
        match self.class() {
            Class::Rate => LlmError::RateLimited {
                detail,
                retry_after: self.retry_after,
            },
            Class::Transient if self.retry_after.is_some() => LlmError::RateLimited {
                detail,
                retry_after: self.retry_after,
            },
            Class::Transient => LlmError::Transient(detail),
            Class::Budget => LlmError::Budget(detail),
            Class::Invalid => LlmError::Invalid(detail),
            Class::Refused => LlmError::Refused(detail),
        }
    }

    fn class(&self) -> Class {
        let spoken = self.words.iter().find_map(|word| class_of_word(word));
        match (spoken, self.status) {
            (Some(class @ (Class::Budget | Class::Refused)), _) | (Some(class), None) => class,
            (_, Some(status)) => class_of_status(status),
            (None, None) => Class::Transient,
        }
    }

    fn detail(&self, key: Option<&SecretString>) -> String {
        let status = self.status.map(|status| status.to_string());
        let words = [status.as_deref(), self.words.first().map(String::as_str)];
        let head = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        match (head.is_empty(), self.message.is_empty()) {
            (_, true) => told(&head, key),
            (true, false) => told(&self.message, key),
            (false, false) => told(&format!("{head}: {}", self.message), key),
        }
    }
}

fn class_of_status(status: u16) -> Class {
    match status {
        429 => Class::Rate,
        402 => Class::Budget,
        408 | 409 | 425 | 500.. => Class::Transient,
        // 3xx too: redirects are off, and the same address will redirect again.
        _ => Class::Invalid,
    }
}

fn class_of_word(word: &str) -> Option<Class> {
    let begins = |heads: &[&str]| heads.iter().any(|head| word.starts_with(head));
    if begins(&[
        "insufficient_quota",
        "insufficient_credit",
        "credit_balance",
        "billing_",
        "enforced_spend_limit",
    ]) {
        Some(Class::Budget)
    } else if begins(&["content_filter", "content_policy"]) {
        Some(Class::Refused)
    } else if begins(&["rate_limit", "too_many_requests", "resource_exhausted"]) {
        Some(Class::Rate)
    } else if begins(&[
        "invalid_",
        "authentication_",
        "permission_",
        "not_found",
        "model_not_found",
        "context_length",
        "unsupported_",
    ]) {
        Some(Class::Invalid)
    } else {
        None
    }
}

/// `Retry-After` as seconds or as an HTTP date, or `retry-after-ms`, which the larger vendors add.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let date = |name: &str| text(name).and_then(|value| DateTime::parse_from_rfc2822(value).ok());
    let millis = text("retry-after-ms")
        .and_then(|value| value.parse().ok())
        .map(Duration::from_millis);
    let seconds = || {
        text(RETRY_AFTER.as_str())
            .and_then(|value| value.parse().ok())
            .map(Duration::from_secs)
    };
    let until = || {
        // Against the vendor's own clock where it tells it: ours may be minutes off.
        let now = date(DATE.as_str()).map_or(now, |date| date.to_utc());
        date(RETRY_AFTER.as_str()).map(|until| (until.to_utc() - now).to_std().unwrap_or_default())
    };
    let wait = millis.or_else(seconds).or_else(until)?;
    Some(std::cmp::min(wait, LONGEST_WAIT))
}

/// What may be told of a vendor's text: one line, without secrets, at most 500 bytes.
pub(super) fn told(text: &str, key: Option<&SecretString>) -> String {
    let key = key
        .map(|key| key.expose_secret().trim())
        .filter(|key| !key.is_empty());
    let text = key.map_or_else(|| text.to_owned(), |key| text.replace(key, "[key]"));
    let mut shown = String::new();
    let mut after_bearer = false;
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        if shown.len() > DETAIL_LIMIT {
            break;
        }
        if !shown.is_empty() {
            shown.push(' ');
        }
        // A credential is long; the word after "bearer" in a sentence ("bearer token") is not.
        let secret = looks_like_key(word) || (after_bearer && word.len() >= 16);
        shown.push_str(if secret { "[key]" } else { word });
        after_bearer = word.to_ascii_lowercase().ends_with("bearer");
    }
    cut(&shown, DETAIL_LIMIT).to_owned()
}

/// Vendors quote keys that are not ours to know (a proxy's own) or half of ours (`sk-ab***yz`).
fn looks_like_key(word: &str) -> bool {
    let starts = word.match_indices("sk-").map(|(at, _)| at);
    starts.into_iter().any(|at| {
        let free = !word[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        free && word[at..].len() >= 11
    })
}

/// The longest beginning of `text` of at most `limit` bytes.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// An error with its sources, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(status: u16, body: &Value) -> Class {
        Report::from_body(
            status,
            &HeaderMap::new(),
            DateTime::UNIX_EPOCH,
            &body.to_string(),
        )
        .class()
    }

    #[test]
    fn statuses_follow_the_table() {
        let table = [
            (Class::Rate, vec![429]),
            (Class::Budget, vec![402]),
            (
                Class::Transient,
                vec![408, 409, 425, 500, 502, 503, 504, 529],
            ),
            (Class::Invalid, vec![301, 307, 400, 401, 403, 404, 413, 422]),
        ];
        for (expected, statuses) in table {
            for status in statuses {
                assert_eq!(
                    class(status, &json!({"error": {"message": "no"}})),
                    expected,
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn words_win_over_the_status_for_money_and_refusals_only() {
        let error = |code: &str| json!({"error": {"code": code}});
        assert_eq!(class(429, &error("insufficient_quota")), Class::Budget);
        assert_eq!(
            class(
                429,
                &json!({"error": {"code": null, "type": "insufficient_quota"}})
            ),
            Class::Budget
        );
        assert_eq!(class(400, &error("content_filter")), Class::Refused);
        assert_eq!(class(503, &error("invalid_api_key")), Class::Transient);
    }

    #[test]
    fn errors_inside_a_stream_are_read_by_code_or_words() {
        let class = |value: Value| Report::from_json(&value).class();
        assert_eq!(class(json!({"error": {"code": 429}})), Class::Rate);
        assert_eq!(
            class(json!({"error": {"code": "502", "message": "upstream"}})),
            Class::Transient
        );
        assert_eq!(
            class(json!({"error": {"type": "overloaded_error"}})),
            Class::Transient
        );
        assert_eq!(
            class(json!({"error": {"type": "invalid_request_error"}})),
            Class::Invalid
        );
        assert_eq!(class(json!({"error": "out of memory"})), Class::Transient);
        assert_eq!(
            class(json!([{"error": {"status": "RESOURCE_EXHAUSTED"}}])),
            Class::Rate
        );
        assert_eq!(class(json!({"error": {"code": 70000}})), Class::Transient);
    }

    #[test]
    fn retry_after_is_read_in_each_form() -> Result<(), Box<dyn std::error::Error>> {
        let now = DateTime::parse_from_rfc2822("Sun, 06 Nov 1994 08:49:00 GMT")?.to_utc();
        let wait = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| {
                (
                    reqwest::header::HeaderName::from_static(name),
                    reqwest::header::HeaderValue::from_static(value),
                )
            });
            retry_after(&headers.collect(), now)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(wait(&[("retry-after", "7")]), seconds(7));
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]),
            seconds(37)
        );
        let told = [
            ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("date", "Sun, 06 Nov 1994 08:49:30 GMT"),
        ];
        assert_eq!(wait(&told), seconds(7), "the vendor's clock counts");
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]),
            seconds(0)
        );
        assert_eq!(
            wait(&[("retry-after", "9"), ("retry-after-ms", "250")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            wait(&[("retry-after", "18446744073709551615")]),
            Some(LONGEST_WAIT)
        );
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        Ok(())
    }

    #[test]
    fn what_is_told_has_no_secret_no_newline_and_an_end() {
        let key = SecretString::from("hunter2hunter2");
        let text = "bad key hunter2hunter2\nAuthorization: Bearer abcdefghijklmnop0123\u{7} or \"sk-abc****wxyz\"";
        assert_eq!(
            told(text, Some(&key)),
            "bad key [key] Authorization: Bearer [key] or [key]"
        );
        assert_eq!(
            told("a bearer token, a task-runner-of-ours", None),
            "a bearer token, a task-runner-of-ours"
        );
        assert_eq!(told(&"ж".repeat(400), None).len(), DETAIL_LIMIT);
    }
}
