//! A direct message over REST, from the request to the answer, with a model that answers at once.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use api::{ApiConfig, auth};
use reqwest::Client;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use worker::WorkerConfig;

use crate::{
    setup::Bench,
    workloads::{millis, per_second, percentiles},
};

/// One person's client.
#[derive(Clone)]
struct Person {
    http: Client,
    url: String,
    token: String,
}

impl Person {
    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .http
            .post(format!("{}/my/{path}", self.url))
            .bearer_auth(&self.token);
        let response = request
            .header("Prefer", "wait=20")
            .json(body)
            .send()
            .await?;
        let status = response.status();
        let body: Value = response.json().await?;
        ensure!(status.is_success(), "{path}: {status} {body}");
        Ok(body)
    }

    async fn session(&self) -> anyhow::Result<String> {
        let session = self.post("chat/sessions/", &json!({})).await?;
        Ok(session["id"]
            .as_str()
            .context("a session has an id")?
            .to_owned())
    }

    async fn ask(&self, session: &str) -> anyhow::Result<Duration> {
        let asked = Instant::now();
        let said = self
            .post(
                &format!("chat/{session}/message/"),
                &json!({ "content": "Say hello.", "target_agent": "coder" }),
            )
            .await?;
        ensure!(said["answer"]["content"].is_string(), "no answer: {said}");
        Ok(asked.elapsed())
    }
}

/// Alone: 400 messages one after another. Together: 16 clients with a session each.
pub(crate) async fn direct(bench: &Bench, seconds: u64) -> anyhow::Result<Value> {
    let stop = CancellationToken::new();
    let secret = SecretString::from("a secret for benchmarks that is long enough");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (api_store, worker_store) = bench.tiers()?;
    let config = ApiConfig::new(auth::AuthConfig::hs256(secret.clone()));
    let serving = tokio::spawn(api::serve(listener, api_store, config, stop.clone()));
    let working = tokio::spawn(worker::run(
        worker_store,
        WorkerConfig::default(),
        stop.clone(),
    ));
    let token = auth::dev_token(
        &secret,
        &format!("bench-{}", uuid::Uuid::now_v7()),
        Duration::from_hours(1),
        None,
        None,
    )?;
    let person = Person {
        http: Client::builder().no_proxy().build()?,
        url,
        token,
    };
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
    stop.cancel();
    serving.await??;
    working.await??;
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
