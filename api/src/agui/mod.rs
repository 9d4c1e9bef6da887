//! AG-UI 1.0 over the feed: the same events in the words that front ends of that protocol know.
//!
//! ```text
//! POST -> input (checked, ids derived) -> accept, attach or resume -> stream: feed -> translate -> words
//! ```
//!
//! A run of AG-UI is a stretch of one plan: from its message to its end, or to where it can only go on with an answer from
//! outside; the run that brings the answers is the next stretch. Where a run begins and ends follows from the stored events
//! alone, so that a request that comes twice sees the same run twice and never begins it again. Nothing here keeps a state of
//! its own: ids are derived from the names that the client gives, and everything else is in the feed.

pub(crate) mod ask;
pub(crate) mod input;
pub(crate) mod steps;
pub(crate) mod stream;
mod text;
pub(crate) mod translate;
mod words;
