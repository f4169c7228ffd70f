//! What is asked of the engine, and what it answers: plain data.

use std::time::Duration;

use crate::sampler::{SamplingParams, TokenLogprobs};

/// A prompt, and what is wanted of its answers.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The prompt's tokens, BOS included where the model wants one; not empty.
    pub prompt: Vec<u32>,
    /// How it is to be continued.
    pub config: GenerateConfig,
    /// How many answers; the prompt is computed once for all of them. Where there is a seed, each
    /// answer's is one more than that of the one before.
    pub n_choices: usize,
    /// With `Some(k)`, the tokens of the prompt come with their log-probabilities and the `k`
    /// likeliest tokens. Nothing of the prompt is taken from the cache then.
    pub prompt_logprobs: Option<usize>,
    /// Who asks: where many requests wait, callers take turns.
    pub tenant: u64,
    /// How long it may take.
    pub deadlines: Deadlines,
}

impl GenerateRequest {
    /// A request for one answer.
    pub fn new(prompt: Vec<u32>, config: GenerateConfig) -> GenerateRequest {
        GenerateRequest {
            prompt,
            config,
            n_choices: 1,
            prompt_logprobs: None,
            tenant: 0,
            deadlines: Deadlines::default(),
        }
    }
}

/// How a prompt is to be continued.
#[derive(Debug, Clone)]
pub struct GenerateConfig {
    /// How a token is chosen.
    pub sampling: SamplingParams,
    /// The answer ends before the first of these that appears in it.
    pub stop: Vec<String>,
    /// None of these appears in the answer: where one would, its first token is chosen anew.
    pub banned_strings: Vec<String>,
    /// The answer ends after this many tokens; without it, at the end of the context.
    pub max_tokens: Option<usize>,
    /// With `Some(k)`, each token comes with its log-probability and the `k` likeliest tokens.
    pub logprobs: Option<usize>,
    /// Never ends the answer on a token that ends a text or a turn: such tokens are not chosen.
    pub ignore_eos: bool,
    /// Whether what the cache holds of earlier requests is used, and this one is kept for later
    /// ones. The answer is the same.
    pub cache_prompt: bool,
}

impl Default for GenerateConfig {
    fn default() -> GenerateConfig {
        GenerateConfig {
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            banned_strings: Vec::new(),
            max_tokens: None,
            logprobs: None,
            ignore_eos: false,
            cache_prompt: true,
        }
    }
}

/// How long a request may take, each from its arrival; `None` for as long as it takes. Before the
/// first token the end of that time is an error, after it a [`FinishReason`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// Until it is computed at all.
    pub queue: Option<Duration>,
    /// Until its first token.
    pub first_token: Option<Duration>,
    /// Until its end.
    pub total: Option<Duration>,
}

/// What happens while answers are made, in order: progress of the prompt, then for each answer its
/// tokens and one `Done`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt's turn has come, or a slice of it was computed and others are left.
    Prefill {
        /// Tokens of the prompt that are in the cache.
        n_done: usize,
        /// Tokens of the prompt.
        n_total: usize,
    },
    /// The log-probabilities of the next tokens of the prompt, where they were asked for; together
    /// one for each token but the first.
    Prompt(Vec<TokenLogprobs>),
    /// A token was chosen.
    Token {
        /// Of which answer.
        choice: usize,
        /// The token.
        token: Token,
    },
    /// An answer is complete.
    Done {
        /// Which one.
        choice: usize,
        /// How it ended.
        done: Done,
    },
}

/// A token of an answer. The token that ends a text or turn is not part of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that can be shown now: empty while a character is incomplete or a stop string may
    /// have begun, then longer than the token's own.
    pub text: String,
    /// Its log-probability under the model, before any sampling stage, and the likeliest tokens, as
    /// many as were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The end of the text that had been held back: it turned out to be no stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens counted.
    pub usage: Usage,
    /// Time taken.
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string appeared.
    Stop,
    /// It has `max_tokens` tokens, or the context is full.
    Length,
    /// It was [cancelled](crate::Answer::cancel).
    Cancelled,
    /// The [time](Deadlines::total) for it was over.
    Timeout,
}

impl FinishReason {
    /// The name in output formats.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Timeout => "timeout",
        }
    }
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were in the cache, and not computed again.
    pub cached_tokens: usize,
    /// Tokens that were chosen, the one that ended the answer included.
    pub completion_tokens: usize,
}

/// Time taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From its arrival until its turn came.
    pub queue: Duration,
    /// From then to the first token: for the tokens of the prompt that were not in the cache.
    pub prefill: Duration,
    /// From its arrival to the first token chosen (zero if none was).
    pub first_token: Duration,
    /// For the tokens after the first.
    pub decode: Duration,
}
