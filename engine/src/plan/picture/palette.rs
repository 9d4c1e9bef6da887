//! The colours of the states, the same in every format that has colours.
//!
//! Text on its fill has a contrast of at least 7 : 1, a line on the page at least 3 : 1 (blocked and
//! skipped are meant to stand back). Colour never tells alone: each state has a symbol too.

use crate::step::StateName;

/// The three colours of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tint {
    /// Of the box.
    pub(super) fill: &'static str,
    /// Of its border and symbol.
    pub(super) line: &'static str,
    /// Of its words.
    pub(super) text: &'static str,
}

const fn tint(fill: &'static str, line: &'static str, text: &'static str) -> Tint {
    Tint { fill, line, text }
}

/// On a light page.
pub(super) fn light(state: StateName) -> Tint {
    match state {
        StateName::Blocked => tint("#f1f5f9", "#94a3b8", "#334155"),
        StateName::Ready => tint("#ecfeff", "#0891b2", "#164e63"),
        StateName::Running => tint("#dbeafe", "#2563eb", "#1e3a8a"),
        StateName::Suspended => tint("#fef3c7", "#d97706", "#78350f"),
        StateName::Succeeded => tint("#dcfce7", "#16a34a", "#14532d"),
        StateName::Failed => tint("#fee2e2", "#dc2626", "#7f1d1d"),
        StateName::Skipped => tint("#f5f5f4", "#a8a29e", "#44403c"),
        StateName::Cancelled => tint("#f3e8ff", "#9333ea", "#581c87"),
    }
}

/// On a dark page.
pub(super) fn dark(state: StateName) -> Tint {
    match state {
        StateName::Blocked => tint("#1e293b", "#64748b", "#cbd5e1"),
        StateName::Ready => tint("#083344", "#22d3ee", "#cffafe"),
        StateName::Running => tint("#172554", "#60a5fa", "#dbeafe"),
        StateName::Suspended => tint("#451a03", "#fbbf24", "#fef3c7"),
        StateName::Succeeded => tint("#052e16", "#4ade80", "#dcfce7"),
        StateName::Failed => tint("#450a0a", "#f87171", "#fee2e2"),
        StateName::Skipped => tint("#292524", "#78716c", "#d6d3d1"),
        StateName::Cancelled => tint("#3b0764", "#c084fc", "#f3e8ff"),
    }
}
