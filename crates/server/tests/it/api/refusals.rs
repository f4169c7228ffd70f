//! What a request may not ask for, and how it is told.

use minerva_server::UnsupportedFields;
use serde_json::{Value, json};

use super::{ApiServer, chunks, with};

#[test]
fn what_cannot_be_honored_is_refused_by_name() {
    let server = ApiServer::start("refused");
    for (fields, code, param) in [
        (json!({"store": true}), "unsupported_parameter", "store"),
        (
            json!({"reasoning_effort": "low"}),
            "unsupported_parameter",
            "reasoning_effort",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            "unsupported_parameter",
            "response_format",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            "unsupported_parameter",
            "tools",
        ),
        (
            json!({"tools": [{"type": "function"}], "tool_choice": "none"}),
            "unsupported_parameter",
            "tools",
        ),
        (
            json!({"tool_choice": "required"}),
            "unsupported_parameter",
            "tool_choice",
        ),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "unsupported_parameter",
            "stream_options.include_obfuscation",
        ),
        (json!({"temprature": 1}), "unknown_parameter", "temprature"),
        (
            json!({"temperature": "hot"}),
            "invalid_request",
            "temperature",
        ),
        (json!({"top_p": 2}), "invalid_request", "top_p"),
        (
            json!({"repeat_last_n": -2}),
            "invalid_request",
            "repeat_last_n",
        ),
        (json!({"n": 0}), "invalid_request", "n"),
        (json!({"stop": 1}), "invalid_request", "stop"),
        (json!({"stop": ""}), "invalid_request", "stop"),
        (json!({"mirostat": 3}), "invalid_request", "mirostat"),
        (
            json!({"logit_bias": {"x": 1}}),
            "invalid_request",
            "logit_bias",
        ),
        (
            json!({"logit_bias": {"100000": 1}}),
            "invalid_request",
            "logit_bias",
        ),
        (
            json!({"top_logprobs": 1}),
            "invalid_request",
            "top_logprobs",
        ),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "invalid_request",
            "top_logprobs",
        ),
        (
            json!({"max_completion_tokens": 7}),
            "invalid_request",
            "max_completion_tokens",
        ),
        (json!({"max_tokens": -1}), "invalid_request", "max_tokens"),
        (
            json!({"stream_options": {}}),
            "invalid_request",
            "stream_options",
        ),
        (
            json!({"return_progress": true}),
            "invalid_request",
            "return_progress",
        ),
        (
            json!({"total_timeout": 0}),
            "invalid_request",
            "total_timeout",
        ),
        (json!({"messages": []}), "invalid_request", "messages"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            "invalid_request",
            "messages[0].content[0].type",
        ),
        (
            json!({"continue_final_message": true}),
            "invalid_request",
            "continue_final_message",
        ),
        (
            json!({"chat_template_kwargs": {"messages": 1}}),
            "invalid_request",
            "messages",
        ),
    ] {
        let refused = server.chat(fields);
        let message = refused.fails(400, code);
        assert_eq!(refused.json()["error"]["param"], param, "{message}");
    }
    for (fields, code, param) in [
        (json!({"best_of": 2}), "unsupported_parameter", "best_of"),
        (json!({"suffix": "end"}), "unsupported_parameter", "suffix"),
        (json!({"messages": []}), "unknown_parameter", "messages"),
        (json!({"prompt": [1.5]}), "invalid_request", "prompt"),
        (json!({"prompt": [100_000]}), "invalid_request", "prompt"),
        (json!({"prompt": [[]]}), "invalid_request", "prompt"),
        (json!({"logprobs": true}), "invalid_request", "logprobs"),
    ] {
        let refused = server.complete(fields);
        let message = refused.fails(400, code);
        assert_eq!(refused.json()["error"]["param"], param, "{message}");
    }
    let harmless = json!({"store": false, "metadata": {}, "user": "u", "tools": [],
        "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": null});
    assert_eq!(server.chat(harmless).status, 200);
    // A list of an object's fields is no object.
    for (path, list) in [
        ("/v1/chat/completions", json!([])),
        ("/tokenize", json!([null, "abc", false, true, false])),
        ("/detokenize", json!([null, [270]])),
    ] {
        server.post(path, &list).fails(400, "invalid_request");
    }
    server
        .chat(json!({"stream": true, "stream_options": [true, null]}))
        .fails(400, "invalid_request");
}

#[test]
fn what_cannot_be_honored_can_be_a_warning() {
    let server = ApiServer::with("warnings", |settings| {
        settings.config.api.unsupported_fields = UnsupportedFields::Warn;
    });
    let wanted = json!([
        "color: no such field",
        "store: true, expected false: nothing is stored"
    ]);
    let fields = json!({"color": 1, "store": true});
    let mut warnings = server.chat(fields.clone()).json()["warnings"].clone();
    warnings
        .as_array_mut()
        .unwrap()
        .sort_by_key(Value::to_string);
    assert_eq!(warnings, wanted);
    let parts = chunks(&server.chat(with(fields, json!({"stream": true}))));
    assert_eq!(parts[0]["warnings"].as_array().unwrap().len(), 2);
    assert!(parts[1..].iter().all(|part| part.get("warnings").is_none()));
    // What makes no sense is an error all the same.
    server
        .chat(json!({"top_p": 2}))
        .fails(400, "invalid_request");
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_both_numbers() {
    let server = ApiServer::start("context");
    let refused = server.complete(json!({"prompt": vec![270; 128]}));
    let message = refused.fails(400, "context_length_exceeded");
    assert!(message.contains("128 tokens, and this model's maximum context length is 128"));
    assert_eq!(refused.json()["error"]["param"], "prompt");
    let fits = server.complete(json!({"prompt": vec![270; 127], "max_tokens": 50}));
    assert_eq!(fits.json()["usage"]["completion_tokens"], 1);
    assert_eq!(fits.json()["choices"][0]["finish_reason"], "length");
    let long = json!([{"role": "user", "content": "a".repeat(200)}]);
    let refused = server.chat(json!({"messages": long, "stream": true}));
    refused.fails(400, "context_length_exceeded");
    assert_eq!(refused.json()["error"]["param"], "messages");
}

#[test]
fn a_message_does_not_repeat_the_request() {
    let server = ApiServer::start("messages");
    let long = "é".repeat(100_000);
    for fields in [
        json!({"temperature": long}),
        json!({"model": long}),
        json!({"store": long}),
        json!({"messages": [{"role": long}]}),
        json!({"logit_bias": {long.as_str(): 1}}),
        json!({long.as_str(): 1}),
    ] {
        let refused = server.chat(fields);
        assert!((400..405).contains(&refused.status));
        assert!(refused.text.len() < 5000, "{} bytes", refused.text.len());
    }
    let refused = server.post("/v1/chat/completions", &json!(long));
    assert!(refused.text.len() < 5000);
}

#[test]
fn numbers_without_bounds_do_no_harm() {
    let server = ApiServer::start("bounds");
    let max = u64::MAX;
    let answer = server.chat(json!({"max_tokens": max}));
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "length");
    for fields in [
        json!({"n": max, "max_tokens": max}),
        json!({"logprobs": true, "top_logprobs": max}),
        json!({"total_timeout": 1e300}),
        json!({"temperature": 1e300}),
        json!({"seed": max}),
        json!({"min_keep": max}),
        json!({"stop": vec!["a"; 10_000]}),
        json!({"stop": "a".repeat(100_000)}),
        json!({"dry_multiplier": 1, "dry_sequence_breakers": vec!["a"; 1000]}),
    ] {
        server.chat(fields).fails(400, "invalid_request");
    }
    for fields in [
        json!({"top_k": i64::MAX, "seed": i64::MIN, "repeat_last_n": i32::MAX}),
        json!({"top_k": i64::MIN, "seed": -1, "min_keep": u32::MAX}),
        json!({"dry_multiplier": 1, "dry_penalty_last_n": -1, "repeat_last_n": -1}),
        json!({"mirostat": 2, "mirostat_tau": 1e30, "temperature": 1}),
    ] {
        let answer = server.chat(fields);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
