//! What chats and completions answer alike.

use serde::Serialize;
use utoipa::ToSchema;

/// An answer, or a chunk of one; `C` is how its choices look.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Answer<C> {
    /// Its id; all chunks of a stream have the same.
    pub(crate) id: String,
    /// What it is.
    pub(crate) object: &'static str,
    /// When it began, in seconds since 1970.
    pub(crate) created: u64,
    /// The model's name.
    pub(crate) model: String,
    /// What computed it: the same one gives the same answer to the same seed.
    pub(crate) system_fingerprint: &'static str,
    /// The answers.
    pub(crate) choices: Vec<C>,
    /// Tokens counted. In the chunks of a stream that is to have it: null but for the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
    /// Time taken, where there is one answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<Timings>,
    /// How far the prompt is, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_progress: Option<Progress>,
    /// Fields of the request that were not honored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Of the prompt, or of all prompts.
    pub(crate) prompt_tokens: usize,
    /// Of all answers, those that ended them included.
    pub(crate) completion_tokens: usize,
    /// Both.
    pub(crate) total_tokens: usize,
    /// More of the prompt.
    pub(crate) prompt_tokens_details: PromptDetails,
}

/// What there is to say of a prompt's tokens.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    /// Those that the cache held.
    pub(crate) cached_tokens: usize,
}

/// Time taken, as llama-server says it.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Timings {
    /// Tokens of the prompt that the cache held.
    pub(crate) cache_n: usize,
    /// Tokens of the prompt that were computed.
    pub(crate) prompt_n: usize,
    /// Time for them.
    pub(crate) prompt_ms: f64,
    /// Time for each.
    pub(crate) prompt_per_token_ms: f64,
    /// How many in a second.
    pub(crate) prompt_per_second: f64,
    /// Tokens of the answer.
    pub(crate) predicted_n: usize,
    /// Time from the first to the last.
    pub(crate) predicted_ms: f64,
    /// Time for each after the first.
    pub(crate) predicted_per_token_ms: f64,
    /// How many of those in a second.
    pub(crate) predicted_per_second: f64,
}

/// How far a prompt is, as llama-server says it.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Its tokens.
    pub(crate) total: usize,
    /// Those that the cache held.
    pub(crate) cache: usize,
    /// Those that are done, the cached ones included.
    pub(crate) processed: usize,
    /// Time since the request came.
    pub(crate) time_ms: u64,
}
