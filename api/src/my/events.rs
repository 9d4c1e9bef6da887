//! The feed: everything that happens, in order, as a stream that can be taken up again at any point.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use engine::{id::SessionId, store::FeedBounds};
use futures::Stream;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::{
    App,
    auth::Caller,
    extract::{Path, Query},
    hub::{Full, Listener, Purpose},
    line::Format,
    my::agui,
    problem::{Code, Problem, ProblemBody},
    sse::{self, Begin, Filter, Order},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx not to hold events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Sessions or types that a filter may name.
const FILTER_LIMIT: usize = 100;

/// Which part of a session's feed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SessionFeedQuery {
    /// Events after this seq; 0: from the beginning; absent: from now on. The header `Last-Event-ID` wins.
    #[param(value_type = Option<i64>, minimum = 0)]
    after: Option<String>,
    /// Only these types, separated by commas.
    #[param(example = "task_completed,plan_completed")]
    types: Option<String>,
    /// `agui`: the run that goes on in this conversation, or the last one, from its beginning, as AG-UI events.
    #[param(example = "agui")]
    format: Option<String>,
    /// In the place of a token, where no header can be sent; see `POST /my/stream-tickets/`.
    #[serde(rename = "ticket")]
    _ticket: Option<String>,
}

/// Which part of your feed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FeedQuery {
    /// Events after this seq; 0: from the beginning; absent: from now on. The header `Last-Event-ID` wins.
    #[param(value_type = Option<i64>, minimum = 0)]
    after: Option<String>,
    /// Only these types, separated by commas.
    #[param(example = "task_completed,plan_completed")]
    types: Option<String>,
    /// In the place of a token, where no header can be sent; see `POST /my/stream-tickets/`.
    #[serde(rename = "ticket")]
    _ticket: Option<String>,
    /// Only these sessions, separated by commas.
    sessions: Option<String>,
}

/// The feed of a conversation.
///
/// Each stored event has its seq as `id`; reconnecting with `Last-Event-ID` misses nothing. Text on its way from a model
/// comes as `task_progress` without an id: `delta` goes on where the text of that step's `turn` is, `text` takes its place
/// (whoever comes later gets the text so far; an attempt that `supersedes` another takes its text back). Half a minute before
/// the token ends there is the event `auth_expiring`. The stream ends with the event `reconnect` when the service stops or the
/// token ends, and with `reset` when events after your cursor are forgotten: read the snapshot. With `Accept: application/x-ndjson` each event is a line of JSON.
#[utoipa::path(get, path = "/chat/{sid}/events/", operation_id = "stream_session_events", tag = "feed",
    params(("sid" = Uuid, Path, description = "The conversation"), SessionFeedQuery,
           ("Last-Event-ID" = Option<i64>, Header, description = "Seq of the last event seen")),
    responses(
    (status = 200, description = "Events, until one side hangs up", content((String = "text/event-stream"), (String = "application/x-ndjson"))),
    (status = 410, description = "Events after the cursor are forgotten; `see` leads to the snapshot", body = ProblemBody, content_type = "application/problem+json"),
    (status = 429, description = "Too many streams are open", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn of_session(
    State(app): State<App>,
    caller: Caller,
    Path(session): Path<SessionId>,
    Query(query): Query<SessionFeedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match query.format.as_deref() {
        None => {}
        Some("agui") if query.after.is_none() && query.types.is_none() => {
            return agui::of_session(&app, caller, session).await;
        }
        Some("agui") => {
            let why = "a run is shown from its beginning and whole: leave out after and types";
            return Err(Problem::query("format", "whole_only", why));
        }
        Some(_) => {
            let why = "give agui, or leave it out for events as they are stored";
            return Err(Problem::query("format", "unknown_choice", why));
        }
    }
    let after = cursor(&headers, query.after.as_deref())?;
    let types = list(query.types.as_deref(), "types", type_name)?;
    app.store
        .session(caller.scope, session)
        .await?
        .ok_or_else(Problem::not_found)?;
    stream(
        &app,
        caller,
        &headers,
        after,
        Filter {
            session: Some(session),
            sessions: None,
            types,
        },
    )
    .await
}

/// Your feed: all conversations, and the plans that belong to none. As the feed of one conversation otherwise.
#[utoipa::path(get, path = "/events/", operation_id = "stream_events", tag = "feed",
    params(FeedQuery, ("Last-Event-ID" = Option<i64>, Header, description = "Seq of the last event seen")),
    responses(
    (status = 200, description = "Events, until one side hangs up", content((String = "text/event-stream"), (String = "application/x-ndjson"))),
    (status = 410, description = "Events after the cursor are forgotten; `see` leads to the snapshot", body = ProblemBody, content_type = "application/problem+json"),
    (status = 429, description = "Too many streams are open", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn of_person(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<FeedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = cursor(&headers, query.after.as_deref())?;
    let types = list(query.types.as_deref(), "types", type_name)?;
    let sessions = list(query.sessions.as_deref(), "sessions", |session| {
        session.parse().ok()
    })?;
    stream(
        &app,
        caller,
        &headers,
        after,
        Filter {
            session: None,
            sessions,
            types,
        },
    )
    .await
}

async fn stream(
    app: &App,
    caller: Caller,
    headers: &HeaderMap,
    after: Option<Cursor>,
    filter: Filter,
) -> Result<Response, Problem> {
    let format = format_of(headers);
    let listener = join(app, caller)?;
    let chunks = follow(app, caller, listener, after, filter, format).await?;
    Ok(response(format, Body::from_stream(chunks)))
}

/// Joins the listeners of the person's feed.
pub(crate) fn join(app: &App, caller: Caller) -> Result<Listener, Problem> {
    let joined = app.hub.join(caller.scope, Purpose::Stream);
    joined.map_err(|full| too_many(full, app))
}

/// The chunks of a stream that begins after a seq; none: with what happens from now on.
pub(crate) async fn follow(
    app: &App,
    caller: Caller,
    listener: Listener,
    after: Option<Cursor>,
    filter: Filter,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Problem> {
    let begin = begin(app, caller, &listener, after, filter.session).await?;
    let left = (caller.expires_at - Utc::now())
        .to_std()
        .unwrap_or_default();
    let order = Order {
        scope: caller.scope,
        filter,
        format,
        begin,
        relay: app.config.relay.clone(),
        heartbeat: app.config.heartbeat,
        expires_at: caller.expires_at,
        expires: Instant::now() + left,
        stop: app.stop.clone(),
    };
    Ok(sse::chunks(app.store.clone(), listener, order))
}

/// A stream as it is answered.
pub(crate) fn response(format: Format, body: Body) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(match format {
                Format::Sse => "text/event-stream",
                Format::NdJson => "application/x-ndjson",
            }),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, no-transform"),
        ),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

fn too_many(full: Full, app: &App) -> Problem {
    match full {
        Full::Person => {
            let limit = app.config.max_streams_per_user;
            let detail = format!("you have {limit} streams open; close one first");
            Problem::new(Code::TooManyStreams, detail).retry_after(5)
        }
        Full::Process => {
            let detail =
                "this server has as many streams open as it can serve; another may have room";
            Problem::new(Code::Unavailable, detail).retry_after(5)
        }
    }
}

/// Where to begin. Postgres is asked for what is there where nothing here knows better.
async fn begin(
    app: &App,
    caller: Caller,
    listener: &Listener,
    after: Option<Cursor>,
    session: Option<SessionId>,
) -> Result<Begin, Problem> {
    let seq = after.map_or_else(|| listener.position(), |after| after.seq);
    if listener.holds(seq) {
        let history = after.is_some();
        return Ok(Begin { seq, history });
    }
    let FeedBounds { oldest, newest } = app.store.feed_bounds(caller.scope).await?;
    listener.start_after(newest);
    match after {
        None => Ok(Begin::now(newest)),
        Some(Cursor { seq, origin }) if seq > newest => {
            Err(origin.refuse("future_cursor", "there is no event of that seq yet"))
        }
        Some(Cursor { seq, .. }) if seq < oldest => Err(forgotten(oldest, session)),
        Some(Cursor { seq, .. }) => Ok(Begin {
            seq,
            history: seq < newest,
        }),
    }
}

/// The way on for a client that has been away for longer than events are kept.
fn forgotten(oldest: i64, session: Option<SessionId>) -> Problem {
    let detail = format!(
        "events after your cursor are forgotten; read the snapshot and go on from its cursor, or see what is left after {oldest}"
    );
    Problem::new(Code::EventsForgotten, detail).see(sse::snapshot_path(session))
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    seq: i64,
    origin: Origin,
}

/// Where a cursor stood.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Header,
    Query,
}

impl Cursor {
    /// After an event that is there.
    pub(crate) fn known(seq: i64) -> Self {
        Self {
            seq,
            origin: Origin::Query,
        }
    }
}

impl Origin {
    fn refuse(self, code: &str, detail: &str) -> Problem {
        match self {
            Self::Header => Problem::new(Code::BadHeader, format!("Last-Event-ID: {detail}")),
            Self::Query => Problem::query("after", code, detail),
        }
    }
}

/// What the header or the query says; the header wins, because a browser that reconnects repeats the old query.
fn cursor(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Cursor>, Problem> {
    let header = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty());
    let (text, origin) = match (header, query) {
        (Some(id), _) => (id.to_str().unwrap_or_default(), Origin::Header),
        (None, Some(text)) => (text, Origin::Query),
        (None, None) => return Ok(None),
    };
    // Digits only: a number's parser would also take a sign.
    let seq = text
        .parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    seq.map(|seq| Some(Cursor { seq, origin }))
        .ok_or_else(|| origin.refuse("bad_cursor", "give the seq of an event, or 0"))
}

fn list<T>(
    text: Option<&str>,
    parameter: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let items: Option<Vec<T>> = text.split(',').map(|item| read(item.trim())).collect();
    match items {
        Some(items) if items.len() <= FILTER_LIMIT => Ok(Some(items)),
        Some(_) => Err(Problem::query(
            parameter,
            "too_long",
            format!("name at most {FILTER_LIMIT}"),
        )),
        None => Err(Problem::query(
            parameter,
            "wrong_value",
            "this is not a list separated by commas",
        )),
    }
}

fn type_name(name: &str) -> Option<String> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (plain && (1..=64).contains(&name.len())).then(|| name.to_owned())
}

fn format_of(headers: &HeaderMap) -> Format {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let lines = accepted
        .flat_map(|value| value.split(','))
        .any(|kind| kind.trim().starts_with("application/x-ndjson"));
    if lines { Format::NdJson } else { Format::Sse }
}
