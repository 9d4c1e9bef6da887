//! Which part of a text is code, which is comment: as much of Rust's and SQL's grammar as that takes.

/// A text taken apart: copies of the same length in lines, in which everything else is blank.
pub(crate) struct Parts {
    pub(crate) code: String,
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Takes Rust apart. The contents of string and character literals are neither code nor comment.
pub(crate) fn rust(text: &str) -> Parts {
    parts(text, rust_token)
}

/// Takes SQL apart. Dollar-quoted bodies count as code.
pub(crate) fn sql(text: &str) -> Parts {
    parts(text, sql_token)
}

/// Whether a letter can be part of a name.
pub(crate) fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn parts(text: &str, token: fn(&str, char) -> (Kind, usize)) -> Parts {
    let mut parts = Parts {
        code: String::with_capacity(text.len()),
        comments: String::new(),
    };
    let (mut rest, mut before) = (text, ' ');
    while !rest.is_empty() {
        let (kind, length) = token(rest, before);
        let (found, after) = rest.split_at(std::cmp::max(length, 1));
        for letter in found.chars() {
            let blank = if letter == '\n' { '\n' } else { ' ' };
            let shown = |wanted| if kind == wanted { letter } else { blank };
            parts.code.push(shown(Kind::Code));
            parts.comments.push(shown(Kind::Comment));
            before = letter;
        }
        rest = after;
    }
    parts
}

/// The kind of what a text begins with, and its length in bytes.
fn rust_token(rest: &str, before: char) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, line(rest));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block(rest));
    }
    if !is_word(before)
        && let Some(length) = raw_string(rest)
    {
        return (Kind::Literal, length);
    }
    if rest.starts_with('"') {
        return (Kind::Literal, string(rest));
    }
    if let Some(length) = character(rest) {
        return (Kind::Literal, length);
    }
    (Kind::Code, first(rest))
}

fn sql_token(rest: &str, _before: char) -> (Kind, usize) {
    if rest.starts_with("--") {
        return (Kind::Comment, line(rest));
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        // A doubled quote is the end of one literal and the beginning of the next: just as good.
        return (
            Kind::Literal,
            inside.find('\'').map_or(rest.len(), |end| end + 2),
        );
    }
    (Kind::Code, first(rest))
}

fn first(rest: &str) -> usize {
    rest.chars().next().map_or(1, char::len_utf8)
}

fn line(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

/// Block comments nest.
fn block(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += first(here);
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = ["r", "br", "cr"]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))?;
    let inside = after.trim_start_matches('#');
    let hashes = after.len() - inside.len();
    let text = inside.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = rest.len() - text.len();
    Some(
        text.find(&end)
            .map_or(rest.len(), |at| begin + at + end.len()),
    )
}

/// A character, and not the quote of a lifetime.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let mut letters = inside.char_indices();
    let (_, letter) = letters.next()?;
    if letter == '\\' {
        letters.next()?;
        let (end, _) = letters.find(|(_, letter)| *letter == '\'')?;
        return Some(end + 2);
    }
    let (end, quote) = letters.next()?;
    (quote == '\'').then_some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rust_is_taken_apart() {
        let table = [
            ("a(); // b", "a();", "// b"),
            ("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */"),
            (r#"say("todo!() // \" no"); b"#, "say( ); b", ""),
            (r##"r#"a " b"# + c"##, "+ c", ""),
            ("'\"' + 'a", "+ 'a", ""),
            (r"'\'' + '\u{e4}' + 'ä'", "+ +", ""),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", ""),
            ("for \"x\"", "for", ""),
        ];
        for (text, code, comments) in table {
            let parts = rust(text);
            assert_eq!(words(&parts.code), code, "{text}");
            assert_eq!(words(&parts.comments), comments, "{text}");
        }
    }

    #[test]
    fn sql_is_taken_apart() {
        let parts = sql("check (a in ('x(', 'it''s')) -- why");
        assert_eq!(
            parts.code.split_whitespace().collect::<String>(),
            "check(ain(,))"
        );
        assert_eq!(parts.comments.trim(), "-- why");
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\n c */ \"d\n e\"\nf";
        let parts = rust(text);
        assert_eq!(parts.code.lines().count(), text.lines().count());
        assert_eq!(parts.code.lines().last(), Some("f"));
    }
}
