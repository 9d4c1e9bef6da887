//! `codelab watch PLAN`, and the watching that `codelab demo` does: a plan followed over the public API to its end.

use std::{pin::Pin, time::Duration};

use anyhow::bail;
use engine::{id::PlanId, plan::PlanState};
use futures::{Stream, StreamExt};
use secrecy::SecretString;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    board::Board,
    client::{Client, News},
    say,
    screen::Screen,
};

/// Between two looks at whether there is something new to draw.
const FRAME: Duration = Duration::from_millis(100);
/// Least time between two readings of the whole plan: a person's requests are counted.
const READ_AGAIN: Duration = Duration::from_millis(300);
/// Longest time between two readings: the guarantee behind the events.
const READ_ANYWAY: Duration = Duration::from_secs(5);
/// Pause before a lost stream is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// Which plan, of which service, for whom.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// Id of the plan
    plan: PlanId,
    /// Where the service is
    #[arg(long, env = "CODELAB_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Your token (better in the environment: a command line can be read by others)
    #[arg(long, env = "CODELAB_TOKEN", hide_env_values = true)]
    token: SecretString,
}

/// Watches to the end; `false`: the plan did not succeed.
pub(crate) async fn run(args: WatchArgs) -> anyhow::Result<bool> {
    let client = Client::new(&args.url, args.token)?;
    let board = follow(&client, &args.plan.to_string(), None).await?;
    if let Some(answer) = &board.answer {
        say::line(format!("\n{}", say::clean_lines(answer)));
    }
    Ok(board.state == PlanState::Succeeded)
}

/// Shows a plan until it has ended, from a position in the feed on (none: from now on).
pub(crate) async fn follow(
    client: &Client,
    plan: &str,
    after: Option<i64>,
) -> anyhow::Result<Board> {
    let Some(board) = Board::read(client, plan).await? else {
        bail!("you have no plan {plan}")
    };
    let mut watcher = Watcher {
        client: client.clone(),
        board,
        after,
        screen: Screen::new(),
        read_at: Instant::now(),
        seen: None,
    };
    watcher.watch().await?;
    Ok(watcher.board)
}

struct Watcher {
    client: Client,
    board: Board,
    /// Where the stream goes on if it breaks off.
    after: Option<i64>,
    screen: Screen,
    read_at: Instant,
    /// The last reading or trial that failed, so that it is said once.
    seen: Option<String>,
}

type NewsStream = Pin<Box<dyn Stream<Item = anyhow::Result<News>> + Send>>;

impl Watcher {
    async fn watch(&mut self) -> anyhow::Result<()> {
        while self.board.state == PlanState::Active {
            match self.open().await {
                Ok(stream) => self.listen(stream).await,
                Err(error) => self.lost(&error),
            }
            if self.board.state == PlanState::Active {
                sleep(REOPEN).await;
                self.read().await;
            }
        }
        // The events have told the end; the picture of it is read whole.
        self.board.refresh(&self.client).await?;
        self.screen.end(&self.board);
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<NewsStream> {
        Ok(Box::pin(
            self.client
                .events(self.board.session.as_deref(), self.after)
                .await?,
        ))
    }

    /// Until the plan or the stream ends.
    async fn listen(&mut self, mut stream: NewsStream) {
        // Whatever happened before the stream began is read, not heard.
        self.board.stale = true;
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while self.board.state == PlanState::Active {
            tokio::select! {
                news = stream.next() => match news {
                    Some(Ok(news)) => self.hear(news),
                    Some(Err(error)) => return self.lost(&error),
                    None => return,
                },
                _ = frames.tick() => {
                    self.read_if_needed().await;
                    self.screen.draw(&self.board);
                }
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Event(event) => {
                self.after = Some(event.seq);
                if event
                    .plan_id
                    .is_some_and(|plan| plan.to_string() == self.board.plan)
                    && let Some(line) = self.board.take(&event)
                {
                    self.screen.tell(&line);
                }
            }
            News::Delta(piece) if piece.plan == self.board.plan => self.board.hear(piece),
            News::Delta(_) | News::Passing => {}
        }
    }

    async fn read_if_needed(&mut self) {
        let age = self.read_at.elapsed();
        if (self.board.stale && age >= READ_AGAIN) || age >= READ_ANYWAY {
            self.read().await;
        }
    }

    async fn read(&mut self) {
        self.read_at = Instant::now();
        match self.board.refresh(&self.client).await {
            Ok(()) => self.seen = None,
            Err(error) => {
                // Not at once again: a service in trouble has enough to do.
                self.board.stale = false;
                self.lost(&error);
            }
        }
    }

    /// A service that restarts comes back, and nothing is lost meanwhile: the stream goes on where it broke off.
    fn lost(&mut self, error: &anyhow::Error) {
        let line = format!("         {}; trying again", say::told(error));
        if self.seen.as_ref() != Some(&line) {
            self.screen.tell(&line);
            self.board.news.push_back(line.clone());
            self.seen = Some(line);
        }
    }
}
