//! `minerva inspect`: what is in a model file, and the memory that it will need.

use std::io::Write;

use minerva_compute::{Backend, DType, KvTypes};
use minerva_engine::{EngineOptions, MemoryPlan, Model, TypeInfo};
use serde_json::{Value, json};

use crate::backend::BackendArgs;
use crate::model;
use crate::output::{Format, bytes, count, print_json, stdout, table};

/// The options of `inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,

    /// The context to state the memory for [default: as in `minerva run`]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,

    #[command(flatten)]
    backend: BackendArgs,

    /// The form of the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Reads the file's directory, and asks the backend what `minerva run` would take.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = model::open(&model::find(&args.model)?)?;
    let backend = args.backend.open(None)?.backend;
    let options = EngineOptions {
        context: args.context,
        max_sequences: 1,
        kv_types: args.backend.kv_types(),
        ..EngineOptions::default()
    };
    let plan = MemoryPlan::new(&model, backend.as_ref(), &options)?;
    let report = describe(&model, &plan, backend.as_ref(), options.kv_types)?;
    match args.format {
        Format::Json => print_json(&report),
        Format::Text => print_text(&model, &report, backend.as_ref()),
    }
}

/// What multiplies with weights of a type.
fn kernel(backend: &dyn Backend, info: &TypeInfo) -> String {
    let dtype = DType::from_id(info.ggml_type.id()).expect("a model has only types that run");
    backend.kernel(dtype)
}

/// Everything there is to say, as JSON.
fn describe(
    model: &Model,
    plan: &MemoryPlan,
    backend: &dyn Backend,
    kv_types: KvTypes,
) -> anyhow::Result<Value> {
    let (info, hparams, tokenizer) = (model.info(), model.hparams(), model.tokenizer());
    let metadata = model.metadata();
    let types: Vec<Value> = info
        .types
        .iter()
        .map(|info| {
            json!({
                "type": info.ggml_type.name(),
                "n_tensors": info.n_tensors,
                "n_elements": info.n_elements,
                "n_bytes": info.n_bytes,
                "kernel": kernel(backend, info),
            })
        })
        .collect();
    let template = metadata.opt_str("tokenizer.chat_template")?;
    Ok(json!({
        "name": info.name,
        "path": model.path().display().to_string(),
        "architecture": info.architecture,
        "n_parameters": info.n_parameters,
        "file_bytes": info.file_bytes,
        "types": types,
        "context_length": hparams.context_length,
        "vocab_size": hparams.vocab_size,
        "hidden_size": hparams.hidden_size,
        "ffn_size": hparams.ffn_size,
        "n_layers": hparams.n_layers,
        "n_heads": hparams.n_heads,
        "n_kv_heads": hparams.n_kv_heads,
        "head_dim": hparams.head_dim,
        "tokenizer": {
            "model": metadata.opt_str("tokenizer.ggml.model")?,
            "pre": metadata.opt_str("tokenizer.ggml.pre")?,
            "n_tokens": tokenizer.n_tokens(),
            "bos": tokenizer.special().bos,
            "eos": tokenizer.special().eos,
            "adds_bos": tokenizer.adds_bos(),
            "adds_eos": tokenizer.adds_eos(),
            "eog": tokenizer.eog_ids().collect::<Vec<_>>(),
        },
        "chat_template": template,
        "backend": backend.description(),
        "memory": {
            "context": plan.context,
            "type_k": kv_types.k.name(),
            "type_v": kv_types.v.name(),
            "weights_bytes": plan.weights_bytes,
            "kv_bytes": plan.kv_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "total_bytes": plan.total_bytes(),
            "device_bytes": plan.device.total_bytes(),
        },
    }))
}

fn print_text(model: &Model, report: &Value, backend: &dyn Backend) -> anyhow::Result<()> {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let size = |pointer: &str| bytes(number(pointer));
    let text = |pointer: &str| match report.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "none".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(format!("{name:<14}{value}"));
    row("name", text("/name"));
    row(
        "file",
        format!("{}, {}", text("/path"), size("/file_bytes")),
    );
    row("architecture", text("/architecture"));
    row(
        "parameters",
        format!(
            "{} ({})",
            count(number("/n_parameters")),
            text("/n_parameters")
        ),
    );
    row("context", text("/context_length"));
    row(
        "layers",
        format!(
            "{} of width {}, feed-forward {}",
            text("/n_layers"),
            text("/hidden_size"),
            text("/ffn_size")
        ),
    );
    row(
        "heads",
        format!(
            "{}, {} for keys and values, of {}",
            text("/n_heads"),
            text("/n_kv_heads"),
            text("/head_dim")
        ),
    );
    row(
        "tokenizer",
        format!(
            "{}, pre-tokenizer {}, {} tokens, bos {}{}, eos {}",
            text("/tokenizer/model"),
            text("/tokenizer/pre"),
            text("/tokenizer/n_tokens"),
            text("/tokenizer/bos"),
            if model.tokenizer().adds_bos() {
                " (added)"
            } else {
                ""
            },
            text("/tokenizer/eos"),
        ),
    );
    let template = report["chat_template"].as_str();
    row(
        "chat template",
        template.map_or("none".to_owned(), |text| bytes(text.len() as u64)),
    );
    row("backend", text("/backend"));
    row(
        "memory",
        format!(
            "{} = weights {} + cache {} for a context of {} + scratch {}",
            size("/memory/total_bytes"),
            size("/memory/weights_bytes"),
            size("/memory/kv_bytes"),
            text("/memory/context"),
            size("/memory/scratch_bytes"),
        ),
    );
    if number("/memory/device_bytes") > 0 {
        row("on the GPU", size("/memory/device_bytes"));
    }
    let types: Vec<Vec<String>> = model
        .info()
        .types
        .iter()
        .map(|info| {
            vec![
                info.ggml_type.name().to_owned(),
                info.n_tensors.to_string(),
                count(info.n_elements),
                bytes(info.n_bytes),
                kernel(backend, info),
            ]
        })
        .collect();
    let mut out = stdout();
    for row in rows {
        writeln!(out, "{row}")?;
    }
    write!(
        out,
        "\n{}",
        table(
            &["TYPE", "TENSORS", "ELEMENTS", "SIZE", "KERNEL"],
            &[1, 2, 3],
            &types
        )
    )?;
    out.flush()?;
    Ok(())
}
