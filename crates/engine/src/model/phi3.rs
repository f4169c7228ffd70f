//! Phi 3, 3.5 and 4 (<https://arxiv.org/abs/2404.14219>): fused projections, and longrope for
//! contexts beyond the original one.

use minerva_compute::Pairing;
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    is_fused: true,
    has_long_rope: true,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "phi3",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("phi3");
    metadata.insert("phi3.rope.dimension_count", 6u32);
    metadata.insert("phi3.rope.scaling.original_context_length", 64u32);
    metadata.insert("phi3.rope.scaling.attn_factor", 1.19f32);
    metadata
}
