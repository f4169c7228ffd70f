//! `/v1/responses`: responses, and the events of their streams.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::answer::{Timings, Usage};
use super::chat::TokenLogprob;
use super::fields::schema;

/// How far a response, or an item of it, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// On its way.
    InProgress,
    /// Whole.
    Completed,
    /// Ended early.
    Incomplete,
    /// Broken off by an error.
    Failed,
    /// Broken off by the client.
    Cancelled,
}

/// A response.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Response)]
pub(crate) struct ResponseObject {
    /// Its id.
    pub(crate) id: String,
    /// `response`.
    pub(crate) object: &'static str,
    /// When it began, in seconds since 1970.
    pub(crate) created_at: u64,
    /// When it was whole.
    pub(crate) completed_at: Option<u64>,
    /// How far it is.
    pub(crate) status: Status,
    /// Always false.
    pub(crate) background: bool,
    /// What went wrong.
    pub(crate) error: Option<ResponseError>,
    /// Why it ended early.
    pub(crate) incomplete_details: Option<IncompleteDetails>,
    /// As in the request.
    pub(crate) instructions: Option<String>,
    /// As in the request.
    pub(crate) max_output_tokens: Option<usize>,
    /// Always null.
    pub(crate) max_tool_calls: Option<usize>,
    /// The model's name.
    pub(crate) model: String,
    /// The model's message, once it has begun.
    pub(crate) output: Vec<OutputMessage>,
    /// As in the request.
    pub(crate) parallel_tool_calls: bool,
    /// As in the request.
    pub(crate) previous_response_id: Option<String>,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_cache_key: Option<String>,
    /// Always of nulls.
    pub(crate) reasoning: Reasoning,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) safety_identifier: Option<String>,
    /// `default`.
    pub(crate) service_tier: &'static str,
    /// Whether it can be asked for later.
    pub(crate) store: bool,
    /// What was in effect.
    pub(crate) temperature: f32,
    /// `{"format": {"type": "text"}}`.
    pub(crate) text: Value,
    /// `auto`.
    pub(crate) tool_choice: &'static str,
    /// Always empty.
    #[schema(value_type = Vec<Value>, max_items = 0)]
    pub(crate) tools: [(); 0],
    /// As in the request.
    pub(crate) top_logprobs: usize,
    /// What was in effect.
    pub(crate) top_p: f32,
    /// `disabled`.
    pub(crate) truncation: &'static str,
    /// Tokens counted, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<ResponseUsage>,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// As in the request.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Time taken, once it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<Timings>,
    /// Fields of the request that were not honored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// What went wrong with a response.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ResponseError {
    /// One of OpenAI's codes.
    pub(crate) code: &'static str,
    /// What was found and wanted.
    pub(crate) message: String,
}

/// Why a response ended early.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct IncompleteDetails {
    /// `max_output_tokens`.
    pub(crate) reason: &'static str,
}

/// How a model thinks; there is nothing to set.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct Reasoning {
    /// Always null.
    pub(crate) effort: Option<String>,
    /// Always null.
    pub(crate) summary: Option<String>,
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    /// Of the whole conversation until the answer.
    pub(crate) input_tokens: usize,
    /// More of them.
    pub(crate) input_tokens_details: InputDetails,
    /// Of the answer, the one that ended it included.
    pub(crate) output_tokens: usize,
    /// More of them.
    pub(crate) output_tokens_details: OutputDetails,
    /// Both.
    pub(crate) total_tokens: usize,
}

/// What there is to say of the input's tokens.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct InputDetails {
    /// Those that the cache held.
    pub(crate) cached_tokens: usize,
    /// Those that were computed, and are in the cache now where it has room.
    pub(crate) cache_write_tokens: usize,
}

/// What there is to say of the answer's tokens.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct OutputDetails {
    /// Always 0: thoughts are part of the text.
    pub(crate) reasoning_tokens: usize,
}

impl ResponseUsage {
    /// The tokens of one answer; `keeps` says whether the cache keeps its prompt.
    pub(crate) fn new(usage: Usage, keeps: bool) -> Self {
        let cached_tokens = usage.prompt_tokens_details.cached_tokens;
        let computed = usage.prompt_tokens.saturating_sub(cached_tokens);
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails {
                cached_tokens,
                cache_write_tokens: if keeps { computed } else { 0 },
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails {
                reasoning_tokens: 0,
            },
            total_tokens: usage.total_tokens,
        }
    }
}

/// A message of the model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OutputMessage {
    /// Its id.
    pub(crate) id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// How far it is.
    pub(crate) status: Status,
    /// `assistant`.
    #[schema(schema_with = assistant_schema, required = true)]
    pub(crate) role: &'static str,
    /// Its parts.
    pub(crate) content: Vec<OutputText>,
}

fn assistant_schema() -> RefOr<Schema> {
    schema(json!({"enum": ["assistant"]}))
}

impl OutputMessage {
    /// One without parts.
    pub(crate) fn new(id: String, status: Status) -> Self {
        Self {
            id,
            kind: "message",
            status,
            role: "assistant",
            content: Vec::new(),
        }
    }
}

/// A part of a message of the model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OutputText {
    /// `output_text`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Its text.
    pub(crate) text: String,
    /// Always empty: nothing is cited.
    #[schema(value_type = Vec<Value>, max_items = 0)]
    pub(crate) annotations: [(); 0],
    /// Log-probabilities of its tokens, where they are wanted.
    pub(crate) logprobs: Vec<TokenLogprob>,
}

impl OutputText {
    /// A text.
    pub(crate) fn new(text: String) -> Self {
        Self {
            kind: "output_text",
            text,
            annotations: [],
            logprobs: Vec::new(),
        }
    }
}

/// What happens while a response is made; on the wire it has its name as `type`, and its number.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ResponseEvent {
    /// The response as a whole moved on.
    Response {
        /// As it is now.
        response: Box<ResponseObject>,
    },
    /// Its message begins or ends.
    Item {
        /// 0: there is one.
        output_index: usize,
        /// As it is now.
        item: OutputMessage,
    },
    /// The message's part begins or ends.
    Part {
        /// Of the message.
        item_id: String,
        /// 0.
        output_index: usize,
        /// 0.
        content_index: usize,
        /// As it is now.
        part: OutputText,
    },
    /// The message's text goes on.
    Delta {
        /// Of the message.
        item_id: String,
        /// 0.
        output_index: usize,
        /// 0.
        content_index: usize,
        /// What is new.
        delta: String,
        /// Of its tokens.
        logprobs: Vec<TokenLogprob>,
    },
    /// The message's text is whole.
    Text {
        /// Of the message.
        item_id: String,
        /// 0.
        output_index: usize,
        /// 0.
        content_index: usize,
        /// All of it.
        text: String,
        /// Of its tokens.
        logprobs: Vec<TokenLogprob>,
    },
    /// Something went wrong, as a stream over HTTP says it.
    Error {
        /// What.
        code: &'static str,
        /// In words.
        message: String,
        /// The field that it is about.
        param: Option<String>,
    },
    /// Something went wrong, as a WebSocket says it.
    SocketError {
        /// The status that the same would have over HTTP.
        status: u16,
        /// `{"message", "type", "param", "code"}`.
        error: Value,
    },
}

/// What a response, or an item of input, leaves when it is deleted.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct DeletedResponse {
    /// Its id.
    pub(crate) id: String,
    /// `response`.
    pub(crate) object: &'static str,
    /// True.
    pub(crate) deleted: bool,
}

/// Some of the items of a response's input.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ItemList<T> {
    /// `list`.
    pub(crate) object: &'static str,
    /// The items.
    pub(crate) data: Vec<T>,
    /// The id of the first of them; empty if there is none.
    pub(crate) first_id: String,
    /// The id of the last.
    pub(crate) last_id: String,
    /// Whether there are more after them.
    pub(crate) has_more: bool,
}
