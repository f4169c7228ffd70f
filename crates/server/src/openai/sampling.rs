//! How answers are made: what chats, completions and responses share.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::fields::fields;
use crate::body::FromObject;

fields! {
    /// How tokens are chosen, when an answer ends and what it comes with. OpenAI's fields, and those
    /// that llama-server and vLLM have added.
    pub(crate) struct Sampling {
        /// Spread of the choice; 0 takes the likeliest token.
        temperature: f32,
        /// Keeps the likeliest tokens up to this probability.
        #[schema(minimum = 0, maximum = 1)]
        top_p: f32,
        /// Keeps this many of the likeliest tokens; 0 and less for all.
        top_k: i64,
        /// Keeps tokens of this share of the likeliest one's probability.
        #[schema(minimum = 0, maximum = 1)]
        min_p: f32,
        /// Keeps tokens whose information is near the entropy.
        #[schema(minimum = 0, maximum = 1)]
        typical_p: f32,
        /// Keeps tokens within so many standard deviations of the best logit.
        top_n_sigma: f32,
        /// At least this many tokens stay.
        min_keep: u32,
        /// Divides the logits of tokens that were there.
        #[schema(exclusive_minimum = 0)]
        repeat_penalty: f32,
        /// How many of the last tokens the penalties look at; -1 for all.
        #[schema(minimum = -1)]
        repeat_last_n: i32,
        /// Taken from the logits of tokens that were there.
        presence_penalty: f32,
        /// Taken from the logits of tokens for each time that they were there.
        frequency_penalty: f32,
        /// Strength of the DRY penalty.
        #[schema(minimum = 0)]
        dry_multiplier: f32,
        /// By what the DRY penalty grows.
        dry_base: f32,
        /// Repetitions that cost nothing.
        dry_allowed_length: u32,
        /// How many of the last tokens DRY looks at; -1 for all.
        #[schema(minimum = -1)]
        dry_penalty_last_n: i32,
        /// Texts at which a repetition ends.
        dry_sequence_breakers: Vec<String>,
        /// How often XTC removes the likeliest tokens.
        #[schema(minimum = 0, maximum = 1)]
        xtc_probability: f32,
        /// How likely they are at least.
        #[schema(minimum = 0, maximum = 1)]
        xtc_threshold: f32,
        /// How far the temperature moves with the entropy.
        #[schema(minimum = 0)]
        dynatemp_range: f32,
        /// How the entropy maps to that.
        #[schema(minimum = 0)]
        dynatemp_exponent: f32,
        /// 0 for off, 1 or 2 for the version.
        #[schema(maximum = 2)]
        mirostat: u8,
        /// The surprise that mirostat aims for.
        #[schema(minimum = 0)]
        mirostat_tau: f32,
        /// How fast it learns.
        #[schema(minimum = 0)]
        mirostat_eta: f32,
        /// Added to the logits of tokens, by their ids as text.
        logit_bias: BTreeMap<String, f32>,
        /// The seed; -1 for a new one.
        seed: i64,
        /// The answer ends before one of these.
        stop: OneOrMany,
        /// None of these is in the answer.
        banned_strings: Vec<String>,
        /// The answer does not end by itself.
        ignore_eos: bool,
        /// Whether what the cache holds is used and kept.
        cache_prompt: bool,
        /// Whether the answer comes bit by bit.
        stream: bool,
        /// Longest wait for the request's turn, in seconds.
        #[schema(exclusive_minimum = 0)]
        queue_timeout: f64,
        /// Longest wait for the first token, in seconds.
        #[schema(exclusive_minimum = 0)]
        first_token_timeout: f64,
        /// Longest wait for the end, in seconds.
        #[schema(exclusive_minimum = 0)]
        total_timeout: f64,
    }
}

fields! {
    /// How many answers, and what comes with them. OpenAI's fields, and one of llama-server's.
    pub(crate) struct Answers {
        /// How many answers.
        #[schema(minimum = 1)]
        n: usize,
        /// What a stream has beside the answer.
        #[schema(value_type = Option<StreamOptions>)]
        stream_options: FromObject<StreamOptions>,
        /// Whether a stream says how far the prompt is.
        return_progress: bool,
    }
}

/// A text or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// What a stream has beside the answer.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Whether its last chunk has the tokens counted.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
    /// Padding against who measures packets; there is none here.
    #[serde(default)]
    pub(crate) include_obfuscation: Option<bool>,
}
