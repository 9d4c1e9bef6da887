//! Which user a server runs as.
//!
//! Postgres refuses root, and a Redis without password must not be a way to root either. As an
//! ordinary user a server runs as that user; as root it runs as the owner of the existing data,
//! else as `postgres`, else as `nobody`. `std` drops the supplementary groups when root sets a uid.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use crate::ServersError;

/// The user a server runs as: ourselves, or (when we are root) somebody else.
pub(crate) struct Account(Option<Dropped>);

struct Dropped {
    uid: u32,
    gid: u32,
    name: String,
}

impl Account {
    /// Chooses for existing data, or for data yet to be made when `data` does not exist.
    pub(crate) fn choose(data: &Path) -> Result<Self, ServersError> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        owner(data)
            .or_else(|| named("postgres"))
            .or_else(|| named("nobody"))
            .map(|user| Self(Some(user)))
            .ok_or(ServersError::NoUser)
    }

    /// Whether the server runs as somebody else than we do.
    pub(crate) fn is_dropped(&self) -> bool {
        self.0.is_some()
    }

    /// Makes `command` run as this user.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Some(user) = &self.0 {
            command.uid(user.uid).gid(user.gid);
        }
    }

    /// Gives a folder of ours to this user.
    pub(crate) fn give(&self, folder: &Path) -> Result<(), ServersError> {
        let Some(user) = &self.0 else { return Ok(()) };
        std::os::unix::fs::lchown(folder, Some(user.uid), Some(user.gid))
            .map_err(ServersError::io("chown", folder))
    }

    /// Whether this user can search a folder, or execute a file. Asked by trying, since mode bits
    /// know nothing of access lists and of every parent's opinion.
    pub(crate) fn can_use(&self, path: &Path) -> bool {
        let mut test = Command::new("/bin/sh");
        test.args(["-c", "test -x \"$1\"", "sh"])
            .arg(path)
            .current_dir("/");
        test.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.apply(&mut test);
        !self.is_dropped() || test.status().is_ok_and(|status| status.success())
    }

    /// Fails with the words for a person when [`Self::can_use`] says no.
    pub(crate) fn must_use(&self, path: &Path) -> Result<(), ServersError> {
        if self.can_use(path) {
            return Ok(());
        }
        let user = self
            .0
            .as_ref()
            .map(|user| user.name.clone())
            .unwrap_or_default();
        Err(ServersError::Unreachable {
            path: path.to_path_buf(),
            user,
        })
    }
}

/// The owner of existing data wins: a `postgres` user that appeared later (its package was
/// installed) could not read what `nobody` once wrote.
fn owner(data: &Path) -> Option<Dropped> {
    let data = data.symlink_metadata().ok()?;
    let (uid, gid) = (data.uid(), data.gid());
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    (uid != 0).then_some(Dropped { uid, gid, name })
}

fn named(name: &str) -> Option<Dropped> {
    let user = User::from_name(name).ok().flatten()?;
    Some(Dropped {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        name: user.name,
    })
}
