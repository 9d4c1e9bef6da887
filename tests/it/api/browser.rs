//! A real browser reads the feed with `EventSource` through a ticket, is cut off again and again, and misses nothing.

use std::{process::Stdio, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use codelab_tests::tools;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::Command,
    sync::mpsc,
    time::{Duration, timeout},
};

use super::{Api, secret};

const PAGE: &str = include_str!("../../tools/browser/page.html");
/// Chunks of a stream before it is cut off.
const CHUNKS: usize = 12;
/// The browser has to start, too.
const PATIENCE: Duration = Duration::from_mins(2);

/// What stands between the browser and the API: it serves the page, passes requests on, and cuts streams off.
struct Middle {
    base: String,
    http: reqwest::Client,
    done: mpsc::Sender<Value>,
}

async fn pass_on(State(middle): State<Arc<Middle>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let uri = parts.uri.path_and_query().expect("a path").as_str();
    let mut asked = middle
        .http
        .request(parts.method, format!("{}{uri}", middle.base))
        .body(body);
    for name in ["authorization", "content-type", "accept", "last-event-id"] {
        if let Some(value) = parts.headers.get(name) {
            asked = asked.header(name, value);
        }
    }
    let answer = asked.send().await.expect("an answer");
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    let is_stream = uri.starts_with("/my/events/");
    let chunks = answer
        .bytes_stream()
        .map(|chunk| chunk.map_err(std::io::Error::other));
    let body = if is_stream {
        let cut = stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut off")) });
        Body::from_stream(chunks.take(CHUNKS).chain(cut))
    } else {
        Body::from_stream(chunks)
    };
    response.body(body).expect("a response")
}

async fn done(State(middle): State<Arc<Middle>>, body: axum::Json<Value>) -> impl IntoResponse {
    middle.done.send(body.0).await.expect("somebody waits");
}

#[tokio::test]
async fn a_browser_that_is_cut_off_again_and_again_misses_nothing() {
    let story = "a browser reads the feed";
    let Some(chromium) = tools::find(&["chromium", "chromium-browser", "google-chrome"], story)
    else {
        return;
    };
    let api = Api::start().await;
    let session = api.session("ada").await;
    api.agent("ada", "coder").await;
    for _ in 0..10 {
        let said = json!({"content": "hello", "target_agent": "coder"});
        let path = format!("/my/chat/{session}/message/");
        api.post("ada", &path, said).await.ok();
        while api.work("hi").await > 0 {}
    }
    let scope = api.scope("ada").await;
    let last = api.store.last_seq(scope).await.expect("a seq");

    let (sender, mut finished) = mpsc::channel(1);
    let middle = Arc::new(Middle {
        base: api.base.clone(),
        http: reqwest::Client::new(),
        done: sender,
    });
    let router = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/done", post(done))
        .fallback(pass_on)
        .with_state(middle);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    let token = api::auth::dev_token(&secret(), "ada", PATIENCE * 2, None, None).expect("a token");
    let profile = tempfile::tempdir().expect("a folder");
    let mut browser = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args(["--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync"])
        .arg("--disable-dev-shm-usage")
        .arg("--remote-debugging-port=0")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/#token={token}&until={last}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the browser starts");
    let read = timeout(PATIENCE, finished.recv())
        .await
        .expect("the browser has read everything in time")
        .expect("what it has read");
    browser.kill().await.expect("it ends");
    serving.abort();

    let stored = api.store.events_after(scope, None, 0.into(), 10_000).await;
    let stored: Vec<Value> = stored
        .expect("events")
        .iter()
        .map(|event| serde_json::to_value(event).expect("JSON"))
        .collect();
    assert_eq!(read["seen"], json!(stored));
    assert!(
        read["connections"].as_i64().is_some_and(|times| times >= 5),
        "{}",
        read["connections"]
    );
}
