//! Reads requests field by field, so that each error names its field and nothing is passed over.
//!
//! A field that is `null` is one that is not there, as OpenAI has it.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Schema};

use crate::error::bounded;

/// A JSON object.
pub(crate) type Object = serde_json::Map<String, Value>;

/// The most characters of a value that a message shows.
const MAX_SHOWN: usize = 80;

/// The most characters of what is said about a field.
const MAX_PROBLEM: usize = 300;

/// A field whose value is not what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Where it is: `messages[0].role`.
    pub(crate) param: String,
    /// What was found and wanted; begins with the field.
    pub(crate) message: String,
}

impl FieldError {
    /// An error about a field; `problem` says what was found and wanted.
    pub(crate) fn new(param: impl Into<String>, problem: impl std::fmt::Display) -> FieldError {
        let param = bounded(param.into(), MAX_SHOWN);
        let problem = bounded(problem.to_string(), MAX_PROBLEM);
        FieldError {
            message: format!("{param}: {problem}"),
            param,
        }
    }

    /// The same, where the field is part of another.
    pub(crate) fn within(self, parent: &str) -> FieldError {
        FieldError {
            param: format!("{parent}.{}", self.param),
            message: format!("{parent}.{}", self.message),
        }
    }
}

/// A field that cannot be honored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsupported {
    /// The field and what is wrong with it.
    pub(crate) error: FieldError,
    /// Whether it is documented, and only this value cannot be honored.
    pub(crate) is_known: bool,
}

/// A documented field of which only values that change nothing can be honored.
pub(crate) struct Neutral {
    /// The field.
    pub(crate) name: &'static str,
    /// What it may be, beside null.
    pub(crate) only: Only,
    /// Why, or what to do instead; may be empty.
    pub(crate) hint: &'static str,
}

/// The values that a [`Neutral`] field may have.
pub(crate) enum Only {
    /// Null alone.
    Null,
    /// One of these, which are written as JSON.
    Json(&'static [&'static str]),
    /// Any text.
    Text,
    /// True or false.
    Bool,
    /// A whole number of 0 or more.
    Count,
    /// An object of texts.
    Texts,
    /// An object of such fields.
    Fields(&'static [Neutral]),
}

impl Neutral {
    /// A field that can be left out only.
    pub(crate) const fn absent(name: &'static str) -> Neutral {
        Neutral::of(name, Only::Null)
    }

    /// A field without a hint.
    pub(crate) const fn of(name: &'static str, only: Only) -> Neutral {
        let hint = "";
        Neutral { name, only, hint }
    }

    /// What it may be, in words.
    fn wanted(&self) -> String {
        match self.hint {
            "" => self.only.to_string(),
            hint => format!("{}: {hint}", self.only),
        }
    }

    /// As the description of the API has it.
    fn schema(&self) -> Value {
        let mut schema = self.only.schema();
        schema["description"] = format!("Only {}.", self.wanted()).into();
        schema
    }
}

impl Only {
    fn allows(&self, value: &Value) -> bool {
        match self {
            Only::Null => false,
            Only::Json(texts) => texts.iter().any(|text| {
                let constant = constant(text);
                *value == constant || constant.as_i64().is_some_and(|n| whole(value) == Some(n))
            }),
            Only::Text => value.is_string(),
            Only::Bool => value.is_boolean(),
            Only::Count => whole(value).is_some_and(|number| number >= 0),
            Only::Texts => value
                .as_object()
                .is_some_and(|fields| fields.values().all(Value::is_string)),
            Only::Fields(rows) => value
                .as_object()
                .is_some_and(|fields| leftovers(fields.clone(), rows).is_empty()),
        }
    }

    fn schema(&self) -> Value {
        match self {
            Only::Null => json!({"type": "null"}),
            Only::Json(texts) => {
                let values = texts.iter().map(|text| constant(text));
                let values: Vec<Value> = values.chain([Value::Null]).collect();
                json!({"enum": values})
            }
            Only::Text => json!({"type": ["string", "null"]}),
            Only::Bool => json!({"type": ["boolean", "null"]}),
            Only::Count => json!({"type": ["integer", "null"], "minimum": 0}),
            Only::Texts => {
                json!({"type": ["object", "null"], "additionalProperties": {"type": "string"}})
            }
            Only::Fields(rows) => {
                let properties = rows.iter().map(|row| (row.name.to_owned(), row.schema()));
                let properties: Object = properties.collect();
                json!({
                    "type": ["object", "null"],
                    "properties": properties,
                    "additionalProperties": false,
                })
            }
        }
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Only::Null => f.write_str("none"),
            Only::Json(texts) => f.write_str(&texts.join(" or ")),
            Only::Text => f.write_str("text"),
            Only::Bool => f.write_str("true or false"),
            Only::Count => f.write_str("a whole number"),
            Only::Texts => f.write_str("an object of texts"),
            Only::Fields(rows) => {
                let rows: Vec<String> = rows
                    .iter()
                    .map(|row| format!("{}: {}", row.name, row.wanted()))
                    .collect();
                write!(f, "an object of {}", rows.join(", "))
            }
        }
    }
}

/// A value that a table has as JSON.
fn constant(text: &str) -> Value {
    serde_json::from_str(text).expect("the tables of neutral fields hold JSON")
}

/// A schema that is written down as JSON.
pub(crate) fn schema(mut json: Value) -> RefOr<Schema> {
    add_types(&mut json);
    serde_json::from_value(json).expect("what is written down is a schema")
}

/// Writes out the types of every schema, which utoipa does not read without.
fn add_types(schema: &mut Value) {
    const ANY: [&str; 6] = ["string", "number", "boolean", "object", "array", "null"];
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    if let Some(values) = fields.get("enum").and_then(Value::as_array) {
        let mut types: Vec<&str> = values.iter().map(type_of).collect();
        types.dedup();
        let types = json!(types);
        fields.insert("type".to_owned(), types);
    }
    let is_typed = |name| fields.contains_key(name);
    if !["type", "anyOf", "$ref"].into_iter().any(is_typed) {
        fields.insert("type".to_owned(), json!(ANY));
    }
    for (name, value) in fields {
        match name.as_str() {
            "items" | "additionalProperties" => add_types(value),
            "anyOf" => value
                .as_array_mut()
                .into_iter()
                .flatten()
                .for_each(add_types),
            "properties" => {
                let properties = value.as_object_mut().into_iter().flatten();
                properties.for_each(|(_, value)| add_types(value));
            }
            _ => {}
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The schema of a request: an object with the fields of its structs, with those that can have one
/// value, and with no other.
pub(crate) fn request_schema(
    description: &str,
    parts: impl IntoIterator<Item = RefOr<Schema>>,
    neutral: &[Neutral],
) -> RefOr<Schema> {
    let mut object = utoipa::openapi::ObjectBuilder::new()
        .description(Some(description))
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .build();
    for part in parts {
        if let RefOr::T(Schema::Object(part)) = part {
            object.properties.extend(part.properties);
            object.required.extend(part.required);
        }
    }
    let neutral = neutral
        .iter()
        .filter(|row| !object.properties.contains_key(row.name));
    let neutral: Vec<_> = neutral
        .map(|row| (row.name.to_owned(), schema(row.schema())))
        .collect();
    object.properties.extend(neutral);
    RefOr::T(Schema::Object(object))
}

/// Describes a request by the structs that its fields are taken with, and the table of those that
/// can have one value.
macro_rules! describe_request {
    ($(#[doc = $doc:literal])* $request:ident: $($part:ident),* and $neutral:expr) => {
        impl utoipa::ToSchema for $request {
            fn schemas(
                schemas: &mut Vec<(
                    String,
                    utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>,
                )>,
            ) {
                $(<$part as utoipa::ToSchema>::schemas(schemas);)*
            }
        }

        impl utoipa::PartialSchema for $request {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                $crate::openai::fields::request_schema(
                    concat!($($doc),*).trim(),
                    [$(<$part as utoipa::PartialSchema>::schema()),*],
                    $neutral,
                )
            }
        }
    };
}

pub(crate) use describe_request;

/// Takes a field out of a request; `None` if it is not there or null.
pub(crate) fn take<T: DeserializeOwned>(
    object: &mut Object,
    name: &str,
) -> Result<Option<T>, FieldError> {
    match object.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            Ok(taken) => Ok(Some(taken)),
            Err(error) => Err(FieldError::new(name, error)),
        },
    }
}

/// Reads what clients send. JSON has one kind of number, so 5.0 is a whole one.
pub(crate) fn read<T: DeserializeOwned>(mut value: Value) -> Result<T, serde_json::Error> {
    T::deserialize(&value).or_else(|error| match make_whole(&mut value) {
        true => T::deserialize(&value),
        false => Err(error),
    })
}

/// A number that is whole, however it is written.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    // Beyond that not every whole number can be written as 5.0.
    const MAX: f64 = 9_007_199_254_740_992.0;
    let float = |value: &Value| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= MAX).then_some(number as i64)
    };
    value.as_i64().or_else(|| float(value))
}

/// Writes whole numbers as such; whether there were others.
fn make_whole(value: &mut Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => match whole(value) {
            Some(number) => {
                *value = number.into();
                true
            }
            None => false,
        },
        Value::Array(items) => items
            .iter_mut()
            .fold(false, |any, item| make_whole(item) | any),
        Value::Object(fields) => {
            let values = fields.iter_mut().map(|(_, value)| value);
            values.fold(false, |any, value| make_whole(value) | any)
        }
        _ => false,
    }
}

/// What is left of a request after its fields were taken: those that are unknown, and those that
/// are known and have a value that cannot be honored.
pub(crate) fn leftovers(object: Object, neutral: &[Neutral]) -> Vec<Unsupported> {
    let mut found = Vec::new();
    for (name, value) in object {
        let row = neutral.iter().find(|row| row.name == name);
        if value.is_null() && row.is_some() {
            continue;
        }
        let is_known = row.is_some();
        let error = match row {
            Some(row) if row.only.allows(&value) => continue,
            Some(row) => {
                let wanted = row.wanted();
                FieldError::new(name, format!("{}, expected {wanted}", shown(&value)))
            }
            None => FieldError::new(name, "no such field"),
        };
        found.push(Unsupported { error, is_known });
    }
    found
}

/// A value as a message shows it.
pub(crate) fn shown(value: &Value) -> String {
    bounded(value.to_string(), MAX_SHOWN)
}

/// A struct of optional fields: how they are taken out of a request, and how they are described.
/// `#[schema(…)]` on a field says what its type does not; a field whose described type is not
/// optional must be there.
macro_rules! fields {
    ($(#[$meta:meta])* pub(crate) struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, utoipa::ToSchema)]
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: Option<$type>,)*
        }

        impl $name {
            /// Takes the fields out of a request.
            pub(crate) fn take(
                object: &mut $crate::openai::fields::Object,
            ) -> Result<Self, $crate::openai::fields::FieldError> {
                Ok(Self {
                    $($field: $crate::openai::fields::take(object, stringify!($field))?,)*
                })
            }
        }
    };
}

pub(crate) use fields;

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn errors_name_the_field() {
        let mut request = object(json!({"n": "two", "seed": null}));
        assert_eq!(take::<i64>(&mut request, "seed"), Ok(None));
        let error = take::<i64>(&mut request, "n").unwrap_err();
        assert_eq!(error.param, "n");
        assert_eq!(
            error.message,
            "n: invalid type: string \"two\", expected i64"
        );
        assert_eq!(error.within("a[1]").param, "a[1].n");
        assert!(request.is_empty());
        let mut request = object(json!({"n": 2.0, "list": [1.0, 2], "t": 1.5}));
        assert_eq!(take(&mut request, "n"), Ok(Some(2)));
        assert_eq!(take(&mut request, "list"), Ok(Some(vec![1, 2])));
        assert!(take::<i64>(&mut request, "t").is_err());
    }

    #[test]
    fn what_is_left_is_unknown_or_cannot_be_honored() {
        let neutral = [Neutral::of("store", Only::Json(&["false"]))];
        let left = |value| leftovers(object(value), &neutral);
        assert_eq!(left(json!({"store": false})), []);
        assert_eq!(left(json!({"store": null})), []);
        let found = left(json!({"store": true, "color": null}));
        let messages: Vec<(&str, bool)> = found
            .iter()
            .map(|field| (field.error.message.as_str(), field.is_known))
            .collect();
        assert_eq!(
            messages,
            [
                ("store: true, expected false", true),
                ("color: no such field", false)
            ]
        );
    }
}
