//! From start to end: probes, drain, reload.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use minerva_engine::chat::renderer::in_process;
use minerva_server::{
    AppState, AuthMode, Clock, KeyStore, Loaded, LogLevel, Server, Sources, open_models,
};
use serde_json::json;

use crate::server::{Folder, TestServer, gate, new_key};

fn health(server: &TestServer) -> [u16; 4] {
    ["", "/live", "/ready", "/startup"].map(|probe| server.get(&format!("/health{probe}")).status)
}

#[test]
fn probes_follow_the_phases() {
    let server = TestServer::start("probes");
    assert_eq!(health(&server), [503, 200, 503, 503]);
    assert_eq!(server.get("/health").json()["status"], "loading");
    server.state.lifecycle().set_ready();
    assert_eq!(health(&server), [200; 4]);
    assert_eq!(server.get("/health").json()["status"], "ok");
    // Something must run, or the server ends at once.
    let _stream = server.open_stream("", "probes");
    server.state.lifecycle().drain();
    assert_eq!(health(&server), [503, 200, 503, 200]);
    assert_eq!(server.get("/health/ready").json()["status"], "draining");
}

#[test]
fn a_drain_lets_running_streams_finish() {
    let mut server = TestServer::start("drain");
    let mut stream = server.open_stream("", "drain");
    server.state.lifecycle().drain();
    let refused = server.get("/test/answer");
    refused.fails(503, "shutting_down");
    assert_eq!(refused.header("retry-after"), "5");
    gate("drain").notify_one();
    assert_eq!(stream.line(), "end\n");
    assert_eq!(stream.line(), "");
    server.wait();
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn after_the_grace_time_streams_end_with_an_error() {
    let mut server = TestServer::with("grace", |settings| {
        settings.config.timeouts.drain_seconds = 0;
    });
    let mut stream = server.open_stream("", "grace");
    server.state.lifecycle().drain();
    let line = stream.line();
    assert!(line.contains("shutting_down"), "{line}");
    assert_eq!(stream.line(), "");
    server.wait();
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = TestServer::start("at-once");
    let _stream = server.open_stream("", "at-once");
    server.state.lifecycle().drain();
    assert_eq!(server.get("/health/live").status, 200);
    server.state.lifecycle().end();
    server.wait();
}

#[test]
fn idle_connections_do_not_hold_a_drain() {
    let mut server = TestServer::start("idle");
    let mut idle = TcpStream::connect(server.address).unwrap();
    let request = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    idle.write_all(request.as_bytes()).unwrap();
    let mut byte = [0];
    idle.read_exact(&mut byte).unwrap();
    server.state.lifecycle().drain();
    server.wait();
}

#[test]
fn a_reload_takes_new_values_and_keeps_the_old_ones_if_they_are_wrong() {
    let server = TestServer::with("reload", |settings| {
        settings.config.auth.mode = AuthMode::Off;
    });
    let file = server.folder.0.join("minerva.toml");
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            ..Sources::default()
        };
        server.block_on(server.state.reload(&sources));
    };
    let ask = || {
        server
            .raw("GET /test/answer HTTP/1.1\r\nHost: minerva.example\r\nConnection: close\r\n\r\n")
    };
    assert!(ask().starts_with("HTTP/1.1 403"));
    reload("[listen]\nport = 1\nallowed_hosts = [\"minerva.example\"]\n[log]\nlevel = \"debug\"\n");
    assert!(ask().starts_with("HTTP/1.1 200"));
    let settings = server.state.settings();
    assert_eq!(settings.config.log.level, LogLevel::Debug);
    // The port is that of the listener, and the mode is back at its default.
    assert_eq!(settings.config.listen.port, 0);
    assert_eq!(settings.config.auth.mode, AuthMode::Auto);
    reload("[listen]\nallowed_hosts = []\nport = \"x\"\n");
    assert!(ask().starts_with("HTTP/1.1 200"));
    reload("");
    assert!(ask().starts_with("HTTP/1.1 403"));
    // Keys that were made since are known.
    let (_, key) = server.store.create(new_key("a"), server.now()).unwrap();
    reload("");
    assert_eq!(server.get_as(&key, "/test/answer").status, 200);
}

#[test]
fn a_public_address_without_keys_is_refused() {
    let folder = Folder::new("public");
    let store = KeyStore::new(folder.0.join("keys.redb"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let bind = |mode: AuthMode| {
        let mut settings = Loaded::default();
        settings.config.listen.host = "0.0.0.0".to_owned();
        settings.config.listen.port = 0;
        settings.config.auth.mode = mode;
        settings.config.auth.keys_file = Some(store.path().to_owned());
        let backend = Arc::new(minerva_compute::ReferenceBackend);
        let models = open_models(&settings.config, backend, in_process).unwrap();
        let state = AppState::new(settings, Clock::System, models).unwrap();
        runtime
            .block_on(Server::bind(state))
            .map(|server| server.url())
    };
    let message = bind(AuthMode::Auto).unwrap_err().to_string();
    assert!(
        message.starts_with("listen 0.0.0.0:0: a public address without API keys"),
        "{message}"
    );
    assert!(message.contains("\n`minerva key create NAME`"), "{message}");
    assert!(bind(AuthMode::Required).is_err());
    assert!(bind(AuthMode::Off).unwrap().starts_with("http://0.0.0.0:"));
    let (key, _) = store.create(new_key("a"), Clock::System.now()).unwrap();
    assert!(bind(AuthMode::Auto).is_ok());
    store.revoke(&key.id, Clock::System.now()).unwrap();
    assert!(bind(AuthMode::Auto).is_err());
}

#[test]
fn a_panic_fails_its_request_alone() {
    let server = TestServer::start("panic");
    let message = server.get("/test/panic").fails(500, "internal_error");
    assert!(!message.contains("secret"), "{message}");
    assert_eq!(server.get("/test/answer").json(), json!({"tenant": 0}));
    assert!(
        server
            .get("/metrics")
            .text
            .contains("\nminerva_panics_total 1\n")
    );
}
