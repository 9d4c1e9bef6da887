//! A process that is killed, frozen, drained and started again. One that ends without having been told to is a violation.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, sync::watch, time::timeout};

use crate::process::{codelab, surroundings};

/// Longest wait for a process to end after it was told to: its grace period and a slow machine.
const END: Duration = Duration::from_secs(40);
/// Until it listens to signals, at the latest.
const YOUTH: Duration = Duration::from_secs(3);

/// One process of the deployment, over all its lives.
#[derive(Debug)]
pub struct Slot {
    /// What it is called.
    pub name: String,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    /// Of the next life only.
    once: Mutex<Vec<(String, String)>>,
    folder: PathBuf,
    life: Mutex<Option<Life>>,
    surprises: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Clone)]
struct Life {
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
    expected: Arc<AtomicBool>,
    killed: Arc<AtomicBool>,
    begun: Instant,
}

impl Slot {
    /// Nothing runs yet.
    pub fn new(
        name: &str,
        arguments: &[&str],
        variables: Vec<(String, String)>,
        folder: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
            variables,
            once: Mutex::default(),
            folder: folder.to_owned(),
            life: Mutex::default(),
            surprises: Arc::default(),
        }
    }

    /// A variable of the next start only.
    pub fn once(&self, name: &str, value: &str) {
        lock(&self.once).push((name.to_owned(), value.to_owned()));
    }

    /// Starts it, unless it runs.
    pub fn start(&self) {
        let mut life = lock(&self.life);
        if life
            .as_ref()
            .is_some_and(|life| life.ended.borrow().is_none())
        {
            return;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a log");
        let once: Vec<(String, String)> = lock(&self.once).drain(..).collect();
        let mut child = Command::new(codelab())
            .args(&self.arguments)
            .env_clear()
            .envs(surroundings())
            .envs(self.variables.iter().cloned())
            .envs(once)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let pid =
            Pid::from_raw(i32::try_from(child.id().expect("it has just begun")).expect("a pid"));
        let (end, ended) = watch::channel(None);
        let expected = Arc::new(AtomicBool::new(false));
        *life = Some(Life {
            pid,
            ended,
            expected: Arc::clone(&expected),
            killed: Arc::default(),
            begun: Instant::now(),
        });
        let (name, surprises) = (self.name.clone(), Arc::clone(&self.surprises));
        tokio::spawn(async move {
            let status = child.wait().await.expect("its end is known");
            if !expected.load(Ordering::SeqCst) {
                lock(&surprises).push(format!("{name} ended by itself: {status}"));
            }
            end.send_replace(Some(status));
        });
    }

    /// Whether it runs (frozen or not).
    pub fn runs(&self) -> bool {
        lock(&self.life)
            .as_ref()
            .is_some_and(|life| life.ended.borrow().is_none())
    }

    /// Kills it with SIGKILL and waits until it is gone. False: there was nothing to kill.
    pub async fn kill(&self) -> bool {
        self.end_by(Signal::SIGKILL).await.is_some()
    }

    /// Tells it to stop and waits; how it ended.
    pub async fn drain(&self) -> Option<ExitStatus> {
        self.end_by(Signal::SIGTERM).await
    }

    /// Its end is none of our doing but no surprise either (a crash point).
    pub fn may_end(&self) {
        if let Some(life) = lock(&self.life).as_ref() {
            life.expected.store(true, Ordering::SeqCst);
        }
    }

    /// Waits for its end.
    pub async fn ended(&self, limit: Duration) -> Option<ExitStatus> {
        let mut life = lock(&self.life).clone()?;
        let ended = timeout(limit, life.ended.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.as_ref().copied()
    }

    /// Stops it in the middle of whatever it does.
    pub fn freeze(&self) -> bool {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> bool {
        self.signal(Signal::SIGCONT)
    }

    /// What went wrong with it so far.
    pub fn surprises(&self) -> Vec<String> {
        lock(&self.surprises).clone()
    }

    /// All it has said.
    pub fn said(&self) -> String {
        fs::read(self.log()).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Where it says it.
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn signal(&self, signal: Signal) -> bool {
        let life = lock(&self.life);
        life.as_ref()
            .filter(|life| life.ended.borrow().is_none())
            .is_some_and(|life| kill(life.pid, signal).is_ok())
    }

    async fn end_by(&self, signal: Signal) -> Option<ExitStatus> {
        let mut life = lock(&self.life)
            .clone()
            .filter(|life| life.ended.borrow().is_none())?;
        life.expected.store(true, Ordering::SeqCst);
        if signal == Signal::SIGKILL {
            life.killed.store(true, Ordering::SeqCst);
        }
        let _ = kill(life.pid, signal);
        // A frozen process hears nothing else.
        let _ = kill(life.pid, Signal::SIGCONT);
        let ended = timeout(END, life.ended.wait_for(Option::is_some)).await;
        if let Ok(Ok(status)) = ended {
            let status = *status;
            // A process that has hardly begun does not listen to signals yet; another may be killed while it stops.
            if life.begun.elapsed() > YOUTH && !life.killed.load(Ordering::SeqCst) {
                self.judge(signal, status);
            }
            return status;
        }
        lock(&self.surprises).push(format!("{} did not end by {signal}", self.name));
        let _ = kill(life.pid, Signal::SIGKILL);
        Some(ExitStatus::from_raw(9))
    }

    /// A process that is asked to stop stops in order.
    fn judge(&self, signal: Signal, status: Option<ExitStatus>) {
        let in_order = status.is_some_and(|status| status.success());
        if signal == Signal::SIGTERM && !in_order {
            lock(&self.surprises).push(format!(
                "{} was asked to stop and ended with {status:?}",
                self.name
            ));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
