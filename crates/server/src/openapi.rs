//! The description of the API, OpenAPI 3.1: made from the list of routes, the wire types and the
//! table of errors, so that it cannot say something else than they do.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::error::ErrorCode;
use crate::routes::{Access, ROUTES, Route};

/// One method of a route, for the description.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub(crate) method: &'static str,
    /// Its name in clients that are made from the description.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) parameters: &'static [Parameter],
    /// What its body is.
    pub(crate) request: Option<Shape>,
    /// What it answers if all is well, by status.
    pub(crate) answers: &'static [(u16, Content)],
    /// What it answers else, beside what its access and its body bring.
    pub(crate) errors: &'static [&'static [ErrorCode]],
}

impl Operation {
    /// A GET without parameters, to be filled in.
    pub(crate) const GET: Operation = Operation {
        method: "get",
        id: "",
        summary: "",
        parameters: &[],
        request: None,
        answers: &[],
        errors: &[],
    };
}

/// A parameter in the path or the query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) is_in_path: bool,
    pub(crate) what: &'static str,
    pub(crate) schema: fn() -> Value,
}

/// What an answer consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// An object.
    Json(Shape),
    /// An object, or a stream of events where the request asks for one.
    JsonOrEvents(Shape, Shape),
    /// Text of another type.
    Text(&'static str),
    /// This description.
    OpenApi,
    /// Nothing: the connection becomes something else.
    Switch,
}

/// A wire type and its name.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    name: &'static str,
    schema: fn() -> RefOr<Schema>,
    parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Shape {
    pub(crate) const fn of<T: ToSchema>(name: &'static str) -> Self {
        Self {
            name,
            schema: T::schema,
            parts: T::schemas,
        }
    }

    /// A type that is made with another one, of which it does not tell by itself.
    pub(crate) const fn around<T: ToSchema, Inner: ToSchema>(name: &'static str) -> Self {
        Self {
            name,
            schema: T::schema,
            parts: |schemas| {
                T::schemas(schemas);
                Inner::schemas(schemas);
                schemas.push((Inner::name().into_owned(), Inner::schema()));
            },
        }
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What a body can be refused for.
const BODY: &[ErrorCode] = &[
    ErrorCode::InvalidRequest,
    ErrorCode::NotJson,
    ErrorCode::BodyTooLarge,
    ErrorCode::BodyTimeout,
];
/// What any request can be refused for.
const ANY: &[ErrorCode] = &[
    ErrorCode::HostNotAllowed,
    ErrorCode::OriginNotAllowed,
    ErrorCode::Internal,
];
/// What a request with a key can be refused for.
const KEY: &[ErrorCode] = &[
    ErrorCode::MissingKey,
    ErrorCode::InvalidKey,
    ErrorCode::MissingScope,
];
/// What work can be refused for.
const WORK: &[ErrorCode] = &[
    ErrorCode::RequestLimit,
    ErrorCode::ConcurrencyLimit,
    ErrorCode::Draining,
];
/// Where a model is looked up.
pub(crate) const MODEL: &[ErrorCode] = &[ErrorCode::UnknownModel, ErrorCode::ModelNotAllowed];
/// Where a model is used.
pub(crate) const LOADED_MODEL: &[ErrorCode] = &[
    ErrorCode::ModelFailed,
    ErrorCode::Overloaded,
    ErrorCode::QueueTimeout,
];
/// Where fields are read one by one.
pub(crate) const FIELDS: &[ErrorCode] = &[ErrorCode::UnsupportedField, ErrorCode::UnknownField];
/// Where something is generated.
pub(crate) const GENERATION: &[ErrorCode] = &[
    ErrorCode::ContextLength,
    ErrorCode::TokenLimit,
    ErrorCode::RequestOverTokenLimit,
    ErrorCode::QuotaExceeded,
    ErrorCode::EngineFailed,
    ErrorCode::DeviceFailed,
    ErrorCode::FirstTokenTimeout,
    ErrorCode::TotalTimeout,
];

/// What an operation can answer instead, in the order of the table.
fn errors(route: &Route, operation: &Operation) -> Vec<ErrorCode> {
    let mut groups = vec![ANY];
    if route.access != Access::Public {
        groups.push(KEY);
    }
    if route.access == Access::Work {
        groups.push(WORK);
    }
    if operation.request.is_some() {
        groups.push(BODY);
    }
    if !operation.parameters.is_empty() {
        groups.push(&[ErrorCode::InvalidRequest]);
    }
    groups.extend(operation.errors);
    let all = ErrorCode::ALL.iter().copied();
    all.filter(|code| groups.iter().any(|group| group.contains(code)))
        .collect()
}

/// The description, as a server gives it; `needs_key` says whether it asks for one.
pub fn openapi(needs_key: bool) -> Value {
    let mut schemas = Schemas::default();
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.code()).collect();
    schemas.0.insert("Error".to_owned(), error_schema(codes));
    let mut paths = Map::new();
    for route in ROUTES.iter().filter(|route| !route.operations.is_empty()) {
        let operations = route.operations.iter().map(|operation| {
            let described = describe(route, operation, needs_key, &mut schemas);
            (operation.method.to_owned(), described)
        });
        // OpenAPI has no word for a name with slashes.
        let path = route.path.replace("{*", "{");
        paths.insert(path, Value::Object(operations.collect()));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Minerva",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Local models over OpenAI's API",
            "description": "Nothing of a request is passed over: a field that is not here, or \
                cannot be honored, is refused by its name. Every path that begins with `/v1` is \
                there without that too.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.0,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

fn describe(route: &Route, operation: &Operation, needs_key: bool, schemas: &mut Schemas) -> Value {
    let mut answers = Map::new();
    for (status, content) in operation.answers {
        let mut answer = json!({
            "description": if *status == 101 { "A WebSocket begins." } else { "All is well." },
            "headers": headers(route, false),
        });
        if let Some(content) = schemas.content(*content) {
            answer["content"] = content;
        }
        answers.insert(status.to_string(), answer);
    }
    let errors = errors(route, operation);
    for first in &errors {
        let status = first.status();
        let same: Vec<ErrorCode> = errors
            .iter()
            .copied()
            .filter(|code| code.status() == status)
            .collect();
        let key = status.as_u16().to_string();
        let lines = same
            .iter()
            .map(|c| format!("* `{}`: {}", c.code(), c.cause()));
        let description = lines.collect::<Vec<_>>().join("\n");
        let codes = same.iter().map(|code| code.code()).collect();
        let mut content = json!({"application/json": {"schema": error_schema(codes)}});
        // A status that is an answer in one life and an error in another, as of the probes.
        if let Some(answer) = answers.get(&key) {
            let both = json!([
                content["application/json"]["schema"],
                answer["content"]["application/json"]["schema"],
            ]);
            content["application/json"]["schema"] = json!({"anyOf": both});
        }
        answers.entry(&key).or_insert_with(|| {
            json!({
                "description": description,
                "headers": headers(route, true),
                "content": content,
            })
        });
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [tag(route.path)],
        "responses": answers,
    });
    let security = match (route.access, needs_key) {
        (Access::Public, _) => json!([]),
        (Access::Scope(crate::auth::Scope::Admin), _) | (_, true) => {
            json!([{"bearer": []}, {"x-api-key": []}])
        }
        (_, false) => json!([{}, {"bearer": []}, {"x-api-key": []}]),
    };
    described["security"] = security;
    if !operation.parameters.is_empty() {
        let parameters = operation.parameters.iter().map(|parameter| {
            json!({
                "name": parameter.name,
                "in": if parameter.is_in_path { "path" } else { "query" },
                "required": parameter.is_in_path,
                "description": parameter.what,
                "schema": (parameter.schema)(),
            })
        });
        described["parameters"] = parameters.collect();
    }
    if let Some(request) = operation.request {
        let schema = schemas.reference(request);
        described["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schema}},
        });
    }
    described
}

/// What routes are listed under.
fn tag(path: &str) -> &str {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.split('/').nth(1).unwrap_or(path)
}

/// `{"error": {…}}` with one of these codes.
fn error_schema(codes: Vec<&str>) -> Value {
    let mut codes = codes;
    codes.dedup();
    json!({
        "type": "object",
        "properties": {"error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "enum": codes},
            },
            "required": ["message", "type", "param", "code"],
            "additionalProperties": false,
        }},
        "required": ["error"],
        "additionalProperties": false,
    })
}

fn headers(route: &Route, is_error: bool) -> Value {
    let header = |what: &str, kind: &str| json!({"description": what, "schema": {"type": kind}});
    let mut headers =
        json!({"x-request-id": header("The id of the request in the log.", "string")});
    headers["x-request-id"]["required"] = true.into();
    if route.access == Access::Work {
        for of in ["requests", "tokens"] {
            for (name, what, kind) in [
                ("limit", "What a minute has for the key", "integer"),
                ("remaining", "What is left of it", "integer"),
                ("reset", "When all of it is there again", "string"),
            ] {
                headers[format!("x-ratelimit-{name}-{of}")] =
                    header(&format!("{what}: {of}. Only where there is a limit."), kind);
            }
        }
    }
    if is_error {
        headers["retry-after"] = header("Seconds to wait, where waiting helps.", "integer");
        headers["retry-after-ms"] = header("The same in milliseconds.", "integer");
        headers["x-should-retry"] = header("false where waiting does not help.", "string");
    }
    headers
}

/// The wire types that something refers to.
#[derive(Default)]
struct Schemas(Map<String, Value>);

impl Schemas {
    fn reference(&mut self, shape: Shape) -> Value {
        let mut parts = Vec::new();
        (shape.parts)(&mut parts);
        parts.push((shape.name.to_owned(), (shape.schema)()));
        for (name, schema) in parts {
            self.0.entry(name).or_insert_with(|| json!(schema));
        }
        json!({"$ref": format!("#/components/schemas/{}", shape.name)})
    }

    fn content(&mut self, content: Content) -> Option<Value> {
        Some(match content {
            Content::Json(shape) => json!({"application/json": {"schema": self.reference(shape)}}),
            Content::JsonOrEvents(shape, event) => json!({
                "application/json": {"schema": self.reference(shape)},
                // Each event of the stream, with what its data say.
                "text/event-stream": {"schema": {
                    "type": "object",
                    "properties": {
                        "event": {"type": "string"},
                        "data": {
                            "type": "string",
                            "description": "JSON; or `[DONE]` at the end of chats and completions.",
                            "anyOf": [
                                {
                                    "contentMediaType": "application/json",
                                    "contentSchema": {"anyOf": [
                                        self.reference(event),
                                        {"$ref": "#/components/schemas/Error"},
                                    ]},
                                },
                                {"const": "[DONE]"},
                            ],
                        },
                    },
                }},
            }),
            Content::Text(media_type) => json!({media_type: {"schema": {"type": "string"}}}),
            Content::OpenApi => json!({"application/json": {"schema": {"type": "object"}}}),
            Content::Switch => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_name_is_one() {
        let document = openapi(false);
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut used = HashSet::new();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
            used.insert(name);
        }
        let unused = schemas.keys().find(|name| !used.contains(name.as_str()));
        assert_eq!(unused, None);
        let mut ids = HashSet::new();
        for operation in ROUTES.iter().flat_map(|route| route.operations) {
            assert!(ids.insert(operation.id), "{}", operation.id);
        }
    }

    #[test]
    fn a_path_is_described_once() {
        let is_there = |path: &str| ROUTES.iter().any(|route| route.path == path);
        for route in ROUTES {
            let is_short = is_there(&format!("/v1{}", route.path));
            assert_eq!(route.operations.is_empty(), is_short, "{}", route.path);
            if let Some(short) = route.path.strip_prefix("/v1") {
                assert!(is_there(short), "{short}");
            }
        }
    }
}
