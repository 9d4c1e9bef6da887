//! A plan in the terminal: boxes in rows with lines between them, or a list.
//!
//! Boxes are drawn while a person can take them in and while they fit; then a list with the needs
//! of each step by name, because a picture that leaves lines out would lie. Nothing that changes
//! while a plan runs (state, note) moves anything: notes have room kept for them.

mod boxes;
mod canvas;
mod channel;
mod list;

use super::{Picture, label, symbol};
use canvas::{Canvas, Paint};

/// Whether escape sequences for colours are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Yes: for a terminal.
    Always,
    /// No: for a file, a pipe, or `NO_COLOR`.
    Never,
}

/// See [`Picture::to_text`].
pub(super) fn draw(picture: &Picture, width: usize, colour: Colour) -> String {
    let title = label::clip(&label::visible(&picture.title), width, label::columns);
    let mut head = Canvas::default();
    head.write(0, 0, &title, Paint::Title);
    let body = boxes::draw(picture, width).unwrap_or_else(|| list::draw(picture, width));
    let head = if title.is_empty() { String::new() } else { head.render(colour) };
    head + &body.render(colour) + &census(picture, width).render(colour)
}

/// How many steps are in each state, in one line: in words if they fit, else by symbols alone, for
/// a state that is left out would be news withheld.
fn census(picture: &Picture, width: usize) -> Canvas {
    let counts = || picture.census();
    let long = counts().map(|(state, count)| format!("{} {count} {}", symbol(state), state.as_str()));
    let short = counts().map(|(state, count)| format!("{}{count}", symbol(state)));
    let (long, short): (Vec<_>, Vec<_>) = (long.collect(), short.collect());
    let len = long.iter().map(|words| label::width(words) + 2).sum::<usize>();
    let words = if len <= width + 2 { long } else { short };
    let mut canvas = Canvas::default();
    let mut column = 0;
    for ((state, _), words) in counts().zip(words) {
        let words = label::clip(&words, width.saturating_sub(column), label::columns);
        canvas.write(0, column, &words, Paint::State(state));
        column += label::width(&words) + 2;
    }
    if picture.nodes.is_empty() {
        canvas.write(0, 0, &label::clip("no steps", width, label::columns), Paint::Line);
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::super::tests::{large, picture};
    use super::*;

    #[test]
    fn play() {
        for (text, width) in [
            ("top:; left: top; right: top; join: left right", 80),
            ("a:; b: a; c: b", 80),
            ("plan:; search-web: plan; search-docs: plan; compare: search-web search-docs; prices: plan; report: compare prices", 80),
            ("plan:; search-web: plan; search-docs: plan; compare: search-web search-docs; prices: plan; report: compare prices", 48),
            ("a:; b: a; c: b a; d: c a b; e: a d", 80),
            ("a:; b:; c:; x: a b; y: b c; z: a c; q: x y z", 80),
            ("r:; a: r; b: r; c: r; d: r; e: r; f: r; g: r; j: a b c d e f g", 80),
            ("r:; a: r; b: r; c: r; d: r; e: r; f: r; g: r; j: a b c d e f g", 20),
        ] {
            println!("{}", picture(text).to_text(width, Colour::Never));
        }
        println!("{}", large(14).to_text(80, Colour::Never));
        println!("{}", large(31).to_text(80, Colour::Never));
    }
}
