//! What is wrong with a request as HTTP or JSON, and what every answer has.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::server::TestServer;

#[test]
fn unknown_paths_and_methods_are_errors_as_any_other() {
    let server = TestServer::start("paths");
    let message = server.get("/v2/nothing").fails(404, "unknown_url");
    assert_eq!(message, "GET /v2/nothing: no such route");
    let refused = server.post_as("", "/health", "{}");
    refused.fails(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD");
}

#[test]
fn bodies_are_bounded_json() {
    let server = TestServer::with("bodies", |settings| {
        settings.config.limits.body_bytes = 2048;
    });
    let echo = |body: &str| server.post_as("", "/test/echo", body);
    let fits = format!("\"{}\"", "a".repeat(2046));
    assert_eq!(echo(&fits).status, 200);
    let message = echo(&format!("{fits} ")).fails(413, "request_too_large");
    assert_eq!(message, "the body: 2049 bytes, expected at most 2048 bytes");
    for bad in ["", "{", "[1,]", "nan", "\"\u{0}\"", "{\"a\": 1} x"] {
        let message = echo(bad).fails(400, "invalid_request");
        assert!(message.contains("line 1"), "{message}");
    }
    assert_eq!(
        echo(&format!("{}{}", "[".repeat(100), "]".repeat(100))).status,
        200
    );
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let message = echo(&deep).fails(400, "invalid_request");
    assert!(message.contains("recursion limit"), "{message}");
}

#[test]
fn a_body_without_a_length_is_bounded_too() {
    let server = TestServer::with("chunked", |settings| {
        settings.config.limits.body_bytes = 1024;
    });
    let chunk = format!("200\r\n{}\r\n", " ".repeat(0x200));
    let request = format!(
        "POST /test/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    let answer = server.raw(&request);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn only_json_is_read_as_json() {
    let server = TestServer::start("content-type");
    let request = |content_type: &str| {
        server.raw(&format!(
            "POST /test/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{content_type}Content-Length: 2\r\n\r\n[]"
        ))
    };
    // What a page can send without asking first.
    for simple in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
    ] {
        assert!(request(simple).starts_with("HTTP/1.1 415"), "{simple}");
    }
    let json = request("Content-Type: Application/JSON; charset=utf-8\r\n");
    assert!(json.starts_with("HTTP/1.1 200"), "{json}");
}

#[test]
fn slow_requests_are_given_up() {
    let server = TestServer::with("slow", |settings| {
        settings.config.timeouts.headers_seconds = 1;
        settings.config.timeouts.body_seconds = 1;
    });
    // Neither ends what it begins; the server does.
    assert_eq!(server.raw("GET /health HTTP/1.1\r\nHost: loc"), "");
    let answer = server.raw(
        "POST /test/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[",
    );
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
}

#[test]
fn every_answer_has_an_id() {
    let server = TestServer::start("ids");
    let id = |given: &str| {
        let answer = server.raw(&format!(
            "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: {given}\r\n\r\n"
        ));
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix("x-request-id: "));
        line.unwrap().to_owned()
    };
    assert_eq!(id("mine-1"), "mine-1");
    for bad in ["", "a b", &"a".repeat(129)] {
        let id = id(bad);
        assert!(id.starts_with("req_") && id.len() == 36, "{id}");
    }
    let (a, b) = (server.get("/nothing"), server.get("/nothing"));
    assert_ne!(a.header("x-request-id"), b.header("x-request-id"));
}

#[test]
fn what_is_no_http_is_refused() {
    let server = TestServer::start("garbage");
    let answer = server.raw("\u{16}\u{3}\u{1} what\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let head = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(1 << 20)
    );
    let mut socket = TcpStream::connect(server.address).unwrap();
    // The server may close before all is sent.
    let _ = socket.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert_eq!(server.get("/health/live").status, 200);
}
