//! How fast matrix products are: bytes of weights in a second for one token, operations for many.
//!
//! A row of square matrices, each the input of the next, so that a step's fixed cost is divided by
//! their number, and so that no cache holds them all.

use std::time::{Duration, Instant};

use minerva_compute::{
    Backend, Batch, Builder, DType, DeviceError, Executable, KvTypes, Limits, Sequence, Weight,
};

use crate::conformance::Failure;

/// Tokens of the many.
pub const N_TOKENS: usize = 128;

/// How much is computed.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Rows and columns of a matrix: a multiple of 256.
    pub width: usize,
    /// Bytes that the matrices take together, at least one of them.
    pub bytes: usize,
    /// How long each test is repeated.
    pub duration: Duration,
}

impl Default for Size {
    fn default() -> Size {
        Size {
            width: 4096,
            bytes: 256 << 20,
            duration: Duration::from_millis(500),
        }
    }
}

/// The speed of a type's products.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Bytes of weights in a second, for one token.
    pub bytes_per_s: f64,
    /// Multiplications and additions in a second, for [`N_TOKENS`] tokens.
    pub operations_per_s: f64,
}

/// Measures the products of a type.
pub fn speed(backend: &dyn Backend, dtype: DType, size: Size) -> Result<Speed, Failure> {
    let Size {
        width,
        bytes,
        duration,
    } = size;
    let row_bytes = dtype.row_bytes(width).expect("a multiple of every block");
    let n_matrices = (bytes / (width * row_bytes)).max(1);
    let mut b = Builder::new();
    let embd = b.weight(Weight::from_f32("embd", (1, width), &vec![1.0; width]));
    let mut x = b.embed(embd);
    for _ in 0..n_matrices {
        let zeros = vec![0; width * row_bytes].into();
        let weight = Weight::new("matrix", dtype, (width, width), zeros);
        let weight = b.weight(weight.expect("as many bytes as rows have"));
        x = b.matmul(x, weight);
    }
    let x = b.outputs(x);
    let logits = b.matmul(x, embd);
    let limits = Limits {
        max_tokens: N_TOKENS,
        max_outputs: 1,
        n_kv_blocks: N_TOKENS,
        kv_types: KvTypes::default(),
    };
    let mut model = backend.load(b.finish(logits), limits)?;
    let n_bytes = (n_matrices * width * row_bytes) as f64;
    let n_operations = (2 * n_matrices * width * width * N_TOKENS) as f64;
    Ok(Speed {
        bytes_per_s: n_bytes / seconds(&mut *model, 1, duration)?,
        operations_per_s: n_operations / seconds(&mut *model, N_TOKENS, duration)?,
    })
}

/// The least time of a step of so many tokens.
fn seconds(
    model: &mut dyn Executable,
    n_tokens: usize,
    duration: Duration,
) -> Result<f64, DeviceError> {
    let blocks: Vec<u32> = (0..N_TOKENS as u32).collect();
    let (tokens, outputs) = (vec![0; n_tokens], [n_tokens as u32 - 1]);
    let batch = Batch {
        tokens: &tokens,
        sequences: &[Sequence {
            n_tokens,
            start: 0,
            blocks: &blocks,
        }],
        outputs: &outputs,
        input: &[],
    };
    model.run(&batch)?; // to warm up
    let (start, mut least) = (Instant::now(), f64::INFINITY);
    while least.is_infinite() || start.elapsed() < duration {
        let step = Instant::now();
        model.run(&batch)?;
        least = least.min(step.elapsed().as_secs_f64());
    }
    Ok(least)
}
