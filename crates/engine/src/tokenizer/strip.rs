//! **The table** of tokens that swallow the white space beside them, which files do not say.

use minerva_gguf::Metadata;

use super::vocab::{TokenType, Vocab};
use crate::LoadError;

/// One row; the first that fits a file counts.
struct Row {
    /// The row fits if the value of this key, in lower case, contains one of these.
    key: &'static str,
    contains: &'static [&'static str],
    side: Side,
    /// All special tokens, whatever their texts, but for `not`.
    all_special: bool,
    texts: &'static [&'static str],
    not: &'static [&'static str],
}

/// The side of the token whose white space it swallows.
enum Side {
    Left,
    Right,
}

const ROWS: &[Row] = &[
    Row {
        key: "tokenizer.ggml.pre",
        contains: &["jina-v2-de", "jina-v2-es", "jina-v2-code"],
        side: Side::Left,
        all_special: false,
        texts: &["<mask>"],
        not: &[],
    },
    Row {
        key: "general.architecture",
        contains: &["nomic-bert-moe", "jina-bert-v3"],
        side: Side::Left,
        all_special: false,
        texts: &["<mask>"],
        not: &[],
    },
    Row {
        key: "general.name",
        contains: &["phi-3", "phi3"],
        side: Side::Right,
        all_special: true,
        texts: &["</s>"],
        not: &["<unk>", "<s>", "<|endoftext|>"],
    },
    Row {
        key: "general.name",
        contains: &["modern-bert"],
        side: Side::Left,
        all_special: false,
        texts: &["[MASK]"],
        not: &[],
    },
];

impl Vocab {
    /// Fills in the tokens that swallow white space, as the first fitting row of the table has it.
    pub(super) fn set_strips(&mut self, metadata: &Metadata) -> Result<(), LoadError> {
        for row in ROWS {
            let value = metadata.opt_str(row.key)?.unwrap_or_default();
            let value = value.to_lowercase();
            if !row.contains.iter().any(|part| value.contains(part)) {
                continue;
            }
            let has = |list: &[&str], text: &[u8]| list.iter().any(|t| t.as_bytes() == text);
            let ids = (0..)
                .zip(self.tokens.iter().zip(&self.token_types))
                .filter(|(_, (text, token_type))| {
                    let is_special = matches!(
                        token_type,
                        TokenType::Control | TokenType::Unknown | TokenType::UserDefined
                    );
                    (row.all_special && is_special || has(row.texts, text)) && !has(row.not, text)
                })
                .map(|(id, _)| id)
                .collect();
            match row.side {
                Side::Left => self.strip_left = ids,
                Side::Right => self.strip_right = ids,
            }
            return Ok(());
        }
        Ok(())
    }
}
