//! Installs a missing server with the machine's own package manager, when nobody has to be asked.
//!
//! The crate `postgresql_embedded` would be the way without a package manager. It is not taken:
//! it fetches from a release page at run time, which fails behind most company proxies, and its
//! dependencies are many for a case that ends well with one line to paste.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use crate::ServersError;

/// What to install.
#[derive(Clone, Copy)]
pub(crate) enum Package {
    Postgres,
    Redis,
}

/// One package manager. Scripts run by `sh`, as root except with Homebrew.
struct Manager {
    program: &'static str,
    postgres: &'static str,
    redis: &'static str,
    /// What a person pastes, by package.
    paste: [&'static str; 2],
    as_root: bool,
}

/// Debian's package makes and starts a cluster of its own. A setting that exists only while we
/// install keeps it from that: it would cost seconds and memory, and nobody asked for it.
const APT_POSTGRES: &str = r"
set -e
export DEBIAN_FRONTEND=noninteractive
settings=/etc/postgresql-common/createcluster.d
mkdir -p $settings
trap 'rm -f $settings/codelab.conf' EXIT
echo 'create_main_cluster = false' > $settings/codelab.conf
apt-get update || true
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends postgresql
";

const APT_REDIS: &str = r"
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends redis-server
";

const MANAGERS: [Manager; 4] = [
    Manager {
        program: "apt-get",
        postgres: APT_POSTGRES,
        redis: APT_REDIS,
        paste: [
            "sudo apt-get update && sudo apt-get install -y postgresql",
            "sudo apt-get update && sudo apt-get install -y redis-server",
        ],
        as_root: true,
    },
    Manager {
        program: "dnf",
        postgres: "dnf install -y postgresql-server",
        redis: "dnf install -y redis || dnf install -y valkey",
        paste: [
            "sudo dnf install -y postgresql-server",
            "sudo dnf install -y redis || sudo dnf install -y valkey",
        ],
        as_root: true,
    },
    Manager {
        program: "apk",
        postgres: "apk add --no-cache postgresql",
        redis: "apk add --no-cache redis || apk add --no-cache valkey",
        paste: ["sudo apk add postgresql", "sudo apk add redis"],
        as_root: true,
    },
    Manager {
        program: "brew",
        postgres: "brew install postgresql@17",
        redis: "brew install redis",
        paste: ["brew install postgresql@17", "brew install redis"],
        as_root: false,
    },
];

impl Package {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres (14 or newer)",
            Self::Redis => "Redis",
        }
    }
}

impl Manager {
    fn script(&self, package: Package) -> &'static str {
        match package {
            Package::Postgres => self.postgres,
            Package::Redis => self.redis,
        }
    }

    fn hint(&self, package: Package) -> String {
        let [postgres, redis] = self.paste;
        let line = match package {
            Package::Postgres => postgres,
            Package::Redis => redis,
        };
        format!("to install it, type: {line}")
    }

    /// The command that needs no password, or why there is none.
    fn command(&self) -> Result<Command, String> {
        match (self.as_root, Uid::effective().is_root()) {
            (true, true) | (false, false) => Ok(Command::new("sh")),
            (false, true) => Err(format!("{} refuses root", self.program)),
            (true, false) if sudo_without_password() => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "sh"]);
                Ok(sudo)
            }
            (true, false) => Err(format!("{} needs root, and sudo a password", self.program)),
        }
    }
}

/// Installs `package` and looks `again`. `rejected` is what an error says of earlier findings.
pub(crate) fn install<T>(
    package: Package,
    allowed: bool,
    rejected: &str,
    again: impl Fn() -> Option<T>,
) -> Result<T, ServersError> {
    let manager = MANAGERS.iter().find(|manager| on_path(manager.program));
    let not_found = |why: String| ServersError::NotFound {
        server: package.name(),
        rejected: rejected.to_owned(),
        why,
        hint: manager.map_or_else(
            || "install it by hand".to_owned(),
            |manager| manager.hint(package),
        ),
    };
    let Some(manager) = manager else {
        return Err(not_found("no known package manager here".to_owned()));
    };
    if !allowed {
        return Err(not_found("CODELAB_NO_INSTALL is set".to_owned()));
    }
    let command = manager.command().map_err(not_found)?;
    // Many test programs may start at once on a bare machine: one installs, the others find.
    let _turn = turn();
    if let Some(found) = again() {
        return Ok(found);
    }
    // A person at a terminal waits for this, and tests have no subscriber: hence not by `tracing`.
    eprintln!(
        "codelab: no {} found, installing it with {} ...",
        package.name(),
        manager.program
    );
    run(command, manager.script(package)).map_err(not_found)?;
    again().ok_or_else(|| not_found(format!("{} ran but brought no usable one", manager.program)))
}

fn run(mut command: Command, script: &str) -> Result<(), String> {
    let output = command
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().take(3).collect::<Vec<_>>();
    let last = last.into_iter().rev().collect::<Vec<_>>().join(" / ");
    Err(format!("installing ended with {} ({last})", output.status))
}

/// Waits until no other process of ours installs. Best effort: a lock file of another user
/// cannot be opened, and then the package manager's own lock has to do.
fn turn() -> Option<File> {
    let path = std::env::temp_dir().join("codelab-install.lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    file.lock().ok()?;
    Some(file)
}

fn sudo_without_password() -> bool {
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .any(|folder: std::path::PathBuf| Path::new(&folder).join(program).is_file())
}
