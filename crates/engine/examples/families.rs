//! Tiny random models of every architecture, and their log-probabilities on both backends, to be
//! compared with another engine's (`scripts/compare_families.py`).
//!
//! ```text
//! families write FOLDER
//! families logprobs MODEL.gguf CONTEXT < PROMPTS.json
//! ```
//!
//! `write` prints the models as JSON: name, architecture, our file, the file for the other engine
//! (which has merged experts where ours are split), and the contexts to compare in. `logprobs` reads
//! a list of prompts, each a list of token ids, and answers for each backend and prompt the
//! log-probabilities of every token to come next.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{Backend, CpuBackend, KvType, KvTypes, ReferenceBackend};
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use serde_json::{Value, json};

#[path = "../tests/it/tiny.rs"]
mod tiny;
#[path = "../tests/it/variants.rs"]
mod variants;

use tiny::{FIRST_LETTER, Tiny};
use variants::{Variant, split_experts};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Positions that a model was first trained for: another engine rounds contexts up to 256.
const ORIGINAL_CONTEXT: u32 = 512;
const CONTEXT: u32 = 1024;
const SHORT_CONTEXT: u32 = 256;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["write", folder] => write(Path::new(folder)),
        ["logprobs", model, context] => logprobs(model, context),
        _ => Err("expected write FOLDER, or logprobs MODEL.gguf CONTEXT".into()),
    };
    match result {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<Value> {
    let mut models = Vec::new();
    for variant in Variant::ALL {
        let mut tiny = variant.tiny();
        let architecture = variant.architecture().name;
        let key = |name: &str| format!("{architecture}.{name}");
        tiny.metadata.insert(&key("context_length"), CONTEXT);
        let has_two_factors = has_tensor(&tiny, "rope_factors_long.weight");
        if has_two_factors {
            let key = key("rope.scaling.original_context_length");
            tiny.metadata.insert(&key, ORIGINAL_CONTEXT);
        }
        let contexts = match has_two_factors {
            true => vec![SHORT_CONTEXT, CONTEXT],
            false => vec![CONTEXT],
        };
        let save = |tiny: &Tiny, name: &str| -> Result<Value> {
            let path = folder.join(format!("{}.gguf", name.replace([' ', ','], "-")));
            std::fs::write(&path, tiny.bytes())?;
            Ok(path.to_str().ok_or("a folder with a name in UTF-8")?.into())
        };
        let file = save(&tiny, variant.name)?;
        let mut add = |name: &str, ours: &Value| {
            models.push(json!({
                "name": name, "architecture": architecture, "file": ours, "peer_file": file,
                "contexts": contexts,
            }));
        };
        add(variant.name, &file);
        if architecture == "llama" && has_tensor(&tiny, "blk.0.ffn_up_exps.weight") {
            split_experts(&mut tiny);
            let name = format!("{}, split experts", variant.name);
            add(&name, &save(&tiny, &name)?);
        }
    }
    Ok(json!({ "models": models, "first_letter": FIRST_LETTER }))
}

fn has_tensor(tiny: &Tiny, name: &str) -> bool {
    tiny.tensors.iter().any(|tensor| tensor.name == name)
}

fn logprobs(model: &str, context: &str) -> Result<Value> {
    let mut prompts = String::new();
    std::io::stdin().read_to_string(&mut prompts)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_str(&prompts)?;
    let model = Arc::new(Model::open(model)?);
    let cpu = CpuBackend::new(&CpuOptions::default())?;
    let options = EvaluatorOptions {
        context: Some(context.parse()?),
        kv_types: KvTypes::both(KvType::F32),
        ..EvaluatorOptions::default()
    };
    let on = |backend: &dyn Backend| -> Result<Vec<Vec<f64>>> {
        let mut evaluator = Evaluator::new(model.clone(), backend, &options)?;
        let mut rows = Vec::new();
        for prompt in &prompts {
            evaluator.reset();
            rows.push(log_softmax(evaluator.prefill(prompt)?));
        }
        Ok(rows)
    };
    Ok(json!({ "reference": on(&ReferenceBackend)?, "cpu": on(&cpu)? }))
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    logits
        .iter()
        .map(|&x| f64::from(x - max) - sum.ln())
        .collect()
}
