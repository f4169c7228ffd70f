//! What the steps of a loaded program take, each for itself: for benchmarks.

use std::ops::{AddAssign, Range};
use std::time::Duration;

use crate::dtype::DType;
use crate::kv::KvTypes;
use crate::program::Attention;
use crate::weight::Weight;

/// What one step of a program took, in all batches that were measured together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepProfile {
    /// What it does, such as `product` or `attention`.
    pub op: &'static str,
    /// What of its device does it, where several can; else empty.
    pub kernel: String,
    /// The matrices that it works with, by their names in the file; of experts all that there are.
    pub weights: Vec<(String, DType)>,
    /// Batches in which it had something to do.
    pub n_calls: u64,
    /// On the processor from the end of the step before it to its own end, waiting included; on a GPU
    /// from its own beginning.
    pub time: Duration,
    /// What it had to read and to compute.
    pub cost: Cost,
}

/// What has to be read and computed, as it follows from shapes and types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights, once for each batch, and of the KV cache, once for all tokens that go through
    /// it together.
    pub read_bytes: u64,
    /// Multiplications and additions of products with weights that meet activations of 8 bits.
    pub int8_operations: u64,
    /// The same of those that meet activations of 16 bits.
    pub int16_operations: u64,
    /// The same of those that meet activations of bf16, in tiles or by dot products.
    pub bf16_operations: u64,
    /// Those of other products, and of attention. What norms and activation functions compute is not
    /// counted.
    pub f32_operations: u64,
}

impl Cost {
    /// All multiplications and additions.
    pub fn operations(&self) -> u64 {
        let integers = self.int8_operations + self.int16_operations;
        integers + self.bf16_operations + self.f32_operations
    }

    /// Of a product of `n_rows` rows with a matrix, in f32.
    pub fn f32_product(matrix: &Weight, n_rows: usize) -> Cost {
        Cost {
            read_bytes: matrix.bytes().len() as u64,
            int8_operations: 0,
            int16_operations: 0,
            bf16_operations: 0,
            f32_operations: 2 * (matrix.n_rows() * matrix.row_len()) as u64 * n_rows as u64,
        }
    }

    /// Of attention of a sequence's tokens at these positions, which go through the cache together.
    pub fn attention(spec: &Attention, types: KvTypes, positions: Range<usize>) -> Cost {
        let head_bytes = [types.k, types.v].map(|kv_type| {
            let n_bytes = kv_type.head_bytes(spec.head_dim);
            n_bytes.expect("checked for every layer")
        });
        let position_bytes = spec.n_kv_heads * head_bytes.iter().sum::<usize>();
        let n_read = positions.end - spec.seen(positions.start).start;
        let n_seen: usize = positions.map(|position| spec.seen(position).len()).sum();
        Cost {
            read_bytes: (n_read * position_bytes) as u64,
            int8_operations: 0,
            int16_operations: 0,
            bf16_operations: 0,
            // A key's product with the query, and a value's with its weight.
            f32_operations: (n_seen * 4 * spec.n_heads * spec.head_dim) as u64,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.read_bytes += other.read_bytes;
        self.int8_operations += other.int8_operations;
        self.int16_operations += other.int16_operations;
        self.bf16_operations += other.bf16_operations;
        self.f32_operations += other.f32_operations;
    }
}
