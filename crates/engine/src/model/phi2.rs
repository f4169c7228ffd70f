//! Phi 1.5 and 2 (<https://arxiv.org/abs/2309.05463>): one layer norm for attention and feed-forward,
//! which run side by side; heads are turned in part; the feed-forward block has no gate; every matrix
//! has a bias.

use minerva_compute::{AttentionSpec, Biased, Builder, Function, Pairing, Program};
use minerva_gguf::Metadata;

use super::decoder::split_qkv;
use super::hparams::HParams;
use super::weights::{TensorSpec, Weights};
use super::{Architecture, tiny_decoder};
use crate::error::LoadError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "phi2",
    tensors,
    build,
    tiny,
};

/// Queries, keys and values are one matrix in some files, three in others.
fn tensors(h: &HParams) -> Vec<TensorSpec> {
    let required = TensorSpec::required;
    let optional = TensorSpec::optional;
    let (x, q, kv, inner) = (
        h.hidden_size,
        h.n_heads * h.head_dim,
        h.n_kv_heads * h.head_dim,
        h.ffn_size,
    );
    let mut tensors = vec![
        required("token_embd.weight", &[x, h.vocab_size]),
        required("output_norm.weight", &[x]),
        required("output_norm.bias", &[x]),
        optional("output.weight", &[x, h.vocab_size]),
        required("output.bias", &[h.vocab_size]),
    ];
    for i in 0..h.n_layers {
        let name = |name: &str| format!("blk.{i}.{name}");
        for (part, width) in [("qkv", q + 2 * kv), ("q", q), ("k", kv), ("v", kv)] {
            tensors.extend([
                optional(&name(&format!("attn_{part}.weight")), &[x, width]),
                optional(&name(&format!("attn_{part}.bias")), &[width]),
            ]);
        }
        tensors.extend([
            required(&name("attn_norm.weight"), &[x]),
            required(&name("attn_norm.bias"), &[x]),
            required(&name("attn_output.weight"), &[q, x]),
            required(&name("attn_output.bias"), &[x]),
            required(&name("ffn_up.weight"), &[x, inner]),
            required(&name("ffn_up.bias"), &[inner]),
            required(&name("ffn_down.weight"), &[inner, x]),
            required(&name("ffn_down.bias"), &[x]),
        ]);
    }
    tensors
}

fn build(h: &HParams, weights: &Weights, _context: usize) -> Result<Program, LoadError> {
    let mut b = Builder::new();
    let table = b.weight(weights.required("token_embd.weight"));
    let rope = b.rope(h.rope.rope(Pairing::Halves, None)?);
    let attention = AttentionSpec {
        n_heads: h.n_heads,
        n_kv_heads: h.n_kv_heads,
        head_dim: h.head_dim,
        scale: 1.0 / (h.head_dim as f32).sqrt(),
        rope: Some(rope),
        soft_cap: None,
        window: h.window,
        sinks: None,
    };
    let with_bias = |b: &mut Builder, name: &str| {
        let [weight, bias] =
            ["weight", "bias"].map(|kind| b.weight(weights.required(&format!("{name}.{kind}"))));
        (weight, bias)
    };

    let mut x = b.embed(table);
    for i in 0..h.n_layers {
        b.begin_layer();
        let name = |name: &str| format!("blk.{i}.{name}");
        let (norm, bias) = with_bias(&mut b, &name("attn_norm"));
        let normed = b.layer_norm(x, norm, bias, h.norm_eps);

        let projections = projections(&mut b, h, weights, i)?;
        let qkv = b.matmul_parts(normed, projections);
        let attended = b.attention(qkv, &attention);
        let (output, bias) = with_bias(&mut b, &name("attn_output"));
        x = b.matmul_add(attended, output, Some(bias), x);

        let (up, bias) = with_bias(&mut b, &name("ffn_up"));
        let [inner] = b.matmul_parts(normed, [(up, Some(bias))]);
        let inner = b.map(inner, Function::Gelu);
        let (down, bias) = with_bias(&mut b, &name("ffn_down"));
        x = b.matmul_add(inner, down, Some(bias), x);
    }

    let last = b.outputs(x);
    let (norm, bias) = with_bias(&mut b, "output_norm");
    let normed = b.layer_norm(last, norm, bias, h.norm_eps);
    let output = weights
        .optional("output.weight")
        .map_or(table, |output| b.weight(output));
    let bias = b.weight(weights.required("output.bias"));
    let [logits] = b.matmul_parts(normed, [(output, Some(bias))]);
    Ok(b.finish(logits))
}

fn projections(
    b: &mut Builder,
    h: &HParams,
    weights: &Weights,
    layer: usize,
) -> Result<[Biased; 3], LoadError> {
    let tensor = |part: &str, kind: &str| format!("blk.{layer}.attn_{part}.{kind}");
    let optional = |part: &str, kind: &str| weights.optional(&tensor(part, kind));
    let fused = optional("qkv", "weight");
    for part in ["q", "k", "v"] {
        let name = tensor(part, "weight");
        match (&fused, weights.optional(&name)) {
            (None, None) => {
                let n_heads = if part == "q" { h.n_heads } else { h.n_kv_heads };
                let wanted = vec![h.hidden_size, n_heads * h.head_dim];
                return Err(LoadError::MissingTensor { name, wanted });
            }
            (Some(fused), Some(_)) => {
                let problem = format!("the same as a part of {}, expected one", fused.name());
                return Err(LoadError::Tensor { name, problem });
            }
            _ => {}
        }
    }
    Ok(match fused {
        Some(fused) => split_qkv(b, h, &fused, optional("qkv", "bias").as_ref()),
        None => ["q", "k", "v"].map(|part| {
            let weight = b.weight(weights.required(&tensor(part, "weight")));
            (weight, optional(part, "bias").map(|bias| b.weight(bias)))
        }),
    })
}

fn tiny() -> Metadata {
    let mut metadata = tiny_decoder("phi2");
    metadata.insert("phi2.attention.layer_norm_epsilon", 1e-5f32);
    metadata.insert("phi2.rope.dimension_count", 4u32);
    metadata
}
