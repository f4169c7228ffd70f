//! The decoder of LLaMA 1 to 3 and of what follows it to the letter: Mistral, SmolLM2, TinyLlama
//! (<https://arxiv.org/abs/2302.13971>), and Mixtral with its experts
//! (<https://arxiv.org/abs/2401.04088>), whose first files have a tensor for each.

use minerva_gguf::Metadata;

use super::decoder::{Decoder, LLAMA};
use super::{Architecture, tiny_decoder};

const DECODER: Decoder = Decoder {
    has_split_experts: true,
    ..LLAMA
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    tensors: |h| DECODER.tensors(h),
    build: |h, weights, context| DECODER.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    tiny_decoder("llama")
}
