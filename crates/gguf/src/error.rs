//! The ways in which a file can be wrong, each with the byte offset where it is.

/// Why a GGUF file was refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {}

impl std::fmt::Display for Error {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Error {}
