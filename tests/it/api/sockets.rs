//! The sockets: who does not get on is cut off, and there are so many and no more.

use std::time::Duration;

use api::{ApiConfig, Patience, auth::AuthConfig};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Api, Feed, PATIENCE, answer, secret};

const SHORT: Duration = Duration::from_millis(300);

fn config(patience: Patience) -> ApiConfig {
    ApiConfig {
        patience,
        ..ApiConfig::new(AuthConfig::hs256(secret()))
    }
}

async fn connect(api: &Api) -> TcpStream {
    let address = api.base.strip_prefix("http://").expect("an address");
    TcpStream::connect(address).await.expect("a connection")
}

/// What the server says until it hangs up.
async fn rest(socket: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut said))
        .await
        .expect("it hangs up");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn who_says_nothing_or_takes_their_time_is_cut_off() {
    let api = Api::start_with(config(Patience {
        head: SHORT,
        ..Patience::default()
    }))
    .await;
    let starts: [&[u8]; 5] = [
        b"",
        b"G",
        b"PRI * HT",
        b"GET /health HTTP/1.1\r\nhost: x\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /hea",
    ];
    for start in starts {
        let mut socket = connect(&api).await;
        socket.write_all(start).await.expect("sent");
        let began = Instant::now();
        rest(&mut socket).await;
        assert!(began.elapsed() >= SHORT / 2, "{:?}", str::from_utf8(start));
    }
    // A line at a time does not help.
    let mut socket = connect(&api).await;
    socket
        .write_all(b"GET /health HTTP/1.1\r\n")
        .await
        .expect("sent");
    let drip = async {
        while socket.write_all(b"x: y\r\n").await.is_ok() {
            sleep(SHORT / 10).await;
        }
    };
    timeout(PATIENCE, drip).await.expect("it is cut off");
}

#[tokio::test]
async fn a_connection_may_rest_between_requests_and_not_for_ever() {
    let api = Api::start_with(config(Patience {
        head: SHORT,
        idle: SHORT * 4,
        ..Patience::default()
    }))
    .await;
    let mut socket = connect(&api).await;
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        socket
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("sent");
        let read = socket.read(&mut buffer).await.expect("an answer");
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
        // Longer than a head may take.
        sleep(SHORT * 2).await;
    }
    rest(&mut socket).await;
}

#[tokio::test]
async fn a_body_has_to_come() {
    let api = Api::start_with(config(Patience {
        body: SHORT,
        ..Patience::default()
    }))
    .await;
    let token = Api::token("ada");
    let mut socket = connect(&api).await;
    let head = format!(
        "POST /my/agents/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let said = rest(&mut socket).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(said.contains(r#""error_code":"too_slow""#), "{said}");
    assert_eq!(api.get("ada", "/my/agents/").await.ok()["items"], json!([]));
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_others_do_not_notice() {
    // Long enough for those who read, on a machine that has other work.
    let stall = SHORT * 10;
    let api = Api::start_with(config(Patience {
        stall,
        ..Patience::default()
    }))
    .await;
    let token = Api::token("ada");
    let mut deaf = connect(&api).await;
    let ask = format!(
        "GET /my/events/?after=0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    deaf.write_all(ask.as_bytes()).await.expect("sent");
    let mut start = [0; 12];
    deaf.read_exact(&mut start).await.expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut reader = Feed::open(api.request("ada", Method::GET, "/my/events/?after=0")).await;
    // More than the buffers between hold.
    let many = 2500;
    api.flood("ada", many, 8000).await;
    assert_eq!(
        reader.until(many).await.len(),
        usize::try_from(many).expect("few")
    );
    // The end shows when the rest is read, which is less than everything.
    sleep(stall * 2).await;
    let said = rest(&mut deaf).await;
    assert!(said.len() < 8000 * 2500, "{}", said.len());
}

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() {
    let api = Api::start_with(ApiConfig {
        max_connections: 3,
        ..config(Patience::default())
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut socket = connect(&api).await;
        socket
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("sent");
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.expect("an answer");
        open.push(socket);
    }
    let said = rest(&mut connect(&api).await).await;
    assert!(
        said.starts_with("HTTP/1.1 503") && said.contains("retry-after: 5"),
        "{said}"
    );
    drop(open);
    codelab_tests::harness::eventually("places are free again", async || {
        let asked = api.open(Method::GET, "/health").send().await;
        asked.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
}

#[tokio::test]
async fn a_process_has_so_many_streams_and_no_more() {
    let api = Api::start_with(ApiConfig {
        max_streams: 2,
        ..config(Patience::default())
    })
    .await;
    let _one = Feed::open(api.request("ada", Method::GET, "/my/events/")).await;
    let _two = Feed::open(api.request("eve", Method::GET, "/my/events/")).await;
    let refused = answer(api.request("bob", Method::GET, "/my/events/")).await;
    assert_eq!(
        (refused.status.as_u16(), refused.problem()),
        (503, "unavailable")
    );
    assert_eq!(refused.header("retry-after"), "5");
}

#[tokio::test]
async fn a_head_has_its_limits() {
    let api = Api::start().await;
    let long = api
        .open(Method::GET, "/health")
        .header("x-long", "x".repeat(70_000));
    let mut many = api.open(Method::GET, "/health");
    for n in 0..120 {
        many = many.header(format!("x-{n}"), "y");
    }
    for request in [long, many] {
        let status = request.send().await.expect("an answer").status();
        assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
}

#[tokio::test]
async fn http_2_is_spoken_by_those_who_begin_with_it() {
    let api = Api::start().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    let mut streams = Vec::new();
    // More than a browser has connections for: all over one.
    for _ in 0..20 {
        let response = client
            .get(format!("{}/my/events/?after=0", api.base))
            .bearer_auth(Api::token("ada"))
            .send()
            .await
            .expect("a stream");
        assert_eq!(response.version(), reqwest::Version::HTTP_2);
        streams.push(response);
    }
    let session = api.session("ada").await;
    api.post(
        "ada",
        &format!("/my/chat/{session}/message/"),
        json!({"content": "hello"}),
    )
    .await
    .ok();
    for mut stream in streams {
        let mut said = String::new();
        while !said.contains("event: message_created") {
            let chunk = timeout(PATIENCE, stream.chunk()).await.expect("in time");
            let chunk = chunk.expect("a chunk").expect("no end");
            said += str::from_utf8(&chunk).expect("text");
        }
    }
}
