//! The servers of the stream workloads, each a process of its own: the product's API, and the bare one it is measured against.

use std::sync::Arc;

use anyhow::Context;
use api::{ApiConfig, auth};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use clap::Args;
use engine::{
    Store,
    event::{
        hints::{Hints, Reach},
        relay::Relay,
    },
    store::{self, PoolLimits},
};
use futures::stream;
use secrecy::SecretString;
use servers::Redis;
use tokio::{net::TcpListener, sync::broadcast};
use tokio_util::sync::CancellationToken;

use crate::{
    child::{ChildServer, announce, stop_at_end_of_input},
    setup::LEASE,
};

/// Connections of an API, as in the other workloads.
const CONNECTIONS: u32 = 16;
/// Frames that a listener of the bare server may be behind, as many lines as the product's API keeps.
const FRAMES: usize = 256;

/// What tokens are signed with.
pub(super) fn secret() -> SecretString {
    SecretString::from("a secret for benchmarks that is long enough")
}

/// What an API process is told.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    redis_url: Option<String>,
    /// Open streams of one person.
    #[arg(long)]
    max_streams: usize,
}

/// What a bare server is told.
#[derive(Debug, Args)]
pub(crate) struct BareArgs {
    /// Channels.
    #[arg(long)]
    topics: usize,
}

/// A Redis for a cell.
pub(super) async fn start_redis() -> anyhow::Result<Redis> {
    Ok(tokio::task::spawn_blocking(|| Redis::start(0)).await??)
}

/// Starts an API process.
pub(super) async fn start_api(
    database_url: &str,
    redis_url: Option<&str>,
    max_streams: usize,
) -> anyhow::Result<ChildServer> {
    let mut arguments = vec![
        format!("--database-url={database_url}"),
        format!("--max-streams={max_streams}"),
    ];
    arguments.extend(redis_url.map(|url| format!("--redis-url={url}")));
    ChildServer::start("stream-api", &arguments).await
}

/// Starts a bare server.
pub(super) async fn start_bare(topics: usize) -> anyhow::Result<ChildServer> {
    ChildServer::start("stream-bare", &[format!("--topics={topics}")]).await
}

/// The API as `codelab api` has it, until standard input closes.
pub(crate) async fn serve_api(args: ApiArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        // A slow statement is no surprise on a full machine, and the one that installs the transitions is long.
        .with_env_filter("warn,sqlx::query=error")
        .with_writer(std::io::stderr)
        .init();
    let stop = CancellationToken::new();
    stop_at_end_of_input(stop.clone());
    let limits = PoolLimits {
        max: CONNECTIONS,
        ..PoolLimits::default()
    };
    let redis = args.redis_url.map(redis::Client::open).transpose()?;
    let relay = redis.clone().map(Relay::new).transpose()?;
    let reach = Reach {
        postgres: store::pool(&args.database_url, PoolLimits { max: 3, ..limits })?,
        redis,
    };
    let hints = Hints::start(reach, &stop);
    let store = Store::new(store::pool(&args.database_url, limits)?, hints, LEASE);
    let mut config = ApiConfig::new(auth::AuthConfig::hs256(secret()));
    config.max_streams_per_user = args.max_streams;
    config.relay = relay;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&listener)?;
    api::serve(listener, store, config, stop)
        .await
        .context("the API failed")
}

type Topics = Arc<Vec<broadcast::Sender<Bytes>>>;

/// The least that a stream can be: what is posted to a topic goes to all who listen to it, as it is.
pub(crate) async fn serve_bare(args: BareArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_at_end_of_input(stop.clone());
    let topics: Topics = Arc::new(
        std::iter::repeat_with(|| broadcast::Sender::new(FRAMES))
            .take(args.topics)
            .collect(),
    );
    let router = Router::new()
        .route("/events/{topic}", get(listen))
        .route("/say/{topic}", post(say))
        .with_state(topics);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&listener)?;
    let listener = listener.tap_io(|socket| {
        // As the product does; the default holds small frames back.
        let _ = socket.set_nodelay(true);
    });
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        () = stop.cancelled() => {}
    }
    Ok(())
}

async fn listen(State(topics): State<Topics>, Path(topic): Path<usize>) -> Response {
    let Some(topic) = topics.get(topic) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let frames = stream::unfold(topic.subscribe(), |mut frames| async {
        Some((frames.recv().await, frames))
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(frames)).into_response()
}

async fn say(
    State(topics): State<Topics>,
    Path(topic): Path<usize>,
    frame: Bytes,
) -> impl IntoResponse {
    if let Some(topic) = topics.get(topic) {
        // Nobody may listen.
        let _ = topic.send(frame);
    }
    StatusCode::NO_CONTENT
}
