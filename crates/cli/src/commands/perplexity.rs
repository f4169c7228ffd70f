//! `minerva perplexity`: how well a model predicts a text, by llama.cpp's method.
//!
//! The text is tokenized in one piece and cut into chunks of the context; what is left over at the
//! end is not used. In each chunk BOS takes the place of the first token where the model wants BOS,
//! and the tokens of the second half are scored, each after all that came before it in its chunk.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use minerva_engine::tokenizer::EncodeOptions;
use minerva_engine::{Evaluator, EvaluatorOptions};

use crate::backend::BackendArgs;
use crate::model;
use crate::output::{note_dim, stdout};

/// Tokens that are scored in one batch: enough for the kernels, and with the largest vocabularies
/// still about 100 MB of logits.
const BATCH_OUTPUTS: usize = 128;

/// The options of `perplexity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,

    /// The text
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Tokens of a chunk
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    context: usize,

    /// Use only the first N chunks [default: all]
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,

    /// Threads that compute [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    #[command(flatten)]
    backend: BackendArgs,
}

/// Writes the estimate after each chunk, and the final one with its standard error.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let text = std::fs::read(&args.file).with_context(|| format!("{}", args.file.display()))?;
    let model = Arc::new(model::open(&model::find(&args.model)?)?);
    let tokenizer = model.tokenizer();
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let tokens = tokenizer.encode(&text, options);
    let n_ctx = args.context;
    ensure!(n_ctx >= 4, "context: {n_ctx}, expected at least 4");
    ensure!(
        tokens.len() / 2 >= n_ctx,
        "{}: {} tokens, expected at least {}, two chunks of {n_ctx}",
        args.file.display(),
        tokens.len(),
        n_ctx.saturating_mul(2),
    );
    let n_chunks = args
        .chunks
        .map_or(usize::MAX, NonZeroUsize::get)
        .min(tokens.len() / n_ctx);

    let backend = args.backend.open(args.threads)?.backend;
    note_dim(&backend.description());
    let batch = EvaluatorOptions::default().batch_tokens;
    let options = EvaluatorOptions {
        context: Some(n_ctx),
        batch_outputs: BATCH_OUTPUTS.min(batch),
        kv_types: args.backend.kv_types(),
        ..EvaluatorOptions::default()
    };
    let mut evaluator = Evaluator::new(model.clone(), backend.as_ref(), &options)?;
    let bos = tokenizer.special().bos.filter(|_| tokenizer.adds_bos());
    let mut out = stdout();
    let mut estimate = Estimate::default();
    for (chunk_idx, chunk) in tokens.chunks_exact(n_ctx).take(n_chunks).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        estimate.add(&evaluator.score(&chunk, n_ctx / 2 + 1)?);
        let (perplexity, _) = estimate.perplexity();
        write!(out, "[{}]{perplexity:.4},", chunk_idx + 1)?;
        out.flush()?;
    }
    let (perplexity, error) = estimate.perplexity();
    writeln!(
        out,
        "\nFinal estimate: PPL = {perplexity:.4} +/- {error:.5}"
    )?;
    out.flush()?;
    Ok(())
}

/// Sums over the negative log-probabilities of the scored tokens.
#[derive(Default)]
struct Estimate {
    n: f64,
    sum: f64,
    sum_of_squares: f64,
}

impl Estimate {
    fn add(&mut self, logprobs: &[f32]) {
        for &logprob in logprobs {
            let nll = -f64::from(logprob);
            self.n += 1.0;
            self.sum += nll;
            self.sum_of_squares += nll * nll;
        }
    }

    /// `exp(mean)`, and its standard error to first order: `exp(mean) * sqrt(variance / (n - 1))`.
    fn perplexity(&self) -> (f64, f64) {
        let mean = self.sum / self.n;
        let variance = (self.sum_of_squares / self.n - mean * mean).max(0.0);
        let perplexity = mean.exp();
        (perplexity, perplexity * (variance / (self.n - 1.0)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_exponential_of_the_mean() {
        let mut estimate = Estimate::default();
        estimate.add(&[-1.0, -2.0]);
        estimate.add(&[-3.0]);
        let (perplexity, error) = estimate.perplexity();
        assert!((perplexity - 2f64.exp()).abs() < 1e-9);
        // The variance is 2/3, over n - 1 = 2.
        assert!((error - 2f64.exp() * (1.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }
}
