//! A direct message over REST, from the request to the answer, with a model that answers at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    service::{Person, Service},
    setup::Bench,
    workloads::{millis, per_second, percentiles},
};

/// Alone: 400 messages one after another. Together: 16 clients with a session each.
pub(crate) async fn direct(bench: &Bench, seconds: u64) -> anyhow::Result<Value> {
    let service = Service::start(bench).await?;
    let person = service.person()?;
    person.post("agents/", &json!({ "name": "coder", "config": { "model": "scripted/default", "max_concurrency": 10 } })).await?;

    let session = person.session().await?;
    let mut alone = Vec::new();
    for round in 0..450 {
        let took = person.ask(&session).await?;
        if round >= 50 {
            alone.push(took);
        }
    }
    let (p50, p95) = percentiles(&mut alone, 95);
    let (together, mut waits) = crowd(&person, Duration::from_secs(seconds)).await?;
    let (crowd_p50, crowd_p95) = percentiles(&mut waits, 95);
    service.stop().await?;
    Ok(
        json!({ "workload": "direct", "p50_ms": millis(p50), "p95_ms": millis(p95), "bar_p50_ms": 10, "bar_p95_ms": 20,
               "per_s_16_clients": together, "p50_ms_16_clients": millis(crowd_p50), "p95_ms_16_clients": millis(crowd_p95), "bar_per_s": 300 }),
    )
}

async fn crowd(person: &Person, length: Duration) -> anyhow::Result<(u64, Vec<Duration>)> {
    let started = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let person = person.clone();
        clients.spawn(async move {
            let session = person.session().await?;
            let mut waits = Vec::new();
            while started.elapsed() < length {
                waits.push(person.ask(&session).await?);
            }
            anyhow::Ok(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(client) = clients.join_next().await {
        waits.append(&mut client??);
    }
    let count = u64::try_from(waits.len())?;
    Ok((per_second(count, started.elapsed()), waits))
}
