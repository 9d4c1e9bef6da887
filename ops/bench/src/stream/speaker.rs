//! Who makes the events: commits through the engine's own transition, or posts to the bare server.
//!
//! It runs on a thread of its own, so that its times do not wait behind thousands of readers in this process. A commit is
//! stamped at the moment when it returned; the hint follows, as in the store. A post is stamped before it is sent.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use engine::{Store, UserScope};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, mpsc, oneshot},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::setup::{LEASE, store_over};

/// Above this rate events are made by several at once: one alone would wait for the disk at each.
const ALONE_PER_S: u32 = 100;
/// How many then.
const LANES: usize = 8;
/// A wire name that has no text of a model behind it.
const EVENT: &str = "agent_status_changed";

/// How events come to be.
#[derive(Debug, Clone)]
pub(super) enum Voice {
    /// Committed to these people's feeds; so many bytes of text in each.
    Commits {
        database_url: String,
        people: Vec<UserScope>,
        text: usize,
    },
    /// Posted to so many topics of each of these servers; so many bytes a frame.
    Posts {
        servers: Vec<SocketAddr>,
        topics: usize,
        frame: usize,
    },
}

/// One event, and the moment from which it is late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) user: usize,
    pub(super) seq: i64,
    pub(super) at: Instant,
}

/// So many events at this rate, evenly spaced, over all people in turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speech {
    pub(super) events: u64,
    pub(super) per_s: u32,
}

impl Speech {
    pub(super) fn of(length: Duration, per_s: u32) -> Self {
        let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        Self {
            events: std::cmp::max(1, u64::from(per_s).saturating_mul(millis) / 1000),
            per_s,
        }
    }
}

type Order = (Speech, oneshot::Sender<anyhow::Result<Vec<Said>>>);

/// The thread that speaks; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Speaker {
    orders: mpsc::UnboundedSender<Order>,
}

impl Speaker {
    pub(super) fn start(voice: Voice) -> anyhow::Result<Self> {
        let (orders, taken) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::spawn(move || runtime.block_on(serve(voice, taken)));
        Ok(Self { orders })
    }

    /// Says all of it, and what was said when.
    pub(super) async fn say(&self, speech: Speech) -> anyhow::Result<Vec<Said>> {
        let (reply, said) = oneshot::channel();
        self.orders
            .send((speech, reply))
            .ok()
            .context("the speaker is gone")?;
        said.await.context("the speaker is gone")?
    }
}

async fn serve(voice: Voice, mut orders: mpsc::UnboundedReceiver<Order>) {
    let stop = CancellationToken::new();
    let mut mouth = Mouth::open(voice, &stop).await;
    while let Some((speech, reply)) = orders.recv().await {
        let said = match &mut mouth {
            Ok(mouth) => mouth.say(speech).await,
            Err(error) => Err(anyhow::anyhow!("the speaker did not start: {error:#}")),
        };
        // Whoever gave the order may have given up.
        let _ = reply.send(said);
    }
    stop.cancel();
}

/// A voice with its connections.
struct Mouth {
    way: Way,
    users: usize,
    /// Events so far, of all users.
    turn: u64,
}

enum Way {
    Commits {
        store: Store,
        people: Vec<UserScope>,
        text: String,
    },
    Posts {
        /// One of each server for each lane.
        lanes: Vec<Mutex<Vec<TcpStream>>>,
        frame: usize,
    },
}

impl Mouth {
    async fn open(voice: Voice, stop: &CancellationToken) -> anyhow::Result<Self> {
        let (way, users) = match voice {
            Voice::Commits {
                database_url,
                people,
                text,
            } => {
                let users = people.len();
                let store = store_over(&database_url, u32::try_from(LANES)?, LEASE, stop)?;
                let text = "x".repeat(text);
                (
                    Way::Commits {
                        store,
                        people,
                        text,
                    },
                    users,
                )
            }
            Voice::Posts {
                servers,
                topics,
                frame,
            } => {
                let lane = || async { try_join_all(servers.iter().map(connect)).await };
                let lanes = try_join_all((0..LANES).map(|_| lane())).await?;
                let lanes = lanes.into_iter().map(Mutex::new).collect();
                (Way::Posts { lanes, frame }, topics)
            }
        };
        Ok(Self {
            way,
            users,
            turn: 0,
        })
    }

    /// Each user's events are made by one lane only, in order.
    async fn say(&mut self, speech: Speech) -> anyhow::Result<Vec<Said>> {
        let lanes = if speech.per_s > ALONE_PER_S { LANES } else { 1 };
        let began = Instant::now();
        let turns = self.turn..self.turn + speech.events;
        self.turn = turns.end;
        let mouth = &*self;
        let speaking = (0..lanes).map(|lane| {
            let turns = turns.clone();
            async move {
                let mut said = Vec::new();
                for turn in turns.clone() {
                    let (user, seq) = mouth.whose(turn)?;
                    if user % lanes != lane {
                        continue;
                    }
                    let at = Duration::from_secs(1)
                        .mul_f64(ratio(turn - turns.start, u64::from(speech.per_s)));
                    sleep_until((began + at).into()).await;
                    let at = mouth.one(lane, user, seq).await?;
                    said.push(Said { user, seq, at });
                }
                anyhow::Ok(said)
            }
        });
        Ok(try_join_all(speaking).await?.concat())
    }

    fn whose(&self, turn: u64) -> anyhow::Result<(usize, i64)> {
        let turn = usize::try_from(turn)?;
        Ok((turn % self.users, i64::try_from(turn / self.users + 1)?))
    }

    async fn one(&self, lane: usize, user: usize, seq: i64) -> anyhow::Result<Instant> {
        match &self.way {
            Way::Commits {
                store,
                people,
                text,
            } => commit(store, people[user], text).await,
            Way::Posts { lanes, frame } => {
                let mut servers = lanes[lane].lock().await;
                let request = post(user, seq, *frame);
                let at = Instant::now();
                for server in servers.iter_mut() {
                    server.write_all(request.as_bytes()).await?;
                }
                for server in servers.iter_mut() {
                    answered(server).await?;
                }
                Ok(at)
            }
        }
    }
}

/// One event as the transitions write it: by the function that all of them end with, in a transaction of its own.
async fn commit(store: &Store, person: UserScope, text: &str) -> anyhow::Result<Instant> {
    sqlx::query(
        "select pg_temp.events_append(
           array[row($1, null, null, null, $2, jsonb_build_object('text', $3::text))::pg_temp.draft], '{}', '{}')",
    )
    .bind(person.user())
    .bind(EVENT)
    .bind(text)
    .execute(store.pool())
    .await?;
    let at = Instant::now();
    store.hints().feed(person.user());
    Ok(at)
}

async fn connect(server: &SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// With a frame of exactly so many bytes.
fn post(topic: usize, seq: i64, frame: usize) -> String {
    let head = format!("id: {seq}\nevent: {EVENT}\ndata: ");
    let data = "x".repeat(frame.saturating_sub(head.len() + 2));
    let frame = format!("{head}{data}\n\n");
    format!(
        "POST /say/{topic} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n{frame}",
        frame.len()
    )
}

/// Reads an answer that has no body.
async fn answered(server: &mut TcpStream) -> anyhow::Result<()> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let read = server.read_buf(&mut answer).await?;
        ensure!(read > 0, "the bare server hung up");
    }
    ensure!(
        answer.starts_with(b"HTTP/1.1 204 "),
        "the bare server said {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of events are small")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}
