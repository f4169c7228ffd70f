//! Models: what a file holds, checked, and its forward pass.
//!
//! An architecture is one file here and one row of [`ARCHITECTURES`]; most of them only set what
//! differs in the shared decoder (`decoder`). Everything else about a model is data: numbers from
//! the metadata ([`HParams`]), and weights by name.

mod hparams;
mod rope;

mod weights;

mod decoder;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt_oss;
mod granite;
mod llama;
mod olmo2;
mod phi2;
mod phi3;
mod phimoe;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen3moe;
mod smollm3;

mod file;

use std::path::{Path, PathBuf};

use minerva_compute::{DType, Program};
use minerva_gguf::{GgmlType, Metadata, Value};

use self::file::ModelFile;
use crate::chat::renderer::Compile;
use crate::chat::template::ChatTemplate;
use crate::error::LoadError;
use crate::tokenizer::{TokenType, Tokenizer};

pub use self::hparams::{ExpertParams, HParams};
pub use self::rope::{RopeParams, RopeScaling};
pub use self::weights::{TensorSpec, Weights};

/// A kind of model that can be run.
#[derive(Debug)]
pub struct Architecture {
    /// The name in `general.architecture`, which begins the names of its metadata keys too.
    pub name: &'static str,
    /// The tensors that its files have.
    pub tensors: fn(&HParams) -> Vec<TensorSpec>,
    /// Its forward pass, of weights that were checked against `tensors`; it fails only where a
    /// tensor's elements, such as RoPE's factors, make no sense.
    /// The last argument is the longest context that it will be used for.
    pub build: fn(&HParams, &Weights, usize) -> Result<Program, LoadError>,
    /// The metadata of a small model, without a tokenizer, for tests.
    pub tiny: fn() -> Metadata,
}

/// The architectures, by name.
pub const ARCHITECTURES: &[Architecture] = &[
    llama::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    qwen2moe::ARCHITECTURE,
    qwen3moe::ARCHITECTURE,
    gpt_oss::ARCHITECTURE,
    phi3::ARCHITECTURE,
    phimoe::ARCHITECTURE,
    phi2::ARCHITECTURE,
    granite::ARCHITECTURE,
    smollm3::ARCHITECTURE,
    olmo2::ARCHITECTURE,
    gemma::ARCHITECTURE,
    gemma2::ARCHITECTURE,
    gemma3::ARCHITECTURE,
];

/// The smallest metadata of a decoder that has everything: several layers, grouped queries, uneven
/// widths.
fn tiny_decoder(architecture: &str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", architecture);
    let mut insert = |key: &str, value: Value| {
        metadata.insert(&format!("{architecture}.{key}"), value);
    };
    insert("context_length", 128u32.into());
    insert("embedding_length", 32u32.into());
    insert("block_count", 2u32.into());
    insert("feed_forward_length", 64u32.into());
    insert("attention.head_count", 4u32.into());
    insert("attention.head_count_kv", 2u32.into());
    insert("attention.layer_norm_rms_epsilon", 1e-5f32.into());
    insert("rope.dimension_count", 8u32.into());
    metadata
}

impl Architecture {
    /// The one that a file names.
    pub fn of(metadata: &Metadata) -> Result<&'static Architecture, LoadError> {
        let found = metadata.str("general.architecture")?;
        ARCHITECTURES
            .iter()
            .find(|architecture| architecture.name == found)
            .ok_or_else(|| {
                let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
                LoadError::Architecture {
                    found: found.into(),
                    known: known.join(", "),
                }
            })
    }
}

/// A model: an open file of which everything but the tensors' elements was checked.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    file: ModelFile,
    architecture: &'static Architecture,
    hparams: HParams,
    weights: Weights,
    tokenizer: Tokenizer,
}

impl Model {
    /// Opens a GGUF file; if it is a part of a split model, the other parts beside it too.
    ///
    /// The file is mapped into memory, and must not be changed while the model is in use.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, LoadError> {
        let path = path.as_ref();
        let file = ModelFile::open(path)?;
        let architecture = Architecture::of(&file.gguf.metadata)?;
        let hparams = HParams::read(&file.gguf.metadata, architecture.name)?;
        let mut problems = Vec::new();
        let weights = Weights::load(&file, &(architecture.tensors)(&hparams), &mut problems);
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        let tokenizer = Tokenizer::from_metadata(&file.gguf.metadata)?;
        Ok(Model {
            path: path.into(),
            file,
            architecture,
            hparams,
            weights,
            tokenizer,
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.file.gguf.metadata
    }

    /// Its numbers.
    pub fn hparams(&self) -> &HParams {
        &self.hparams
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its chat template, compiled; `None` if it has none.
    pub fn chat_template(&self, compile: Compile) -> Result<Option<ChatTemplate>, LoadError> {
        let Some(source) = self.metadata().opt_str("tokenizer.chat_template")? else {
            return Ok(None);
        };
        let renderer = compile(source)?;
        let control = (0..self.tokenizer.n_tokens() as u32)
            .filter(|&id| self.tokenizer.token_type(id) == Some(TokenType::Control));
        let texts = control.filter_map(|id| self.tokenizer.token_bytes(id));
        let texts: Vec<_> = texts.map(|bytes| String::from_utf8_lossy(bytes)).collect();
        Ok(Some(ChatTemplate::new(renderer, &texts)))
    }

    /// What there is to say about it.
    pub fn info(&self) -> ModelInfo {
        let tensors = &self.file.gguf.tensors;
        let mut types: Vec<TypeInfo> = Vec::new();
        for tensor in tensors.iter() {
            let at = types
                .iter()
                .position(|info| info.ggml_type == tensor.ggml_type);
            let at = at.unwrap_or_else(|| {
                types.push(TypeInfo {
                    ggml_type: tensor.ggml_type,
                    n_tensors: 0,
                    n_elements: 0,
                    n_bytes: 0,
                });
                types.len() - 1
            });
            types[at].n_tensors += 1;
            types[at].n_elements += tensor.n_elements() as u64;
            types[at].n_bytes += tensor.n_bytes as u64;
        }
        types.sort_by_key(|info| std::cmp::Reverse(info.n_bytes));
        ModelInfo {
            architecture: self.architecture.name,
            name: self
                .metadata()
                .opt_str("general.name")
                .ok()
                .flatten()
                .map(Into::into),
            n_parameters: types.iter().map(|info| info.n_elements).sum(),
            file_bytes: self.file.n_bytes(),
            types,
        }
    }

    /// The forward pass, for a backend to load; `context` is the longest context that it will be
    /// used for.
    pub fn program(&self, context: usize) -> Result<Program, LoadError> {
        (self.architecture.build)(&self.hparams, &self.weights, context)
    }
}

/// What there is to say about a model, beside its [`HParams`].
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The architecture's name.
    pub architecture: &'static str,
    /// The model's own name, if the file has one.
    pub name: Option<String>,
    /// Elements of all tensors.
    pub n_parameters: u64,
    /// The size of the file, or of all parts.
    pub file_bytes: u64,
    /// The types of the tensors, most bytes first.
    pub types: Vec<TypeInfo>,
}

/// How much of a model is stored as one type.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeInfo {
    /// The type.
    pub ggml_type: GgmlType,
    /// Tensors of this type.
    pub n_tensors: usize,
    /// Their elements.
    pub n_elements: u64,
    /// Their bytes.
    pub n_bytes: u64,
}

/// Checks a model file as deeply as is possible without running it, and returns every problem found:
/// metadata, tokenizer, chat template, the names, shapes and types of the tensors, and whether
/// every element is a finite number.
pub fn verify(path: impl AsRef<Path>, compile: Compile) -> Vec<LoadError> {
    let file = match ModelFile::open(path.as_ref()) {
        Ok(file) => file,
        Err(problem) => return vec![problem],
    };
    let mut problems = Vec::new();
    let metadata = &file.gguf.metadata;
    match Architecture::of(metadata).and_then(|a| Ok((a, HParams::read(metadata, a.name)?))) {
        Ok((architecture, hparams)) => {
            let weights = Weights::load(&file, &(architecture.tensors)(&hparams), &mut problems);
            if problems.is_empty() {
                let context = hparams.context_length;
                problems.extend((architecture.build)(&hparams, &weights, context).err());
            }
        }
        Err(problem) => problems.push(problem),
    }
    problems.extend(Tokenizer::from_metadata(metadata).err());
    match metadata.opt_str("tokenizer.chat_template") {
        Ok(Some(source)) => problems.extend(compile(source).err()),
        Ok(None) => {}
        Err(problem) => problems.push(problem.into()),
    }
    for tensor in file.gguf.tensors.iter() {
        if let Some(dtype) = DType::from_id(tensor.ggml_type.id()) {
            let rows = file.bytes(tensor);
            problems.extend(not_finite(&tensor.name, dtype, tensor.dims[0], &rows));
        }
    }
    problems
}

/// The problem of a tensor with elements that are infinite or no numbers, as a broken scale makes.
fn not_finite(name: &str, dtype: DType, row_len: usize, rows: &[u8]) -> Option<LoadError> {
    let mut row = vec![0.0; row_len];
    let mut n_elements = 0;
    let mut first_row = None;
    for (i, bytes) in rows.chunks(dtype.row_bytes(row_len)?).enumerate() {
        dtype.dequantize_row(bytes, &mut row);
        let n_here = row.iter().filter(|x| !x.is_finite()).count();
        if n_here > 0 {
            first_row.get_or_insert(i);
        }
        n_elements += n_here;
    }
    first_row.map(|row| LoadError::NotFinite {
        name: name.into(),
        n_elements,
        row,
    })
}
