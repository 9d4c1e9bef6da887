//! The data folder of `up`: who uses it, its signing secret, the place of its Postgres.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use secrecy::SecretString;

/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// A data folder that this process holds; another `up` on it is refused until this value is gone.
pub(crate) struct DataFolder {
    path: PathBuf,
    /// Unlocked by the system however this process ends.
    lock: File,
}

impl DataFolder {
    /// Makes the folder if it is missing and takes it for this process.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        // Searchable by all: as root, Postgres runs as another user below it. What is secret in it is closed by itself.
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .with_context(|| format!("could not make the folder {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("could not open the folder {}", path.display()))?;
        let lock = take_lock(&path)?;
        let ignore = path.join(".gitignore");
        if !ignore.exists() {
            // Nothing here belongs into a repository, least of all the secret.
            fs::write(&ignore, "*\n")
                .with_context(|| format!("could not write {}", ignore.display()))?;
        }
        Ok(Self { path, lock })
    }

    /// Leaves word for another `up` where this one is to be found.
    pub(crate) fn announce(&mut self, address: &str) -> anyhow::Result<()> {
        let announced = self
            .lock
            .set_len(0)
            .and_then(|()| write!(self.lock, "process {}, {address}", std::process::id()));
        announced.with_context(|| format!("could not write in {}", self.path.display()))
    }

    /// Where its Postgres lives.
    pub(crate) fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Says once and for all that the demo team was there: who deletes it does not get it back.
    pub(crate) fn seeded(&self) -> PathBuf {
        self.path.join("seeded")
    }

    /// The signing secret, made at first use.
    pub(crate) fn secret(&self) -> anyhow::Result<SecretString> {
        match secret_in(&self.path)? {
            Some(secret) => Ok(secret),
            None => self.make_secret(),
        }
    }

    /// Whole or not at all, and never readable by others: made aside with mode 0600, then given its name.
    fn make_secret(&self) -> anyhow::Result<SecretString> {
        let mut random = [0; SECRET_BYTES];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .context("could not read random bytes")?;
        let secret = random.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let path = secret_path(&self.path);
        let failed = || format!("could not write {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(&self.path).with_context(failed)?;
        file.write_all(secret.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        Ok(secret.into())
    }
}

/// The signing secret in a data folder; none: `up` was never started there.
pub(crate) fn secret_in(folder: &Path) -> anyhow::Result<Option<SecretString>> {
    let path = secret_path(folder);
    let secret = match fs::read_to_string(&path) {
        Ok(secret) => secret,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("could not read {}", path.display()));
        }
    };
    if secret.trim().len() < SECRET_BYTES {
        bail!(
            "{} is damaged: delete it and start `codelab up` again; tokens made before will not be valid any more",
            path.display()
        );
    }
    // A copy or an editor may have opened it up.
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .with_context(|| format!("could not close {} to others", path.display()))?;
    Ok(Some(secret.trim().into()))
}

fn secret_path(folder: &Path) -> PathBuf {
    folder.join("jwt-secret")
}

fn take_lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("up.lock");
    let failed = || format!("could not lock {}", path.display());
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
        Err(TryLockError::WouldBlock) => {
            let mut who = String::new();
            let _ = lock.read_to_string(&mut who);
            let who = if who.is_empty() {
                "still starting"
            } else {
                &who
            };
            bail!(
                "codelab already runs in {} ({who}): stop it first, or take another folder with --data-dir",
                folder.display()
            )
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::take(folder.path()).unwrap();
        let secret = data.secret().unwrap();
        assert_eq!(secret.expose_secret().len(), 64);
        assert_eq!(
            data.secret().unwrap().expose_secret(),
            secret.expose_secret()
        );
        let mode = fs::metadata(secret_path(folder.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_secret_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(secret_path(folder.path()), "short").unwrap();
        assert!(secret_in(folder.path()).is_err());
    }

    #[test]
    fn a_folder_has_one_user_who_can_be_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = DataFolder::take(folder.path()).unwrap();
        first.announce("http://127.0.0.1:1").unwrap();
        let refused = DataFolder::take(folder.path())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("http://127.0.0.1:1") && refused.contains("--data-dir"),
            "{refused}"
        );
        drop(first);
        DataFolder::take(folder.path()).unwrap();
    }
}
