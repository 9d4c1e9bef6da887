//! Finds installed servers, and the newest first.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ServersError;
use crate::install::{self, Package};

/// The oldest Postgres the schema is written for.
const OLDEST_MAJOR: u32 = 14;

/// Where systems put one folder per version: parent, what precedes the version, what follows it.
const VERSIONED: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"), // Debian
    ("/usr", "pgsql-", "bin"),          // Red Hat, from the Postgres project's packages
    ("/usr/libexec", "postgresql", ""), // Alpine
    ("/usr/lib", "postgresql", "bin"),  // SUSE
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// Where systems put their one version: Red Hat's own package, and the Postgres project's default.
const FIXED: [&str; 3] = ["/usr/bin", "/usr/local/pgsql/bin", "/opt/homebrew/bin"];

/// Names a Redis goes by. Valkey speaks the same protocol and options.
const REDIS_PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// An installed Postgres.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    /// The folder of `postgres`, `initdb` and mostly `psql`.
    pub(crate) bin: PathBuf,
    pub(crate) major: u32,
}

/// Where to look. A value, so that tests can look into folders of their own.
pub(crate) struct Search {
    /// `CODELAB_PG_BIN`: if set, nothing else counts.
    pub(crate) chosen: Option<PathBuf>,
    /// The folders of `PATH`.
    pub(crate) path: Vec<PathBuf>,
    /// Places outside of `PATH`, best first.
    pub(crate) places: Vec<PathBuf>,
    /// Whether a missing server may be installed.
    pub(crate) may_install: bool,
}

impl Search {
    /// Everywhere on this machine, as the environment allows.
    pub(crate) fn everywhere() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let forbidden = std::env::var_os("CODELAB_NO_INSTALL");
        Self {
            chosen: std::env::var_os("CODELAB_PG_BIN")
                .filter(|bin| !bin.is_empty())
                .map(PathBuf::from),
            path: std::env::split_paths(&path).collect(),
            places: VERSIONED
                .iter()
                .flat_map(versions)
                .chain(FIXED.map(PathBuf::from))
                .collect(),
            may_install: forbidden.is_none_or(|value| value.is_empty() || value == "0"),
        }
    }

    /// A usable Postgres, of the given major version if there is data already. Installs one if
    /// there is none at all.
    pub(crate) fn postgres(
        &self,
        data: Option<(&Path, u32)>,
    ) -> Result<Installation, ServersError> {
        let mut rejected = Vec::new();
        if let Some(found) = self.installed_postgres(data, &mut rejected)? {
            return Ok(found);
        }
        if let Some((folder, made_by)) = data.filter(|_| !rejected.is_empty()) {
            let folder = folder.to_path_buf();
            return Err(ServersError::WrongMajor {
                folder,
                made_by,
                rejected: list(&rejected),
            });
        }
        let again = || {
            self.installed_postgres(data, &mut Vec::new())
                .ok()
                .flatten()
        };
        install::install(Package::Postgres, self.may_install, &list(&rejected), again)
    }

    /// The Redis (or Valkey) program. Installs one if there is none.
    pub(crate) fn redis(&self) -> Result<PathBuf, ServersError> {
        let find = || REDIS_PROGRAMS.iter().find_map(|name| self.program(name));
        find().map_or_else(
            || install::install(Package::Redis, self.may_install, "", find),
            Ok,
        )
    }

    fn installed_postgres(
        &self,
        data: Option<(&Path, u32)>,
        rejected: &mut Vec<String>,
    ) -> Result<Option<Installation>, ServersError> {
        if let Some(folder) = &self.chosen {
            let bad = |why| ServersError::BadBinFolder {
                folder: folder.clone(),
                why,
            };
            let found = inspect(folder).map_err(bad)?;
            let wanted = data.is_none_or(|(_, major)| major == found.major);
            rejected.extend((!wanted).then(|| describe(&found)));
            return Ok(wanted.then_some(found));
        }
        for folder in self
            .postgres_folders()
            .filter(|folder| folder.join("postgres").exists())
        {
            match inspect(&folder) {
                Ok(found) if data.is_none_or(|(_, major)| major == found.major) => {
                    return Ok(Some(found));
                }
                Ok(other) => rejected.push(describe(&other)),
                Err(why) => rejected.push(format!("{}: {why}", folder.display())),
            }
        }
        Ok(None)
    }

    fn postgres_folders(&self) -> impl Iterator<Item = PathBuf> {
        // Lazily: most machines end at the first, and `pg_config` is a process to run.
        let linked = self.program("postgres").into_iter();
        let real =
            linked.filter_map(|program| Some(program.canonicalize().ok()?.parent()?.to_path_buf()));
        let told = std::iter::once_with(|| pg_config(&self.program("pg_config")?)).flatten();
        real.chain(told).chain(self.places.iter().cloned())
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let mut folders = self.path.iter().chain(&self.places);
        folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()))
    }
}

/// The folders of one row of [`VERSIONED`], newest first.
fn versions((parent, before, after): &(&str, &str, &str)) -> Vec<PathBuf> {
    let numbered = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let version = name.to_str()?.strip_prefix(before)?;
        // Postgres.app has folders like `16` and `9.6`, and a link `latest` to one of them.
        let major = version.split('.').next()?.parse::<u32>().ok()?;
        Some((Reverse(major), entry.path().join(after)))
    };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(numbered).collect();
    found.sort();
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn pg_config(program: &Path) -> Option<PathBuf> {
    let said = said(program, "--bindir").ok()?;
    Some(PathBuf::from(said.trim_end()))
}

/// Says what is in a folder, or why it cannot be used.
fn inspect(bin: &Path) -> Result<Installation, String> {
    if let Some(missing) = ["postgres", "initdb"]
        .iter()
        .find(|name| !bin.join(name).is_file())
    {
        return Err(format!("it has no `{missing}`"));
    }
    let version = said(&bin.join("postgres"), "--version")?;
    let major = major(&version).ok_or_else(|| format!("`postgres --version` said {version:?}"))?;
    if major < OLDEST_MAJOR {
        return Err(format!(
            "version {major} is too old, {OLDEST_MAJOR} or newer is needed"
        ));
    }
    Ok(Installation {
        bin: bin.to_path_buf(),
        major,
    })
}

/// `postgres (PostgreSQL) 15.14 (Debian ...)` or `... 18beta1` to 15 or 18.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let end = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number.get(..end)?.parse().ok()
}

fn said(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{} does not run: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(found: &Installation) -> String {
    format!("{}: version {}", found.bin.display(), found.major)
}

fn list(rejected: &[String]) -> String {
    if rejected.is_empty() {
        String::new()
    } else {
        format!(" (found {})", rejected.join("; "))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn install(bin: &Path, version: &str) {
        fs::create_dir_all(bin).unwrap();
        for program in ["postgres", "initdb"].map(|name| bin.join(name)) {
            fs::write(
                &program,
                format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n"),
            )
            .unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn nowhere() -> Search {
        Search {
            chosen: None,
            path: Vec::new(),
            places: Vec::new(),
            may_install: false,
        }
    }

    #[test]
    fn versions_are_read_as_vendors_write_them() {
        let read = ["15.14 (Debian 15.14-0+deb12u1)", "18beta1", "14.9", "x"]
            .map(|version| major(&format!("postgres (PostgreSQL) {version}")));
        assert_eq!(read, [Some(15), Some(18), Some(14), None]);
    }

    #[test]
    fn a_link_on_path_leads_to_its_real_folder_and_wins() {
        let folder = tempfile::tempdir().unwrap();
        let [real, path, place] = ["real", "path", "place"].map(|name| folder.path().join(name));
        install(&real, "15.1");
        install(&place, "17.1");
        fs::create_dir(&path).unwrap();
        symlink(real.join("postgres"), path.join("postgres")).unwrap();
        let search = Search {
            path: vec![path],
            places: vec![place],
            ..nowhere()
        };
        let found = search.postgres(None).unwrap();
        assert_eq!((found.bin, found.major), (real.canonicalize().unwrap(), 15));
    }

    #[test]
    fn versioned_places_come_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "pgsql-9.6",
            "pgsql-16",
            "pgsql-15",
            "pgsql-latest",
            "other-17",
        ] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let parent = folder.path().to_str().unwrap();
        let found = versions(&(parent, "pgsql-", "bin"));
        let names = ["pgsql-16/bin", "pgsql-15/bin", "pgsql-9.6/bin"];
        assert_eq!(found, names.map(|name| folder.path().join(name)));
    }

    #[test]
    fn data_chooses_its_own_major_version() {
        let folder = tempfile::tempdir().unwrap();
        let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
        install(&new, "17.1");
        install(&old, "15.1");
        let search = Search {
            places: vec![new, old.clone()],
            ..nowhere()
        };
        assert_eq!(search.postgres(Some((folder.path(), 15))).unwrap().bin, old);
        let error = search
            .postgres(Some((folder.path(), 16)))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("made by Postgres 16") && error.contains("version 17"),
            "{error}"
        );
    }

    #[test]
    fn what_is_missing_or_too_old_is_said() {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path(), "12.4");
        let search = Search {
            places: vec![folder.path().to_path_buf()],
            ..nowhere()
        };
        let error = search.postgres(None).unwrap_err().to_string();
        assert!(error.contains("version 12 is too old"), "{error}");
        let error = nowhere().redis().unwrap_err().to_string();
        assert!(
            error.contains("no usable Redis found and it was not installed"),
            "{error}"
        );
    }
}
