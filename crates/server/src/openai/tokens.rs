//! `/tokenize` and `/detokenize`, as llama-server has them.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::fields::schema;

/// A text whose tokens are wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// The model's name.
    #[serde(default)]
    pub(crate) model: Option<String>,
    /// The text.
    pub(crate) content: String,
    /// Whether to add what begins and ends a text.
    #[serde(default)]
    pub(crate) add_special: bool,
    /// Whether the texts of control tokens are these tokens.
    #[serde(default = "yes")]
    pub(crate) parse_special: bool,
    /// Whether tokens come with their texts.
    #[serde(default)]
    pub(crate) with_pieces: bool,
}

/// Tokens whose text is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The model's name.
    #[serde(default)]
    pub(crate) model: Option<String>,
    /// The tokens.
    pub(crate) tokens: Vec<u32>,
}

/// The tokens of a text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    /// Their ids, or with `with_pieces` the ids and texts.
    #[schema(schema_with = tokens_schema, required = true)]
    pub(crate) tokens: Tokens,
}

/// Tokens.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Tokens {
    /// Their ids.
    Ids(Vec<u32>),
    /// With their texts.
    Pieces(Vec<TokenPiece>),
}

/// The text of tokens.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    /// The text.
    pub(crate) content: String,
}

/// A chat as the model would see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Rendered {
    /// The prompt.
    pub(crate) prompt: String,
    /// Fields of the request that were not honored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// A token with its text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TokenPiece {
    /// Its id.
    pub(crate) id: u32,
    /// Its text, or its bytes where they are part of a character.
    pub(crate) piece: Piece,
}

/// The text of a token.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Piece {
    /// Whole characters.
    Text(String),
    /// Parts of characters.
    Bytes(Vec<u8>),
}

fn tokens_schema() -> RefOr<Schema> {
    let piece = json!({"$ref": "#/components/schemas/TokenPiece"});
    let items = json!({"anyOf": [{"type": "integer", "minimum": 0}, piece]});
    schema(json!({"type": "array", "items": items}))
}

fn yes() -> bool {
    true
}
