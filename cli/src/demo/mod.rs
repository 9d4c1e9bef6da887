//! `codelab demo`: a scripted team carries out one plan, from an empty folder to the answer, and nothing stays behind.
//!
//! Nothing is staged: it is a whole service on a free port, spoken to over its public API; only the model is a script.

mod team;

use std::time::{Duration, Instant};

use anyhow::Context;
use engine::{plan::PlanState, store};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::WorkerConfig;

use crate::{
    board::Board,
    client::{self, Client},
    config::Settings,
    postgres::PrivatePostgres,
    say, serve,
    serve::Tiers,
    token, up, watch,
};

/// How long the token of the demo is good.
const TOKEN_TTL: Duration = Duration::from_hours(1);
/// Steps that still run when the demo is broken off go with its folder.
const GRACE: Duration = Duration::from_millis(100);
/// Between two looks at the inbox.
const LOOK: Duration = Duration::from_millis(300);
/// How long the person of the demo thinks.
const THINK: Duration = Duration::from_millis(1200);

/// Runs it; `false`: the plan did not succeed, or was broken off.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<bool> {
    let settings = Settings {
        database_url: None,
        jwks_url: None,
        redis: None,
        ..settings
    };
    let started = Instant::now();
    say::line("Starting a private Postgres, the API, a worker and a scripted team ...");
    let stop = serve::stop_on_signals()?;
    let postgres = PrivatePostgres::start_throwaway().await?;
    let shown = show(&settings, &postgres.url, started, &stop).await;
    postgres.stop().await;
    shown
}

async fn show(
    settings: &Settings,
    url: &str,
    started: Instant,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    store::migrate(url)
        .await
        .context("could not migrate the schema")?;
    // Random by the system, gone with this process.
    let secret = format!("{}{}", Uuid::now_v7(), Uuid::now_v7()).into();
    let listener = serve::listen("127.0.0.1:0").await?;
    let here = client::url_of(listener.local_addr()?);
    let client = Client::new(
        &here,
        token::make(&secret, "demo", TOKEN_TTL, settings)?.into(),
    )?;
    let mut tiers = Tiers::over(url, settings, stop)?;
    tiers.api(
        listener,
        serve::auth(settings, Some(secret))?,
        store::PoolLimits::default(),
    )?;
    tiers.worker(WorkerConfig {
        grace: GRACE,
        ..serve::worker_config(settings)
    })?;
    say::line(format!("Up at {here} after {}.\n", up::seconds(started)));
    let played = stop.run_until_cancelled(play(&client)).await;
    stop.cancel();
    let ended = tiers.ended().await;
    let Some(board) = played else {
        say::line("\nBroken off; nothing stays behind.");
        return Ok(false);
    };
    let board = board?;
    ended?;
    Ok(tell_the_end(&board))
}

/// One message to the team, watched to its end.
async fn play(client: &Client) -> anyhow::Result<Board> {
    for agent in team::agents() {
        client
            .post("my/agents/", &agent)
            .await
            .context("could not make the team")?;
    }
    client
        .put("my/orchestrator/", &team::orchestrator())
        .await
        .context("could not set the planner")?;
    let session = client
        .post("my/chat/sessions/", &json!({ "title": "Demo" }))
        .await?;
    let session = session["id"].as_str().context("the session has no id")?;
    say::line(say::clean_lines(&format!("You say: {}\n", team::MESSAGE)) + "\n");
    let said = client
        .post(
            &format!("my/chat/{session}/message/"),
            &json!({ "content": team::MESSAGE }),
        )
        .await?;
    let plan = said["plan_id"]
        .as_str()
        .context("the message has no plan")?;
    let consent = tokio::spawn(consent(client.clone()));
    let board = watch::follow(client, plan, said["cursor"].as_i64()).await;
    consent.abort();
    board
}

/// The person of the demo looks at the plan that they are asked about, and says yes.
async fn consent(client: Client) {
    loop {
        sleep(LOOK).await;
        let pending = client.get("my/approvals/?status=pending").await;
        let asked = pending.ok().and_then(|page| page["items"].get(0).cloned());
        let Some(id) = asked.as_ref().and_then(|asked| asked["id"].as_str()) else {
            continue;
        };
        // Long enough to be seen.
        sleep(THINK).await;
        let answer = json!({ "decision": "approve", "note": "go ahead" });
        // One that was not taken is asked for again.
        let _ = client
            .post(&format!("my/approvals/{id}/confirm/"), &answer)
            .await;
    }
}

fn tell_the_end(board: &Board) -> bool {
    let answer = board.answer.as_deref().unwrap_or("There is no answer.");
    say::line(format!(
        "\nThe team answers:\n\n{}\n",
        say::clean_lines(answer)
    ));
    let (ended, all) = board.progress();
    say::line(format!(
        "The plan {} after {}: {ended} of {all} steps ended.",
        said(board.state),
        board.elapsed()
    ));
    say::line("The team was scripted and no model was asked. To run your own: codelab up");
    board.state == PlanState::Succeeded
}

fn said(state: PlanState) -> &'static str {
    match state {
        PlanState::Active => "was still running",
        PlanState::Succeeded => "succeeded",
        PlanState::Partial => "succeeded in part",
        PlanState::Failed => "failed",
        PlanState::Cancelled => "was cancelled",
    }
}
