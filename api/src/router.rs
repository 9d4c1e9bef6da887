//! The API at a glance. One list gives the routes and their description.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{Uri, uri::PathAndQuery},
    middleware::{from_fn, from_fn_with_state},
};
use tower::{
    Layer,
    util::{MapRequest, MapRequestLayer},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    App, auth,
    my::{
        agents, agui, approval_batch, approvals, events, graph, messages, new_plan, orchestrator,
        plans, policy, sessions, snapshot, steps, tickets, tool_calls, tools,
    },
    observe, openapi, ops,
    problem::{Code, Problem},
};

/// Largest body.
const BODY_BYTES: usize = 1024 * 1024;
/// Largest body of a plan, two thousand steps with a page of text each, and of a run that brings its whole conversation along.
const PLAN_BYTES: usize = 8 * 1024 * 1024;

/// What a person may ask, each for themselves.
fn my() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(agents::create, agents::list))
        .routes(routes!(
            agents::read,
            agents::replace,
            agents::change,
            agents::delete
        ))
        .routes(routes!(orchestrator::read, orchestrator::replace))
        .routes(routes!(sessions::create, sessions::list))
        .routes(routes!(sessions::read, sessions::change, sessions::delete))
        .routes(routes!(messages::list))
        .routes(routes!(messages::say))
        .routes(routes!(events::of_session))
        .routes(routes!(events::of_person))
        .routes(routes!(snapshot::of_session))
        .routes(routes!(snapshot::of_person))
        .routes(routes!(tickets::buy))
        .routes(routes!(plans::read, plans::edit))
        .routes(routes!(plans::cancel))
        .routes(routes!(plans::pause))
        .routes(routes!(plans::resume))
        .routes(routes!(plans::explain))
        .routes(routes!(steps::list))
        .routes(routes!(steps::cancel))
        .routes(routes!(steps::retry))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::read))
        .routes(routes!(approvals::confirm))
        .routes(routes!(approvals::reopen))
        .routes(routes!(approval_batch::batch))
        .routes(routes!(approvals::history))
        .routes(routes!(policy::read, policy::replace))
        .routes(routes!(policy::test))
        .routes(routes!(policy::grants))
        .routes(routes!(policy::revoke))
        .routes(routes!(tool_calls::list))
        .routes(routes!(tool_calls::read))
        .routes(routes!(tool_calls::result))
        .routes(routes!(tools::create, tools::list))
        .routes(routes!(tools::read, tools::replace, tools::delete))
        .routes(routes!(graph::read))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(new_plan::create, plans::list))
                .routes(routes!(agui::run))
                .layer(DefaultBodyLimit::max(PLAN_BYTES)),
        )
}

/// All routes, still open, and their description.
pub(crate) fn routes() -> (Parts, OpenApi) {
    let (my, my_document) = my().split_for_parts();
    let (open, open_document) = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(ops::health))
        .routes(routes!(ops::ready))
        .split_for_parts();
    let mut document = open_document.nest(openapi::MY, my_document);
    openapi::complete(&mut document);
    (Parts { my, open }, document)
}

/// The routes by who may ask.
pub(crate) struct Parts {
    my: Router<App>,
    open: Router<App>,
}

/// The whole service.
pub(crate) fn service(app: App) -> MapRequest<Router, fn(Request) -> Request> {
    let (Parts { my, open }, document) = routes();
    // The layer is around the whole nest, what is not there included: a new route cannot be born without it.
    let my = my
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), auth::authenticate));
    let router = open
        .nest(openapi::MY, my)
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(observe::observe))
        .with_state(app);
    MapRequestLayer::new(with_slash as fn(Request) -> Request).layer(router)
}

async fn not_found() -> Problem {
    Problem::not_found()
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "the header Allow says what this route takes",
    )
}

/// With and without a slash at its end is the same route under `/my/`.
fn with_slash(mut request: Request) -> Request {
    if let Some(uri) = slashed(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

fn slashed(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let plain = path.trim_end_matches('/');
    if !path.starts_with("/my/") || plain == openapi::MY || path.strip_suffix('/') == Some(plain) {
        return None;
    }
    let query = uri
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(format!("{plain}/{query}")).ok();
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_a_person_get_their_slash() {
        let table = [
            ("/my/agents", Some("/my/agents/")),
            ("/my/agents?limit=3", Some("/my/agents/?limit=3")),
            ("/my/agents//", Some("/my/agents/")),
            ("/my", None),
            ("/my//", None),
            ("/my/agents/", None),
            ("/myth", None),
            ("/health", None),
            ("/docs", None),
        ];
        for (path, expected) in table {
            let slashed = slashed(&Uri::from_static(path)).map(|uri| uri.to_string());
            assert_eq!(slashed.as_deref(), expected, "{path}");
        }
    }
}
