//! How fast matrix products are: for each type and number of tokens, the weights' GB/s and the
//! product's GOPS (two operations for a multiply-add).
//!
//! `cargo bench -p minerva-compute --bench kernels -- [--threads N] [--fast] [--tokens N] [--size ROWSxCOLS] [TYPE…]`

use std::time::{Duration, Instant};

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{
    Backend, Batch, Builder, CpuBackend, DType, Limits, Sequence, Weight, WeightId,
};

fn main() {
    let (mut threads, mut size, mut types) = (None, (4096, 4096), Vec::new());
    let (mut tokens, mut has_fast_batches) = (vec![1, 8, 256], false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--fast" => has_fast_batches = true,
            "--threads" => threads = args.next().and_then(|n| n.parse().ok()),
            "--tokens" => {
                let n = args.next().and_then(|n| n.parse().ok());
                tokens = vec![n.expect("--tokens N")];
            }
            "--size" => {
                let value = args.next().unwrap_or_default();
                let (rows, columns) = value.split_once('x').expect("--size ROWSxCOLS");
                size = (
                    rows.parse().expect("rows"),
                    columns.parse().expect("columns"),
                );
            }
            name => types.push(DType::from_name(name).unwrap_or_else(|| panic!("type {name}"))),
        }
    }
    if types.is_empty() {
        types = DType::ALL.to_vec();
    }
    let backend = CpuBackend::new(&CpuOptions {
        threads,
        has_fast_batches,
        ..Default::default()
    })
    .unwrap();
    println!(
        "{}, {} rows of {}",
        minerva_compute::Backend::description(&backend),
        size.0,
        size.1
    );
    println!(
        "{:8} {:>8} {:>8} {:>9} {:>9}",
        "type", "tokens", "µs", "GB/s", "GOPS"
    );
    for dtype in types {
        for &n_tokens in &tokens {
            bench(&backend, dtype, size, n_tokens);
        }
    }
}

fn bench(backend: &CpuBackend, dtype: DType, (n_rows, row_len): (usize, usize), n_tokens: usize) {
    let mut b = Builder::new();
    let table = Weight::from_f32("table", (1, row_len), &vec![0.5; row_len]);
    let table = b.weight(table);
    // Subnormal numbers, which no model has, take processors a hundred times as long.
    let least = match dtype {
        DType::F64 | DType::F32 | DType::BF16 | DType::F16 => 0x20,
        DType::MXFP4 => 0x40, // scales are powers of two
        _ => 0,
    };
    // Enough copies that a pass does not fit a cache.
    let n_bytes = n_rows * dtype.row_bytes(row_len).expect("whole blocks");
    let n_copies = (256usize << 20).div_ceil(n_bytes).clamp(2, 16);
    let weights: Vec<WeightId> = (0..n_copies)
        .map(|copy| {
            let mut state = copy as u32;
            let bytes: Vec<u8> = (0..n_bytes)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8 & 0x3f | least // no infinite scales
                })
                .collect();
            b.weight(Weight::new("w", dtype, (n_rows, row_len), bytes.into()).unwrap())
        })
        .collect();
    let x = b.embed(table);
    // Of rows for all tokens: those of outputs alone are multiplied twice.
    let mut last = x;
    for w in weights {
        last = b.matmul(x, w);
    }
    let logits = b.outputs(last);
    let program = b.finish(logits);
    let limits = Limits {
        max_tokens: n_tokens,
        max_outputs: n_tokens,
        max_between: 0,
        n_kv_blocks: 32,
        kv_types: Default::default(),
    };
    let mut model = backend.load(program, limits).unwrap();
    let outputs: Vec<u32> = (0..n_tokens as u32).collect();
    let blocks: Vec<u32> = (0..32).collect();
    let sequences = [Sequence {
        n_tokens,
        start: 0,
        blocks: &blocks,
    }];
    let tokens = vec![0; n_tokens];
    let batch = Batch {
        tokens: &tokens,
        sequences: &sequences,
        outputs: &outputs,
        input: &[],
    };
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 5 || begin.elapsed() < Duration::from_millis(400) {
        let start = Instant::now();
        model.run(&batch).expect("the CPU is no device that fails");
        times.push(start.elapsed());
    }
    times.sort();
    let seconds = times[times.len() / 2].as_secs_f64() / n_copies as f64;
    let ops = 2.0 * (n_rows * row_len * n_tokens) as f64;
    println!(
        "{:8} {:8} {:8.0} {:9.2} {:9.1}",
        dtype.name(),
        n_tokens,
        seconds * 1e6,
        n_bytes as f64 / seconds / 1e9,
        ops / seconds / 1e9
    );
}
