//! `minerva bench`: prefill and decode speed, with the tests and the field names of llama-bench.
//!
//! A test is a prompt of `n_prompt` tokens in one go (`pp`), or `n_gen` tokens one after the other
//! (`tg`) for each of `n_parallel` sequences, after `n_depth` tokens that are not timed. Tokens are
//! random; nothing is tokenized or sampled. Each test is warmed up once, then timed `repetitions`
//! times.

mod limits;
mod profile;

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use minerva_compute::KvTypes;
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use serde_json::{Value, json};

use crate::backend::{BackendArgs, Opened};
use crate::model;
use crate::output::{bytes, count, note_dim, print_json, stdout};
use crate::session::type_name;

use profile::{Profile, percent};

/// The options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP, required_unless_present = "roofline")]
    model: Option<String>,

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

    /// Sequences that are decoded together
    #[arg(
        short = 'b',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1"
    )]
    batch: Vec<NonZeroUsize>,

    /// Tokens before the test, of each sequence, not timed
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

    /// Say where the time goes: what each kind of step takes, reads and computes
    #[arg(long)]
    profile: bool,

    /// Measure first how fast this processor reads memory and multiplies, and say what share of it each
    /// test reaches; without a model only that
    #[arg(long)]
    roofline: bool,

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
    /// Of each sequence.
    n_gen: usize,
    /// Sequences that are decoded together; 1 for a prompt.
    n_parallel: usize,
    n_depth: usize,
}

impl Test {
    /// Tokens of all sequences.
    fn n_tokens(self) -> usize {
        self.n_prompt + self.n_gen * self.n_parallel
    }

    /// The name that llama-bench gives it, `pp512 @ d1024`, with the number of sequences where they
    /// are several: `tg128 x4`.
    fn name(self) -> String {
        let mut name = match self.n_gen {
            0 => format!("pp{}", self.n_prompt),
            n_gen => format!("tg{n_gen}"),
        };
        if self.n_parallel > 1 {
            name += &format!(" x{}", self.n_parallel);
        }
        if self.n_depth > 0 {
            name += &format!(" @ d{}", self.n_depth);
        }
        name
    }
}

impl Args {
    /// Whether steps are measured: for themselves, or for what they read and compute.
    fn measures_steps(&self) -> bool {
        self.profile || self.roofline
    }
}

/// Every combination of the lists, prompts first; at least one.
fn tests(args: &Args) -> anyhow::Result<Vec<Test>> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth {
        for &n_prompt in args.n_prompt.iter().filter(|&&n| n > 0) {
            tests.push(Test {
                n_prompt,
                n_gen: 0,
                n_parallel: 1,
                n_depth,
            });
        }
        for &n_gen in args.n_gen.iter().filter(|&&n| n > 0) {
            tests.extend(args.batch.iter().map(|n_parallel| Test {
                n_prompt: 0,
                n_gen,
                n_parallel: n_parallel.get(),
                n_depth,
            }));
        }
    }
    ensure!(!tests.is_empty(), "tests: none, expected -p or -n above 0");
    Ok(tests)
}

/// Runs all tests, with each number of threads.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let threads: Vec<Option<NonZeroUsize>> = match args.threads.is_empty() {
        true => vec![None],
        false => args.threads.iter().copied().map(Some).collect(),
    };
    let Some(name) = &args.model else {
        ensure!(
            !args.profile,
            "--profile: no MODEL, expected one to measure"
        );
        return machine(args, &threads);
    };
    let tests = tests(args)?;
    let longest = tests.iter().map(|test| {
        let n_new = test.n_prompt + test.n_gen;
        test.n_depth.saturating_add(n_new)
    });
    let most = tests.iter().map(|test| test.n_parallel).max();
    let options = EvaluatorOptions {
        // A model's context has two positions at least.
        context: longest.max().map(|n| n.max(2)),
        sequences: most.unwrap_or(1),
        kv_types: args.backend.kv_types(),
        ..EvaluatorOptions::default()
    };
    let model = Arc::new(model::open(&model::find(name)?)?);
    let columns = Columns {
        kv_types: options.kv_types != KvTypes::default(),
        each: options.sequences > 1,
        limits: args.roofline,
    };
    let (mut results, mut profiles) = (Vec::new(), String::new());
    let mut out = stdout();
    for (i, n_threads) in threads.into_iter().enumerate() {
        let opened = args.backend.open(n_threads)?;
        note_dim(&opened.backend.description());
        let limits = match args.roofline {
            true => Some(limits::Measured::new(&opened)?),
            false => None,
        };
        let mut evaluator = Evaluator::new(model.clone(), opened.backend.as_ref(), &options)?;
        if args.measures_steps() {
            start_profile(&mut evaluator, &opened)?;
        }
        if args.format == Form::Table {
            if let Some(limits) = &limits {
                limits.print()?;
            }
            // One table, unless the limits of other threads stand between.
            if i == 0 || limits.is_some() {
                write!(out, "{}", columns.heading())?;
            }
        }
        for &test in &tests {
            let (samples, profile) = time(&mut evaluator, test, args, &opened)?;
            let result = Measured {
                test,
                n_threads: opened.n_threads,
                samples,
                profile,
            };
            if args.format == Form::Json {
                let mut object = result.to_json(&model, &opened, &options);
                if let Some(profile) = result.profile.as_ref().filter(|_| args.profile) {
                    object["profile"] = profile.to_json();
                }
                if let (Some(limits), Some(profile)) = (&limits, &result.profile) {
                    let shares = limits.shares(profile.cost(), profile.time());
                    object["roofline"] = limits.to_json();
                    object["read_share"] = json!(shares.read);
                    object["compute_share"] = json!(shares.computed);
                }
                results.push(object);
                continue;
            }
            let cells = result.cells(&model, &options, &columns, limits.as_ref());
            writeln!(out, "{}", columns.row(&cells))?;
            out.flush()?;
            if let Some(profile) = result.profile.as_ref().filter(|_| args.profile) {
                let (name, n) = (test.name(), opened.n_threads);
                let repetitions = args.repetitions;
                profiles += &format!("\n{name}, threads: {n}, repetitions: {repetitions}\n\n");
                profiles += &profile.table(limits.as_ref());
            }
        }
        if args.format == Form::Table && limits.is_some() {
            writeln!(out)?;
        }
    }
    if args.format == Form::Json {
        return print_json(&Value::Array(results));
    }
    write!(out, "{profiles}")?;
    out.flush()?;
    Ok(())
}

/// Says what the processor can do, without a model.
fn machine(args: &Args, threads: &[Option<NonZeroUsize>]) -> anyhow::Result<()> {
    let mut results = Vec::new();
    for &n_threads in threads {
        let opened = args.backend.open(n_threads)?;
        let limits = limits::Measured::new(&opened)?;
        match args.format {
            Form::Table => limits.print()?,
            Form::Json => results.push(limits.to_json()),
        }
    }
    match args.format {
        Form::Table => Ok(()),
        Form::Json => print_json(&Value::Array(results)),
    }
}

/// Runs a test, and returns the nanoseconds of each repetition, and where they went if that is wanted.
fn time(
    evaluator: &mut Evaluator,
    test: Test,
    args: &Args,
    opened: &Opened,
) -> anyhow::Result<(Vec<u64>, Option<Profile>)> {
    let vocab_size = evaluator.model().hparams().vocab_size;
    let mut tokens = random_tokens(vocab_size);
    let mut take = |n: usize| -> Vec<u32> { tokens.by_ref().take(n).collect() };
    evaluator.reset();
    if test.n_depth > 0 {
        for sequence in 0..test.n_parallel {
            evaluator.prefill_sequence(sequence, &take(test.n_depth))?;
        }
    }
    let mut samples = Vec::new();
    for repetition in 0..=args.repetitions.get() {
        evaluator.truncate(test.n_depth);
        let is_warm_up = repetition == 0;
        let prompt = take(test.n_prompt);
        let n_steps = if is_warm_up {
            test.n_gen.min(1)
        } else {
            test.n_gen
        };
        let steps: Vec<Vec<u32>> = (0..n_steps).map(|_| take(test.n_parallel)).collect();
        if repetition == 1 && args.measures_steps() {
            start_profile(evaluator, opened)?;
        }
        let start = Instant::now();
        if !prompt.is_empty() {
            evaluator.prefill(&prompt)?;
        }
        for tokens in &steps {
            evaluator.decode_together(tokens)?;
        }
        if !is_warm_up {
            samples.push(
                u64::try_from(start.elapsed().as_nanos())
                    .unwrap_or(u64::MAX)
                    .max(1),
            );
        }
    }
    let all = Duration::from_nanos(samples.iter().sum());
    let profile = args
        .measures_steps()
        .then(|| Profile::new(evaluator.take_profile(), all));
    Ok((samples, profile))
}

/// Measures steps from now on, or says that the backend cannot.
fn start_profile(evaluator: &mut Evaluator, opened: &Opened) -> anyhow::Result<()> {
    if !evaluator.start_profile() {
        bail!(
            "profile: {}, expected the processor, or a GPU that has timestamps and all layers\n\
             `minerva selftest --speed` measures any GPU's products",
            opened.backend.description()
        );
    }
    Ok(())
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
    profile: Option<Profile>,
}

impl Measured {
    /// Tokens per second of each repetition, all sequences together.
    fn speeds(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|&ns| self.test.n_tokens() as f64 * 1e9 / ns as f64)
            .collect()
    }

    /// The cells of the table's row.
    fn cells(
        &self,
        model: &Model,
        options: &EvaluatorOptions,
        columns: &Columns,
        limits: Option<&limits::Measured>,
    ) -> Vec<String> {
        let info = model.info();
        let (avg, stddev) = mean(&self.speeds());
        let n_bytes = info.types.iter().map(|info| info.n_bytes).sum();
        let mut cells = vec![
            type_name(&info),
            bytes(n_bytes),
            count(info.n_parameters),
            self.n_threads.to_string(),
        ];
        let KvTypes { k, v } = options.kv_types;
        if columns.kv_types {
            cells.extend([k.name().to_owned(), v.name().to_owned()]);
        }
        cells.extend([self.test.name(), format!("{avg:.2} ± {stddev:.2}")]);
        if columns.each {
            cells.push(format!("{:.2}", avg / self.test.n_parallel as f64));
        }
        if let (Some(limits), Some(profile)) = (limits, &self.profile) {
            let (cost, seconds) = (profile.cost(), profile.time().as_secs_f64());
            let shares = limits.shares(cost, profile.time());
            let operations = cost.operations();
            cells.extend([
                format!("{:.2}", cost.read_bytes as f64 / seconds / 1e9),
                percent(shares.read),
                format!("{:.1}", operations as f64 / seconds / 1e9),
                percent(shares.computed),
            ]);
        }
        cells
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
            "n_parallel": self.test.n_parallel,
            "n_depth": self.test.n_depth,
            "avg_ns": avg_ns.round() as u64,
            "stddev_ns": stddev_ns.round() as u64,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "avg_ts_each": avg_ts / self.test.n_parallel as f64,
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

/// Which columns the table has beside those that it always has.
struct Columns {
    /// The cache's types, where they are not the default.
    kv_types: bool,
    /// The speed of each sequence, where several are decoded together.
    each: bool,
    /// What is read and computed, and its share of the processor's limits.
    limits: bool,
}

impl Columns {
    /// Names and widths.
    fn all(&self) -> Vec<(&'static str, usize)> {
        let mut all = vec![("model", 24), ("size", 10), ("params", 8), ("threads", 7)];
        if self.kv_types {
            all.extend([("type_k", 6), ("type_v", 6)]);
        }
        all.extend([("test", 15), ("t/s", 18)]);
        if self.each {
            all.push(("t/s each", 8));
        }
        if self.limits {
            all.extend([("GB/s", 7), ("of memory", 9), ("GOPS", 8), ("of peak", 7)]);
        }
        all
    }

    /// The names, and the line that makes them a heading.
    fn heading(&self) -> String {
        let names: Vec<String> = self.all().iter().map(|(name, _)| (*name).into()).collect();
        let mut lines = vec!["--:".to_owned(); names.len()];
        lines[0] = "---".into();
        format!("{}\n{}\n", self.row(&names), self.row(&lines))
    }

    fn row(&self, cells: &[String]) -> String {
        let mut row = String::from("|");
        for (i, (cell, (_, width))) in cells.iter().zip(self.all()).enumerate() {
            row += &match i {
                0 => format!(" {cell:<width$} |"),
                _ => format!(" {cell:>width$} |"),
            };
        }
        row
    }
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
                n_parallel: 1,
                n_depth: 0
            }
            .name(),
            "pp512"
        );
        assert_eq!(
            Test {
                n_prompt: 0,
                n_gen: 128,
                n_parallel: 1,
                n_depth: 1024
            }
            .name(),
            "tg128 @ d1024"
        );
        let test = Test {
            n_prompt: 0,
            n_gen: 16,
            n_parallel: 4,
            n_depth: 8,
        };
        assert_eq!((test.name(), test.n_tokens()), ("tg16 x4 @ d8".into(), 64));
    }

    #[test]
    fn random_tokens_are_in_the_vocabulary() {
        assert!(random_tokens(7).take(1000).all(|token| token < 7));
        assert_ne!(random_tokens(1000).nth(1), random_tokens(1000).nth(2));
    }
}
