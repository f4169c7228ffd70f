//! SmolLM 3: LLaMA whose every fourth layer does not turn its heads
//! (<https://arxiv.org/abs/2501.18795>).

use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    has_rope: |_, layer| (layer + 1) % 4 != 0,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "smollm3",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("smollm3");
    metadata.insert("smollm3.block_count", 4u32);
    metadata
}
