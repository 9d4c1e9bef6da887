//! Boxes in rows, and the lines between them.

use super::canvas::{Canvas, Paint};
use super::channel::{self, Channel};
use super::ports::{self, Entry, Ground, Lines};
use crate::plan::picture::layout::Layout;
use crate::plan::picture::place::{Room, place};
use crate::plan::picture::{Picture, PictureNode, label, symbol};

/// More boxes than this nobody takes in at once, and few terminals are as high.
const MAX_BOXES: usize = 30;

/// More lines than this between two rows nobody follows.
const MAX_CHANNEL: usize = 6;

/// More crossings than this in all are a tangle: the list says more.
const MAX_CROSSINGS: usize = 12;

/// Lines of a box: border, key, agent and note, border.
const BOX_HEIGHT: usize = 4;

/// Columns kept beside the agent's name for a note ("attempt 2"), so that it can come and go.
const NOTE_WIDTH: usize = 10;

/// Inner columns of a box: odd, so that a box has a middle.
const INNER: std::ops::RangeInclusive<usize> = 11..=25;

/// Columns that borders and margins add to the inner ones.
const FRAME: usize = 4;

/// Columns between boxes.
const GAP: usize = 2;

/// How many boxes may stand beside each other: as the plan has it, else fewer, in more rows.
const PER_ROW: [usize; 4] = [usize::MAX, 4, 3, 2];

/// The picture within `width` columns; `None` if it is too large or cannot be drawn honestly.
pub(super) fn draw(picture: &Picture, width: usize) -> Option<Canvas> {
    if picture.nodes.is_empty() || picture.nodes.len() > MAX_BOXES {
        return None;
    }
    let wish = picture.nodes.iter().map(wished_inner).max()? | 1;
    let widest = wish.clamp(*INNER.start(), *INNER.end());
    PER_ROW.into_iter().find_map(|per_row| {
        let layouts = [
            Layout::new(picture, per_row),
            Layout::with_own_lines(picture, per_row),
        ];
        let layouts = layouts
            .iter()
            .filter(|layout| layout.crossings(&layout.neighbours().1) <= MAX_CROSSINGS);
        let layouts: Vec<&Layout> = layouts.collect();
        let inners = (0..=(widest - INNER.start()) / 2).map(|less| widest - 2 * less);
        let tries = inners.flat_map(|inner| layouts.iter().map(move |layout| (inner, layout)));
        let mut tries =
            tries.map(|(inner, layout)| Boxes::place(picture, layout, inner, width)?.draw());
        tries.find_map(|canvas| canvas)
    })
}

/// Columns that a step's words ask for.
fn wished_inner(node: &PictureNode) -> usize {
    let key = label::width(&label::visible(&node.key)) + 2;
    let label = label::width(&label::visible(&node.label)) + NOTE_WIDTH;
    std::cmp::max(key, label)
}

/// Boxes with their places.
struct Boxes<'a> {
    picture: &'a Picture,
    layout: &'a Layout,
    inner: usize,
    /// The middle column of each slot.
    middles: Vec<usize>,
}

impl<'a> Boxes<'a> {
    fn place(picture: &'a Picture, layout: &'a Layout, inner: usize, width: usize) -> Option<Self> {
        let slots = 0..layout.row_of.len();
        let slot_width = |slot| {
            if layout.is_step(slot) {
                inner + FRAME
            } else {
                1
            }
        };
        let widths: Vec<usize> = slots.map(slot_width).collect();
        let middles = place(
            layout,
            Room {
                widths: &widths,
                gap: GAP,
                limit: Some(width),
            },
        )?;
        Some(Self {
            picture,
            layout,
            inner,
            middles,
        })
    }

    fn draw(&self) -> Option<Canvas> {
        let mut canvas = Canvas::default();
        let mut line = 0;
        for (row, slots) in self.layout.rows.iter().enumerate() {
            let links = self.links_into(row);
            let (channel, entries) = self.route(&links)?;
            for (down, column, glyph) in channel.strokes {
                canvas.write(
                    line + down,
                    column,
                    glyph.encode_utf8(&mut [0; 4]),
                    Paint::Line,
                );
            }
            if !links.is_empty() {
                line += channel.height;
            }
            for &slot in slots {
                self.draw_slot(&mut canvas, line, slot);
            }
            for (slot, column) in entries {
                if let Some(node) = self.picture.nodes.get(slot) {
                    canvas.write(line, column, "▼", Paint::State(node.state));
                }
            }
            line += BOX_HEIGHT;
        }
        Some(canvas)
    }

    fn links_into(&self, row: usize) -> Vec<(usize, usize)> {
        let links = self.layout.links.iter().copied();
        links
            .filter(|(_, to)| self.layout.row_of[*to] == row)
            .collect()
    }

    /// The lines into a row, and the slots and columns where they enter.
    fn route(&self, links: &[(usize, usize)]) -> Option<(Channel, Vec<(usize, usize)>)> {
        let reach = |slot| {
            if self.layout.is_step(slot) {
                self.inner / 2
            } else {
                0
            }
        };
        let reach: Vec<usize> = (0..self.layout.row_of.len()).map(reach).collect();
        let ground = Ground {
            middles: &self.middles,
            reach: &reach,
        };
        [Entry::Straight, Entry::Aside]
            .into_iter()
            .find_map(|entry| {
                let Lines { nets, entries } = ports::lines(links, ground, entry)?;
                let channel =
                    channel::route(&nets).filter(|channel| channel.height <= MAX_CHANNEL)?;
                Some((channel, entries))
            })
    }

    fn draw_slot(&self, canvas: &mut Canvas, line: usize, slot: usize) {
        if let Some(node) = self.picture.nodes.get(slot) {
            self.draw_box(canvas, line, slot, node);
        } else {
            for line in line..line + BOX_HEIGHT {
                canvas.write(line, self.middles[slot], "│", Paint::Line);
            }
        }
    }

    fn draw_box(&self, canvas: &mut Canvas, line: usize, slot: usize, node: &PictureNode) {
        let (inner, paint) = (self.inner, Paint::State(node.state));
        let left = self.middles[slot] - inner / 2 - FRAME / 2;
        let right = left + inner + FRAME - 1;
        let rule = "─".repeat(inner + 2);
        canvas.write(line, left, &format!("╭{rule}╮"), paint);
        canvas.write(line + 3, left, &format!("╰{rule}╯"), paint);
        for line in [line + 1, line + 2] {
            canvas.write(line, left, "│", paint);
            canvas.write(line, right, "│", paint);
        }
        if self.layout.links.iter().any(|(from, _)| *from == slot) {
            canvas.write(line + 3, self.middles[slot], "┬", paint);
        }
        self.write_words(canvas, line, left + 2, node);
    }

    fn write_words(&self, canvas: &mut Canvas, line: usize, left: usize, node: &PictureNode) {
        let (inner, paint) = (self.inner, Paint::State(node.state));
        let clip = |text: &str, max| label::clip(&label::visible(text), max, label::columns);
        canvas.write(line + 1, left, &format!("{}", symbol(node.state)), paint);
        canvas.write(
            line + 1,
            left + 2,
            &clip(&node.key, inner - 2),
            Paint::Plain,
        );
        let remark = clip(node.note.as_deref().unwrap_or(""), inner);
        let taken = if remark.is_empty() {
            0
        } else {
            label::width(&remark) + 1
        };
        canvas.write(
            line + 2,
            left,
            &clip(&node.label, inner.saturating_sub(taken)),
            Paint::Line,
        );
        canvas.write(
            line + 2,
            left + inner - label::width(&remark),
            &remark,
            paint,
        );
    }
}
