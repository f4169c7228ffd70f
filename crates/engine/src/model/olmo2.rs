//! OLMo 2 and 3 (<https://arxiv.org/abs/2501.00656>): norms after attention and feed-forward instead
//! of before, and over all heads of queries and of keys; in OLMo 3 three of four layers see a window,
//! and do not scale their positions.

use minerva_compute::Pairing;
use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA, QkNorm};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    pairing: Pairing::Halves,
    qk_norm: QkNorm::Whole,
    has_pre_norm: false,
    has_post_norm: true,
    is_local: |layer| layer % 4 < 3,
    scales_local_rope: false,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "olmo2",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("olmo2");
    metadata.insert("olmo2.block_count", 4u32);
    metadata.insert("olmo2.attention.sliding_window", 8u32);
    metadata
}
