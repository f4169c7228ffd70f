//! Web pages: which may call the service, and what they may not.

use crate::server::TestServer;

fn ask(server: &TestServer, head: &str) -> String {
    server.raw(&format!("{head}\r\nConnection: close\r\n\r\n"))
}

#[test]
fn a_name_that_resolves_here_is_not_enough() {
    let server = TestServer::with("rebinding", |settings| {
        settings.config.listen.allowed_hosts = vec!["minerva.example".to_owned()];
    });
    let get = |host: &str| ask(&server, &format!("GET /metrics HTTP/1.1\r\nHost: {host}"));
    for right in [
        "localhost",
        "127.0.0.1:8080",
        "[::1]:8080",
        "minerva.example",
        "192.168.1.7",
    ] {
        assert!(get(right).starts_with("HTTP/1.1 200"), "{right}");
    }
    for wrong in [
        "evil.example",
        "localhost.evil.example:80",
        "minerva.example.evil.example",
    ] {
        let answer = get(wrong);
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("host_not_allowed"),
            "{answer}"
        );
    }
    let without = server.raw("GET /metrics HTTP/1.0\r\n\r\n");
    assert!(without.starts_with("HTTP/1.0 403"), "{without}");
}

#[test]
fn cors_is_off_unless_an_origin_is_named() {
    let off = TestServer::start("cors-off");
    let page = "Host: localhost:8080\r\nOrigin: https://chat.example";
    let preflight =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization";
    for head in [
        format!("GET /health/live HTTP/1.1\r\n{page}"),
        format!("OPTIONS /test/echo HTTP/1.1\r\n{page}\r\n{preflight}"),
    ] {
        let answer = ask(&off, &head);
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("origin_not_allowed"),
            "{answer}"
        );
        assert!(!answer.contains("access-control-allow-origin"), "{answer}");
    }
    // The service's own pages.
    let own = ask(
        &off,
        "GET /health/live HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080",
    );
    assert!(own.starts_with("HTTP/1.1 200"), "{own}");

    let on = TestServer::with("cors-on", |settings| {
        settings.config.listen.allowed_origins = vec!["https://chat.example".to_owned()];
    });
    let answer = ask(&on, &format!("GET /health/live HTTP/1.1\r\n{page}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: https://chat.example"),
        "{answer}"
    );
    assert!(
        answer.contains("access-control-expose-headers: x-request-id,"),
        "{answer}"
    );
    let answer = ask(
        &on,
        &format!("OPTIONS /test/echo HTTP/1.1\r\n{page}\r\n{preflight}"),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("access-control-allow-headers: authorization"),
        "{answer}"
    );
    let other = ask(
        &on,
        "GET /health/live HTTP/1.1\r\nHost: localhost\r\nOrigin: null",
    );
    assert!(other.starts_with("HTTP/1.1 403"), "{other}");
}
