//! Text in, tokens out: tokenizer, chat template, model, cache and sampler of a GGUF file.
//!
//! [`Model::open`] reads a file, [`Engine::new`] puts the model on a backend, and
//! [`Engine::generate`] continues a prompt, token by token.
#![deny(unsafe_code)]

mod request;

mod engine;

pub mod model;

pub mod tokenizer;

pub mod sampler;

pub mod chat;

mod mapped_file;

mod error;

pub use engine::{DEFAULT_CONTEXT, Engine, EngineOptions};
pub use error::{LoadError, RequestError};
pub use model::{HParams, Model, ModelInfo, TypeInfo};
pub use request::{Done, Event, FinishReason, GenerateRequest, Timings, Token, Usage};
