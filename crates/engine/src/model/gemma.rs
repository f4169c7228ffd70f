//! Gemma (<https://arxiv.org/abs/2403.08295>): scaled embeddings, GELU on the gate. The norms' weights
//! are stored with the 1 that the paper adds to them.

use minerva_compute::{Activation, Pairing};
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    activation: Activation::Gelu,
    scales_embedding: true,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "gemma",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("gemma");
    metadata.insert("gemma.attention.key_length", 10u32);
    metadata.insert("gemma.attention.value_length", 10u32);
    metadata
}
