//! The messages of a chat.

use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::fields::{
    FieldError, Neutral, Object, Only, fields, leftovers, request_schema, schema, shown, take,
};

fields! {
    /// A message of a chat.
    pub(crate) struct MessageFields {
        /// Whose it is; `developer` is read as `system`, which templates know.
        #[schema(schema_with = role_schema, required = true)]
        role: String,
        /// Its text, or parts of it, which become lines. May be left out beside tool calls.
        #[schema(schema_with = content_schema)]
        content: Value,
        /// Whose it is, among several of a role.
        name: String,
        /// The calls that an assistant made.
        #[schema(schema_with = tool_calls_schema)]
        tool_calls: Vec<Object>,
        /// The call that a tool answers.
        tool_call_id: String,
        /// What an assistant thought.
        reasoning_content: String,
    }
}

/// Fields that clients send back from an answer; empty, they say nothing.
const NEUTRAL: &[Neutral] = &[
    Neutral::of("refusal", Only::Json(&["[]"])),
    Neutral::of("annotations", Only::Json(&["[]"])),
    Neutral::of("audio", Only::Json(&["[]"])),
    Neutral::of("function_call", Only::Json(&["[]"])),
];

impl ToSchema for Message {}

impl PartialSchema for Message {
    fn schema() -> RefOr<Schema> {
        let all = request_schema("A message of a chat.", [MessageFields::schema()], NEUTRAL);
        let of = |role: &[&str], needed: &str, change: (&str, Value)| {
            let mut variant = json!(all);
            variant["required"] = json!(["role", needed]);
            variant["properties"]["role"]["enum"] = json!(role);
            let (field, schema) = change;
            variant["properties"][field] = schema;
            variant
        };
        let assistant = &["assistant"][..];
        let others: Vec<&str> = ROLES
            .into_iter()
            .filter(|role| *role != "assistant")
            .collect();
        let no_calls = json!({"type": ["array", "null"], "maxItems": 0});
        let mut calls = json!(tool_calls_schema());
        calls["type"] = json!("array");
        calls["minItems"] = json!(1);
        let mut there = json!(MessageFields::schema())["properties"]["content"].take();
        there["anyOf"].as_array_mut().map(Vec::pop);
        let mut variants = [
            of(&others, "content", ("tool_calls", no_calls)),
            of(assistant, "content", ("content", there.clone())),
            of(assistant, "tool_calls", ("tool_calls", calls)),
        ];
        variants[0]["properties"]["content"] = there;
        schema(json!({"anyOf": variants}))
    }
}

/// What `role` can be.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

fn role_schema() -> RefOr<Schema> {
    schema(json!({"enum": ROLES}))
}

fn content_schema() -> RefOr<Schema> {
    let part = json!({
        "type": "object",
        "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
        "required": ["type", "text"],
        "additionalProperties": false,
    });
    schema(json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "items": part},
        {"type": "null"},
    ]}))
}

fn tool_calls_schema() -> RefOr<Schema> {
    let function = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "arguments": {"description": "A JSON text, or what it says."},
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    let call = json!({
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "type": {"enum": ["function", null]},
            "index": {"description": "Its place in a stream, which says nothing here."},
            "function": function,
        },
        "required": ["function"],
        "additionalProperties": false,
    });
    schema(json!({"type": ["array", "null"], "items": call}))
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    /// `system`, `user`, `assistant` or `tool`; `developer` is read as `system`, which templates
    /// know.
    pub(crate) role: &'static str,
    /// Its text; the texts of several parts are lines of it. `None` beside tool calls.
    pub(crate) content: Option<String>,
    /// Whose it is, among several of a role.
    pub(crate) name: Option<String>,
    /// The calls that an assistant made.
    pub(crate) tool_calls: Vec<ToolCall>,
    /// The call that a tool answers.
    pub(crate) tool_call_id: Option<String>,
    /// What an assistant thought.
    pub(crate) reasoning_content: Option<String>,
}

/// A call that an assistant made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolCall {
    /// Its id.
    pub(crate) id: Option<String>,
    /// The function.
    pub(crate) name: String,
    /// Its arguments, parsed.
    pub(crate) arguments: Value,
}

impl Message {
    /// A message that is text alone.
    pub(crate) fn of(role: &'static str, content: String) -> Message {
        Message {
            role,
            content: Some(content),
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            reasoning_content: None,
        }
    }

    /// All messages of a request.
    pub(crate) fn read_all(messages: Vec<Value>) -> Result<Vec<Message>, FieldError> {
        if messages.is_empty() {
            return Err(FieldError::new(
                "messages",
                "an empty list, expected a message",
            ));
        }
        let read = |(i, value)| {
            let path = format!("messages[{i}]");
            match value {
                Value::Object(object) => Self::read(object).map_err(|error| error.within(&path)),
                other => {
                    let problem = format!("{}, expected an object", shown(&other));
                    Err(FieldError::new(path, problem))
                }
            }
        };
        messages.into_iter().enumerate().map(read).collect()
    }

    fn read(mut object: Object) -> Result<Message, FieldError> {
        let fields = MessageFields::take(&mut object)?;
        if let Some(left) = leftovers(object, NEUTRAL).into_iter().next() {
            return Err(match left.is_known {
                true => left.error,
                false => FieldError::new(left.error.param, "not supported in a message"),
            });
        }
        let role = fields
            .role
            .ok_or_else(|| FieldError::new("role", "missing, expected the author's role"))?;
        let known = ROLES.into_iter().find(|known| *known == role);
        let role = match known {
            Some("developer") => "system",
            Some(role) => role,
            None => {
                let problem = format!("{role:?}, expected {}", ROLES.join(", "));
                return Err(FieldError::new("role", problem));
            }
        };
        let calls = fields.tool_calls.unwrap_or_default();
        let message = Message {
            role,
            content: fields.content.map(text_of).transpose()?,
            name: fields.name,
            tool_calls: calls
                .into_iter()
                .enumerate()
                .map(|(i, call)| {
                    ToolCall::read(call).map_err(|error| error.within(&format!("tool_calls[{i}]")))
                })
                .collect::<Result<_, _>>()?,
            tool_call_id: fields.tool_call_id,
            reasoning_content: fields.reasoning_content,
        };
        let is_assistant = role == "assistant";
        if !is_assistant && !message.tool_calls.is_empty() {
            return Err(FieldError::new(
                "tool_calls",
                format!("there in a message of role {role}, expected role assistant"),
            ));
        }
        if message.content.is_none() && message.tool_calls.is_empty() {
            return Err(FieldError::new("content", "missing, expected text"));
        }
        Ok(message)
    }
}

impl ToolCall {
    fn read(mut object: Object) -> Result<ToolCall, FieldError> {
        let id = take(&mut object, "id")?;
        if let Some(kind) = take::<String>(&mut object, "type")?.filter(|kind| kind != "function") {
            let problem = format!("{kind:?}, expected \"function\"");
            return Err(FieldError::new("type", problem));
        }
        // Its place in a stream; the order says it here.
        object.remove("index");
        let mut function: Object = take(&mut object, "function")?
            .ok_or_else(|| FieldError::new("function", "missing, expected an object"))?;
        let name = take(&mut function, "name").and_then(|name| {
            name.ok_or_else(|| FieldError::new("name", "missing, expected a function's name"))
        });
        let arguments = match function.remove("arguments") {
            None | Some(Value::Null) => Ok(Value::Object(Object::new())),
            // Templates want what the text says.
            Some(Value::String(text)) if text.is_empty() => Ok(Value::Object(Object::new())),
            Some(Value::String(text)) => serde_json::from_str(&text)
                .map_err(|error| FieldError::new("arguments", format!("not JSON: {error}"))),
            Some(other) => Ok(other),
        };
        let left = [object, function].into_iter().flatten().next();
        if let Some((name, _)) = left {
            return Err(FieldError::new(name, "not supported in a tool call"));
        }
        Ok(ToolCall {
            id,
            name: name.map_err(|error| error.within("function"))?,
            arguments: arguments.map_err(|error| error.within("function"))?,
        })
    }
}

/// The text of a message's content: a string, or parts that are text.
fn text_of(content: Value) -> Result<String, FieldError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => {
            let problem = format!("{}, expected text or a list of parts", shown(&other));
            return Err(FieldError::new("content", problem));
        }
    };
    let mut texts = Vec::new();
    for (i, part) in parts.into_iter().enumerate() {
        let path = format!("content[{i}]");
        let Value::Object(mut part) = part else {
            let problem = format!("{}, expected an object", shown(&part));
            return Err(FieldError::new(path, problem));
        };
        let kind: Option<String> = take(&mut part, "type").map_err(|error| error.within(&path))?;
        if kind.as_deref() != Some("text") {
            let kind = kind.map_or_else(|| "missing".to_owned(), |kind| format!("{kind:?}"));
            let problem = format!("{kind}, expected \"text\": no other part is supported");
            return Err(FieldError::new("type", problem).within(&path));
        }
        let text: Option<String> = take(&mut part, "text").map_err(|error| error.within(&path))?;
        texts.push(text.ok_or_else(|| FieldError::new("text", "missing").within(&path))?);
        if let Some((name, _)) = part.into_iter().next() {
            return Err(FieldError::new(name, "not supported in a part").within(&path));
        }
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: Value) -> Result<Message, String> {
        Message::read_all(vec![message])
            .map(|mut messages| messages.remove(0))
            .map_err(|error| error.message)
    }

    #[test]
    fn parts_are_lines() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let message = read(json!({"role": "developer", "content": parts})).unwrap();
        assert_eq!(
            (message.role, message.content.as_deref()),
            ("system", Some("a\nb"))
        );
    }

    #[test]
    fn arguments_are_parsed() {
        let call = json!({"id": "c", "type": "function",
            "function": {"name": "f", "arguments": "{\"x\": 1}"}});
        let message = json!({"role": "assistant", "content": null, "refusal": null,
            "annotations": [], "tool_calls": [call]});
        let message = read(message).unwrap();
        assert_eq!(message.tool_calls[0].arguments, json!({"x": 1}));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (message, wanted) in [
            (json!("hi"), "messages[0]: \"hi\", expected an object"),
            (
                json!({"content": "a"}),
                "messages[0].role: missing, expected the author's role",
            ),
            (
                json!({"role": "function", "content": "a"}),
                "messages[0].role: \"function\", expected system, developer, user, assistant, tool",
            ),
            (
                json!({"role": "user"}),
                "messages[0].content: missing, expected text",
            ),
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
                "messages[0].content[0].type: \"image_url\", expected \"text\": no other part is supported",
            ),
            (
                json!({"role": "user", "content": "a", "mood": 1}),
                "messages[0].mood: not supported in a message",
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
                "messages[0].tool_calls[0].function.arguments: not JSON: EOF while parsing an object at line 1 column 1",
            ),
        ] {
            assert_eq!(read(message).unwrap_err(), wanted);
        }
    }
}
