//! Where a private cluster lives.
//!
//! The data folder given by the caller becomes a small home: `lock` (held with `flock` while its
//! owner lives, so the system releases it on any death), `cluster` (Postgres' own folder, 0700),
//! `postgres.log`, and while it is being made `initdb-*`.
//!
//! As root inside a private folder (`/root/project`) the server's user could not reach its data:
//! a new cluster then goes below [`SHARED_PLACES`], and `moved-to` in the data folder says where.
//! The new place says in `moved-from` whose it is, so that a copied checkout, pointer included,
//! does not share its original's data.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ServersError;
use crate::account::Account;

/// Reachable for every user and kept over reboots; the second for a read-only `/var/lib`.
const SHARED_PLACES: [&str; 2] = ["/var/lib/codelab", "/var/tmp/codelab"];

/// The longest folder for a socket: 104 bytes of address (macOS; Linux has 108) must also hold
/// `/.s.PGSQL.5432.lock` and a final zero.
const SOCKET_FOLDER_LIMIT: usize = 84;

/// A lock may be held for a moment by a child process between its `fork` and its `exec`.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// A data folder in our hands.
pub(crate) struct Home {
    /// As given by the caller; holds the lock.
    given: PathBuf,
    /// Where the cluster and its log are: mostly the same.
    folder: PathBuf,
    /// Unlocked when dropped. None for a throwaway cluster, whose folder nobody else knows.
    lock: Option<File>,
}

impl Home {
    /// Makes the folder if missing and takes it for this process.
    pub(crate) fn open(given: &Path) -> Result<Self, ServersError> {
        let given = create(given)?;
        let lock = lock(&given)?;
        let folder = moved_to(&given).unwrap_or_else(|| given.clone());
        Ok(Self {
            given,
            folder,
            lock: Some(lock),
        })
    }

    /// A home in a scratch folder that is removed with it.
    pub(crate) fn throwaway(scratch: &Path) -> Self {
        let folder = scratch.to_path_buf();
        Self {
            given: folder.clone(),
            folder,
            lock: None,
        }
    }

    /// The folder of the cluster, and of `initdb-*` while it is made.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Postgres' own data folder.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    /// The log of `initdb` and Postgres.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// Makes sure that the server's user gets to the cluster, by moving out if it must be.
    pub(crate) fn admit(&mut self, account: &Account) -> Result<(), ServersError> {
        if !account.is_dropped() || self.lock.is_none() {
            return Ok(());
        }
        make_searchable(&self.folder)?;
        if !self.cluster().exists() && !account.can_use(&self.folder) {
            self.folder = move_out(&self.given, account)?;
        }
        account.must_use(&self.folder)
    }
}

/// A short private folder for sockets, owned by the server's user.
pub(crate) fn scratch(account: &Account) -> Result<TempDir, ServersError> {
    let places = [
        std::env::temp_dir(),
        PathBuf::from("/tmp"),
        PathBuf::from("/var/tmp"),
    ];
    let place = places
        .iter()
        .find(|place| fits_socket(place) && account.can_use(place));
    let place = place.unwrap_or(&places[1]);
    let scratch = tempfile::Builder::new()
        .prefix("codelab-")
        // The only gate before a server that trusts whoever gets to its socket.
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(place)
        .map_err(ServersError::io("make a folder in", place))?;
    account.give(scratch.path())?;
    Ok(scratch)
}

/// Short enough with `/codelab-XXXXXX` added, and without what `unix_socket_directories` (a list
/// with commas and quotes) or a URL would have to escape.
fn fits_socket(place: &Path) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(byte);
    let bytes = place.as_os_str().as_bytes();
    bytes.len() + "/codelab-XXXXXX".len() <= SOCKET_FOLDER_LIMIT
        && bytes.iter().all(plain)
        && place.is_absolute()
}

fn create(given: &Path) -> Result<PathBuf, ServersError> {
    let failed = || ServersError::io("make the data folder", given);
    // Parents as everybody makes them: a private parent would lock the server's user out.
    given
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .map_err(failed())?;
    match DirBuilder::new().mode(0o700).create(given) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed()(error));
        }
        _ => {}
    }
    let folder = given.canonicalize().map_err(failed())?;
    let mut entries = fs::read_dir(&folder).map_err(ServersError::io("read", &folder))?;
    if entries.next().is_some() && !folder.join("lock").exists() {
        return Err(ServersError::NotOurs { folder });
    }
    Ok(folder)
}

fn lock(folder: &Path) -> Result<File, ServersError> {
    let path = folder.join("lock");
    let failed = || ServersError::io("lock", &path);
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(failed())?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(folder, file)),
        }
    }
    file.set_len(0).map_err(failed())?;
    write!(file, "{}", std::process::id()).map_err(failed())?;
    Ok(file)
}

fn in_use(folder: &Path, mut lock: File) -> ServersError {
    let mut pid = String::new();
    if lock.read_to_string(&mut pid).is_err() || pid.is_empty() {
        "unknown".clone_into(&mut pid);
    }
    ServersError::InUse {
        folder: folder.to_path_buf(),
        pid,
    }
}

/// Follows the pointer that [`move_out`] left, if it is still meant for this folder.
fn moved_to(given: &Path) -> Option<PathBuf> {
    let folder = PathBuf::from(fs::read_to_string(given.join("moved-to")).ok()?.trim_end());
    let place = folder.parent()?;
    let allowed = SHARED_PLACES
        .iter()
        .any(|shared| place == Path::new(shared));
    let from = fs::read(folder.join("moved-from")).ok()?;
    (allowed && is_roots(&folder) && from == given.as_os_str().as_bytes()).then_some(folder)
}

/// Makes a home where the server's user gets to, and leaves the pointer to it.
fn move_out(given: &Path, account: &Account) -> Result<PathBuf, ServersError> {
    let place = SHARED_PLACES
        .iter()
        .map(Path::new)
        .find(|place| usable(place, account));
    let Some(place) = place else {
        account.must_use(given)?;
        return Ok(given.to_path_buf());
    };
    let folder = tempfile::Builder::new()
        .prefix("data-")
        .tempdir_in(place)
        .map_err(ServersError::io("make a folder in", place))?
        .keep();
    make_searchable(&folder)?;
    let from = folder.join("moved-from");
    fs::write(&from, given.as_os_str().as_bytes()).map_err(ServersError::io("write", &from))?;
    let to = given.join("moved-to");
    fs::write(&to, format!("{}\n", folder.display())).map_err(ServersError::io("write", &to))?;
    tracing::info!(data = %folder.display(), "the server's user cannot reach the data folder, so its data lives elsewhere");
    Ok(folder)
}

fn usable(place: &Path, account: &Account) -> bool {
    let made = fs::create_dir_all(place);
    made.is_ok() && is_roots(place) && make_searchable(place).is_ok() && account.can_use(place)
}

/// Search only: what is inside has modes of its own. Set apart from creating, which heeds umask.
fn make_searchable(folder: &Path) -> Result<(), ServersError> {
    let searchable = Permissions::from_mode(0o711);
    fs::set_permissions(folder, searchable).map_err(ServersError::io("make searchable", folder))
}

/// In `/var/tmp` anybody could have put a folder or link of that name there first.
fn is_roots(folder: &Path) -> bool {
    let found = folder.symlink_metadata();
    found.is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0)
}
