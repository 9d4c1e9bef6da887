//! A plan in the terminal: boxes in rows with lines between them, or a list.
//!
//! Boxes are drawn while a person can take them in and while they fit; then a list with the needs
//! of each step by name, because a picture that leaves lines out would lie. Nothing that changes
//! while a plan runs (state, note) moves anything: notes have room kept for them.

mod boxes;
mod canvas;
mod channel;
mod list;
mod ports;

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
    let head = if title.is_empty() {
        String::new()
    } else {
        head.render(colour)
    };
    head + &body.render(colour) + &census(picture, width).render(colour)
}

/// How many steps are in each state, in one line: in words if they fit, else by symbols alone, for
/// a state that is left out would be news withheld.
fn census(picture: &Picture, width: usize) -> Canvas {
    let counts = || picture.census();
    let long =
        counts().map(|(state, count)| format!("{} {count} {}", symbol(state), state.as_str()));
    let short = counts().map(|(state, count)| format!("{}{count}", symbol(state)));
    let (long, short): (Vec<_>, Vec<_>) = (long.collect(), short.collect());
    let len = long
        .iter()
        .map(|words| label::width(words) + 2)
        .sum::<usize>();
    let words = if len <= width + 2 { long } else { short };
    let mut canvas = Canvas::default();
    let mut column = 0;
    for ((state, _), words) in counts().zip(words) {
        let words = label::clip(&words, width.saturating_sub(column), label::columns);
        canvas.write(0, column, &words, Paint::State(state));
        column += label::width(&words) + 2;
    }
    if picture.nodes.is_empty() {
        canvas.write(
            0,
            0,
            &label::clip("no steps", width, label::columns),
            Paint::Line,
        );
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hostile, large, picture};
    use super::*;

    const SIX: &str =
        "plan:; web: plan; docs: plan; compare: web docs; prices: plan; report: compare prices";

    /// Says a difference as two pictures.
    fn expect(drawn: &str, expected: &str) {
        let expected = expected.trim_start_matches('\n');
        assert!(drawn == expected, "drawn:\n{drawn}\nexpected:\n{expected}");
    }

    #[test]
    fn a_diamond() {
        let drawn =
            picture("top:; left: top; right: top; join: left right").to_text(80, Colour::Never);
        expect(
            &drawn,
            "
A plan
           ╭─────────────────╮
           │ ✔ top           │
           │ agent     1.2 s │
           ╰────────┬────────╯
         ╭──────────┴─────────╮
╭────────▼────────╮  ╭────────▼────────╮
│ ✖ left          │  │ ⤼ right         │
│ agent           │  │ agent           │
╰────────┬────────╯  ╰────────┬────────╯
         ╰──────────┬─────────╯
           ╭────────▼────────╮
           │ ⊘ join          │
           │ agent           │
           ╰─────────────────╯
✔ 1 succeeded  ✖ 1 failed  ⤼ 1 skipped  ⊘ 1 cancelled
",
        );
    }

    #[test]
    fn a_chain() {
        expect(
            &picture("a:; b: a").to_text(80, Colour::Never),
            "
A plan
╭─────────────────╮
│ ✔ a             │
│ agent     1.2 s │
╰────────┬────────╯
         │
╭────────▼────────╮
│ ✖ b             │
│ agent           │
╰─────────────────╯
✔ 1 succeeded  ✖ 1 failed
",
        );
    }

    #[test]
    fn six_steps_in_eighty_columns() {
        expect(
            &picture(SIX).to_text(80, Colour::Never),
            "
A plan
                     ╭─────────────────╮
                     │ ✔ plan          │
                     │ agent     1.2 s │
                     ╰────────┬────────╯
         ╭────────────────────┼────────────────────╮
╭────────▼────────╮  ╭────────▼────────╮  ╭────────▼────────╮
│ ✖ web           │  │ ⤼ docs          │  │ ○ prices        │
│ agent           │  │ agent           │  │ agent           │
╰────────┬────────╯  ╰────────┬────────╯  ╰────────┬────────╯
         ╰──────────┬─────────╯                    │
           ╭────────▼────────╮                     │
           │ ⊘ compare       │                     │
           │ agent           │                     │
           ╰────────┬────────╯                     │
                    ╰────────────────────┬─────────╯
                                ╭────────▼────────╮
                                │ ◌ report        │
                                │ agent           │
                                ╰─────────────────╯
○ 1 blocked  ◌ 1 ready  ✔ 1 succeeded  ✖ 1 failed  ⤼ 1 skipped  ⊘ 1 cancelled
",
        );
    }

    #[test]
    fn too_narrow_for_boxes_or_too_many_is_a_list_that_names_needs() {
        expect(
            &picture(SIX).to_text(40, Colour::Never),
            "
A plan
                    ╭───────────────╮
                    │ ✔ plan        │
                    │ agent   1.2 s │
                    ╰───────┬───────╯
        ╭───────────────────┼─────────╮
╭───────▼───────╮  ╭────────▼──────╮  │
│ ✖ web         │  │ ⤼ docs        │  │
│ agent         │  │ agent         │  │
╰───────┬───────╯  ╰───────┬───────╯  │
        ╰─────────┬────────╯   ╭──────╯
                  │    ╭───────▼───────╮
                  │    │ ○ prices      │
                  │    │ agent         │
                  │    ╰───────┬───────╯
                  │            │
          ╭───────▼───────╮    │
          │ ⊘ compare     │    │
          │ agent         │    │
          ╰───────┬───────╯    │
                  ╰────────┬───╯
                   ╭───────▼───────╮
                   │ ◌ report      │
                   │ agent         │
                   ╰───────────────╯
○1  ◌1  ✔1  ✖1  ⤼1  ⊘1
",
        );
        expect(
            &picture(SIX).to_text(30, Colour::Never),
            "
A plan
✔ plan
  ✖ web         after plan
  ⤼ docs        after plan
  ○ prices      after plan
    ⊘ compare   after 2 steps
      ◌ report  after 2 steps
○1  ◌1  ✔1  ✖1  ⤼1  ⊘1
",
        );
        let list = large(31).to_text(80, Colour::Never);
        assert_eq!(list.lines().count(), 33);
        assert!(list.contains("after s27, s21, s13\n"));
    }

    #[test]
    fn lines_that_cross_do_not_touch() {
        expect(
            &picture("a:; b:; c:; x: a b; y: b c; z: a c").to_text(80, Colour::Never),
            "
A plan
╭─────────────────╮  ╭─────────────────╮  ╭─────────────────╮
│ ✔ a             │  │ ✖ b             │  │ ⤼ c             │
│ agent     1.2 s │  │ agent           │  │ agent           │
╰────────┬────────╯  ╰────────┬────────╯  ╰────────┬────────╯
         ├──────────────────╮ │ ╭──────────────────┤
         │ ╭────────────────│─┴─│────────────────╮ │
╭────────▼─▼──────╮  ╭──────▼───▼──────╮  ╭──────▼─▼────────╮
│ ⊘ x             │  │ ◌ z             │  │ ○ y             │
│ agent           │  │ agent           │  │ agent           │
╰─────────────────╯  ╰─────────────────╯  ╰─────────────────╯
○ 1 blocked  ◌ 1 ready  ✔ 1 succeeded  ✖ 1 failed  ⤼ 1 skipped  ⊘ 1 cancelled
",
        );
    }

    #[test]
    fn nothing_is_wider_than_the_terminal_and_no_word_writes_escapes() {
        for picture in [
            picture(SIX),
            large(12),
            large(40),
            hostile(),
            Picture::default(),
        ] {
            for width in 0..130 {
                let text = picture.to_text(width, Colour::Never);
                assert!(
                    text.lines().all(|line| label::width(line) <= width),
                    "{width}\n{text}"
                );
                assert!(!text.contains(['\u{1b}', '\u{202e}', '\t', '\r']));
            }
            let coloured = picture.to_text(80, Colour::Always);
            let plain: Vec<_> = coloured
                .split("\u{1b}[0")
                .map(|run| {
                    run.split_once('m')
                        .filter(|(code, _)| {
                            code.len() <= 5
                                && code
                                    .chars()
                                    .all(|char| char == ';' || char.is_ascii_digit())
                        })
                        .map_or(run, |(_, rest)| rest)
                })
                .collect();
            assert_eq!(plain.concat(), picture.to_text(80, Colour::Never));
        }
    }
}
