//! One model on one backend, with one KV cache: requests are served one after the other.
//!
//! The cache keeps the tokens of the last request. What the next one begins with in common is not
//! computed again, so that a chat prefills only what is new.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use minerva_compute::{Backend, Batch, Executable, KV_BLOCK_LEN, Limits, Memory, Sequence};

use crate::chat::stop::StopMatcher;
use crate::error::{LoadError, RequestError};
use crate::model::Model;
use crate::request::{
    Done, Event, FinishReason, GenerateRequest, Timings, Token, TopLogprob, Usage,
};
use crate::sampler::Sampler;
use crate::tokenizer::Detokenizer;

/// The context that is made where none is asked for, if the model is not made for a shorter one.
/// The cache's memory grows with it.
pub const DEFAULT_CONTEXT: usize = 4096;

/// How an engine is set up; it decides its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most tokens of a prompt and its answer together. `None`: the model's context length, but no
    /// more than [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Most tokens in one batch: longer prompts are computed in slices.
    pub batch_tokens: usize,
    /// Most tokens in one batch whose logits are wanted. More than 1 is of use only to
    /// [`Engine::score`], which takes slices of this length.
    pub batch_outputs: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { context: None, batch_tokens: 512, batch_outputs: 1 }
    }
}

/// A model that is ready to run.
pub struct Engine {
    model: Arc<Model>,
    executable: Box<dyn Executable>,
    context: usize,
    /// All blocks of the cache: there is one sequence, and it may use them all.
    blocks: Vec<u32>,
    /// The tokens whose keys and values are in the cache, by position.
    cached: Vec<u32>,
}

impl Engine {
    /// Puts a model on a backend.
    pub fn new(
        model: Arc<Model>,
        backend: &dyn Backend,
        options: &EngineOptions,
    ) -> Result<Engine, LoadError> {
        let EngineOptions { context, batch_tokens, batch_outputs } = *options;
        let context_length = model.hparams().context_length;
        let context = context.unwrap_or(context_length.min(DEFAULT_CONTEXT));
        let max = usize::MAX;
        for (option, found, min, max, of) in [
            ("context", context, 2, context_length, ", the context length of the model"),
            ("batch_tokens", batch_tokens, 1, max, ""),
            ("batch_outputs", batch_outputs, 1, batch_tokens, ", the tokens of a batch"),
        ] {
            if found < min || found > max {
                let wanted = match max {
                    usize::MAX => format!("at least {min}"),
                    _ => format!("{min} to {max}{of}"),
                };
                return Err(LoadError::Option { option, found, wanted });
            }
        }
        let batch_tokens = batch_tokens.min(context);
        let n_kv_blocks = context.div_ceil(KV_BLOCK_LEN);
        let limits =
            Limits { max_tokens: batch_tokens, max_outputs: batch_outputs, n_kv_blocks };
        let executable = backend.load(model.program(), limits)?;
        let blocks = (0..n_kv_blocks as u32).collect();
        Ok(Engine { model, executable, context, blocks, cached: Vec::new() })
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

    /// Continues a prompt. `on_event` is told of every token when it is chosen, and of the end;
    /// when it breaks, the answer ends there, and it is told no more but `Done`.
    pub fn generate(
        &mut self,
        request: &GenerateRequest,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Done, RequestError> {
        let start = Instant::now();
        let prompt = &request.prompt;
        self.check_tokens(prompt)?;
        if prompt.len() >= self.context {
            let context = self.context;
            return Err(RequestError::ContextOverflow { prompt_tokens: prompt.len(), context });
        }
        let mut sampler = Sampler::new(&request.sampling, prompt)?;
        let mut stop = StopMatcher::new(&request.stop)?;

        // The last token of the prompt is computed in any case: its logits are wanted.
        let same = prompt.iter().zip(&self.cached).take_while(|(a, b)| a == b).count();
        let cached_tokens = same.min(prompt.len() - 1);
        self.cached.truncate(cached_tokens);
        let mut usage =
            Usage { prompt_tokens: prompt.len(), cached_tokens, completion_tokens: 0 };
        let mut timings = Timings::default();

        let room = self.context - prompt.len();
        let max_tokens = request.max_tokens.map_or(room, |max| max.min(room));
        let model = self.model.clone();
        let tokenizer = model.tokenizer();
        let mut detokenizer = Detokenizer::continuing(tokenizer, true);
        let mut next = prompt[cached_tokens..].to_vec();
        let finish_reason = loop {
            if usage.completion_tokens == max_tokens {
                break FinishReason::Length;
            }
            // All slices of a prompt but the last one; a decode step has none.
            let n_tokens = next.len();
            while next.len() > self.executable.limits().max_tokens {
                let rest = next.split_off(self.executable.limits().max_tokens);
                self.run(&next, &[]);
                next = rest;
                let n_done = prompt.len() - next.len();
                if on_event(Event::Prefill { n_done, n_total: prompt.len() }).is_break() {
                    return Ok(self.cancel(usage, timings, on_event));
                }
            }
            let logits = self.run(&next, &[next.len() as u32 - 1]);
            if usage.completion_tokens == 0 {
                timings.prefill = start.elapsed();
            }
            let logprobs = request.logprobs.map(|k| Logprobs::new(logits, k));
            let mut logits = logits.to_vec();
            if request.ignore_eos {
                tokenizer.eog_ids().for_each(|id| logits[id as usize] = f32::NEG_INFINITY);
            }
            let id = sampler.sample(&mut logits);
            usage.completion_tokens += 1;
        };
        todo!()
    }
}
