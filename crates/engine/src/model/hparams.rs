//! From metadata to the numbers of a model, all of them checked.

use minerva_gguf::Metadata;

use super::rope::RopeParams;
use crate::error::LoadError;

/// The most of anything that is counted here (layers, heads, widths): far above every known model,
/// and small enough that no product of two overflows.
const MAX_COUNT: u32 = 1 << 24;
/// The most layers and heads.
const MAX_LAYERS: u32 = 1 << 12;

/// The numbers of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct HParams {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest sequence that the model is made for.
    pub context_length: usize,
    /// Width of the stream between the layers.
    pub hidden_size: usize,
    /// Width inside a feed-forward block.
    pub ffn_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads of a layer.
    pub n_heads: usize,
    /// Key and value heads of a layer; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Added to the mean square in the norms.
    pub rms_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeParams,
}

impl HParams {
    /// Reads the keys of architecture `architecture`.
    pub fn read(metadata: &Metadata, architecture: &str) -> Result<HParams, LoadError> {
        let keys = Keys {
            metadata,
            architecture,
        };
        let hidden_size = keys.count("embedding_length", MAX_COUNT)?;
        let n_heads = keys.count("attention.head_count", MAX_LAYERS)?;
        let n_kv_heads = keys
            .opt_count("attention.head_count_kv", MAX_LAYERS)?
            .unwrap_or(n_heads);
        if n_heads % n_kv_heads != 0 {
            let wanted = format!("a divisor of the {n_heads} heads");
            return Err(keys.error("attention.head_count_kv", n_kv_heads, wanted));
        }
        let head_dim = match keys.opt_count("attention.key_length", MAX_COUNT)? {
            Some(head_dim) => head_dim,
            None if hidden_size % n_heads == 0 => hidden_size / n_heads,
            None => {
                let wanted = format!("a divisor of the embedding_length of {hidden_size}");
                return Err(keys.error("attention.head_count", n_heads, wanted));
            }
        };
        let value_len = keys
            .opt_count("attention.value_length", MAX_COUNT)?
            .unwrap_or(head_dim);
        if value_len != head_dim {
            let wanted = format!("{head_dim}, the length of a key");
            return Err(keys.error("attention.value_length", value_len, wanted));
        }
        if let Some(n_experts) = keys.metadata.opt_u32(&keys.key("expert_count"))?
            && n_experts > 0
        {
            let wanted = "0: a mixture of experts is not supported".into();
            return Err(keys.error("expert_count", n_experts, wanted));
        }
        let mut context_length = keys.count("context_length", u32::MAX)?;
        // Up to its length, a sliding window masks nothing: there the model is exact.
        if let Some(window) = keys.opt_count("attention.sliding_window", u32::MAX)? {
            context_length = context_length.min(window);
        }
        let rms_eps = metadata.f32(&keys.key("attention.layer_norm_rms_epsilon"))?;
        if !(rms_eps.is_finite() && rms_eps >= 0.0) {
            let wanted = "a finite number of at least 0".into();
            return Err(keys.error("attention.layer_norm_rms_epsilon", rms_eps, wanted));
        }
        let vocab_size = metadata.strings("tokenizer.ggml.tokens")?.len();
        if vocab_size == 0 || vocab_size > MAX_COUNT as usize {
            return Err(LoadError::Metadata {
                key: "tokenizer.ggml.tokens".into(),
                found: format!("{vocab_size} tokens"),
                wanted: format!("1 to {MAX_COUNT}"),
            });
        }
        Ok(HParams {
            vocab_size,
            context_length,
            hidden_size,
            ffn_size: keys.count("feed_forward_length", MAX_COUNT)?,
            n_layers: keys.count("block_count", MAX_LAYERS)?,
            n_heads,
            n_kv_heads,
            head_dim,
            rms_eps,
            rope: RopeParams::read(&keys, head_dim, context_length)?,
        })
    }
}

/// The metadata under an architecture's name.
pub(crate) struct Keys<'a> {
    pub(crate) metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    /// The full name of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A number from 1 to `max` that must be there.
    pub(crate) fn count(&self, name: &str, max: u32) -> Result<usize, LoadError> {
        let found = self.metadata.u32(&self.key(name))?;
        self.checked_count(name, found, max)
    }

    /// A number from 1 to `max` that may be missing.
    pub(crate) fn opt_count(&self, name: &str, max: u32) -> Result<Option<usize>, LoadError> {
        let found = self.metadata.opt_u32(&self.key(name))?;
        found
            .map(|found| self.checked_count(name, found, max))
            .transpose()
    }

    fn checked_count(&self, name: &str, found: u32, max: u32) -> Result<usize, LoadError> {
        if found == 0 || found > max {
            return Err(self.error(name, found, format!("1 to {max}")));
        }
        Ok(found as usize)
    }

    /// A finite number above `min` that may be missing.
    pub(crate) fn opt_above(&self, name: &str, min: f32) -> Result<Option<f32>, LoadError> {
        match self.metadata.opt_f32(&self.key(name))? {
            Some(found) if !(found.is_finite() && found > min) => {
                Err(self.error(name, found, format!("a finite number above {min}")))
            }
            found => Ok(found),
        }
    }

    /// The error of a value that makes no sense.
    pub(crate) fn error(
        &self,
        name: &str,
        found: impl std::fmt::Display,
        wanted: String,
    ) -> LoadError {
        LoadError::Metadata {
            key: self.key(name),
            found: found.to_string(),
            wanted,
        }
    }
}
