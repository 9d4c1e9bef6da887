//! House rules as a program.
//!
//! `tidy` reads the repository and says what breaks a rule. `check` runs everything that has to be green besides the
//! tests: `tidy`, `cargo fmt --check`, clippy and the docs, with warnings as errors.

mod lex;
mod manifests;
mod migrations;
mod papers;
mod sources;
mod tree;

use std::{
    env,
    io::{Write, stdout},
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, bail};

use crate::tree::{Problem, Tree};

const USAGE: &str = "usage: cargo xtask tidy | check";

/// A command of `check`: its arguments to cargo, and a variable that it needs.
type Step = (
    &'static [&'static str],
    Option<(&'static str, &'static str)>,
);

/// What `check` runs after `tidy`. All of them share the artifacts of one `cargo check`.
const STEPS: [Step; 3] = [
    (&["fmt", "--check"], None),
    (
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        None,
    ),
    (
        &["doc", "--workspace", "--no-deps"],
        Some(("RUSTDOCFLAGS", "-D warnings")),
    ),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked; `false`: a rule is broken.
fn run() -> anyhow::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("xtask lives two folders below the root")?;
    match env::args().nth(1).as_deref() {
        Some("tidy") => tidy(root),
        Some("check") => check(root),
        _ => bail!(USAGE),
    }
}

fn tidy(root: &Path) -> anyhow::Result<bool> {
    let tree = Tree::read(root)?;
    let mut problems: Vec<Problem> = Vec::new();
    problems.extend(manifests::problems(&tree));
    problems.extend(sources::problems(&tree));
    problems.extend(migrations::problems(&tree));
    problems.extend(papers::problems(&tree));
    problems.sort();
    for problem in &problems {
        say(&problem.to_string());
    }
    say(&sources::sizes(&tree));
    match problems.len() {
        0 => say("tidy: every rule holds"),
        1 => say("tidy: 1 problem"),
        count => say(&format!("tidy: {count} problems")),
    }
    Ok(problems.is_empty())
}

/// Runs all, so that one look tells everything that is wrong.
fn check(root: &Path) -> anyhow::Result<bool> {
    let mut failed = Vec::new();
    if !tidy(root)? {
        failed.push("tidy");
    }
    for (arguments, variable) in STEPS {
        let name = arguments.first().copied().unwrap_or_default();
        say(&format!("\n$ cargo {}", arguments.join(" ")));
        let started = Instant::now();
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let status = cargo
            .args(arguments)
            .envs(variable)
            .current_dir(root)
            .status();
        let good = status
            .with_context(|| format!("failed to start cargo {name}"))?
            .success();
        let verdict = if good { "is green" } else { "FAILED" };
        say(&format!(
            "cargo {name} {verdict} after {:.0?}",
            started.elapsed()
        ));
        if !good {
            failed.push(name);
        }
    }
    say(&match failed.as_slice() {
        [] => "\ncheck: all green".to_owned(),
        names => format!("\ncheck: FAILED: {}", names.join(", ")),
    });
    Ok(failed.is_empty())
}

fn say(line: &str) {
    // A reader that went away (`| head`) is no reason to fail.
    let _ = writeln!(stdout().lock(), "{line}");
}
