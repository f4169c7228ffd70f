//! Text in, tokens out: tokenizer, chat template, model, cache and sampler of a GGUF file.
//!
//! [`Model::open`] reads a file, [`Engine::start`] puts the model on a backend, and
//! [`Engine::generate_streaming`] continues a prompt, token by token:
//!
//! ```
//! use std::sync::Arc;
//!
//! use minerva_compute::{CpuBackend, cpu::CpuOptions};
//! use minerva_engine::{Engine, EngineOptions, GenerateConfig, Model};
//! # #[path = "../tests/it/tiny.rs"]
//! # mod tiny;
//! # let path = std::env::temp_dir().join(format!("minerva-doc-{}.gguf", std::process::id()));
//! # let architecture = &minerva_engine::model::ARCHITECTURES[0];
//! # std::fs::write(&path, tiny::Tiny::with(architecture, &[], |_| {}).bytes())?;
//!
//! let model = Model::open(&path)?;
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
//! # std::fs::remove_file(path)?;
//! # assert!(tokens.done().is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In async code the same [`TokenStream`] is a `Stream`, on any runtime:
//!
//! ```
//! use minerva_engine::{Engine, EngineError, GenerateConfig};
//!
//! async fn answer(engine: &Engine, prompt: &str) -> Result<String, EngineError> {
//!     let mut tokens = engine.generate_streaming(prompt, &GenerateConfig::default())?;
//!     let mut text = String::new();
//!     while let Some(token) = tokens.next().await {
//!         text += &token?.text;
//!     }
//!     // What was held back, as it might have become a stop string.
//!     text += tokens.done().map_or("", |done| &done.text);
//!     Ok(text)
//! }
//! # #[path = "../tests/it/tiny.rs"]
//! # mod tiny;
//! # let path = std::env::temp_dir().join(format!("minerva-async-{}.gguf", std::process::id()));
//! # let architecture = &minerva_engine::model::ARCHITECTURES[0];
//! # std::fs::write(&path, tiny::Tiny::with(architecture, &[], |_| {}).bytes())?;
//! # let model = minerva_engine::Model::open(&path)?;
//! # use std::sync::Arc;
//! # let backend = minerva_compute::ReferenceBackend;
//! # let engine = Engine::start(model.into(), Arc::new(backend), &Default::default())?;
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # assert!(!runtime.block_on(answer(&engine, "The sky is"))?.is_empty());
//! # std::fs::remove_file(path)?;
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
pub use memory::{memory_available, memory_limit};
pub use model::{HParams, Model, ModelInfo, TypeInfo};
pub use models::{LoadedModel, ModelConfig, ModelState, ModelStatus, Models};
pub use plan::MemoryPlan;
pub use request::{
    Deadlines, Done, Event, FinishReason, GenerateConfig, GenerateRequest, Timings, Token, Usage,
};
