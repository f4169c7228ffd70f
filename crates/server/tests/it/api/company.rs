//! Many requests at once: their texts, their ends, their limits, their figures.

use std::sync::atomic::Ordering;

use minerva_server::{DeviceFallback, KeyLimits, NewKey, Scope};
use serde_json::{Value, json};

use super::{ApiServer, chat, chunks, completion, texts};
use crate::server::new_key;

#[test]
fn company_changes_no_text() {
    let server = ApiServer::start("company");
    let body = |i: usize| {
        let content = "abcdefgh".repeat(i % 5 + 1);
        chat(
            json!({"messages": [{"role": "user", "content": content}], "seed": i,
            "temperature": 1.5, "max_tokens": 20, "stream": true}),
        )
    };
    let text = |i: usize| {
        let answer = server.post("/v1/chat/completions", &body(i));
        texts(&chunks(&answer))[&0].0.clone()
    };
    let alone: Vec<String> = (0..32).map(text).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let text = &text;
        let threads: Vec<_> = (0..32).map(|i| scope.spawn(move || text(i))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(together, alone);
    assert_eq!(server.stats().n_dropped, 0);
}

#[test]
fn a_client_that_goes_away_ends_its_work() {
    let server = ApiServer::endless("gone", |_| {});
    let first = server.long_prompt();
    // This one waits for its turn.
    let second = server.post_stream_in_background(
        "/v1/chat/completions",
        &chat(json!({"stream": true})).to_string(),
    );
    server.wait_until(|stats| stats.n_waiting == 1);
    drop(second);
    server.wait_until(|stats| stats.n_waiting == 0);
    drop(first);
    server.wait_until(|stats| stats.n_running == 0 && stats.n_blocks_used == 0);
    server.wait_for_running(0);
    assert_eq!(server.stats().n_dropped, 2);
    drop(server.endless_stream(""));
    server.wait_until(|stats| stats.n_dropped == 3 && stats.n_blocks_used == 0);
    server.wait_for_running(0);
    let metrics = server.get("/metrics").text;
    assert!(metrics.contains("minerva_requests_finished_total{model=\"tiny\",reason=\"abort\"} 3"));
}

#[test]
fn more_than_may_wait_are_refused_at_once() {
    let server = ApiServer::endless("overload", |settings| {
        settings.config.engine.max_waiting = 1;
    });
    let _running = server.long_prompt();
    let _waiting = server.post_stream_in_background(
        "/v1/chat/completions",
        &chat(json!({"stream": true})).to_string(),
    );
    server.wait_until(|stats| stats.n_waiting == 1);
    let refused = server.chat(json!({"stream": true}));
    refused.fails(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    // A deadline ends the wait of one that the queue had room for.
    drop(_waiting);
    server.wait_until(|stats| stats.n_waiting == 0);
    let late = server.chat(json!({"queue_timeout": 0.01}));
    late.fails(504, "queue_timeout");
}

#[test]
fn a_stream_breaks_off_with_an_error() {
    let server = ApiServer::endless("revoked", |_| {});
    let (id, key) = server.key(new_key("app"));
    let mut stream = server.endless_stream(&key);
    server.store.revoke(&id, server.now()).unwrap();
    server.sync();
    let error = stream.last_event();
    assert_eq!(error["error"]["code"], "invalid_api_key", "{error}");
    server.wait_until(|stats| stats.n_running == 0);
}

#[test]
fn an_answer_ends_with_its_time() {
    let server = ApiServer::endless("time", |settings| {
        settings.config.timeouts.total_seconds = 1;
    });
    let long = json!({"max_tokens": 60000, "total_timeout": 1000});
    server.chat(long).fails(504, "total_timeout");
    let late = server.chat(json!({"first_token_timeout": 1e-9, "total_timeout": 9}));
    late.fails(504, "queue_timeout");
}

#[test]
fn tokens_are_charged_and_counted() {
    let server = ApiServer::start("charged");
    let (_, key) = server.key(NewKey {
        limits: KeyLimits {
            tokens_per_minute: Some(600),
            ..KeyLimits::default()
        },
        scopes: vec![Scope::Infer, Scope::Metrics],
        ..new_key("app")
    });
    let ask =
        |fields: Value| server.post_as(&key, "/v1/completions", &completion(fields).to_string());
    let usage = ask(json!({})).json()["usage"].clone();
    let total = usage["total_tokens"].as_u64().unwrap();
    // What an answer may use is taken before, and what it did not use given back.
    let next = ask(json!({"max_tokens": 100, "stop": "a", "logit_bias": {"259": 90}}));
    let used = total + next.json()["usage"]["total_tokens"].as_u64().unwrap();
    server.wait_for_running(0);
    let third = ask(json!({"max_tokens": 1}));
    let reserved = usage["prompt_tokens"].as_u64().unwrap() + 1;
    let left: u64 = third
        .header("x-ratelimit-remaining-tokens")
        .parse()
        .unwrap();
    assert_eq!(left, 600 - used - reserved);
    let refused = ask(json!({"n": 4, "max_tokens": 120, "prompt": vec!["abc"; 2]}));
    refused.fails(429, "rate_limit_exceeded");

    let text = server.get_as(&key, "/metrics").text;
    for line in [
        "minerva_requests_finished_total{model=\"tiny\",reason=\"length\"} 2",
        "minerva_requests_finished_total{model=\"tiny\",reason=\"stop\"} 1",
        "minerva_prompt_tokens_total{model=\"tiny\"} 21",
        "minerva_requests_running{model=\"tiny\"} 0",
        "minerva_time_to_first_token_seconds_count{model=\"tiny\"} 3",
        "vllm:num_requests_waiting{model_name=\"tiny\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn a_step_that_panics_fails_its_requests_alone() {
    let server = ApiServer::endless("faulty", |_| {});
    let wanted = server.chat(json!({})).json()["choices"].clone();
    let mut stream = server.endless_stream("");
    server.is_faulty.store(true, Ordering::SeqCst);
    let error = stream.last_event();
    assert_eq!(error["error"]["code"], "engine_failed", "{error}");
    let message = server.chat(json!({})).fails(500, "engine_failed");
    assert!(!message.contains("told to fail"), "{message}");
    server.is_faulty.store(false, Ordering::SeqCst);
    assert_eq!(server.chat(json!({})).json()["choices"], wanted);
    let metrics = server.get("/metrics").text;
    assert!(metrics.contains("\nminerva_panics_total 2\n"), "{metrics}");
    assert_eq!(server.stats().n_blocks_used, 0);
}

#[test]
fn a_lost_device_fails_its_requests_and_the_server_goes_on() {
    for (fallback, device) in [(DeviceFallback::None, "GPU"), (DeviceFallback::Cpu, "CPU")] {
        let server = ApiServer::endless("lost", |settings| {
            settings.config.engine.device_fallback = fallback;
        });
        let wanted = server.chat(json!({})).json()["choices"].clone();
        assert_eq!(server.get("/v1/models").json()["data"][0]["device"], "GPU");
        let mut stream = server.endless_stream("");
        server.is_lost.store(true, Ordering::SeqCst);
        let mut last = String::new();
        loop {
            match stream.line() {
                line if line.is_empty() => break,
                line if line == "\n" => {}
                line => last = line,
            }
        }
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["code"], "device_failed", "{error}");
        server.is_lost.store(true, Ordering::SeqCst);
        if fallback == DeviceFallback::None {
            // The next request too: it is told to try again, and when.
            let answer = server.chat(json!({}));
            let message = answer.fails(503, "device_failed");
            assert!(!message.contains("told to go"), "{message}");
            assert_eq!(answer.header("retry-after"), "1");
        }
        assert_eq!(server.chat(json!({})).json()["choices"], wanted);
        let model = &server.get("/v1/models").json()["data"][0];
        assert!(
            model["device"].as_str().unwrap().starts_with(device),
            "{model}"
        );
        let is_on_fallback = fallback == DeviceFallback::Cpu;
        assert_eq!(model["is_on_fallback"], is_on_fallback);
        let metrics = server.get("/metrics").text;
        let line = format!(
            "\nminerva_model_on_fallback{{model=\"tiny\"}} {}\n",
            u8::from(is_on_fallback)
        );
        assert!(metrics.contains(&line), "{metrics}");
        let n_failed = if is_on_fallback { 1 } else { 2 };
        let line = format!("\nminerva_errors_total{{code=\"device_failed\"}} {n_failed}\n");
        assert!(metrics.contains(&line), "{metrics}");
        server.wait_until(|stats| stats.n_blocks_used == 0);
    }
}

#[test]
fn a_client_that_goes_away_ends_its_prefill() {
    let server = ApiServer::endless("prefill", |_| {});
    drop(server.long_prompt());
    server.wait_until(|stats| stats.n_running == 0 && stats.n_blocks_used == 0);
    // It had one step to go after its prompt.
    assert_eq!(server.stats().n_dropped, 1);
    assert_eq!(server.chat(json!({})).status, 200);
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let server = ApiServer::endless("slow", |settings| {
        settings.config.engine.parallel = 2;
        settings.config.timeouts.write_seconds = 1;
    });
    // More than any buffers between the two take.
    let much = json!({"stream": true, "max_tokens": 60000, "logprobs": true, "top_logprobs": 20});
    let body = chat(much).to_string();
    let _unread = server.post_stream_in_background("/v1/chat/completions", &body);
    server.wait_until(|stats| stats.n_running == 1);
    // It holds up itself only.
    assert_eq!(server.chat(json!({})).status, 200);
    server.wait_until(|stats| stats.n_dropped == 1 && stats.n_running == 0);
    server.wait_for_running(0);
    // Its connection is cut; the other one is the one that asks.
    let is_cut = |text: &str| text.lines().any(|line| line == "minerva_connections 1");
    server.wait_until(|_| is_cut(&server.get("/metrics").text));
}
