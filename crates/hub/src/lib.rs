//! Models on disk: names, sources, checksums and folders; nothing of tensors or tokens.
//!
//! A model argument is a path, a name in the model folder, a name of the [`CATALOGUE`], or
//! `hf:owner/repo/file.gguf`. [`find`] says which of them it is and touches no network; [`pull`]
//! brings it to the disk, where it appears under its name only when it is whole and checked.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! let config = minerva_hub::HubConfig::from_env()?;
//! let pulled = minerva_hub::pull(&config, "smollm2", &mut |progress| {
//!     eprintln!("{:?}: {} bytes", progress.phase, progress.done_bytes);
//!     ControlFlow::Continue(())
//! })?;
//! println!("{}", pulled.path.display());
//! # Ok::<(), minerva_hub::HubError>(())
//! ```
#![forbid(unsafe_code)]

mod catalogue;
mod config;
mod disk;
mod download;
mod error;
mod folder;
mod http;
mod manifest;
mod name;
mod package;
mod progress;
mod pull;
mod zip;

pub use catalogue::{CATALOGUE, CatalogueEntry, Pinned, PythonPackage};
pub use config::{HubConfig, Token};
pub use error::HubError;
pub use folder::{Installed, Listing, Verified, list, remove, verify};
pub use progress::{Phase, Progress};
pub use pull::{Found, Pulled, find, pull};
