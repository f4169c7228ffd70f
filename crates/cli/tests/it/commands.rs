//! The commands beside `run`, with a model that is right.

use std::io::Write;

use serde_json::{Value, json};

use crate::model::TinyModel;
use crate::{Folder, command, finish, minerva, minerva_with_input};

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn inspect_says_what_is_in_the_file() {
    let folder = Folder::new("inspect");
    let model = TinyModel::new().write(&folder);
    let report = minerva(&folder, &["inspect", &model, "--format", "json"]).json();
    assert_eq!(report["architecture"], "llama");
    assert_eq!(report["context_length"], 128);
    assert_eq!(report["n_layers"], 2);
    assert_eq!(report["tokenizer"]["n_tokens"], 99);
    assert_eq!(report["types"][0]["type"], "F32");
    assert_eq!(report["types"][0]["n_tensors"], 21);
    let n_parameters = report["n_parameters"].as_u64().unwrap();
    assert_eq!(report["types"][0]["n_bytes"], n_parameters * 4);
    let memory = &report["memory"];
    let sum: u64 = ["weights_bytes", "kv_bytes", "scratch_bytes"]
        .map(|key| memory[key].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(memory["total_bytes"], sum);
    assert_eq!(
        (memory["type_k"].as_str(), memory["type_v"].as_str()),
        (Some("f16"), Some("f16"))
    );
    let wide_keys = [
        "inspect",
        &model,
        "--format",
        "json",
        "--cache-type-k",
        "f32",
    ];
    let wide = minerva(&folder, &wide_keys).json();
    let kv_bytes = |report: &Value| report["memory"]["kv_bytes"].as_u64().unwrap();
    assert_eq!(2 * kv_bytes(&wide), 3 * kv_bytes(&report));
    let text = minerva(&folder, &["inspect", &model]).ok();
    for part in ["llama", "128", "gpt2", "F32", "KERNEL"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn plan_says_what_memory_a_model_takes_and_what_makes_it_fit() {
    let folder = Folder::new("plan");
    let model = TinyModel::new().write(&folder);
    let plan = |more: &[&str]| {
        let arguments = [&["plan", &model, "--format", "json"], more].concat();
        minerva(&folder, &arguments).json()
    };
    let four = plan(&[]);
    assert_eq!(
        (&four["fits"], &four["cache_tokens"]),
        (&true.into(), &512.into())
    );
    let sum: u64 = ["weights_bytes", "kv_bytes", "scratch_bytes"]
        .map(|key| four[key].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(four["total_bytes"], sum);
    let one = plan(&["--parallel", "1"]);
    assert_eq!(4 * one["kv_bytes"].as_u64().unwrap(), four["kv_bytes"]);

    let tight = plan(&["--budget", "0"]);
    assert_eq!(tight["fits"], false);
    let savings = tight["savings"].as_array().unwrap();
    let parallel = savings
        .iter()
        .find(|saving| saving["setting"] == "--parallel 1");
    let freed = four["total_bytes"].as_u64().unwrap() - one["total_bytes"].as_u64().unwrap();
    assert_eq!(parallel.unwrap()["frees_bytes"], freed);
    let text = minerva(&folder, &["plan", &model, "--budget", "0"]).ok();
    for part in ["KV cache", "too few", "FREES", "--parallel 1"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn verify_accepts_what_is_right_and_lists_what_is_wrong() {
    let folder = Folder::new("verify");
    let model = TinyModel::new().write(&folder);
    assert!(minerva(&folder, &["verify", &model]).ok().contains("valid"));
    let report = minerva(&folder, &["verify", &model, "--format", "json"]).json();
    assert_eq!(report["is_valid"], true);
    assert_eq!(report["sha256"][0].as_str().unwrap().len(), 64);

    let mut broken = TinyModel::new();
    broken
        .tensors
        .retain(|(name, _)| name != "output_norm.weight" && !name.contains("attn_q"));
    let model = broken.write(&folder);
    let report = minerva(&folder, &["verify", &model, "--format", "json"]);
    assert_eq!(report.status, Some(1));
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["is_valid"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), 3, "{report}");
}

#[test]
fn verify_finds_numbers_that_are_none() {
    let folder = Folder::new("nan");
    let path = TinyModel::new().write(&folder);
    let mut bytes = std::fs::read(&path).unwrap();
    // The last tensor has 64 by 32 elements; some of them become NaN.
    let end = bytes.len();
    bytes[end - 64..end - 60].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    minerva(&folder, &["verify", &path]).fails(&["blk.1.ffn_down.weight", "finite"]);
}

#[test]
fn tokenize_gives_ids() {
    let folder = Folder::new("tokenize");
    let model = TinyModel::new().write(&folder);
    let tokenize = |rest: &[&str], text: &[u8]| {
        minerva_with_input(&folder, &[&["tokenize", &model], rest].concat(), text)
    };
    // "h" and "e" are merged; 71 is "h", 94 the space.
    let ids = tokenize(&["--format", "json"], b"he h<|end|>").json();
    assert_eq!(ids, serde_json::json!([96, 94, 71, 98]));
    let plain = tokenize(&["--format", "json", "--no-parse-special"], b"<|end|>").json();
    assert_eq!(plain.as_array().unwrap().len(), 7);
    assert_eq!(tokenize(&[], b"he").ok(), "    96 \"he\"\n");
    assert_eq!(tokenize(&["--format", "json"], b"").ok(), "[]\n");
}

#[test]
fn bench_has_the_field_names_of_llama_bench() {
    let folder = Folder::new("bench");
    let model = TinyModel::new().write(&folder);
    let lists = ["-p", "8,4", "-n", "2", "-d", "0,5", "-r", "3", "-t", "1,2"];
    let args = [&["bench", &model][..], &lists].concat();
    let json = minerva(&folder, &[&args[..], &["--format", "json"]].concat()).json();
    let tests = json.as_array().unwrap();
    assert_eq!(tests.len(), 2 * 2 * 3);
    for test in tests {
        for key in [
            "n_prompt",
            "n_gen",
            "n_depth",
            "avg_ns",
            "stddev_ns",
            "avg_ts",
            "stddev_ts",
            "samples_ns",
            "samples_ts",
            "model_filename",
            "model_type",
            "n_threads",
            "type_k",
            "type_v",
        ] {
            assert!(keys(test).contains(&key), "{key}");
        }
        let samples: Vec<u64> = serde_json::from_value(test["samples_ns"].clone()).unwrap();
        assert_eq!(samples.len(), 3);
        let avg = samples.iter().sum::<u64>() as f64 / 3.0;
        assert!((test["avg_ns"].as_f64().unwrap() - avg).abs() <= 0.5);
    }
    let seen = |key: &str, value: u64| tests.iter().filter(|test| test[key] == value).count();
    assert_eq!(
        (seen("n_prompt", 8), seen("n_gen", 2), seen("n_depth", 5)),
        (4, 4, 6)
    );
    assert_eq!((seen("n_threads", 1), seen("n_threads", 2)), (6, 6));
    let text = minerva(&folder, &args).ok();
    assert!(text.contains("pp8 @ d5") && text.contains("t/s"), "{text}");
    minerva(&folder, &["bench", &model, "-p", "0", "-n", "0"]).fails(&["tests: none"]);
}

#[test]
fn bench_decodes_several_sequences_together() {
    let folder = Folder::new("bench-batch");
    let model = TinyModel::new().write(&folder);
    let args = [
        "bench", &model, "-p", "4", "-n", "2", "-b", "1,3", "-d", "5", "-r", "1",
    ];
    let json = minerva(&folder, &[&args[..], &["--format", "json"]].concat()).json();
    let tests = json.as_array().unwrap();
    let parallel: Vec<u64> = tests
        .iter()
        .map(|test| test["n_parallel"].as_u64().unwrap())
        .collect();
    // A prompt is of one sequence, whatever is decoded after it.
    assert_eq!(parallel, [1, 1, 3]);
    let number = |key: &str| tests[2][key].as_f64().unwrap();
    let n_tokens = number("avg_ts") * number("avg_ns") / 1e9;
    assert!((n_tokens - 6.0).abs() < 0.01, "{n_tokens}");
    assert!((number("avg_ts") / number("avg_ts_each") - 3.0).abs() < 1e-9);
    let table = minerva(&folder, &args).ok();
    assert!(
        table.contains("tg2 x3 @ d5") && table.contains("t/s each"),
        "{table}"
    );
    let wrong = minerva(&folder, &["bench", &model, "-b", "0"]);
    assert_eq!(wrong.status, Some(2), "{wrong:?}");
}

#[test]
fn bench_says_where_the_time_goes() {
    let folder = Folder::new("bench-profile");
    let model = TinyModel::new().write(&folder);
    let args = [
        "bench",
        &model,
        "-p",
        "16",
        "-n",
        "3",
        "-r",
        "2",
        "--profile",
    ];
    let json = minerva(&folder, &[&args[..], &["--format", "json"]].concat()).json();
    let steps = |test: usize| json[test]["profile"].as_array().unwrap();
    let named = |test: usize, name: &str| {
        let mut steps = steps(test).iter();
        let step = steps.find(|step| step["step"] == name);
        step.unwrap_or_else(|| panic!("{name}: {json}"))
    };
    // Two layers and two repetitions, of three tokens where they are decoded.
    let qkv = "product F32 attn_q+attn_k+attn_v";
    let (prefill, decode) = (named(0, qkv), named(1, qkv));
    assert_eq!(
        (&prefill["calls"], &decode["calls"]),
        (&json!(4), &json!(12))
    );
    let qkv_weights = 32 * (32 + 2 * 16);
    assert_eq!(prefill["read_bytes"], 4 * 4 * qkv_weights);
    assert_eq!(prefill["f32_operations"], 4 * 16 * 2 * qkv_weights);
    assert_eq!(decode["f32_operations"], 12 * 2 * qkv_weights);
    // Positions 0, 1 and 2 see 1, 2 and 3, of two heads of 16 elements in f16, padded.
    let attention = named(1, "attention");
    assert_eq!(attention["read_bytes"], 4 * 6 * 2 * (2 * 16 * 2));
    assert_eq!(attention["f32_operations"], 4 * 6 * 4 * (4 * 8));
    for test in 0..2 {
        let shares = steps(test)
            .iter()
            .map(|step| step["share"].as_f64().unwrap());
        let sum: f64 = shares.sum();
        assert!(sum > 0.0 && sum <= 1.0, "{sum}");
    }
    let text = minerva(&folder, &args).ok();
    assert!(
        text.contains("\npp16, threads: ") && text.contains("between steps"),
        "{text}"
    );
    minerva(&folder, &["bench", "--roofline", "--profile"]).fails(&["--profile: no MODEL"]);
    let on_reference = [&args[..], &["--device", "reference"]].concat();
    minerva(&folder, &on_reference).fails(&["profile: ", "expected the processor"]);
}

#[test]
fn bench_says_where_the_time_of_a_gpu_goes() {
    let folder = Folder::new("bench-profile-gpu");
    let Some(gpu) = gpus(&folder).into_iter().next() else {
        return;
    };
    let model = TinyModel::new().write(&folder);
    let args = ["bench", &model, "-p", "16", "-n", "3", "-r", "2"];
    let on_gpu = [&args[..], &["--profile", "--device", &gpu]].concat();
    let json = minerva(&folder, &[&on_gpu[..], &["--format", "json"]].concat()).json();
    let named = |test: usize, [begin, end]: [&str; 2]| {
        let mut steps = json[test]["profile"].as_array().unwrap().iter();
        let is_meant = |name: &str| name.starts_with(begin) && name.ends_with(end);
        let step = steps.find(|step| is_meant(step["step"].as_str().unwrap()));
        step.unwrap_or_else(|| panic!("{begin} {end}: {json}"))
    };
    // Two layers and two repetitions, of three tokens where they are decoded.
    // With matrix units the first kernel is another one.
    let prefill = named(0, ["product mul_mm_", "F32 attn_q+attn_k+attn_v"]);
    let decode = named(1, ["product mul_mv_F32", " attn_q+attn_k+attn_v"]);
    let qkv_weights = 32 * (32 + 2 * 16);
    for (step, n_calls, n_tokens) in [(prefill, 4, 16), (decode, 12, 1)] {
        assert_eq!(step["calls"], n_calls);
        assert_eq!(step["read_bytes"], n_calls * 4 * qkv_weights);
        assert_eq!(step["f32_operations"], n_calls * n_tokens * 2 * qkv_weights);
        assert!(step["time_ns"].as_u64().unwrap() > 0);
    }
    // With integer dots too.
    let attention = named(1, ["attention attend", "_f16_f16"]);
    assert_eq!(attention["f32_operations"], 4 * 6 * 4 * (4 * 8));
    let text = minerva(&folder, &on_gpu).ok();
    assert!(text.contains("between steps"), "{text}");
    minerva(&folder, &[&on_gpu[..], &["--gpu-layers", "1"]].concat())
        .fails(&["profile: ", "all layers"]);
    minerva(
        &folder,
        &[&args[..], &["--roofline", "--device", &gpu]].concat(),
    )
    .fails(&["roofline: ", "expected the processor"]);
}

#[test]
fn perplexity_scores_the_second_half_of_each_chunk() {
    let folder = Folder::new("perplexity");
    let model = TinyModel::new().write(&folder);
    let text = folder.path("text.txt");
    std::fs::write(
        &text,
        "the quick brown fox jumps over the lazy dog ".repeat(4),
    )
    .unwrap();
    let out = minerva(&folder, &["perplexity", &model, &text, "-c", "32"]).ok();
    assert!(out.starts_with("[1]"), "{out}");
    assert!(
        out.contains("Final estimate: PPL = ") && out.contains(" +/- "),
        "{out}"
    );
    let final_estimate = |backend: &str| -> f64 {
        let args = ["perplexity", &model, &text, "-c", "32", "--device", backend];
        let out = minerva(&folder, &args).ok();
        let after = out.split("PPL = ").nth(1).unwrap();
        after.split(' ').next().unwrap().parse().unwrap()
    };
    let (cpu, reference) = (final_estimate("cpu"), final_estimate("reference"));
    assert!(
        (cpu / reference - 1.0).abs() < 0.05,
        "{cpu} and {reference}"
    );
    let args = ["perplexity", &model, &text, "-c", "100"];
    minerva(&folder, &args).fails(&["expected at least 200"]);
}

#[test]
fn list_and_rm_know_the_model_folder() {
    let folder = Folder::new("list");
    let home = folder.0.join("home");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("mine.gguf"), TinyModel::new().bytes()).unwrap();
    let list = minerva(&folder, &["list"]).ok();
    assert!(list.contains("mine"), "{list}");
    let list = minerva(&folder, &["list", "--format", "json"]).json();
    assert_eq!(list["models"][0]["name"], "mine");
    assert!(
        list["available"]
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry["name"] == "smollm2")
    );
    assert_eq!(
        minerva(&folder, &["run", "mine", "hello", "-n", "1"]).status,
        Some(0)
    );
    minerva(&folder, &["rm", "mine"]).ok();
    assert!(!home.join("mine.gguf").exists());
}

#[test]
fn cache_types_are_options_of_every_command_that_runs_a_model() {
    let folder = Folder::new("cache-types");
    let model = TinyModel::new().write(&folder);
    let text = folder.path("text.txt");
    std::fs::write(&text, "hello ".repeat(20)).unwrap();
    let commands: [&[&str]; 4] = [
        &["run", &model, "hello", "-c", "32", "--max-tokens", "2"],
        &[
            "bench", &model, "-p", "4", "-n", "0", "-r", "1", "--format", "json",
        ],
        &["perplexity", &model, &text, "-c", "8"],
        &["inspect", &model],
    ];
    for command in commands {
        for option in ["--cache-type-k", "--cache-type-v"] {
            let with = |name| minerva(&folder, &[command, &[option, name]].concat());
            with("f32").ok();
            // The heads of this model have 8 elements.
            with("q8_0").fails(&[
                "cache type q8_0 for ",
                "8 elements, expected a multiple of 32",
            ]);
            let wrong = with("q5_7");
            assert_eq!(wrong.status, Some(2), "{wrong:?}");
            let names = "\"q5_7\", expected one of f32, f16, q8_0, q4_0";
            assert!(wrong.stderr.contains(names), "{wrong:?}");
        }
    }
    let bench = &commands[1][..8];
    assert!(!minerva(&folder, bench).ok().contains("type_k"));
    let table = minerva(&folder, &[bench, &["--cache-type-v", "f32"]].concat()).ok();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let at = lines[0].iter().position(|name| *name == "type_k").unwrap();
    assert_eq!(lines[0][at + 1], "type_v");
    assert_eq!(lines[2][at..at + 2], ["f16", "f32"]);
}

/// The names of the adapters; none, which is said, only where none is required.
fn gpus(folder: &Folder) -> Vec<String> {
    let devices = minerva(folder, &["devices", "--format", "json"]).json();
    assert!(devices["cpu"].as_str().unwrap().starts_with("CPU, "));
    let gpus = devices["gpus"].as_array().unwrap().iter();
    let names: Vec<String> = gpus
        .map(|gpu| gpu["name"].as_str().unwrap().to_owned())
        .collect();
    let is_required = std::env::var_os("MINERVA_REQUIRE_GPU").is_some();
    assert!(!names.is_empty() || !is_required, "no GPU");
    if names.is_empty() {
        // Not by a macro: what those print is kept by the harness until a test fails.
        _ = writeln!(std::io::stderr(), "skipped what needs a GPU: there is none");
    }
    names
}

#[test]
fn devices_are_listed_and_unknown_ones_refused() {
    let folder = Folder::new("devices");
    let n_gpus = gpus(&folder).len();
    minerva(&folder, &["devices"]).ok();
    let unknown = "no such adapter";
    let wanted = "GPU: no adapter whose name contains";
    minerva(&folder, &["selftest", "--device", unknown]).fails(&[wanted]);
    let model = TinyModel::new().write(&folder);
    minerva(&folder, &["run", &model, "hello", "--device", unknown]).fails(&[wanted]);
    if n_gpus > 0 {
        let answer = |args: &[&str]| {
            let usual = ["run", &model, "hello", "--temperature", "0", "-n", "8"];
            minerva(&folder, &[&usual, args].concat()).ok()
        };
        let on_gpu = answer(&["--device", "gpu"]);
        assert_eq!(on_gpu, answer(&["--device", "reference"]));
        let copied = ["--device", "gpu", "--weights", "copied"];
        assert_eq!(on_gpu, answer(&copied));
        let locked = [
            "run",
            &model,
            "hello",
            "--device",
            "gpu",
            "--weights",
            "locked",
        ];
        minerva(&folder, &locked).fails(&["weights: locked, expected mapped or copied"]);
    }
    minerva(
        &folder,
        &[
            "run",
            &model,
            "hello",
            "--weights",
            "copied",
            "--device",
            "reference",
        ],
    )
    .fails(&["weights: copied, expected mapped"]);
    let on_processor = |place| {
        let usual = ["run", &model, "hello", "--temperature", "0", "-n", "8"];
        minerva(&folder, &[&usual[..], &["--weights", place]].concat()).ok()
    };
    assert_eq!(on_processor("copied"), on_processor("mapped"));
    assert_eq!(on_processor("locked"), on_processor("mapped"));
    let locked = ["run", &model, "hello", "--weights", "locked", "--device"];
    minerva(&folder, &[&locked[..], &["reference"]].concat())
        .fails(&["weights: locked, expected mapped"]);
}

#[test]
fn batches_are_fast_where_there_is_a_way() {
    let folder = Folder::new("batches");
    let model = TinyModel::new().write(&folder);
    let fast = ["run", &model, "hello", "-n", "4", "--batches", "fast"];
    minerva(&folder, &[&fast[..], &["--device", "reference"]].concat())
        .fails(&["batches: fast, expected exact: the reference backend"]);
    let with = |isa: &str| {
        let mut command = command(&folder, &fast);
        command.env("MINERVA_ISA", isa);
        finish(command)
    };
    for isa in ["scalar", "avx2", "neon"] {
        let got = with(isa);
        if got.stderr.contains("MINERVA_ISA") {
            got.fails(&["expected one of"]);
        } else if isa == "neon" {
            got.fails(&["batches: fast, expected exact: the instruction set"]);
        } else {
            // What is not fast is said: tiles are there for every type, whole numbers for F16 alone.
            let said = match isa {
                "scalar" => ", fast batches\n",
                _ => ", fast batches of F16\n",
            };
            assert!(got.stderr.contains(said), "{got:?}");
            got.ok();
        }
    }
}
