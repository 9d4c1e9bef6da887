//! Characters with colours in a grid that grows as it is written to.

use std::fmt::Write;

use super::Colour;
use crate::plan::picture::label;
use crate::step::StateName;

/// What a character is, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    /// Words.
    Plain,
    /// The title.
    Title,
    /// Lines between boxes, and words that stand back.
    Line,
    /// Something that shows a state.
    State(StateName),
}

impl Paint {
    /// The parameters of the escape sequence (SGR). The 16 colours follow the person's own theme.
    fn parameters(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Title => "1",
            Self::Line | Self::State(StateName::Blocked | StateName::Skipped) => "90",
            Self::State(StateName::Ready) => "36",
            Self::State(StateName::Running) => "1;94",
            Self::State(StateName::Suspended) => "1;33",
            Self::State(StateName::Succeeded) => "32",
            Self::State(StateName::Failed) => "1;31",
            Self::State(StateName::Cancelled) => "35",
        }
    }
}

/// A cell of the grid; the cell behind a wide character is empty.
#[derive(Debug, Clone)]
struct Cell {
    text: String,
    paint: Paint,
}

/// The grid: lines of cells.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    lines: Vec<Vec<Cell>>,
}

impl Canvas {
    /// Writes `text` from a place on, over what is there.
    pub(super) fn write(&mut self, line: usize, column: usize, text: &str, paint: Paint) {
        if self.lines.len() <= line {
            self.lines.resize_with(line + 1, Vec::new);
        }
        let cells = &mut self.lines[line];
        let end = column + label::width(text);
        if cells.len() < end {
            cells.resize(
                end,
                Cell {
                    text: " ".to_owned(),
                    paint: Paint::Plain,
                },
            );
        }
        let mut at = column;
        for char in text.chars() {
            let columns = label::columns(char);
            match (columns, at.checked_sub(1)) {
                // A mark stands on the letter before it.
                (0, Some(before)) if at > column => cells[before].text.push(char),
                (0, _) => {}
                _ => {
                    cells[at] = Cell {
                        text: char.to_string(),
                        paint,
                    }
                }
            }
            if columns > 1 {
                cells[at + 1] = Cell {
                    text: String::new(),
                    paint,
                };
            }
            at += columns;
        }
    }

    /// Lines without blanks at their ends, each ended by a newline and by the end of its colours.
    pub(super) fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        for cells in &self.lines {
            let is_blank = |cell: &Cell| cell.text == " ";
            let len = cells
                .iter()
                .rposition(|cell| !is_blank(cell))
                .map_or(0, |last| last + 1);
            let mut paint = Paint::Plain;
            for cell in &cells[..len] {
                if colour == Colour::Always && cell.paint != paint && !is_blank(cell) {
                    let _ = write!(out, "\u{1b}[0;{}m", cell.paint.parameters());
                    paint = cell.paint;
                }
                out.push_str(&cell.text);
            }
            out.push_str(if paint == Paint::Plain {
                "\n"
            } else {
                "\u{1b}[0m\n"
            });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_letters_and_marks_keep_their_columns() {
        let mut canvas = Canvas::default();
        canvas.write(1, 2, "漢e\u{301}", Paint::Plain);
        canvas.write(1, 5, "|", Paint::Line);
        assert_eq!(canvas.render(Colour::Never), "\n  漢e\u{301}|\n");
        assert_eq!(
            canvas.render(Colour::Always),
            "\n  漢e\u{301}\u{1b}[0;90m|\u{1b}[0m\n"
        );
    }
}
