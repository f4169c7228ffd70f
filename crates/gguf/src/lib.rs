//! The GGUF file format: parsing, checking and writing; no IO, no unsafe, no dependencies.
//!
//! A GGUF file is a header, metadata (keys with typed values), a directory of tensors, and the
//! tensors' data. [`Gguf::parse`] reads everything but the data, which stays where it is: the
//! caller maps the file into memory, and [`TensorInfo::range`] says where each tensor lies.
//!
//! Files are not trusted. Whatever the bytes are, parsing gives an [`Error`] that names the thing,
//! its byte offset, what was found and what was wanted, or a [`Gguf`] in which all sizes, offsets
//! and names are consistent. Memory is only taken in proportion to the bytes that are there.
//!
//! ```
//! use minerva_gguf::{Gguf, GgmlType, Metadata, NewTensor};
//!
//! let mut metadata = Metadata::new();
//! metadata.insert("general.architecture", "llama");
//! metadata.insert("llama.block_count", 2u32);
//! let ones = [1.0f32.to_le_bytes(); 6].concat();
//! let norm = NewTensor {
//!     name: "output_norm.weight",
//!     dims: &[3, 2],
//!     ggml_type: GgmlType::F32,
//!     data: &ones,
//! };
//! let mut file = Vec::new();
//! minerva_gguf::write(&mut file, &metadata, &[norm])?;
//!
//! let gguf = Gguf::parse(&file)?;
//! assert_eq!(gguf.metadata.str("general.architecture")?, "llama");
//! assert_eq!(gguf.metadata.opt_f32("llama.rope.freq_base")?, None);
//! let tensor = gguf.tensors.get("output_norm.weight").ok_or("no such tensor")?;
//! assert_eq!(tensor.dims, [3, 2]);
//! assert_eq!(&file[tensor.range()], ones);
//!
//! let error = gguf.metadata.bool("llama.block_count").unwrap_err();
//! assert_eq!(error.to_string(), "key llama.block_count: type u32, expected bool");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod parse;

mod metadata;
mod tensors;

mod ggml_type;
mod split;

mod write;

mod error;
mod show;

pub use error::Error;
pub use ggml_type::GgmlType;
pub use metadata::{Array, Metadata, PerLayer, StringArray, Value};
pub use parse::{Gguf, MAX_ARRAY_DEPTH, MAX_NAME_BYTES};
pub use split::{Split, SplitName};
pub use tensors::{MAX_DIMS, TensorInfo, Tensors};
pub use write::{NewTensor, WriteError, write};
