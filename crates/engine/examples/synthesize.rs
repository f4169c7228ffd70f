//! Writes a model with the shape of a real one and random weights, to measure speed with.
//!
//! ```text
//! synthesize SHAPE TYPE FILE.gguf
//! ```
//!
//! SHAPE is one of the table below, TYPE a data type such as `Q4_K`, of all matrices. What it says
//! makes no sense; that it says it takes as long as with a real model.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use minerva_compute::DType;
use minerva_compute::conformance::{Random, weight};
use minerva_engine::HParams;
use minerva_engine::model::Architecture;
use minerva_gguf::{GgmlType, Metadata, NewTensor, StringArray};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Shape {
    name: &'static str,
    n_layers: u32,
    hidden_size: u32,
    ffn_size: u32,
    n_heads: u32,
    n_kv_heads: u32,
    vocab_size: usize,
}

/// LLaMA 3.2 with 1 and 3, LLaMA 2 with 7 billion parameters, with LLaMA 2's vocabulary; and one that
/// is made and measured in no time, to try the script with, or for thousands of steps.
const SHAPES: &[Shape] = &[
    Shape {
        name: "tiny",
        n_layers: 2,
        hidden_size: 256,
        ffn_size: 512,
        n_heads: 8,
        n_kv_heads: 4,
        vocab_size: 1024,
    },
    Shape {
        name: "1B",
        n_layers: 16,
        hidden_size: 2048,
        ffn_size: 8192,
        n_heads: 32,
        n_kv_heads: 8,
        vocab_size: 32000,
    },
    Shape {
        name: "3B",
        n_layers: 28,
        hidden_size: 3072,
        ffn_size: 8192,
        n_heads: 24,
        n_kv_heads: 8,
        vocab_size: 32000,
    },
    Shape {
        name: "7B",
        n_layers: 32,
        hidden_size: 4096,
        ffn_size: 11008,
        n_heads: 32,
        n_kv_heads: 32,
        vocab_size: 32000,
    },
];

/// Different bytes that matrices are cut from.
const POOL_ROWS: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [shape, dtype, file] => synthesize(shape, dtype, file),
        _ => Err("expected SHAPE TYPE FILE.gguf".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn synthesize(shape: &str, dtype: &str, path: &str) -> Result<()> {
    let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
    let known = SHAPES.iter().find(|known| known.name == shape);
    let shape = known.ok_or_else(|| format!("{shape:?}, expected one of: {}", names.join(", ")))?;
    let dtype = DType::from_name(dtype).ok_or_else(|| format!("{dtype:?}, expected a type"))?;
    let metadata = metadata(shape);
    let architecture = Architecture::of(&metadata)?;
    let hparams = HParams::read(&metadata, architecture.name)?;
    let specs = (architecture.tensors)(&hparams);
    let specs: Vec<_> = specs
        .into_iter()
        .filter(|spec| !spec.is_optional || spec.name == "output.weight")
        .collect();
    // Only one tensor's bytes are held: the others are cut from them.
    let n_bytes = |dtype: DType, dims: &[usize]| {
        let row_bytes = dtype.row_bytes(dims[0])?;
        Some(row_bytes * dims[1..].iter().product::<usize>())
    };
    let sizes = specs.iter().map(|spec| n_bytes(dtype, &spec.dims));
    let most = sizes.collect::<Option<Vec<_>>>();
    let most = most.ok_or("rows that are no whole blocks of the type")?;
    let row_len = 8192.max(dtype.block_len());
    let pool = weight(&mut Random(1), dtype, (POOL_ROWS, row_len));
    let pool: Vec<u8> = pool
        .bytes()
        .iter()
        .copied()
        .cycle()
        .take(most.into_iter().max().unwrap_or(0))
        .collect();
    let ones: Vec<u8> = (0..shape.hidden_size)
        .flat_map(|_| 1f32.to_le_bytes())
        .collect();
    let tensors: Vec<NewTensor<'_>> = specs
        .iter()
        .map(|spec| {
            let (dtype, bytes) = match spec.dims.len() {
                1 => (DType::F32, &ones),
                _ => (dtype, &pool),
            };
            NewTensor {
                name: &spec.name,
                dims: &spec.dims,
                ggml_type: GgmlType::from_id(dtype.id()).expect("a type of the format"),
                data: &bytes[..n_bytes(dtype, &spec.dims).expect("whole blocks, as seen above")],
            }
        })
        .collect();
    let mut file = BufWriter::new(File::create(path)?);
    minerva_gguf::write(&mut file, &metadata, &tensors)?;
    Ok(file.flush()?)
}

fn metadata(shape: &Shape) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.name", format!("random {}", shape.name));
    for (key, value) in [
        ("context_length", 8192),
        ("embedding_length", shape.hidden_size),
        ("block_count", shape.n_layers),
        ("feed_forward_length", shape.ffn_size),
        ("attention.head_count", shape.n_heads),
        ("attention.head_count_kv", shape.n_kv_heads),
        ("rope.dimension_count", shape.hidden_size / shape.n_heads),
    ] {
        metadata.insert(&format!("llama.{key}"), value);
    }
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend((tokens.len()..shape.vocab_size).map(|id| format!("t{id}")));
    let mut types = vec![1; tokens.len()];
    types[..3].copy_from_slice(&[2, 3, 3]);
    types[3..259].fill(6);
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.scores", vec![0.0f32; tokens.len()]);
    metadata.insert("tokenizer.ggml.token_type", types);
    let tokens: StringArray = tokens.iter().collect();
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata
}
