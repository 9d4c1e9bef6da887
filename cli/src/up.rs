//! `codelab up`: everything in one process, with nothing configured.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use engine::store::{self, PoolLimits};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use worker::WorkerConfig;

use crate::{
    client::{self, Client},
    config::Settings,
    data::DataFolder,
    postgres::PrivatePostgres,
    say, serve,
    serve::Tiers,
    token,
};

/// Whom the printed token speaks for.
const USER: &str = "demo";
/// How long the printed token is good.
const TOKEN_TTL: Duration = Duration::from_hours(30 * 24);
/// How long running steps may go on after Ctrl-C. Short: a person waits, and the next `up` runs them again.
const GRACE: Duration = Duration::from_secs(2);

/// Runs until it is told to stop, and leaves everything for the next start.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    say::line(concat!("codelab ", env!("CARGO_PKG_VERSION")));
    // Both are refused before anything is started: somebody else may be using them.
    let mut data = DataFolder::take(&settings.data_dir)?;
    let listener = serve::listen(&settings.listen).await?;
    data.announce(&client::url_of(listener.local_addr()?))?;
    let stop = serve::stop_on_signals()?;
    let (url, private) = database(&settings, &data).await?;
    let served = serve(&settings, &data, &url, listener, stop).await;
    if let Some(postgres) = private {
        postgres.stop().await;
    }
    served?;
    say::line("Stopped. The next `codelab up` continues what is open.");
    Ok(())
}

/// The database's URL, and the Postgres to stop at the end if it is ours.
async fn database(
    settings: &Settings,
    data: &DataFolder,
) -> anyhow::Result<(String, Option<PrivatePostgres>)> {
    if let Some(url) = &settings.database_url {
        serve::missing_migrations(url).await?;
        say::line("  Postgres   the one at DATABASE_URL");
        return Ok((url.clone(), None));
    }
    let started = Instant::now();
    let folder = settings.data_dir.join("postgres");
    if !folder.exists() {
        say::line(format!(
            "  Postgres   making a private one in {} ...",
            folder.display()
        ));
    }
    let postgres = PrivatePostgres::start(&data.postgres()).await?;
    say::line(format!(
        "  Postgres   up in {}, its data in {}",
        seconds(started),
        folder.display()
    ));
    Ok((postgres.url.clone(), Some(postgres)))
}

async fn serve(
    settings: &Settings,
    data: &DataFolder,
    url: &str,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let missing = serve::missing_migrations(url).await?;
    store::migrate(url)
        .await
        .context("could not migrate the schema")?;
    let schema = if missing == 0 {
        "up to date".to_owned()
    } else {
        format!("migrated in {}", seconds(started))
    };
    say::line(format!("  Schema     {schema}"));
    let here = Here::new(settings, data, client::url_of(listener.local_addr()?))?;
    let mut tiers = Tiers::over(url, settings, &stop)?;
    let limits = PoolLimits {
        min: settings.db_pool_min.unwrap_or(1),
        max: settings.db_pool_max,
        ..PoolLimits::default()
    };
    tiers.api(
        listener,
        serve::auth(settings, here.secret.clone())?,
        limits,
    )?;
    tiers.worker(WorkerConfig {
        grace: GRACE,
        ..serve::worker_config(settings)
    })?;
    let welcomed = stop
        .run_until_cancelled(here.welcome(settings))
        .await
        .unwrap_or(Ok(()));
    if welcomed.is_err() {
        stop.cancel();
    }
    stop.cancelled().await;
    say::line("\nStopping ... (Ctrl-C once more stops at once)");
    let ended = tiers.ended().await;
    welcomed.and(ended)
}

/// What a person gets to see once it runs.
struct Here {
    url: String,
    /// None: an identity provider makes the tokens.
    secret: Option<SecretString>,
    seeded: PathBuf,
}

impl Here {
    fn new(settings: &Settings, data: &DataFolder, url: String) -> anyhow::Result<Self> {
        let secret = match (&settings.jwks_url, &settings.jwt_secret) {
            (Some(_), _) => None,
            (None, Some(secret)) => Some(secret.clone()),
            (None, None) => Some(data.secret()?),
        };
        Ok(Self {
            url,
            secret,
            seeded: data.seeded(),
        })
    }

    async fn welcome(&self, settings: &Settings) -> anyhow::Result<()> {
        let url = &self.url;
        let Some(secret) = &self.secret else {
            say::line(format!(
                "\nListening on {url} (docs: {url}/docs). Ctrl-C stops.\nTokens come from your identity provider."
            ));
            return Ok(());
        };
        let token = token::make(secret, USER, TOKEN_TTL, settings)?;
        let client = Client::new(url, token.clone().into())?;
        let team = self.seed(&client).await?;
        say::line(format!(
            "  Team       {team}\n\nListening on {url} (docs: {url}/docs). Ctrl-C stops.\n"
        ));
        say::line(format!(
            "For another terminal, a token of the user `{USER}` that is good for 30 days:\n"
        ));
        say::line(format!("export CODELAB_URL={url} CODELAB_TOKEN={token}\n"));
        say::line(LINES_TO_PASTE);
        Ok(())
    }

    /// Makes the demo team at the first start, and only then: who changes or deletes it has their will.
    async fn seed(&self, client: &Client) -> anyhow::Result<String> {
        let names = agent_names(client).await?;
        if self.seeded.exists() || !names.is_empty() {
            return Ok(if names.is_empty() {
                "no agents yet: POST /my/agents/".to_owned()
            } else {
                names.join(", ")
            });
        }
        for agent in team() {
            client
                .post("my/agents/", &agent)
                .await
                .context("could not make the demo team")?;
        }
        // The first message to the team is answered at once; whoever wants to see plans before they are carried out says `auto`.
        client
            .put("my/orchestrator/", &json!({ "approval": "never" }))
            .await
            .context("could not set the planner")?;
        fs::write(&self.seeded, "")
            .with_context(|| format!("could not write {}", self.seeded.display()))?;
        Ok(agent_names(client).await?.join(", "))
    }
}

/// Oldest first.
async fn agent_names(client: &Client) -> anyhow::Result<Vec<String>> {
    let page = client.get("my/agents/").await?;
    let names = page["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|agent| agent["name"].as_str());
    Ok(names.rev().map(str::to_owned).collect())
}

fn team() -> [Value; 4] {
    let agent = |name: &str, about: &str, system_prompt: &str| json!({ "name": name, "config": { "about": about, "system_prompt": system_prompt, "max_concurrency": 3 } });
    [
        agent(
            "researcher",
            "finds out facts, compares options, reads documentation, names sources",
            "You are a researcher. Find out what the task needs, compare the options, and name your sources. Say what you do not know.",
        ),
        agent(
            "coder",
            "writes and changes programs, scripts, queries and tests",
            "You are a programmer. Write the smallest program that does what is asked, with its tests. Explain only what is surprising.",
        ),
        agent(
            "reviewer",
            "checks the work of others for mistakes, gaps and risks",
            "You are a reviewer. Look for mistakes, gaps and risks in what you are given. Say what is wrong, where, and how to fix it.",
        ),
        agent(
            "writer",
            "writes clear texts, summaries, documentation and letters",
            "You are a writer. Turn what you are given into a clear, short text for its reader. Add no facts of your own.",
        ),
    ]
}

/// Each line runs as it stands in a shell that has curl.
const LINES_TO_PASTE: &str = r#"Then a session, a message to the team, and everything that happened:

S=$(curl -s $CODELAB_URL/my/chat/sessions/ -H "Authorization: Bearer $CODELAB_TOKEN" -H 'Content-Type: application/json' -d '{}' | cut -d'"' -f4)
curl -s $CODELAB_URL/my/chat/$S/message/ -H "Authorization: Bearer $CODELAB_TOKEN" -H 'Content-Type: application/json' -H 'Prefer: wait=10' -w '\n' -d '{"content":"Compare two ways to store events"}'
curl -sN "$CODELAB_URL/my/chat/$S/events/?after=0" -H "Authorization: Bearer $CODELAB_TOKEN""#;

/// Time since, as a person says it.
pub(crate) fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}
