//! One of the two that are compared: servers, those who listen to them, and who speaks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::UserScope;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    client::Target,
    crowd::{Crowd, Opening},
    processes,
    speaker::{Said, Speaker, Speech, Voice},
};
use crate::{
    child::{ChildServer, Cost, cost_of, own_cost},
    setup::Bench,
    workloads::{millis, percentiles},
};

/// Longest wait for what was said last. Whatever comes later counts as lost.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between the opening of the streams and the first event.
const SETTLE: Duration = Duration::from_millis(300);
/// Bytes of text of an event: a frame of it has about 400 bytes, as those of the product's own events do.
pub(super) const TEXT: usize = 200;

/// So many streams of each user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) users: usize,
    pub(super) streams: usize,
}

/// A side at work.
pub(super) struct Side {
    servers: Vec<ChildServer>,
    pub(super) targets: Vec<Target>,
    pub(super) crowd: Crowd,
    speaker: Speaker,
    size: Size,
    /// Of the servers, before anybody listened.
    rss_before: u64,
    connect: Duration,
    /// Statements while the streams were opened, if they are counted.
    pub(super) opening: Option<i64>,
    said: Vec<Said>,
    /// Events that only warmed up, and the bytes that each delivery of them took.
    warm: usize,
    frame: u64,
    /// Over all windows.
    spent: Spent,
}

/// What windows cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    time: Duration,
    servers: Duration,
    clients: Duration,
}

/// How late the events were.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) longest: Duration,
    /// Medians of the streams that had an event first and last.
    first_p50: Duration,
    last_p50: Duration,
    pub(super) lost: u64,
    /// Seqs that were not the next one.
    pub(super) disordered: u64,
    pub(super) deliveries: usize,
}

impl Side {
    /// The product: API processes over the bench's database; events with so many bytes of text.
    pub(super) async fn ours(
        bench: &Bench,
        size: Size,
        text: usize,
        servers: Vec<ChildServer>,
    ) -> anyhow::Result<Self> {
        let people = people(bench, size.users).await?;
        let tokens = people.iter().map(|person| person.token.clone()).collect();
        let voice = Voice::Commits {
            database_url: bench.url.clone(),
            people: people.iter().map(|person| person.scope).collect(),
            text,
        };
        let targets = targets(&servers, size, &Aim::Feeds(tokens));
        let before = bench.statements().await;
        let mut ours = Self::with(servers, size, voice, targets).await?;
        ours.opening = since(before, bench.statements().await);
        Ok(ours)
    }

    /// The bare servers, with frames of this size.
    pub(super) async fn bare(servers: usize, size: Size, frame: usize) -> anyhow::Result<Self> {
        let mut started = Vec::new();
        for _ in 0..servers {
            started.push(processes::start_bare(size.users).await?);
        }
        let voice = Voice::Posts {
            servers: started.iter().map(|server| server.address).collect(),
            topics: size.users,
            frame,
        };
        let targets = targets(&started, size, &Aim::Topics);
        Self::with(started, size, voice, targets).await
    }

    async fn with(
        servers: Vec<ChildServer>,
        size: Size,
        voice: Voice,
        targets: Vec<Target>,
    ) -> anyhow::Result<Self> {
        let rss_before = cost(&servers)?.rss_kib;
        let began = Instant::now();
        let crowd = Crowd::join(&targets, Opening::CALM).await?;
        Ok(Self {
            connect: began.elapsed(),
            opening: None,
            servers,
            targets,
            crowd,
            speaker: Speaker::start(voice)?,
            size,
            rss_before,
            said: Vec::new(),
            warm: 0,
            frame: 0,
            spent: Spent::default(),
        })
    }

    /// Events that are not judged by their time.
    pub(super) async fn warm_up(&mut self, speech: Speech) -> anyhow::Result<()> {
        // What comes at the beginning of a stream has come by then.
        sleep(SETTLE).await;
        let before = self.crowd.bytes();
        self.window(speech).await?;
        self.frame = (self.crowd.bytes() - before) / std::cmp::max(self.crowd.delivered(), 1);
        self.judge_from_here();
        Ok(())
    }

    /// What was so far is not judged, apart from what was lost.
    pub(super) fn judge_from_here(&mut self) {
        self.warm = self.said.len();
        self.spent = Spent::default();
    }

    /// Has events made, and waits until all of them have come to all who listen.
    pub(super) async fn window(&mut self, speech: Speech) -> anyhow::Result<()> {
        let before = (Instant::now(), cost(&self.servers)?, own_cost()?);
        self.said.extend(self.speaker.say(speech).await?);
        let expected = u64::try_from(self.said.len() * self.size.streams)?;
        self.crowd.wait_for(expected, PATIENCE).await;
        self.crowd.check()?;
        self.spent.time += before.0.elapsed();
        self.spent.servers += cost(&self.servers)?.cpu_since(before.1);
        self.spent.clients += own_cost()?.cpu_since(before.2);
        Ok(())
    }

    /// Events of all windows.
    pub(super) fn events(&self) -> usize {
        self.said.len() - self.warm
    }

    /// Bytes of a frame, without what chunks add; known after the warm-up.
    pub(super) fn frame(&self) -> anyhow::Result<usize> {
        let chunk = "123\r\n\r\n".len();
        Ok(usize::try_from(self.frame)?.saturating_sub(chunk))
    }

    /// What the servers have used so far, and hold now.
    pub(super) fn cost(&self) -> anyhow::Result<Cost> {
        cost(&self.servers)
    }

    /// Looks at the memory of the servers, from elsewhere too.
    pub(super) fn watch(&self) -> impl Fn() -> anyhow::Result<u64> + Send + use<> {
        let pids: Vec<u32> = self.servers.iter().map(ChildServer::pid).collect();
        move || pids.iter().map(|pid| Ok(cost_of(*pid)?.rss_kib)).sum()
    }

    /// Seq of the newest event of the only user.
    pub(super) fn newest(&self) -> i64 {
        self.said.last().map_or(0, |said| said.seq)
    }

    /// What was used, by name.
    pub(super) fn bill(&self) -> anyhow::Result<Value> {
        let after = self.cost()?.rss_kib;
        let streams = u64::try_from(self.size.users * self.size.streams)?;
        let per_stream = after.saturating_sub(self.rss_before) * 10 / streams;
        let deliveries = u32::try_from(self.events() * self.size.streams)?;
        let share = |cpu: Duration| hundredths(cpu.as_secs_f64() / self.spent.time.as_secs_f64());
        Ok(json!({
            "cpu_s_per_s": share(self.spent.servers),
            "cpu_us_per_delivery": hundredths(self.spent.servers.as_secs_f64() * 1e6 / f64::from(deliveries)),
            "clients_cpu_s_per_s": share(self.spent.clients),
            "rss_before_mib": self.rss_before / 1024,
            "rss_after_mib": after / 1024,
            "kib_per_stream": f64::from(u32::try_from(per_stream)?) / 10.0,
            "connect_s": hundredths(self.connect.as_secs_f64()),
        }))
    }

    /// Over all windows that are judged.
    pub(super) fn lateness(&self) -> Lateness {
        let mut stamps = vec![BTreeMap::new(); self.size.users];
        for (number, said) in self.said.iter().enumerate() {
            let judged = number >= self.warm;
            stamps[said.user].insert(said.seq, Stamp::new(said.at, judged));
        }
        let mut lateness = Lateness::default();
        let mut late = Vec::new();
        let mut delivered = 0;
        for log in &self.crowd.logs {
            let mut next = 1;
            for (seq, at) in log.events() {
                lateness.disordered += u64::from(seq != next);
                next = seq + 1;
                let Some(stamp) = stamps[log.user].get_mut(&seq) else {
                    continue;
                };
                delivered += 1;
                late.extend(stamp.came(at));
            }
        }
        let expected = self.said.len() * self.size.streams;
        lateness.lost = u64::try_from(expected.abs_diff(delivered)).unwrap_or(u64::MAX);
        let judged = || {
            stamps
                .iter()
                .flat_map(BTreeMap::values)
                .filter(|stamp| stamp.judged)
        };
        lateness.first_p50 = median(judged().filter_map(|stamp| stamp.first));
        lateness.last_p50 = median(judged().filter_map(|stamp| stamp.last));
        (lateness.p50, lateness.p99) = percentiles(&mut late, 99);
        lateness.longest = late.last().copied().unwrap_or_default();
        lateness.deliveries = late.len();
        lateness
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        drop(self.crowd);
        for server in self.servers {
            server.stop().await?;
        }
        Ok(())
    }
}

impl Lateness {
    pub(super) fn json(&self) -> Value {
        json!({
            "p50_ms": millis(self.p50),
            "p99_ms": millis(self.p99),
            "max_ms": millis(self.longest),
            "first_stream_p50_ms": millis(self.first_p50),
            "last_stream_p50_ms": millis(self.last_p50),
            "deliveries": self.deliveries,
            "lost": self.lost,
            "disordered": self.disordered,
        })
    }
}

/// What became of one event.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    at: Instant,
    judged: bool,
    /// How late it was where it came first, and last.
    first: Option<Duration>,
    last: Option<Duration>,
}

impl Stamp {
    fn new(at: Instant, judged: bool) -> Self {
        Self {
            at,
            judged,
            first: None,
            last: None,
        }
    }

    /// It came to a stream: how late, if that is judged.
    fn came(&mut self, at: Instant) -> Option<Duration> {
        let late = at.saturating_duration_since(self.at);
        self.first = Some(self.first.map_or(late, |first| std::cmp::min(first, late)));
        self.last = std::cmp::max(self.last, Some(late));
        self.judged.then_some(late)
    }
}

fn median(samples: impl Iterator<Item = Duration>) -> Duration {
    percentiles(&mut samples.collect::<Vec<_>>(), 50).0
}

/// What streams are of.
enum Aim {
    /// Of each user's token.
    Feeds(Vec<Arc<str>>),
    /// Of each topic.
    Topics,
}

/// The streams of each user, over the servers in turn.
fn targets(servers: &[ChildServer], size: Size, aim: &Aim) -> Vec<Target> {
    let one = |number: usize| {
        let user = number % size.users;
        let (path, token) = match aim {
            Aim::Feeds(tokens) => ("/my/events/".to_owned(), Some(tokens[user].clone())),
            Aim::Topics => (format!("/events/{user}"), None),
        };
        let server = &servers[number / size.users % servers.len()];
        Target {
            address: server.address,
            path,
            token,
            user,
        }
    };
    (0..size.users * size.streams).map(one).collect()
}

/// Somebody with a feed.
pub(super) struct Person {
    pub(super) scope: UserScope,
    pub(super) token: Arc<str>,
}

/// People whose feeds are empty.
pub(super) async fn people(bench: &Bench, count: usize) -> anyhow::Result<Vec<Person>> {
    let store = bench.store()?;
    let one = async || {
        let subject = format!("stream-{}", uuid::Uuid::now_v7());
        let hour = Duration::from_hours(1);
        let token = api::auth::dev_token(&processes::secret(), &subject, hour, None, None)?;
        let user = store.user_at_sight("", &subject, None).await?;
        anyhow::Ok(Person {
            scope: UserScope::vouched(user),
            token: token.into(),
        })
    };
    stream::iter(0..count)
        .map(|_| one())
        .buffer_unordered(8)
        .try_collect()
        .await
}

fn cost(servers: &[ChildServer]) -> anyhow::Result<Cost> {
    let mut sum = Cost::default();
    for server in servers {
        let cost = server.cost()?;
        sum.cpu += cost.cpu;
        sum.rss_kib += cost.rss_kib;
    }
    Ok(sum)
}

pub(super) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Statements between two looks, without the first look itself.
pub(super) fn since(before: Option<i64>, after: Option<i64>) -> Option<i64> {
    Some(after? - before? - 1)
}
