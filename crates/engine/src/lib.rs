//! Text in, tokens out: tokenizer, chat template, model, cache and sampler of a GGUF file.
#![deny(unsafe_code)]

pub mod chat;
mod error;
pub mod sampler;
pub mod tokenizer;

pub use error::{LoadError, RequestError};
