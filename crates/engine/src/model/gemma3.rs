//! Gemma 3 (<https://arxiv.org/abs/2503.19786>): Gemma 2 without its bounds but with norms of queries
//! and keys; five of six layers see a window and turn heads by frequencies of their own.

use minerva_compute::{Activation, Pairing};
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA, QkNorm};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    activation: Activation::Gelu,
    qk_norm: QkNorm::Heads,
    has_post_norm: true,
    scales_embedding: true,
    attention_scale: |h| match h.n_layers {
        // The 27B model scales by the width for each head, which its files do not say.
        62 => 1.0 / ((h.hidden_size / h.n_heads) as f32).sqrt(),
        _ => 1.0 / (h.head_dim as f32).sqrt(),
    },
    is_local: |layer| layer % 6 < 5,
    local_freq_base: Some(10000.0),
    scales_local_rope: false,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "gemma3",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("gemma3");
    metadata.insert("gemma3.block_count", 6u32);
    metadata.insert("gemma3.attention.sliding_window", 8u32);
    metadata.insert("gemma3.rope.freq_base", 1e6f32);
    metadata
}
