//! Reads requests field by field, so that each error names its field and nothing is passed over.
//!
//! A field that is `null` is one that is not there, as OpenAI has it.

use serde::de::DeserializeOwned;
use serde_json::Value;

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
    /// What it may be.
    pub(crate) wanted: &'static str,
    /// Whether it is that.
    pub(crate) is_it: fn(&Value) -> bool,
}

/// Takes a field out of a request; `None` if it is not there or null.
pub(crate) fn take<T: DeserializeOwned>(
    object: &mut Object,
    name: &str,
) -> Result<Option<T>, FieldError> {
    match object.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| FieldError::new(name, error)),
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
            Some(row) if (row.is_it)(&value) => continue,
            Some(row) => {
                let wanted = row.wanted;
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

/// A struct of optional fields, and how they are taken out of a request.
macro_rules! fields {
    ($(#[$meta:meta])* pub(crate) struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
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
    use serde_json::json;

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
    }

    #[test]
    fn what_is_left_is_unknown_or_cannot_be_honored() {
        let neutral = [Neutral {
            name: "store",
            wanted: "false",
            is_it: |value| *value == false,
        }];
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
