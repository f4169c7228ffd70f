//! `minerva bench`: prefill and decode speed, with the tests and the field names of llama-bench.
//!
//! A test is a prompt of `n_prompt` tokens in one go (`pp`), or `n_gen` tokens one after the other
//! (`tg`), after `n_depth` tokens that are not timed. Tokens are random; nothing is tokenized or
//! sampled. Each test is warmed up once, then timed `repetitions` times.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use minerva_compute::KvTypes;
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use serde_json::{Value, json};

use crate::backend::{BackendArgs, Opened};
use crate::model;
use crate::output::{bytes, count, note_dim, print_json, stdout};
use crate::session::type_name;

/// The options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,

    /// Tokens of a prompt; 0 for no such test
    #[arg(
        short = 'p',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512"
    )]
    n_prompt: Vec<usize>,

    /// Tokens to decode; 0 for no such test
    #[arg(
        short = 'n',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "128"
    )]
    n_gen: Vec<usize>,

    /// Tokens before the test, not timed
    #[arg(
        short = 'd',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "0"
    )]
    n_depth: Vec<usize>,

    /// How often each test is timed
    #[arg(short, long, value_name = "N", default_value = "5")]
    repetitions: NonZeroUsize,

    /// Threads that compute [default: one per physical core]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',')]
    threads: Vec<NonZeroUsize>,

    #[command(flatten)]
    backend: BackendArgs,

    /// The form of the result
    #[arg(long, value_enum, default_value_t = Form::Table)]
    format: Form,
}

/// The form of the result.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A line for each test
    Table,
    /// An array of objects
    Json,
}

/// What is timed: one of `n_prompt` and `n_gen` is 0.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
}

impl Test {
    fn n_tokens(self) -> usize {
        self.n_prompt + self.n_gen
    }

    /// The name that llama-bench gives it: `pp512 @ d1024`.
    fn name(self) -> String {
        let name = match self.n_gen {
            0 => format!("pp{}", self.n_prompt),
            n_gen => format!("tg{n_gen}"),
        };
        if self.n_depth == 0 {
            name
        } else {
            format!("{name} @ d{}", self.n_depth)
        }
    }
}

/// Runs every combination of the lists, prompts first.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let tests: Vec<Test> = args
        .n_depth
        .iter()
        .flat_map(|&n_depth| {
            let prompt = move |&n_prompt: &usize| Test {
                n_prompt,
                n_gen: 0,
                n_depth,
            };
            let generation = move |&n_gen: &usize| Test {
                n_prompt: 0,
                n_gen,
                n_depth,
            };
            args.n_prompt
                .iter()
                .map(prompt)
                .chain(args.n_gen.iter().map(generation))
        })
        .filter(|test| test.n_tokens() > 0)
        .collect();
    let longest = tests
        .iter()
        .map(|test| test.n_depth + test.n_tokens())
        .max();
    ensure!(longest.is_some(), "tests: none, expected -p or -n above 0");
    let model = Arc::new(model::open(&model::find(&args.model)?)?);
    let options = EvaluatorOptions {
        context: longest,
        kv_types: args.backend.kv_types(),
        ..EvaluatorOptions::default()
    };
    let threads: Vec<Option<NonZeroUsize>> = match args.threads.is_empty() {
        true => vec![None],
        false => args.threads.iter().copied().map(Some).collect(),
    };
    let mut results = Vec::new();
    let mut out = stdout();
    if args.format == Form::Table {
        writeln!(
            out,
            "{}",
            row(
                ["model", "size", "params", "threads", "test", "t/s"],
                kv_columns(&options, ["type_k", "type_v"])
            )
        )?;
        let lines = ["---", "--:", "--:", "--:", "--:", "--:"];
        let line = row(lines, kv_columns(&options, ["--:", "--:"]));
        writeln!(out, "{line}")?;
    }
    for n_threads in threads {
        let opened = args.backend.open(n_threads)?;
        note_dim(&opened.backend.description());
        let mut evaluator = Evaluator::new(model.clone(), opened.backend.as_ref(), &options)?;
        for &test in &tests {
            let samples = time(&mut evaluator, test, args.repetitions)?;
            let result = Measured {
                test,
                n_threads: opened.n_threads,
                samples,
            };
            match args.format {
                Form::Table => {
                    writeln!(out, "{}", result.row(&model, &options))?;
                    out.flush()?;
                }
                Form::Json => {
                    results.push(result.to_json(&model, &opened, &options));
                }
            }
        }
    }
    match args.format {
        Form::Json => print_json(&Value::Array(results)),
        Form::Table => Ok(()),
    }
}

/// Runs a test, and returns the nanoseconds of each repetition.
fn time(
    evaluator: &mut Evaluator,
    test: Test,
    repetitions: NonZeroUsize,
) -> anyhow::Result<Vec<u64>> {
    let vocab_size = evaluator.model().hparams().vocab_size;
    let mut tokens = random_tokens(vocab_size);
    let mut take = |n: usize| -> Vec<u32> { tokens.by_ref().take(n).collect() };
    evaluator.reset();
    if test.n_depth > 0 {
        evaluator.prefill(&take(test.n_depth))?;
    }
    let mut samples = Vec::new();
    for repetition in 0..=repetitions.get() {
        evaluator.truncate(test.n_depth);
        let is_warm_up = repetition == 0;
        let prompt = take(test.n_prompt);
        let generated = take(if is_warm_up {
            test.n_gen.min(1)
        } else {
            test.n_gen
        });
        let start = Instant::now();
        if !prompt.is_empty() {
            evaluator.prefill(&prompt)?;
        }
        for token in generated {
            evaluator.decode_step(token)?;
        }
        if !is_warm_up {
            samples.push(
                u64::try_from(start.elapsed().as_nanos())
                    .unwrap_or(u64::MAX)
                    .max(1),
            );
        }
    }
    Ok(samples)
}

/// Tokens that are the same in every run: a linear congruential generator (Knuth's MMIX).
fn random_tokens(vocab_size: usize) -> impl Iterator<Item = u32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 33) % vocab_size as u64) as u32
    })
}

/// A test with its times.
struct Measured {
    test: Test,
    n_threads: usize,
    samples: Vec<u64>,
}

impl Measured {
    /// Tokens per second of each repetition.
    fn speeds(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|&ns| self.test.n_tokens() as f64 * 1e9 / ns as f64)
            .collect()
    }

    fn row(&self, model: &Model, options: &EvaluatorOptions) -> String {
        let info = model.info();
        let (avg, stddev) = mean(&self.speeds());
        let n_bytes = info.types.iter().map(|info| info.n_bytes).sum();
        let cells = [
            &*type_name(&info),
            &bytes(n_bytes),
            &count(info.n_parameters),
            &self.n_threads.to_string(),
            &self.test.name(),
            &format!("{avg:.2} ± {stddev:.2}"),
        ];
        let KvTypes { k, v } = options.kv_types;
        row(cells, kv_columns(options, [k.name(), v.name()]))
    }

    fn to_json(&self, model: &Model, opened: &Opened, options: &EvaluatorOptions) -> Value {
        let info = model.info();
        let times: Vec<f64> = self.samples.iter().map(|&ns| ns as f64).collect();
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (mean(&times), mean(&self.speeds()));
        json!({
            "build_version": env!("CARGO_PKG_VERSION"),
            "backends": opened.name,
            "device": opened.backend.description(),
            "model_filename": model.path().display().to_string(),
            "model_type": type_name(&info),
            "model_size": info.types.iter().map(|info| info.n_bytes).sum::<u64>(),
            "model_n_params": info.n_parameters,
            "n_batch": options.batch_tokens,
            "n_threads": self.n_threads,
            "type_k": options.kv_types.k.name(),
            "type_v": options.kv_types.v.name(),
            "n_prompt": self.test.n_prompt,
            "n_gen": self.test.n_gen,
            "n_depth": self.test.n_depth,
            "avg_ns": avg_ns.round() as u64,
            "stddev_ns": stddev_ns.round() as u64,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "samples_ns": self.samples,
            "samples_ts": self.speeds(),
        })
    }
}

/// The mean, and the standard deviation of a sample (0 for a single value).
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (
        mean,
        if values.len() < 2 {
            0.0
        } else {
            (squares / (n - 1.0)).sqrt()
        },
    )
}

/// The columns of the cache's types, which are there when the types are not the default.
fn kv_columns<'a>(options: &EvaluatorOptions, columns: [&'a str; 2]) -> Option<[&'a str; 2]> {
    (options.kv_types != KvTypes::default()).then_some(columns)
}

fn row(cells: [&str; 6], kv: Option<[&str; 2]>) -> String {
    let [model, size, params, threads, test, speed] = cells;
    let kv = kv.map_or(String::new(), |[k, v]| format!(" {k:>6} | {v:>6} |"));
    format!(
        "| {model:<24} | {size:>10} | {params:>8} | {threads:>7} |{kv} {test:>15} | {speed:>18} |"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        assert_eq!(mean(&[3.0]), (3.0, 0.0));
        let (avg, stddev) = mean(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(avg, 5.0);
        assert!((stddev - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        assert_eq!(
            Test {
                n_prompt: 512,
                n_gen: 0,
                n_depth: 0
            }
            .name(),
            "pp512"
        );
        assert_eq!(
            Test {
                n_prompt: 0,
                n_gen: 128,
                n_depth: 1024
            }
            .name(),
            "tg128 @ d1024"
        );
    }

    #[test]
    fn random_tokens_are_in_the_vocabulary() {
        assert!(random_tokens(7).take(1000).all(|token| token < 7));
        assert_ne!(random_tokens(1000).nth(1), random_tokens(1000).nth(2));
    }
}
