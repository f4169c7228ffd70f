//! Weights as they lie in a file: bytes that somebody keeps alive, a data type, and a shape.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::dtype::DType;

/// A range of bytes with a shared owner, such as a memory-mapped file; cheap to clone.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of `owner`, or `None` if the owner is shorter than that. An owner gives the same
    /// bytes as long as it lives, as a mapped file and a vector do: devices may read them in place.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Bytes> {
        (*owner).as_ref().get(range.clone())?;
        Some(Bytes { owner, range })
    }

    /// All bytes of the owner.
    fn whole(&self) -> Bytes {
        let n_bytes = (*self.owner).as_ref().len();
        Bytes {
            owner: self.owner.clone(),
            range: 0..n_bytes,
        }
    }

    /// The bytes `range` of these bytes, or `None` if they are fewer.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        self.get(range.clone())?;
        let start = self.range.start;
        Some(Bytes {
            owner: self.owner.clone(),
            range: start + range.start..start + range.end,
        })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        let range = 0..bytes.len();
        Bytes {
            owner: Arc::new(bytes),
            range,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// A matrix of `n_rows` rows of `row_len` elements each, row after row; a vector is one row.
#[derive(Clone, Debug)]
pub struct Weight {
    name: String,
    dtype: DType,
    n_rows: usize,
    row_len: usize,
    bytes: Bytes,
}

impl Weight {
    /// Describes `bytes`; the error says how many bytes the shape needs.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        (n_rows, row_len): (usize, usize),
        bytes: Bytes,
    ) -> Result<Weight, WeightError> {
        let name = name.into();
        let wanted = dtype
            .row_bytes(row_len)
            .and_then(|row| row.checked_mul(n_rows));
        match wanted {
            Some(wanted) if wanted == bytes.len() => Ok(Weight {
                name,
                dtype,
                n_rows,
                row_len,
                bytes,
            }),
            _ => Err(WeightError {
                name,
                dtype,
                n_rows,
                row_len,
                found: bytes.len(),
                wanted,
            }),
        }
    }

    /// A weight of 32-bit floats, for tests and for vectors made at load time.
    ///
    /// # Panics
    /// If `values` is not `n_rows` times `row_len` long.
    pub fn from_f32(
        name: impl Into<String>,
        (n_rows, row_len): (usize, usize),
        values: &[f32],
    ) -> Weight {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Weight::new(name, DType::F32, (n_rows, row_len), bytes.into())
            .expect("shape matches values")
    }

    /// The tensor's name in the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the elements are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of rows: the width of a matrix product's result.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Elements in a row: the width of a matrix product's input.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// All rows' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that these lie among, such as those of a file.
    pub fn surroundings(&self) -> Bytes {
        self.bytes.whole()
    }

    /// Bytes in one row.
    pub fn row_bytes(&self) -> usize {
        self.dtype
            .row_bytes(self.row_len)
            .expect("checked when the weight was made")
    }

    /// The rows `range` as a weight of their own, over the same bytes (fused projections).
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn rows(&self, range: Range<usize>) -> Weight {
        let row_bytes = self.row_bytes();
        let bytes = self
            .bytes
            .slice(range.start * row_bytes..range.end * row_bytes)
            .expect("rows lie within the weight");
        Weight {
            name: self.name.clone(),
            n_rows: range.len(),
            bytes,
            ..*self
        }
    }

    /// Row `row` as f32; `out.len()` is `row_len`.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        let row_bytes = self.row_bytes();
        self.dtype
            .dequantize_row(&self.bytes[row * row_bytes..][..row_bytes], out);
    }

    /// Every element as f32, row after row.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n_rows * self.row_len];
        self.dtype.dequantize_row(&self.bytes, &mut out);
        out
    }
}

/// The bytes given for a weight do not match its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightError {
    name: String,
    dtype: DType,
    n_rows: usize,
    row_len: usize,
    found: usize,
    wanted: Option<usize>,
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WeightError {
            name,
            dtype,
            n_rows,
            row_len,
            found,
            wanted,
        } = self;
        write!(
            f,
            "weight {name}: {n_rows} rows of {row_len} elements of {}: ",
            dtype.name()
        )?;
        match wanted {
            Some(wanted) => write!(f, "{found} bytes, expected {wanted}"),
            None => write!(
                f,
                "a row is not a whole number of blocks of {}",
                dtype.block_len()
            ),
        }
    }
}

impl std::error::Error for WeightError {}
