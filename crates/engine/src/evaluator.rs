//! One sequence on one backend, driven by hand: for scores, benchmarks and tests. What answers
//! requests is the [`Engine`](crate::Engine).

use std::sync::Arc;

use minerva_compute::{
    Backend, Batch, Executable, KV_BLOCK_LEN, KvTypes, Limits, Memory, Sequence,
};

use crate::engine::{at_least_one, check_tokens, choose_context};
use crate::error::{EngineError, LoadError, RequestError};
use crate::model::Model;
use crate::sampler::logprobs;

/// How an evaluator is set up; it decides its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatorOptions {
    /// Most tokens of a prompt and its answer together. `None`: the model's context length, but no
    /// more than [`DEFAULT_CONTEXT`](crate::DEFAULT_CONTEXT).
    pub context: Option<usize>,
    /// Most tokens in one batch: longer prompts are computed in slices.
    pub batch_tokens: usize,
    /// Most tokens in one batch whose logits are wanted. More than 1 is of use only to
    /// [`Evaluator::score`], which takes slices of this length.
    pub batch_outputs: usize,
    /// How keys and values are stored in the cache.
    pub kv_types: KvTypes,
}

impl Default for EvaluatorOptions {
    fn default() -> EvaluatorOptions {
        EvaluatorOptions {
            context: None,
            batch_tokens: 512,
            batch_outputs: 1,
            kv_types: KvTypes::default(),
        }
    }
}

/// A model with the cache of one sequence.
pub struct Evaluator {
    model: Arc<Model>,
    executable: Box<dyn Executable>,
    context: usize,
    /// All blocks of the cache: there is one sequence, and it may use them all.
    blocks: Vec<u32>,
    /// The tokens whose keys and values are in the cache, by position.
    cached: Vec<u32>,
}

impl Evaluator {
    /// Puts a model on a backend.
    pub fn new(
        model: Arc<Model>,
        backend: &dyn Backend,
        options: &EvaluatorOptions,
    ) -> Result<Evaluator, LoadError> {
        let EvaluatorOptions {
            context,
            batch_tokens,
            batch_outputs,
            kv_types,
        } = *options;
        let context = choose_context(&model, context)?;
        at_least_one("batch_tokens", batch_tokens)?;
        at_least_one("batch_outputs", batch_outputs)?;
        let max_tokens = batch_tokens.min(context);
        let max_outputs = batch_outputs.min(max_tokens);
        let n_kv_blocks = context.div_ceil(KV_BLOCK_LEN);
        let limits = Limits {
            max_tokens,
            max_outputs,
            max_between: 0,
            n_kv_blocks,
            kv_types,
        };
        let executable = backend.load(model.program(context)?, limits)?;
        let blocks = (0..n_kv_blocks as u32).collect();
        Ok(Evaluator {
            model,
            executable,
            context,
            blocks,
            cached: Vec::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions in the context.
    pub fn context(&self) -> usize {
        self.context
    }

    /// What it takes beyond the weights.
    pub fn memory(&self) -> Memory {
        self.executable.memory()
    }

    /// The log-probabilities that the model gives to `tokens[first..]`, each after all tokens before
    /// it; `first` is at least 1. What was in the cache is forgotten.
    pub fn score(&mut self, tokens: &[u32], first: usize) -> Result<Vec<f32>, EngineError> {
        assert!(first >= 1, "the first token follows nothing");
        self.reset();
        self.check_fits(tokens)?;
        let n_outputs = self.executable.limits().max_outputs;
        let vocab_size = self.model.hparams().vocab_size;
        // Nothing follows the last token. The logits of token i are for token i + 1.
        let tokens_in = &tokens[..tokens.len() - 1];
        let (unscored, scored) = tokens_in
            .split_at_checked(first - 1)
            .unwrap_or((tokens_in, &[]));
        for slice in unscored.chunks(self.slice_len()) {
            self.run(slice, &[])?;
        }
        let mut scores = Vec::with_capacity(scored.len());
        for slice in scored.chunks(n_outputs) {
            let outputs: Vec<u32> = (0..slice.len() as u32).collect();
            let at = self.cached.len();
            let logits = self.run(slice, &outputs)?;
            let rows = logits.chunks(vocab_size).zip(&tokens[at + 1..]);
            scores.extend(rows.map(|(logits, &next)| logprobs(logits, next, 0).logprob));
        }
        Ok(scores)
    }

    /// Appends tokens to what the cache holds, in slices, and returns the logits after the last.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        self.check_fits(tokens)?;
        let last_start = (tokens.len() - 1) / self.slice_len() * self.slice_len();
        let (slices, last) = tokens.split_at(last_start);
        for slice in slices.chunks(self.slice_len()) {
            self.run(slice, &[])?;
        }
        self.run(last, &[last.len() as u32 - 1])
    }

    /// Appends one token to what the cache holds, and returns the logits after it.
    pub fn decode_step(&mut self, token: u32) -> Result<&[f32], EngineError> {
        self.prefill(&[token])
    }

    /// The tokens that the cache holds.
    pub fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Forgets what the cache holds but for the first `n_tokens` tokens.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.cached.truncate(n_tokens);
    }

    /// Forgets everything that the cache holds.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    fn slice_len(&self) -> usize {
        self.executable.limits().max_tokens
    }

    /// Runs one batch behind what the cache holds.
    fn run(&mut self, tokens: &[u32], outputs: &[u32]) -> Result<&[f32], EngineError> {
        let start = self.cached.len();
        let sequence = Sequence {
            n_tokens: tokens.len(),
            start,
            blocks: &self.blocks,
        };
        let logits = self.executable.run(&Batch {
            tokens,
            sequences: &[sequence],
            outputs,
            input: &[],
        });
        match &logits {
            Ok(_) => self.cached.extend_from_slice(tokens),
            // Nobody knows what the cache holds.
            Err(_) => self.cached.clear(),
        }
        logits.map_err(EngineError::Device)
    }

    /// Checks that tokens can be appended to what the cache holds.
    fn check_fits(&self, tokens: &[u32]) -> Result<(), RequestError> {
        check_tokens(&self.model, tokens)?;
        let (found, room) = (tokens.len(), self.context - self.cached.len());
        if found > room {
            return Err(RequestError::Parameter {
                field: "prompt",
                found: format!("{found} tokens"),
                wanted: format!(
                    "at most {room}, what is left of a context of {}",
                    self.context
                ),
            });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator")
            .field("model", &self.model.path())
            .field("context", &self.context)
            .field("n_cached", &self.cached.len())
            .finish_non_exhaustive()
    }
}
