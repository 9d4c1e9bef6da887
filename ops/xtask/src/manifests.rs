//! Who may import what. The `Cargo.toml` files are the picture of the architecture, so they are read, not believed.
//!
//! Two rules: the table below, which says what a member must never know; and the list in brackets behind a dependency in
//! the root manifest, which says who may import it at all. Versions stand in the root manifest only.

use crate::tree::{Problem, Tree};

const ROOT: &str = "Cargo.toml";

/// What a member never imports, and why. A name covers the crates that begin with it and a dash.
const NEVER: [(&str, &[&str], &str); 3] = [
    (
        "engine",
        &[
            "axum",
            "apalis",
            "reqwest",
            "jsonwebtoken",
            "clap",
            "anyhow",
            "worker",
            "api",
            "servers",
        ],
        "the engine knows Postgres, and neither HTTP, apalis nor any vendor",
    ),
    (
        "worker",
        &[
            "sqlx",
            "axum",
            "jsonwebtoken",
            "qdrant-client",
            "redis",
            "api",
            "servers",
        ],
        "the worker turns claims into outcomes; rows and requests are not its business",
    ),
    (
        "api",
        &[
            "sqlx",
            "apalis",
            "reqwest",
            "redis",
            "qdrant-client",
            "worker",
            "servers",
        ],
        "the API asks the store; it calls nobody and runs nothing",
    ),
];

/// A line of a manifest that imports something.
struct Import<'a> {
    name: &'a str,
    line: usize,
    /// Only the member's own tests use it.
    for_tests: bool,
    whole: &'a str,
}

pub(crate) fn problems(tree: &Tree) -> Vec<Problem> {
    let root = tree.text(ROOT);
    let guests: Vec<Guest<'_>> = guests(root);
    let mut problems: Vec<Problem> = guests.iter().filter_map(Guest::problem).collect();
    for member in members(root) {
        let path = format!("{member}/Cargo.toml");
        for import in imports(tree.text(&path)) {
            problems.extend(
                forbidden(member, &import).map(|text| Problem::at(&path, import.line, text)),
            );
            let guest = guests.iter().find(|guest| guest.name == import.name);
            problems.extend(
                uninvited(member, &import, guest).map(|text| Problem::at(&path, import.line, text)),
            );
        }
    }
    problems
}

/// The folders of the members.
fn members(root: &str) -> Vec<&str> {
    let list = root
        .split_once("\nmembers")
        .and_then(|(_, after)| after.split_once(']'));
    list.map_or_else(Vec::new, |(list, _)| {
        list.split('"').skip(1).step_by(2).collect()
    })
}

fn imports(manifest: &str) -> Vec<Import<'_>> {
    let mut section = "";
    let mut imports = Vec::new();
    for (line, whole) in manifest.lines().enumerate() {
        let text = whole.trim();
        if text.starts_with('[') {
            section = text.trim_matches(['[', ']']);
        } else if section.ends_with("dependencies") && !text.starts_with('#') && text.contains('=')
        {
            let name = text.split(['.', '=', ' ']).next().unwrap_or_default();
            let for_tests = section.ends_with("dev-dependencies");
            imports.push(Import {
                name,
                line: line + 1,
                for_tests,
                whole: text,
            });
        }
    }
    imports
}

fn forbidden(member: &str, import: &Import<'_>) -> Option<String> {
    let (_, names, why) = NEVER.iter().find(|(known, ..)| *known == member)?;
    let is = |name: &&&str| {
        let rest = import.name.strip_prefix(**name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    names
        .iter()
        .find(is)
        .map(|_| format!("{member} must not import {}: {why}", import.name))
}

/// A dependency in the root manifest.
struct Guest<'a> {
    name: &'a str,
    line: usize,
    /// Ours, or somebody else's.
    ours: bool,
    why: Option<&'a str>,
    /// The members that may import it; none: all.
    hosts: Option<Vec<&'a str>>,
}

fn guests(root: &str) -> Vec<Guest<'_>> {
    let imports = imports(root);
    imports
        .iter()
        .map(|import| {
            let why = import.whole.rsplit_once('#').map(|(_, why)| why.trim());
            let list = why.and_then(|why| why.strip_suffix(']')?.rsplit_once('['));
            let hosts = list.map(|(_, list)| list.split(',').map(str::trim).collect());
            Guest {
                name: import.name,
                line: import.line,
                ours: import.whole.contains("path ="),
                why,
                hosts,
            }
        })
        .collect()
}

impl Guest<'_> {
    fn problem(&self) -> Option<Problem> {
        let silent = !self.ours && self.why.is_none_or(str::is_empty);
        silent.then(|| {
            Problem::at(
                ROOT,
                self.line,
                format!(
                    "{} does not say why it is a dependency (`# why`)",
                    self.name
                ),
            )
        })
    }

    fn is_welcome(&self, member: &str, for_tests: bool) -> bool {
        let is_host = |host: &&str| match host.strip_suffix(" tests") {
            Some(host) => host == member && for_tests,
            None => {
                *host == member
                    || member
                        .strip_prefix(*host)
                        .is_some_and(|rest| rest.starts_with('/'))
            }
        };
        self.hosts
            .as_ref()
            .is_none_or(|hosts| hosts.iter().any(is_host))
    }
}

fn uninvited(member: &str, import: &Import<'_>, guest: Option<&Guest<'_>>) -> Option<String> {
    let name = import.name;
    if !import.whole.replace(' ', "").contains("workspace=true") {
        return Some(format!(
            "{name} has a version of its own: versions stand in the root Cargo.toml only"
        ));
    }
    let guest = guest.filter(|guest| !guest.is_welcome(member, import.for_tests))?;
    let hosts = guest
        .hosts
        .as_ref()
        .map(|hosts| hosts.join(", "))
        .unwrap_or_default();
    Some(format!(
        "{name} may be imported by [{hosts}] (root Cargo.toml, line {}), not by {member}",
        guest.line
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_TEXT: &str = "[workspace]\nmembers = [\"api\", \"ops/xtask\"]\n[workspace.dependencies]\nengine = { path = \"engine\" }\n\
        sqlx = \"1\" # rows [engine, ops]\nproptest = \"1\" # graphs [engine tests]\nbare = \"1\"\n";

    #[test]
    fn members_and_guests_are_read() {
        assert_eq!(members(ROOT_TEXT), ["api", "ops/xtask"]);
        let guests = guests(ROOT_TEXT);
        let names: Vec<&str> = guests.iter().map(|guest| guest.name).collect();
        assert_eq!(names, ["engine", "sqlx", "proptest", "bare"]);
        assert_eq!(
            guests
                .iter()
                .filter(|guest| guest.problem().is_some())
                .count(),
            1
        );
        assert!(guests[1].is_welcome("ops/xtask", false) && !guests[1].is_welcome("api", true));
        assert!(guests[2].is_welcome("engine", true) && !guests[2].is_welcome("engine", false));
    }

    #[test]
    fn what_a_member_must_not_know_is_named() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\n# a comment = 1\napalis-core.workspace = true\nserde = \"1\"\n";
        let imports = imports(manifest);
        assert_eq!(imports.len(), 2);
        assert!(
            forbidden("api", &imports[0]).is_some() && forbidden("worker", &imports[0]).is_none()
        );
        assert!(uninvited("api", &imports[1], None).is_some());
    }
}
