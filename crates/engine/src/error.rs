//! What can go wrong, split by who can act on it.

/// A model file cannot be used as it is: something is missing, wrong or not supported.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not a readable GGUF file, or a metadata value is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] minerva_gguf::Error),
    /// The tokenizer in the metadata cannot be used; the text says what was found and wanted.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template in the metadata cannot be used; the text says why.
    #[error("chat template: {0}")]
    ChatTemplate(String),
}
