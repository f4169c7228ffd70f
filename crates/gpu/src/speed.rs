//! How fast matrix products are: bytes of weights in a second for one token, operations for many.
//!
//! A row of matrices, each the input of the next, so that a step's fixed cost is divided by their
//! number, and so that no cache holds them all. Beside them a copy, which nothing is faster than.

use std::time::{Duration, Instant};

use minerva_compute::conformance::Failure;
use minerva_compute::{
    Backend, Batch, Builder, DType, DeviceError, Executable, KvTypes, Limits, Sequence, Weight,
};

use crate::GpuBackend;
use crate::kernels::MAX_TILES;

/// Tokens of the many.
pub const N_TOKENS: usize = 512;

/// Copies in one submission.
const COPIES: u64 = 8;
/// Bytes that a workgroup of `wgsl/copy.wgsl` copies.
const COPIED_BYTES: u64 = 8192;

/// How much is computed.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Columns and rows of the first matrix, rows and columns of the next, and so on: multiples of
    /// 256.
    pub shape: (usize, usize),
    /// Bytes that the matrices take together, at least one of them.
    pub bytes: usize,
    /// How long each test is repeated.
    pub duration: Duration,
}

impl Default for Size {
    fn default() -> Size {
        Size {
            // The feed-forward block of a model with 7 billion parameters.
            shape: (4096, 11008),
            bytes: 1 << 30,
            // Clocks take their time to rise.
            duration: Duration::from_millis(1500),
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
        shape: (width, inner),
        bytes,
        duration,
    } = size;
    let row_bytes = |len| dtype.row_bytes(len).expect("a multiple of every block");
    let pair_bytes = inner * row_bytes(width) + width * row_bytes(inner);
    let n_pairs = (bytes / pair_bytes).max(1);
    let one = seconds(&mut *row(backend, dtype, size, n_pairs)?, 1, duration)?;
    // Many tokens take their time with two matrices already.
    let many = seconds(&mut *row(backend, dtype, size, 1)?, N_TOKENS, duration)?;
    Ok(Speed {
        bytes_per_s: (n_pairs * pair_bytes) as f64 / one,
        operations_per_s: (2 * 2 * width * inner * N_TOKENS) as f64 / many,
    })
}

/// Pairs of matrices, each the input of the next.
fn row(
    backend: &dyn Backend,
    dtype: DType,
    size: Size,
    n_pairs: usize,
) -> Result<Box<dyn Executable>, Failure> {
    let (width, inner) = size.shape;
    let row_bytes = |len| dtype.row_bytes(len).expect("a multiple of every block");
    let mut b = Builder::new();
    let embd = b.weight(Weight::from_f32("embd", (1, width), &vec![1.0; width]));
    let mut x = b.embed(embd);
    for (n_rows, row_len) in (0..n_pairs).flat_map(|_| [(inner, width), (width, inner)]) {
        let zeros = vec![0; n_rows * row_bytes(row_len)].into();
        let weight = Weight::new("matrix", dtype, (n_rows, row_len), zeros);
        let weight = b.weight(weight.expect("as many bytes as rows have"));
        x = b.matmul(x, weight);
    }
    let x = b.outputs(x);
    let logits = b.matmul(x, embd);
    let limits = Limits {
        max_tokens: N_TOKENS,
        max_outputs: 1,
        max_between: 0,
        n_kv_blocks: N_TOKENS,
        kv_types: KvTypes::default(),
    };
    Ok(backend.load(b.finish(logits), limits)?)
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

/// Bytes in a second that a copy within the device's memory reads and writes.
pub fn copy_speed(backend: &GpuBackend, size: Size) -> Result<f64, Failure> {
    let device = backend.device()?;
    // By a kernel, since some drivers copy with less than that.
    let pipeline = device.compile("copy", include_str!("wgsl/copy.wgsl"), &[false, true])?;
    let most = (size.bytes as u64 / 2).min(device.max_binding_bytes);
    let workgroups = (most / COPIED_BYTES).clamp(1, u64::from(MAX_TILES));
    let n_bytes = workgroups * COPIED_BYTES;
    let usage = wgpu::BufferUsages::STORAGE;
    let [from, to] = ["from", "to"].map(|label| device.buffer(label, n_bytes, usage));
    let bind = device.bind(&pipeline, &[&from, &to]);
    let copy = || -> Result<f64, DeviceError> {
        let start = Instant::now();
        let mut encoder = device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &bind, &[]);
            for _ in 0..COPIES {
                pass.dispatch_workgroups(workgroups as u32, 1, 1);
            }
        }
        device.wait(device.queue.submit([encoder.finish()]))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let start = Instant::now();
    copy()?; // to warm up
    let mut least = copy()?;
    while start.elapsed() < size.duration {
        least = least.min(copy()?);
    }
    Ok((2 * COPIES * n_bytes) as f64 / least)
}
