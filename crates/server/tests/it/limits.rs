//! Limits of a key, and how answers tell them.

use std::time::Duration;

use minerva_server::{KeyLimits, NewKey};

use crate::server::{Answer, TestServer, gate, new_key};

fn limited(limits: KeyLimits) -> NewKey {
    NewKey {
        limits,
        ..new_key("limited")
    }
}

/// Limit, remaining, reset.
fn levels<'a>(answer: &'a Answer, of: &str) -> [&'a str; 3] {
    ["limit", "remaining", "reset"].map(|part| answer.header(&format!("x-ratelimit-{part}-{of}")))
}

#[test]
fn requests_per_minute() {
    let server = TestServer::start("rpm");
    let (_, key) = server.key(limited(KeyLimits {
        requests_per_minute: Some(3),
        ..KeyLimits::default()
    }));
    for expected in [["3", "2", "20s"], ["3", "1", "40s"], ["3", "0", "1m0s"]] {
        let answer = server.get_as(&key, "/test/answer");
        assert_eq!(
            (answer.status, levels(&answer, "requests")),
            (200, expected)
        );
        assert_eq!(levels(&answer, "tokens"), ["", "", ""]);
    }
    let refused = server.get_as(&key, "/test/answer");
    let message = refused.fails(429, "rate_limit_exceeded");
    assert_eq!(
        message,
        "requests per minute: all 3 are used, try again in 20s"
    );
    assert_eq!(refused.json()["error"]["type"], "requests");
    assert_eq!(refused.header("retry-after"), "20");
    assert_eq!(refused.header("retry-after-ms"), "20000");
    assert_eq!(refused.header("x-should-retry"), "");
    assert_eq!(levels(&refused, "requests"), ["3", "0", "1m0s"]);

    server.advance(Duration::from_millis(19_500));
    let refused = server.get_as(&key, "/test/answer");
    assert_eq!(
        (
            refused.header("retry-after"),
            refused.header("retry-after-ms")
        ),
        ("1", "500")
    );
    server.advance(Duration::from_millis(500));
    assert_eq!(server.get_as(&key, "/test/answer").status, 200);
    // What is no work is not counted.
    let (_, other) = server.key(new_key("unlimited"));
    let answer = server.get_as(&other, "/test/answer");
    assert_eq!(levels(&answer, "requests"), ["", "", ""]);
}

#[test]
fn tokens_per_minute_are_taken_before_and_settled_after() {
    let server = TestServer::start("tpm");
    let (_, key) = server.key(limited(KeyLimits {
        tokens_per_minute: Some(600),
        ..KeyLimits::default()
    }));
    let answer = server.get_as(&key, "/test/answer?reserve=500&used=100");
    assert_eq!(levels(&answer, "tokens"), ["600", "500", "10s"]);
    let answer = server.get_as(&key, "/test/answer?reserve=500&used=500");
    assert_eq!(levels(&answer, "tokens"), ["600", "0", "1m0s"]);
    let refused = server.get_as(&key, "/test/answer?reserve=15");
    let message = refused.fails(429, "rate_limit_exceeded");
    assert_eq!(
        message,
        "tokens per minute: 0 of 600 are left and this request may use 15, try again in 1.5s"
    );
    assert_eq!(refused.json()["error"]["type"], "tokens");
    assert_eq!(refused.header("retry-after"), "2");

    let hopeless = server.get_as(&key, "/test/answer?reserve=601");
    hopeless.fails(429, "rate_limit_exceeded");
    assert_eq!(hopeless.header("x-should-retry"), "false");
    assert_eq!(hopeless.header("retry-after"), "");
}

#[test]
fn requests_at_the_same_time() {
    let server = TestServer::start("concurrency");
    let (_, key) = server.key(limited(KeyLimits {
        concurrency: Some(2),
        requests_per_minute: Some(1000),
        ..KeyLimits::default()
    }));
    let mut first = server.open_stream(&key, "concurrency-1");
    let second = server.open_stream(&key, "concurrency-2");
    let refused = server.get_as(&key, "/test/answer");
    refused.fails(429, "concurrency_limit_exceeded");
    assert_eq!(refused.header("retry-after"), "1");
    // A refusal takes no request from the minute.
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "998");
    gate("concurrency-1").notify_one();
    assert_eq!(first.line(), "end\n");
    assert_eq!(first.line(), "");
    server.wait_for_running(1);
    assert_eq!(server.get_as(&key, "/test/answer").status, 200);
    // A client that goes away gives its place back too.
    drop(second);
    server.wait_for_running(0);
}

#[test]
fn the_quota_of_a_day_outlives_the_server() {
    let mut server = TestServer::start("quota");
    let (_, key) = server.key(limited(KeyLimits {
        tokens_per_day: Some(1000),
        ..KeyLimits::default()
    }));
    assert_eq!(
        server
            .get_as(&key, "/test/answer?reserve=1000&used=700")
            .status,
        200
    );
    server.state.lifecycle().drain();
    server.wait();

    let store = server.store.path().to_owned();
    let again = TestServer::with("quota-again", |settings| {
        settings.config.auth.keys_file = Some(store);
    });
    let refused = again.get_as(&key, "/test/answer?reserve=301");
    let message = refused.fails(429, "insufficient_quota");
    assert!(
        message.starts_with("tokens per day: 700 of 1000 are used"),
        "{message}"
    );
    assert_eq!(refused.json()["error"]["type"], "insufficient_quota");
    assert_eq!(refused.header("x-should-retry"), "false");
    // The clock stands at 08:00 UTC.
    assert_eq!(refused.header("retry-after"), (16 * 60 * 60).to_string());
    assert_eq!(
        again
            .get_as(&key, "/test/answer?reserve=300&used=300")
            .status,
        200
    );
    again
        .get_as(&key, "/test/answer?reserve=1")
        .fails(429, "insufficient_quota");
    again.advance(Duration::from_secs(16 * 60 * 60));
    assert_eq!(again.get_as(&key, "/test/answer?reserve=1000").status, 200);
}
