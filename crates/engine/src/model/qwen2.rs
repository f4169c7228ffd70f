//! Qwen 2 and 2.5 (<https://arxiv.org/abs/2407.10671>): LLaMA with biases on queries, keys and
//! values, and heads turned in halves.

use minerva_compute::Pairing;
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    tiny_decoder("qwen2")
}
