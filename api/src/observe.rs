//! Around every request: its id, its line in the log, and the body of a problem.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use chrono::Utc;
use tracing::{Instrument, debug, info, info_span};
use uuid::Uuid;

use crate::problem::Problem;

/// On every response, and taken over from the request if it is a plain short word.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request an id, logs one line (never the query or the body: they are the person's), and writes problems out.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = info_span!("api.request", request_id = id);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.render(&mut response, &id, Utc::now());
    }
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let entered = span.entered();
    match route.as_ref().map(MatchedPath::as_str) {
        // Asked every few seconds by whoever watches over the process.
        Some(route @ ("/health" | "/ready")) => {
            debug!(%method, route, status, duration_ms, "request");
        }
        route => info!(%method, route = route.unwrap_or("none"), status, duration_ms, "request"),
    }
    drop(entered);
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let plain = |id: &&str| {
        (1..=64).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    given
        .filter(plain)
        .map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_taken_over_and_anything_else_replaced() {
        let with = |value: &str| {
            HeaderMap::from_iter([(
                REQUEST_ID,
                HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("")),
            )])
        };
        assert_eq!(request_id(&with("abc-1._Z")), "abc-1._Z");
        for odd in ["", "a b", "a\"b", "ü", &"x".repeat(65)] {
            assert_eq!(request_id(&with(odd)).len(), 32, "{odd}");
        }
    }
}
