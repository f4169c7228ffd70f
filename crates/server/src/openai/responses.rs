//! `/v1/responses`: requests, and the items of their input.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::fields::{
    FieldError, Neutral, Object, Only, Unsupported, describe_request, fields, leftovers, schema,
    shown, take,
};
use super::message::Message;
use super::response_object::{OutputMessage, OutputText, Status};
use super::sampling::Sampling;

fields! {
    /// What a response has beside its input and [`Sampling`].
    pub(crate) struct ResponseFields {
        /// What is new in the conversation: a text of the user's, or messages.
        #[schema(schema_with = input_schema)]
        input: Value,
        /// The model's name; may be left out where there is one.
        model: String,
        /// The system's message; that of an earlier response does not count.
        instructions: String,
        /// The response whose conversation goes on.
        previous_response_id: String,
        /// Most tokens of the answer.
        #[schema(minimum = 1)]
        max_output_tokens: usize,
        /// How many of the likeliest tokens come with each.
        #[schema(maximum = 20)]
        top_logprobs: usize,
        /// What else the output has.
        #[schema(schema_with = include_schema)]
        include: Vec<String>,
        /// Whether the response can be asked for later.
        store: bool,
        /// What the client wants to find in the response.
        #[schema(schema_with = metadata_schema)]
        metadata: BTreeMap<String, String>,
        /// Echoed: there are no calls.
        parallel_tool_calls: bool,
        /// Echoed.
        user: String,
        /// Echoed.
        safety_identifier: String,
        /// Echoed: what is cached is found without it.
        prompt_cache_key: String,
        /// False to compute and cache the conversation only, for a next response to begin sooner.
        generate: bool,
        /// Variables for the chat template.
        chat_template_kwargs: Object,
    }
}

/// A conversation that is to go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResponseRequest {
    /// What is new in it.
    pub(crate) input: Vec<Item>,
    /// How answers are made.
    pub(crate) sampling: Sampling,
    /// All else.
    pub(crate) fields: ResponseFields,
}

/// A message of a conversation, as it is kept and listed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Item {
    /// Somebody's.
    Input(InputMessage),
    /// The model's.
    Output(OutputMessage),
}

/// A message to the model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct InputMessage {
    /// Its id.
    pub(crate) id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// `user`, `system` or `developer`.
    #[schema(schema_with = input_role_schema, required = true)]
    pub(crate) role: &'static str,
    /// `completed`.
    pub(crate) status: Status,
    /// Its parts.
    pub(crate) content: Vec<InputText>,
}

/// A part of a message to the model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct InputText {
    /// `input_text`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Its text.
    pub(crate) text: String,
}

/// What tokens come with their log-probabilities for.
pub(crate) const INCLUDE_LOGPROBS: &str = "message.output_text.logprobs";

/// What `include` can name: of items that no local model makes there is never anything to include.
pub(crate) const INCLUDABLE: [&str; 8] = [
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    INCLUDE_LOGPROBS,
];

/// Most pairs of `metadata`, and the longest key and value, in characters; as OpenAI has it.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);

/// Text, or messages with text.
fn input_schema() -> RefOr<Schema> {
    let part = |kinds: Value| {
        // What an answer's part has beside its text, sent back, says nothing.
        json!({
            "type": "object",
            "properties": {
                "type": {"enum": kinds},
                "text": {"type": "string"},
                "logprobs": {},
                "annotations": {"type": ["array", "null"], "maxItems": 0},
            },
            "required": ["type", "text"],
            "additionalProperties": {"type": "null"},
        })
    };
    let message = |roles: Value, kinds: Value| {
        json!({
            "type": "object",
            "properties": {
                "type": {"enum": ["message", null]},
                "id": {"type": ["string", "null"]},
                "status": {"type": ["string", "null"]},
                "role": {"enum": roles},
                "content": {"anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": part(kinds)},
                ]},
            },
            "required": ["role", "content"],
            "additionalProperties": {"type": "null"},
        })
    };
    let items = json!({"anyOf": [
        message(json!(["user", "system", "developer"]), json!(["input_text"])),
        message(json!(["assistant"]), json!(["output_text", "input_text"])),
    ]});
    schema(json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "items": items},
        {"type": "null"},
    ]}))
}

fn input_role_schema() -> RefOr<Schema> {
    schema(json!({"enum": ["user", "system", "developer"]}))
}

fn include_schema() -> RefOr<Schema> {
    schema(json!({"type": ["array", "null"], "items": {"enum": INCLUDABLE}}))
}

fn metadata_schema() -> RefOr<Schema> {
    let (n_pairs, key_len, value_len) = MAX_METADATA;
    schema(json!({
        "type": ["object", "null"],
        "maxProperties": n_pairs,
        "propertyNames": {"type": "string", "maxLength": key_len},
        "additionalProperties": {"type": "string", "maxLength": value_len},
    }))
}

/// Fields of OpenAI's that can have one value here, or whose value says nothing to a local model.
const NEUTRAL: &[Neutral] = &[
    Neutral::of("background", Only::Json(&["false"])),
    Neutral::absent("background_options"),
    Neutral::absent("conversation"),
    Neutral::absent("context_management"),
    Neutral::absent("prompt"),
    Neutral::absent("prompt_cache_options"),
    Neutral::absent("moderation"),
    Neutral::absent("access_programs"),
    Neutral::absent("image"),
    Neutral::of("prompt_cache_retention", Only::Json(&["\"in_memory\""])),
    Neutral {
        name: "reasoning",
        only: Only::Fields(&[
            Neutral::absent("mode"),
            Neutral::absent("effort"),
            Neutral::absent("summary"),
            Neutral::absent("generate_summary"),
            Neutral::absent("context"),
        ]),
        hint: "chat_template_kwargs has what the template reads",
    },
    Neutral::of("service_tier", Only::Json(&["\"auto\"", "\"default\""])),
    Neutral::of(
        "stream_options",
        Only::Fields(&[Neutral::of("include_obfuscation", Only::Json(&["false"]))]),
    ),
    Neutral::of(
        "text",
        Only::Fields(&[
            Neutral::of("format", Only::Json(&[r#"{"type":"text"}"#])),
            Neutral::of("verbosity", Only::Json(&["\"medium\""])),
        ]),
    ),
    Neutral {
        name: "truncation",
        only: Only::Json(&["\"disabled\""]),
        hint: "nothing is cut",
    },
    Neutral {
        name: "tools",
        only: Only::Json(&["[]"]),
        hint: "calls in answers are not read",
    },
    Neutral::of("tool_choice", Only::Json(&["\"auto\"", "\"none\""])),
    Neutral {
        name: "max_tool_calls",
        only: Only::Count,
        hint: "there are no calls",
    },
];

describe_request! {
    /// A conversation that is to go on.
    ResponseRequest: ResponseFields, Sampling and NEUTRAL
}

impl ResponseRequest {
    /// Reads a request, and says what of it cannot be honored. `new_id` makes the ids of items that
    /// have none.
    pub(crate) fn read(
        mut object: Object,
        new_id: impl Fn() -> String,
    ) -> Result<(Self, Vec<Unsupported>), FieldError> {
        let mut fields = ResponseFields::take(&mut object)?;
        let input = fields.input.take();
        let input = input.map(|input| Item::read_all(input, &new_id));
        let request = ResponseRequest {
            input: input.transpose()?.unwrap_or_default(),
            sampling: Sampling::take(&mut object)?,
            fields,
        };
        request.check()?;
        Ok((request, leftovers(object, NEUTRAL)))
    }

    fn check(&self) -> Result<(), FieldError> {
        let fields = &self.fields;
        for name in fields.include.iter().flatten() {
            if !INCLUDABLE.contains(&name.as_str()) {
                let wanted = INCLUDABLE.join(", ");
                let problem = format!("{name:?}, expected some of: {wanted}");
                return Err(FieldError::new("include", problem));
            }
        }
        let (n_pairs, key_len, value_len) = MAX_METADATA;
        if let Some(metadata) = &fields.metadata {
            if metadata.len() > n_pairs {
                let problem = format!("{} pairs, expected at most {n_pairs}", metadata.len());
                return Err(FieldError::new("metadata", problem));
            }
            for (key, value) in metadata {
                if key.chars().count() > key_len || value.chars().count() > value_len {
                    let problem = format!(
                        "{key:?}: too long, expected at most {key_len} characters and {value_len} \
                         in its value"
                    );
                    return Err(FieldError::new("metadata", problem));
                }
            }
        }
        if fields.max_output_tokens == Some(0) {
            return Err(FieldError::new(
                "max_output_tokens",
                "0, expected at least 1",
            ));
        }
        Ok(())
    }
}

impl Item {
    /// A text, or a list of messages.
    fn read_all(input: Value, new_id: &impl Fn() -> String) -> Result<Vec<Item>, FieldError> {
        let items = match input {
            Value::String(text) => return Ok(vec![Item::input(new_id(), "user", vec![text])]),
            Value::Array(items) => items,
            other => {
                let problem = format!("{}, expected text or a list of items", shown(&other));
                return Err(FieldError::new("input", problem));
            }
        };
        let read = |(i, value)| {
            let path = format!("input[{i}]");
            match value {
                Value::Object(object) => {
                    Self::read(object, new_id).map_err(|error| error.within(&path))
                }
                other => {
                    let problem = format!("{}, expected an object", shown(&other));
                    Err(FieldError::new(path, problem))
                }
            }
        };
        items.into_iter().enumerate().map(read).collect()
    }

    fn read(mut object: Object, new_id: &impl Fn() -> String) -> Result<Item, FieldError> {
        let kind: Option<String> = take(&mut object, "type")?;
        if let Some(kind) = kind.filter(|kind| kind != "message") {
            let problem = format!("{kind:?}, expected \"message\": no other item is supported");
            return Err(FieldError::new("type", problem));
        }
        let role: String = take(&mut object, "role")?
            .ok_or_else(|| FieldError::new("role", "missing, expected the author's role"))?;
        let role = ["user", "assistant", "system", "developer"]
            .into_iter()
            .find(|known| *known == role)
            .ok_or_else(|| {
                let wanted = "user, assistant, system or developer";
                FieldError::new("role", format!("{role:?}, expected {wanted}"))
            })?;
        let content = take(&mut object, "content")?
            .ok_or_else(|| FieldError::new("content", "missing, expected text"))?;
        let texts = texts_of(content, role)?;
        let id = take(&mut object, "id")?.unwrap_or_else(new_id);
        // What the client was told of it.
        let _: Option<String> = take(&mut object, "status")?;
        if let Some((name, _)) = object.into_iter().find(|(_, value)| !value.is_null()) {
            return Err(FieldError::new(name, "not supported in a message"));
        }
        Ok(match role {
            "assistant" => Item::Output(OutputMessage {
                content: texts.into_iter().map(OutputText::new).collect(),
                ..OutputMessage::new(id, Status::Completed)
            }),
            role => Item::input(id, role, texts),
        })
    }

    fn input(id: String, role: &'static str, texts: Vec<String>) -> Item {
        let part = |text| InputText {
            kind: "input_text",
            text,
        };
        Item::Input(InputMessage {
            id,
            kind: "message",
            role,
            status: Status::Completed,
            content: texts.into_iter().map(part).collect(),
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Item::Input(message) => &message.id,
            Item::Output(message) => &message.id,
        }
    }

    /// The message as chats have it.
    pub(crate) fn message(&self) -> Message {
        let (role, texts): (_, Vec<&str>) = match self {
            Item::Input(message) => {
                let role = match message.role {
                    "user" => "user",
                    _ => "system",
                };
                (role, message.content.iter().map(|p| &*p.text).collect())
            }
            Item::Output(message) => {
                let parts = message.content.iter();
                ("assistant", parts.map(|part| &*part.text).collect())
            }
        };
        Message::of(role, texts.join("\n"))
    }
}

/// The texts of a message's content: a string, or parts that are text.
fn texts_of(content: Value, role: &str) -> Result<Vec<String>, FieldError> {
    let parts = match content {
        Value::String(text) => return Ok(vec![text]),
        Value::Array(parts) => parts,
        other => {
            let problem = format!("{}, expected text or a list of parts", shown(&other));
            return Err(FieldError::new("content", problem));
        }
    };
    let read = |(i, part)| {
        let path = format!("content[{i}]");
        match part {
            Value::Object(part) => text_of(part, role).map_err(|error| error.within(&path)),
            other => {
                let problem = format!("{}, expected an object", shown(&other));
                Err(FieldError::new(path, problem))
            }
        }
    };
    parts.into_iter().enumerate().map(read).collect()
}

fn text_of(mut part: Object, role: &str) -> Result<String, FieldError> {
    let kind: Option<String> = take(&mut part, "type")?;
    let wanted = match (kind.as_deref(), role) {
        (Some("input_text"), _) | (Some("output_text"), "assistant") => None,
        (_, "assistant") => Some("\"output_text\" or \"input_text\""),
        _ => Some("\"input_text\""),
    };
    if let Some(wanted) = wanted {
        let kind = kind.map_or_else(|| "missing".to_owned(), |kind| format!("{kind:?}"));
        let problem = format!("{kind}, expected {wanted}: no other part is supported");
        return Err(FieldError::new("type", problem));
    }
    let text = take(&mut part, "text")?.ok_or_else(|| FieldError::new("text", "missing"))?;
    // What an answer said of its text, sent back.
    part.remove("logprobs");
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if let Some((name, _)) = part.into_iter().find(|(_, value)| !is_empty(value)) {
        return Err(FieldError::new(name, "not supported in a part"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<(ResponseRequest, Vec<Unsupported>), FieldError> {
        let Value::Object(object) = body else {
            panic!("{body}");
        };
        ResponseRequest::read(object, || "msg_new".to_owned())
    }

    #[test]
    fn a_text_is_a_message_of_the_user() {
        let (request, _) = read(json!({"input": "abc"})).unwrap();
        assert_eq!(
            serde_json::to_value(&request.input).unwrap(),
            json!([{"id": "msg_new", "type": "message", "role": "user", "status": "completed",
                "content": [{"type": "input_text", "text": "abc"}]}])
        );
    }

    #[test]
    fn what_was_answered_can_be_sent_back() {
        let answer = json!({"id": "msg_1", "type": "message", "role": "assistant",
            "status": "completed", "phase": null, "content": [{"type": "output_text",
            "text": "a", "annotations": [], "logprobs": [{"token": "a"}]}]});
        let (request, left) =
            read(json!({"input": [answer, {"role": "developer", "content": "b"}]})).unwrap();
        assert_eq!(left, []);
        let messages: Vec<Message> = request.input.iter().map(Item::message).collect();
        assert_eq!(request.input[0].id(), "msg_1");
        assert_eq!(
            messages,
            [
                Message::of("assistant", "a".into()),
                Message::of("system", "b".into())
            ]
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let item = |item: Value| json!({"input": [item]});
        let part = |part: Value| item(json!({"role": "user", "content": [part]}));
        for (body, wanted) in [
            (
                json!({"input": 1}),
                "input: 1, expected text or a list of items",
            ),
            (item(json!("a")), "input[0]: \"a\", expected an object"),
            (
                item(json!({"type": "function_call"})),
                "input[0].type: \"function_call\", expected \"message\": no other item is supported",
            ),
            (
                item(json!({"role": "tool", "content": "a"})),
                "input[0].role: \"tool\", expected user, assistant, system or developer",
            ),
            (
                item(json!({"role": "user", "content": "a", "mood": 1})),
                "input[0].mood: not supported in a message",
            ),
            (
                part(json!({"type": "input_image"})),
                "input[0].content[0].type: \"input_image\", expected \"input_text\": no other part is supported",
            ),
            (
                part(json!({"type": "output_text", "text": "a"})),
                "input[0].content[0].type: \"output_text\", expected \"input_text\": no other part is supported",
            ),
            (
                json!({"metadata": {"k": "v".repeat(513)}}),
                "metadata: \"k\": too long, expected at most 64 characters and 512 in its value",
            ),
            (
                json!({"max_output_tokens": 0}),
                "max_output_tokens: 0, expected at least 1",
            ),
        ] {
            assert_eq!(read(body).unwrap_err().message, wanted);
        }
    }

    #[test]
    fn fields_without_effect_are_named() {
        for (field, harmless, other) in [
            ("background", json!(false), json!(true)),
            ("conversation", json!(null), json!("conv_1")),
            ("prompt", json!(null), json!({"id": "p"})),
            (
                "reasoning",
                json!({"effort": null}),
                json!({"effort": "low"}),
            ),
            ("service_tier", json!("auto"), json!("flex")),
            (
                "text",
                json!({"format": {"type": "text"}, "verbosity": "medium"}),
                json!({"format": {"type": "json_object"}}),
            ),
            ("truncation", json!("disabled"), json!("auto")),
            ("tools", json!([]), json!([{"type": "web_search"}])),
            ("tool_choice", json!("none"), json!("required")),
            ("max_tool_calls", json!(3), json!("3")),
            ("stream_options", json!({}), json!({"include_usage": true})),
        ] {
            let left = |value: Value| read(json!({field: value})).unwrap().1;
            assert_eq!(left(harmless), []);
            let message = left(other).remove(0).error.message;
            assert!(message.starts_with(field), "{message}");
        }
    }
}
