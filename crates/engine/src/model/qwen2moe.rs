//! Qwen 1.5 and 2 with a mixture of experts (<https://arxiv.org/abs/2407.10671>): one expert is for
//! every token, and the others' shares are left as they are.

use minerva_compute::Pairing;
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    normalizes_experts: false,
    has_shared_expert: true,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "qwen2moe",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("qwen2moe");
    metadata.insert("qwen2moe.expert_count", 6u32);
    metadata.insert("qwen2moe.expert_used_count", 2u32);
    metadata.insert("qwen2moe.expert_feed_forward_length", 24u32);
    metadata.insert("qwen2moe.expert_shared_feed_forward_length", 40u32);
    metadata
}
