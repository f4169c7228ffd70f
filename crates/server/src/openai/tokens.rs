//! `/tokenize` and `/detokenize`, as llama-server has them.

use serde::{Deserialize, Serialize};

/// A text whose tokens are wanted.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The model's name.
    #[serde(default)]
    pub(crate) model: Option<String>,
    /// The tokens.
    pub(crate) tokens: Vec<u32>,
}

/// A token with its text.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TokenPiece {
    /// Its id.
    pub(crate) id: u32,
    /// Its text, or its bytes where they are part of a character.
    pub(crate) piece: Piece,
}

/// The text of a token.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Piece {
    /// Whole characters.
    Text(String),
    /// Parts of characters.
    Bytes(Vec<u8>),
}

fn yes() -> bool {
    true
}
