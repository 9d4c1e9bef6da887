//! Somebody's words made fit for one line of a picture.
//!
//! A label may hold anything. Line ends, controls and direction characters would let it leave its
//! box or dress up as something else ("invoice \u{202e}fdp.exe"), so that they are replaced here,
//! once, for all formats; the quoting of each format comes after it.

use super::PictureNode;

/// Stands for a character that must not be drawn.
pub(super) const REPLACED: char = '\u{fffd}';

/// Characters of a label that are looked at; boxes and tooltips show fewer.
const MAX_CHARS: usize = 400;

/// More combining marks than this on one letter are paint, not writing.
const MAX_MARKS: usize = 3;

/// One line without surprises: white space becomes one space, what joins letters invisibly goes,
/// controls and what turns the direction of writing become `U+FFFD`. At most 400 characters.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(std::cmp::min(text.len(), MAX_CHARS));
    let mut marks = 0;
    for char in text.trim().chars().take(MAX_CHARS) {
        marks = if is_mark(char) { marks + 1 } else { 0 };
        match char {
            _ if is_joiner(char) || marks > MAX_MARKS => {}
            _ if char.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            _ if is_trick(char) => out.push(REPLACED),
            _ => out.push(char),
        }
    }
    out
}

/// All that is known of a step in one line: key, state, agent, kind if it says more, note.
pub(super) fn tooltip(node: &PictureNode) -> String {
    let kind = if node.kind == node.label {
        ""
    } else {
        &node.kind
    };
    let parts = [
        node.state.as_str(),
        &node.label,
        kind,
        node.note.as_deref().unwrap_or(""),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .map(visible)
        .filter(|part| !part.is_empty())
        .collect();
    format!("{}: {}", visible(&node.key), parts.join(", "))
}

/// Joiners and variation selectors: they carry no meaning of their own, and terminals disagree
/// about their width.
fn is_joiner(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0100}'..='\u{e01ef}')
}

/// Controls, direction marks, tags, annotations, private use and non-characters (XML forbids some).
fn is_trick(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180e}'
                | '\u{200e}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2061}'..='\u{206f}'
                | '\u{3164}'
                | '\u{e000}'..='\u{f8ff}'
                | '\u{fdd0}'..='\u{fdef}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{10ffff}'
        )
        || u32::from(char) & 0xfffe == 0xfffe
}

/// Marks that stand on the letter before them.
fn is_mark(char: char) -> bool {
    matches!(
        char,
        '\u{300}'..='\u{36f}'
            | '\u{483}'..='\u{489}'
            | '\u{591}'..='\u{5bd}'
            | '\u{610}'..='\u{61a}'
            | '\u{64b}'..='\u{65f}'
            | '\u{e31}'
            | '\u{e34}'..='\u{e3a}'
            | '\u{e47}'..='\u{e4e}'
            | '\u{1ab0}'..='\u{1aff}'
            | '\u{1dc0}'..='\u{1dff}'
            | '\u{20d0}'..='\u{20ff}'
            | '\u{fe20}'..='\u{fe2f}'
    )
}

/// Columns of a character in a terminal: 0, 1 or 2. The blocks are those of UAX 11, coarsely.
pub(super) fn columns(char: char) -> usize {
    match char {
        _ if is_mark(char) => 0,
        '\u{1100}'..='\u{115e}'
        | '\u{231a}'..='\u{231b}'
        | '\u{23e9}'..='\u{23ec}'
        | '\u{2614}'..='\u{2615}'
        | '\u{2648}'..='\u{2653}'
        | '\u{26a1}'
        | '\u{26bd}'..='\u{26be}'
        | '\u{26d4}'
        | '\u{2705}'
        | '\u{270a}'..='\u{270b}'
        | '\u{2728}'
        | '\u{274c}'
        | '\u{2753}'..='\u{2757}'
        | '\u{2b50}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{a960}'..='\u{a97c}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff01}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Columns of a text in a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The text within `max` units, where `size` gives the units of a character; what is cut off is
/// replaced by an ellipsis, which counts as `size('…')`.
pub(super) fn clip(text: &str, max: usize, size: impl Fn(char) -> usize) -> String {
    if text.chars().map(&size).sum::<usize>() <= max {
        return text.to_owned();
    }
    let Some(room) = max.checked_sub(size('…')) else {
        return String::new();
    };
    let mut used = 0;
    let fits = |char: &char| {
        used += size(*char);
        used <= room
    };
    let kept: String = text.chars().take_while(fits).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tricks_become_visible_and_white_space_one_space() {
        assert_eq!(visible("a\r\n\t b"), "a b");
        assert_eq!(
            visible("pay \u{202e}gpj.exe\u{1b}[2J\u{0}"),
            "pay \u{fffd}gpj.exe\u{fffd}[2J\u{fffd}"
        );
        assert_eq!(
            visible("z\u{301}\u{301}\u{301}\u{301}\u{301}e\u{200d}\u{fe0f}"),
            "z\u{301}\u{301}\u{301}e"
        );
        assert_eq!(
            visible("\u{ffff}\u{e0041}\u{feff}é 漢字"),
            "\u{fffd}\u{fffd}é 漢字"
        );
        assert_eq!(visible(&"x".repeat(5_000)).len(), MAX_CHARS);
    }

    #[test]
    fn a_clipped_text_keeps_its_columns() {
        assert_eq!(clip("researcher", 10, columns), "researcher");
        assert_eq!(clip("researcher", 6, columns), "resea…");
        assert_eq!(clip("go home", 4, columns), "go…");
        assert_eq!(clip("漢字漢字", 4, columns), "漢…");
        assert_eq!(clip("漢字", 0, columns), "");
        assert_eq!(width("e\u{301}漢"), 3);
    }
}
