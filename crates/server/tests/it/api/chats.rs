//! Chats: whole, in parts, several at once, begun.

use serde_json::{Value, json};

use super::{ApiServer, chat, chunks, texts, with};

#[test]
fn a_chat_is_answered() {
    let server = ApiServer::start("chat");
    let answer = server.chat(json!({}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["created"], 1_800_000_000);
    assert_eq!(body["model"], "tiny");
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["logprobs"], Value::Null);

    let prompt = server.post("/apply-template", &chat(json!({}))).json()["prompt"].clone();
    assert_eq!(prompt, "<s>user: abc</s><s>assistant: ");
    let tokens = server.post("/tokenize", &json!({"content": prompt})).json()["tokens"].clone();
    let n_prompt = tokens.as_array().unwrap().len();
    let usage = &body["usage"];
    assert_eq!(usage["prompt_tokens"], n_prompt);
    assert_eq!(usage["completion_tokens"], 8);
    assert_eq!(usage["total_tokens"], n_prompt + 8);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(body["timings"]["prompt_n"], n_prompt);
    assert_eq!(body["timings"]["predicted_n"], 8);

    // The same from the cache, by an alias, at the path without a prefix, as a completion.
    let again = server
        .post("/chat/completions", &chat(json!({"model": "small"})))
        .json();
    assert_eq!(again["choices"], body["choices"]);
    assert_eq!(again["model"], "tiny");
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert!(cached > Some(0), "{again}");
    let text = server.complete(json!({"prompt": tokens})).json();
    assert_eq!(text["choices"][0]["text"], choice["message"]["content"]);
    let fresh = server.chat(json!({"cache_prompt": false})).json();
    assert_eq!(fresh["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[test]
fn a_stream_is_the_same_answer_in_parts() {
    let server = ApiServer::start("stream");
    for fields in [
        json!({"seed": 7, "temperature": 2, "max_tokens": 40}),
        json!({"seed": 7, "temperature": 2, "max_tokens": 40, "n": 3, "stop": ["a", "e"]}),
    ] {
        let whole = server.chat(fields.clone()).json();
        let stream = with(fields, json!({"stream": true}));
        let options = json!({"stream_options": {"include_usage": true}, "return_progress": true});
        let chunks = chunks(&server.chat(with(stream, options)));
        for name in ["id", "created", "model", "object", "system_fingerprint"] {
            assert!(
                chunks.iter().all(|chunk| chunk[name] == chunks[0][name]),
                "{name}"
            );
        }
        assert_eq!(chunks[0]["object"], "chat.completion.chunk");
        let texts = texts(&chunks);
        let choices = whole["choices"].as_array().unwrap();
        for (i, chunk) in chunks.iter().take(choices.len()).enumerate() {
            let choice = &chunk["choices"][0];
            assert_eq!(choice["index"], i);
            assert_eq!(choice["delta"], json!({"role": "assistant", "content": ""}));
        }
        assert_eq!(texts.len(), choices.len());
        for (choice, (text, reason)) in choices.iter().zip(texts.values()) {
            assert_eq!(choice["message"]["content"], *text);
            assert_eq!(choice["finish_reason"], *reason);
        }
        let (last, rest) = chunks.split_last().unwrap();
        assert_eq!(last["choices"], json!([]));
        let counts = ["prompt_tokens", "completion_tokens", "total_tokens"];
        for count in counts {
            assert_eq!(last["usage"][count], whole["usage"][count], "{count}");
        }
        assert!(rest.iter().all(|chunk| chunk["usage"] == Value::Null));
        let progress = rest
            .iter()
            .find(|chunk| chunk["prompt_progress"].is_object());
        let progress = &progress.unwrap()["prompt_progress"];
        assert_eq!(progress["total"], last["usage"]["prompt_tokens"]);
    }
    let plain = chunks(&server.chat(json!({"stream": true})));
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none()));
    assert_eq!(plain.last().unwrap()["timings"]["predicted_n"], 8);
}

#[test]
fn tokens_come_with_log_probabilities() {
    let server = ApiServer::start("logprobs");
    let body = server
        .chat(json!({"logprobs": true, "top_logprobs": 3}))
        .json();
    let content = body["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(content.len(), 8);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // The likeliest token was taken.
        for field in ["token", "logprob", "bytes"] {
            assert_eq!(top[0][field], token[field]);
        }
        assert!(top[1]["logprob"].as_f64() <= top[0]["logprob"].as_f64());
    }
    let parts = chunks(&server.chat(json!({"logprobs": true, "stream": true})));
    let streamed: Vec<&Value> = parts
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert_eq!(streamed.len(), 8);
    for (part, whole) in streamed.iter().zip(content) {
        assert_eq!(part["logprob"], whole["logprob"]);
    }
}

#[test]
fn an_answer_goes_on_from_its_start() {
    let server = ApiServer::start("prefill");
    let messages = json!([{"role": "user", "content": "a"},
        {"role": "assistant", "content": "b</s>"}]);
    let render = |fields: Value| {
        let body = with(chat(json!({"messages": messages})), fields);
        server.post("/apply-template", &body).json()["prompt"].clone()
    };
    assert_eq!(render(json!({})), "<s>user: a</s><s>assistant: b</s>");
    assert_eq!(
        render(json!({"continue_final_message": false})),
        "<s>user: a</s><s>assistant: b</s></s><s>assistant: "
    );
    assert_eq!(
        render(json!({"add_generation_prompt": false})),
        "<s>user: a</s><s>assistant: b</s></s>"
    );
    // What a message contains is no control token: `</s>` is four tokens.
    let usage = |messages: Value| {
        let body = server.chat(json!({"messages": messages})).json();
        body["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let plain = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    assert_eq!(usage(messages.clone()), usage(plain) + 4);
}
