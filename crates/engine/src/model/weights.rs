//! From tensor names to weights, with the checks that let everything after rely on their shapes.

use std::collections::HashMap;

use minerva_compute::{DType, Weight};
use minerva_gguf::TensorInfo;

use super::file::ModelFile;
use crate::error::LoadError;

/// A tensor that an architecture reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// Its shape in the file's order, the row length first.
    pub dims: Vec<usize>,
    /// Whether the file need not have it.
    pub is_optional: bool,
}

impl TensorSpec {
    /// A tensor that must be there.
    pub fn required(name: &str, dims: &[usize]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            dims: dims.into(),
            is_optional: false,
        }
    }

    /// A tensor that may be there.
    pub fn optional(name: &str, dims: &[usize]) -> TensorSpec {
        TensorSpec {
            is_optional: true,
            ..TensorSpec::required(name, dims)
        }
    }
}

/// The weights of a model, by name: all that its architecture requires, in the right shapes.
#[derive(Debug)]
pub struct Weights {
    by_name: HashMap<String, Weight>,
}

impl Weights {
    /// Takes the tensors of `specs` out of a file; what is wrong with them goes to `problems`, and
    /// the result can only be used if that is nothing.
    pub(crate) fn load(
        file: &ModelFile,
        specs: &[TensorSpec],
        problems: &mut Vec<LoadError>,
    ) -> Weights {
        let mut by_name = HashMap::new();
        for spec in specs {
            match file.gguf.tensors.get(&spec.name) {
                Some(tensor) => match weight(file, tensor, spec) {
                    Ok(weight) => {
                        by_name.insert(spec.name.clone(), weight);
                    }
                    Err(problem) => problems.push(problem),
                },
                None if spec.is_optional => {}
                None => problems.push(LoadError::MissingTensor {
                    name: spec.name.clone(),
                    wanted: spec.dims.clone(),
                }),
            }
        }
        // A tensor that nothing reads is part of a computation that would not be done.
        let known: HashMap<&str, ()> = specs.iter().map(|spec| (&*spec.name, ())).collect();
        let unknown = file
            .gguf
            .tensors
            .iter()
            .filter(|t| !known.contains_key(&*t.name));
        problems.extend(unknown.map(|tensor| LoadError::Tensor {
            name: tensor.name.to_string(),
            problem: "unknown, expected only tensors that the architecture reads".into(),
        }));
        Weights { by_name }
    }

    /// A weight that the architecture requires.
    ///
    /// # Panics
    /// If its list of tensors does not have it.
    pub fn required(&self, name: &str) -> Weight {
        self.optional(name)
            .unwrap_or_else(|| panic!("tensor {name} is in the list of tensors"))
    }

    /// A weight that the file may have.
    pub fn optional(&self, name: &str) -> Option<Weight> {
        self.by_name.get(name).cloned()
    }
}

/// A shape without the dimensions of 1 at its end, which some writers add.
fn without_ones(dims: &[usize]) -> &[usize] {
    let n_dims = dims
        .iter()
        .rposition(|&dim| dim != 1)
        .map_or(0, |last| last + 1);
    &dims[..n_dims]
}

fn weight(file: &ModelFile, tensor: &TensorInfo, spec: &TensorSpec) -> Result<Weight, LoadError> {
    if without_ones(&tensor.dims) != without_ones(&spec.dims) {
        return Err(LoadError::TensorShape {
            name: spec.name.clone(),
            found: tensor.dims.clone(),
            wanted: spec.dims.clone(),
        });
    }
    let Some(dtype) = DType::from_id(tensor.ggml_type.id()) else {
        let known: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        return Err(LoadError::TensorType {
            name: spec.name.clone(),
            found: tensor.ggml_type.name().into(),
            known: known.join(", "),
        });
    };
    let row_len = tensor.dims[0];
    let n_rows = tensor.dims[1..].iter().product();
    Weight::new(&*spec.name, dtype, (n_rows, row_len), file.bytes(tensor)).map_err(|e| {
        LoadError::Tensor {
            name: spec.name.clone(),
            problem: e.to_string(),
        }
    })
}
