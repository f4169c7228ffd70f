//! API keys: who is let in, and for what.

use std::time::Duration;

use minerva_engine::chat::renderer::in_process;
use minerva_server::{
    AppState, AuthMode, Clock, KeyLimits, KeyRecord, KeyStore, Loaded, NewKey, Scope,
};
use serde_json::json;

use crate::server::{TestServer, new_key};

fn admin() -> NewKey {
    NewKey {
        scopes: vec![Scope::Admin],
        ..new_key("admin")
    }
}

#[test]
fn loopback_needs_no_key_until_one_is_made() {
    let server = TestServer::start("loopback");
    assert_eq!(server.get("/test/answer").json(), json!({"tenant": 0}));
    // Clients send a key in any case.
    assert_eq!(server.get_as("none", "/test/answer").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    server.get("/admin/keys").fails(401, "missing_api_key");

    let (id, key) = server.key(new_key("a"));
    server.get("/test/answer").fails(401, "missing_api_key");
    server.get("/metrics").fails(401, "missing_api_key");
    assert_eq!(server.get("/health/live").status, 200);
    let answer = server.get_as(&key, "/test/answer");
    assert_ne!(answer.json()["tenant"], 0);
    // A revoked key does not open the door for everyone.
    server.store.revoke(&id, server.now()).unwrap();
    server.sync();
    server.get("/test/answer").fails(401, "missing_api_key");
}

#[test]
fn a_lost_database_revokes_its_keys_and_opens_no_door() {
    let server = TestServer::start("lost");
    let (_, key) = server.key(new_key("a"));
    assert_eq!(server.get_as(&key, "/test/answer").status, 200);
    std::fs::remove_file(server.store.path()).unwrap();
    server.sync();
    server
        .get_as(&key, "/test/answer")
        .fails(401, "invalid_api_key");
    server.get("/test/answer").fails(401, "missing_api_key");
}

#[test]
fn a_mode_overrides_what_the_address_says() {
    let required = TestServer::with("required", |settings| {
        settings.config.auth.mode = AuthMode::Required;
    });
    required.get("/test/answer").fails(401, "missing_api_key");
    let off = TestServer::with("off", |settings| {
        settings.config.auth.mode = AuthMode::Off;
    });
    let (_, key) = off.key(admin());
    assert_eq!(off.get("/test/answer").status, 200);
    off.get("/admin/keys").fails(401, "missing_api_key");
    assert_eq!(off.get_as(&key, "/admin/keys").status, 200);
}

#[test]
fn a_key_comes_in_either_header() {
    let server = TestServer::start("headers");
    let (_, key) = server.key(new_key("a"));
    assert_eq!(server.get_as(&key, "/test/answer").status, 200);
    assert_eq!(server.post_as(&key, "/test/echo", "[1]").json(), json!([1]));
    let request = |authorization: &str| {
        server.raw(&format!(
            "GET /test/answer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\r\n\r\n"
        ))
    };
    assert!(request(&format!("authorization: bearer {key}")).starts_with("HTTP/1.1 200"));
    let refused = request(&format!("Authorization: Basic {key}"));
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
}

#[test]
fn a_wrong_key_is_refused() {
    let server = TestServer::start("wrong");
    let (_, key) = server.key(new_key("a"));
    let last = if key.ends_with('0') { '1' } else { '0' };
    let almost = format!("{}{last}", &key[..key.len() - 1]);
    for wrong in ["x", &almost, &format!("mnv-000000000000-{}", &key[17..])] {
        server
            .get_as(wrong, "/test/answer")
            .fails(401, "invalid_api_key");
    }
    let message = server
        .get_as(&almost, "/test/answer")
        .fails(401, "invalid_api_key");
    assert!(!message.contains(&almost));
}

#[test]
fn a_key_is_for_its_scopes_and_models() {
    let server = TestServer::start("scopes");
    let (_, infer) = server.key(NewKey {
        models: Some(vec!["tiny".to_owned()]),
        ..new_key("infer")
    });
    let (_, metrics) = server.key(NewKey {
        scopes: vec![Scope::Metrics],
        ..new_key("metrics")
    });
    assert_eq!(server.get_as(&metrics, "/metrics").status, 200);
    let message = server
        .get_as(&metrics, "/test/answer")
        .fails(403, "missing_scope");
    assert_eq!(message, "the API key is for metrics, expected infer");
    server
        .get_as(&infer, "/metrics")
        .fails(403, "missing_scope");
    server
        .get_as(&infer, "/admin/keys")
        .fails(403, "missing_scope");
    assert_eq!(server.get_as(&infer, "/test/answer?model=tiny").status, 200);
    server
        .get_as(&infer, "/test/answer?model=huge")
        .fails(403, "model_not_allowed");
}

#[test]
fn keys_are_made_listed_and_revoked_over_http() {
    let server = TestServer::start("admin");
    let (_, admin) = server.key(admin());
    // Lists begin with the oldest.
    server.advance(Duration::from_secs(1));
    let body = json!({"name": "b", "models": ["tiny"], "limits": {"concurrency": 2.0}}).to_string();
    let made = server.post_as(&admin, "/admin/keys", &body);
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(made["scopes"], json!(["infer"]));
    assert_eq!(made["limits"]["concurrency"], 2);
    let key = made["key"].as_str().unwrap();
    assert_eq!(server.get_as(key, "/test/answer").status, 200);

    let list = server.get_as(&admin, "/admin/keys");
    assert!(!list.text.contains(&key[17..]) && !list.text.contains("sha256"));
    let list = list.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    assert_eq!(list["data"][1]["usage"]["requests"], 1);

    let path = format!("/admin/keys/{}", made["id"].as_str().unwrap());
    let revoked = server.delete_as(&admin, &path).json();
    assert_ne!(revoked["revoked"], json!(null));
    assert_eq!(revoked["usage"]["requests"], 1);
    server
        .get_as(key, "/test/answer")
        .fails(401, "invalid_api_key");
    server
        .delete_as(&admin, "/admin/keys/nobody")
        .fails(404, "key_not_found");
    for bad in [
        "{}",
        r#"{"name": ""}"#,
        r#"{"name": "a", "scope": "infer"}"#,
        r#"{"name": "a", "scopes": []}"#,
        r#"{"name": "a", "scopes": ["root"]}"#,
        r#"{"name": "a", "limits": {"concurrency": 0}}"#,
        r#"{"name": "a", "limits": {"concurrency": -1}}"#,
        r#"{"name": "a", "limits": {"concurrency": 1.5}}"#,
    ] {
        server
            .post_as(&admin, "/admin/keys", bad)
            .fails(400, "invalid_request");
    }
}

#[test]
fn a_stream_ends_when_its_key_is_revoked() {
    let server = TestServer::start("revoke-stream");
    let (id, key) = server.key(new_key("a"));
    let (_, other) = server.key(new_key("b"));
    let mut stream = server.open_stream(&key, "revoke-a");
    let mut bystander = server.open_stream(&other, "revoke-b");
    // Another process does it; the server sees that the file changed.
    server.store.revoke(&id, server.now()).unwrap();
    let line = stream.line();
    assert!(line.contains("invalid_api_key"), "{line}");
    assert_eq!(stream.line(), "");
    crate::server::gate("revoke-b").notify_one();
    assert_eq!(bystander.line(), "end\n");
}

#[test]
fn replicas_share_keys_in_a_file() {
    let backend = std::sync::Arc::new(minerva_compute::ReferenceBackend);
    let models =
        minerva_server::open_models(&Loaded::default().config, backend, in_process).unwrap();
    let folder = crate::server::Folder::new("shared");
    let store = KeyStore::new(folder.0.join("made.redb"));
    let limited = |requests| NewKey {
        limits: KeyLimits {
            requests_per_minute: Some(requests),
            ..KeyLimits::default()
        },
        ..new_key("a")
    };
    let (record, key) = store.create(limited(2), Duration::ZERO).unwrap();
    let file = folder.0.join("keys.json");
    let write = |records: &[&KeyRecord]| {
        std::fs::write(&file, serde_json::to_string(records).unwrap()).unwrap();
    };
    write(&[&record]);
    let server = TestServer::with("shared-server", |settings| {
        settings.config.auth.shared_keys = Some(file.clone());
    });
    let answer = server.get_as(&key, "/test/answer");
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "2");
    server.get("/test/answer").fails(401, "missing_api_key");

    let mut wider = record.clone();
    wider.limits.requests_per_minute = Some(30);
    write(&[&wider]);
    server.sync();
    let answer = server.get_as(&key, "/test/answer");
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), "29");
    // A file that cannot be read changes nothing.
    std::fs::write(&file, r#"[{"id": "x"}]"#).unwrap();
    server.sync();
    let mut stream = server.open_stream(&key, "shared");
    write(&[]);
    server.sync();
    assert!(stream.line().contains("invalid_api_key"));
    server
        .get_as(&key, "/test/answer")
        .fails(401, "invalid_api_key");

    for (field, value) in [
        ("id", "0123"),
        ("sha256", "secret"),
        ("name", ""),
        ("sort", "a"),
    ] {
        let mut wrong = serde_json::to_value(&record).unwrap();
        wrong[field] = value.into();
        std::fs::write(&file, json!([wrong]).to_string()).unwrap();
        let mut settings = Loaded::default();
        settings.config.auth.shared_keys = Some(file.clone());
        let error = AppState::new(settings, Clock::System, models.clone())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("keys.json") && error.contains(field),
            "{error}"
        );
    }
}
