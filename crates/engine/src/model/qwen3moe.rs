//! Qwen 3 with a mixture of experts (<https://arxiv.org/abs/2505.09388>).

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
    name: "qwen3moe",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("qwen3moe");
    metadata.insert("qwen3moe.expert_count", 6u32);
    metadata.insert("qwen3moe.expert_used_count", 2u32);
    metadata.insert("qwen3moe.expert_feed_forward_length", 24u32);
    metadata
}
