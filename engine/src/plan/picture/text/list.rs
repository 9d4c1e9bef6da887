//! The plan as a list: one line for each step, indented by level, with its needs by name.

use std::collections::HashSet;

use super::canvas::{Canvas, Paint};
use crate::plan::picture::{Picture, PictureNode, label, layout, symbol};

/// Deeper levels are not indented further; the needs say what the place no longer can.
const MAX_INDENT: usize = 8;

/// The widest column of keys, with indentation, before they are cut.
const MAX_KEY_COLUMN: usize = 40;

/// Columns that the needs have at least, before agents and notes have any.
const MIN_NEEDS: usize = 14;

/// Columns for a note.
const NOTE_WIDTH: usize = 10;

/// Always possible, in any width.
pub(super) fn draw(picture: &Picture, width: usize) -> Canvas {
    let (levels, _) = layout::levels(picture);
    let indent = |step: usize| 2 * std::cmp::min(levels[step], MAX_INDENT);
    let mut order: Vec<usize> = (0..picture.nodes.len()).collect();
    order.sort_by_key(|&step| levels[step]);
    let columns = Columns::fit(picture, width, indent);
    let known = picture.nodes.iter().map(|node| node.key.as_str()).collect();
    let mut canvas = Canvas::default();
    for (line, &step) in order.iter().enumerate() {
        columns.write(
            &mut canvas,
            line,
            indent(step),
            &picture.nodes[step],
            &known,
        );
    }
    canvas
}

/// Where the columns begin. None depends on states or notes.
struct Columns {
    label: usize,
    note: usize,
    needs: usize,
    width: usize,
}

impl Columns {
    fn fit(picture: &Picture, width: usize, indent: impl Fn(usize) -> usize) -> Self {
        let len = |text: &str| label::width(&label::visible(text));
        let nodes = || picture.nodes.iter().enumerate();
        let keys = nodes()
            .map(|(step, node)| indent(step) + 2 + len(&node.key))
            .max()
            .unwrap_or(0);
        let labels = nodes().map(|(_, node)| len(&node.label)).max().unwrap_or(0);
        let label = std::cmp::min(keys, MAX_KEY_COLUMN) + 2;
        let note = label + std::cmp::min(labels, width / 5) + 2;
        // In a narrow terminal the needs come first: they are what makes it a graph.
        let widest = [
            (note, note + NOTE_WIDTH),
            (label, label + NOTE_WIDTH),
            (label, label),
        ];
        let fits = |(_, needs): &(usize, usize)| needs + MIN_NEEDS <= width;
        let (note, needs) = widest.into_iter().find(fits).unwrap_or((label, label));
        Self {
            label,
            note,
            needs,
            width,
        }
    }

    fn write(
        &self,
        canvas: &mut Canvas,
        line: usize,
        indent: usize,
        node: &PictureNode,
        known: &HashSet<&str>,
    ) {
        let mut put = |column: usize, end: usize, text: &str, paint| {
            let room = std::cmp::min(end, self.width).saturating_sub(column);
            canvas.write(
                line,
                column,
                &label::clip(&label::visible(text), room, label::columns),
                paint,
            );
        };
        let state = Paint::State(node.state);
        let (label_end, note_end) = (self.note.saturating_sub(2), self.needs.saturating_sub(1));
        let needs = needs_within(node, known, self.width.saturating_sub(self.needs));
        put(indent, indent + 1, &symbol(node.state).to_string(), state);
        put(indent + 2, self.label - 2, &node.key, Paint::Plain);
        put(self.label, label_end, &node.label, Paint::Line);
        put(
            self.note,
            note_end,
            node.note.as_deref().unwrap_or(""),
            state,
        );
        put(self.needs, self.width, &needs, Paint::Line);
    }
}

/// `after a, b and 3 more`: as many as fit, and always how many there are.
fn needs_within(node: &PictureNode, known: &HashSet<&str>, room: usize) -> String {
    let needs = node
        .needs
        .iter()
        .map(String::as_str)
        .filter(|need| known.contains(need));
    let needs: Vec<&str> = needs.collect();
    if needs.is_empty() {
        return String::new();
    }
    let shown = |count: usize| {
        let names = needs[..count].join(", ");
        match needs.len() - count {
            0 => format!("after {names}"),
            more if count > 0 => format!("after {names} and {more} more"),
            more => format!("after {more} steps"),
        }
    };
    // A line holds few names; looking at more of 500 would only cost time.
    let most = std::cmp::min(needs.len(), 20);
    let fitting = (0..=most)
        .rev()
        .map(shown)
        .find(|text| label::width(text) <= room);
    fitting.unwrap_or_else(|| format!("after {}", needs.len()))
}
