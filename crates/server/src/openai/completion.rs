//! `/v1/completions`: requests, and answers that are whole or in chunks of the same shape.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::fields::{
    FieldError, Neutral, Object, Only, Unsupported, describe_request, fields, leftovers, schema,
    shown, whole,
};
use super::sampling::{Answers, Sampling};

fields! {
    /// What a completion has beside [`Sampling`] and [`Answers`].
    pub(crate) struct CompletionFields {
        /// What is to go on: a text, tokens, or a list of one of them.
        #[schema(schema_with = prompt_schema, required = true)]
        prompt: Value,
        /// The model's name; may be left out where there is one.
        model: String,
        /// Most tokens of an answer.
        max_tokens: usize,
        /// Whether the answer begins with the prompt.
        echo: bool,
        /// How many of the likeliest tokens come with each.
        #[schema(maximum = 20)]
        logprobs: usize,
    }
}

/// A text, or several, that are to go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompletionRequest {
    /// The texts.
    pub(crate) prompts: Vec<Prompt>,
    /// How answers are made.
    pub(crate) sampling: Sampling,
    /// How many there are.
    pub(crate) answers: Answers,
    /// All else.
    pub(crate) fields: CompletionFields,
}

/// One text that is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// As text.
    Text(String),
    /// As tokens.
    Tokens(Vec<u32>),
}

/// Prompts of one request.
const MAX_PROMPTS: usize = 128;

/// Fields of OpenAI's that can have one value here.
const NEUTRAL: &[Neutral] = &[
    Neutral::of("best_of", Only::Json(&["1"])),
    Neutral::absent("suffix"),
    Neutral::of("user", Only::Text),
];

describe_request! {
    /// A text, or several, that are to go on.
    CompletionRequest: CompletionFields, Sampling, Answers and NEUTRAL
}

fn prompt_schema() -> RefOr<Schema> {
    let tokens = json!({
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
    });
    let list = |items: &Value| json!({"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": items});
    schema(json!({"anyOf": [
        {"type": "string"},
        tokens,
        list(&json!({"type": "string"})),
        list(&tokens),
    ]}))
}

impl CompletionRequest {
    /// Reads a request, and says what of it cannot be honored.
    pub(crate) fn read(mut object: Object) -> Result<(Self, Vec<Unsupported>), FieldError> {
        let mut fields = CompletionFields::take(&mut object)?;
        let prompt = fields.prompt.take();
        let prompt = prompt.ok_or_else(|| FieldError::new("prompt", "missing, expected text"))?;
        let request = CompletionRequest {
            prompts: read_prompts(prompt)?,
            sampling: Sampling::take(&mut object)?,
            answers: Answers::take(&mut object)?,
            fields,
        };
        Ok((request, leftovers(object, NEUTRAL)))
    }
}

/// A text, a list of texts, a list of tokens, or a list of lists of tokens.
fn read_prompts(value: Value) -> Result<Vec<Prompt>, FieldError> {
    let wrong = |value: &Value| {
        let wanted = "text, tokens, or a list of one of them";
        FieldError::new("prompt", format!("{}, expected {wanted}", shown(value)))
    };
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(list) if !list.is_empty() => list,
        other => return Err(wrong(&other)),
    };
    let token = |value: &Value| whole(value).and_then(|id| u32::try_from(id).ok());
    let tokens = |list: &[Value]| list.iter().map(token).collect::<Option<Vec<u32>>>();
    if let Some(tokens) = tokens(&list) {
        return Ok(vec![Prompt::Tokens(tokens)]);
    }
    if list.len() > MAX_PROMPTS {
        let problem = format!("{} prompts, expected at most {MAX_PROMPTS}", list.len());
        return Err(FieldError::new("prompt", problem));
    }
    let is_text = list[0].is_string();
    let prompt = |value: Value| match value {
        Value::String(text) if is_text => Ok(Prompt::Text(text)),
        Value::Array(list) if !is_text => {
            let tokens = tokens(&list).ok_or_else(|| wrong(&Value::Array(list)))?;
            Ok(Prompt::Tokens(tokens))
        }
        other => Err(wrong(&other)),
    };
    list.into_iter().map(prompt).collect()
}

/// One answer, or a part of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    /// Which one.
    pub(crate) index: usize,
    /// Its text.
    pub(crate) text: String,
    /// Log-probabilities of its tokens.
    pub(crate) logprobs: Option<CompletionLogprobs>,
    /// Why it ended, where it did.
    pub(crate) finish_reason: Option<&'static str>,
}

/// Log-probabilities of tokens, as lists of the same length.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    /// The tokens' texts; `bytes:\x..` where that is part of a character.
    pub(crate) tokens: Vec<String>,
    /// Their log-probabilities; null for the first of a prompt.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens in the place of each, and the token itself.
    #[schema(value_type = Vec<Option<std::collections::BTreeMap<String, f32>>>)]
    pub(crate) top_logprobs: Vec<Option<TopTokens>>,
    /// Where in the answer's text each begins, in characters.
    pub(crate) text_offset: Vec<usize>,
}

/// Tokens and their log-probabilities, the likeliest first: an object in JSON, whose numbers are
/// written as those of `token_logprobs` are.
#[derive(Debug, Clone)]
pub(crate) struct TopTokens(pub(crate) Vec<(String, f32)>);

impl Serialize for TopTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_texts_or_tokens() {
        let text = |text: &str| Prompt::Text(text.into());
        for (value, wanted) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", ""]), vec![text("a"), text("")]),
            (json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]),
            (
                json!([[1], [2]]),
                vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2])],
            ),
        ] {
            assert_eq!(read_prompts(value).unwrap(), wanted);
        }
        for value in [
            json!([]),
            json!(1),
            json!([1, "a"]),
            json!(["a", 1]),
            json!([[1], "a"]),
            json!([[-1]]),
            json!([1.5]),
            json!([4294967296u64]),
            json!(vec!["a"; 129]),
        ] {
            assert_eq!(read_prompts(value).unwrap_err().param, "prompt");
        }
    }

    #[test]
    fn fields_without_effect_are_named() {
        for (field, harmless, other) in [
            ("best_of", json!(1), json!(2)),
            ("suffix", json!(null), json!("end")),
            ("user", json!("u"), json!(1)),
        ] {
            let left = |value: &Value| {
                let mut object = Object::new();
                object.insert("prompt".into(), "a".into());
                object.insert(field.into(), value.clone());
                CompletionRequest::read(object).unwrap().1
            };
            assert_eq!(left(&harmless), []);
            assert_eq!(left(&other)[0].error.param, field);
        }
    }
}
