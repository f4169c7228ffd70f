//! Responses over WebSocket.

use std::net::TcpStream;

use minerva_server::{KeyLimits, NewKey};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use crate::api::{ApiServer, with};
use crate::responses::{check_events, request, text};
use crate::server::{TestServer, new_key};

/// The other end of a socket.
struct Client(WebSocket<TcpStream>);

/// A socket, or the status and the code of the refusal.
fn connect(server: &TestServer, headers: &[(&'static str, &str)]) -> Result<Client, (u16, Value)> {
    let url = server.url("/v1/responses").replace("http", "ws");
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let socket = TcpStream::connect(server.address).unwrap();
    match tungstenite::client(request, socket) {
        Ok((socket, _)) => Ok(Client(socket)),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or(b"null");
            let body: Value = serde_json::from_slice(body).unwrap();
            Err((response.status().as_u16(), body["error"]["code"].clone()))
        }
        Err(error) => panic!("{error}"),
    }
}

fn open(server: &TestServer) -> Client {
    connect(server, &[]).unwrap()
}

fn open_as(server: &TestServer, key: &str) -> Client {
    connect(server, &[("authorization", &format!("Bearer {key}"))]).unwrap()
}

impl Client {
    fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).unwrap();
    }

    fn create(&mut self, fields: Value) {
        let frame = with(request(fields), json!({"type": "response.create"}));
        self.send(&frame);
    }

    /// One that goes on until it is cancelled.
    fn create_endless(&mut self, fields: Value) {
        self.create(with(json!({"max_output_tokens": 60000}), fields));
    }

    /// The next event.
    fn event(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The events of one response.
    fn events(&mut self) -> Vec<Value> {
        let mut events = vec![self.event()];
        while !is_end(&events[events.len() - 1]) {
            events.push(self.event());
        }
        events
    }

    /// Reads on to the event of a name.
    fn wait_for(&mut self, name: &str) -> Value {
        loop {
            let event = self.event();
            if event["type"] == name {
                return event;
            }
        }
    }

    /// Asserts an error of this status and code, and gives all of it.
    #[track_caller]
    fn fails(&mut self, status: u16, code: &str) -> Value {
        let event = self.event();
        assert_eq!(event["type"], "error", "{event}");
        assert_eq!(
            (&event["status"], &event["error"]["code"]),
            (&json!(status), &json!(code)),
            "{event}"
        );
        event
    }

    /// Reads on until the server closes, and gives its code.
    fn closing(&mut self) -> CloseCode {
        loop {
            if let Message::Close(frame) = self.0.read().unwrap() {
                return frame.unwrap().code;
            }
        }
    }
}

fn is_end(event: &Value) -> bool {
    let ends = [
        "response.completed",
        "response.incomplete",
        "response.failed",
    ];
    ends.iter().any(|name| event["type"] == *name)
}

/// A model that answers two requests at once for as long as it takes.
fn endless(name: &str) -> ApiServer {
    ApiServer::endless(name, |settings| settings.config.engine.parallel = 2)
}

#[test]
fn frames_are_the_events() {
    let server = ApiServer::start("ws-events");
    let whole = server.post("/v1/responses", &request(json!({}))).json();
    let mut client = open(&server);
    client.create(json!({}));
    let events = client.events();
    let end = check_events(&events, "response.incomplete");
    assert_eq!(text(&end), text(&whole));
    assert!(events.iter().all(|event| event.get("stream_id").is_none()));
    client.create(json!({"stream_id": "s.1", "stream": true}));
    let events = client.events();
    assert_eq!(
        text(&check_events(&events, "response.incomplete")),
        text(&whole)
    );
    assert!(events.iter().all(|event| event["stream_id"] == "s.1"));
    let path = format!("/v1/responses/{}", end["id"].as_str().unwrap());
    assert_eq!(server.get(&path).json(), end);
}

#[test]
fn a_conversation_lives_as_long_as_its_socket() {
    let server = ApiServer::start("ws-chain");
    let mut client = open(&server);
    client.create(json!({"store": false}));
    let first = client.events().pop().unwrap()["response"].clone();
    client.create(json!({"store": false, "input": "d", "previous_response_id": first["id"]}));
    let second = client.events().pop().unwrap()["response"].clone();
    let cached = &second["usage"]["input_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64() >= Some(16), "{second}");
    let whole = server.post(
        "/v1/responses",
        &request(
            json!({"cache_prompt": false, "input": [{"role": "user", "content": "abc"},
            first["output"][0], {"role": "user", "content": "d"}]}),
        ),
    );
    assert_eq!(text(&second), text(&whole.json()));
    // Nobody else sees it, neither over HTTP nor on another socket.
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    server.get(&path).fails(404, "response_not_found");
    let next = json!({"previous_response_id": first["id"]});
    let refused = server.post("/v1/responses", &request(next.clone()));
    refused.fails(400, "previous_response_not_found");
    let mut other = open(&server);
    other.create(next.clone());
    other.fails(400, "previous_response_not_found");
    // A stream can fork from another one's.
    client.create(with(next, json!({"stream_id": "fork"})));
    assert!(is_end(client.events().last().unwrap()));
}

#[test]
fn streams_run_at_once_and_each_in_order() {
    let server = endless("ws-streams");
    let mut client = open(&server);
    client.create_endless(json!({"stream_id": "long"}));
    client.wait_for("response.output_text.delta");
    client.create(json!({"stream_id": "short", "metadata": {"n": "1"}}));
    client.create(json!({"stream_id": "short", "metadata": {"n": "2"}}));
    let mut short = Vec::new();
    while short.iter().filter(|event| is_end(event)).count() < 2 {
        let event = client.event();
        if event["stream_id"] == "short" {
            short.push(event);
        } else {
            assert_eq!(event["type"], "response.output_text.delta");
        }
    }
    let (first, second) = short.split_at(short.len() / 2);
    for (events, n) in [(first, "1"), (second, "2")] {
        let end = check_events(events, "response.incomplete");
        assert_eq!(end["metadata"]["n"], n);
    }
    client.send(&json!({"type": "response.cancel", "stream_id": "long"}));
    let end = client.wait_for("response.incomplete")["response"].clone();
    assert_eq!(end["status"], "cancelled");
    assert_eq!(end["incomplete_details"], json!(null));
    assert!(!text(&end).is_empty());
    server.wait_until(|stats| stats.n_running == 0);
    // By its id, and once only.
    client.create_endless(json!({}));
    let id = client.event()["response"]["id"].clone();
    client.send(&json!({"type": "response.cancel", "response_id": id}));
    let end = client.wait_for("response.incomplete");
    assert_eq!(end["response"]["status"], "cancelled");
    client.create(json!({"stream_id": "after"}));
    client.events();
    client.send(&json!({"type": "response.cancel", "response_id": id}));
    client.fails(404, "response_not_found");
}

#[test]
fn wrong_frames_are_answered() {
    let server = ApiServer::with("ws-wrong", |settings| {
        settings.config.limits.body_bytes = 4096;
    });
    let mut client = open(&server);
    for frame in ["", "{", "[]", "1", &"[".repeat(1000), "{\"type\": 1}", "{}"] {
        client.0.send(Message::text(frame)).unwrap();
        client.fails(400, "invalid_request");
    }
    client.0.send(Message::binary(vec![0; 16])).unwrap();
    client.fails(400, "invalid_request");
    for (frame, code, param) in [
        (json!({"type": "response.steer"}), "invalid_request", "type"),
        (
            json!({"type": "response.create", "stream_id": "a b"}),
            "invalid_request",
            "stream_id",
        ),
        (
            json!({"type": "response.create", "stream": false}),
            "invalid_request",
            "stream",
        ),
        (
            json!({"type": "response.create", "background": true, "input": "a"}),
            "unsupported_parameter",
            "background",
        ),
        (
            json!({"type": "response.create", "colour": 1, "input": "a"}),
            "unknown_parameter",
            "colour",
        ),
        (
            json!({"type": "response.create", "input": "a".repeat(200)}),
            "context_length_exceeded",
            "input",
        ),
        (
            json!({"type": "response.cancel", "reason": "a"}),
            "invalid_request",
            "reason",
        ),
    ] {
        client.send(&frame);
        let event = client.fails(400, code);
        assert_eq!(event["error"]["param"], param, "{event}");
    }
    client.send(&json!({"type": "response.create", "stream_id": "s"}));
    assert_eq!(client.fails(400, "invalid_request")["stream_id"], "s");
    // The socket is none the worse for it.
    client.create(json!({}));
    check_events(&client.events(), "response.incomplete");
    client.0.send(Message::text("a".repeat(5000))).unwrap();
    assert_eq!(client.closing(), CloseCode::Size);
}

#[test]
fn work_on_a_socket_is_bounded() {
    let server = ApiServer::endless("ws-bounds", |settings| {
        settings.config.engine.parallel = 1;
        settings.config.responses.socket_streams = 1;
    });
    let mut client = open(&server);
    client.create_endless(json!({"stream_id": "a"}));
    client.wait_for("response.output_text.delta");
    client.create(json!({"stream_id": "b"}));
    let error = client.wait_for("error");
    assert_eq!(error["error"]["code"], "websocket_stream_limit_reached");
    assert_eq!(error["stream_id"], "b");
    for _ in 0..17 {
        client.create(json!({"stream_id": "a"}));
    }
    let error = client.wait_for("error");
    assert_eq!(error["status"], 429);
    client.send(&json!({"type": "response.cancel", "stream_id": "a"}));
    let end = client.wait_for("response.incomplete");
    assert_eq!(end["response"]["status"], "cancelled");
    for _ in 0..16 {
        check_events(&client.events(), "response.incomplete");
    }
}

#[test]
fn a_slow_reader_holds_up_itself_only() {
    let server = endless("ws-slow");
    let mut slow = open(&server);
    slow.create_endless(json!({"include": ["message.output_text.logprobs"], "top_logprobs": 20}));
    server.wait_until(|stats| stats.n_running == 1);
    let mut quick = open(&server);
    for _ in 0..3 {
        quick.create(json!({}));
        check_events(&quick.events(), "response.incomplete");
    }
    for i in 0..200 {
        assert_eq!(slow.event()["sequence_number"], i);
    }
    drop(slow);
    server.wait_until(|stats| stats.n_running == 0 && stats.n_blocks_used == 0);
}

#[test]
fn a_socket_needs_what_requests_need() {
    let server = ApiServer::start("ws-auth");
    let (_, key) = server.key(NewKey {
        limits: KeyLimits {
            requests_per_minute: Some(2),
            concurrency: Some(1),
            ..KeyLimits::default()
        },
        ..new_key("app")
    });
    let refused = |headers: &[(&'static str, &str)]| connect(&server, headers).err().unwrap();
    assert_eq!(refused(&[]), (401, json!("missing_api_key")));
    assert_eq!(
        refused(&[("x-api-key", "wrong")]),
        (401, json!("invalid_api_key"))
    );
    assert_eq!(
        refused(&[("x-api-key", &key), ("origin", "http://example.com")]),
        (403, json!("origin_not_allowed"))
    );
    // The socket itself is a request, and so is each that comes over it.
    let mut client = open_as(&server, &key);
    client.create(json!({}));
    check_events(&client.events(), "response.incomplete");
    client.create(json!({}));
    client.fails(429, "rate_limit_exceeded");
}

#[test]
fn a_revoked_key_ends_its_socket() {
    let server = endless("ws-revoked");
    let (id, key) = server.key(new_key("app"));
    let (_, other) = server.key(new_key("other"));
    let mut client = open_as(&server, &key);
    let mut idle = open_as(&server, &key);
    let mut kept = open_as(&server, &other);
    client.create_endless(json!({"stream_id": "s"}));
    client.wait_for("response.output_text.delta");
    server.store.revoke(&id, server.now()).unwrap();
    server.sync();
    let error = client.wait_for("error");
    assert_eq!(error["error"]["code"], "invalid_api_key");
    assert_eq!(error["stream_id"], "s");
    assert_eq!(client.event()["type"], "response.failed");
    assert_eq!(client.closing(), CloseCode::Policy);
    assert_eq!(idle.closing(), CloseCode::Policy);
    kept.create(json!({}));
    check_events(&kept.events(), "response.incomplete");
}

#[test]
fn a_drain_ends_sockets_in_order() {
    let mut server = endless("ws-drain");
    let mut idle = open(&server);
    let mut client = open(&server);
    client.create_endless(json!({}));
    client.wait_for("response.output_text.delta");
    server.state.lifecycle().drain();
    assert_eq!(idle.closing(), CloseCode::Away);
    client.create(json!({"stream_id": "late"}));
    assert_eq!(client.wait_for("error")["error"]["code"], "shutting_down");
    // What runs goes on to its end.
    client.wait_for("response.output_text.delta");
    client.send(&json!({"type": "response.cancel"}));
    client.wait_for("response.incomplete");
    assert_eq!(client.closing(), CloseCode::Away);
    server.server.wait();
}

#[test]
fn after_the_grace_time_sockets_are_told_to_end() {
    let mut server = ApiServer::endless("ws-grace", |settings| {
        settings.config.timeouts.drain_seconds = 0;
    });
    let mut client = open(&server);
    client.create_endless(json!({}));
    client.wait_for("response.output_text.delta");
    server.state.lifecycle().drain();
    assert_eq!(client.wait_for("error")["error"]["code"], "shutting_down");
    assert_eq!(client.event()["type"], "response.failed");
    assert_eq!(client.closing(), CloseCode::Away);
    server.server.wait();
}

#[test]
fn an_idle_socket_is_closed() {
    let server = ApiServer::with("ws-idle", |settings| {
        settings.config.responses.socket_idle_seconds = 1;
    });
    let mut client = open(&server);
    client.create(json!({}));
    check_events(&client.events(), "response.incomplete");
    assert_eq!(client.closing(), CloseCode::Normal);
}
