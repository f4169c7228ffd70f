//! Completions: several prompts and answers, scores of a prompt, ends.

use serde_json::{Value, json};

use super::{ApiServer, chunks, with};

#[test]
fn each_of_several_answers_has_its_seed() {
    let server = ApiServer::start("n");
    let fields = |seed: u64, n: usize| json!({"seed": seed, "n": n, "temperature": 1.5});
    let three = server.complete(fields(5, 3)).json();
    assert_eq!(three["usage"]["completion_tokens"], 24);
    for i in 0..3 {
        let alone = server.complete(fields(5 + i, 1)).json();
        let choice = &three["choices"][usize::try_from(i).unwrap()];
        assert_eq!(choice["text"], alone["choices"][0]["text"]);
        assert_eq!(choice["index"], i);
    }
    let two = server
        .complete(json!({"prompt": ["abc", "de"], "n": 2}))
        .json();
    let index = |i: usize| two["choices"][i]["index"].as_u64();
    assert_eq!([0, 1, 2, 3].map(index), [0, 1, 2, 3].map(Some));
    assert_eq!(two["choices"][0]["text"], two["choices"][1]["text"]);
    let other = server.complete(json!({"prompt": "de"})).json();
    assert_eq!(two["choices"][2]["text"], other["choices"][0]["text"]);
    server
        .complete(json!({"n": 5}))
        .fails(400, "invalid_request");
}

#[test]
fn a_prompt_is_scored() {
    let server = ApiServer::start("echo");
    let all = server.complete(json!({"echo": true, "logprobs": 2})).json();
    let choice = &all["choices"][0];
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with("abc"), "{text}");
    let list = |choice: &Value, name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let tokens = list(choice, "tokens");
    let scores = list(choice, "token_logprobs");
    let n_prompt = usize::try_from(all["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap();
    assert_eq!(tokens.len(), n_prompt + 8);
    assert_eq!(tokens[0], "<s>");
    assert_eq!(scores[0], Value::Null);
    assert_eq!(list(choice, "top_logprobs")[0], Value::Null);
    assert!(scores[1..].iter().all(Value::is_number), "{scores:?}");
    // Neither BOS is in the text, nor the space before it, which is three bytes here.
    let offsets = list(choice, "text_offset");
    let wanted = [0, 0, 0, 0, 0, 1, 2].map(Value::from);
    assert_eq!(offsets[..n_prompt], wanted);
    assert_eq!(offsets[n_prompt], 3);
    for (top, score) in list(choice, "top_logprobs").iter().zip(&scores).skip(1) {
        let top: Vec<&Value> = top.as_object().unwrap().values().collect();
        assert!(
            (2..=3).contains(&top.len()) && top.contains(&score),
            "{top:?} {score}"
        );
    }

    // The answer's scores are those that it has as a prompt; nothing is generated then.
    let ids = server
        .post("/tokenize", &json!({"content": "abc", "add_special": true}))
        .json()["tokens"]
        .clone();
    let fields = json!({"prompt": ids, "echo": true, "logprobs": 0, "max_tokens": 0});
    let prompt = server.complete(fields.clone()).json();
    assert_eq!(prompt["usage"]["completion_tokens"], 0);
    assert_eq!(prompt["choices"][0]["finish_reason"], "length");
    assert_eq!(
        list(&prompt["choices"][0], "token_logprobs"),
        scores[..n_prompt]
    );
    let parts = chunks(&server.complete(with(fields, json!({"stream": true}))));
    assert_eq!(
        list(&parts[0]["choices"][0], "token_logprobs"),
        scores[..n_prompt]
    );
    let silent = server.complete(json!({"max_tokens": 0})).json();
    assert_eq!(silent["choices"][0]["text"], "");
}

#[test]
fn answers_end_before_a_stop_string() {
    let server = ApiServer::start("stop");
    let fields = json!({"seed": 3, "temperature": 3, "max_tokens": 100, "logit_bias": {"259": 9}});
    let all = server.complete(fields.clone()).json()["choices"][0]["text"].clone();
    let all = all.as_str().unwrap();
    assert!(all.contains('a'), "{all}");
    let stopped = server
        .complete(with(fields.clone(), json!({"stop": "a"})))
        .json();
    assert_eq!(
        stopped["choices"][0]["text"],
        all.split('a').next().unwrap()
    );
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let banned = server
        .complete(with(fields, json!({"banned_strings": ["a"]})))
        .json();
    assert!(!banned["choices"][0]["text"].as_str().unwrap().contains('a'));
}
