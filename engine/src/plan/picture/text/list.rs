//! The plan as a list: one line for each step, indented by level, with its needs by name.

use std::collections::HashSet;

use super::canvas::{Canvas, Paint};
use crate::plan::picture::layout::Layout;
use crate::plan::picture::{Picture, PictureNode, label, symbol};

/// Deeper levels are not indented further; the needs say what the place no longer can.
const MAX_INDENT: usize = 8;

/// The widest column of keys, with indentation, before they are cut.
const MAX_KEY_COLUMN: usize = 40;

/// Columns that the agents' names have even in a narrow terminal, if they need them.
const MIN_LABEL: usize = 8;

/// Columns for a note.
const NOTE_WIDTH: usize = 10;

/// Always possible, in any width.
pub(super) fn draw(picture: &Picture, width: usize) -> Canvas {
    let layout = Layout::new(picture, usize::MAX);
    let indent = |step: usize| 2 * std::cmp::min(layout.row_of[step], MAX_INDENT);
    let mut order: Vec<usize> = (0..picture.nodes.len()).collect();
    order.sort_by_key(|&step| layout.row_of[step]);
    let columns = Columns::fit(picture, width, indent);
    let known = picture.nodes.iter().map(|node| node.key.as_str()).collect();
    let mut canvas = Canvas::default();
    for (line, &step) in order.iter().enumerate() {
        columns.write(&mut canvas, line, indent(step), &picture.nodes[step], &known);
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
        let keys = nodes().map(|(step, node)| indent(step) + 2 + len(&node.key)).max().unwrap_or(0);
        let labels = nodes().map(|(_, node)| len(&node.label)).max().unwrap_or(0);
        let label = std::cmp::min(keys, MAX_KEY_COLUMN) + 2;
        let note = label + std::cmp::min(labels, std::cmp::max(width / 5, MIN_LABEL)) + 2;
        Self { label, note, needs: note + NOTE_WIDTH, width }
    }

    fn write(&self, canvas: &mut Canvas, line: usize, indent: usize, node: &PictureNode, known: &HashSet<&str>) {
        let mut put = |column: usize, end: usize, text: &str, paint| {
            let room = std::cmp::min(end, self.width).saturating_sub(column);
            canvas.write(line, column, &label::clip(&label::visible(text), room, label::columns), paint);
        };
        let state = Paint::State(node.state);
        put(indent, indent + 1, &symbol(node.state).to_string(), state);
        put(indent + 2, self.label - 2, &node.key, Paint::Plain);
        put(self.label, self.note - 2, &node.label, Paint::Line);
        put(self.note, self.needs - 1, node.note.as_deref().unwrap_or(""), state);
        let needs: Vec<_> = node.needs.iter().map(String::as_str).filter(|need| known.contains(need)).collect();
        if !needs.is_empty() {
            put(self.needs, self.width, &needs_within(&needs, self.width.saturating_sub(self.needs)), Paint::Line);
        }
    }
}

/// `after a, b and 3 more`: as many as fit, and always how many there are.
fn needs_within(needs: &[&str], room: usize) -> String {
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
    let fitting = (0..=most).rev().map(shown).find(|text| label::width(text) <= room);
    fitting.unwrap_or_else(|| format!("after {}", needs.len()))
}
