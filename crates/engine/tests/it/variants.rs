//! Shapes of models beside the architectures' own: what their files may say or leave out.

use minerva_engine::model::{ARCHITECTURES, Architecture};
use minerva_gguf::Metadata;

use crate::tiny::{Tensor, Tiny};

/// A kind of file of an architecture; llama.cpp reads all of them.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    architecture: &'static str,
    /// Ends of the names of optional tensors that it lacks.
    skip: &'static [&'static str],
    /// What its metadata says besides.
    set: fn(&mut Metadata),
    /// What is done to its tensors.
    finish: fn(&mut Tiny),
}

const PLAIN: Variant = Variant {
    name: "llama",
    architecture: "llama",
    skip: &[".bias", "rope_freqs.weight"],
    set: |_| {},
    finish: |_| {},
};

/// All but the biases of queries, keys and values.
const QKV_BIASES: &[&str] = &[
    "attn_output.bias",
    "ffn_gate.bias",
    "ffn_up.bias",
    "ffn_down.bias",
    "rope_freqs.weight",
];
const TIED: &[&str] = &["output.weight", ".bias", "rope_freqs.weight"];
const NO_FACTORS: &[&str] = &[
    "rope_factors_short.weight",
    "rope_factors_long.weight",
    ".bias",
];

impl Variant {
    pub(crate) const ALL: &[Variant] = &[
        PLAIN,
        Variant {
            name: "llama, tied",
            skip: TIED,
            ..PLAIN
        },
        Variant {
            name: "llama, biases, rope factors",
            skip: &[],
            ..PLAIN
        },
        Variant {
            name: "llama, linear rope scaling",
            set: |metadata| {
                metadata.insert("llama.rope.scaling.type", "linear");
                metadata.insert("llama.rope.scaling.factor", 4.0f32);
            },
            ..PLAIN
        },
        Variant {
            name: "llama, yarn",
            set: |metadata| set_yarn(metadata, "llama"),
            ..PLAIN
        },
        Variant {
            // Heads that are not a share of the width.
            name: "mistral nemo",
            set: |metadata| {
                metadata.insert("llama.attention.key_length", 12u32);
                metadata.insert("llama.attention.value_length", 12u32);
                metadata.insert("llama.rope.dimension_count", 12u32);
                metadata.insert("llama.rope.freq_base", 1e6f32);
            },
            ..PLAIN
        },
        Variant {
            name: "mixtral",
            set: |metadata| set_experts(metadata, "llama"),
            ..PLAIN
        },
        Variant {
            name: "qwen2",
            architecture: "qwen2",
            skip: QKV_BIASES,
            ..PLAIN
        },
        Variant {
            name: "qwen2, tied",
            architecture: "qwen2",
            skip: &[
                "output.weight",
                "attn_output.bias",
                "ffn_gate.bias",
                "ffn_up.bias",
                "ffn_down.bias",
                "rope_freqs.weight",
            ],
            ..PLAIN
        },
        Variant {
            name: "qwen3",
            architecture: "qwen3",
            ..PLAIN
        },
        Variant {
            name: "qwen2moe",
            architecture: "qwen2moe",
            skip: QKV_BIASES,
            ..PLAIN
        },
        Variant {
            name: "qwen3moe",
            architecture: "qwen3moe",
            ..PLAIN
        },
        Variant {
            name: "gpt-oss",
            architecture: "gpt-oss",
            skip: &["rope_freqs.weight"],
            finish: pass_limits,
            ..PLAIN
        },
        Variant {
            name: "gpt-oss, yarn",
            architecture: "gpt-oss",
            skip: &["rope_freqs.weight"],
            set: |metadata| set_yarn(metadata, "gpt-oss"),
            finish: pass_limits,
        },
        Variant {
            // Rows of experts that are whole blocks of MXFP4, as the published files have them.
            name: "gpt-oss, wide",
            architecture: "gpt-oss",
            skip: &["rope_freqs.weight"],
            set: |metadata| {
                metadata.insert("gpt-oss.embedding_length", 64u32);
                metadata.insert("gpt-oss.expert_feed_forward_length", 96u32);
            },
            finish: pass_limits,
        },
        Variant {
            name: "phi3, rope factors",
            architecture: "phi3",
            ..PLAIN
        },
        Variant {
            name: "phi3",
            architecture: "phi3",
            skip: NO_FACTORS,
            ..PLAIN
        },
        Variant {
            name: "phi4",
            architecture: "phi3",
            skip: NO_FACTORS,
            set: |metadata| {
                metadata.insert("phi3.rope.dimension_count", 8u32);
                metadata.insert("phi3.rope.scaling.attn_factor", 1.0f32);
                metadata.insert("phi3.attention.sliding_window", 0u32);
            },
            ..PLAIN
        },
        Variant {
            name: "phi4 mini",
            architecture: "phi3",
            skip: &["output.weight", ".bias"],
            set: |metadata| metadata.insert("phi3.attention.sliding_window", 0u32),
            ..PLAIN
        },
        Variant {
            name: "phimoe, rope factors",
            architecture: "phimoe",
            skip: &[],
            finish: center,
            ..PLAIN
        },
        Variant {
            name: "phimoe",
            architecture: "phimoe",
            skip: &["rope_factors_short.weight", "rope_factors_long.weight"],
            finish: center,
            ..PLAIN
        },
        Variant {
            name: "phi2",
            architecture: "phi2",
            skip: &[],
            ..PLAIN
        },
        Variant {
            name: "phi2, three projections",
            architecture: "phi2",
            skip: &["attn_qkv.weight"],
            ..PLAIN
        },
        Variant {
            name: "granite",
            architecture: "granite",
            ..PLAIN
        },
        Variant {
            name: "granite, biases, rope factors",
            architecture: "granite",
            skip: &[],
            ..PLAIN
        },
        Variant {
            name: "granite, no rope",
            architecture: "granite",
            set: |metadata| metadata.insert("granite.rope.scaling.finetuned", false),
            ..PLAIN
        },
        Variant {
            name: "smollm3",
            architecture: "smollm3",
            ..PLAIN
        },
        Variant {
            name: "olmo2",
            architecture: "olmo2",
            set: |metadata| metadata.insert("olmo2.attention.sliding_window", 0u32),
            ..PLAIN
        },
        Variant {
            name: "olmo3",
            architecture: "olmo2",
            set: |metadata| set_yarn(metadata, "olmo2"),
            ..PLAIN
        },
        Variant {
            name: "gemma",
            architecture: "gemma",
            skip: TIED,
            ..PLAIN
        },
        Variant {
            name: "gemma2",
            architecture: "gemma2",
            skip: TIED,
            ..PLAIN
        },
        Variant {
            name: "gemma3",
            architecture: "gemma3",
            skip: TIED,
            ..PLAIN
        },
        Variant {
            name: "gemma3, linear rope scaling",
            architecture: "gemma3",
            set: |metadata| {
                metadata.insert("gemma3.rope.scaling.type", "linear");
                metadata.insert("gemma3.rope.scaling.factor", 8.0f32);
            },
            ..PLAIN
        },
    ];

    /// The row of its architecture.
    pub(crate) fn architecture(&self) -> &'static Architecture {
        let mut all = ARCHITECTURES.iter();
        all.find(|architecture| architecture.name == self.architecture)
            .expect("a variant is of an architecture of the list")
    }

    /// A random model of its kind.
    pub(crate) fn tiny(&self) -> Tiny {
        let mut tiny = Tiny::with(self.architecture(), self.skip, self.set);
        (self.finish)(&mut tiny);
        tiny
    }
}

fn set_yarn(metadata: &mut Metadata, architecture: &str) {
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    metadata.insert(&key("type"), "yarn");
    metadata.insert(&key("factor"), 8.0f32);
    metadata.insert(&key("original_context_length"), 32u32);
}

fn set_experts(metadata: &mut Metadata, architecture: &str) {
    metadata.insert(&format!("{architecture}.expert_count"), 6u32);
    metadata.insert(&format!("{architecture}.expert_used_count"), 2u32);
}

/// Makes some gates and ups so large that they are clamped.
fn pass_limits(tiny: &mut Tiny) {
    for tensor in &mut tiny.tensors {
        let is_bias = tensor.name.ends_with(".bias");
        if is_bias
            && ["_gate_exps", "_up_exps"]
                .iter()
                .any(|n| tensor.name.contains(n))
        {
            tensor.values.iter_mut().for_each(|x| *x *= 25.0);
        }
    }
}

/// Takes the mean out of everything that is added to the stream: then a layer norm and a root mean
/// square agree.
fn center(tiny: &mut Tiny) {
    const TO_STREAM: [&str; 4] = [
        "token_embd.weight",
        "attn_output.weight",
        "attn_output.bias",
        "ffn_down_exps.weight",
    ];
    for tensor in &mut tiny.tensors {
        if !TO_STREAM.iter().any(|end| tensor.name.ends_with(end)) {
            continue;
        }
        // The table's rows are in the stream; of a matrix, each column is.
        let is_row = tensor.name.ends_with(".bias") || tensor.name.starts_with("token_embd");
        let n = if is_row {
            tensor.dims[0]
        } else {
            tensor.dims[1]
        };
        let stride = if is_row { 1 } else { tensor.dims[0] };
        for matrix in tensor.values.chunks_mut(n * stride) {
            for first in 0..stride {
                let sum: f32 = matrix.iter().skip(first).step_by(stride).sum();
                let column = matrix.iter_mut().skip(first).step_by(stride);
                column.for_each(|x| *x -= sum / n as f32);
            }
        }
    }
}

/// Makes one tensor for each expert of those of all experts.
pub(crate) fn split_experts(tiny: &mut Tiny) {
    let mut tensors = Vec::new();
    for tensor in std::mem::take(&mut tiny.tensors) {
        let Some(name) = tensor.name.strip_suffix("_exps.weight") else {
            tensors.push(tensor);
            continue;
        };
        let len = tensor.dims[0] * tensor.dims[1];
        let experts = tensor.values.chunks(len).enumerate();
        tensors.extend(experts.map(|(i, values)| Tensor {
            name: format!("{name}.{i}.weight"),
            dims: tensor.dims[..2].into(),
            values: values.into(),
        }));
    }
    tiny.tensors = tensors;
}
