//! A Redis in ordinary life and after a kill.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use codelab_servers::Redis;

use crate::owner::Owner;
use crate::story::{eventually, is_alive};

fn ask(redis: &Redis, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    write!(stream, "{command}\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn starts_is_killed_and_starts_again_empty_on_its_port() {
    let begin = Instant::now();
    let mut redis = Redis::start(0).unwrap();
    let started = begin.elapsed();
    let (url, number) = (redis.url(), redis.pid());
    assert_eq!(url, format!("redis://127.0.0.1:{}/", redis.port()));
    assert_eq!(ask(&redis, "SET a b"), "+OK +OK");
    assert_eq!(ask(&redis, "GET a"), "$1 b");

    redis.kill().unwrap();
    assert!(!is_alive(number));
    assert!(TcpStream::connect(("127.0.0.1", redis.port())).is_err());

    redis.start_again().unwrap();
    assert_eq!(redis.url(), url);
    assert_eq!(ask(&redis, "GET a"), "$-1 +OK");
    let begin = Instant::now();
    redis.kill().unwrap();
    eprintln!("redis: start {started:?}, stop {:?}", begin.elapsed());
}

#[test]
fn two_do_not_meet() {
    let [one, two] = [0, 0].map(|port| Redis::start(port).unwrap());
    ask(&one, "SET a b");
    assert_eq!(ask(&two, "GET a"), "$-1 +OK");
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let error = Redis::start(taken.local_addr().unwrap().port())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("Redis did not start") && error.contains("in use"),
        "{error}"
    );
}

#[test]
fn dies_with_its_owner() {
    let mut owner = Owner::of("redis", Path::new("/"), &[]);
    assert!(is_alive(owner.server), "{}", owner.said);
    owner.kill_9();
    eventually("the server is gone", || !is_alive(owner.server));
}
