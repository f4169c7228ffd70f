//! What a model will take, before it takes it.

use minerva_compute::{Backend, OnDevice};

use crate::engine::{EngineOptions, Sizes};
use crate::error::LoadError;
use crate::model::Model;

/// The memory of a model with given settings, in bytes: the machine's, and that of a device beside
/// the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Tensors that the processor uses, in place from the mapped file.
    pub weights_bytes: u64,
    /// The cache of the processor's layers; pages that no token has reached are not resident.
    pub kv_bytes: u64,
    /// Activations and logits.
    pub scratch_bytes: u64,
    /// What is on the device.
    pub device: OnDevice,
    /// Whether the device's memory is the machine's too.
    pub is_shared: bool,
    /// Most tokens of a prompt and its answer together.
    pub context: usize,
    /// Tokens that the cache holds, of all sequences together.
    pub cache_tokens: usize,
}

impl MemoryPlan {
    /// The plan of a model on a backend.
    pub fn new(
        model: &Model,
        backend: &dyn Backend,
        options: &EngineOptions,
    ) -> Result<MemoryPlan, LoadError> {
        let Sizes { context, limits } = Sizes::new(model, options)?;
        let memory = backend.plan(&model.program(context)?, limits)?;
        let all_weights: u64 = model.info().types.iter().map(|info| info.n_bytes).sum();
        Ok(MemoryPlan {
            weights_bytes: all_weights.saturating_sub(memory.device.weights_bytes),
            kv_bytes: memory.kv_bytes as u64,
            scratch_bytes: memory.scratch_bytes as u64,
            device: memory.device,
            is_shared: backend.device_memory().is_some_and(|m| m.is_shared),
            context,
            cache_tokens: limits.n_kv_blocks * minerva_compute::KV_BLOCK_LEN,
        })
    }

    /// All of the machine's memory.
    pub fn total_bytes(&self) -> u64 {
        let shared = match self.is_shared {
            true => self.device.total_bytes(),
            false => 0,
        };
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.scratch_bytes)
            .saturating_add(shared)
    }
}
