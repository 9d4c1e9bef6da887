//! API and worker in this process, over HTTP, and the people who use them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use api::{ApiConfig, auth};
use reqwest::Client;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::WorkerConfig;

use crate::setup::Bench;

/// Both tiers, as `codelab up` has them.
pub(crate) struct Service {
    http: Client,
    url: String,
    secret: SecretString,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    working: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    pub(crate) async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let secret = SecretString::from("a secret for benchmarks that is long enough");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (api_store, worker_store) = bench.tiers()?;
        let config = ApiConfig::new(auth::AuthConfig::hs256(secret.clone()));
        let serving = api::serve(listener, api_store, config, stop.clone());
        let working = worker::run(worker_store, WorkerConfig::default(), stop.clone());
        Ok(Self {
            http: Client::builder().no_proxy().build()?,
            url,
            secret,
            serving: tokio::spawn(async { Ok(serving.await?) }),
            working: tokio::spawn(async { Ok(working.await?) }),
            stop,
        })
    }

    /// Somebody new.
    pub(crate) fn person(&self) -> anyhow::Result<Person> {
        let subject = format!("bench-{}", uuid::Uuid::now_v7());
        let token = auth::dev_token(&self.secret, &subject, Duration::from_hours(1), None, None)?;
        Ok(Person {
            http: self.http.clone(),
            url: self.url.clone(),
            token,
        })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.serving.await??;
        self.working.await??;
        Ok(())
    }
}

/// One person's client.
#[derive(Clone)]
pub(crate) struct Person {
    http: Client,
    url: String,
    token: String,
}

impl Person {
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
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

    pub(crate) async fn session(&self) -> anyhow::Result<String> {
        let session = self.post("chat/sessions/", &json!({})).await?;
        Ok(session["id"]
            .as_str()
            .context("a session has an id")?
            .to_owned())
    }

    pub(crate) async fn ask(&self, session: &str) -> anyhow::Result<Duration> {
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
