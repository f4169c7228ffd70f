//! The decoder of LLaMA 1 to 3 and of what follows it to the letter: Mistral, SmolLM2, TinyLlama
//! (<https://arxiv.org/abs/2302.13971>), and Mixtral with its experts
//! (<https://arxiv.org/abs/2401.04088>).

use minerva_gguf::Metadata;

use super::decoder::LLAMA;
use super::{Architecture, tiny_decoder};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    tensors: |h| LLAMA.tensors(h),
    build: |h, weights, context| LLAMA.build(h, weights, context),
    tiny,
};

fn tiny() -> Metadata {
    tiny_decoder("llama")
}
