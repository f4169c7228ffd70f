//! Qwen 3 (<https://arxiv.org/abs/2505.09388>): each head of queries and keys is normed before it is
//! turned.

use minerva_compute::Pairing;
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA, QkNorm};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    qk_norm: QkNorm::Heads,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "qwen3",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    tiny_decoder("qwen3")
}
