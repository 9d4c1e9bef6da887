//! Bodies, paths and queries whose rejections are problems.
//!
//! A body is read in three passes, and each reports all it can: is it JSON (400), has it the right shape (422, the field
//! is named), is each field within its limits (422, all of them at once).

use std::{fmt, marker::PhantomData};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path as AxumPath, Query as AxumQuery, Request},
    http::{HeaderMap, StatusCode, header, request},
    response::{IntoResponse, Response},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;
use serde_path_to_error::{Path as SerdePath, Segment};

use tokio::time::timeout;

use crate::{
    App,
    problem::{Code, FieldError, Problem},
};

/// A JSON body that has been checked, or a JSON answer.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// Path parameters. What does not parse does not exist.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

/// Query parameters.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T> FromRequest<App> for Json<T>
where
    T: DeserializeOwned + garde::Validate<Context = ()>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "send the body as Content-Type: application/json",
            ));
        }
        let reading = timeout(app.config.patience.body, Bytes::from_request(request, app));
        let read = reading.await.map_err(|_| {
            Problem::new(
                Code::TooSlow,
                "the body did not come in time; send it at once",
            )
        })?;
        let bytes = read.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                Code::BodyTooLarge,
                "the body is larger than this route takes",
            ),
            _ => Problem::new(Code::MalformedJson, "the body broke off"),
        })?;
        let value: T = decode(&bytes)?;
        validate(&value, "")?;
        Ok(Self(value))
    }
}

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let path = AxumPath::from_request_parts(parts, state).await;
        path.map(|AxumPath(value)| Self(value))
            .map_err(|_| Problem::not_found())
    }
}

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        let query = AxumQuery::try_from_uri(&parts.uri);
        query
            .map(|AxumQuery(value)| Self(value))
            .map_err(|rejection| {
                let text = rejection.body_text();
                // "Failed to ...: <parameter>: <what is wrong>"
                let what = text
                    .split_once(": ")
                    .map_or(text.as_str(), |(_, what)| what);
                let (parameter, what) = what.split_once(": ").unwrap_or(("", what));
                let (code, _) = shape_code(what);
                Problem::query(parameter, code, what)
            })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Reads JSON text into its shape.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Postgres keeps no NUL, neither in text nor in jsonb.
    if bytes.windows(6).any(|window| window == br"\u0000") {
        refuse_nul(bytes)?;
    }
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut text).map_err(|error| {
        if error.inner().is_data() {
            wrong_shape(error.path(), error.inner(), "")
        } else {
            malformed(error.inner())
        }
    })?;
    text.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// Reads a JSON value that stands at `pointer` of the body into its shape, and checks its limits.
pub(crate) fn decode_at<T>(value: Value, pointer: &str) -> Result<T, Problem>
where
    T: DeserializeOwned + garde::Validate<Context = ()>,
{
    let Object(value) = serde_path_to_error::deserialize(value)
        .map_err(|error| wrong_shape(error.path(), error.inner(), pointer))?;
    validate(&value, pointer)?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(
        Code::MalformedJson,
        format!("the body is not valid JSON: {error}"),
    )
}

fn wrong_shape(path: &SerdePath, error: &serde_json::Error, base: &str) -> Problem {
    let text = error.to_string();
    // "... at line 1 column 17" speaks of the text; the pointer says it better.
    let what = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(what, _)| what);
    let (code, field) = shape_code(what);
    let mut pointer = base.to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => push_segment(&mut pointer, &index.to_string()),
            Segment::Map { key } => push_segment(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    // These two are noticed at the object and not at the field.
    if matches!(code, "missing_field" | "duplicate_field") {
        push_segment(&mut pointer, field.unwrap_or_default());
    }
    Problem::field(pointer, code, what)
}

/// The kind of a shape error, and the field that its text names.
fn shape_code(what: &str) -> (&'static str, Option<&str>) {
    const KINDS: [(&str, &str); 6] = [
        ("missing field `", "missing_field"),
        ("unknown field `", "unknown_field"),
        ("duplicate field `", "duplicate_field"),
        ("unknown variant `", "unknown_value"),
        ("invalid type: ", "wrong_type"),
        ("invalid value: ", "wrong_value"),
    ];
    let found = KINDS
        .iter()
        .find_map(|(start, code)| what.strip_prefix(start).map(|rest| (*code, rest)));
    found.map_or(("invalid", None), |(code, rest)| {
        (code, rest.split_once('`').map(|(field, _)| field))
    })
}

fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
}

/// Checks the limits of all fields at once.
fn validate<T: garde::Validate<Context = ()>>(value: &T, base: &str) -> Result<(), Problem> {
    let Err(report) = value.validate() else {
        return Ok(());
    };
    let error = |(path, error): (garde::Path, garde::Error)| {
        let pointer = format!("{base}{}", pointer_of(&path.to_string()));
        FieldError::body(pointer, limit_code(error.message()), error.message())
    };
    Err(Problem::invalid(
        report.into_inner().into_iter().map(error).collect(),
    ))
}

/// `steps[3].needs` as `/steps/3/needs`; our fields are words, so that nothing has to be escaped.
fn pointer_of(path: &str) -> String {
    let segments = path
        .split(['.', '[', ']'])
        .filter(|segment| !segment.is_empty());
    segments.fold(String::new(), |mut pointer, segment| {
        push_segment(&mut pointer, segment);
        pointer
    })
}

fn limit_code(message: &str) -> &'static str {
    const KINDS: [(&str, &str); 4] = [
        ("length is lower", "too_short"),
        ("length is greater", "too_long"),
        ("lower than", "out_of_range"),
        ("greater than", "out_of_range"),
    ];
    KINDS
        .iter()
        .find(|(start, _)| message.starts_with(start))
        .map_or("invalid", |(_, code)| code)
}

/// Finds the NUL that the text contains, unless it was an escaped backslash before `u0000`.
fn refuse_nul(bytes: &[u8]) -> Result<(), Problem> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    match nul_in(&value, String::new()) {
        Some(pointer) => {
            let detail = "texts and names cannot contain the character U+0000";
            Err(Problem::field(pointer, "nul_character", detail))
        }
        None => Ok(()),
    }
}

/// Depth is bounded by the parser (128).
fn nul_in(value: &Value, pointer: String) -> Option<String> {
    let at = |segment: &str| {
        let mut inner = pointer.clone();
        push_segment(&mut inner, segment);
        inner
    };
    match value {
        Value::String(text) => text.contains('\0').then_some(pointer),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| nul_in(item, at(&index.to_string()))),
        Value::Object(fields) => fields.iter().find_map(|(key, item)| {
            if key.contains('\0') {
                Some(pointer.clone())
            } else {
                nul_in(item, at(key))
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// A shape that comes as an object and not, as serde would also have it, as a list of its fields' values.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// For a field that holds an object.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For a field that holds a list of objects.
pub(crate) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let list: Vec<Object<T>> = Vec::deserialize(deserializer)?;
    Ok(list.into_iter().map(|Object(value)| value).collect())
}

/// What a patch says about a field that may be empty: nothing, or what it shall be. Its field needs `#[serde(default)]`.
#[derive(Debug, Default)]
pub(crate) enum Change<T> {
    /// It is not mentioned.
    #[default]
    Keep,
    /// It is set, or taken away with null.
    To(Option<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::To)
    }
}
