//! A running plan on the terminal: drawn over itself where that is possible, told line by line where it is not.

use std::{
    fmt::Write,
    process::{Command, Stdio},
};

use engine::{
    plan::{
        PlanState,
        picture::{Colour, PictureNode, symbol},
    },
    step::StateName,
};

use crate::{
    board::Board,
    say::{self, WIDTH},
};

/// Lines of a terminal that does not tell.
const HEIGHT: usize = 24;
/// Columns of the progress bar.
const BAR: usize = 24;

/// Where a plan is shown.
pub(crate) struct Screen {
    live: Option<Live>,
    colour: Colour,
}

/// A drawing that is drawn over.
struct Live {
    width: usize,
    height: usize,
    drawn: String,
}

impl Screen {
    /// The one of this process.
    pub(crate) fn new() -> Self {
        let live = say::is_terminal().then(|| {
            let (rows, columns) = size().unwrap_or((HEIGHT, WIDTH));
            Live {
                width: std::cmp::min(columns, WIDTH),
                height: rows,
                drawn: String::new(),
            }
        });
        Self {
            live,
            colour: if say::is_coloured() {
                Colour::Always
            } else {
                Colour::Never
            },
        }
    }

    /// Tells of something that happened, where nothing is drawn.
    pub(crate) fn tell(&self, line: &str) {
        if self.live.is_none() {
            say::line(say::clean(line));
        }
    }

    /// Draws what has changed since the last time.
    pub(crate) fn draw(&mut self, board: &Board) {
        let Some(live) = &mut self.live else { return };
        let frame = frame(board, live.width, live.height, self.colour);
        if frame != live.drawn {
            say::raw(&over(&live.drawn, &frame));
            live.drawn = frame;
        }
    }

    /// The last word: the whole drawing, which stays. It may scroll, as nothing is drawn over it.
    pub(crate) fn end(&mut self, board: &Board) {
        if let Some(live) = &mut self.live {
            live.height = usize::MAX;
            self.draw(board);
        } else {
            say::line(format!("\n{}", board.picture().to_text(WIDTH, self.colour)));
        }
    }
}

/// One write that puts a frame over another: up, then each line with its rest wiped, then all below wiped. Nothing is
/// blank in between, so nothing flickers.
fn over(old: &str, new: &str) -> String {
    let up = old.lines().count();
    let mut text = if up > 0 {
        format!("\x1b[{up}A\r")
    } else {
        String::new()
    };
    for line in new.lines() {
        text.push_str(line);
        text.push_str("\x1b[K\n");
    }
    text.push_str("\x1b[J");
    text
}

fn frame(board: &Board, width: usize, height: usize, colour: Colour) -> String {
    let picture = board.picture().to_text(width, colour);
    let mut below = format!("\n{}\n\n", clip(&bar(board, colour), width, colour));
    for line in &board.news {
        // Writing to a string cannot fail.
        let _ = writeln!(below, "{}", clip(&say::clean(line), width, Colour::Never));
    }
    if let Some(piece) = &board.speech {
        let _ = writeln!(below, "\n{}", speech(&piece.key, &piece.text, width));
    }
    // What scrolled out of the terminal cannot be drawn over. One line is the cursor's.
    let room = height.saturating_sub(below.lines().count() + 1);
    let fits = |picture: &String| picture.lines().count() <= room;
    let above = Some(picture)
        .filter(fits)
        .or_else(|| Some(list(board, width)).filter(fits));
    above.map_or_else(|| below.trim_start().to_owned(), |above| above + &below)
}

/// A line for each step, for a terminal that is too low for boxes.
fn list(board: &Board, width: usize) -> String {
    let picture = board.picture();
    let line = |node: &PictureNode| {
        let words = format!(
            "{} {:<20} {:<20} {}",
            symbol(node.state),
            node.key,
            node.label,
            node.note.as_deref().unwrap_or("")
        );
        clip(&say::clean(&words), width, Colour::Never) + "\n"
    };
    picture.nodes.iter().map(line).collect()
}

/// `█████░░░░ 3 of 7 steps · 2.1 s · running: code, tests`
fn bar(board: &Board, colour: Colour) -> String {
    let (ended, all) = board.progress();
    let full = (ended * BAR).checked_div(all).unwrap_or(0);
    let (on, off) = match (colour, board.state) {
        (Colour::Never, _) => ("", ""),
        (Colour::Always, PlanState::Active) => ("\x1b[94m", "\x1b[0m"),
        (Colour::Always, PlanState::Succeeded) => ("\x1b[32m", "\x1b[0m"),
        (Colour::Always, _) => ("\x1b[31m", "\x1b[0m"),
    };
    let running = board.in_state(StateName::Running);
    let doing = match (board.state, running.is_empty()) {
        (PlanState::Active, false) => format!("running: {}", running.join(", ")),
        (state, _) => state.as_str().to_owned(),
    };
    let doing = say::clean(&doing);
    format!(
        "{on}{}{}{off} {ended} of {all} steps · {} · {doing}",
        "█".repeat(full),
        "░".repeat(BAR - full),
        board.elapsed()
    )
}

/// The end of what is being said.
fn speech(speaker: &str, text: &str, width: usize) -> String {
    let head = format!("  {}: ", say::clean(speaker));
    let words = say::clean(text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let room = width.saturating_sub(columns(&head) + 1);
    if columns(&words) <= room {
        return head + &words;
    }
    let mut used = 0;
    let tail = words.char_indices().rev().take_while(|(_, char)| {
        used += say::columns(*char);
        used <= room
    });
    let begin = tail.last().map_or(words.len(), |(index, _)| index);
    format!("{head}…{}", &words[begin..])
}

fn columns(text: &str) -> usize {
    text.chars().map(say::columns).sum()
}

/// Cuts to the width; escape sequences take no columns.
fn clip(text: &str, width: usize, colour: Colour) -> String {
    let (mut out, mut used, mut escaped) = (String::new(), 0, false);
    for char in text.chars() {
        if char == '\x1b' {
            escaped = true;
        }
        if !escaped {
            used += say::columns(char);
        }
        if used <= width {
            out.push(char);
        }
        if escaped && char == 'm' {
            escaped = false;
        }
    }
    if used > width && colour == Colour::Always {
        out.push_str("\x1b[0m");
    }
    out
}

/// Rows and columns, asked of the terminal by the one tool that every Unix has.
fn size() -> Option<(usize, usize)> {
    let terminal = std::fs::File::open("/dev/tty").ok()?;
    let asked = Command::new("stty")
        .arg("size")
        .stdin(terminal)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(asked.stdout).ok()?;
    let (rows, columns) = text.trim().split_once(' ')?;
    let (rows, columns) = (rows.parse().ok()?, columns.parse().ok()?);
    (rows > 0 && columns > 0).then_some((rows, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_put_over_the_one_before_in_one_piece() {
        assert_eq!(over("", "a\nb\n"), "a\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(over("a\nb\n", "c\n"), "\x1b[2A\rc\x1b[K\n\x1b[J");
    }

    #[test]
    fn lines_are_cut_by_what_is_seen() {
        assert_eq!(
            clip("\x1b[32mabc\x1b[0mdef", 4, Colour::Never),
            "\x1b[32mabc\x1b[0md"
        );
        assert_eq!(clip("日本語", 4, Colour::Never), "日本");
    }

    #[test]
    fn the_end_of_a_speech_is_shown() {
        assert_eq!(speech("code", "short", 40), "  code: short");
        assert_eq!(columns(&speech("code", &"word ".repeat(40), 40)), 40);
        assert!(!speech("code", "\x1b[2J gone", 40).contains('\x1b'));
    }
}
