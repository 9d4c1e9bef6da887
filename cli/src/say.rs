//! What a person reads on stdout. Nothing else in this crate writes there.

use std::io::{IsTerminal, Write, stdout};

/// Columns that a terminal has when nobody touched it.
pub(crate) const WIDTH: usize = 80;

/// Prints a line. A reader that went away (`| head`) is no reason to fail or to panic, as `println!` would.
pub(crate) fn line(text: impl AsRef<str>) {
    raw(&format!("{}\n", text.as_ref()));
}

/// Prints text as it is, in one write, so that nothing flickers.
pub(crate) fn raw(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints an error with its causes on stderr.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr().lock(), "error: {}", told(error));
}

/// An error and its causes in one sentence, each said once: some libraries repeat their source in their own words.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Whether stdout is a terminal that can redraw.
pub(crate) fn is_terminal() -> bool {
    stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether colours are wanted (<https://no-color.org>).
pub(crate) fn is_coloured() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Somebody's words without what could move the cursor, hide, or turn the direction of writing. Line ends go too.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|char| if is_trick(char) { ' ' } else { char })
        .collect()
}

/// The same for a text of several lines, broken at words where a line is longer than a terminal is wide.
pub(crate) fn clean_lines(text: &str) -> String {
    text.lines()
        .map(|line| wrapped(&clean(&line.replace('\t', "    "))))
        .collect::<Vec<_>>()
        .join("\n")
}

fn wrapped(line: &str) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for word in line.split_inclusive(' ') {
        let width: usize = word.trim_end().chars().map(columns).sum();
        if used > 0 && used + width > WIDTH {
            out.truncate(out.trim_end().len());
            out.push('\n');
            used = 0;
        }
        out.push_str(word);
        used += word.chars().map(columns).sum::<usize>();
    }
    out
}

fn is_trick(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Columns that a character takes, near enough for cutting lines: East Asian wide characters and emoji take two.
pub(crate) fn columns(char: char) -> usize {
    let wide = matches!(char, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}');
    1 + usize::from(wide)
}
