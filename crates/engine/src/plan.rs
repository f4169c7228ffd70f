//! What a model will take, before it takes it.

use minerva_compute::Backend;

use crate::engine::{EngineOptions, Sizes};
use crate::error::LoadError;
use crate::model::Model;

/// The memory of a model with given settings, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Tensors, which are used in place from the mapped file.
    pub weights_bytes: u64,
    /// The whole cache; pages that no token has reached are not resident.
    pub kv_bytes: u64,
    /// Activations and logits.
    pub scratch_bytes: u64,
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
        Ok(MemoryPlan {
            weights_bytes: model.info().types.iter().map(|info| info.n_bytes).sum(),
            kv_bytes: memory.kv_bytes as u64,
            scratch_bytes: memory.scratch_bytes as u64,
            context,
            cache_tokens: limits.n_kv_blocks * minerva_compute::KV_BLOCK_LEN,
        })
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.scratch_bytes)
    }
}
