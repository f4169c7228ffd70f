//! Data types, tensor programs, and the backends that run them on the CPU.
//!
//! A model's forward pass is written once as a [`Program`], with a [`Builder`]; a [`Backend`] loads
//! it and runs it for any [`Batch`]. [`ReferenceBackend`] says what is right, [`CpuBackend`] is
//! fast. This crate knows nothing of files, models or tokens' texts.

mod backend;
pub mod conformance;
pub mod cpu;
pub mod dtype;
mod kv;
mod profile;
mod program;
mod reference;
mod split;
mod weight;

pub use backend::{
    Backend, BackendError, Batch, DeviceError, DeviceMemory, Executable, KV_BLOCK_LEN, Limits,
    Memory, OnDevice, ProgramWidths, Sequence,
};
pub use cpu::CpuBackend;
pub use dtype::DType;
pub use kv::{KvType, KvTypeError, KvTypes, kv_block_bytes};
pub use profile::{Cost, StepProfile};
pub use program::{
    Activation, Attention, AttentionSpec, Biased, BufId, BufShape, Builder, Experts, ExpertsSpec,
    Function, KvShape, MatMulPart, Op, Pairing, Program, Rope, RopeId, Rows, WeightId,
};
pub use reference::ReferenceBackend;
pub use split::{DeviceLayers, SplitBackend};
pub use weight::{Bytes, Weight, WeightError};
