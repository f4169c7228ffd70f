//! Models, and what they make of texts.

use minerva_server::NewKey;
use serde_json::{Value, json};

use super::{ApiServer, chat, with};
use crate::server::new_key;

#[test]
fn models_are_listed() {
    let server = ApiServer::start("models");
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "tiny");
    assert_eq!(list["data"][0]["state"], "unloaded");
    let refused = server.chat(json!({"model": "gpt-9"}));
    refused.fails(404, "model_not_found");
    assert_eq!(refused.json()["error"]["param"], "model");
    server.get("/v1/models/gpt-9").fails(404, "model_not_found");
    // The only one there is need not be named.
    assert_eq!(server.chat(json!({"model": null})).status, 200);
    let model = server.get("/models/small").json();
    assert_eq!(model["id"], "tiny");
    assert_eq!(model["state"], "ready");
    assert_eq!(model["context_window"], 128);
    assert_eq!(model["quantization"], "F32");
    assert_eq!(model["architecture"], "llama");
    assert!(model["parameters"].as_u64() > Some(10_000));
    assert!(model["size_bytes"].as_u64() > Some(40_000));
    assert_eq!(model["aliases"], json!(["small"]));

    let (_, key) = server.key(NewKey {
        models: Some(vec!["other".to_owned()]),
        ..new_key("other")
    });
    let body = chat(json!({})).to_string();
    let refused = server.post_as(&key, "/v1/chat/completions", &body);
    refused.fails(403, "model_not_allowed");
    assert_eq!(server.get_as(&key, "/v1/models").json()["data"], json!([]));
}

#[test]
fn a_model_that_cannot_be_loaded_is_a_fault_of_the_server() {
    let server = ApiServer::with("broken", |settings| {
        settings.config.engine.context = Some(1 << 20);
    });
    let failed = server.chat(json!({}));
    failed.fails(500, "model_failed");
    assert_eq!(failed.header("x-should-retry"), "false");
}

#[test]
fn texts_and_tokens() {
    let server = ApiServer::start("tokenize");
    let tokenize = |fields: Value| {
        server
            .post("/tokenize", &with(json!({"content": "<s>ab"}), fields))
            .json()["tokens"]
            .clone()
    };
    let tokens = tokenize(json!({}));
    assert_eq!(tokens[0], 1);
    let content = server
        .post("/detokenize", &json!({"tokens": tokens}))
        .json()["content"]
        .clone();
    assert!(content.as_str().unwrap().ends_with("ab"), "{content}");
    // JSON has one kind of number.
    let floats = tokens.as_array().unwrap().iter();
    let floats: Vec<f64> = floats.map(|id| id.as_f64().unwrap()).collect();
    let body = json!({"tokens": floats});
    assert!(body.to_string().contains("1.0"), "{body}");
    assert_eq!(server.post("/detokenize", &body).json()["content"], content);
    let refused = server.post("/detokenize", &json!({"tokens": [1.5]}));
    refused.fails(400, "invalid_request");
    assert_ne!(tokenize(json!({"parse_special": false}))[0], 1);
    let pieces = tokenize(json!({"with_pieces": true}));
    assert_eq!(pieces[0], json!({"id": 1, "piece": "<s>"}));
    let last = pieces.as_array().unwrap().last().unwrap();
    assert_eq!(last["piece"], "b");
    server
        .post("/detokenize", &json!({"tokens": [99_999]}))
        .fails(400, "invalid_request");
    server
        .post("/tokenize", &json!({"text": ""}))
        .fails(400, "invalid_request");
}
