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
mod wires;

use std::fmt::Write;

use super::layout::Layout;
use super::place::{Room, place};
use super::{Picture, PictureNode, label};
use crate::step::StateName;
use wires::Wires;

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

/// Pixels from the border of a box to its words: left (behind the symbol) and right.
const PADDING: (usize, usize) = (34, 12);

/// Sizes of letters in pixels.
const KEY_SIZE: usize = 13;
const LABEL_SIZE: usize = 11;
const TITLE_SIZE: usize = 16;

/// Pixels that a note takes at most, and that are kept for it beside the agent's name.
const NOTE_WIDTH: usize = 60;

/// Pixels of an entry of the legend beside its word, and from line to line.
const LEGEND_ENTRY: usize = 34;
const LEGEND_LINE: usize = 20;

/// A picture is at least so wide, in pixels.
const MIN_WIDTH: usize = 300;

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
    wires: Wires<'a>,
    box_width: usize,
    width: usize,
    height: usize,
    /// The foot of the legend's first line.
    bottom: usize,
    /// The middle of each slot.
    x: Vec<usize>,
    /// The upper edge of each row.
    y: Vec<usize>,
}

impl<'a> Sheet<'a> {
    fn new(picture: &'a Picture, layout: &'a Layout) -> Self {
        let box_width = picture.nodes.iter().map(wished_width).max().unwrap_or(0);
        let box_width = box_width.clamp(BOX_WIDTH.0, BOX_WIDTH.1);
        let x = middles(layout, box_width);
        let right = (0..x.len())
            .map(|slot| x[slot] + slot_width(layout, slot, box_width) / 2)
            .max()
            .unwrap_or(0);
        let title = std::cmp::min(pixels(&label::visible(&picture.title), TITLE_SIZE), 640);
        let width = MARGIN
            + [right, title + MARGIN, MIN_WIDTH]
                .into_iter()
                .fold(0, std::cmp::max);
        let wires = Wires::new(layout);
        let mut sheet = Self {
            picture,
            layout,
            wires,
            box_width,
            width,
            height: 0,
            bottom: 0,
            x,
            y: Vec::new(),
        };
        sheet.set_rows();
        sheet.centre(right + MARGIN);
        sheet
    }

    /// Sets the rows under each other.
    fn set_rows(&mut self) {
        let mut y = if self.picture.title.is_empty() {
            MARGIN
        } else {
            MARGIN + 40
        };
        for gap in self.wires.gaps(&self.x) {
            self.y.push(y);
            y += BOX_HEIGHT + gap;
        }
        self.bottom = self.y.last().map_or(y, |last| last + BOX_HEIGHT) + MARGIN + 12;
        self.height = self.legend().last().map_or(self.bottom, |entry| entry.3) + MARGIN;
    }

    /// A plan narrower than its title or legend stands in the middle.
    fn centre(&mut self, used: usize) {
        let shift = self.width.saturating_sub(used) / 2;
        self.x.iter_mut().for_each(|x| *x += shift);
    }

    fn open(&self, out: &mut String) {
        let (width, height) = (self.width, self.height);
        let title = label::visible(&self.picture.title);
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" class=\"cp\">"
        );
        let _ = writeln!(
            out,
            "<title>{}</title>",
            xml(if title.is_empty() { "Plan" } else { &title })
        );
        out.push_str(&style::sheet());
        out.push_str(style::SYMBOLS);
        let _ = writeln!(
            out,
            "<rect class=\"cp-page\" width=\"{width}\" height=\"{height}\" rx=\"12\"/>"
        );
        if !title.is_empty() {
            let clipped = clip(&title, TITLE_SIZE, width - 2 * MARGIN);
            let _ = writeln!(
                out,
                "<text class=\"cp-title\" x=\"{MARGIN}\" y=\"{}\">{}</text>",
                MARGIN + 14,
                xml(&clipped)
            );
        }
    }

    /// All lines as one path, all arrow heads as another: small, and quick to draw.
    fn write_lines(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "<path class=\"cp-line\" d=\"{}\"/>",
            self.wires.lines(&self.x, &self.y)
        );
        let _ = writeln!(
            out,
            "<path class=\"cp-head\" d=\"{}\"/>",
            self.wires.heads(&self.x, &self.y)
        );
    }

    fn write_box(&self, out: &mut String, slot: usize, node: &PictureNode) {
        let (left, top) = (
            self.x[slot] - self.box_width / 2,
            self.y[self.layout.row_of[slot]],
        );
        let (state, width) = (node.state.as_str(), self.box_width);
        let tooltip = xml(&label::tooltip(node));
        let _ = write!(out, "<g class=\"cp-{state}\"><title>{tooltip}</title>");
        let _ = write!(
            out,
            "<rect class=\"cp-box\" x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"9\"/>"
        );
        let (x, y) = (left + 10, top + 15);
        let _ = write!(
            out,
            "<use class=\"cp-icon\" href=\"#cp-{state}\" x=\"{x}\" y=\"{y}\"/>"
        );
        self.write_words(out, left, top, node);
        out.push_str("</g>\n");
    }

    fn write_words(&self, out: &mut String, left: usize, top: usize, node: &PictureNode) {
        let (start, end) = (left + PADDING.0, left + self.box_width - PADDING.1);
        let fit = |text: &str, size, room| clip(&label::visible(text), size, room);
        let remark = fit(node.note.as_deref().unwrap_or(""), LABEL_SIZE, NOTE_WIDTH);
        let taken = if remark.is_empty() {
            0
        } else {
            pixels(&remark, LABEL_SIZE) + 6
        };
        let agent = fit(&node.label, LABEL_SIZE, end - start - taken);
        // Without words below, the key stands in the middle of the height.
        let key_y = if agent.is_empty() && remark.is_empty() {
            top + 28
        } else {
            top + 20
        };
        let key = fit(&node.key, KEY_SIZE, end - start);
        let words = [
            ("key", start, key_y, key),
            ("label", start, top + 36, agent),
            ("note", end, top + 36, remark),
        ];
        for (class, x, y, words) in words.iter().filter(|words| !words.3.is_empty()) {
            let _ = write!(
                out,
                "<text class=\"cp-{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
                xml(words)
            );
        }
    }

    fn write_legend(&self, out: &mut String) {
        for (state, count, x, y) in self.legend() {
            let word = state.as_str();
            let _ = write!(
                out,
                "<g class=\"cp-{word}\"><use class=\"cp-icon\" href=\"#cp-{word}\" x=\"{x}\" y=\"{}\"/>",
                y - 12
            );
            let _ = writeln!(
                out,
                "<text class=\"cp-legend\" x=\"{}\" y=\"{y}\">{count} {word}</text></g>",
                x + 21
            );
        }
        if self.picture.nodes.is_empty() {
            let _ = writeln!(
                out,
                "<g><text class=\"cp-legend\" x=\"{MARGIN}\" y=\"{}\">no steps</text></g>",
                self.bottom
            );
        }
    }

    /// The entries of the legend with their places, in lines as wide as the plan: were the picture
    /// as wide as its legend, a change of states would move the boxes.
    fn legend(&self) -> Vec<(StateName, usize, usize, usize)> {
        let (mut x, mut y) = (MARGIN, self.bottom);
        let place = |(state, count)| {
            let width = legend_width(state, count);
            if x > MARGIN && x + width > self.width {
                (x, y) = (MARGIN, y + LEGEND_LINE);
            }
            let entry = (state, count, x, y);
            x += width;
            entry
        };
        self.picture.census().map(place).collect()
    }
}

/// The middle of each slot from the left edge of the page.
fn middles(layout: &Layout, box_width: usize) -> Vec<usize> {
    let slots = 0..layout.row_of.len();
    let widths: Vec<usize> = slots
        .map(|slot| slot_width(layout, slot, box_width))
        .collect();
    let middles = place(
        layout,
        Room {
            widths: &widths,
            gap: GAP,
            limit: None,
        },
    );
    middles
        .unwrap_or_default()
        .iter()
        .map(|middle| middle + MARGIN)
        .collect()
}

fn slot_width(layout: &Layout, slot: usize, box_width: usize) -> usize {
    if layout.is_step(slot) { box_width } else { 2 }
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

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, picture};

    #[test]
    fn a_chain() {
        let svg = picture("a:; b: a").to_svg();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"324\" height=\"250\" viewBox=\"0 0 324 250\""), "{svg}");
        let lines = "<path class=\"cp-line\" d=\"M162 110V144\"/>\n<path class=\"cp-head\" d=\"M162 144l-4.5 -8h9z\"/>\n";
        assert!(svg.contains(lines), "{svg}");
        assert!(svg.contains("<g class=\"cp-succeeded\"><title>a: succeeded, agent, 1.2 s</title><rect class=\"cp-box\""), "{svg}");
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn no_word_becomes_an_element_or_an_attribute() {
        let svg = hostile().to_svg();
        let (mut rest, mut names) = (svg.as_str(), std::collections::BTreeSet::new());
        while let Some((_, tag)) = rest.split_once('<') {
            let (tag, after) = tag.split_once('>').unwrap_or((tag, ""));
            names.insert(
                tag.split([' ', '/'])
                    .find(|name| !name.is_empty())
                    .unwrap_or(""),
            );
            assert!(
                !tag.contains("onload") && !tag.contains("javascript"),
                "{tag}"
            );
            rest = after;
        }
        let known = [
            "circle", "defs", "g", "path", "rect", "style", "svg", "text", "title", "use",
        ];
        assert_eq!(names.into_iter().collect::<Vec<_>>(), known);
        assert!(!svg.contains(['\u{1b}', '\u{0}', '\u{202e}', '\u{ffff}']));
    }

    #[test]
    fn words_that_do_not_fit_end_in_an_ellipsis_and_are_whole_in_the_tooltip() {
        let mut picture = picture("a:");
        picture.nodes[0].key = "w".repeat(60);
        let svg = picture.to_svg();
        assert!(svg.contains(&format!("<title>{}: succeeded", "w".repeat(60))));
        assert!(
            svg.contains(&format!(">{}…</text>", "w".repeat(11))),
            "{svg}"
        );
    }
}
