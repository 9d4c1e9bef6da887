//! Rules on the migrations: they come in pairs, are numbered without holes, and every table, column, view and type has a
//! comment.

use std::collections::BTreeSet;

use crate::{
    lex::{self, is_word},
    tree::{File, Problem, Tree},
};

const FOLDER: &str = "migrations/";
/// What begins an item of a table that is no column.
const NOT_COLUMNS: [&str; 7] = [
    "primary",
    "foreign",
    "constraint",
    "unique",
    "check",
    "exclude",
    "like",
];

pub(crate) fn problems(tree: &Tree) -> Vec<Problem> {
    let mut problems = pairs(tree);
    let up: Vec<&File> = tree
        .of_kind(FOLDER, "sql")
        .filter(|file| file.path.ends_with(".up.sql"))
        .collect();
    let commented: BTreeSet<String> = up
        .iter()
        .flat_map(|file| comments(&lex::sql(&file.text).code))
        .collect();
    for file in up {
        for (line, thing) in things(&lex::sql(&file.text).code) {
            if !commented.contains(&thing) {
                problems.push(Problem::at(
                    &file.path,
                    line,
                    format!("{thing} has no comment (`comment on {thing} is '...'`)"),
                ));
            }
        }
    }
    problems
}

/// `0001_name.up.sql` and `0001_name.down.sql`, then 0002.
fn pairs(tree: &Tree) -> Vec<Problem> {
    let names = tree
        .of_kind(FOLDER, "sql")
        .filter_map(|file| file.path.strip_prefix(FOLDER));
    let (mut up, mut down, mut problems) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for name in names {
        match (name.strip_suffix(".up.sql"), name.strip_suffix(".down.sql")) {
            (Some(stem), _) => up.insert(stem),
            (_, Some(stem)) => down.insert(stem),
            _ => {
                problems.push(Problem::of(
                    &format!("{FOLDER}{name}"),
                    "a migration is called 0001_name.up.sql or 0001_name.down.sql",
                ));
                true
            }
        };
    }
    problems.extend(up.difference(&down).map(|stem| {
        Problem::of(
            &format!("{FOLDER}{stem}.up.sql"),
            "there is no way back (.down.sql)",
        )
    }));
    problems.extend(down.difference(&up).map(|stem| {
        Problem::of(
            &format!("{FOLDER}{stem}.down.sql"),
            "there is no way there (.up.sql)",
        )
    }));
    for (number, stem) in up.iter().enumerate() {
        let wanted = format!("{:04}_", number + 1);
        if !stem.starts_with(&wanted) {
            problems.push(Problem::of(
                &format!("{FOLDER}{stem}.up.sql"),
                format!("its number should be {wanted}"),
            ));
        }
    }
    problems
}

/// What is commented on: `table users`, `column users.id`.
fn comments(code: &str) -> Vec<String> {
    let targets = code
        .split("comment on ")
        .skip(1)
        .filter_map(|after| after.split_once(" is"));
    targets
        .map(|(target, _)| target.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// What has to be commented on, with the line where it is made.
fn things(code: &str) -> Vec<(usize, String)> {
    let mut things = Vec::new();
    for (at, statement) in statements(code) {
        let line = code[..at].matches('\n').count() + 1;
        let words: Vec<&str> = statement
            .split(|letter: char| !is_word(letter))
            .filter(|word| !word.is_empty())
            .collect();
        match words.as_slice() {
            ["create", kind @ ("type" | "view"), name, ..] => {
                things.push((line, format!("{kind} {name}")));
            }
            ["create", "table", name, ..] => {
                things.push((line, format!("table {name}")));
                let columns = columns(statement);
                things.extend(
                    columns
                        .into_iter()
                        .map(|(lines, column)| (line + lines, format!("column {name}.{column}"))),
                );
            }
            ["alter", "table", name, ..] => {
                things
                    .extend(added(&words).map(|column| (line, format!("column {name}.{column}"))));
            }
            _ => {}
        }
    }
    things
}

/// Statements and where they begin.
fn statements(code: &str) -> Vec<(usize, &str)> {
    let mut begin = 0;
    let mut statements = Vec::new();
    for statement in code.split(';') {
        let skipped = statement.len() - statement.trim_start().len();
        statements.push((begin + skipped, statement.trim()));
        begin += statement.len() + 1;
    }
    statements
}

/// The columns of a `create table`, each with how many lines below its beginning it stands.
fn columns(statement: &str) -> Vec<(usize, &str)> {
    let Some((head, body)) = statement.split_once('(') else {
        return Vec::new();
    };
    let (mut depth, mut begin, mut columns) = (1_usize, 0, Vec::new());
    for (at, letter) in body.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && letter == ',') {
            let item = body[begin..at].trim_start();
            let name = item
                .split(|letter: char| !is_word(letter))
                .next()
                .unwrap_or_default();
            let before = head.matches('\n').count() + body[..at - item.len()].matches('\n').count();
            if !name.is_empty() && !NOT_COLUMNS.contains(&name) {
                columns.push((before, name));
            }
            begin = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    columns
}

/// `add column x`, `add column if not exists x`.
fn added<'a>(words: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let positions = (0..words.len()).filter(|at| words[*at..].starts_with(&["add", "column"]));
    positions.filter_map(|at| {
        words[at + 2..]
            .iter()
            .copied()
            .find(|word| !["if", "not", "exists"].contains(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "create type mood as enum ('sad, (', 'glad');\n\ncreate table people (\n  id uuid primary key,\n  \
        name text check (name in ('a,', 'b')),\n  constraint x unique (id, name)\n) with (fillfactor = 50);\n\
        alter table people add column age integer, add column if not exists size integer;\n\
        comment on column people.id is 'key';\ncomment on table people is 'x';";

    #[test]
    fn what_needs_a_comment_is_found() {
        let found = things(&lex::sql(SQL).code);
        let expected = [
            (1, "type mood"),
            (3, "table people"),
            (4, "column people.id"),
            (5, "column people.name"),
            (8, "column people.age"),
            (8, "column people.size"),
        ];
        assert_eq!(
            found,
            expected.map(|(line, thing)| (line, thing.to_owned()))
        );
    }

    #[test]
    fn comments_are_found() {
        assert_eq!(
            comments(&lex::sql(SQL).code),
            ["column people.id", "table people"]
        );
    }
}
