//! Granite 3: LLaMA with factors on embeddings, scores, what is added to the stream, and logits, all
//! of which the files give (<https://arxiv.org/abs/2408.13359>).

use minerva_gguf::Metadata;

use super::decoder::LLAMA;
use super::{Architecture, tiny_decoder};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "granite",
    tensors: |h| LLAMA.tensors(h),
    build: |h, weights, context| LLAMA.build(h, weights, context),
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
