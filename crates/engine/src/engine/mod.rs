//! A model that answers requests, many at once.
//!
//! One thread owns the model's program and its cache. Requests come to it through a bounded queue,
//! and what happens to each goes back through a bounded channel of its own. Between two steps the
//! thread lets requests in and drops those whose reader has gone; a step computes a batch that the
//! [scheduler](crate::scheduler) has put together, and chooses the tokens.

mod answer;
mod backends;
mod choice;
mod pace;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use minerva_compute::{KV_BLOCK_LEN, KvTypes, Limits};
use tokio::sync::mpsc;

use crate::chat::encode_text;
use crate::error::{EngineError, LoadError, RequestError};
use crate::model::Model;
use crate::request::{GenerateConfig, GenerateRequest};
use crate::scheduler::{Scheduler, SchedulerLimits};

pub use answer::{Answer, Canceller, Completion, TokenStream};
pub use backends::Backends;
use backends::Loader;
use choice::Choice;
use worker::{Job, Worker};

/// The context that is made where none is asked for, if the model is not made for a shorter one.
/// The cache's memory grows with it.
pub const DEFAULT_CONTEXT: usize = 4096;

/// Events that wait for a reader; with more, its request waits.
const MAX_UNREAD_EVENTS: usize = 64;

/// How an engine is set up; it decides its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most tokens of a prompt and its answer together. `None`: the model's context length, but no
    /// more than [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Most sequences that are computed at once.
    pub max_sequences: usize,
    /// Tokens that the cache holds, of all sequences together; at least the context. `None`: the
    /// context for each of the sequences.
    pub cache_tokens: Option<usize>,
    /// Most tokens in one step: longer prompts are computed in slices.
    pub batch_tokens: usize,
    /// Most tokens of prompts in one step whose log-probabilities are wanted.
    pub batch_scores: usize,
    /// How keys and values are stored in the cache.
    pub kv_types: KvTypes,
    /// Most requests that wait for their turn.
    pub max_waiting: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            context: None,
            max_sequences: 4,
            cache_tokens: None,
            batch_tokens: 512,
            batch_scores: 16,
            kv_types: KvTypes::default(),
            max_waiting: 256,
        }
    }
}

/// What an engine is doing and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences that wait for their turn.
    pub n_waiting: usize,
    /// Sequences that are computed.
    pub n_running: usize,
    /// Sequences that gave their blocks back and wait to be computed again.
    pub n_preempted: usize,
    /// Blocks of the cache that sequences hold.
    pub n_blocks_used: usize,
    /// Blocks of the cache that no sequence holds, and that a prompt may find.
    pub n_blocks_cached: usize,
    /// All blocks of the cache.
    pub n_blocks: usize,
    /// Requests that came to the engine's thread.
    pub n_requests: u64,
    /// Requests that were answered to their end.
    pub n_answered: u64,
    /// Requests that ended without a full answer: cancelled, timed out, displaced, failed.
    pub n_dropped: u64,
    /// Tokens of prompts that were computed.
    pub n_prompt_tokens: u64,
    /// Tokens of prompts that were in the cache.
    pub n_cached_tokens: u64,
    /// Tokens that were chosen.
    pub n_generated_tokens: u64,
    /// Steps.
    pub n_steps: u64,
    /// Steps that failed.
    pub n_failed_steps: u64,
    /// Of those, steps whose device failed.
    pub n_device_failures: u64,
    /// Times that the model was loaded again after its device had failed.
    pub n_reloads: u64,
    /// Whether it is loaded on what takes over where the device fails.
    pub is_on_fallback: bool,
    /// Times that a sequence gave its blocks back.
    pub n_preemptions: u64,
}

/// A model that answers requests. Dropping it ends what is being computed.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    context: usize,
    max_sequences: usize,
    max_waiting: usize,
    backends: Backends,
    stats: Arc<Mutex<EngineStats>>,
    jobs: Option<SyncSender<Box<Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// The sizes of an engine, before it takes any memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) context: usize,
    pub(crate) limits: Limits,
}

impl Sizes {
    pub(crate) fn new(model: &Model, options: &EngineOptions) -> Result<Sizes, LoadError> {
        let EngineOptions {
            context,
            max_sequences,
            cache_tokens,
            batch_tokens,
            batch_scores,
            kv_types,
            max_waiting: _,
        } = *options;
        let context = choose_context(model, context)?;
        at_least_one("max_sequences", max_sequences)?;
        at_least_one("batch_tokens", batch_tokens)?;
        at_least_one("batch_scores", batch_scores)?;
        let cache_tokens = match cache_tokens {
            None => context.saturating_mul(max_sequences),
            Some(found) if found < context => {
                return Err(LoadError::Option {
                    option: "cache_tokens",
                    found,
                    wanted: format!("at least the context, {context}"),
                });
            }
            Some(found) => found,
        };
        let n_kv_blocks = cache_tokens.div_ceil(KV_BLOCK_LEN);
        if u32::try_from(n_kv_blocks).is_err() {
            return Err(LoadError::Option {
                option: "cache_tokens",
                found: cache_tokens,
                wanted: format!("at most {}", u32::MAX as usize * KV_BLOCK_LEN),
            });
        }
        let max_tokens = batch_tokens.max(max_sequences);
        Ok(Sizes {
            context,
            limits: Limits {
                max_tokens,
                max_outputs: max_sequences + batch_scores.min(max_tokens),
                max_between: max_sequences,
                n_kv_blocks,
                kv_types,
            },
        })
    }
}

impl Engine {
    /// Puts a model on a backend and starts the thread.
    pub fn start(
        model: Arc<Model>,
        backends: impl Into<Backends>,
        options: &EngineOptions,
    ) -> Result<Engine, LoadError> {
        let backends = backends.into();
        let Sizes { context, limits } = Sizes::new(&model, options)?;
        let mut loader = Loader {
            model: model.clone(),
            backends: backends.clone(),
            context,
            limits,
            is_on_fallback: false,
        };
        let executable = loader.load()?;
        let max_waiting = options.max_waiting;
        at_least_one("max_waiting", max_waiting)?;
        let scheduler_limits = SchedulerLimits {
            max_sequences: options.max_sequences,
            max_tokens: limits.max_tokens,
            max_outputs: limits.max_outputs,
            n_blocks: limits.n_kv_blocks,
            max_waiting,
        };
        let (jobs, receiver) = sync_channel(max_waiting);
        let stats = Arc::new(Mutex::new(EngineStats {
            n_blocks: limits.n_kv_blocks,
            is_on_fallback: loader.is_on_fallback,
            ..EngineStats::default()
        }));
        let thread = {
            let stats = stats.clone();
            let run = move || {
                let scheduler = Scheduler::new(scheduler_limits);
                Worker::new(loader, executable, scheduler, stats).run(&receiver);
            };
            let builder = std::thread::Builder::new().name("minerva-engine".into());
            builder.spawn(run).map_err(LoadError::Thread)?
        };
        Ok(Engine {
            model,
            context,
            max_sequences: options.max_sequences,
            max_waiting,
            backends,
            stats,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Most tokens of a prompt and its answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Most sequences that are computed at once.
    pub fn max_sequences(&self) -> usize {
        self.max_sequences
    }

    /// What computes now, as its backend describes itself.
    pub fn device(&self) -> String {
        let is_on_fallback = self.stats().is_on_fallback;
        self.backends.get(is_on_fallback).description()
    }

    /// What it is doing and has done.
    pub fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a request and puts it into the queue. Nothing waits here: a full queue is an error.
    pub fn submit(&self, request: GenerateRequest) -> Result<Answer, EngineError> {
        let received = Instant::now();
        let choices = self.choices(&request)?;
        let (sender, events) = mpsc::channel(MAX_UNREAD_EVENTS);
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let job = Box::new(Job {
            request,
            choices,
            received,
            events: sender,
            is_cancelled: is_cancelled.clone(),
        });
        let jobs = self.jobs.as_ref().expect("taken only by drop");
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => EngineError::Overloaded {
                n_waiting: self.max_waiting,
            },
            TrySendError::Disconnected(_) => EngineError::ShuttingDown,
        })?;
        Ok(Answer {
            events,
            is_cancelled,
        })
    }

    /// What will make each answer; fails where the request makes no sense.
    fn choices(&self, request: &GenerateRequest) -> Result<Vec<Choice>, RequestError> {
        let GenerateRequest {
            prompt, n_choices, ..
        } = request;
        check_tokens(&self.model, prompt)?;
        if prompt.len() >= self.context {
            return Err(RequestError::ContextOverflow {
                prompt_tokens: prompt.len(),
                context: self.context,
            });
        }
        if !(1..=self.max_sequences).contains(n_choices) {
            return Err(RequestError::Parameter {
                field: "n",
                found: n_choices.to_string(),
                wanted: format!(
                    "1 to {}, the sequences computed at once",
                    self.max_sequences
                ),
            });
        }
        let room = self.context - prompt.len();
        let max_tokens = request.config.max_tokens.map_or(room, |max| max.min(room));
        let mut config = request.config.clone();
        let choice = |i: usize| {
            config.sampling.seed = request
                .config
                .sampling
                .seed
                .map(|seed| seed.wrapping_add(i as u64));
            Choice::new(&self.model, prompt, &config, max_tokens)
        };
        (0..*n_choices).map(choice).collect()
    }

    /// Continues a text, as a stream of tokens. Special tokens in the text are parsed.
    pub fn generate_streaming(
        &self,
        prompt: &str,
        config: &GenerateConfig,
    ) -> Result<TokenStream, EngineError> {
        let prompt = encode_text(prompt, self.model.tokenizer());
        let answer = self.submit(GenerateRequest::new(prompt, config.clone()))?;
        Ok(TokenStream::new(answer))
    }

    /// Continues a text. Special tokens in it are parsed.
    pub async fn generate(
        &self,
        prompt: &str,
        config: &GenerateConfig,
    ) -> Result<Completion, EngineError> {
        let mut tokens = self.generate_streaming(prompt, config)?;
        let mut collector = answer::Collector::default();
        while let Some(token) = tokens.next().await {
            collector.push(token?);
        }
        collector.finish(tokens.done().cloned())
    }

    /// [`Engine::generate`] for code that is not async.
    ///
    /// # Panics
    /// In an async context.
    pub fn blocking_generate(
        &self,
        prompt: &str,
        config: &GenerateConfig,
    ) -> Result<Completion, EngineError> {
        let mut tokens = self.generate_streaming(prompt, config)?;
        let mut collector = answer::Collector::default();
        while let Some(token) = tokens.blocking_next() {
            collector.push(token?);
        }
        collector.finish(tokens.done().cloned())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The thread ends when the queue is closed.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It catches panics of steps; another one was printed, and nothing is left to do.
            let _ = thread.join();
        }
    }
}

/// The context that is asked for, if the model can have it.
pub(crate) fn choose_context(model: &Model, context: Option<usize>) -> Result<usize, LoadError> {
    let context_length = model.hparams().context_length;
    let context = context.unwrap_or(context_length.min(DEFAULT_CONTEXT));
    if (2..=context_length).contains(&context) {
        return Ok(context);
    }
    Err(LoadError::Option {
        option: "context",
        found: context,
        wanted: format!("2 to {context_length}, the context length of the model"),
    })
}

pub(crate) fn at_least_one(option: &'static str, found: usize) -> Result<(), LoadError> {
    if found > 0 {
        return Ok(());
    }
    Err(LoadError::Option {
        option,
        found,
        wanted: "at least 1".into(),
    })
}

/// Checks that there are tokens, and all of the vocabulary.
pub(crate) fn check_tokens(model: &Model, tokens: &[u32]) -> Result<(), RequestError> {
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
    let vocab_size = model.hparams().vocab_size;
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(token) => error(format!("token {token}"), format!("ids below {vocab_size}")),
        None => Ok(()),
    }
}
