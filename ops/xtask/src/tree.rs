//! The repository as the rules see it: paths, and the text of what they read.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use anyhow::Context;

/// Files whose text the rules read.
const READ: [&str; 4] = ["rs", "sql", "toml", "md"];
/// Hidden folders that belong to the repository.
const HIDDEN: [&str; 2] = [".cargo", ".ci"];

/// All files.
pub(crate) struct Tree {
    /// Those whose text is read, in the order of their paths.
    pub(crate) files: Vec<File>,
    /// Every file and folder, relative to the root, with `/`.
    pub(crate) paths: BTreeSet<String>,
}

/// A file whose text the rules read.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    path: String,
    line: usize,
    text: String,
}

impl Problem {
    /// At a line, counted from 1.
    pub(crate) fn at(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            text: text.into(),
        }
    }

    /// Of a file as a whole.
    pub(crate) fn of(path: &str, text: impl Into<String>) -> Self {
        Self::at(path, 1, text)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

impl Tree {
    /// Reads everything below the root but build output, history and data folders.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree = Self {
            files: Vec::new(),
            paths: BTreeSet::new(),
        };
        tree.walk(root, "")?;
        tree.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(tree)
    }

    /// Files of one kind below a folder (empty: anywhere).
    pub(crate) fn of_kind<'a>(
        &'a self,
        below: &'a str,
        extension: &'a str,
    ) -> impl Iterator<Item = &'a File> {
        self.files
            .iter()
            .filter(move |file| file.path.starts_with(below) && kind(&file.path) == extension)
    }

    /// The text of one file; nothing where there is none.
    pub(crate) fn text(&self, path: &str) -> &str {
        let found = self.files.iter().find(|file| file.path == path);
        found.map_or("", |file| file.text.as_str())
    }

    fn walk(&mut self, root: &Path, folder: &str) -> anyhow::Result<()> {
        let here = root.join(folder);
        let failed = || format!("failed to read {}", here.display());
        for entry in fs::read_dir(&here).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            if !entry.file_type().with_context(failed)?.is_dir() {
                self.take(root, path)?;
            } else if name != "target"
                && (!name.starts_with('.') || HIDDEN.contains(&name.as_str()))
            {
                self.walk(root, &path)?;
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: String) -> anyhow::Result<()> {
        if READ.contains(&kind(&path)) {
            let text = fs::read_to_string(root.join(&path))
                .with_context(|| format!("failed to read {path}"))?;
            self.files.push(File {
                path: path.clone(),
                text,
            });
        }
        self.paths.insert(path);
        Ok(())
    }
}

/// What follows the last dot of a name.
pub(crate) fn kind(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or("", |(_, kind)| kind)
}
