//! Granite 3: LLaMA with factors on embeddings, scores, what is added to the stream, and logits, all
//! of which the files give (<https://arxiv.org/abs/2408.13359>). Some do without rotation, and say
//! so by a flag that elsewhere tells how RoPE's scaling came about.

use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    has_rope: |h, _| h.rope.is_finetuned != Some(false),
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "granite",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("granite");
    metadata.insert("granite.embedding_scale", 12.0f32);
    metadata.insert("granite.residual_scale", 0.22f32);
    metadata.insert("granite.attention.scale", 0.25f32);
    metadata.insert("granite.logit_scale", 4.0f32);
    metadata
}
