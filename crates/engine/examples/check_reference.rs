//! Compares a model's log-probabilities with reference data, one line for each file.
//!
//! ```text
//! check_reference BACKEND MODEL.gguf LOGITS.json [MODEL.gguf LOGITS.json ...]
//! check_reference noise MODEL.gguf TOP.json
//! ```
//!
//! The data has prompts with their token ids, a greedy continuation, and for each of its tokens the
//! likeliest candidates with their log-probabilities. The model is led along the reference's own
//! continuation, so that every step compares the same context. With the reference backend, and
//! with every other one on weights of f32, each candidate must agree to 2e-3; else the root mean
//! square over the 10 likeliest must be at most llama.cpp's 0.111, over the steps of each prompt up to the first
//! whose greedy token differs. The second such figure shown is over all steps.
//!
//! `noise` is for data whose arithmetic rounds too: the likeliest tokens after each of some prompts.
//! It writes as JSON how far the data, and the CPU backend, are from the reference backend on these
//! tokens; with fast batches too, where there are some, on prompts that are long enough. The root mean square of the data's
//! distance must be at most 0.05 (the models are small and random), and those of the CPU backend at most 1.25 times the
//! data's, or 1e-3.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use minerva_compute::cpu::{CpuError, CpuOptions};
use minerva_compute::{Backend, CpuBackend, KvType, KvTypes, ReferenceBackend};
use minerva_engine::tokenizer::EncodeOptions;
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use minerva_gguf::GgmlType;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The largest difference of a log-probability in exact arithmetic.
const MAX_DIFFERENCE: f64 = 2e-3;
/// The largest root-mean-square difference over the 10 likeliest tokens in quantized arithmetic: what
/// llama.cpp has on SmolLM2.
const MAX_RMS: f64 = 0.111;
/// The largest root-mean-square difference of data that rounds, on a small random model.
const MAX_NOISE: f64 = 0.05;
/// How much farther than the data the CPU backend may be from the reference backend: as a factor,
/// or, where the data is exact, as a root mean square, since the cache is of half precision.
const NOISE_FACTOR: f64 = 1.25;
const NOISE_FLOOR: f64 = 1e-3;
/// From how many tokens on the CPU's batches may be fast.
const FAST_TOKENS: usize = 32;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let checked = match arguments.as_slice() {
        [mode, model, top] if mode == "noise" => check_noise(model, top),
        _ => check_all(&arguments),
    };
    match checked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check_all(arguments: &[String]) -> Result<bool> {
    let [backend, files @ ..] = arguments else {
        return Err("expected a backend, then pairs of a model and its logits".into());
    };
    if files.is_empty() || files.len() % 2 != 0 {
        return Err(format!(
            "{} files, expected pairs of a model and its logits",
            files.len()
        )
        .into());
    }
    let is_reference = backend == "reference";
    let backend: Box<dyn Backend> = match backend.as_str() {
        "reference" => Box::new(ReferenceBackend),
        "cpu" => Box::new(CpuBackend::new(&CpuOptions::default())?),
        other => return Err(format!("backend {other}, expected reference or cpu").into()),
    };
    // The data is f32 throughout.
    let kv_types = match is_reference {
        true => KvTypes::both(KvType::F32),
        false => KvTypes::default(),
    };
    println!("backend: {}", backend.description());
    let mut is_good = true;
    for pair in files.chunks(2) {
        let start = Instant::now();
        let found = check((&*backend, kv_types), &pair[0], &pair[1])
            .map_err(|error| format!("{} with {}: {error}", pair[0], pair[1]))?;
        let is_close = match is_reference || found.is_f32 {
            true => found.max_difference <= MAX_DIFFERENCE,
            false => found.rms.get() <= MAX_RMS,
        };
        let is_same_prompt = found.n_same_prompts == found.n_prompts;
        is_good &= is_close && is_same_prompt;
        println!(
            "{:4} {}: prompt ids {}/{}, greedy {}/{} ({} more not in the data), \
             max |d| top 20 {:.2e}, rms top 10 {:.2e} (all: {:.2e}), {:.1} s",
            if is_close && is_same_prompt {
                "ok"
            } else {
                "FAIL"
            },
            pair[0],
            found.n_same_prompts,
            found.n_prompts,
            found.n_same_greedy,
            found.n_steps,
            found.n_unreported,
            found.max_difference,
            found.rms.get(),
            found.rms_of_all.get(),
            start.elapsed().as_secs_f64(),
        );
    }
    Ok(is_good)
}

#[derive(Default)]
struct Found {
    is_f32: bool,
    n_prompts: usize,
    n_same_prompts: usize,
    n_steps: usize,
    n_same_greedy: usize,
    n_unreported: usize,
    max_difference: f64,
    /// Over the steps up to the first that disagrees, and over all.
    rms: Rms,
    rms_of_all: Rms,
}

/// A root mean square.
#[derive(Default)]
struct Rms {
    n: usize,
    sum: f64,
}

impl Rms {
    fn add(&mut self, x: f64) {
        self.n += 1;
        self.sum += x * x;
    }

    fn get(&self) -> f64 {
        (self.sum / self.n as f64).sqrt()
    }
}

fn check((backend, kv_types): (&dyn Backend, KvTypes), model: &str, logits: &str) -> Result<Found> {
    let data: Value = serde_json::from_slice(&std::fs::read(logits)?)?;
    let model = Arc::new(Model::open(model)?);
    let options = EvaluatorOptions {
        context: Some(512),
        kv_types,
        ..EvaluatorOptions::default()
    };
    let mut evaluator = Evaluator::new(model.clone(), backend, &options)?;
    let is_f32 = model
        .info()
        .types
        .iter()
        .all(|info| info.ggml_type == GgmlType::F32);
    let mut found = Found {
        is_f32,
        ..Found::default()
    };
    for case in items(&data["cases"])? {
        let prompt = case["prompt"].as_str().ok_or("no prompt")?;
        let wanted = items(&case["prompt_tokens"])?
            .iter()
            .map(token)
            .collect::<Result<Vec<_>>>()?;
        let encode = EncodeOptions {
            add_special: true,
            parse_special: true,
        };
        found.n_prompts += 1;
        if model.tokenizer().encode(prompt, encode) == wanted {
            found.n_same_prompts += 1;
        }
        evaluator.reset();
        let mut has_agreed = true;
        let mut logits = log_softmax(evaluator.prefill(&wanted)?);
        for step in items(&case["steps"])? {
            let greedy = token(&step["token"])?;
            while argmax(&logits) != greedy && is_part_of_character(&model, argmax(&logits)) {
                found.n_unreported += 1;
                logits = log_softmax(evaluator.decode_step(argmax(&logits))?);
            }
            let is_same = argmax(&logits) == greedy;
            found.n_steps += 1;
            found.n_same_greedy += usize::from(is_same);
            has_agreed &= is_same;
            for (rank, pair) in items(&step["top"])?.iter().enumerate() {
                let wanted = pair[1].as_f64().ok_or("no log-probability")?;
                let at = *logits
                    .get(token(&pair[0])? as usize)
                    .ok_or("no such token")?;
                let difference = (at - wanted).abs();
                // Not `max`, which would drop what is not a number.
                if difference.is_nan() || difference > found.max_difference {
                    found.max_difference = difference;
                }
                if rank < 10 {
                    found.rms_of_all.add(difference);
                    if has_agreed {
                        found.rms.add(difference);
                    }
                }
            }
            logits = log_softmax(evaluator.decode_step(greedy)?);
        }
    }
    if found.rms.n == 0 {
        return Err("nothing to compare".into());
    }
    Ok(found)
}

/// Compares the noise of the data with that of the CPU backend.
fn check_noise(model: &str, top: &str) -> Result<bool> {
    let data: Value = serde_json::from_slice(&std::fs::read(top)?)?;
    let model = Arc::new(Model::open(model)?);
    let cases = items(&data["cases"])?;
    let exact = logprobs_of(&ReferenceBackend, &model, cases)?;
    let cpu = logprobs_of(&CpuBackend::new(&CpuOptions::default())?, &model, cases)?;
    let fast = CpuBackend::new(&CpuOptions {
        has_fast_batches: true,
        ..CpuOptions::default()
    });
    let length =
        |case: &Value| Ok::<_, Box<dyn std::error::Error>>(items(&case["prompt_tokens"])?.len());
    let lengths = cases.iter().map(length).collect::<Result<Vec<_>>>()?;
    let fast = match fast {
        Ok(_) if lengths.iter().all(|len| *len < FAST_TOKENS) => None,
        Ok(backend) => Some(logprobs_of(&backend, &model, cases)?),
        Err(CpuError::NoFastBatches(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let (mut theirs, mut are_long) = (Vec::new(), Vec::new());
    for (case, len) in cases.iter().zip(lengths) {
        for pair in items(&case["top"])? {
            theirs.push(pair[1].as_f64().ok_or("no log-probability")?);
            are_long.push(len >= FAST_TOKENS);
        }
    }
    let distance = |logprobs: &[f64], only_long: bool| {
        let mut rms = Rms::default();
        let mut max = 0.0;
        for ((a, b), is_long) in logprobs.iter().zip(&exact).zip(&are_long) {
            if only_long && !is_long {
                continue;
            }
            let difference = (a - b).abs();
            rms.add(difference);
            // Not `max`, which would drop what is not a number.
            if difference.is_nan() || difference > max {
                max = difference;
            }
        }
        (rms.get(), max)
    };
    let (data_rms, data_max) = distance(&theirs, false);
    let (cpu_rms, cpu_max) = distance(&cpu, false);
    let fast = fast.map(|logprobs| (distance(&logprobs, true), distance(&theirs, true).0));
    let types: Vec<String> = model
        .info()
        .types
        .iter()
        .map(|info| info.ggml_type.to_string())
        .collect();
    let found = serde_json::json!({
        "types": types,
        "data": { "rms": data_rms, "max": data_max },
        "cpu": { "rms": cpu_rms, "max": cpu_max },
        "fast": fast.map(|((rms, max), _)| serde_json::json!({ "rms": rms, "max": max })),
    });
    println!("{found}");
    let is_near = |rms: f64, data: f64| rms <= (NOISE_FACTOR * data).max(NOISE_FLOOR);
    let fast_is_near = fast.is_none_or(|((rms, _), data)| is_near(rms, data));
    Ok(data_rms <= MAX_NOISE && is_near(cpu_rms, data_rms) && fast_is_near)
}

/// The log-probabilities of the data's tokens, case by case.
fn logprobs_of(backend: &dyn Backend, model: &Arc<Model>, cases: &[Value]) -> Result<Vec<f64>> {
    let options = EvaluatorOptions {
        context: Some(512),
        ..EvaluatorOptions::default()
    };
    let mut engine = Evaluator::new(model.clone(), backend, &options)?;
    let mut found = Vec::new();
    for case in cases {
        let prompt = items(&case["prompt_tokens"])?
            .iter()
            .map(token)
            .collect::<Result<Vec<_>>>()?;
        engine.reset();
        let logprobs = log_softmax(engine.prefill(&prompt)?);
        for pair in items(&case["top"])? {
            let logprob = logprobs.get(token(&pair[0])? as usize);
            found.push(*logprob.ok_or("no such token")?);
        }
    }
    Ok(found)
}

/// Whether a token is some bytes of a character. The reference was taken from streamed text, which
/// shows no such token by itself, so that the data may lack its step.
fn is_part_of_character(model: &Model, token: u32) -> bool {
    model
        .tokenizer()
        .token_bytes(token)
        .is_some_and(|bytes| std::str::from_utf8(bytes).is_err())
}

fn argmax(logits: &[f64]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.expect("a vocabulary is not empty") as u32
}

fn items(value: &Value) -> Result<&Vec<Value>> {
    value
        .as_array()
        .ok_or_else(|| "not the expected JSON: a list is missing".into())
}

fn token(value: &Value) -> Result<u32> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| "not the expected JSON: a token id is missing".into())
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    logits
        .iter()
        .map(|&x| f64::from(x - max) - sum.ln())
        .collect()
}
