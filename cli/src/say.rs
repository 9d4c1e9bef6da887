//! What a person reads on stdout. Nothing else in this crate writes there.

use std::io::{IsTerminal, Write, stdout};

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
