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
use crate::request::{Done, Event, FinishReason, GenerateRequest, Timings, Token, Usage};
use crate::sampler::{Sampler, SamplingParams, logprobs};
use crate::tokenizer::{Detokenizer, EncodeOptions, Tokenizer};

/// The context that is made where none is asked for, if the model is not made for a shorter one.
/// The cache's memory grows with it.
pub const DEFAULT_CONTEXT: usize = 4096;

/// The most sequence breakers of a request, and the bytes of one: each is compared with every token.
const MAX_BREAKERS: usize = 32;
const MAX_BREAKER_BYTES: usize = 40;

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
        EngineOptions {
            context: None,
            batch_tokens: 512,
            batch_outputs: 1,
        }
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
        let EngineOptions {
            context,
            batch_tokens,
            batch_outputs,
        } = *options;
        let context_length = model.hparams().context_length;
        let context = context.unwrap_or(context_length.min(DEFAULT_CONTEXT));
        if !(2..=context_length).contains(&context) {
            let wanted = format!("2 to {context_length}, the context length of the model");
            return Err(LoadError::Option {
                option: "context",
                found: context,
                wanted,
            });
        }
        for (option, found) in [
            ("batch_tokens", batch_tokens),
            ("batch_outputs", batch_outputs),
        ] {
            if found == 0 {
                return Err(LoadError::Option {
                    option,
                    found,
                    wanted: "at least 1".into(),
                });
            }
        }
        let max_tokens = batch_tokens.min(context);
        let max_outputs = batch_outputs.min(max_tokens);
        let n_kv_blocks = context.div_ceil(KV_BLOCK_LEN);
        let limits = Limits {
            max_tokens,
            max_outputs,
            n_kv_blocks,
        };
        let executable = backend.load(model.program(context)?, limits)?;
        let blocks = (0..n_kv_blocks as u32).collect();
        Ok(Engine {
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

    /// Continues a prompt. `on_event` is told what happens; when it breaks, the answer ends there.
    /// The last event is also what is returned.
    pub fn generate(
        &mut self,
        request: &GenerateRequest,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Done, RequestError> {
        let start = Instant::now();
        let prompt = &*request.prompt;
        self.check_tokens(prompt)?;
        if prompt.len() >= self.context {
            let context = self.context;
            return Err(RequestError::ContextOverflow {
                prompt_tokens: prompt.len(),
                context,
            });
        }
        let mut sampler = self.sampler(&request.sampling)?;
        prompt.iter().for_each(|&token| sampler.accept(token));
        let mut stop = StopMatcher::new(&request.stop)?;
        let model = self.model.clone();
        let tokenizer = model.tokenizer();
        let mut detokenizer = Detokenizer::continuing(tokenizer, true);
        let room = self.context - prompt.len();
        let max_tokens = request.max_tokens.map_or(room, |max| max.min(room));

        // The last token of the prompt is computed in any case: its logits are wanted.
        let n_same = prompt
            .iter()
            .zip(&self.cached)
            .take_while(|(a, b)| a == b)
            .count();
        let cached_tokens = n_same.min(prompt.len() - 1);
        self.cached.truncate(cached_tokens);
        let prompt_tokens = prompt.len();
        let mut usage = Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens: 0,
        };
        let mut timings = Timings::default();

        let finish_reason = 'answer: {
            if max_tokens == 0 {
                break 'answer FinishReason::Length;
            }
            let mut next = &prompt[cached_tokens..];
            while let Some((slice, rest)) = next.split_at_checked(self.slice_len())
                && !rest.is_empty()
            {
                self.run(slice, &[]);
                next = rest;
                let n_done = prompt.len() - rest.len();
                if on_event(Event::Prefill {
                    n_done,
                    n_total: prompt.len(),
                })
                .is_break()
                {
                    break 'answer FinishReason::Cancelled;
                }
            }
            let mut chosen;
            let mut sampled = Vec::new();
            loop {
                let logits = self.run(next, &[next.len() as u32 - 1]);
                if usage.completion_tokens == 0 {
                    timings.prefill = start.elapsed();
                }
                sampled.clear();
                sampled.extend_from_slice(logits);
                if request.ignore_eos {
                    tokenizer
                        .eog_ids()
                        .for_each(|id| sampled[id as usize] = f32::NEG_INFINITY);
                }
                let id = sampler.sample(&sampled).ok_or(RequestError::NoCandidates)?;
                sampler.accept(id);
                let scored = request.logprobs.map(|k| logprobs(logits, id, k));
                usage.completion_tokens += 1;
                if usage.completion_tokens == 1 {
                    timings.first_token = start.elapsed();
                }
                if tokenizer.is_eog(id) {
                    break 'answer FinishReason::Stop;
                }
                let progress = stop.push(&detokenizer.push(id));
                let token = Token {
                    id,
                    text: progress.text,
                    logprobs: scored,
                };
                let flow = on_event(Event::Token(token));
                if progress.matched.is_some() {
                    break 'answer FinishReason::Stop;
                }
                if flow.is_break() {
                    break 'answer FinishReason::Cancelled;
                }
                if usage.completion_tokens == max_tokens {
                    break 'answer FinishReason::Length;
                }
                chosen = [id];
                next = &chosen;
            }
        };
        if usage.completion_tokens > 0 {
            timings.decode = start.elapsed() - timings.first_token;
        }
        let text = stop.push(&detokenizer.finish()).text + &stop.finish();
        let done = Done {
            text,
            finish_reason,
            usage,
            timings,
        };
        // The answer has ended: there is nothing left to break.
        let _ = on_event(Event::Done(done.clone()));
        Ok(done)
    }

    /// The log-probabilities that the model gives to `tokens[first..]`, each after all tokens before
    /// it; `first` is at least 1. What was in the cache is forgotten.
    pub fn score(&mut self, tokens: &[u32], first: usize) -> Result<Vec<f32>, RequestError> {
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
            self.run(slice, &[]);
        }
        let mut scores = Vec::with_capacity(scored.len());
        for slice in scored.chunks(n_outputs) {
            let outputs: Vec<u32> = (0..slice.len() as u32).collect();
            let at = self.cached.len();
            let logits = self.run(slice, &outputs);
            let rows = logits.chunks(vocab_size).zip(&tokens[at + 1..]);
            scores.extend(rows.map(|(logits, &next)| logprobs(logits, next, 0).logprob));
        }
        Ok(scores)
    }

    /// Appends tokens to what the cache holds, in slices, and returns the logits after the last.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], RequestError> {
        self.check_fits(tokens)?;
        let last_start = (tokens.len() - 1) / self.slice_len() * self.slice_len();
        let (slices, last) = tokens.split_at(last_start);
        for slice in slices.chunks(self.slice_len()) {
            self.run(slice, &[]);
        }
        Ok(self.run(last, &[last.len() as u32 - 1]))
    }

    /// Appends one token to what the cache holds, and returns the logits after it.
    pub fn decode_step(&mut self, token: u32) -> Result<&[f32], RequestError> {
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

    fn sampler(&self, params: &SamplingParams) -> Result<Sampler, RequestError> {
        let breakers = match params.dry_multiplier {
            0.0 => Vec::new(),
            _ => breaker_sequences(self.model.tokenizer(), params)?,
        };
        Sampler::new(params, self.model.hparams().vocab_size, &breakers)
    }

    fn slice_len(&self) -> usize {
        self.executable.limits().max_tokens
    }

    /// Runs one batch behind what the cache holds.
    fn run(&mut self, tokens: &[u32], outputs: &[u32]) -> &[f32] {
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
        });
        // Not before: if a backend panics, the cache does not hold these tokens.
        self.cached.extend_from_slice(tokens);
        logits
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), RequestError> {
        let error = |found: String, wanted: String| {
            Err(RequestError::Parameter {
                field: "prompt",
                found,
                wanted,
            })
        };
        if tokens.is_empty() {
            return error("no tokens".into(), "at least 1".into());
        }
        let vocab_size = self.model.hparams().vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(token) => error(format!("token {token}"), format!("ids below {vocab_size}")),
            None => Ok(()),
        }
    }

    /// Checks that tokens can be appended to what the cache holds.
    fn check_fits(&self, tokens: &[u32]) -> Result<(), RequestError> {
        self.check_tokens(tokens)?;
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

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model.path())
            .field("context", &self.context)
            .field("n_cached", &self.cached.len())
            .finish_non_exhaustive()
    }
}

/// The token sequences whose text contains one of the breakers: the tokens that contain it whole,
/// and those that end in its beginning, followed by the tokens of the rest.
fn breaker_sequences(
    tokenizer: &Tokenizer,
    params: &SamplingParams,
) -> Result<Vec<Vec<u32>>, RequestError> {
    let error = |found: String, wanted: String| {
        Err(RequestError::Parameter {
            field: "dry_sequence_breakers",
            found,
            wanted,
        })
    };
    let breakers = &params.dry_sequence_breakers;
    if breakers.len() > MAX_BREAKERS {
        return error(
            format!("{} strings", breakers.len()),
            format!("at most {MAX_BREAKERS}"),
        );
    }
    let texts = |id: u32| tokenizer.token_bytes(id).unwrap_or_default();
    let ids = 0..tokenizer.n_tokens() as u32;
    let mut sequences = Vec::new();
    for breaker in breakers.iter().map(|breaker| breaker.as_bytes()) {
        let n_bytes = breaker.len();
        if n_bytes == 0 || n_bytes > MAX_BREAKER_BYTES {
            let wanted = format!("1 to {MAX_BREAKER_BYTES} bytes");
            return error(format!("a string of {n_bytes} bytes"), wanted);
        }
        let has_it = |id: &u32| texts(*id).windows(n_bytes).any(|window| window == breaker);
        sequences.extend(ids.clone().filter(has_it).map(|id| vec![id]));
        for at in 1..n_bytes {
            let (beginning, rest) = breaker.split_at(at);
            let options = EncodeOptions {
                add_special: false,
                parse_special: false,
            };
            let rest = tokenizer.encode(rest, options);
            let begins = ids
                .clone()
                .filter(|&id| texts(id).ends_with(beginning) && !has_it(&id));
            sequences.extend(begins.map(|id| std::iter::once(id).chain(rest.clone()).collect()));
        }
    }
    Ok(sequences)
}
