//! The GGUF file format: parsing, checking and writing; no IO, no unsafe, no dependencies.
#![forbid(unsafe_code)]

mod error;

pub use error::Error;
