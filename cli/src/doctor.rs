//! `codelab doctor`: what is missing or wrong in this installation, and what to do about it.
//!
//! The settings have been checked when it runs: a wrong one is told before anything else.

use std::time::Duration;

use engine::store::{self, PoolLimits};
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::{config::Settings, data, say, serve};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(5);

/// What was found about one part.
enum Finding {
    Well(String),
    /// Not there, and that is all right.
    Absent(String),
    /// Wrong, and what to do.
    Wrong(String),
}

use Finding::{Absent, Well, Wrong};

/// Looks at everything; `false`: something is wrong.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<bool> {
    let findings = [
        ("Postgres", postgres(settings).await),
        ("Redis", redis(settings).await),
        ("Tokens", tokens(settings)),
        ("Models", models(settings).await),
    ];
    for (part, finding) in &findings {
        let (mark, text) = match finding {
            Well(text) => ("ok", text),
            Absent(text) => ("--", text),
            Wrong(text) => ("!!", text),
        };
        say::line(format!("{mark}  {part:<9} {}", say::clean(text)));
    }
    Ok(!findings
        .iter()
        .any(|(_, finding)| matches!(finding, Wrong(_))))
}

async fn postgres(settings: &Settings) -> Finding {
    let Some(url) = &settings.database_url else {
        return Absent(
            "DATABASE_URL is not set: `codelab up` and `codelab demo` bring their own Postgres"
                .to_owned(),
        );
    };
    match serve::missing_migrations(url).await {
        Err(error) => Wrong(format!(
            "{}; is it running, and are host, name and password in DATABASE_URL right?",
            say::told(&error)
        )),
        Ok(0) => Well(format!(
            "{} answers and has the schema",
            version(url).await.unwrap_or_else(|| "it".to_owned())
        )),
        Ok(missing) => Wrong(format!(
            "it answers, but lacks {missing} migrations: run `codelab migrate up`"
        )),
    }
}

/// The server's version, told at the beginning of each connection.
async fn version(url: &str) -> Option<String> {
    let pool = store::pool(
        url,
        PoolLimits {
            max: 1,
            ..PoolLimits::default()
        },
    )
    .ok()?;
    let connection = pool.acquire().await.ok()?;
    let number = connection.server_version_num()?;
    Some(format!("version {}.{}", number / 10_000, number % 10_000))
}

async fn redis(settings: &Settings) -> Finding {
    let Some(client) = &settings.redis else {
        return Absent("REDIS_URL is not set: token deltas go by Postgres".to_owned());
    };
    let pinged = timeout(LIMIT, async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await
    });
    match pinged.await {
        Ok(Ok(_)) => Well("it answers".to_owned()),
        Ok(Err(error)) => Wrong(format!(
            "{error}; is it running, and is REDIS_URL right? Everything works without it, only less smoothly"
        )),
        Err(_) => Wrong(format!(
            "it did not answer within {} s; is REDIS_URL right?",
            LIMIT.as_secs()
        )),
    }
}

fn tokens(settings: &Settings) -> Finding {
    if let Some(url) = &settings.jwks_url {
        return Well(format!("checked with the keys at {url}"));
    }
    if settings.jwt_secret.is_some() {
        return Well("checked with CODELAB_JWT_SECRET".to_owned());
    }
    match data::secret_in(&settings.data_dir) {
        Ok(Some(_)) => Well(format!("`codelab up` has its secret in {}", settings.data_dir.display())),
        Ok(None) => {
            Absent("no secret yet: `codelab up` makes one; `codelab api` needs CODELAB_JWT_SECRET or CODELAB_JWKS_URL".to_owned())
        }
        Err(error) => Wrong(say::told(&error)),
    }
}

async fn models(settings: &Settings) -> Finding {
    let default = &settings.default_model;
    if settings.openai_api_key.is_none() && settings.openai_base_url.is_none() {
        return Well(format!(
            "default {default}: answers offline, without a vendor (set OPENAI_API_KEY or OPENAI_BASE_URL for a real one)"
        ));
    }
    let base = settings
        .openai_base_url
        .as_deref()
        .unwrap_or(worker::llm::OPENAI_BASE_URL)
        .trim_end_matches('/');
    let Ok(http) = worker::llm::http_client() else {
        return Wrong("the HTTP client does not start".to_owned());
    };
    let mut request = http.get(format!("{base}/models")).timeout(LIMIT);
    if let Some(key) = &settings.openai_api_key {
        request = request.bearer_auth(key.expose_secret());
    }
    match request.send().await.map(|response| response.status()) {
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Wrong(format!("{base} refuses the key: check OPENAI_API_KEY"))
        }
        Ok(status) if status.is_server_error() => Wrong(format!(
            "{base} answers {status}: it has trouble of its own"
        )),
        // Some compatible servers have no list of models; that they answer is enough.
        Ok(_) => Well(format!("default {default}; {base} answers")),
        Err(error) => Wrong(format!(
            "{}; is OPENAI_BASE_URL right?",
            say::told(&anyhow::Error::new(error))
        )),
    }
}
