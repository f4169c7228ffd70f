//! The decoder that most architectures share, and what they set about it.
//!
//! Each layer adds to the stream x, first `attention(norm(x))`, then `feed_forward(norm(x))`. Heads
//! are turned by their positions, several query heads share a key/value head
//! (<https://arxiv.org/abs/2305.13245>), and the feed-forward block has a gate
//! (<https://arxiv.org/abs/2002.05202>). What differs is a field of [`Decoder`], or a number that
//! the file gives.

use std::ops::Range;

use minerva_compute::{
    Activation, AttentionSpec, Biased, BufId, Builder, ExpertsSpec, Function, Pairing, Program,
    Rope, Weight, WeightId,
};

use super::hparams::{ExpertParams, HParams};
use super::rope::{RopeParams, RopeScaling};
use super::weights::{TensorSpec, Weights};
use crate::error::LoadError;

/// What an architecture sets about the shared decoder.
pub(super) struct Decoder {
    /// Which elements of a head are turned together.
    pub(super) pairing: Pairing,
    /// How the stream is normed.
    pub(super) norm: Norm,
    /// The name of the norm that feed-forward begins with.
    pub(super) ffn_norm: &'static str,
    /// How gate and up become one.
    pub(super) activation: Activation,
    /// What is normed before the rotation.
    pub(super) qk_norm: QkNorm,
    /// Whether attention and feed-forward begin with a norm.
    pub(super) has_pre_norm: bool,
    /// Whether they end with one, before they are added to the stream.
    pub(super) has_post_norm: bool,
    /// Whether each head has one more score, without a value.
    pub(super) has_sinks: bool,
    /// Whether queries, keys and values are one matrix, and so gate and up.
    pub(super) is_fused: bool,
    /// Whether the shares of a token's experts are made to sum to 1.
    pub(super) normalizes_experts: bool,
    /// Whether the router and the experts have biases.
    pub(super) has_expert_biases: bool,
    /// Whether a file may have each expert's matrices as tensors of their own.
    pub(super) has_split_experts: bool,
    /// Whether every token goes through one more expert, as far as a gate says.
    pub(super) has_shared_expert: bool,
    /// Whether a file may have `rope_factors_{short,long}.weight` without saying so.
    pub(super) has_long_rope: bool,
    /// Whether logits have a bias.
    pub(super) has_output_bias: bool,
    /// Whether embeddings are multiplied with the square root of their width.
    pub(super) scales_embedding: bool,
    /// Factor on a query's product with a key, where the file gives none.
    pub(super) attention_scale: fn(&HParams) -> f32,
    /// Whether a layer turns its heads.
    pub(super) has_rope: fn(&HParams, usize) -> bool,
    /// Which layers see only a window, where the file gives one and no pattern.
    pub(super) is_local: fn(usize) -> bool,
    /// The window where the file gives none.
    pub(super) default_window: Option<usize>,
    /// The base of the local layers' frequencies where the file gives none; `None` for the others'.
    pub(super) local_freq_base: Option<f32>,
    /// Whether local layers scale positions as the others do.
    pub(super) scales_local_rope: bool,
}

/// The most experts that are looked for as tensors of their own: those files have 8, and the names
/// take memory before the file is known to have them.
const MAX_SPLIT_EXPERTS: usize = 32;

/// Norms of the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    /// Root mean square.
    Rms,
    /// Layer norm, with a bias.
    Layer,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// Each head by itself.
    Heads,
    /// All heads together.
    Whole,
}

/// The decoder of LLaMA, from which the others differ.
pub(super) const LLAMA: Decoder = Decoder {
    pairing: Pairing::Adjacent,
    norm: Norm::Rms,
    ffn_norm: "ffn_norm",
    activation: Activation::Silu,
    qk_norm: QkNorm::None,
    has_pre_norm: true,
    has_post_norm: false,
    has_sinks: false,
    is_fused: false,
    normalizes_experts: true,
    has_expert_biases: false,
    has_split_experts: false,
    has_shared_expert: false,
    has_long_rope: false,
    has_output_bias: false,
    scales_embedding: false,
    attention_scale: |h| 1.0 / (h.head_dim as f32).sqrt(),
    has_rope: |_, _| true,
    is_local: |_| true,
    default_window: None,
    local_freq_base: None,
    scales_local_rope: true,
};

impl Decoder {
    /// What the files have.
    pub(super) fn tensors(&self, h: &HParams) -> Vec<TensorSpec> {
        let required = TensorSpec::required;
        let optional = TensorSpec::optional;
        let (x, q, kv) = (
            h.hidden_size,
            h.n_heads * h.head_dim,
            h.n_kv_heads * h.head_dim,
        );
        let norm = |name: &str| {
            let bias = (self.norm == Norm::Layer).then(|| required(&format!("{name}.bias"), &[x]));
            [required(&format!("{name}.weight"), &[x])]
                .into_iter()
                .chain(bias)
        };
        let mut tensors = vec![
            required("token_embd.weight", &[x, h.vocab_size]),
            optional("output.weight", &[x, h.vocab_size]),
        ];
        tensors.extend(norm("output_norm"));
        if self.has_output_bias {
            tensors.push(required("output.bias", &[h.vocab_size]));
        }
        let n_pairs = h.rope.n_dims / 2;
        match h.rope.scaling {
            RopeScaling::Long => tensors.extend(LONG_FACTORS.map(|n| required(n, &[n_pairs]))),
            _ if self.has_long_rope => {
                tensors.extend(LONG_FACTORS.map(|n| optional(n, &[n_pairs])));
            }
            _ => tensors.push(optional("rope_freqs.weight", &[n_pairs])),
        }
        for i in 0..h.n_layers {
            let name = |name: &str| format!("blk.{i}.{name}");
            if self.has_pre_norm {
                tensors.extend(norm(&name("attn_norm")));
                tensors.extend(norm(&name(self.ffn_norm)));
            }
            if self.has_post_norm {
                tensors.extend(norm(&name("post_attention_norm")));
                tensors.extend(norm(&name("post_ffw_norm")));
            }
            if self.is_fused {
                tensors.push(required(&name("attn_qkv.weight"), &[x, q + 2 * kv]));
                tensors.push(optional(&name("attn_qkv.bias"), &[q + 2 * kv]));
            } else {
                for (part, width) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                    tensors.push(required(&name(&format!("{part}.weight")), &[x, width]));
                    tensors.push(optional(&name(&format!("{part}.bias")), &[width]));
                }
            }
            let (q_norm, k_norm) = match self.qk_norm {
                QkNorm::None => (None, None),
                QkNorm::Heads => (Some(h.head_dim), Some(h.head_dim)),
                QkNorm::Whole => (Some(q), Some(kv)),
            };
            tensors.extend(q_norm.map(|n| required(&name("attn_q_norm.weight"), &[n])));
            tensors.extend(k_norm.map(|n| required(&name("attn_k_norm.weight"), &[n])));
            tensors.push(required(&name("attn_output.weight"), &[q, x]));
            tensors.push(optional(&name("attn_output.bias"), &[x]));
            if self.has_sinks {
                tensors.push(required(&name("attn_sinks.weight"), &[h.n_heads]));
            }
            let inner = h.ffn_size;
            if let Some(e) = &h.experts {
                let (n, inner) = (e.n_experts, e.ffn_size);
                tensors.push(required(&name("ffn_gate_inp.weight"), &[x, n]));
                if self.has_expert_biases {
                    tensors.push(required(&name("ffn_gate_inp.bias"), &[n]));
                }
                for (part, row_len, n_rows) in
                    [("gate", x, inner), ("up", x, inner), ("down", inner, x)]
                {
                    let may_be_split = self.has_split_experts && n <= MAX_SPLIT_EXPERTS;
                    let merged = name(&format!("ffn_{part}_exps.weight"));
                    tensors.push(TensorSpec {
                        is_optional: may_be_split,
                        ..required(&merged, &[row_len, n_rows, n])
                    });
                    if may_be_split {
                        let split = |e| name(&format!("ffn_{part}.{e}.weight"));
                        tensors.extend((0..n).map(|e| optional(&split(e), &[row_len, n_rows])));
                    }
                    if self.has_expert_biases {
                        let bias = name(&format!("ffn_{part}_exps.bias"));
                        tensors.push(required(&bias, &[n_rows, n]));
                    }
                }
                if self.has_shared_expert {
                    let inner = e.shared_ffn_size;
                    tensors.extend([
                        required(&name("ffn_gate_inp_shexp.weight"), &[x]),
                        required(&name("ffn_gate_shexp.weight"), &[x, inner]),
                        required(&name("ffn_up_shexp.weight"), &[x, inner]),
                        required(&name("ffn_down_shexp.weight"), &[inner, x]),
                    ]);
                }
                continue;
            }
            if self.is_fused {
                tensors.push(required(&name("ffn_up.weight"), &[x, 2 * inner]));
            } else {
                for part in ["ffn_gate", "ffn_up"] {
                    tensors.push(required(&name(&format!("{part}.weight")), &[x, inner]));
                    tensors.push(optional(&name(&format!("{part}.bias")), &[inner]));
                }
            }
            tensors.push(required(&name("ffn_down.weight"), &[inner, x]));
            tensors.push(optional(&name("ffn_down.bias"), &[x]));
        }
        tensors
    }

    /// The forward pass, for contexts of up to `context` positions.
    pub(super) fn build(
        &self,
        h: &HParams,
        weights: &Weights,
        context: usize,
    ) -> Result<Program, LoadError> {
        let mut b = Builder::new();
        let table = b.weight(weights.required("token_embd.weight"));
        let factors = rope_factors(h, weights, context)?;
        let rope = b.rope(h.rope.rope(self.pairing, factors.as_ref())?);
        let local_rope = self
            .local_rope(h, factors.as_ref())?
            .map_or(rope, |rope| b.rope(rope));

        let mut x = b.embed(table);
        if self.scales_embedding {
            x = b.map(x, Function::Scale((h.hidden_size as f32).sqrt()));
        }
        x = scaled(&mut b, x, h.embedding_scale);
        for i in 0..h.n_layers {
            b.begin_layer();
            let is_local = match &h.local_layers {
                Some(local_layers) => local_layers[i],
                None => (self.is_local)(i),
            };
            let layer = Layer {
                decoder: self,
                h,
                weights,
                index: i,
            };
            let attention = AttentionSpec {
                n_heads: h.n_heads,
                n_kv_heads: h.n_kv_heads,
                head_dim: h.head_dim,
                scale: h
                    .attention_scale
                    .unwrap_or_else(|| (self.attention_scale)(h)),
                rope: (self.has_rope)(h, i).then_some(if is_local { local_rope } else { rope }),
                soft_cap: h.attention_soft_cap,
                window: h.window.or(self.default_window).filter(|_| is_local),
                sinks: self
                    .has_sinks
                    .then(|| layer.weight(&mut b, "attn_sinks.weight")),
            };
            x = layer.attention(&mut b, x, &attention);
            x = layer.feed_forward(&mut b, x)?;
        }

        let last = b.outputs(x);
        let normed = self.norm(&mut b, last, (weights, "output_norm"), h.norm_eps);
        let output = weights
            .optional("output.weight")
            .map_or(table, |output| b.weight(output));
        let bias = self
            .has_output_bias
            .then(|| b.weight(weights.required("output.bias")));
        let [logits] = b.matmul_parts(normed, [(output, bias)]);
        let mut logits = scaled(&mut b, logits, 1.0 / h.logit_divisor);
        if let Some(cap) = h.logit_soft_cap {
            logits = b.map(logits, Function::SoftCap(cap));
        }
        Ok(b.finish(logits))
    }

    /// The norm of the stream whose tensors' names begin with `name`.
    fn norm(
        &self,
        b: &mut Builder,
        x: BufId,
        (weights, name): (&Weights, &str),
        eps: f32,
    ) -> BufId {
        let weight = b.weight(weights.required(&format!("{name}.weight")));
        match self.norm {
            Norm::Rms => b.rms_norm(x, weight, eps),
            Norm::Layer => {
                let bias = b.weight(weights.required(&format!("{name}.bias")));
                b.layer_norm(x, weight, bias, eps)
            }
        }
    }

    /// The rotation of local layers, where it is another one.
    fn local_rope(&self, h: &HParams, factors: Option<&Weight>) -> Result<Option<Rope>, LoadError> {
        let freq_base = h.local_freq_base.or(self.local_freq_base);
        if freq_base.is_none() && self.scales_local_rope {
            return Ok(None);
        }
        let mut rope = RopeParams {
            freq_base: freq_base.unwrap_or(h.rope.freq_base),
            ..h.rope.clone()
        };
        if !self.scales_local_rope {
            (rope.scaling, rope.attn_factor) = (RopeScaling::None, 1.0);
        }
        let factors = factors.filter(|_| self.scales_local_rope);
        rope.rope(self.pairing, factors).map(Some)
    }
}

/// Factors of longrope, for contexts up to the original length and for longer ones.
const LONG_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// What divides the frequencies in a context of this length.
fn rope_factors(
    h: &HParams,
    weights: &Weights,
    context: usize,
) -> Result<Option<Weight>, LoadError> {
    let [short, long] = LONG_FACTORS.map(|name| weights.optional(name));
    for (name, one, other) in [
        (LONG_FACTORS[0], &short, &long),
        (LONG_FACTORS[1], &long, &short),
    ] {
        if one.is_none() && other.is_some() {
            return Err(LoadError::MissingTensor {
                name: name.into(),
                wanted: vec![h.rope.n_dims / 2],
            });
        }
    }
    let is_long = context > h.rope.original_context_length;
    let factors = if is_long { long } else { short };
    Ok(factors.or_else(|| weights.optional("rope_freqs.weight")))
}

fn scaled(b: &mut Builder, x: BufId, factor: f32) -> BufId {
    if factor == 1.0 {
        return x;
    }
    b.map(x, Function::Scale(factor))
}

/// Elements `range` of a vector.
fn part(vector: &Weight, range: Range<usize>) -> Weight {
    Weight::from_f32(vector.name(), (1, range.len()), &vector.to_f32()[range])
}

/// One matrix of queries, keys and values as three, with their biases.
pub(super) fn split_qkv(
    b: &mut Builder,
    h: &HParams,
    weight: &Weight,
    bias: Option<&Weight>,
) -> [Biased; 3] {
    let (q, kv) = (h.n_heads * h.head_dim, h.n_kv_heads * h.head_dim);
    [0..q, q..q + kv, q + kv..q + 2 * kv].map(|range| {
        let bias = bias.map(|bias| b.weight(part(bias, range.clone())));
        (b.weight(weight.rows(range)), bias)
    })
}

/// One layer being written.
struct Layer<'a> {
    decoder: &'a Decoder,
    h: &'a HParams,
    weights: &'a Weights,
    index: usize,
}

impl Layer<'_> {
    fn name(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.index)
    }

    fn weight(&self, b: &mut Builder, name: &str) -> WeightId {
        b.weight(self.weights.required(&self.name(name)))
    }

    fn with_bias(&self, b: &mut Builder, name: &str) -> Biased {
        let weight = self.weight(b, &format!("{name}.weight"));
        let bias = self.weights.optional(&self.name(&format!("{name}.bias")));
        (weight, bias.map(|bias| b.weight(bias)))
    }

    fn norm(&self, b: &mut Builder, x: BufId, name: &str) -> BufId {
        let name = self.name(name);
        self.decoder
            .norm(b, x, (self.weights, &name), self.h.norm_eps)
    }

    fn pre_norm(&self, b: &mut Builder, x: BufId, name: &str) -> BufId {
        match self.decoder.has_pre_norm {
            true => self.norm(b, x, name),
            false => x,
        }
    }

    /// `stream + norm(scale * (weight * x + bias))`, where there is a norm or a scale.
    fn add_product(
        &self,
        b: &mut Builder,
        x: BufId,
        (weight, bias): Biased,
        norm: &str,
        stream: BufId,
    ) -> BufId {
        if !self.decoder.has_post_norm && self.h.residual_scale == 1.0 {
            return b.matmul_add(x, weight, bias, stream);
        }
        let [y] = b.matmul_parts(x, [(weight, bias)]);
        self.add_result(b, y, norm, stream)
    }

    fn add_result(&self, b: &mut Builder, y: BufId, norm: &str, stream: BufId) -> BufId {
        let y = scaled(b, y, self.h.residual_scale);
        let y = match self.decoder.has_post_norm {
            true => self.norm(b, y, norm),
            false => y,
        };
        b.add(stream, y)
    }

    fn attention(&self, b: &mut Builder, x: BufId, spec: &AttentionSpec) -> BufId {
        let normed = self.pre_norm(b, x, "attn_norm");
        let projections = if self.decoder.is_fused {
            let weight = self.weights.required(&self.name("attn_qkv.weight"));
            let bias = self.weights.optional(&self.name("attn_qkv.bias"));
            split_qkv(b, self.h, &weight, bias.as_ref())
        } else {
            ["attn_q", "attn_k", "attn_v"].map(|name| self.with_bias(b, name))
        };
        let [mut q, mut k, v] = b.matmul_parts(normed, projections);
        if self.decoder.qk_norm != QkNorm::None {
            [q, k] = [(q, "attn_q_norm.weight"), (k, "attn_k_norm.weight")].map(|(x, name)| {
                let weight = self.weight(b, name);
                b.rms_norm(x, weight, self.h.norm_eps)
            });
        }
        let attended = b.attention([q, k, v], spec);
        let output = self.with_bias(b, "attn_output");
        self.add_product(b, attended, output, "post_attention_norm", x)
    }

    fn feed_forward(&self, b: &mut Builder, x: BufId) -> Result<BufId, LoadError> {
        let normed = self.pre_norm(b, x, self.decoder.ffn_norm);
        if let Some(experts) = &self.h.experts {
            let y = self.experts(b, normed, experts)?;
            return Ok(self.add_result(b, y, "post_ffw_norm", x));
        }
        let (gate, up) = if self.decoder.is_fused {
            let both = self.weights.required(&self.name("ffn_up.weight"));
            let n = self.h.ffn_size;
            let gate = b.weight(both.rows(0..n));
            ((gate, None), (b.weight(both.rows(n..2 * n)), None))
        } else {
            let gate = self.with_bias(b, "ffn_gate");
            (gate, self.with_bias(b, "ffn_up"))
        };
        let inner = b.gated_matmul(normed, gate, up, self.decoder.activation);
        let down = self.with_bias(b, "ffn_down");
        Ok(self.add_product(b, inner, down, "post_ffw_norm", x))
    }

    fn experts(
        &self,
        b: &mut Builder,
        x: BufId,
        params: &ExpertParams,
    ) -> Result<BufId, LoadError> {
        let activation = self.decoder.activation;
        let spec = ExpertsSpec {
            activation,
            n_used: params.n_used,
            normalizes: self.decoder.normalizes_experts,
        };
        let router = self.with_bias(b, "ffn_gate_inp");
        let [scores] = b.matmul_parts(x, [router]);
        let n = params.n_experts;
        let [gate, up, down] = [
            self.expert_matrices(b, "gate", n)?,
            self.expert_matrices(b, "up", n)?,
            self.expert_matrices(b, "down", n)?,
        ];
        let experts = gate.into_iter().zip(up).zip(down);
        let experts = experts.map(|((gate, up), down)| [gate, up, down]).collect();
        let routed = b.experts(x, scores, experts, &spec);
        if !self.decoder.has_shared_expert {
            return Ok(routed);
        }
        let [gate, up, down] =
            ["gate", "up", "down"].map(|part| self.weight(b, &format!("ffn_{part}_shexp.weight")));
        let by = self.weight(b, "ffn_gate_inp_shexp.weight");
        let by = b.matmul(x, by);
        let inner = b.gated_matmul(x, (gate, None), (up, None), activation);
        let shared = b.matmul(inner, down);
        let shared = b.gate(shared, by);
        Ok(b.add(routed, shared))
    }

    /// One matrix of each of `n` experts, out of a tensor of all or of one for each.
    fn expert_matrices(
        &self,
        b: &mut Builder,
        part: &str,
        n: usize,
    ) -> Result<Vec<Biased>, LoadError> {
        let optional = |name: &str| self.weights.optional(&self.name(name));
        let merged = optional(&format!("ffn_{part}_exps.weight"));
        let biases = optional(&format!("ffn_{part}_exps.bias"));
        let matrices = (0..n).map(|e| {
            let name = self.name(&format!("ffn_{part}.{e}.weight"));
            let matrix = match (&merged, self.weights.optional(&name)) {
                (Some(merged), None) => {
                    let n_rows = merged.n_rows() / n;
                    merged.rows(e * n_rows..(e + 1) * n_rows)
                }
                (None, Some(split)) => split,
                (Some(merged), Some(_)) => {
                    let problem = format!("the same as a part of {}, expected one", merged.name());
                    return Err(LoadError::Tensor { name, problem });
                }
                (None, None) => {
                    let name = match e {
                        0 => self.name(&format!("ffn_{part}_exps.weight")),
                        _ => name,
                    };
                    let specs = self.decoder.tensors(self.h);
                    let spec = specs.into_iter().find(|spec| spec.name == name);
                    let wanted = spec.map(|spec| spec.dims).unwrap_or_default();
                    return Err(LoadError::MissingTensor { name, wanted });
                }
            };
            let bias = biases
                .as_ref()
                .map(|biases| b.weight(biases.rows(e..e + 1)));
            Ok((b.weight(matrix), bias))
        });
        matrices.collect()
    }
}
