//! A llama of some kilobytes with random weights, and ways to break it.

use minerva_gguf::{Array, GgmlType, Metadata, NewTensor, StringArray, Value};

use crate::Folder;

/// Positions of its context.
pub(crate) const CONTEXT: usize = 128;
/// Its chat template; the texts of its control tokens are `<|user|>` and `<|end|>`.
const TEMPLATE: &str =
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}";

const HIDDEN: usize = 32;
const FFN: usize = 64;
const N_LAYERS: usize = 2;
const HEAD_DIM: usize = 8;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;

/// What the file is made of; a test changes what it is about.
pub(crate) struct TinyModel {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<(String, Vec<usize>)>,
}

impl TinyModel {
    pub(crate) fn new() -> TinyModel {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "llama");
        metadata.insert("general.name", "Tiny");
        for (key, value) in [
            ("context_length", CONTEXT),
            ("embedding_length", HIDDEN),
            ("block_count", N_LAYERS),
            ("feed_forward_length", FFN),
            ("attention.head_count", N_HEADS),
            ("attention.head_count_kv", N_KV_HEADS),
            ("rope.dimension_count", HEAD_DIM),
        ] {
            metadata.insert(&format!("llama.{key}"), value as u32);
        }
        metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);

        // The visible characters of ASCII, space and line break as byte-level BPE writes them.
        let mut tokens: Vec<String> = ('!'..='~').map(String::from).collect();
        tokens.extend(["Ġ", "Ċ", "he", "<|user|>", "<|end|>"].map(String::from));
        let mut types = vec![1i32; tokens.len()];
        let end = tokens.len() - 1;
        types[end - 1] = 3;
        types[end] = 3;
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", "gpt-2");
        metadata.insert("tokenizer.ggml.tokens", strings(&tokens));
        metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        metadata.insert("tokenizer.ggml.merges", strings(&["h e".to_owned()]));
        metadata.insert("tokenizer.ggml.eos_token_id", end as u32);
        metadata.insert("tokenizer.chat_template", TEMPLATE);

        let (q, kv) = (N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM);
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), vec![HIDDEN, tokens.len()]),
            ("output_norm.weight".to_owned(), vec![HIDDEN]),
            ("output.weight".to_owned(), vec![HIDDEN, tokens.len()]),
        ];
        for layer in 0..N_LAYERS {
            for (name, dims) in [
                ("attn_norm", vec![HIDDEN]),
                ("attn_q", vec![HIDDEN, q]),
                ("attn_k", vec![HIDDEN, kv]),
                ("attn_v", vec![HIDDEN, kv]),
                ("attn_output", vec![q, HIDDEN]),
                ("ffn_norm", vec![HIDDEN]),
                ("ffn_gate", vec![HIDDEN, FFN]),
                ("ffn_up", vec![HIDDEN, FFN]),
                ("ffn_down", vec![FFN, HIDDEN]),
            ] {
                tensors.push((format!("blk.{layer}.{name}.weight"), dims));
            }
        }
        TinyModel { metadata, tensors }
    }

    /// The model without one key of its metadata, from which nothing can be taken away.
    pub(crate) fn without(unwanted: &str) -> TinyModel {
        let mut model = TinyModel::new();
        let mut metadata = Metadata::new();
        for (key, value) in model.metadata.iter() {
            if key != unwanted {
                metadata.insert(key, value.clone());
            }
        }
        model.metadata = metadata;
        model
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut state = 7u64;
        let mut random = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let data: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|(_, dims)| {
                let n: usize = dims.iter().product();
                (0..n).flat_map(|_| random().to_le_bytes()).collect()
            })
            .collect();
        let tensors: Vec<NewTensor<'_>> = self
            .tensors
            .iter()
            .zip(&data)
            .map(|((name, dims), data)| NewTensor {
                name,
                dims,
                ggml_type: GgmlType::F32,
                data,
            })
            .collect();
        let mut file = Vec::new();
        minerva_gguf::write(&mut file, &self.metadata, &tensors).unwrap();
        file
    }

    /// Writes the file, and returns its path.
    pub(crate) fn write(&self, folder: &Folder) -> String {
        let path = folder.path("tiny.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

fn strings(texts: &[String]) -> Value {
    let mut strings = StringArray::default();
    texts.iter().for_each(|text| strings.push(text.as_bytes()));
    Value::Array(Array::String(strings))
}
