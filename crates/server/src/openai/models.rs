//! `/v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// All models.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    /// The models.
    pub(crate) data: Vec<ModelObject>,
}

/// One model: OpenAI's fields first, then what there is to know of a local one.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Model)]
pub(crate) struct ModelObject {
    /// Its name.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When its file was written, in seconds since 1970.
    pub(crate) created: u64,
    /// Who serves it.
    pub(crate) owned_by: &'static str,
    /// Other names for it.
    pub(crate) aliases: Vec<String>,
    /// `unloaded`, `loading`, `ready` or `closing`.
    pub(crate) state: &'static str,
    /// Most tokens of a prompt and its answer; what follows is null until it is loaded.
    pub(crate) context_window: Option<usize>,
    /// What computes it.
    pub(crate) device: Option<String>,
    /// Whether its device has failed, and another one computes it.
    pub(crate) is_on_fallback: Option<bool>,
    /// Answers that are computed at once.
    pub(crate) max_parallel: usize,
    /// The kind of model.
    pub(crate) architecture: Option<&'static str>,
    /// Elements of its tensors.
    pub(crate) parameters: Option<u64>,
    /// The type that most of it is stored in.
    pub(crate) quantization: Option<&'static str>,
    /// Bytes of its file.
    pub(crate) size_bytes: Option<u64>,
    /// Bytes that it takes of the budget.
    pub(crate) memory_bytes: u64,
    /// Bytes that it takes of the device's memory.
    pub(crate) device_memory_bytes: u64,
}
