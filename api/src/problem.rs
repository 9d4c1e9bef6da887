//! Errors as people and programs see them: RFC 9457 `application/problem+json`.
//!
//! One total match turns what the store can say into an answer. A thing of somebody else and a thing that does not exist
//! give the same 404. A defect of ours is logged once, here, with its chain of causes, and answered without them.
//! [`crate::observe`] writes the body, because it knows the request's id.

use std::{error::Error, fmt::Write};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat, Utc};
use engine::{StoreError, plan::graph::GraphError};
use serde::Serialize;
use tracing::{error, warn};
use utoipa::ToSchema;

/// What went wrong, for programs. The words are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The body is not JSON.
    MalformedJson,
    /// A query parameter or a cursor.
    BadQuery,
    /// A header.
    BadHeader,
    /// No token, or not a good one.
    Unauthorized,
    /// Not there, or not yours.
    NotFound,
    /// The agent addressed is not there, or not yours.
    AgentNotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// None of the forms asked for exists.
    NotAcceptable,
    /// An agent of that name exists.
    NameTaken,
    /// Some other unique thing exists.
    Conflict,
    /// The plan has ended.
    PlanClosed,
    /// Nothing is asked about the plan.
    PlanFrozen,
    /// The step has ended.
    StepClosed,
    /// Only a failed step can be retried.
    StepNotFailed,
    /// The question was decided otherwise.
    AlreadyDecided,
    /// The time for an answer is up.
    TimedOut,
    /// What comes after the cursor is not kept any more.
    EventsForgotten,
    /// What was seen is not what is there.
    PreconditionFailed,
    /// The question cannot be taken up again.
    CannotReopen,
    /// Some time has to pass first.
    TooSoon,
    /// The body takes too long.
    TooSlow,
    /// The body is too large.
    BodyTooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// Fields are wrong; `errors` names them.
    Invalid,
    /// Ten messages of the session wait already.
    SessionFull,
    /// Too many streams are open.
    TooManyStreams,
    /// A defect of ours.
    Internal,
    /// A hundred steps of the agent wait already.
    AgentQueueFull,
    /// The database does not answer, or the process is stopping.
    Unavailable,
}

impl Code {
    /// Status, word and title: the whole table.
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedJson => (
                StatusCode::BAD_REQUEST,
                "malformed_json",
                "The body is not valid JSON",
            ),
            Self::BadQuery => (
                StatusCode::BAD_REQUEST,
                "bad_query",
                "A query parameter is wrong",
            ),
            Self::BadHeader => (StatusCode::BAD_REQUEST, "bad_header", "A header is wrong"),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "A valid bearer token is needed",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::AgentNotFound => (StatusCode::NOT_FOUND, "agent_not_found", "No such agent"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
            ),
            Self::NotAcceptable => (
                StatusCode::NOT_ACCEPTABLE,
                "not_acceptable",
                "Not available in that form",
            ),
            Self::NameTaken => (StatusCode::CONFLICT, "name_taken", "The name is taken"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "It exists already"),
            Self::PlanClosed => (StatusCode::CONFLICT, "plan_closed", "The plan has ended"),
            Self::PlanFrozen => (
                StatusCode::CONFLICT,
                "plan_frozen",
                "The plan cannot be changed",
            ),
            Self::StepClosed => (StatusCode::CONFLICT, "step_closed", "The step has ended"),
            Self::StepNotFailed => (
                StatusCode::CONFLICT,
                "step_not_failed",
                "The step cannot be retried",
            ),
            Self::AlreadyDecided => (
                StatusCode::CONFLICT,
                "already_decided",
                "It was decided before",
            ),
            Self::TimedOut => (StatusCode::GONE, "timed_out", "Its time is up"),
            Self::EventsForgotten => (
                StatusCode::GONE,
                "events_forgotten",
                "These events are not kept any more",
            ),
            Self::PreconditionFailed => (
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "It is not what you have seen",
            ),
            Self::CannotReopen => (
                StatusCode::CONFLICT,
                "cannot_reopen",
                "It cannot be taken up again",
            ),
            Self::TooSoon => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_soon",
                "Some time has to pass first",
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "too_slow",
                "The body took too long",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body must be JSON",
            ),
            Self::Invalid => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "validation_failed",
                "Some fields are wrong",
            ),
            Self::SessionFull => (
                StatusCode::TOO_MANY_REQUESTS,
                "session_full",
                "Too many messages are waiting",
            ),
            Self::TooManyStreams => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_streams",
                "Too many open streams",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong on our side",
            ),
            Self::AgentQueueFull => (
                StatusCode::SERVICE_UNAVAILABLE,
                "agent_queue_full",
                "The agent is busy",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Not available at the moment",
            ),
        }
    }
}

/// An answer that says what is wrong.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    /// Seconds after which the same request may succeed.
    retry_after: Option<u32>,
    /// The `WWW-Authenticate` of a 401.
    challenge: Option<&'static str>,
    /// Where to go on.
    see: Option<String>,
}

/// One wrong field or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The field, as a JSON pointer into the body; empty: the body itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/config/max_concurrency")]
    pointer: Option<String>,
    /// Or the query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// What is wrong, for programs.
    #[schema(example = "out_of_range")]
    code: String,
    /// What is wrong, for people.
    detail: String,
}

impl FieldError {
    /// A wrong field of the body.
    pub(crate) fn body(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(pointer.into()),
            parameter: None,
            code: code.to_owned(),
            detail: detail.into(),
        }
    }
}

impl From<&GraphError> for FieldError {
    fn from(error: &GraphError) -> Self {
        Self::body(error.pointer(), error.code(), error.to_string())
    }
}

/// RFC 9457, with the fields that programs of the first design expect.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// A stable name of the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    kind: String,
    /// The same in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong in this case.
    detail: &'a str,
    /// The kind of problem, for programs.
    #[schema(example = "not_found")]
    error_code: &'a str,
    /// When.
    timestamp: String,
    /// As in `X-Request-Id`.
    request_id: &'a str,
    /// Path of what to read instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    see: Option<&'a str>,
    /// Each wrong field or parameter.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            challenge: None,
            see: None,
        }
    }

    /// The one 404: it says nothing about what it is that is not there.
    pub(crate) fn not_found() -> Self {
        Self::new(Code::NotFound, "there is nothing here that you may see")
    }

    /// Wrong fields, all at once.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => only.detail.clone(),
            several => format!("{} fields are wrong; see errors", several.len()),
        };
        Self {
            errors,
            ..Self::new(Code::Invalid, detail)
        }
    }

    /// One wrong field of the body.
    pub(crate) fn field(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::body(pointer, code, detail)])
    }

    /// A wrong query parameter.
    pub(crate) fn query(parameter: &str, code: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = FieldError {
            pointer: None,
            parameter: Some(parameter.to_owned()),
            code: code.to_owned(),
            detail: detail.clone(),
        };
        Self {
            errors: vec![error],
            ..Self::new(Code::BadQuery, detail)
        }
    }

    /// A 401; the challenge follows RFC 6750: no error code where no token came.
    pub(crate) fn unauthorized(detail: impl Into<String>, token_came: bool) -> Self {
        let challenge = if token_came {
            r#"Bearer error="invalid_token""#
        } else {
            "Bearer"
        };
        Self {
            challenge: Some(challenge),
            ..Self::new(Code::Unauthorized, detail)
        }
    }

    /// The same, worth another try after some seconds.
    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// The same with the path of what to read instead.
    pub(crate) fn see(self, path: String) -> Self {
        Self {
            see: Some(path),
            ..self
        }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.code.row().0.as_u16()
    }

    /// The word for programs.
    pub(crate) fn word(&self) -> &'static str {
        self.code.row().1
    }

    /// What is wrong in this case.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Writes the body and what belongs to it into the response that carried it.
    pub(crate) fn render(&self, response: &mut Response, request_id: &str, now: DateTime<Utc>) {
        let (status, word, title) = self.code.row();
        let body = ProblemBody {
            kind: format!("/problems/{}", word.replace('_', "-")),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            error_code: word,
            timestamp: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            request_id,
            see: self.see.as_deref(),
            errors: &self.errors,
        };
        // Strings, numbers and lists of them: this cannot fail.
        *response.body_mut() = Body::from(serde_json::to_vec(&body).unwrap_or_default());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.remove(header::CONTENT_LENGTH);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
    }
}

impl IntoResponse for Problem {
    /// Only the status: the body is written by [`Problem::render`] on the way out.
    fn into_response(self) -> Response {
        let mut response = self.code.row().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { constraint } if constraint == "user_agents_name_key" => {
                Self::new(Code::NameTaken, "an agent of yours has this name already")
            }
            StoreError::Conflict { constraint } if constraint == "tools_pkey" => {
                Self::new(Code::NameTaken, "a tool of yours has this name already")
            }
            StoreError::Conflict { constraint } => {
                Self::new(Code::Conflict, format!("{constraint} is taken"))
            }
            StoreError::Graph(errors) => {
                Self::invalid(errors.iter().map(FieldError::from).collect())
            }
            passing @ (StoreError::Unavailable(_)
            | StoreError::PoolExhausted
            | StoreError::Again(_)) => {
                warn!(error = chain(&passing), "a request could not be served");
                Self::new(
                    Code::Unavailable,
                    "the database did not answer in time; try again",
                )
                .retry_after(1)
            }
            defect @ (StoreError::Decode { .. }
            | StoreError::Migrate(_)
            | StoreError::LeaseLost(_)
            | StoreError::Statement(_)) => {
                error!(
                    error = chain(&defect),
                    "a request failed by a defect of ours"
                );
                Self::new(
                    Code::Internal,
                    "the request failed; the log has it under this request_id",
                )
            }
        }
    }
}

/// An error with all that caused it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
