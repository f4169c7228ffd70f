//! Text in, tokens out: tokenizer, chat template, model, cache and sampler of a GGUF file.
//!
//! [`Model::open`] reads a file, [`Engine::start`] puts the model on a backend, and
//! [`Engine::generate_streaming`] continues a prompt, token by token:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use minerva_compute::{CpuBackend, cpu::CpuOptions};
//! use minerva_engine::{Engine, EngineOptions, GenerateConfig, Model};
//!
//! let model = Model::open("model.gguf")?;
//! let backend = CpuBackend::new(&CpuOptions::default())?;
//! let engine = Engine::start(model.into(), Arc::new(backend), &EngineOptions::default())?;
//! let config = GenerateConfig {
//!     max_tokens: Some(64),
//!     ..GenerateConfig::default()
//! };
//! let mut tokens = engine.generate_streaming("The sky is", &config)?;
//! while let Some(token) = tokens.blocking_next() {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod request;

mod engine;
mod scheduler;

mod kv_cache;

mod evaluator;

mod memory;
mod models;
mod plan;

pub mod model;

pub mod tokenizer;

pub mod sampler;

pub mod chat;

mod mapped_file;

mod error;

pub use engine::{
    Answer, Backends, Canceller, Completion, DEFAULT_CONTEXT, Engine, EngineOptions, EngineStats,
    TokenStream,
};
pub use error::{EngineError, LoadError, ModelsError, RequestError, TimeoutPhase};
pub use evaluator::{Evaluator, EvaluatorOptions};
pub use memory::memory_limit;
pub use model::{HParams, Model, ModelInfo, TypeInfo};
pub use models::{LoadedModel, ModelConfig, ModelState, ModelStatus, Models};
pub use plan::MemoryPlan;
pub use request::{
    Deadlines, Done, Event, FinishReason, GenerateConfig, GenerateRequest, Timings, Token, Usage,
};
