//! A plan for Graphviz.
//!
//! In a quoted string of DOT a backslash begins an escape (`\N` is the node's name) and an ampersand
//! an entity, so that both are escaped beside the quote itself.

use std::fmt::Write;

use super::palette::Tint;
use super::{Picture, PictureNode, label, layout, palette, symbol};

/// Letters a box holds; the tooltip has more.
const MAX_COLUMNS: usize = 40;

/// See [`Picture::to_dot`].
pub(super) fn draw(picture: &Picture) -> String {
    let mut out =
        String::from("digraph plan {\n  graph [rankdir=TB, labelloc=t, fontname=\"Helvetica\"");
    let title = quoted(&label::visible(&picture.title));
    let _ = writeln!(out, ", label=\"{title}\"];");
    out.push_str(
        "  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=11];\n",
    );
    out.push_str("  edge [color=\"#94a3b8\", arrowsize=0.7];\n");
    for (index, node) in picture.nodes.iter().enumerate() {
        let Tint { fill, line, text } = palette::light(node.state);
        let _ = write!(
            out,
            "  n{index} [label=\"{}\", tooltip=\"{}\"",
            lines(node),
            tooltip(node)
        );
        let _ = writeln!(
            out,
            ", fillcolor=\"{fill}\", color=\"{line}\", fontcolor=\"{text}\"];"
        );
    }
    for (from, to) in layout::edges(picture) {
        let _ = writeln!(out, "  n{from} -> n{to};");
    }
    out.push_str("}\n");
    out
}

/// Symbol and key, agent, note: each in a line of its own.
fn lines(node: &PictureNode) -> String {
    let part = |text: &str| {
        quoted(&label::clip(
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
    rest.fold(key, |lines, text| lines + "\\n" + text)
}

fn tooltip(node: &PictureNode) -> String {
    quoted(&label::tooltip(node))
}

/// Within double quotes.
fn quoted(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, picture};
    use super::*;

    #[test]
    fn a_chain() {
        let drawn = picture("a:; b: a").to_dot();
        assert!(
            drawn.starts_with("digraph plan {\n") && drawn.ends_with("  n0 -> n1;\n}\n"),
            "{drawn}"
        );
        let first = "  n0 [label=\"✔ a\\nagent\\n1.2 s\", tooltip=\"a: succeeded, agent, 1.2 s\", fillcolor=\"#dcfce7\", color=\"#16a34a\", fontcolor=\"#14532d\"];";
        assert!(drawn.lines().any(|line| line == first), "{drawn}");
    }

    #[test]
    fn no_word_leaves_its_string() {
        for line in hostile()
            .to_dot()
            .lines()
            .filter(|line| line.contains("label="))
        {
            // Without escapes, what remains between quotes must be even and hold no quote.
            let bare = line.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(bare.matches('"').count() % 2, 0, "{line}");
            let outside: String = bare.split('"').step_by(2).collect();
            assert!(
                !outside.contains("evil") && !outside.contains("->"),
                "{line}"
            );
        }
        assert_eq!(quoted("\\N & \""), "\\\\N &amp; \\\"");
    }
}
