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

/// A request cannot be served as it is; the caller can repair it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A parameter is outside of its range.
    #[error("{field}: {found}, expected {wanted}")]
    Parameter {
        /// The name of the parameter, as [`crate::sampler::SamplingParams`] spells it.
        field: &'static str,
        /// The value given.
        found: String,
        /// The values that are allowed.
        wanted: String,
    },
    /// The chat template refused the messages, or needed too much work for them.
    #[error("chat template: {0}")]
    ChatTemplate(String),
}
