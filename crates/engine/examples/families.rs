//! Tiny random models of every architecture, and their log-probabilities on both backends, to be
//! compared with another engine's (`scripts/compare_families.py`).
//!
//! ```text
//! families write FOLDER [WINDOW]
//! families logprobs MODEL.gguf CONTEXT < PROMPTS.json
//! ```
//!
//! `write` prints the models as JSON: name, architecture, our file, the file for the other engine
//! (which has merged experts where ours are split), and the contexts to compare in. Of gpt-oss there is
//! a file with experts of MXFP4, as the published ones are: the other engine's file for it is of the
//! same values in f32, and what it makes of the file itself is to be compared too (`is_rounded`).
//! WINDOW is the sliding window that all are given (`scripts/compare_windows.py`).
//! `logprobs` reads a list of prompts, each a list of token ids, and answers for each backend and
//! prompt the log-probabilities of every token to come next.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use minerva_compute::cpu::CpuOptions;
use minerva_compute::dtype::DType;
use minerva_compute::{Backend, CpuBackend, KvType, KvTypes, ReferenceBackend};
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use minerva_gguf::{GgmlType, NewTensor};
use serde_json::{Value, json};

#[path = "../tests/it/tiny.rs"]
mod tiny;
#[path = "../tests/it/variants.rs"]
mod variants;

use tiny::{FIRST_LETTER, Tensor, Tiny};
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
        ["write", folder] => write(Path::new(folder), None),
        ["write", folder, window] => match window.parse() {
            Ok(window) => write(Path::new(folder), Some(window)),
            Err(error) => Err(format!("WINDOW: {error}").into()),
        },
        ["logprobs", model, context] => logprobs(model, context),
        _ => Err("expected write FOLDER [WINDOW], or logprobs MODEL.gguf CONTEXT".into()),
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

fn write(folder: &Path, window: Option<u32>) -> Result<Value> {
    let mut models = Vec::new();
    for variant in Variant::ALL {
        let mut tiny = variant.tiny();
        let architecture = variant.architecture().name;
        let key = |name: &str| format!("{architecture}.{name}");
        tiny.metadata.insert(&key("context_length"), CONTEXT);
        if let Some(window) = window {
            tiny.metadata
                .insert(&key("attention.sliding_window"), window);
        }
        let has_two_factors = has_tensor(&tiny, "rope_factors_long.weight");
        if has_two_factors {
            let key = key("rope.scaling.original_context_length");
            tiny.metadata.insert(&key, ORIGINAL_CONTEXT);
        }
        let contexts = match has_two_factors {
            true => vec![SHORT_CONTEXT, CONTEXT],
            false => vec![CONTEXT],
        };
        let save = |bytes: Vec<u8>, name: &str| -> Result<Value> {
            let path = folder.join(format!("{}.gguf", name.replace([' ', ','], "-")));
            std::fs::write(&path, bytes)?;
            Ok(path.to_str().ok_or("a folder with a name in UTF-8")?.into())
        };
        let file = save(tiny.bytes(), variant.name)?;
        let mut add = |name: &str, ours: &Value, peers: &Value, is_rounded: bool| {
            models.push(json!({
                "name": name, "architecture": architecture, "file": ours, "peer_file": peers,
                "is_rounded": is_rounded, "contexts": contexts,
            }));
        };
        add(variant.name, &file, &file, false);
        if architecture == "llama" && has_tensor(&tiny, "blk.0.ffn_up_exps.weight") {
            let mut tiny = tiny.clone();
            split_experts(&mut tiny);
            let name = format!("{}, split experts", variant.name);
            add(&name, &save(tiny.bytes(), &name)?, &file, false);
        }
        let mut experts = tiny
            .tensors
            .iter_mut()
            .filter(|tensor| is_of_experts(tensor));
        if architecture == "gpt-oss" && experts.all(|tensor| tensor.dims[0].is_multiple_of(32)) {
            let name = format!("{}, MXFP4 experts", variant.name);
            let ours = save(with_mxfp4(&mut tiny), &name)?;
            let peers = save(tiny.bytes(), &format!("{name} in f32"))?;
            add(&name, &ours, &peers, true);
        }
    }
    Ok(json!({ "models": models, "first_letter": FIRST_LETTER }))
}

fn has_tensor(tiny: &Tiny, name: &str) -> bool {
    tiny.tensors.iter().any(|tensor| tensor.name == name)
}

fn is_of_experts(tensor: &Tensor) -> bool {
    tensor.name.ends_with("_exps.weight")
}

/// The file with its experts' matrices in MXFP4; in the model they become what the file says.
fn with_mxfp4(tiny: &mut Tiny) -> Vec<u8> {
    let encode = |tensor: &mut Tensor| {
        if !is_of_experts(tensor) {
            let bytes = tensor.values.iter().flat_map(|x| x.to_le_bytes());
            return (GgmlType::F32, bytes.collect());
        }
        let bytes: Vec<u8> = tensor.values.chunks(32).flat_map(mxfp4_block).collect();
        DType::MXFP4.dequantize_row(&bytes, &mut tensor.values);
        (GgmlType::MXFP4, bytes)
    };
    let data: Vec<(GgmlType, Vec<u8>)> = tiny.tensors.iter_mut().map(encode).collect();
    let tensors = tiny.tensors.iter().zip(&data);
    let tensors = tensors.map(|(tensor, (ggml_type, data))| NewTensor {
        name: &tensor.name,
        dims: &tensor.dims,
        ggml_type: *ggml_type,
        data,
    });
    let mut out = Vec::new();
    minerva_gguf::write(&mut out, &tiny.metadata, &tensors.collect::<Vec<_>>())
        .expect("tensors of these dimensions");
    out
}

/// The nearest block of MXFP4 whose largest magnitude is at most 6, the format's, times a power of 2.
fn mxfp4_block(values: &[f32]) -> Vec<u8> {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let max = values
        .iter()
        .fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    let exponent = (max / 6.0).log2().ceil();
    let code = |value: f32| {
        let far = |i: &usize| (MAGNITUDES[*i] * exponent.exp2() - value.abs()).abs();
        let nearest = (0..8).min_by(|a, b| far(a).total_cmp(&far(b)));
        nearest.expect("8 of them") as u8 | u8::from(value < 0.0) << 3
    };
    let (low, high) = values.split_at(16);
    let codes = low
        .iter()
        .zip(high)
        .map(|(&low, &high)| code(low) | code(high) << 4);
    let bias = 127.0;
    std::iter::once((exponent + bias) as u8)
        .chain(codes)
        .collect()
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
