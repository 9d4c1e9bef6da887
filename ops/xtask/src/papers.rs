//! Rules on the papers: what may lie at the root, and that what they name exists.

use std::collections::HashSet;

use crate::{
    lex::is_word,
    tree::{Problem, Tree},
};

/// Files at the root, besides those that begin with a dot.
const AT_ROOT: [&str; 6] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
];
/// Endings of names that are meant as paths.
const PATH_ENDS: [&str; 5] = [".rs", ".sql", ".md", ".toml", ".json"];
/// Underscores of a name that is looked for: with fewer it may be a word of Postgres or of the wire.
const SENTENCE: usize = 3;

pub(crate) fn problems(tree: &Tree) -> Vec<Problem> {
    let mut problems = strays(tree);
    for paper in tree.of_kind("", "md") {
        for (number, line) in paper.text.lines().enumerate() {
            let missing = missing(tree, &paper.path, line);
            problems.extend(
                missing
                    .into_iter()
                    .map(|text| Problem::at(&paper.path, number + 1, text)),
            );
        }
    }
    problems
}

fn strays(tree: &Tree) -> Vec<Problem> {
    let files = tree
        .paths
        .iter()
        .filter(|path| !path.contains('/') && !path.starts_with('.'));
    let folders: HashSet<&str> = tree
        .paths
        .iter()
        .filter_map(|path| path.split_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    files
        .filter(|path| !folders.contains(path.as_str()) && !AT_ROOT.contains(&path.as_str()))
        .map(|path| {
            Problem::of(
                path,
                "does not belong at the root: decisions go to ops/decisions, notes nowhere",
            )
        })
        .collect()
}

/// What a line names and the repository does not have.
fn missing(tree: &Tree, paper: &str, line: &str) -> Vec<String> {
    let linked = line
        .split("](")
        .skip(1)
        .filter_map(|after| after.split_once(')'))
        .map(|(link, _)| link);
    let links = linked.filter(|link| {
        !link.contains("://") && !link.starts_with('#') && !exists(tree, paper, link)
    });
    let mut missing: Vec<String> = links.map(|link| format!("there is no {link}")).collect();
    for word in line.split('`').skip(1).step_by(2) {
        let path = word.contains('/')
            && !word.starts_with('/')
            && PATH_ENDS.iter().any(|end| word.ends_with(end))
            && !word.contains(['*', ' ', '<', '{']);
        if path && !tree.paths.contains(word) {
            missing.push(format!("there is no {word}"));
        }
        let sentence = word.matches('_').count() >= SENTENCE
            && word
                .chars()
                .all(|letter| is_word(letter) && !letter.is_uppercase());
        if sentence && !is_named(tree, word) {
            missing.push(format!("nothing in the sources is called {word}"));
        }
    }
    missing
}

/// Whether a source has this name: a test, a constraint, a setting.
fn is_named(tree: &Tree, name: &str) -> bool {
    let mut sources = tree.of_kind("", "rs").chain(tree.of_kind("", "sql"));
    sources.any(|file| file.text.contains(name))
}

/// Whether a link leads somewhere, seen from its paper.
fn exists(tree: &Tree, paper: &str, link: &str) -> bool {
    let mut place: Vec<&str> = paper.split('/').collect();
    place.pop();
    let link = link.split('#').next().unwrap_or_default();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                place.pop();
            }
            name => place.push(name),
        }
    }
    tree.paths.contains(&place.join("/"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tree::File;

    #[test]
    fn what_a_paper_names_has_to_exist() {
        let paths = [
            "README.md",
            "ops/decisions",
            "ops/decisions/0001-x.md",
            "api/src/lib.rs",
        ];
        let source = File {
            path: "api/src/lib.rs".to_owned(),
            text: "fn it_is_so_and_not_otherwise() {}".to_owned(),
        };
        let paths = paths
            .map(str::to_owned)
            .into_iter()
            .collect::<BTreeSet<_>>();
        let tree = Tree {
            files: vec![source],
            paths,
        };
        let table = [
            (
                "see [x](../../README.md#top) and [y](https://example.com/a.md)",
                0,
            ),
            ("see [x](0001-x.md) and [y](0002-y.md)", 1),
            ("`api/src/lib.rs`, `api/src/main.rs` and `/openapi.json`", 1),
            (
                "`it_is_so_and_not_otherwise`, `step_finish`, `DATABASE_URL_A_B`",
                0,
            ),
            ("`it_is_otherwise_than_said`", 1),
        ];
        for (line, expected) in table {
            assert_eq!(
                missing(&tree, "ops/decisions/0003-z.md", line).len(),
                expected,
                "{line}"
            );
        }
    }
}
