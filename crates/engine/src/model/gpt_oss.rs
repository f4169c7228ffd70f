//! gpt-oss (<https://arxiv.org/abs/2508.10925>): a mixture of experts with biases and a clamped
//! activation; every head has a sink, and every other layer sees a window.

use minerva_compute::{Activation, Pairing};
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    // The files name the second norm of a layer by what it stands behind.
    ffn_norm: "post_attention_norm",
    activation: Activation::ClampedSwiglu {
        alpha: 1.702,
        limit: 7.0,
    },
    has_sinks: true,
    has_expert_biases: true,
    is_local: |layer| layer % 2 == 0,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "gpt-oss",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("gpt-oss");
    metadata.insert("gpt-oss.attention.key_length", 10u32);
    metadata.insert("gpt-oss.attention.value_length", 10u32);
    metadata.insert("gpt-oss.rope.dimension_count", 10u32);
    metadata.insert("gpt-oss.attention.sliding_window", 8u32);
    metadata.insert("gpt-oss.expert_count", 6u32);
    metadata.insert("gpt-oss.expert_used_count", 2u32);
    metadata.insert("gpt-oss.expert_feed_forward_length", 24u32);
    metadata
}
