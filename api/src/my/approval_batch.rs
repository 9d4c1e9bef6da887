//! Answers to several questions at once.

use axum::extract::State;
use engine::id::WaitId;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    App,
    auth::Caller,
    extract::{Json, object, objects},
    my::approvals::{Answer, Approval, settle},
    problem::Problem,
};

/// Answers of one batch.
const BATCH: usize = 50;

/// Answers to several questions.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Batch {
    /// At most 50, each with an answer of its own.
    #[serde(deserialize_with = "objects")]
    #[garde(length(min = 1, max = BATCH), dive)]
    items: Vec<BatchItem>,
}

/// An answer to one of them.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct BatchItem {
    /// The question.
    #[garde(skip)]
    id: Uuid,
    /// What was seen; another digest is not answered.
    #[garde(skip)]
    if_match: Option<String>,
    /// The answer.
    #[serde(deserialize_with = "object")]
    #[garde(dive)]
    answer: Answer,
}

/// What became of each answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Report {
    items: Vec<ReportItem>,
}

/// What became of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReportItem {
    id: Uuid,
    /// As the answer alone would have got: 200, 404, 409, 410, 412, 422.
    #[schema(example = 200)]
    status: u16,
    /// The question as it is now, where the answer was taken.
    approval: Option<Approval>,
    /// Why it was not: a stable word.
    error_code: Option<String>,
    /// The same for people.
    detail: Option<String>,
}

/// Decides several questions, each by itself: one that is refused keeps none of the others from being taken.
#[utoipa::path(post, path = "/approvals/batch-confirm/", operation_id = "confirm_approvals", tag = "approvals", request_body = Batch, responses(
    (status = 200, description = "What became of each", body = Report)))]
pub(crate) async fn batch(
    State(app): State<App>,
    caller: Caller,
    Json(batch): Json<Batch>,
) -> Result<Json<Report>, Problem> {
    let mut items = Vec::with_capacity(batch.items.len());
    for item in batch.items {
        let settled = settle(
            &app,
            caller,
            WaitId(item.id),
            item.if_match.as_deref(),
            &item.answer,
        );
        let report = ReportItem {
            id: item.id,
            status: 200,
            approval: None,
            error_code: None,
            detail: None,
        };
        items.push(match settled.await {
            Ok(approval) => ReportItem {
                approval: Some(approval),
                ..report
            },
            Err(problem) => ReportItem {
                status: problem.status(),
                error_code: Some(problem.word().to_owned()),
                detail: Some(problem.detail().to_owned()),
                ..report
            },
        });
    }
    Ok(Json(Report { items }))
}
