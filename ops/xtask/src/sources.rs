//! Rules on the sources, line by line: where SQL and scopes may come from, what nobody writes, how long a file gets.

use crate::{
    lex::{self, Parts, is_word},
    tree::{File, Problem, Tree, kind},
};

/// Most lines of a file.
const LINES: usize = 800;

/// Words that may stand in some places only, as code.
struct Reserved {
    words: &'static [&'static str],
    /// Paths (or their beginnings) where they may stand; unit tests count as one. None: nowhere, not even there.
    places: &'static [&'static str],
    why: &'static str,
}

const RESERVED: [Reserved; 5] = [
    Reserved {
        words: &["sqlx::query", "sqlx::raw_sql", "sqlx::QueryBuilder"],
        places: &[
            "engine/src/store/",
            "engine/src/testing/",
            "ops/bench/",
            "tests/",
        ],
        why: "SQL stands in engine/src/store only",
    },
    Reserved {
        words: &["vouched("],
        places: &[
            "engine/src/scope.rs",
            "engine/src/store/transitions.rs",
            "api/src/auth.rs",
            "ops/bench/",
            "tests/",
        ],
        why: "a UserScope comes from a verified token or from a claim, and from nowhere else",
    },
    // A build of the whole workspace has that feature on for all members, so the compiler would not notice.
    Reserved {
        words: &["engine::testing"],
        places: &["ops/bench/", "tests/"],
        why: "what tests and benchmarks are made with is no part of the product",
    },
    Reserved {
        words: &["todo!", "unimplemented!"],
        places: &[],
        why: "build it, or leave it out",
    },
    Reserved {
        words: &["#[allow(", "#![allow("],
        places: &[],
        why: "write #[expect(..., reason = \"...\")], which complains when it is not needed any more",
    },
];

/// Marks of unfinished work; each needs the number of an issue.
const MARKS: [&str; 3] = ["TODO", "FIXME", "XXX"];

pub(crate) fn problems(tree: &Tree) -> Vec<Problem> {
    let rust = tree
        .of_kind("", "rs")
        .flat_map(|file| in_rust(file, &lex::rust(&file.text)));
    let sql = tree
        .of_kind("", "sql")
        .flat_map(|file| in_sql(file, &lex::sql(&file.text)));
    let long = tree.files.iter().filter_map(too_long);
    rust.chain(sql).chain(long).collect()
}

/// How long the files are, in a line.
pub(crate) fn sizes(tree: &Tree) -> String {
    let mut lines: Vec<usize> = tree
        .of_kind("", "rs")
        .map(|file| file.text.lines().count())
        .collect();
    lines.sort_unstable();
    let at = |share: usize| {
        lines
            .get((lines.len() * share / 100).saturating_sub(1))
            .copied()
            .unwrap_or(0)
    };
    format!(
        "tidy: {} Rust files; lines p50 {}, p90 {} (aim: 400), max {} (limit: {LINES})",
        lines.len(),
        at(50),
        at(90),
        at(100)
    )
}

fn in_rust(file: &File, parts: &Parts) -> Vec<Problem> {
    let mut problems = marks(file, parts);
    let tests = parts
        .code
        .lines()
        .position(|line| line.starts_with("#[cfg(test)]"));
    for rule in &RESERVED {
        if rule.places.iter().any(|place| file.path.starts_with(place)) {
            continue;
        }
        // Unit tests stand at the bottom.
        let lines = if rule.places.is_empty() {
            usize::MAX
        } else {
            tests.unwrap_or(usize::MAX)
        };
        for (number, line) in parts.code.lines().enumerate().take(lines) {
            let word = rule.words.iter().find(|word| stands_in(line, word));
            problems.extend(word.map(|word| {
                Problem::at(&file.path, number + 1, format!("`{word}`: {}", rule.why))
            }));
        }
    }
    problems
}

/// Whether the word stands in the line and does not merely end a longer one.
fn stands_in(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word))
}

fn in_sql(file: &File, parts: &Parts) -> Vec<Problem> {
    let mut problems = marks(file, parts);
    let name = file
        .path
        .rsplit('/')
        .next()
        .and_then(|name| name.strip_suffix(".sql"))
        .unwrap_or_default();
    let named = file.text.starts_with(&format!("-- {name}: "));
    if file.path.starts_with("engine/src/store/sql/") && !named {
        problems.push(Problem::of(
            &file.path,
            format!("the first line says what it does: `-- {name}: ...`"),
        ));
    }
    problems
}

fn marks(file: &File, parts: &Parts) -> Vec<Problem> {
    let numbered = |line: &str| {
        line.split('#')
            .skip(1)
            .any(|after| after.starts_with(|digit: char| digit.is_ascii_digit()))
    };
    let lines = parts.comments.lines().enumerate();
    let marked = lines.filter_map(|(number, line)| {
        let mark = line
            .split(|letter| !is_word(letter))
            .find(|word| MARKS.contains(word))?;
        (!numbered(line)).then(|| {
            Problem::at(
                &file.path,
                number + 1,
                format!("{mark} without the number of an issue (#123)"),
            )
        })
    });
    marked.collect()
}

fn too_long(file: &File) -> Option<Problem> {
    let lines = file.text.lines().count();
    let counted = matches!(kind(&file.path), "rs" | "sql") && lines > LINES;
    counted.then(|| {
        Problem::of(
            &file.path,
            format!("{lines} lines; {LINES} are the limit: split it by its nouns"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        if kind(path) == "sql" {
            in_sql(&file, &lex::sql(text)).len()
        } else {
            in_rust(&file, &lex::rust(text)).len()
        }
    }

    #[test]
    fn each_rule_sees_code_and_nothing_else() {
        let table = [
            ("engine/src/plan/mod.rs", "sqlx::query(\"select 1\")", 1),
            ("engine/src/store/plans.rs", "sqlx::query(\"select 1\")", 0),
            (
                "engine/src/plan/mod.rs",
                "// sqlx::query( is for the store",
                0,
            ),
            ("cli/src/up.rs", "let scope = UserScope::vouched(user);", 1),
            (
                "cli/src/up.rs",
                "#[cfg(test)]\nlet scope = UserScope::vouched(user); todo!();",
                1,
            ),
            (
                "api/src/auth.rs",
                "let scope = UserScope::vouched(user);",
                0,
            ),
            ("cli/src/up.rs", "say(\"todo!\"); // unimplemented!", 0),
            ("cli/src/up.rs", "todo!()", 1),
            ("cli/src/up.rs", "#[allow(dead_code)] #[expect(x)]", 1),
            ("cli/src/up.rs", "// TODO: later", 1),
            ("cli/src/up.rs", "// TODO(#12): later", 0),
            ("engine/src/store/sql/step_x.sql", "-- step_x: does it", 0),
            ("engine/src/store/sql/step_x.sql", "select 1", 1),
        ];
        for (path, text, expected) in table {
            assert_eq!(found(path, text), expected, "{path}: {text}");
        }
    }
}
