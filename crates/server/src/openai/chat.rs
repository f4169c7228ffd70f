//! `/v1/chat/completions`: requests, answers and their chunks.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::fields::{
    FieldError, Neutral, Object, Only, Unsupported, describe_request, fields, leftovers, schema,
};
use super::message::Message;
use super::sampling::{Answers, Sampling};

fields! {
    /// What a chat has beside [`Sampling`] and [`Answers`].
    pub(crate) struct ChatFields {
        /// The conversation.
        #[schema(value_type = Vec<Message>, min_items = 1)]
        messages: Vec<Value>,
        /// The model's name; may be left out where there is one.
        model: String,
        /// Most tokens of an answer.
        max_completion_tokens: usize,
        /// The same, as it was called before.
        max_tokens: usize,
        /// Whether tokens come with their log-probabilities.
        logprobs: bool,
        /// How many of the likeliest tokens come with each.
        #[schema(maximum = 20)]
        top_logprobs: usize,
        /// Functions that the template is to show; only with `tool_choice: "none"`, since calls in
        /// answers are not read.
        tools: Vec<Object>,
        /// Whether the model may call them.
        #[schema(schema_with = tool_choice_schema)]
        tool_choice: Value,
        /// Variables for the chat template.
        chat_template_kwargs: Object,
        /// Whether the prompt ends with the start of an answer.
        add_generation_prompt: bool,
        /// Whether the last message is the start of the answer; if it is an assistant's and this is
        /// not set, it is.
        continue_final_message: bool,
    }
}

/// A chat that is to be answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChatRequest {
    /// Its messages.
    pub(crate) messages: Vec<Message>,
    /// How answers are made.
    pub(crate) sampling: Sampling,
    /// How many there are.
    pub(crate) answers: Answers,
    /// All else.
    pub(crate) fields: ChatFields,
}

/// Fields of OpenAI's that can have one value here, or whose value says nothing to a local model.
const NEUTRAL: &[Neutral] = &[
    Neutral {
        name: "store",
        only: Only::Json(&["false"]),
        hint: "nothing is stored",
    },
    Neutral::of("metadata", Only::Texts),
    Neutral::of("user", Only::Text),
    Neutral::of("safety_identifier", Only::Text),
    Neutral::of("prompt_cache_key", Only::Text),
    Neutral::of("prompt_cache_retention", Only::Json(&["\"in_memory\""])),
    Neutral {
        name: "prompt_cache_options",
        only: Only::Null,
        hint: "use cache_prompt",
    },
    Neutral::of("service_tier", Only::Json(&["\"auto\"", "\"default\""])),
    Neutral::of("modalities", Only::Json(&[r#"["text"]"#])),
    Neutral::of("verbosity", Only::Json(&["\"medium\""])),
    Neutral {
        name: "reasoning_effort",
        only: Only::Null,
        hint: "chat_template_kwargs has what the template reads",
    },
    Neutral::of("response_format", Only::Json(&[r#"{"type":"text"}"#])),
    Neutral::of("parallel_tool_calls", Only::Bool),
    Neutral::of("functions", Only::Json(&["[]"])),
    Neutral::of("function_call", Only::Json(&["\"none\""])),
    Neutral::absent("web_search_options"),
    Neutral::absent("audio"),
    Neutral::absent("moderation"),
    Neutral::absent("prediction"),
];

describe_request! {
    /// A chat that is to be answered.
    ChatRequest: ChatFields, Sampling, Answers and NEUTRAL
}

fn tool_choice_schema() -> RefOr<Schema> {
    schema(json!({"enum": ["none", "auto", null]}))
}

impl ChatRequest {
    /// Reads a request, and says what of it cannot be honored.
    pub(crate) fn read(mut object: Object) -> Result<(Self, Vec<Unsupported>), FieldError> {
        let mut fields = ChatFields::take(&mut object)?;
        let messages = fields.messages.take();
        let messages = messages
            .ok_or_else(|| FieldError::new("messages", "missing, expected a list of messages"))?;
        let request = ChatRequest {
            messages: Message::read_all(messages)?,
            sampling: Sampling::take(&mut object)?,
            answers: Answers::take(&mut object)?,
            fields,
        };
        Ok((request, leftovers(object, NEUTRAL)))
    }
}

/// One answer to a chat.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    /// Which one.
    pub(crate) index: usize,
    /// The answer.
    pub(crate) message: AssistantMessage,
    /// Log-probabilities of its tokens.
    pub(crate) logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub(crate) finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct AssistantMessage {
    /// `assistant`.
    pub(crate) role: &'static str,
    /// Its text.
    pub(crate) content: String,
    /// Always null: a local model has no second voice to refuse with.
    pub(crate) refusal: Option<String>,
}

/// A part of one answer to a chat.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ChatChunkChoice {
    /// Of which answer.
    pub(crate) index: usize,
    /// What is new.
    pub(crate) delta: Delta,
    /// Log-probabilities of its tokens.
    pub(crate) logprobs: Option<ChatLogprobs>,
    /// Why the answer ended, where it did.
    pub(crate) finish_reason: Option<&'static str>,
}

/// What is new in an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct Delta {
    /// `assistant`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

/// Log-probabilities of the tokens of an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    /// Of its content.
    pub(crate) content: Vec<TokenLogprob>,
    /// Always null.
    pub(crate) refusal: Option<Vec<TokenLogprob>>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    /// The token and its log-probability.
    #[serde(flatten)]
    pub(crate) token: TopLogprob,
    /// The likeliest tokens.
    pub(crate) top_logprobs: Vec<TopLogprob>,
}

/// A token that was likely.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TopLogprob {
    /// Its text; where that is part of a character, with U+FFFD.
    pub(crate) token: String,
    /// Its log-probability.
    pub(crate) logprob: f32,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(field: &str, value: Value) -> Vec<String> {
        let mut object = Object::new();
        object.insert("messages".into(), json!([{"role": "user", "content": "a"}]));
        object.insert(field.into(), value);
        let (_, left) = ChatRequest::read(object).unwrap();
        left.into_iter().map(|field| field.error.message).collect()
    }

    #[test]
    fn fields_without_effect_are_named() {
        for (field, harmless, other) in [
            ("store", json!(false), json!(true)),
            ("metadata", json!({"a": "b"}), json!({"a": 1})),
            ("user", json!("u"), json!(1)),
            ("safety_identifier", json!("u"), json!(1)),
            ("prompt_cache_key", json!("k"), json!(1)),
            ("prompt_cache_retention", json!("in_memory"), json!("24h")),
            ("prompt_cache_options", json!(null), json!({})),
            ("service_tier", json!("auto"), json!("flex")),
            ("modalities", json!(["text"]), json!(["text", "audio"])),
            ("verbosity", json!("medium"), json!("low")),
            ("reasoning_effort", json!(null), json!("low")),
            (
                "response_format",
                json!({"type": "text"}),
                json!({"type": "json_object"}),
            ),
            ("parallel_tool_calls", json!(true), json!("yes")),
            ("functions", json!([]), json!([{"name": "f"}])),
            ("function_call", json!("none"), json!({"name": "f"})),
            ("web_search_options", json!(null), json!({})),
            ("audio", json!(null), json!({"voice": "alloy"})),
            ("moderation", json!(null), json!({})),
            ("prediction", json!(null), json!({"type": "content"})),
        ] {
            assert_eq!(left(field, harmless), Vec::<String>::new());
            let message = left(field, other).remove(0);
            assert!(message.starts_with(&format!("{field}: ")), "{message}");
        }
        assert_eq!(left("temprature", json!(1)), ["temprature: no such field"]);
    }
}
