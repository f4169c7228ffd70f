//! Sequences on one backend, driven by hand: for scores, benchmarks and tests. What answers requests
//! is the [`Engine`](crate::Engine).

use std::sync::Arc;

use minerva_compute::{
    Backend, Batch, Executable, KV_BLOCK_LEN, KvTypes, Limits, Memory, Sequence, StepProfile,
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
    /// Sequences that can be decoded together, each with a cache of the whole context.
    pub sequences: usize,
    /// How keys and values are stored in the cache.
    pub kv_types: KvTypes,
}

impl Default for EvaluatorOptions {
    fn default() -> EvaluatorOptions {
        EvaluatorOptions {
            context: None,
            batch_tokens: 512,
            batch_outputs: 1,
            sequences: 1,
            kv_types: KvTypes::default(),
        }
    }
}

/// A model with the cache of some sequences. Most is done with the first of them.
pub struct Evaluator {
    model: Arc<Model>,
    executable: Box<dyn Executable>,
    context: usize,
    sequences: Vec<Cached>,
}

/// A sequence in the cache.
struct Cached {
    /// Blocks for a whole context, of this sequence alone.
    blocks: Vec<u32>,
    /// The tokens whose keys and values are in the cache, by position.
    tokens: Vec<u32>,
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
            sequences,
            kv_types,
        } = *options;
        let context = choose_context(&model, context)?;
        at_least_one("batch_tokens", batch_tokens)?;
        at_least_one("batch_outputs", batch_outputs)?;
        at_least_one("sequences", sequences)?;
        let max_tokens = batch_tokens.min(context).max(sequences);
        let max_outputs = batch_outputs.max(sequences).min(max_tokens);
        let n_blocks = context.div_ceil(KV_BLOCK_LEN);
        let limits = Limits {
            max_tokens,
            max_outputs,
            max_between: 0,
            n_kv_blocks: n_blocks.saturating_mul(sequences),
            kv_types,
        };
        let executable = backend.load(model.program(context)?, limits)?;
        let sequences = (0..sequences).map(|i| Cached {
            blocks: (i * n_blocks..(i + 1) * n_blocks)
                .map(|block| block as u32)
                .collect(),
            tokens: Vec::new(),
        });
        Ok(Evaluator {
            model,
            executable,
            context,
            sequences: sequences.collect(),
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
        self.check_fits(0, tokens)?;
        let n_outputs = self.executable.limits().max_outputs;
        let vocab_size = self.model.hparams().vocab_size;
        // Nothing follows the last token. The logits of token i are for token i + 1.
        let tokens_in = &tokens[..tokens.len() - 1];
        let (unscored, scored) = tokens_in
            .split_at_checked(first - 1)
            .unwrap_or((tokens_in, &[]));
        for slice in unscored.chunks(self.slice_len()) {
            self.run(0, slice, &[])?;
        }
        let mut scores = Vec::with_capacity(scored.len());
        for slice in scored.chunks(n_outputs) {
            let outputs: Vec<u32> = (0..slice.len() as u32).collect();
            let at = self.cached().len();
            let logits = self.run(0, slice, &outputs)?;
            let rows = logits.chunks(vocab_size).zip(&tokens[at + 1..]);
            scores.extend(rows.map(|(logits, &next)| logprobs(logits, next, 0).logprob));
        }
        Ok(scores)
    }

    /// Appends tokens to the first sequence, in slices, and returns the logits after the last.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        self.prefill_sequence(0, tokens)
    }

    /// Appends tokens to a sequence, in slices, and returns the logits after the last.
    ///
    /// # Panics
    /// If there are no tokens, or no such sequence.
    pub fn prefill_sequence(
        &mut self,
        sequence: usize,
        tokens: &[u32],
    ) -> Result<&[f32], EngineError> {
        self.check_fits(sequence, tokens)?;
        let last_start = (tokens.len() - 1) / self.slice_len() * self.slice_len();
        let (slices, last) = tokens.split_at(last_start);
        for slice in slices.chunks(self.slice_len()) {
            self.run(sequence, slice, &[])?;
        }
        self.run(sequence, last, &[last.len() as u32 - 1])
    }

    /// Appends one token to the first sequence, and returns the logits after it.
    pub fn decode_step(&mut self, token: u32) -> Result<&[f32], EngineError> {
        self.prefill(&[token])
    }

    /// Appends one token to each of the first `tokens.len()` sequences, all in one batch, and returns
    /// the logits after them, `[n_sequences, vocab_size]`.
    ///
    /// # Panics
    /// If there are fewer sequences.
    pub fn decode_together(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        for (sequence, token) in tokens.iter().enumerate() {
            self.check_fits(sequence, std::slice::from_ref(token))?;
        }
        let sequences: Vec<Sequence<'_>> = self.sequences[..tokens.len()]
            .iter()
            .map(|cached| cached.next(1))
            .collect();
        let outputs: Vec<u32> = (0..tokens.len() as u32).collect();
        let logits = self.executable.run(&Batch {
            tokens,
            sequences: &sequences,
            outputs: &outputs,
            input: &[],
        });
        match &logits {
            Ok(_) => {
                for (cached, &token) in self.sequences.iter_mut().zip(tokens) {
                    cached.tokens.push(token);
                }
            }
            Err(_) => forget(&mut self.sequences),
        }
        logits.map_err(EngineError::Device)
    }

    /// Measures every step of what is computed from now on; answers whether the backend can.
    pub fn start_profile(&mut self) -> bool {
        self.executable.start_profile()
    }

    /// What the steps took since [`start_profile`](Evaluator::start_profile), in their order.
    pub fn take_profile(&mut self) -> Vec<StepProfile> {
        self.executable.take_profile()
    }

    /// The tokens of the first sequence that the cache holds.
    pub fn cached(&self) -> &[u32] {
        &self.sequences[0].tokens
    }

    /// Forgets what the cache holds but for the first `n_tokens` tokens of each sequence.
    pub fn truncate(&mut self, n_tokens: usize) {
        for cached in &mut self.sequences {
            cached.tokens.truncate(n_tokens);
        }
    }

    /// Forgets everything that the cache holds.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    fn slice_len(&self) -> usize {
        self.executable.limits().max_tokens
    }

    /// Runs one batch behind what the cache holds of a sequence.
    fn run(
        &mut self,
        sequence: usize,
        tokens: &[u32],
        outputs: &[u32],
    ) -> Result<&[f32], EngineError> {
        let logits = self.executable.run(&Batch {
            tokens,
            sequences: &[self.sequences[sequence].next(tokens.len())],
            outputs,
            input: &[],
        });
        match &logits {
            Ok(_) => self.sequences[sequence].tokens.extend_from_slice(tokens),
            Err(_) => forget(&mut self.sequences),
        }
        logits.map_err(EngineError::Device)
    }

    /// Checks that tokens can be appended to what the cache holds of a sequence.
    fn check_fits(&self, sequence: usize, tokens: &[u32]) -> Result<(), RequestError> {
        check_tokens(&self.model, tokens)?;
        let n_cached = self.sequences[sequence].tokens.len();
        let (found, room) = (tokens.len(), self.context - n_cached);
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

impl Cached {
    /// The next tokens of the sequence, for a batch.
    fn next(&self, n_tokens: usize) -> Sequence<'_> {
        Sequence {
            n_tokens,
            start: self.tokens.len(),
            blocks: &self.blocks,
        }
    }
}

/// After an error nobody knows what the cache holds.
fn forget(sequences: &mut [Cached]) {
    for cached in sequences {
        cached.tokens.clear();
    }
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator")
            .field("model", &self.model.path())
            .field("context", &self.context)
            .field("n_sequences", &self.sequences.len())
            .field("n_cached", &self.cached().len())
            .finish_non_exhaustive()
    }
}
