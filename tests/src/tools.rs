//! Programs of other people that some stories need: a browser, scripting languages. They are looked for; where one is missing the
//! story says so and ends, unless `CODELAB_TEST_TOOLS=required` says that it must be there.
#![expect(clippy::print_stderr, reason = "a story that is left out says so")]

use std::{env, path::PathBuf};

/// The first of these programs that is on the path. None: the story is to end.
pub fn find(names: &[&str], story: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|program| program.is_file());
    if found.is_none() {
        missing(story, &format!("none of {names:?} is installed"));
    }
    found
}

/// Says that a story is left out, and why; fails where it must not be.
///
/// # Panics
///
/// Where every tool has to be there.
pub fn missing(story: &str, why: &str) {
    assert!(
        env::var("CODELAB_TEST_TOOLS").as_deref() != Ok("required"),
        "{story} cannot be told: {why}"
    );
    eprintln!("left out: {story}: {why}");
}
