//! This program started by itself, so that what one part costs can be read from `/proc`.

use std::{fs, io::Read, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, ChildStdin, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longest wait for a process to say where it listens, and to end when it is told to.
const LIMIT: Duration = Duration::from_secs(20);
/// Linux tells processor time in hundredths of a second, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// A server that is a process of its own. Killed when dropped.
#[derive(Debug)]
pub(crate) struct ChildServer {
    child: Child,
    input: Option<ChildStdin>,
    pid: u32,
    pub(crate) address: SocketAddr,
}

/// What a process has used so far, and holds now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) rss_kib: u64,
}

impl Cost {
    /// Processor time since an earlier look.
    pub(crate) fn cpu_since(self, before: Self) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }
}

impl ChildServer {
    /// Starts this program in another role, and waits until it says where it listens.
    pub(crate) async fn start(role: &str, arguments: &[String]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start a {role} process"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no output to read from")?;
        let mut line = String::new();
        let said = timeout(LIMIT, BufReader::new(output).read_line(&mut line)).await;
        said.with_context(|| format!("{role} does not say where it listens"))??;
        Ok(Self {
            address: line
                .trim()
                .parse()
                .with_context(|| format!("{role} said {line:?} instead of an address"))?,
            pid: child.id().context("it ended at once")?,
            child,
            input,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn cost(&self) -> anyhow::Result<Cost> {
        cost_of(self.pid)
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let ended = timeout(LIMIT, self.child.wait()).await;
        let status = ended.with_context(|| format!("a server did not end within {LIMIT:?}"))??;
        ensure!(status.success(), "a server did not end in order");
        Ok(())
    }
}

/// Says to the parent where this process listens.
pub(crate) fn announce(listener: &TcpListener) -> anyhow::Result<()> {
    println!("{}", listener.local_addr()?);
    Ok(())
}

/// Cancels `stop` when standard input closes: on purpose, or because the parent died.
pub(crate) fn stop_at_end_of_input(stop: CancellationToken) {
    std::thread::spawn(move || {
        // An error is an end as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.cancel();
    });
}

/// Of this process.
pub(crate) fn own_cost() -> anyhow::Result<Cost> {
    cost_of(std::process::id())
}

/// Of any process of this user.
pub(crate) fn cost_of(process: u32) -> anyhow::Result<Cost> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before it is in brackets and may hold anything.
    let (_, after) = stat.rsplit_once(')').context("no stat line")?;
    let ticks: u32 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum();
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
        .context("no VmRSS line")?;
    Ok(Cost {
        cpu: TICK * ticks,
        rss_kib: rss.trim().parse()?,
    })
}
