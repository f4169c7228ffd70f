//! What is asked of the engine, and what it answers: plain data.

use std::time::Duration;

use crate::sampler::{SamplingParams, TokenLogprobs};

/// A prompt, and how it is to be continued.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The prompt's tokens, BOS included where the model wants one; not empty.
    pub prompt: Vec<u32>,
    /// How a token is chosen.
    pub sampling: SamplingParams,
    /// The answer ends before the first of these that appears in it.
    pub stop: Vec<String>,
    /// The answer ends after this many tokens; without it, at the end of the context.
    pub max_tokens: Option<usize>,
    /// With `Some(k)`, each token comes with its log-probability and the `k` likeliest tokens.
    pub logprobs: Option<usize>,
    /// Never ends the answer on a token that ends a text or a turn: such tokens are not chosen.
    pub ignore_eos: bool,
}

impl GenerateRequest {
    /// A request without stop strings, limit or log-probabilities.
    pub fn new(prompt: Vec<u32>, sampling: SamplingParams) -> GenerateRequest {
        GenerateRequest {
            prompt,
            sampling,
            stop: Vec::new(),
            max_tokens: None,
            logprobs: None,
            ignore_eos: false,
        }
    }
}

/// What happens while an answer is made, in order: progress of the prompt, tokens, one `Done`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A slice of a long prompt was computed, and others are left.
    Prefill {
        /// Tokens of the prompt that are in the cache.
        n_done: usize,
        /// Tokens of the prompt.
        n_total: usize,
    },
    /// A token was chosen.
    Token(Token),
    /// The answer is complete.
    Done(Done),
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
    /// The receiver of the events asked to stop.
    Cancelled,
}

impl FinishReason {
    /// The name in output formats.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were still in the cache, and not computed again.
    pub cached_tokens: usize,
    /// Tokens that were chosen, the one that ended the answer included.
    pub completion_tokens: usize,
}

/// Time taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// For the tokens of the prompt that were not in the cache.
    pub prefill: Duration,
    /// From the request to the first token chosen (zero if none was).
    pub first_token: Duration,
    /// For the tokens after the first.
    pub decode: Duration,
}
