//! The faults, each as one blow against a stage. A blow takes its time and leaves everything as it was, but for what it did.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::sleep;

use super::{
    evidence::Kill,
    model_server::ModelMood,
    proxy::{Proxy, Weather},
    stage::Stage,
    tool_server::ToolMood,
    victims::{busiest, kill_worker},
};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fault {
    KillWorker,
    FreezeWorker,
    FreezeAllWorkers,
    DrainWorker,
    KillApi,
    FreezeApi,
    DrainApi,
    CrashPostgres,
    TerminateIdle,
    TerminateActive,
    LockSteps,
    IdleInTransaction,
    KillRedis,
    FlushRedis,
    ModelBusy,
    ModelDown,
    ModelStall,
    ModelEndless,
    ModelGarbled,
    ModelCut,
    ToolsDown,
    ToolsCut,
    ToolsLate,
    ToolsRefuse,
    CutWorkerPostgres,
    CutApiPostgres,
    BlackHoleWorkerPostgres,
    BlackHoleApiPostgres,
    SlowPostgres,
    RefusePostgres,
    StealFinish,
    StealAccept,
    StealRenewal,
    CutModel,
    BlackHoleModel,
    CutTools,
    BlackHoleRedis,
}

/// Those who strike at the processes and at Postgres itself.
pub const PROCESSES: &[Fault] = &[
    Fault::FreezeWorker,
    Fault::KillWorker,
    Fault::CrashPostgres,
    Fault::KillApi,
    Fault::DrainWorker,
    Fault::FreezeWorker,
    Fault::TerminateActive,
    Fault::LockSteps,
    Fault::FreezeAllWorkers,
    Fault::KillWorker,
    Fault::TerminateIdle,
    Fault::IdleInTransaction,
    Fault::FreezeApi,
    Fault::DrainApi,
];
/// Those who strike at the network, the vendors and Redis.
pub const SURROUNDINGS: &[Fault] = &[
    Fault::StealFinish,
    Fault::ModelBusy,
    Fault::CutWorkerPostgres,
    Fault::ModelDown,
    Fault::CutApiPostgres,
    Fault::StealAccept,
    Fault::BlackHoleWorkerPostgres,
    Fault::ModelGarbled,
    Fault::ModelCut,
    Fault::KillRedis,
    Fault::CutModel,
    Fault::StealRenewal,
    Fault::ModelStall,
    Fault::ModelEndless,
    Fault::SlowPostgres,
    Fault::FlushRedis,
    Fault::RefusePostgres,
    Fault::BlackHoleApiPostgres,
    Fault::BlackHoleModel,
    Fault::BlackHoleRedis,
];
/// Those who strike at tools.
pub const TOOLS: &[Fault] = &[
    Fault::ToolsCut,
    Fault::ToolsDown,
    Fault::ToolsLate,
    Fault::CutTools,
    Fault::ToolsRefuse,
];

/// Strikes once; at which worker, where it is at one. Kills are put down in `kills`.
pub async fn strike(
    fault: Fault,
    stage: &Stage,
    rng: &mut fastrand::Rng,
    kills: &std::sync::Mutex<Vec<Kill>>,
) -> Option<usize> {
    let victim = match fault {
        Fault::KillWorker | Fault::FreezeWorker | Fault::BlackHoleWorkerPostgres => {
            busiest(stage).await
        }
        _ => rng.usize(..stage.workers.len()),
    };
    let a_while = Duration::from_millis(rng.u64(400..1_500));
    match fault {
        Fault::KillWorker => kill_worker(stage, victim, kills).await,
        Fault::FreezeWorker => {
            stage.workers[victim].freeze();
            sleep(over_a_lease(stage, rng)).await;
            stage.workers[victim].thaw();
        }
        Fault::FreezeAllWorkers => {
            for worker in &stage.workers {
                worker.freeze();
            }
            sleep(over_a_lease(stage, rng)).await;
            for worker in &stage.workers {
                worker.thaw();
            }
        }
        Fault::DrainWorker => {
            stage.workers[victim].drain().await;
            stage.workers[victim].start();
        }
        Fault::KillApi => {
            stage.api.kill().await;
            stage.api.start();
        }
        Fault::FreezeApi => {
            stage.api.freeze();
            sleep(a_while).await;
            stage.api.thaw();
        }
        Fault::DrainApi => {
            stage.api.drain().await;
            stage.api.start();
        }
        server => at_servers(server, stage, victim, a_while, rng).await,
    }
    at_one_worker(fault).then_some(victim)
}

fn at_one_worker(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::KillWorker
            | Fault::FreezeWorker
            | Fault::DrainWorker
            | Fault::CutWorkerPostgres
            | Fault::BlackHoleWorkerPostgres
            | Fault::CutModel
            | Fault::BlackHoleModel
    )
}

async fn at_servers(
    fault: Fault,
    stage: &Stage,
    victim: usize,
    a_while: Duration,
    rng: &mut fastrand::Rng,
) {
    match fault {
        Fault::CrashPostgres => crash_postgres(stage, a_while).await,
        Fault::TerminateIdle => terminate(stage, "idle", 1).await,
        Fault::TerminateActive => terminate(stage, "active", 30).await,
        Fault::LockSteps => {
            let statement = "lock table steps in access exclusive mode";
            hold(stage, statement, a_while * 3).await;
        }
        Fault::IdleInTransaction => {
            hold(stage, "select 1 from user_feeds for update", a_while * 2).await;
        }
        Fault::KillRedis => kill_redis(stage, a_while).await,
        Fault::FlushRedis => flush_redis(stage).await,
        Fault::ModelBusy => model(stage, ModelMood::Busy, rng).await,
        Fault::ModelDown => model(stage, ModelMood::Down, rng).await,
        Fault::ModelStall => model(stage, ModelMood::Stall, rng).await,
        Fault::ModelEndless => model(stage, ModelMood::Endless, rng).await,
        Fault::ModelGarbled => model(stage, ModelMood::Garbled, rng).await,
        Fault::ModelCut => model(stage, ModelMood::Cut, rng).await,
        Fault::ToolsDown => tools(stage, &[ToolMood::FailBefore, ToolMood::Busy], rng).await,
        Fault::ToolsCut => tools(stage, &[ToolMood::DoAndCut, ToolMood::FailAfter], rng).await,
        Fault::ToolsLate => tools(stage, &[ToolMood::Late], rng).await,
        network => at_network(network, stage, victim, a_while, rng).await,
    }
}

async fn at_network(
    fault: Fault,
    stage: &Stage,
    victim: usize,
    a_while: Duration,
    rng: &mut fastrand::Rng,
) {
    let edges = &stage.edges;
    let (postgres, model) = (&edges.worker_postgres[victim], &edges.worker_model[victim]);
    match fault {
        Fault::ToolsRefuse => weather(&[&edges.tools], Weather::Refuse, a_while).await,
        Fault::CutWorkerPostgres => cut(postgres, rng).await,
        Fault::CutApiPostgres => cut(&edges.api_postgres, rng).await,
        Fault::BlackHoleWorkerPostgres => {
            let long = over_a_lease(stage, rng);
            weather(&[postgres], Weather::BlackHole, long).await;
        }
        Fault::BlackHoleApiPostgres => {
            weather(&[&edges.api_postgres], Weather::BlackHole, a_while * 2).await;
        }
        Fault::SlowPostgres => {
            let slow = Weather::Slow(Duration::from_millis(rng.u64(5..40)));
            weather(&[postgres, &edges.api_postgres], slow, a_while * 2).await;
        }
        Fault::RefusePostgres => {
            let both = [postgres, &edges.api_postgres];
            for edge in both {
                edge.weather(Weather::Refuse);
                edge.cut();
            }
            weather(&both, Weather::Refuse, a_while).await;
        }
        Fault::StealFinish => steal(&edges.worker_postgres, "step_finish", a_while).await,
        Fault::StealRenewal => steal(&edges.worker_postgres, "lease_renew", a_while).await,
        Fault::StealAccept => {
            let api = std::slice::from_ref(&edges.api_postgres);
            steal(api, "plan_accept", a_while).await;
        }
        Fault::CutModel => cut_often(model, a_while).await,
        Fault::BlackHoleModel => {
            weather(&[model], Weather::BlackHole, a_while * 2).await;
            model.cut();
        }
        Fault::CutTools => cut_often(&edges.tools, a_while).await,
        Fault::BlackHoleRedis => {
            let redis = [&edges.worker_redis, &edges.api_redis];
            weather(&redis, Weather::BlackHole, a_while * 2).await;
        }
        other => tracing::error!(?other, "nobody knows this fault"),
    }
}

fn over_a_lease(stage: &Stage, rng: &mut fastrand::Rng) -> Duration {
    stage.lease + Duration::from_millis(rng.u64(1_000..2_500))
}

async fn crash_postgres(stage: &Stage, pause: Duration) {
    let crashed = stage.cluster.postgres(servers::Postgres::crash).await;
    sleep(pause).await;
    let started = stage.cluster.postgres(servers::Postgres::start_again).await;
    if let Some(error) = crashed.and(started).err() {
        tracing::warn!(%error, "Postgres did not do as it was told");
    }
}

async fn kill_redis(stage: &Stage, pause: Duration) {
    let died = stage.cluster.redis(servers::Redis::kill).await;
    sleep(pause).await;
    let lives = stage.cluster.redis(servers::Redis::start_again).await;
    if let Some(error) = died.and(lives).err() {
        tracing::warn!(%error, "Redis did not do as it was told");
    }
}

/// Ends connections of the service that are at this, so many times within a second or so.
async fn terminate(stage: &Stage, activity: &str, times: u32) {
    for _ in 0..times {
        let cut = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where application_name = 'codelab' and datname = current_database() and state = $1",
        )
        .bind(activity)
        .execute(&stage.direct)
        .await;
        if cut.is_err() {
            return;
        }
        sleep(Duration::from_millis(30)).await;
    }
}

/// Holds what a statement locks for a while, in a transaction that does nothing.
async fn hold(stage: &Stage, statement: &str, pause: Duration) {
    let options = stage.direct.connect_options();
    let Ok(mut connection) = PgConnection::connect_with(&options).await else {
        return;
    };
    let held = sqlx::raw_sql(AssertSqlSafe(format!("begin; {statement}")))
        .execute(&mut connection)
        .await;
    if held.is_ok() {
        sleep(pause).await;
    }
    // The end of the connection ends the transaction.
    let _ = connection.close().await;
}

async fn flush_redis(stage: &Stage) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let port = stage.cluster.redis(|redis| redis.port()).await;
    let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let mut answer = [0; 64];
    let _ = stream.write_all(b"FLUSHALL\r\n").await;
    let _ = stream.read(&mut answer).await;
}

async fn model(stage: &Stage, mood: ModelMood, rng: &mut fastrand::Rng) {
    // Few of those that hold a step up, many of those that are over at once.
    let count = match mood {
        ModelMood::Stall | ModelMood::Endless => rng.usize(1..3),
        _ => rng.usize(2..8),
    };
    stage.model.moods.next(mood, count);
    sleep(Duration::from_millis(rng.u64(300..800))).await;
}

async fn tools(stage: &Stage, moods: &[ToolMood], rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(2..5) {
        stage.tools.moods.next(moods[rng.usize(..moods.len())], 1);
    }
    sleep(Duration::from_millis(rng.u64(300..800))).await;
}

async fn weather(edges: &[&Proxy], weather: Weather, pause: Duration) {
    for now in [weather, Weather::Clear] {
        for edge in edges {
            edge.weather(now);
        }
        if now == weather {
            sleep(pause).await;
        }
    }
}

async fn cut(edge: &Proxy, rng: &mut fastrand::Rng) {
    for _ in 0..rng.u8(1..5) {
        edge.cut();
        sleep(Duration::from_millis(rng.u64(20..300))).await;
    }
}

async fn cut_often(edge: &Proxy, over: Duration) {
    for _ in 0..5 {
        edge.cut();
        sleep(over / 5).await;
    }
}

async fn steal(edges: &[Proxy], statement: &str, pause: Duration) {
    for edge in edges {
        edge.steal_reply(statement);
    }
    sleep(pause).await;
    edges.iter().for_each(Proxy::steal_nothing);
}
