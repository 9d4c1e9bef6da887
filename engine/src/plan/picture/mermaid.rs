//! A plan as a Mermaid flowchart.
//!
//! Mermaid has no escaping but entities (`#35;`), reads directives and front matter anywhere, and
//! renders labels as HTML. So ids are ours (`n0`), and of a label only letters, digits and a few
//! harmless signs are written as they are.

use std::fmt::Write;

use super::palette::Tint;
use super::{Picture, PictureNode, label, layout, palette, symbol};
use crate::step::StateName;

/// Letters a box holds; the whole text is in the other formats' tooltips.
const MAX_COLUMNS: usize = 40;

/// See [`Picture::to_mermaid`].
pub(super) fn draw(picture: &Picture) -> String {
    let mut out = String::new();
    let title = label::visible(&picture.title);
    if !title.is_empty() {
        let _ = writeln!(out, "---\ntitle: \"{}\"\n---", yaml(&title));
    }
    out.push_str("flowchart TD\n");
    for (index, node) in picture.nodes.iter().enumerate() {
        let _ = writeln!(
            out,
            "  n{index}[\"{}\"]:::{}",
            lines(node),
            node.state.as_str()
        );
    }
    for (from, to) in layout::edges(picture) {
        let _ = writeln!(out, "  n{from} --> n{to}");
    }
    for (state, _) in picture.census() {
        let _ = writeln!(out, "  classDef {} {}", state.as_str(), style(state));
    }
    out
}

/// Symbol and key, agent, note: each in a line of its own.
fn lines(node: &PictureNode) -> String {
    let part = |text: &str| {
        entities(&label::clip(
            &label::visible(text),
            MAX_COLUMNS,
            label::columns,
        ))
    };
    let key = format!("{} {}", symbol(node.state), part(&node.key));
    let rest = [
        part(&node.label),
        node.note.as_deref().map(part).unwrap_or_default(),
    ];
    let rest = rest.iter().filter(|text| !text.is_empty());
    rest.fold(key, |lines, text| lines + "<br/>" + text)
}

/// Everything but letters, digits and a few signs as an entity of Mermaid.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if is_plain(char) || matches!(char, ' ' | '-' | '_' | '.' | ',' | '…' | label::REPLACED) {
            out.push(char);
        } else {
            let _ = write!(out, "#{};", u32::from(char));
        }
    }
    out
}

/// Inside a double-quoted YAML scalar; signs are escaped too, because Mermaid looks for directives
/// before it parses.
fn yaml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            // The title goes through a sanitizer of HTML, and what looks like a tag would be lost.
            '<' => out.push('‹'),
            '>' => out.push('›'),
            '&' => out.push('＆'),
            ' ' | '.' | ',' => out.push(char),
            _ if is_plain(char) => out.push(char),
            _ => {
                let _ = write!(out, "\\U{:08x}", u32::from(char));
            }
        }
    }
    out
}

/// Letters and digits, but for the two that Mermaid replaces its own entities with while it parses.
fn is_plain(char: char) -> bool {
    char.is_alphanumeric() && !matches!(char, 'ﬂ' | 'ß')
}

/// Mermaid knows one page only: light boxes, whose words are readable on a dark page too.
fn style(state: StateName) -> String {
    let Tint { fill, line, text } = palette::light(state);
    let more = match state {
        StateName::Running => ",stroke-width:3px",
        StateName::Ready | StateName::Skipped => ",stroke-dasharray:4 3",
        _ => "",
    };
    format!("fill:{fill},stroke:{line},color:{text}{more}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, picture};

    #[test]
    fn a_diamond() {
        let drawn = picture("top:; left: top; right_2: top; join: left right_2").to_mermaid();
        let expected = "\
---
title: \"A plan\"
---
flowchart TD
  n0[\"✔ top<br/>agent<br/>1.2 s\"]:::succeeded
  n1[\"✖ left<br/>agent\"]:::failed
  n2[\"⤼ right_2<br/>agent\"]:::skipped
  n3[\"⊘ join<br/>agent\"]:::cancelled
  n0 --> n1
  n0 --> n2
  n1 --> n3
  n2 --> n3
  classDef succeeded fill:#dcfce7,stroke:#16a34a,color:#14532d
  classDef failed fill:#fee2e2,stroke:#dc2626,color:#7f1d1d
  classDef skipped fill:#f5f5f4,stroke:#a8a29e,color:#44403c,stroke-dasharray:4 3
  classDef cancelled fill:#f3e8ff,stroke:#9333ea,color:#581c87
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn no_word_leaves_its_label() {
        let drawn = hostile().to_mermaid();
        for line in drawn.lines().filter(|line| line.contains('[')) {
            let inner = line
                .split_once("[\"")
                .zip(line.rsplit_once("\"]:::running"));
            let inside = inner
                .map(|((_, rest), _)| rest.trim_end_matches("\"]:::running").replace("<br/>", ""));
            let inside = inside.unwrap_or_else(|| line.to_owned());
            assert!(
                !inside.contains([
                    '"', '[', ']', '`', '<', '>', '(', '{', '%', '&', '\\', '\u{1b}', '\u{202e}'
                ]),
                "{line}"
            );
        }
        assert_eq!(
            drawn.lines().count(),
            3 + 1 + 14 + 13 + 1,
            "no word begins a line"
        );
        assert_eq!(
            drawn.lines().nth(1).map(|title| title.matches('"').count()),
            Some(2)
        );
        assert!(!drawn.contains("%%") && !drawn.contains("ﬂ°"));
    }
}
