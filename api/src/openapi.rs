//! The API's description (`OpenAPI` 3.1), made from the handlers. What holds for many routes is added here to all of them,
//! so that a new route cannot forget to say it.

use utoipa::openapi::{
    ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder,
    path::{Operation, ParameterIn},
    schema::ComponentsBuilder,
    security::{
        ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
    },
};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    problem::{FieldError, ProblemBody},
    router,
};

/// The query parameter that stands for a token where no header can be sent.
const TICKET: &str = "ticket";
/// What precedes the routes of a person.
pub(crate) const MY: &str = "/my";

/// The document, as served at `/openapi.json`.
pub fn document() -> OpenApi {
    router::routes().1
}

/// The document without its routes.
pub(crate) fn base() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .build();
    let components = ComponentsBuilder::new()
        .schema(ProblemBody::name(), ProblemBody::schema())
        .schema(FieldError::name(), FieldError::schema())
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme(
            "ticket",
            SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::new(TICKET))),
        )
        .build();
    let info = InfoBuilder::new()
        .title("Codelab Core")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "A private team of AI agents: messages become plans, plans are carried out durably, and the feed shows it. \
             Errors are RFC 9457 problems; lists are pages with a cursor; every response has an X-Request-Id.",
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .build()
}

/// Adds what holds for every route of its kind.
pub(crate) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ]
        .into_iter()
        .filter_map(Option::as_mut);
        for operation in operations {
            if path.starts_with(MY) {
                complete_operation(operation);
            }
        }
    }
}

fn complete_operation(operation: &mut Operation) {
    let mut security = vec![SecurityRequirement::new("bearer", [] as [&str; 0])];
    let parameters = operation.parameters.iter().flatten();
    if parameters
        .clone()
        .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == TICKET))
    {
        security.push(SecurityRequirement::new(TICKET, [] as [&str; 0]));
    }
    operation.security = Some(security);
    let takes = |place: ParameterIn| {
        let mut parameters = operation.parameters.iter().flatten();
        parameters.any(
            |parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == place),
        )
    };
    let (path, query, body) = (
        takes(ParameterIn::Path),
        takes(ParameterIn::Query),
        operation.request_body.is_some(),
    );
    add(operation, "401", "No valid token", true);
    add(
        operation,
        "400",
        "The body is not JSON, or a parameter is wrong",
        query || body,
    );
    add(operation, "404", "Not there, or not yours", path);
    add(operation, "408", "The body took too long", body);
    add(operation, "413", "The body is too large", body);
    add(operation, "415", "The body is not declared as JSON", body);
    add(operation, "422", "Fields are wrong; each is named", body);
    add(operation, "500", "A defect of the service", true);
    add(
        operation,
        "503",
        "Not available at the moment; see Retry-After",
        true,
    );
}

fn add(operation: &mut Operation, status: &str, description: &str, applies: bool) {
    if applies {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| problem(description).into());
    }
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
}
