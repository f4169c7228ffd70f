//! Gemma 2 (<https://arxiv.org/abs/2408.00118>): Gemma with norms on both sides, bounds on scores and
//! logits, and a window in every other layer.

use minerva_compute::{Activation, Pairing};
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    activation: Activation::Gelu,
    has_post_norm: true,
    scales_embedding: true,
    attention_scale: |h| match h.n_layers {
        // The 27B model scales by the width for each head, which its files do not say.
        46 => 1.0 / ((h.hidden_size / h.n_heads) as f32).sqrt(),
        _ => 1.0 / (h.head_dim as f32).sqrt(),
    },
    is_local: |layer| layer % 2 == 0,
    default_window: Some(4096),
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "gemma2",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("gemma2");
    metadata.insert("gemma2.attention.sliding_window", 8u32);
    metadata.insert("gemma2.attn_logit_softcapping", 5.0f32);
    metadata.insert("gemma2.final_logit_softcapping", 3.0f32);
    metadata
}
