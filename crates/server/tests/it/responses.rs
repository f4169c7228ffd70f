//! Responses over HTTP: events, conversations, what is kept of them.

use minerva_server::Loaded;
use serde_json::{Value, json};

use crate::api::{ApiServer, with};
use crate::server::{Answer, new_key};

/// A request that is always answered in the same way, with eight tokens.
pub(crate) fn request(fields: Value) -> Value {
    let body = json!({"model": "tiny", "input": "abc", "max_output_tokens": 8, "temperature": 0,
        "ignore_eos": true});
    with(body, fields)
}

fn respond(server: &ApiServer, fields: Value) -> Answer {
    server.post("/v1/responses", &request(fields))
}

/// A response that must be one.
#[track_caller]
fn response(server: &ApiServer, fields: Value) -> Value {
    let answer = respond(server, fields);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub(crate) fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"]
        .as_str()
        .unwrap()
}

/// The events of a stream, each of which is named twice.
#[track_caller]
fn events(text: &str) -> Vec<Value> {
    let blocks = text.split("\n\n");
    let blocks = blocks.filter(|block| !block.is_empty() && !block.starts_with(':'));
    let event = |block: &str| {
        let (name, data) = block.split_once('\n').unwrap();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), event["type"].as_str());
        event
    };
    blocks.map(event).collect()
}

/// Asserts that these are the events of one answer, in order and each with all its fields; gives
/// the response at the end.
#[track_caller]
pub(crate) fn check_events(events: &[Value], last: &str) -> Value {
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let n_deltas = names
        .iter()
        .filter(|name| **name == "response.output_text.delta")
        .count();
    let mut wanted = vec![
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ];
    wanted.extend(std::iter::repeat_n("response.output_text.delta", n_deltas));
    wanted.extend([
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        last,
    ]);
    assert_eq!(names, wanted);
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    assert_eq!(events[0]["response"]["status"], "in_progress");
    assert_eq!(events[0]["response"]["output"], json!([]));
    let [added, part_added, .., done, part_done, item_done, end] = &events[2..] else {
        panic!("{names:?}");
    };
    let whole = &end["response"];
    let item = &whole["output"][0];
    assert_eq!(item_done["item"], *item);
    assert_eq!(part_done["part"], item["content"][0]);
    assert_eq!(done["text"], item["content"][0]["text"]);
    assert_eq!(done["logprobs"], item["content"][0]["logprobs"]);
    assert_eq!(added["item"]["status"], "in_progress");
    assert_eq!(added["item"]["content"], json!([]));
    assert_eq!(part_added["part"]["text"], "");
    let deltas = &events[4..4 + n_deltas];
    for event in deltas.iter().chain([part_added, done, part_done]) {
        assert_eq!(event["item_id"], item["id"]);
        assert_eq!(event["output_index"], 0);
        assert_eq!(event["content_index"], 0);
    }
    let joined: String = deltas
        .iter()
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(joined, text(whole));
    let logprobs: Vec<Value> = deltas
        .iter()
        .flat_map(|event| event["logprobs"].as_array().unwrap().clone())
        .collect();
    assert_eq!(item["content"][0]["logprobs"], Value::from(logprobs));
    assert_eq!(whole["id"], events[0]["response"]["id"]);
    whole.clone()
}

#[test]
fn events_come_in_order() {
    let server = ApiServer::start("response-events");
    let whole = response(&server, json!({}));
    let streamed = respond(&server, json!({"stream": true}));
    assert_eq!(streamed.header("content-type"), "text/event-stream");
    let end = check_events(&events(&streamed.text), "response.incomplete");
    assert_eq!(text(&end), text(&whole));
    assert_eq!(end["status"], "incomplete");
    assert_eq!(end["output"][0]["status"], "incomplete");
    assert_eq!(
        end["incomplete_details"],
        json!({"reason": "max_output_tokens"})
    );
    assert_eq!(end["usage"]["output_tokens"], 8);
    assert_eq!(
        end["usage"]["output_tokens_details"],
        json!({"reasoning_tokens": 0})
    );
    // What ends by itself is complete.
    let fields = json!({"stream": true, "stop": "a", "logit_bias": {"259": 90}});
    let biased = respond(&server, fields);
    let end = check_events(&events(&biased.text), "response.completed");
    assert_eq!(end["status"], "completed");
    assert_eq!(end["completed_at"], 1_800_000_000);
}

#[test]
fn the_request_is_found_in_the_response() {
    let server = ApiServer::start("response-echo");
    let fields = json!({"model": "small", "instructions": "be", "metadata": {"a": "b"},
        "user": "u", "top_p": 0.5, "temperature": 0.25, "prompt_cache_key": "k",
        "parallel_tool_calls": false, "tools": [], "text": {"format": {"type": "text"}}});
    let made = response(&server, fields);
    for (field, wanted) in [
        ("object", json!("response")),
        ("model", json!("tiny")),
        ("instructions", json!("be")),
        ("metadata", json!({"a": "b"})),
        ("user", json!("u")),
        ("top_p", json!(0.5)),
        ("temperature", json!(0.25)),
        ("prompt_cache_key", json!("k")),
        ("parallel_tool_calls", json!(false)),
        ("max_output_tokens", json!(8)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("truncation", json!("disabled")),
        ("text", json!({"format": {"type": "text"}})),
        ("error", json!(null)),
        ("store", json!(true)),
        ("created_at", json!(1_800_000_000)),
    ] {
        assert_eq!(made[field], wanted, "{field}");
    }
}

#[test]
fn tokens_come_with_their_log_probabilities() {
    let server = ApiServer::start("response-logprobs");
    let include = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 3,
        "stream": true});
    let streamed = respond(&server, include);
    let end = check_events(&events(&streamed.text), "response.incomplete");
    let logprobs = &end["output"][0]["content"][0]["logprobs"];
    assert_eq!(logprobs.as_array().unwrap().len(), 8);
    assert_eq!(logprobs[0]["top_logprobs"].as_array().unwrap().len(), 3);
    assert_eq!(
        logprobs[0]["top_logprobs"][0]["token"],
        logprobs[0]["token"]
    );
    assert_eq!(end["top_logprobs"], 3);
}

#[test]
fn a_conversation_goes_on() {
    let server = ApiServer::start("response-chain");
    let first = response(&server, json!({"instructions": "i"}));
    let second = response(
        &server,
        json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "d"}]}],
            "previous_response_id": first["id"]}),
    );
    // The instructions of the first are not those of the second.
    let whole = response(
        &server,
        json!({"cache_prompt": false, "input": [
            {"role": "user", "content": "abc"},
            first["output"][0],
            {"role": "user", "content": "d"},
        ]}),
    );
    assert_eq!(text(&second), text(&whole));
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_eq!(whole["usage"]["input_tokens_details"]["cached_tokens"], 0);

    let third = response(
        &server,
        json!({"input": "e", "previous_response_id": second["id"]}),
    );
    let usage = &third["usage"];
    let cached = usage["input_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!(cached >= 16, "{usage}");
    let whole = response(
        &server,
        json!({"cache_prompt": false, "input": [
            {"role": "user", "content": "abc"},
            {"role": "assistant", "content": text(&first)},
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": text(&second)},
            {"role": "user", "content": "e"},
        ]}),
    );
    assert_eq!(text(&third), text(&whole));
    // A deleted part of it leaves nothing to go on from.
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(server.delete_as("", &path).status, 200);
    let refused = respond(&server, json!({"previous_response_id": third["id"]}));
    refused.fails(400, "previous_response_not_found");
    assert_eq!(refused.json()["error"]["param"], "previous_response_id");
}

#[test]
fn what_is_stored_can_be_asked_for() {
    let server = ApiServer::start("response-stored");
    let made = response(
        &server,
        json!({"input": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]}),
    );
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/responses/{id}");
    assert_eq!(server.get(&path).json(), made);
    assert_eq!(
        server
            .get(&format!("{path}?include[]=message.output_text.logprobs"))
            .json(),
        made
    );
    server
        .get(&format!("{path}?stream=true"))
        .fails(400, "invalid_request");
    let list = server.get(&format!("{path}/input_items")).json();
    let ids: Vec<&str> = (0..3)
        .map(|i| list["data"][i]["id"].as_str().unwrap())
        .collect();
    assert_eq!(list["data"][0]["content"][0]["text"], "c");
    assert_eq!(list["data"][1]["content"][0]["type"], "output_text");
    assert_eq!(
        [&list["first_id"], &list["last_id"], &list["has_more"]],
        [&json!(ids[0]), &json!(ids[2]), &json!(false)]
    );
    let page = format!("{path}/input_items?order=asc&limit=1&after={}", ids[2]);
    let page = server.get(&page).json();
    assert_eq!(page["data"][0]["id"], ids[1]);
    assert_eq!(page["has_more"], true);
    server
        .get(&format!("{path}/input_items?limit=0"))
        .fails(400, "invalid_request");
    server
        .post(&format!("{path}/cancel"), &json!({}))
        .fails(400, "invalid_request");
    // Another key does not see it; this one is seen without a key, until one is made.
    let (_, key) = server.key(new_key("other"));
    server.get_as(&key, &path).fails(404, "response_not_found");
    server
        .delete_as(&key, &path)
        .fails(404, "response_not_found");
    let body = request(json!({})).to_string();
    let own = server.post_as(&key, "/v1/responses", &body).json();
    let path = format!("/v1/responses/{}", own["id"].as_str().unwrap());
    assert_eq!(server.get_as(&key, &path).json(), own);
    let deleted = server.delete_as(&key, &path).json();
    assert_eq!(
        deleted,
        json!({"id": own["id"], "object": "response", "deleted": true})
    );
    server
        .delete_as(&key, &path)
        .fails(404, "response_not_found");
    server
        .post_as(&key, &format!("{path}/cancel"), "{}")
        .fails(404, "response_not_found");
}

fn is_kept(server: &ApiServer, made: &Value) -> bool {
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    server.get(&path).status == 200
}

fn bounded(name: &str, change: impl FnOnce(&mut minerva_server::Responses)) -> ApiServer {
    ApiServer::with(name, |settings: &mut Loaded| {
        change(&mut settings.config.responses);
    })
}

#[test]
fn what_is_stored_is_bounded() {
    let server = bounded("response-count", |responses| responses.stored = 2);
    let first = response(&server, json!({}));
    let second = response(&server, json!({"previous_response_id": first["id"]}));
    // Reading a conversation makes all of it recent.
    let other = response(&server, json!({"store": false}));
    assert!(!is_kept(&server, &other));
    assert_eq!(other["store"], false);
    let refused = respond(&server, json!({"previous_response_id": other["id"]}));
    refused.fails(400, "previous_response_not_found");
    assert!(is_kept(&server, &first) && is_kept(&server, &second));
    let third = response(&server, json!({}));
    assert!(!is_kept(&server, &first));
    assert!(is_kept(&server, &second) && is_kept(&server, &third));

    let server = bounded("response-bytes", |responses| responses.stored_bytes = 4000);
    let first = response(&server, json!({}));
    assert!(is_kept(&server, &first));
    for _ in 0..3 {
        let last = response(&server, json!({}));
        assert!(is_kept(&server, &last));
    }
    assert!(!is_kept(&server, &first));
    let large = response(
        &server,
        json!({"metadata": {"a": "b".repeat(500), "c": "d".repeat(500),
        "e": "f".repeat(500), "g": "h".repeat(500), "i": "j".repeat(500), "k": "l".repeat(500)}}),
    );
    assert_eq!(large["store"], false);
    assert!(!is_kept(&server, &large));

    let server = bounded("response-age", |responses| responses.stored_seconds = 60);
    let first = response(&server, json!({}));
    server.advance(std::time::Duration::from_secs(50));
    assert!(is_kept(&server, &first));
    server.advance(std::time::Duration::from_secs(60));
    assert!(is_kept(&server, &first));
    server.advance(std::time::Duration::from_secs(61));
    assert!(!is_kept(&server, &first));
}

#[test]
fn what_cannot_be_honored_is_refused_by_name() {
    let server = ApiServer::start("response-refused");
    for (fields, code, param) in [
        (
            json!({"truncation": "auto"}),
            "unsupported_parameter",
            "truncation",
        ),
        (
            json!({"background": true}),
            "unsupported_parameter",
            "background",
        ),
        (
            json!({"tools": [{"type": "web_search"}]}),
            "unsupported_parameter",
            "tools",
        ),
        (
            json!({"text": {"format": {"type": "json_object"}}}),
            "unsupported_parameter",
            "text",
        ),
        (json!({"messages": []}), "unknown_parameter", "messages"),
        (json!({"max_tokens": 8}), "unknown_parameter", "max_tokens"),
        (json!({"input": null}), "invalid_request", "input"),
        (json!({"include": ["all"]}), "invalid_request", "include"),
        (
            json!({"top_logprobs": 2}),
            "invalid_request",
            "top_logprobs",
        ),
        (json!({"top_p": 3}), "invalid_request", "top_p"),
        (
            json!({"input": "a".repeat(200)}),
            "context_length_exceeded",
            "input",
        ),
        (
            json!({"previous_response_id": "resp_1"}),
            "previous_response_not_found",
            "previous_response_id",
        ),
    ] {
        let refused = respond(&server, with(fields, json!({"stream": true})));
        refused.fails(400, code);
        assert_eq!(refused.json()["error"]["param"], param);
    }
    server.get("/v1/responses").fails(426, "websocket_required");
    server
        .get("/v1/responses/resp_1")
        .fails(404, "response_not_found");
}

#[test]
fn a_conversation_can_be_computed_ahead() {
    let server = ApiServer::start("response-ahead");
    let ahead = response(&server, json!({"generate": false, "input": "a".repeat(64)}));
    assert_eq!(ahead["status"], "completed");
    assert_eq!(ahead["output"], json!([]));
    let next = response(&server, json!({"previous_response_id": ahead["id"]}));
    let cached = &next["usage"]["input_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64() >= Some(64), "{next}");
}

#[test]
fn a_stream_that_breaks_off_says_why() {
    let server = ApiServer::endless("response-revoked", |_| {});
    let (id, key) = server.key(new_key("app"));
    let body = request(json!({"stream": true, "max_output_tokens": 60000}));
    let mut stream = server.post_stream(&key, "/v1/responses", &body.to_string());
    let mut text = stream.line();
    assert_eq!(text, "event: response.created\n");
    server.store.revoke(&id, server.now()).unwrap();
    server.sync();
    loop {
        match stream.line() {
            line if line.is_empty() => break,
            line => text += &line,
        }
    }
    let events = events(&text);
    let [.., error, failed] = &events[..] else {
        panic!("{text}");
    };
    assert_eq!(error["type"], "error");
    assert_eq!(error["code"], "invalid_api_key");
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"]["code"], "server_error");
    assert_eq!(
        failed["sequence_number"].as_u64().unwrap(),
        events.len() as u64 - 1
    );
    server.wait_until(|stats| stats.n_running == 0);
}
