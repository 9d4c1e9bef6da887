//! Lists: one page at a time, by a cursor.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// Items of a page where nothing else is asked.
const DEFAULT_LIMIT: u16 = 50;
/// Most items of a page.
pub(crate) const LIMIT: u16 = 200;

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Most items to give; 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; null: this is the last one. Its form may change, and it is good for this list only.
    pub(crate) next_cursor: Option<String>,
}

impl PageQuery {
    /// For a list that asks for more than a page.
    pub(crate) fn new(limit: Option<u16>, cursor: Option<String>) -> Self {
        Self { limit, cursor }
    }

    /// How many items to give.
    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=LIMIT => Ok(usize::from(limit)),
            _ => Err(Problem::query(
                "limit",
                "out_of_range",
                format!("limit must be 1 to {LIMIT}"),
            )),
        }
    }

    /// Where to begin.
    pub(crate) fn cursor<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        let parsed = self.cursor.as_deref().map(str::parse).transpose();
        parsed.map_err(|_| {
            Problem::query(
                "cursor",
                "bad_cursor",
                "this is not a next_cursor of this list",
            )
        })
    }
}

/// How many rows to read for a page: one more says whether there is another page.
pub(crate) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).map_or(i64::MAX, |limit| limit.saturating_add(1))
}

impl<T> Page<T> {
    /// Makes a page of the rows read; `cursor` names the last row that stays on it.
    pub(crate) fn of<R>(mut found: Vec<R>, limit: usize, cursor: impl Fn(&R) -> String) -> Self
    where
        T: From<R>,
    {
        let more = found.len() > limit;
        found.truncate(limit);
        let next_cursor = found.last().filter(|_| more).map(cursor);
        Self {
            items: found.into_iter().map(T::from).collect(),
            next_cursor,
        }
    }
}
