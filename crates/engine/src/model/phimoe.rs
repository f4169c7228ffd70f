//! Phi 3.5 with a mixture of experts (<https://arxiv.org/abs/2404.14219>): layer norms, and biases in
//! attention and on the logits. An expert's share is its part of the softmax, among the chosen ones.

use minerva_compute::Pairing;
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA, Norm};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    norm: Norm::Layer,
    has_long_rope: true,
    has_output_bias: true,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "phimoe",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("phimoe");
    metadata.insert("phimoe.rope.scaling.original_context_length", 64u32);
    metadata.insert("phimoe.rope.scaling.attn_factor", 1.19f32);
    metadata.insert("phimoe.expert_count", 6u32);
    metadata.insert("phimoe.expert_used_count", 2u32);
    metadata
}
