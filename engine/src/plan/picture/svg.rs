//! A plan as an SVG document.
//!
//! It stands alone: no scripts, no fonts or images from elsewhere, styles inside, colours for light
//! and dark pages by `prefers-color-scheme`. All names of classes and ids begin with `cp-`, so that
//! several pictures can stand in one page. A server that sends it should allow inline styles
//! (`style-src 'unsafe-inline'`) and nothing else.
//!
//! Widths of words are estimated (the reader's font is unknown) for a wide font, so that words stay
//! in their boxes; what is cut is whole in the tooltip.

mod style;

use std::fmt::Write;

use super::layout::Layout;
use super::place::{Room, place};
use super::{Picture, PictureNode, label};
use crate::step::StateName;

/// Boxes beside each other: about as wide as a screen. A wider level becomes several rows.
const PER_ROW: usize = 8;

/// Pixels around everything.
const MARGIN: usize = 24;

/// Pixels of a box.
const BOX_HEIGHT: usize = 46;

/// Least and largest width of the boxes, in pixels; within one picture all are equally wide.
const BOX_WIDTH: (usize, usize) = (124, 212);

/// Pixels between boxes beside each other.
const GAP: usize = 22;

/// Least and largest distance of rows, in pixels: lines that run far to the side need more.
const ROW_GAP: (usize, usize) = (34, 110);

/// Pixels from the border of a box to its words: left (behind the symbol) and right.
const PADDING: (usize, usize) = (34, 12);

/// Sizes of letters in pixels.
const KEY_SIZE: usize = 13;
const LABEL_SIZE: usize = 11;
const TITLE_SIZE: usize = 16;

/// Pixels that a note takes at most, and that are kept for it beside the agent's name.
const NOTE_WIDTH: usize = 60;

/// Pixels of an entry of the legend beside its word.
const LEGEND_ENTRY: usize = 34;

/// See [`Picture::to_svg`].
pub(super) fn draw(picture: &Picture) -> String {
    let layout = Layout::new(picture, PER_ROW);
    let sheet = Sheet::new(picture, &layout);
    let mut out = String::with_capacity(2_000 + 500 * picture.nodes.len());
    sheet.open(&mut out);
    sheet.write_lines(&mut out);
    for (slot, node) in picture.nodes.iter().enumerate() {
        sheet.write_box(&mut out, slot, node);
    }
    sheet.write_legend(&mut out);
    out.push_str("</svg>\n");
    out
}

/// A picture with all its places, in pixels.
struct Sheet<'a> {
    picture: &'a Picture,
    layout: &'a Layout,
    box_width: usize,
    width: usize,
    height: usize,
    /// The middle of each slot.
    x: Vec<usize>,
    /// The upper edge of each row.
    y: Vec<usize>,
}

impl<'a> Sheet<'a> {
    fn new(picture: &'a Picture, layout: &'a Layout) -> Self {
        let box_width = picture.nodes.iter().map(wished_width).max().unwrap_or(0);
        let box_width = box_width.clamp(BOX_WIDTH.0, BOX_WIDTH.1);
        let widths: Vec<usize> = (0..layout.row_of.len())
            .map(|slot| if layout.is_step(slot) { box_width } else { 2 })
            .collect();
        let room = Room { widths: &widths, gap: GAP, limit: None };
        let x: Vec<usize> = place(layout, room).unwrap_or_default().iter().map(|x| x + MARGIN).collect();
        let right = x.iter().zip(&widths).map(|(x, width)| x + width / 2).max().unwrap_or(0);
        let legend: usize = picture.census().map(|(state, count)| legend_width(state, count)).sum();
        let title = std::cmp::min(pixels(&label::visible(&picture.title), TITLE_SIZE), 640);
        let width = [right, legend + MARGIN, title + MARGIN, 240].into_iter().fold(0, std::cmp::max) + MARGIN;
        let mut sheet = Self { picture, layout, box_width, width, height: 0, x, y: Vec::new() };
        sheet.set_rows();
        sheet.centre(right + MARGIN);
        sheet
    }

    /// Sets the rows under each other, further apart where lines run far to the side.
    fn set_rows(&mut self) {
        let mut aside = vec![0; self.layout.rows.len()];
        for &(from, to) in &self.layout.links {
            let row = self.layout.row_of[from];
            aside[row] = std::cmp::max(aside[row], self.x[from].abs_diff(self.x[to]));
        }
        let mut y = if self.picture.title.is_empty() { MARGIN } else { MARGIN + 40 };
        for aside in aside {
            self.y.push(y);
            y += BOX_HEIGHT + (ROW_GAP.0 + aside / 12).clamp(ROW_GAP.0, ROW_GAP.1);
        }
        let bottom = self.y.last().map_or(y, |last| last + BOX_HEIGHT);
        self.height = bottom + 2 * MARGIN + 12;
    }

    /// A plan narrower than its title or legend stands in the middle.
    fn centre(&mut self, used: usize) {
        let shift = self.width.saturating_sub(used) / 2;
        self.x.iter_mut().for_each(|x| *x += shift);
    }

    fn open(&self, out: &mut String) {
        let (width, height) = (self.width, self.height);
        let title = label::visible(&self.picture.title);
        let _ = writeln!(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" class=\"cp\">");
        let _ = writeln!(out, "<title>{}</title>", xml(if title.is_empty() { "Plan" } else { &title }));
        out.push_str(&style::sheet());
        out.push_str(style::SYMBOLS);
        let _ = writeln!(out, "<rect class=\"cp-page\" width=\"{width}\" height=\"{height}\" rx=\"12\"/>");
        if !title.is_empty() {
            let clipped = clip(&title, TITLE_SIZE, width - 2 * MARGIN);
            let _ = writeln!(out, "<text class=\"cp-title\" x=\"{MARGIN}\" y=\"{}\">{}</text>", MARGIN + 14, xml(&clipped));
        }
    }

    /// All lines as one path, all arrow heads as another: small, and quick to draw.
    fn write_lines(&self, out: &mut String) {
        let mut lines = String::new();
        for &(from, to) in self.layout.links.iter().chain(&self.layout.shortcuts) {
            let (x, end) = (self.x[from], self.x[to]);
            let (y, stop) = (self.y[self.layout.row_of[from]] + BOX_HEIGHT, self.y[self.layout.row_of[to]]);
            let bend = y.midpoint(stop);
            if x == end {
                let _ = write!(lines, "M{x} {y}V{stop}");
            } else {
                let _ = write!(lines, "M{x} {y}C{x} {bend} {end} {bend} {end} {stop}");
            }
        }
        for point in self.layout.steps..self.layout.row_of.len() {
            let y = self.y[self.layout.row_of[point]];
            let _ = write!(lines, "M{} {y}v{BOX_HEIGHT}", self.x[point]);
        }
        let mut heads = String::new();
        let (above, _) = self.layout.neighbours();
        for step in (0..self.layout.steps).filter(|&step| !above[step].is_empty()) {
            let _ = write!(heads, "M{} {}l-4.5 -8h9z", self.x[step], self.y[self.layout.row_of[step]]);
        }
        let _ = writeln!(out, "<path class=\"cp-line\" d=\"{lines}\"/>\n<path class=\"cp-head\" d=\"{heads}\"/>");
    }

    fn write_box(&self, out: &mut String, slot: usize, node: &PictureNode) {
        let (left, top) = (self.x[slot] - self.box_width / 2, self.y[self.layout.row_of[slot]]);
        let (text, end) = (left + PADDING.0, left + self.box_width - PADDING.1);
        let room = end - text;
        let key = clip(&label::visible(&node.key), KEY_SIZE, room);
        let note = clip(&label::visible(node.note.as_deref().unwrap_or("")), LABEL_SIZE, NOTE_WIDTH);
        let taken = if note.is_empty() { 0 } else { pixels(&note, LABEL_SIZE) + 6 };
        let agent = clip(&label::visible(&node.label), LABEL_SIZE, room - taken);
        let state = node.state.as_str();
        let _ = write!(out, "<g class=\"cp-{state}\"><title>{}</title>", xml(&label::tooltip(node)));
        let _ = write!(out, "<rect class=\"cp-box\" x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{BOX_HEIGHT}\" rx=\"9\"/>", self.box_width);
        let _ = write!(out, "<use class=\"cp-icon\" href=\"#cp-{state}\" x=\"{}\" y=\"{}\"/>", left + 10, top + 15);
        // Without a name below, the key stands in the middle of the height.
        let key_y = if agent.is_empty() && note.is_empty() { top + 28 } else { top + 20 };
        let _ = write!(out, "<text class=\"cp-key\" x=\"{text}\" y=\"{key_y}\">{}</text>", xml(&key));
        if !agent.is_empty() {
            let _ = write!(out, "<text class=\"cp-label\" x=\"{text}\" y=\"{}\">{}</text>", top + 36, xml(&agent));
        }
        if !note.is_empty() {
            let _ = write!(out, "<text class=\"cp-note\" x=\"{end}\" y=\"{}\">{}</text>", top + 36, xml(&note));
        }
        out.push_str("</g>\n");
    }

    fn write_legend(&self, out: &mut String) {
        let (mut x, y) = (MARGIN, self.height - MARGIN);
        for (state, count) in self.picture.census() {
            let word = state.as_str();
            let _ = write!(out, "<g class=\"cp-{word}\"><use class=\"cp-icon\" href=\"#cp-{word}\" x=\"{x}\" y=\"{}\"/>", y - 12);
            let _ = writeln!(out, "<text class=\"cp-legend\" x=\"{}\" y=\"{y}\">{count} {word}</text></g>", x + 21);
            x += legend_width(state, count);
        }
        if self.picture.nodes.is_empty() {
            let _ = writeln!(out, "<text class=\"cp-legend\" x=\"{x}\" y=\"{y}\">no steps</text>");
        }
    }
}

fn legend_width(state: StateName, count: usize) -> usize {
    pixels(&format!("{count} {}", state.as_str()), LABEL_SIZE) + LEGEND_ENTRY
}

/// The width that a step's words ask for, with room for a note.
fn wished_width(node: &PictureNode) -> usize {
    let key = pixels(&label::visible(&node.key), KEY_SIZE);
    let label = pixels(&label::visible(&node.label), LABEL_SIZE) + NOTE_WIDTH;
    std::cmp::max(key, label) + PADDING.0 + PADDING.1
}

/// Estimated pixels of a text in letters of `size` pixels.
fn pixels(text: &str, size: usize) -> usize {
    (text.chars().map(hundredths).sum::<usize>() * size).div_ceil(100)
}

fn clip(text: &str, size: usize, max: usize) -> String {
    label::clip(text, max * 100 / size, hundredths)
}

/// Hundredths of the letter size that a letter takes in a wide sans-serif font.
fn hundredths(char: char) -> usize {
    match char {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 34,
        ' ' | 'f' | 't' | 'r' | '-' | '(' | ')' | '[' | ']' | '/' => 42,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 100,
        'A'..='Z' => 76,
        _ => [0, 66, 110][std::cmp::min(label::columns(char), 2)],
    }
}

/// In an attribute or between tags.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(char),
        }
    }
    out
}
