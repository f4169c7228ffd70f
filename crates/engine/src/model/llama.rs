//! The decoder of LLaMA 1 to 3 and of what follows it to the letter: Mistral, SmolLM2, TinyLlama.
//!
//! Each layer adds to the stream x, first `attention(norm(x))`, then `feed_forward(norm(x))`
//! (<https://arxiv.org/abs/2302.13971>); the heads are turned by their positions in adjacent pairs,
//! and several query heads share a key/value head (<https://arxiv.org/abs/2305.13245>).

use minerva_compute::{Activation, AttentionSpec, Builder, Pairing, Program};
use minerva_gguf::Metadata;

use super::hparams::HParams;
use super::weights::{TensorSpec, Weights};
use crate::error::LoadError;

/// What the files have.
pub(super) fn tensors(h: &HParams) -> Vec<TensorSpec> {
    let required = TensorSpec::required;
    let optional = TensorSpec::optional;
    let (x, q, kv) = (
        h.hidden_size,
        h.n_heads * h.head_dim,
        h.n_kv_heads * h.head_dim,
    );
    let mut tensors = vec![
        required("token_embd.weight", &[x, h.vocab_size]),
        required("output_norm.weight", &[x]),
        optional("output.weight", &[x, h.vocab_size]),
        optional("rope_freqs.weight", &[h.rope.n_dims / 2]),
    ];
    for i in 0..h.n_layers {
        let name = |name: &str| format!("blk.{i}.{name}");
        tensors.extend([
            required(&name("attn_norm.weight"), &[x]),
            required(&name("attn_q.weight"), &[x, q]),
            optional(&name("attn_q.bias"), &[q]),
            required(&name("attn_k.weight"), &[x, kv]),
            optional(&name("attn_k.bias"), &[kv]),
            required(&name("attn_v.weight"), &[x, kv]),
            optional(&name("attn_v.bias"), &[kv]),
            required(&name("attn_output.weight"), &[q, x]),
            optional(&name("attn_output.bias"), &[x]),
            required(&name("ffn_norm.weight"), &[x]),
            required(&name("ffn_gate.weight"), &[x, h.ffn_size]),
            required(&name("ffn_up.weight"), &[x, h.ffn_size]),
            required(&name("ffn_down.weight"), &[h.ffn_size, x]),
        ]);
    }
    tensors
}

/// The forward pass.
pub(super) fn build(h: &HParams, weights: &Weights) -> Result<Program, LoadError> {
    let mut b = Builder::new();
    let table = b.weight(weights.required("token_embd.weight"));
    let factors = weights.optional("rope_freqs.weight");
    let rope = b.rope(h.rope.rope(Pairing::Adjacent, factors.as_ref())?);
    let attention = AttentionSpec {
        n_heads: h.n_heads,
        n_kv_heads: h.n_kv_heads,
        head_dim: h.head_dim,
        scale: 1.0 / (h.head_dim as f32).sqrt(),
        rope: Some(rope),
    };

    let mut x = b.embed(table);
    for i in 0..h.n_layers {
        let name = |name: &str| format!("blk.{i}.{name}");
        let required = |b: &mut Builder, tensor: &str| b.weight(weights.required(&name(tensor)));
        let with_bias = |b: &mut Builder, tensor: &str| {
            let weight = b.weight(weights.required(&name(&format!("{tensor}.weight"))));
            let bias = weights.optional(&name(&format!("{tensor}.bias")));
            (weight, bias.map(|bias| b.weight(bias)))
        };

        let norm = required(&mut b, "attn_norm.weight");
        let normed = b.rms_norm(x, norm, h.rms_eps);
        let projections = ["attn_q", "attn_k", "attn_v"].map(|name| with_bias(&mut b, name));
        let qkv = b.matmul_parts(normed, projections);
        let attended = b.attention(qkv, &attention);
        let (output, bias) = with_bias(&mut b, "attn_output");
        x = b.matmul_add(attended, output, bias, x);

        let norm = required(&mut b, "ffn_norm.weight");
        let normed = b.rms_norm(x, norm, h.rms_eps);
        let gate = required(&mut b, "ffn_gate.weight");
        let up = required(&mut b, "ffn_up.weight");
        let inner = b.gated_matmul(normed, gate, up, Activation::Silu);
        let down = required(&mut b, "ffn_down.weight");
        x = b.matmul_add(inner, down, None, x);
    }

    let last = b.outputs(x);
    let norm = b.weight(weights.required("output_norm.weight"));
    let normed = b.rms_norm(last, norm, h.rms_eps);
    let output = weights
        .optional("output.weight")
        .map_or(table, |output| b.weight(output));
    let logits = b.matmul(normed, output);
    Ok(b.finish(logits))
}

/// The smallest model that has everything: several layers, grouped queries, uneven widths.
pub(super) fn tiny() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("llama.context_length", 128u32);
    metadata.insert("llama.embedding_length", 32u32);
    metadata.insert("llama.block_count", 2u32);
    metadata.insert("llama.feed_forward_length", 64u32);
    metadata.insert("llama.attention.head_count", 4u32);
    metadata.insert("llama.attention.head_count_kv", 2u32);
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.insert("llama.rope.dimension_count", 8u32);
    metadata
}
