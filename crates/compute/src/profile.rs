//! What the steps of a loaded program take, each for itself: for benchmarks.

use std::ops::AddAssign;
use std::time::Duration;

use crate::dtype::DType;

/// What one step of a program took, in all batches that were measured together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepProfile {
    /// What it does, such as `product` or `attention`.
    pub op: &'static str,
    /// The matrices that it works with, by their names in the file; of experts all that there are.
    pub weights: Vec<(String, DType)>,
    /// Batches in which it had something to do.
    pub n_calls: u64,
    /// From the end of the step before it to its own end, waiting included.
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
    /// Those of other products, and of attention. What norms and activation functions compute is not
    /// counted.
    pub f32_operations: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.read_bytes += other.read_bytes;
        self.int8_operations += other.int8_operations;
        self.f32_operations += other.f32_operations;
    }
}
