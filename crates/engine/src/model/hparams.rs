//! From metadata to the numbers of a model, all of them checked.

use minerva_gguf::{Array, Metadata, Value};

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
    /// Added to the mean square or the variance in the norms.
    pub norm_eps: f32,
    /// The mixture of experts that takes the place of a feed-forward block, if there is one.
    pub experts: Option<ExpertParams>,
    /// Rotary position embedding.
    pub rope: RopeParams,
    /// The base of the frequencies in layers that see a window, where it is another one.
    pub local_freq_base: Option<f32>,
    /// Positions that a layer with a window sees, the token's own included.
    pub window: Option<usize>,
    /// Which layers have that window; `None` for the architecture's own choice.
    pub local_layers: Option<Vec<bool>>,
    /// Factor on the embeddings.
    pub embedding_scale: f32,
    /// Factor on what is added to the stream.
    pub residual_scale: f32,
    /// Factor on the product of a query and a key; `None` for the architecture's own.
    pub attention_scale: Option<f32>,
    /// What the logits are divided by.
    pub logit_divisor: f32,
    /// Bound on the attention's scores.
    pub attention_soft_cap: Option<f32>,
    /// Bound on the logits.
    pub logit_soft_cap: Option<f32>,
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
        let context_length = keys.count("context_length", u32::MAX)?;
        let n_layers = keys.count("block_count", MAX_LAYERS)?;
        // 0 has always meant none.
        let window = metadata.opt_u32(&keys.key("attention.sliding_window"))?;
        let eps_key = ["layer_norm_epsilon", "layer_norm_rms_epsilon"]
            .map(|name| format!("attention.{name}"))
            .into_iter()
            .find(|name| metadata.contains(&keys.key(name)))
            .unwrap_or_else(|| "attention.layer_norm_rms_epsilon".into());
        let norm_eps = metadata.f32(&keys.key(&eps_key))?;
        if !(norm_eps.is_finite() && norm_eps >= 0.0) {
            let wanted = "a finite number of at least 0".into();
            return Err(keys.error(&eps_key, norm_eps, wanted));
        }
        let vocab_size = metadata.strings("tokenizer.ggml.tokens")?.len();
        if vocab_size == 0 || vocab_size > MAX_COUNT as usize {
            return Err(LoadError::Metadata {
                key: "tokenizer.ggml.tokens".into(),
                found: format!("{vocab_size} tokens"),
                wanted: format!("1 to {MAX_COUNT}"),
            });
        }
        let ffn_size = keys.count("feed_forward_length", MAX_COUNT)?;
        Ok(HParams {
            vocab_size,
            context_length,
            hidden_size,
            ffn_size,
            experts: ExpertParams::read(&keys, ffn_size)?,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            norm_eps,
            rope: RopeParams::read(&keys, head_dim, context_length)?,
            local_freq_base: keys.opt_above("rope.freq_base_swa", 1.0)?,
            window: window.filter(|&n| n > 0).map(|n| n as usize),
            local_layers: keys.local_layers(n_layers)?,
            embedding_scale: keys.opt_above("embedding_scale", 0.0)?.unwrap_or(1.0),
            residual_scale: keys.opt_above("residual_scale", 0.0)?.unwrap_or(1.0),
            attention_scale: keys.opt_above("attention.scale", 0.0)?,
            logit_divisor: keys.opt_above("logit_scale", 0.0)?.unwrap_or(1.0),
            attention_soft_cap: keys.opt_above("attn_logit_softcapping", 0.0)?,
            logit_soft_cap: keys.opt_above("final_logit_softcapping", 0.0)?,
        })
    }
}

/// The numbers of a mixture of experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertParams {
    /// Experts of a layer.
    pub n_experts: usize,
    /// How many of them a token goes through.
    pub n_used: usize,
    /// Width inside an expert.
    pub ffn_size: usize,
    /// Width inside the expert that every token goes through, where there is one.
    pub shared_ffn_size: usize,
}

impl ExpertParams {
    fn read(keys: &Keys<'_>, ffn_size: usize) -> Result<Option<ExpertParams>, LoadError> {
        let n_experts = keys.metadata.opt_u32(&keys.key("expert_count"))?;
        let Some(n_experts) = n_experts.filter(|&n| n > 0) else {
            return Ok(None);
        };
        if n_experts > MAX_LAYERS {
            let wanted = format!("0 to {MAX_LAYERS}");
            return Err(keys.error("expert_count", n_experts, wanted));
        }
        // 1 is the softmax; 0 in either has always meant that nothing is said.
        let gating = keys.metadata.opt_u32(&keys.key("expert_gating_func"))?;
        if let Some(gating) = gating.filter(|gating| *gating > 1) {
            let wanted = "1, the softmax".into();
            return Err(keys.error("expert_gating_func", gating, wanted));
        }
        let scale = keys.metadata.opt_f32(&keys.key("expert_weights_scale"))?;
        if let Some(scale) = scale.filter(|scale| *scale != 0.0 && *scale != 1.0) {
            return Err(keys.error("expert_weights_scale", scale, "1".into()));
        }
        let size = |name| keys.opt_count(name, MAX_COUNT);
        Ok(Some(ExpertParams {
            n_experts: n_experts as usize,
            n_used: keys.count("expert_used_count", n_experts)?,
            ffn_size: size("expert_feed_forward_length")?.unwrap_or(ffn_size),
            shared_ffn_size: size("expert_shared_feed_forward_length")?.unwrap_or(ffn_size),
        }))
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

    /// Which layers see only a window: a list, or a number n for all but each n-th layer.
    fn local_layers(&self, n_layers: usize) -> Result<Option<Vec<bool>>, LoadError> {
        let name = "attention.sliding_window_pattern";
        match self.metadata.get(&self.key(name)) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(layers))) if layers.len() >= n_layers => {
                Ok(Some(layers[..n_layers].to_vec()))
            }
            Some(Value::Array(array)) => {
                let found = format!("{} of {}", array.len(), array.element_type_name());
                let wanted = format!("{n_layers} of bool, or a number");
                Err(self.error(name, found, wanted))
            }
            Some(_) => {
                let n = self.metadata.u32(&self.key(name))? as usize;
                let is_local = |i| n == 0 || i % n < n - 1;
                Ok(Some((0..n_layers).map(is_local).collect()))
            }
        }
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
