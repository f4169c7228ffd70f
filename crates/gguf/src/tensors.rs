//! The tensor directory: names, shapes, types and where the data lies, all of it checked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::ggml_type::GgmlType;

/// The most dimensions that a tensor may have.
pub const MAX_DIMS: usize = 4;

/// One entry of the tensor directory.
///
/// Those in a [`Tensors`] are consistent: the dimensions are not zero, rows are whole blocks,
/// `n_bytes` follows from shape and type, and [`range`](TensorInfo::range) lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name as the file has it.
    pub name: Arc<str>,
    /// One to four dimensions in the file's order: the first one is the row length.
    pub dims: Vec<usize>,
    /// The type of the elements.
    pub ggml_type: GgmlType,
    /// Where the data begins, in bytes from the start of its file.
    pub offset: usize,
    /// The size of the data in bytes.
    pub n_bytes: usize,
    /// Which part of a split file holds the data, from 0; 0 for a single file.
    pub part: usize,
}

impl TensorInfo {
    /// The bytes of the data within the file of its part.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.n_bytes
    }

    /// The number of elements.
    pub fn n_elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The tensors of a file, in file order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tensors {
    infos: Vec<TensorInfo>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Tensors {
    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.infos.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name
            .get(name)
            .map(|&tensor_idx| &self.infos[tensor_idx])
    }

    /// All tensors, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.infos.iter()
    }

    /// Appends a tensor; if its name is taken, nothing is done and the part that has it returned.
    pub(crate) fn push(&mut self, info: TensorInfo) -> Result<(), usize> {
        if let Some(earlier) = self.get(&info.name) {
            return Err(earlier.part);
        }
        self.by_name.insert(info.name.clone(), self.infos.len());
        self.infos.push(info);
        Ok(())
    }

    pub(crate) fn into_infos(self) -> Vec<TensorInfo> {
        self.infos
    }
}

/// The size in bytes of a tensor; `offset`, where the dimensions are, is for the errors.
pub(crate) fn checked_n_bytes(
    name: &str,
    dims: &[u64],
    ggml_type: GgmlType,
    offset: usize,
) -> Result<usize, Error> {
    if dims.is_empty() || dims.len() > MAX_DIMS {
        let found = u32::try_from(dims.len()).unwrap_or(u32::MAX);
        return Err(Error::DimensionCount {
            name: name.into(),
            offset,
            found,
        });
    }
    if dims.contains(&0) {
        return Err(Error::ZeroDimension {
            name: name.into(),
            offset,
            found: dims.to_vec(),
        });
    }
    let row_len = dims[0];
    if !row_len.is_multiple_of(ggml_type.block_len() as u64) {
        return Err(Error::PartialBlock {
            name: name.into(),
            offset,
            found: row_len,
            ggml_type,
        });
    }
    // The element count is checked as well: a block holds up to eight elements per byte.
    let n_elements = dims.iter().try_fold(1usize, |product, &dim| {
        usize::try_from(dim)
            .ok()
            .and_then(|dim| product.checked_mul(dim))
    });
    n_elements
        .and_then(|n_elements| {
            (n_elements / ggml_type.block_len()).checked_mul(ggml_type.block_bytes())
        })
        .ok_or_else(|| Error::SizeOverflow {
            name: name.into(),
            offset,
            found: dims.to_vec(),
        })
}
