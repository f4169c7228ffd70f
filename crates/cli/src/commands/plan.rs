//! `minerva plan`: the memory that a model will take, and what would make it fit.

use std::io::Write;

use anyhow::Context;
use minerva_compute::cpu::WeightsPlace;
use minerva_compute::{Backend, KvType, KvTypes};
use minerva_engine::{EngineOptions, MemoryPlan, Model, memory_limit};
use serde_json::{Value, json};

use crate::backend::BackendArgs;
use crate::model;
use crate::output::{Format, bytes, print_json, stdout, table};

/// The share of the memory that models may take, where no budget is given.
const BUDGET_PERCENT: u64 = 90;

/// The options of `plan`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,

    /// Most tokens of a prompt and its answer together [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,

    /// Most sequences that are computed at once
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().max_sequences)]
    parallel: usize,

    /// Tokens that the cache holds, of all sequences together [default: the context for each]
    #[arg(long, value_name = "N")]
    cache_tokens: Option<usize>,

    /// Most tokens computed in one step
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().batch_tokens)]
    batch_tokens: usize,

    /// What it has to fit into, in MiB [default: 90 % of this machine's or control group's memory]
    #[arg(long, value_name = "MIB")]
    budget: Option<u64>,

    #[command(flatten)]
    backend: BackendArgs,

    /// The form of the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A setting that would take less, what it would free, and whether that is enough.
struct Saving {
    setting: String,
    n_bytes: u64,
    fits: bool,
}

/// What a plan has to fit into.
struct Budget {
    machine: u64,
    /// Of the device, where it is known.
    device: Option<u64>,
}

impl Budget {
    fn holds(&self, plan: &MemoryPlan) -> bool {
        let device = self.device.unwrap_or(u64::MAX);
        plan.total_bytes() <= self.machine && plan.device.total_bytes() <= device
    }
}

/// Computes the plan from the file's directory; no memory is taken.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = model::open(&model::find(&args.model)?)?;
    let backend = args.backend.open(None)?.backend;
    let options = EngineOptions {
        context: args.context,
        max_sequences: args.parallel,
        cache_tokens: args.cache_tokens,
        batch_tokens: args.batch_tokens,
        kv_types: args.backend.kv_types(),
        ..EngineOptions::default()
    };
    let plan = MemoryPlan::new(&model, backend.as_ref(), &options)?;
    let budget = Budget {
        machine: match args.budget {
            Some(mib) => mib.checked_mul(1 << 20).context("budget: too large")?,
            None => memory_limit() / 100 * BUDGET_PERCENT,
        },
        device: backend
            .device_memory()
            .and_then(|memory| memory.budget_bytes),
    };
    let savings = match budget.holds(&plan) {
        true => Vec::new(),
        false => savings(&model, backend.as_ref(), &options, &plan, &budget),
    };
    match args.format {
        Format::Json => print_json(&to_json(&plan, &options, &budget, &savings)),
        Format::Text => {
            let n_layers = model.hparams().n_layers;
            let weights = match args.backend.weights() {
                WeightsPlace::Mapped => "used in place from the file",
                WeightsPlace::Locked => "used in place from the file, and locked",
                WeightsPlace::Copied => "copied from the file",
            };
            print_text(&plan, &options, &budget, &savings, (n_layers, weights))
        }
    }
}

/// What each setting would free by itself, the most first.
fn savings(
    model: &Model,
    backend: &dyn Backend,
    options: &EngineOptions,
    plan: &MemoryPlan,
    budget: &Budget,
) -> Vec<Saving> {
    let mut tries: Vec<(String, EngineOptions)> = Vec::new();
    let mut add = |setting: String, changed: EngineOptions| tries.push((setting, changed));
    let mut context = plan.context / 2;
    while context >= 512 {
        let changed = EngineOptions {
            context: Some(context),
            cache_tokens: None,
            ..options.clone()
        };
        add(format!("--context {context}"), changed);
        context /= 2;
    }
    if options.max_sequences > 1 && options.cache_tokens.is_none() {
        let changed = EngineOptions {
            max_sequences: 1,
            ..options.clone()
        };
        add("--parallel 1".into(), changed);
    }
    if plan.cache_tokens > plan.context.next_multiple_of(16) {
        let changed = EngineOptions {
            cache_tokens: Some(plan.context),
            ..options.clone()
        };
        add(format!("--cache-tokens {}", plan.context), changed);
    }
    for kv_type in KvType::ALL {
        let kv_types = KvTypes::both(*kv_type);
        let changed = EngineOptions {
            kv_types,
            ..options.clone()
        };
        let name = kv_type.name();
        add(
            format!("--cache-type-k {name} --cache-type-v {name}"),
            changed,
        );
    }
    if options.batch_tokens > 64 {
        let changed = EngineOptions {
            batch_tokens: 64,
            ..options.clone()
        };
        add("--batch-tokens 64".into(), changed);
    }
    let mut savings: Vec<Saving> = Vec::new();
    for (setting, changed) in tries {
        // What cannot be set, such as a cache type that the heads don't fit, frees nothing.
        let Ok(smaller) = MemoryPlan::new(model, backend, &changed) else {
            continue;
        };
        let n_bytes = everywhere(plan).saturating_sub(everywhere(&smaller));
        if n_bytes > 0 {
            let fits = budget.holds(&smaller);
            savings.push(Saving {
                setting,
                n_bytes,
                fits,
            });
        }
    }
    savings.sort_by_key(|saving| std::cmp::Reverse(saving.n_bytes));
    savings
}

/// Bytes of the machine's and the device's memory together.
fn everywhere(plan: &MemoryPlan) -> u64 {
    match plan.is_shared {
        true => plan.total_bytes(),
        false => plan.total_bytes() + plan.device.total_bytes(),
    }
}

fn to_json(
    plan: &MemoryPlan,
    options: &EngineOptions,
    budget: &Budget,
    savings: &[Saving],
) -> Value {
    let savings: Vec<Value> = savings
        .iter()
        .map(|saving| json!({"setting": saving.setting, "frees_bytes": saving.n_bytes, "fits": saving.fits}))
        .collect();
    json!({
        "context": plan.context,
        "parallel": options.max_sequences,
        "cache_tokens": plan.cache_tokens,
        "batch_tokens": options.batch_tokens,
        "type_k": options.kv_types.k.name(),
        "type_v": options.kv_types.v.name(),
        "weights_bytes": plan.weights_bytes,
        "kv_bytes": plan.kv_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "total_bytes": plan.total_bytes(),
        "budget_bytes": budget.machine,
        "device": {
            "n_layers": plan.device.n_layers,
            "weights_bytes": plan.device.weights_bytes,
            "kv_bytes": plan.device.kv_bytes,
            "scratch_bytes": plan.device.scratch_bytes,
            "total_bytes": plan.device.total_bytes(),
            "budget_bytes": budget.device,
            "is_shared": plan.is_shared,
        },
        "fits": budget.holds(plan),
        "savings": savings,
    })
}

fn print_text(
    plan: &MemoryPlan,
    options: &EngineOptions,
    budget: &Budget,
    savings: &[Saving],
    (n_layers, weights): (usize, &str),
) -> anyhow::Result<()> {
    let (k, v) = (options.kv_types.k, options.kv_types.v);
    let row = |name: &str, n_bytes: u64, what: String| {
        vec![name.to_owned(), n_bytes.to_string(), bytes(n_bytes), what]
    };
    let total = plan.total_bytes();
    let verdict = |total: u64, budget: u64| match total <= budget {
        true => format!("{} left", bytes(budget - total)),
        false => format!("{} too few", bytes(total - budget)),
    };
    let mut rows = vec![
        row("weights", plan.weights_bytes, weights.into()),
        row(
            "KV cache",
            plan.kv_bytes,
            format!(
                "{} tokens, keys {k}, values {v}; context {}, {} sequences",
                plan.cache_tokens, plan.context, options.max_sequences
            ),
        ),
        row(
            "scratch",
            plan.scratch_bytes,
            format!("{} tokens in a step", options.batch_tokens),
        ),
    ];
    let device = &plan.device;
    if plan.is_shared && device.total_bytes() > 0 {
        let what = "in the same memory, see below";
        rows.push(row("GPU", device.total_bytes(), what.into()));
    }
    rows.extend([
        row("total", total, String::new()),
        row("budget", budget.machine, verdict(total, budget.machine)),
    ]);
    if device.total_bytes() > 0 {
        let layers = format!("{} of {n_layers} layers", device.n_layers);
        rows.extend([
            row("GPU weights", device.weights_bytes, layers),
            row("GPU KV cache", device.kv_bytes, String::new()),
            row("GPU scratch", device.scratch_bytes, String::new()),
            row("GPU total", device.total_bytes(), String::new()),
        ]);
    }
    if let Some(device_budget) = budget.device {
        let verdict = verdict(device.total_bytes(), device_budget);
        rows.push(row("GPU budget", device_budget, verdict));
    }
    let mut out = stdout();
    write!(
        out,
        "{}",
        table(&["MEMORY", "BYTES", "SIZE", ""], &[1, 2], &rows)
    )?;
    if !savings.is_empty() {
        let rows: Vec<Vec<String>> = savings
            .iter()
            .map(|saving| {
                let fits = if saving.fits { "fits" } else { "" };
                vec![saving.setting.clone(), bytes(saving.n_bytes), fits.into()]
            })
            .collect();
        write!(out, "\n{}", table(&["SETTING", "FREES", ""], &[1], &rows))?;
    } else if !budget.holds(plan) {
        writeln!(
            out,
            "\nno setting makes it smaller: it needs a smaller model, or more memory"
        )?;
    }
    if budget
        .device
        .is_some_and(|budget| device.total_bytes() > budget)
    {
        writeln!(
            out,
            "\n`--gpu-layers auto` leaves the layers to the processor that do not fit"
        )?;
    }
    out.flush()?;
    Ok(())
}
