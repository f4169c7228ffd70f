//! `minerva run` with a prompt: text, JSON, stop strings, seeds, and what it refuses.

use std::process::Stdio;

use crate::model::{CONTEXT, TinyModel};
use crate::{Folder, command, minerva, minerva_with_input, ran};

/// The options that make an answer long enough to look at, and the same each time: the token that
/// ends an answer is not to be chosen.
const GREEDY: [&str; 6] = ["--temperature", "0", "-n", "12", "--logit-bias", "98=-inf"];

fn run<'a>(model: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["run", model], rest].concat()
}

#[test]
fn a_prompt_is_answered_on_standard_output() {
    let folder = Folder::new("answer");
    let model = TinyModel::new().write(&folder);
    let answer = minerva(&folder, &run(&model, &[&["hello"], &GREEDY[..]].concat()));
    assert!(
        answer.stderr.starts_with("Tiny: llama "),
        "{}",
        answer.stderr
    );
    assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    let text = answer.ok();
    assert!(text.len() > 1 && text.ends_with('\n'), "{text:?}");

    let mut args = run(&model, &GREEDY);
    let piped = minerva_with_input(&folder, &args, b"hello\n");
    assert_eq!(
        piped.ok(),
        text,
        "one line break at the end is not part of the prompt"
    );
    let file = folder.path("prompt.txt");
    std::fs::write(&file, "hello\r\n").unwrap();
    args.extend(["--prompt-file", &file]);
    assert_eq!(minerva(&folder, &args).ok(), text);
}

#[test]
fn json_has_each_tokens_log_probability_unasked() {
    let folder = Folder::new("json-logprob");
    let model = TinyModel::new().write(&folder);
    let args = run(
        &model,
        &[&["hello", "--format", "json"], &GREEDY[..]].concat(),
    );
    let answer = minerva(&folder, &args).json();
    for token in answer["tokens"].as_array().unwrap() {
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert_eq!(token["top"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn json_is_one_object_of_the_documented_form() {
    let folder = Folder::new("json");
    let model = TinyModel::new().write(&folder);
    let json = ["hello", "--format", "json", "--logprobs", "3"];
    let answer = minerva(&folder, &run(&model, &[&json[..], &GREEDY[..]].concat())).json();
    let keys: Vec<&str> = answer
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted = [
        "model",
        "prompt_tokens",
        "tokens",
        "text",
        "finish_reason",
        "usage",
        "timings",
    ];
    assert_eq!(keys, wanted);
    assert_eq!(answer["model"], model.as_str());
    assert_eq!(answer["finish_reason"], "length");
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 12);
    for token in tokens {
        let keys: Vec<&str> = token
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, ["id", "text", "logprob", "top"]);
        let top = token["top"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        let logprobs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(
            logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] <= 0.0,
            "{logprobs:?}"
        );
    }
    let text: String = tokens
        .iter()
        .map(|token| token["text"].as_str().unwrap())
        .collect();
    assert_eq!(answer["text"], text);
    let n_prompt = answer["prompt_tokens"].as_array().unwrap().len();
    assert_eq!(answer["usage"]["prompt_tokens"], n_prompt);
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    assert_eq!(answer["usage"]["total_tokens"], n_prompt + 12);
    for time in ["prompt_ms", "first_token_ms", "predicted_ms"] {
        assert!(answer["timings"][time].as_f64().unwrap() >= 0.0);
    }
    let plain = run(&model, &[&["hello"], &GREEDY[..]].concat());
    assert_eq!(minerva(&folder, &plain).ok(), text.clone() + "\n");
}

#[test]
fn special_tokens_come_from_the_template_and_from_raw_prompts_only() {
    let folder = Folder::new("special");
    let model = TinyModel::new().write(&folder);
    let prompt = |rest: &[&str]| -> Vec<u64> {
        let args = run(&model, &[rest, &["--format", "json", "-n", "1"]].concat());
        let answer = minerva(&folder, &args).json();
        answer["prompt_tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap())
            .collect()
    };
    let count = |tokens: &[u64]| tokens.iter().filter(|&&id| id >= 97).count();
    assert_eq!(count(&prompt(&["<|end|>"])), 2, "those of the template");
    assert_eq!(
        count(&prompt(&["x", "--system", "<|user|>"])),
        4,
        "two messages"
    );
    assert_eq!(prompt(&["<|end|>", "--raw"]), [98]);
}

#[test]
fn a_stop_string_is_not_shown() {
    let folder = Folder::new("stop");
    let model = TinyModel::new().write(&folder);
    let args = run(&model, &[&["hello"], &GREEDY[..]].concat());
    let text = minerva(&folder, &args).ok();
    let text = text.trim_end_matches('\n');
    let middle: String = text.chars().skip(4).take(3).collect();
    let before = &text[..text.find(&middle).unwrap()];
    let args = [
        &args[..],
        &["--stop", "never", "--stop", &middle, "--format", "json"],
    ]
    .concat();
    let answer = minerva(&folder, &args).json();
    assert_eq!(answer["text"], before);
    assert_eq!(answer["finish_reason"], "stop");
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let folder = Folder::new("seed");
    let model = TinyModel::new().write(&folder);
    let text = |seed: &str| {
        let args = [
            "hello",
            "--seed",
            seed,
            "-n",
            "20",
            "--temperature",
            "2",
            "--top-k",
            "0",
        ];
        minerva(&folder, &run(&model, &args)).ok()
    };
    assert_eq!(text("1"), text("1"));
    assert!((2..10).any(|seed| text(&seed.to_string()) != text("1")));
}

#[test]
fn the_reference_backend_answers_too() {
    let folder = Folder::new("reference");
    let model = TinyModel::new().write(&folder);
    let args = ["hello", "--device", "reference", "--verbose", "-n", "2"];
    let answer = minerva(&folder, &run(&model, &args));
    assert!(answer.stderr.contains("tok/s"), "{}", answer.stderr);
    answer.ok();
    let threads = ["hello", "--device", "reference", "-t", "2"];
    minerva(&folder, &run(&model, &threads)).fails(&["threads: 2, expected 1"]);
}

#[test]
fn a_model_without_a_template_says_so() {
    let folder = Folder::new("template");
    let model = TinyModel::without("tokenizer.chat_template").write(&folder);
    let answer = minerva(&folder, &run(&model, &["hello", "-n", "1"]));
    assert!(
        answer.stderr.contains("Tiny has no chat template"),
        "{}",
        answer.stderr
    );
    answer.ok();
    let raw = minerva(&folder, &run(&model, &["hello", "-n", "1", "--raw"]));
    assert!(!raw.stderr.contains("template"), "{}", raw.stderr);
    minerva(&folder, &run(&model, &["hello", "--system", "x"])).fails(&["system: "]);
}

#[test]
fn a_missing_pre_tokenizer_is_told() {
    let folder = Folder::new("no-pre");
    let answer = minerva(
        &folder,
        &run(&TinyModel::new().write(&folder), &["hello", "-n", "1"]),
    );
    assert!(!answer.stderr.contains("tokenizer.ggml.pre"));
    answer.ok();
    let model = TinyModel::without("tokenizer.ggml.pre");
    let answer = minerva(&folder, &run(&model.write(&folder), &["hello", "-n", "1"]));
    assert!(
        answer.stderr.contains("no tokenizer.ggml.pre"),
        "{}",
        answer.stderr
    );
    answer.ok();
}

#[test]
fn a_prompt_that_does_not_fit_names_both_numbers() {
    let folder = Folder::new("overflow");
    let model = TinyModel::new().write(&folder);
    let long = "a".repeat(200);
    let args = run(&model, &[&long, "--raw"]);
    minerva(&folder, &args).fails(&["200 tokens", &CONTEXT.to_string()]);
    let args = run(&model, &["abcdefghij", "--raw", "-c", "8"]);
    minerva(&folder, &args).fails(&["10 tokens", "8"]);
    let args = run(&model, &["hello", "-c", "129"]);
    minerva(&folder, &args).fails(&["129", "128"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = Folder::new("options");
    let model = TinyModel::new().write(&folder);
    for (rest, part) in [
        (&["hello", "--temperature", "nan"][..], "temperature"),
        (&["hello", "--top-p", "2"], "top_p"),
        (&["hello", "--stop", ""], "stop"),
        (&["hello", "--logprobs", "1"], "--format json"),
        (&["--format", "json"], "standard input: empty"),
        (
            &["--prompt-file", "/nowhere/prompt.txt"],
            "/nowhere/prompt.txt",
        ),
    ] {
        minerva(&folder, &run(&model, rest)).fails(&[part]);
    }
    for usage in [
        &["hello", "--heat", "1"][..],
        &["hello", "--raw", "--system", "x"],
        &["-t", "0"],
    ] {
        assert_eq!(minerva(&folder, &run(&model, usage)).status, Some(2));
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = Folder::new("pipe");
    let model = TinyModel::new().write(&folder);
    let args = run(&model, &[&["hello"], &GREEDY[..]].concat());
    let mut child = command(&folder, &args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let left = ran(&child.wait_with_output().unwrap());
    assert_eq!(left.status, Some(0), "{left:?}");
    assert!(!left.stderr.contains("error"), "{left:?}");
}

#[test]
fn help_tells_the_defaults() {
    let folder = Folder::new("help");
    let help = minerva(&folder, &["run", "--help"]).ok();
    for option in [
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repeat-penalty",
    ] {
        let after = &help[help.find(option).unwrap()..];
        assert!(after[..400].contains("[default: "), "{option}");
    }
    let version = minerva(&folder, &["--version"]).ok();
    assert_eq!(version, format!("minerva {}\n", env!("CARGO_PKG_VERSION")));
}
