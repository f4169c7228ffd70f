//! How fast matrix products are: bytes of weights in a second for one token, operations for many.
//!
//! The matrices are those of a model's layer, and its output. Each product waits for the one before, as
//! in a model, and has matrices of its own, so that no cache holds them. What a step costs however many
//! products it has is measured with fewer of them, and subtracted. Beside them a copy of as many bytes,
//! which waits likewise.

use std::time::{Duration, Instant};

use minerva_compute::conformance::{Failure, Random, weight};
use minerva_compute::{
    Activation, Backend, Batch, Builder, DType, DeviceError, Executable, KvTypes, Limits, Sequence,
    Weight,
};

use crate::GpuBackend;
use crate::kernels::MAX_TILES;

/// Tokens of the many.
pub const N_TOKENS: usize = 512;

/// Products of many tokens that are measured; they take their time.
const N_OF_MANY: usize = 5;
/// How long a difference is looked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a workgroup of `wgsl/copy.wgsl` copies.
const COPIED_BYTES: u64 = 8192;

/// How much is computed.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Elements of a token's state, a multiple of 256.
    pub width: usize,
    /// Elements within the feed-forward block, a multiple of 256.
    pub inner: usize,
    /// Tokens that there are.
    pub vocab: usize,
    /// Bytes that the matrices of a test take together, at least two of them.
    pub bytes: usize,
    /// How long each test is repeated.
    pub duration: Duration,
}

impl Size {
    /// A model as small as an adapter that is the processor asks for.
    pub fn tiny() -> Size {
        Size {
            width: 256,
            inner: 512,
            vocab: 512,
            bytes: 1 << 20,
            duration: Duration::from_millis(20),
        }
    }

    /// A model with 7 billion parameters.
    pub fn of_7b() -> Size {
        Size {
            width: 4096,
            inner: 11008,
            vocab: 32000,
            bytes: 1 << 30,
            // Clocks take their time to rise.
            duration: Duration::from_millis(800),
        }
    }
}

/// Matrices that one dispatch multiplies with.
#[derive(Clone, Copy, Debug)]
pub struct Matrices {
    /// What they are in a model.
    pub name: &'static str,
    /// How many there are.
    pub n: usize,
    /// Rows of each.
    pub n_rows: usize,
    /// Elements of a row.
    pub row_len: usize,
}

impl Matrices {
    /// Those of a layer without mixtures whose heads share nothing, and the output.
    pub fn of(size: Size) -> [Matrices; 5] {
        let Size {
            width,
            inner,
            vocab,
            ..
        } = size;
        [
            ("queries, keys and values", 3, width, width),
            ("attention's output", 1, width, width),
            ("gate and up", 2, inner, width),
            ("down", 1, width, inner),
            ("output", 1, vocab, width),
        ]
        .map(|(name, n, n_rows, row_len)| Matrices {
            name,
            n,
            n_rows,
            row_len,
        })
    }

    /// Bytes that they take in a type.
    pub fn n_bytes(&self, dtype: DType) -> usize {
        let row_bytes = dtype.row_bytes(self.row_len);
        self.n * self.n_rows * row_bytes.expect("a multiple of every block")
    }
}

/// The speed of products.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Bytes of weights in a second, for one token.
    pub bytes_per_s: f64,
    /// Multiplications and additions in a second, for [`N_TOKENS`] tokens.
    pub operations_per_s: f64,
}

/// Measures the products with matrices of a type.
pub fn speed(
    backend: &dyn Backend,
    dtype: DType,
    matrices: &Matrices,
    size: Size,
) -> Result<Speed, Failure> {
    let n_bytes = matrices.n_bytes(dtype);
    let n = (size.bytes / n_bytes).max(2);
    let each = |n: usize, n_tokens| -> Result<f64, Failure> {
        let fewer = n.div_ceil(8);
        let [mut all, mut part] = [
            products(backend, dtype, matrices, n)?,
            products(backend, dtype, matrices, fewer)?,
        ];
        let [all, part] = least(
            size.duration,
            [&mut || run(&mut *all, n_tokens), &mut || {
                run(&mut *part, n_tokens)
            }],
        )?;
        Ok((all - part) / (n - fewer) as f64)
    };
    let (one, many) = (each(n, 1)?, each(N_OF_MANY, N_TOKENS)?);
    let n_products = matrices.n * matrices.n_rows * matrices.row_len * N_TOKENS;
    Ok(Speed {
        bytes_per_s: n_bytes as f64 / one,
        operations_per_s: (2 * n_products) as f64 / many,
    })
}

/// So many products, each with matrices of its own.
fn products(
    backend: &dyn Backend,
    dtype: DType,
    matrices: &Matrices,
    n: usize,
) -> Result<Box<dyn Executable>, Failure> {
    let Matrices {
        n_rows, row_len, ..
    } = *matrices;
    // Different numbers, as some devices are faster with equal ones.
    let pool = weight(&mut Random(1), dtype, (64, row_len));
    let mut b = Builder::new();
    let ones = Weight::from_f32("ones", (1, row_len), &vec![1.0; row_len]);
    let ones = b.weight(ones);
    let x = b.embed(ones);
    let normed = b.rms_norm(x, ones, 1e-5);
    for _ in 0..n {
        let matrix = |b: &mut Builder| {
            let row_bytes = pool.row_bytes();
            let bytes: Vec<u8> = pool
                .bytes()
                .iter()
                .copied()
                .cycle()
                .take(n_rows * row_bytes)
                .collect();
            let matrix = Weight::new("matrix", dtype, (n_rows, row_len), bytes.into());
            (b.weight(matrix.expect("as many bytes as rows have")), None)
        };
        match matrices.n {
            1 => {
                let weight = matrix(&mut b).0;
                b.matmul(normed, weight);
            }
            2 => {
                let [gate, up] = [matrix(&mut b), matrix(&mut b)];
                b.gated_matmul(normed, gate, up, Activation::Silu);
            }
            _ => {
                let parts = [matrix(&mut b), matrix(&mut b), matrix(&mut b)];
                b.matmul_parts(normed, parts);
            }
        }
    }
    let x = b.outputs(x);
    let logits = b.matmul(x, ones);
    let limits = Limits {
        max_tokens: N_TOKENS,
        max_outputs: 1,
        max_between: 0,
        n_kv_blocks: N_TOKENS,
        kv_types: KvTypes::default(),
    };
    Ok(backend.load(b.finish(logits), limits)?)
}

/// A step of so many tokens.
fn run(model: &mut dyn Executable, n_tokens: usize) -> Result<(), DeviceError> {
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
    model.run(&batch).map(|_| ())
}

/// The least times that two things take in so long, the first one more, in turns, so that clocks are the same.
fn least(
    duration: Duration,
    mut both: [&mut dyn FnMut() -> Result<(), DeviceError>; 2],
) -> Result<[f64; 2], DeviceError> {
    let mut least = [f64::INFINITY; 2];
    for run in &mut both {
        run()?; // to warm up
    }
    let start = Instant::now();
    // What is more takes longer: else too little was measured, which is given up after a while.
    while least[0].is_infinite()
        || start.elapsed() < duration
        || least[0] <= least[1] && start.elapsed() < PATIENCE
    {
        for (run, least) in both.iter_mut().zip(&mut least) {
            let step = Instant::now();
            run()?;
            *least = least.min(step.elapsed().as_secs_f64());
        }
    }
    Ok(least)
}

/// Bytes in a second that copies within the device's memory read and write, `n_bytes` each at least.
pub fn copy_speed(backend: &GpuBackend, n_bytes: usize, size: Size) -> Result<f64, Failure> {
    let device = backend.device()?;
    // By a kernel, since some drivers copy with less than that.
    let is_written = [false, true, true];
    let pipeline = device.compile("copy", include_str!("wgsl/copy.wgsl"), &is_written)?;
    let most = (n_bytes as u64 / 2).min(device.max_binding_bytes);
    let workgroups = most.div_ceil(COPIED_BYTES).clamp(1, u64::from(MAX_TILES));
    let copied = workgroups * COPIED_BYTES;
    let usage = wgpu::BufferUsages::STORAGE;
    let n = (size.bytes as u64 / (2 * copied)).max(2);
    // What every copy may write, so that each waits for the one before.
    let binds: Vec<_> = device.attempt(|| {
        let shared = device.buffer("shared", 16, usage);
        let bind = |_| {
            let [from, to] = ["from", "to"].map(|label| device.buffer(label, copied, usage));
            device.bind(&pipeline, &[&from, &to, &shared])
        };
        Ok((0..n).map(bind).collect())
    })?;
    let copies = |n: u64| -> Result<(), DeviceError> {
        let submission = device.attempt(|| {
            let mut encoder = device.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline.pipeline);
                for bind in &binds[..n as usize] {
                    pass.set_bind_group(0, bind, &[]);
                    pass.dispatch_workgroups(workgroups as u32, 1, 1);
                }
            }
            Ok(device.queue.submit([encoder.finish()]))
        })?;
        device.wait(submission)
    };
    let fewer = n.div_ceil(8);
    let [all, part] = least(size.duration, [&mut || copies(n), &mut || copies(fewer)])?;
    Ok(((n - fewer) * 2 * copied) as f64 / (all - part))
}
