//! Tiny random models of any architecture; an example shares this file.

use minerva_engine::HParams;
use minerva_engine::model::{Architecture, TensorSpec};
use minerva_gguf::{GgmlType, Metadata, NewTensor, StringArray};

/// The first of the tokens that are a letter.
pub(crate) const FIRST_LETTER: u32 = 3 + 256;

/// A model before it is written.
#[derive(Clone)]
pub(crate) struct Tiny {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor of f32.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Tiny {
    /// The tiny shape of an architecture, of metadata that `set` has changed, with all tensors but
    /// the optional ones that `skip` names the ends of.
    pub(crate) fn with(
        architecture: &Architecture,
        skip: &[&str],
        set: impl Fn(&mut Metadata),
    ) -> Tiny {
        let mut metadata = (architecture.tiny)();
        add_tokenizer(&mut metadata);
        set(&mut metadata);
        let mut tiny = Tiny {
            metadata,
            tensors: Vec::new(),
        };
        tiny.fill(architecture, skip);
        tiny
    }

    /// Makes the tensors that the metadata calls for, from a fixed seed.
    pub(crate) fn fill(&mut self, architecture: &Architecture, skip: &[&str]) {
        let hparams = HParams::read(&self.metadata, architecture.name).unwrap();
        let mut random = Random(1);
        let specs = (architecture.tensors)(&hparams);
        // Where projections may be one matrix or three, a file has either.
        let mut is_left_out: Vec<&str> = skip.to_vec();
        if specs
            .iter()
            .any(|s| s.is_optional && s.name.ends_with("attn_qkv.weight"))
        {
            is_left_out.extend(match skip.contains(&"attn_qkv.weight") {
                true => ["attn_qkv.bias"; 6],
                false => [
                    "attn_q.weight",
                    "attn_q.bias",
                    "attn_k.weight",
                    "attn_k.bias",
                    "attn_v.weight",
                    "attn_v.bias",
                ],
            });
        }
        // Likewise experts: all matrices are one tensor.
        let is_of_one_expert = |name: &str| {
            let number = name.split('.').nth(3);
            number.is_some_and(|part| part.parse::<usize>().is_ok())
        };
        let specs = specs.into_iter().filter(|spec| {
            let is_left_out = is_left_out.iter().any(|end| spec.name.ends_with(end));
            !(spec.is_optional && (is_left_out || is_of_one_expert(&spec.name)))
        });
        let tensor = |spec: TensorSpec| {
            let n = spec.dims.iter().product();
            let is_vector = spec.dims.len() == 1;
            let spread = if is_vector {
                0.2
            } else {
                2.0 / (spec.dims[0] as f32).sqrt()
            };
            let mean = if spec.name.ends_with(".bias") || !is_vector {
                0.0
            } else {
                1.0
            };
            let values = (0..n).map(|_| mean + spread * random.next()).collect();
            Tensor {
                name: spec.name,
                dims: spec.dims,
                values,
            }
        };
        self.tensors = specs.map(tensor).collect();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, &self.metadata, &self.tensors);
        out
    }
}

/// Writes a file with tensors of f32.
pub(crate) fn write(out: &mut Vec<u8>, metadata: &Metadata, tensors: &[Tensor]) {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let new = tensors.iter().zip(&data).map(|(tensor, data)| NewTensor {
        name: &tensor.name,
        dims: &tensor.dims,
        ggml_type: GgmlType::F32,
        data,
    });
    minerva_gguf::write(out, metadata, &new.collect::<Vec<_>>()).unwrap();
}

/// A vocabulary of three special tokens, the bytes, and the letters a to z.
fn add_tokenizer(metadata: &mut Metadata) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(('a'..='z').map(String::from));
    let types = [vec![2, 3, 3], vec![6; 256], vec![1; 26]].concat();
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.scores", vec![0.0f32; tokens.len()]);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert(
        "tokenizer.ggml.tokens",
        tokens.iter().collect::<StringArray>(),
    );
}

/// Numbers from -1 to 1.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> f32 {
        // Knuth's MMIX generator.
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
