//! One transformer layer, in every data type: the CPU agrees with the reference, and gives the
//! same bits on every instruction set, for any number of threads, batch and slicing.

use minerva_compute::cpu::{CpuOptions, Isa};
use minerva_compute::{
    Activation, AttentionSpec, Backend, Batch, Builder, CpuBackend, DType, Executable, ExpertsSpec,
    Function, KV_BLOCK_LEN, KvType, KvTypes, Limits, Pairing, Program, ReferenceBackend, Rope,
    Sequence, Weight, kv_block_bytes,
};

const LIMITS: Limits = Limits {
    max_tokens: 40,
    max_outputs: 40,
    n_kv_blocks: 64,
    kv_types: KvTypes::both(KvType::F32),
};
const VOCAB: usize = 50;

/// A small generator (SplitMix64), so that tests need no crate for it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A weight whose numbers are of the size that weights are: quantized blocks of random bytes, as
/// long as their numbers are not too large.
fn weight(random: &mut Random, name: &str, dtype: DType, shape: (usize, usize)) -> Weight {
    // Evenly spread up to this they keep the size of what they multiply.
    let limit = (3.0 / shape.1 as f32).sqrt();
    let n_blocks = shape.0 * shape.1 / dtype.block_len();
    let mut bytes = Vec::new();
    let mut numbers = vec![0.0; dtype.block_len()];
    for _ in 0..n_blocks {
        let x = random.unit() * limit;
        let integer = (random.next() % 3) as i8 - 1;
        match dtype {
            DType::F32 => bytes.extend(x.to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(x).to_le_bytes()),
            DType::F64 => bytes.extend(f64::from(x).to_le_bytes()),
            DType::I8 => bytes.extend(integer.to_le_bytes()),
            DType::I16 => bytes.extend(i16::from(integer).to_le_bytes()),
            DType::I32 => bytes.extend(i32::from(integer).to_le_bytes()),
            DType::I64 => bytes.extend(i64::from(integer).to_le_bytes()),
            _ => {
                let mut block = vec![0; dtype.block_bytes()];
                for _ in 0..100 {
                    block
                        .iter_mut()
                        .for_each(|byte| *byte = random.next() as u8);
                    dtype.dequantize_row(&block, &mut numbers);
                    if numbers.iter().all(|x| x.abs() < limit) {
                        break;
                    }
                    block.fill(0); // should no attempt do
                }
                bytes.extend(block);
            }
        }
    }
    Weight::new(name, dtype, shape, bytes.into()).unwrap()
}

struct Shape {
    dim: usize,
    ffn: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

const SHAPE: Shape = Shape {
    dim: 256,
    ffn: 256,
    n_heads: 8,
    n_kv_heads: 2,
    head_dim: 32,
};

fn program(dtype: DType, shape: &Shape, pairing: Pairing) -> Program {
    let random = &mut Random(u64::from(dtype.id()) + 1);
    let mut b = Builder::new();
    let Shape {
        dim,
        ffn,
        n_heads,
        n_kv_heads,
        head_dim,
    } = *shape;
    let mut matrix = |b: &mut Builder, name: &str, rows, row_len| {
        b.weight(weight(random, name, dtype, (rows, row_len)))
    };
    let embd = {
        let mut random = Random(7);
        let values: Vec<f32> = (0..VOCAB * dim).map(|_| random.unit()).collect();
        b.weight(Weight::from_f32("embd", (VOCAB, dim), &values))
    };
    let wq = matrix(&mut b, "q", n_heads * head_dim, dim);
    let wk = matrix(&mut b, "k", n_kv_heads * head_dim, dim);
    let wv = matrix(&mut b, "v", n_kv_heads * head_dim, dim);
    let wo = matrix(&mut b, "o", dim, n_heads * head_dim);
    let gate = matrix(&mut b, "gate", ffn, dim);
    let up = matrix(&mut b, "up", ffn, dim);
    let down = matrix(&mut b, "down", dim, ffn);
    let output = matrix(&mut b, "output", VOCAB, dim);
    let norm = b.weight(Weight::from_f32("norm", (1, dim), &vec![1.25; dim]));
    let bias = b.weight(Weight::from_f32("bias", (1, dim), &vec![0.125; dim]));
    let inv_freq = (0..head_dim / 2).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = b.rope(Rope {
        pairing,
        inv_freq,
        magnitude: 1.0,
    });

    let x = b.embed(embd);
    let h = b.rms_norm(x, norm, 1e-5);
    let qkv = b.matmul_parts(h, [(wq, None), (wk, None), (wv, None)]);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let spec = AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        scale,
        rope: Some(rope),
        soft_cap: None,
        window: None,
        sinks: None,
    };
    let a = b.attention(qkv, &spec);
    let x = b.matmul_add(a, wo, Some(bias), x);
    let h = b.rms_norm(x, norm, 1e-5);
    let h = b.gated_matmul(h, (gate, None), (up, None), Activation::Silu);
    let x = b.matmul_add(h, down, None, x);
    let x = b.outputs(x);
    let x = b.rms_norm(x, norm, 1e-5);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

fn cpu(isa: Isa, threads: usize) -> CpuBackend {
    CpuBackend::new(&CpuOptions {
        threads: Some(threads),
        isa: Some(isa),
    })
    .unwrap()
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n)
        .map(|_| (random.next() % VOCAB as u64) as u32)
        .collect()
}

/// Logits of every token, run in slices of the given lengths.
fn run(model: &mut dyn Executable, tokens: &[u32], slices: &[usize], blocks: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    let mut start = 0;
    for &n in slices {
        let outputs: Vec<u32> = (0..n as u32).collect();
        let sequence = Sequence {
            n_tokens: n,
            start,
            blocks,
        };
        let tokens = &tokens[start..start + n];
        let batch = Batch {
            tokens,
            sequences: &[sequence],
            outputs: &outputs,
            input: &[],
        };
        logits.extend_from_slice(model.run(&batch).unwrap());
        start += n;
    }
    assert_eq!(start, tokens.len());
    logits
}

/// Squared error over squared size.
fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let sum: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    got.iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(*g) - f64::from(*w)))
        .sum::<f64>()
        / sum
}

#[test]
fn every_type_agrees_with_the_reference() {
    let tokens = tokens(37, 1);
    let blocks = [5, 0, 9];
    for &dtype in DType::ALL {
        let program = program(dtype, &SHAPE, Pairing::Adjacent);
        let want = {
            let mut model = ReferenceBackend.load(program.clone(), LIMITS).unwrap();
            run(&mut *model, &tokens, &[37], &blocks)
        };
        // Quantized weights meet activations of 8 bits: each product is off by some 0.4 % of its
        // size. Otherwise only the order of sums differs.
        let is_float = dtype.form() == minerva_compute::dtype::Form::Float;
        let tolerance = if is_float { 1e-8 } else { 2e-3 };
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let backend = cpu(isa, 2);
            let mut model = backend.load(program.clone(), LIMITS).unwrap();
            assert_eq!(backend.plan(&program, LIMITS).unwrap(), model.memory());
            let got = run(&mut *model, &tokens, &[37], &blocks);
            let error = error(&got, &want);
            assert!(error < tolerance, "{dtype} on {isa}: error {error:e}");
            let first = first.get_or_insert_with(|| got.clone());
            assert!(
                *first == got,
                "{dtype}: {isa} has other bits than {}",
                Isa::available()[0]
            );
        }
    }
}

/// Numbers so low that they clamp much.
const CLAMPED_SWIGLU: Activation = Activation::ClampedSwiglu {
    alpha: 1.702,
    limit: 0.7,
};

/// Two layers of everything that a plain layer does not have.
fn rich_program(dtype: DType, window: usize) -> Program {
    let random = &mut Random(11);
    let mut b = Builder::new();
    let (dim, n_heads, n_kv_heads, head_dim) = (64, 4, 2, 24);
    let mut vector = |b: &mut Builder, len: usize, mean: f32| {
        let values: Vec<f32> = (0..len).map(|_| mean + random.unit() / 4.0).collect();
        b.weight(Weight::from_f32("vector", (1, len), &values))
    };
    let weights = &mut Random(12);
    let mut matrix = |b: &mut Builder, rows, row_len| {
        b.weight(weight(weights, "matrix", dtype, (rows, row_len)))
    };
    let embd = {
        let values: Vec<f32> = (0..VOCAB * dim).map(|i| (i as f32 * 0.7).sin()).collect();
        b.weight(Weight::from_f32("embd", (VOCAB, dim), &values))
    };
    let inv_freq = (0..head_dim / 4).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = b.rope(Rope {
        pairing: Pairing::Halves,
        inv_freq,
        magnitude: 1.2,
    });
    let x = b.embed(embd);
    let mut x = b.map(x, Function::Scale(3.0));
    for window in [Some(window), None] {
        let (norm, bias) = (vector(&mut b, dim, 1.0), vector(&mut b, dim, 0.0));
        let h = b.layer_norm(x, norm, bias, 1e-5);
        let kv = n_kv_heads * head_dim;
        let projections = [n_heads * head_dim, kv, kv].map(|rows| {
            let weight = matrix(&mut b, rows, dim);
            (weight, Some(vector(&mut b, rows, 0.0)))
        });
        let [q, k, v] = b.matmul_parts(h, projections);
        let (by_head, whole) = (vector(&mut b, head_dim, 1.0), vector(&mut b, kv, 1.0));
        let q = b.rms_norm(q, by_head, 1e-5);
        let k = b.rms_norm(k, whole, 1e-5);
        let spec = AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.7,
            rope: Some(rope),
            soft_cap: Some(3.0),
            window,
            sinks: window.map(|_| vector(&mut b, n_heads, 1.0)),
        };
        let a = b.attention([q, k, v], &spec);
        let output = matrix(&mut b, dim, n_heads * head_dim);
        let y = b.matmul(a, output);
        let x_beside = b.add(x, y);
        let [up, gate, down] = [(96, dim), (96, dim), (dim, 96)].map(|(n, m)| matrix(&mut b, n, m));
        let inner = b.matmul(h, up);
        let inner = b.map(inner, Function::Gelu);
        let y = b.matmul_add(inner, down, None, x_beside);
        let (activation, bias) = match window {
            Some(_) => (CLAMPED_SWIGLU, Some(vector(&mut b, 96, 0.0))),
            None => (Activation::Gelu, None),
        };
        let inner = b.gated_matmul(y, (gate, bias), (up, bias), activation);
        x = b.matmul_add(inner, down, None, y);
    }
    let x = b.outputs(x);
    let output = matrix(&mut b, VOCAB, dim);
    let logits = b.matmul(x, output);
    let logits = b.map(logits, Function::SoftCap(2.0));
    b.finish(logits)
}

#[test]
fn every_operation_agrees_with_the_reference() {
    let limits = Limits {
        max_tokens: 600,
        max_outputs: 600,
        n_kv_blocks: 48,
        ..LIMITS
    };
    let blocks: Vec<u32> = (0..38).collect();
    // Windows that begin within a span, a tile, and at the border of a span.
    for (window, n) in [(1, 40), (5, 40), (300, 600), (256, 600)] {
        for (dtype, tolerance) in [(DType::F32, 1e-9), (DType::Q8_0, 2e-3)] {
            let program = rich_program(dtype, window);
            let tokens = tokens(n, 6);
            let mut model = ReferenceBackend.load(program.clone(), limits).unwrap();
            let want = run(&mut *model, &tokens, &[n], &blocks);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut model = cpu(isa, 2).load(program.clone(), limits).unwrap();
                let got = run(&mut *model, &tokens, &[n], &blocks);
                let error = error(&got, &want);
                assert!(error < tolerance, "{dtype} on {isa}: error {error:e}");
                let first = first.get_or_insert_with(|| got.clone());
                assert!(*first == got, "{dtype}: {isa} has other bits");
                let slices = [n - 33, 9, 24];
                assert!(
                    run(&mut *model, &tokens, &slices, &blocks) == got,
                    "{dtype}: slices"
                );
            }
        }
    }
}

/// A mixture of experts beside a gated block; the third expert's scores are the second's. The
/// plain one has `dtype` throughout, the other has an expert of f32, biases, and the clamped
/// activation.
fn experts_program(dtype: DType, inner: usize, normalizes: bool, is_plain: bool) -> Program {
    let random = &mut Random(21);
    let mut b = Builder::new();
    let (dim, n_experts) = (64, 5);
    let values: Vec<f32> = (0..VOCAB * dim).map(|_| random.unit()).collect();
    let embd = b.weight(Weight::from_f32("embd", (VOCAB, dim), &values));
    let mut router: Vec<f32> = (0..n_experts * dim).map(|_| random.unit()).collect();
    router.copy_within(dim..2 * dim, 2 * dim);
    let router = b.weight(Weight::from_f32("router", (n_experts, dim), &router));
    let by = b.weight(Weight::from_f32("by", (1, dim), &values[..dim]));
    let shapes = [(inner, dim), (inner, dim), (dim, inner)];
    let experts: Vec<_> = (0..n_experts)
        .map(|i| {
            let dtype = if i == 1 && !is_plain {
                DType::F32
            } else {
                dtype
            };
            shapes.map(|shape| {
                let matrix = b.weight(weight(random, "matrix", dtype, shape));
                let bias: Vec<f32> = (0..shape.0).map(|_| random.unit()).collect();
                let bias = Weight::from_f32("bias", (1, shape.0), &bias);
                (matrix, (!is_plain).then(|| b.weight(bias)))
            })
        })
        .collect();
    let output = b.weight(weight(random, "output", dtype, (VOCAB, dim)));
    let activation = match is_plain {
        true => Activation::Silu,
        false => CLAMPED_SWIGLU,
    };
    let spec = ExpertsSpec {
        activation,
        n_used: 3,
        normalizes,
    };
    let x = b.embed(embd);
    let scores = b.matmul(x, router);
    let y = b.experts(x, scores, experts.clone(), &spec);
    let by = b.matmul(x, by);
    let beside = b.gate(x, by);
    let x = b.add(beside, y);
    // Again, of the wanted rows.
    let x = b.outputs(x);
    let scores = b.matmul(x, router);
    let x = b.experts(x, scores, experts, &spec);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

#[test]
fn experts_agree_with_the_reference() {
    let tokens = tokens(37, 8);
    for (dtype, inner, normalizes, is_plain, tolerance) in [
        (DType::F32, 40, true, true, 1e-10),
        (DType::F32, 64, false, false, 1e-10),
        (DType::Q8_0, 96, true, true, 2e-3),
        (DType::Q4_1, 32, false, true, 2e-3),
        (DType::MXFP4, 96, true, false, 2e-3),
    ] {
        let program = experts_program(dtype, inner, normalizes, is_plain);
        let mut model = ReferenceBackend.load(program.clone(), LIMITS).unwrap();
        let want = run(&mut *model, &tokens, &[37], &[0, 1, 2]);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            for threads in [1, 3] {
                let mut model = cpu(isa, threads).load(program.clone(), LIMITS).unwrap();
                let got = run(&mut *model, &tokens, &[37], &[0, 1, 2]);
                let error = error(&got, &want);
                assert!(error < tolerance, "{dtype} on {isa}: error {error:e}");
                let first = first.get_or_insert_with(|| got.clone());
                assert!(*first == got, "{dtype}: {isa} has other bits");
                for slices in [&[36, 1][..], &[5, 17, 15], &[1; 37]] {
                    let got = run(&mut *model, &tokens, slices, &[0, 1, 2]);
                    assert!(got == *first, "{dtype}: slices of {slices:?}");
                }
            }
        }
    }
}

#[test]
fn odd_shapes_agree_with_the_reference() {
    let tokens = tokens(21, 2);
    let shapes = [
        Shape {
            dim: 96,
            ffn: 160,
            n_heads: 3,
            n_kv_heads: 1,
            head_dim: 24,
        },
        Shape {
            dim: 64,
            ffn: 96,
            n_heads: 6,
            n_kv_heads: 6,
            head_dim: 20,
        },
        Shape {
            dim: 32,
            ffn: 32,
            n_heads: 10,
            n_kv_heads: 2,
            head_dim: 16,
        },
    ];
    for shape in &shapes {
        for (dtype, pairing) in [
            (DType::F32, Pairing::Halves),
            (DType::F16, Pairing::Adjacent),
            (DType::Q4_1, Pairing::Halves),
            (DType::Q8_0, Pairing::Adjacent),
        ] {
            // Rows of whole blocks: attention's width too.
            if (shape.n_heads * shape.head_dim) % dtype.block_len() != 0 {
                continue;
            }
            let program = program(dtype, shape, pairing);
            let mut model = ReferenceBackend.load(program.clone(), LIMITS).unwrap();
            let want = run(&mut *model, &tokens, &[21], &[3, 1]);
            for isa in Isa::available() {
                let mut model = cpu(isa, 3).load(program.clone(), LIMITS).unwrap();
                let got = run(&mut *model, &tokens, &[21], &[3, 1]);
                let error = error(&got, &want);
                assert!(
                    error < 2e-3,
                    "{dtype} on {isa}, dim {}: error {error:e}",
                    shape.dim
                );
            }
        }
    }
}

#[test]
fn slices_threads_and_company_do_not_change_a_bit() {
    let tokens = tokens(37, 3);
    let blocks = [1, 2, 3];
    for dtype in [DType::Q4_1, DType::Q6K, DType::F16] {
        let program = program(dtype, &SHAPE, Pairing::Halves);
        for &kv_type in KvType::ALL {
            let limits = Limits {
                kv_types: KvTypes::both(kv_type),
                ..LIMITS
            };
            let load = |threads| {
                let isa = *Isa::available().last().unwrap();
                cpu(isa, threads).load(program.clone(), limits).unwrap()
            };
            let want = run(&mut *load(1), &tokens, &[37], &blocks);
            for threads in [1, 2, 3] {
                let mut model = load(threads);
                for slices in [&[36, 1][..], &[5, 17, 15], &[1; 37]] {
                    let got = run(&mut *model, &tokens, slices, &blocks);
                    assert!(
                        got == want,
                        "{dtype}: {threads} threads, slices of {slices:?}"
                    );
                }
                // Between two other sequences.
                let other = self::tokens(10, 4);
                let all = [&other[..3], &tokens[..30], &other[3..]].concat();
                let sequences = [
                    Sequence {
                        n_tokens: 3,
                        start: 0,
                        blocks: &[7],
                    },
                    Sequence {
                        n_tokens: 30,
                        start: 0,
                        blocks: &blocks,
                    },
                    Sequence {
                        n_tokens: 7,
                        start: 0,
                        blocks: &[8],
                    },
                ];
                let outputs = [3, 20, 32];
                let batch = Batch {
                    tokens: &all,
                    sequences: &sequences,
                    outputs: &outputs,
                    input: &[],
                };
                let got = model.run(&batch).unwrap();
                for (got, output) in got.chunks(VOCAB).zip(outputs) {
                    let row = output as usize - 3;
                    assert!(got == &want[row * VOCAB..][..VOCAB], "{dtype}: token {row}");
                }
            }
        }
    }
}

#[test]
fn long_contexts_agree_with_the_reference() {
    // Several spans of attention, and blocks in no order.
    let tokens = tokens(600, 5);
    let blocks: Vec<u32> = (0..38).map(|i| (i * 29) % 48).collect();
    assert!(blocks.len() * KV_BLOCK_LEN >= 600);
    let program = program(DType::F32, &SHAPE, Pairing::Adjacent);
    for &kv_type in KvType::ALL {
        let limits = Limits {
            max_tokens: 600,
            max_outputs: 600,
            n_kv_blocks: 48,
            kv_types: KvTypes::both(kv_type),
        };
        let mut model = ReferenceBackend.load(program.clone(), limits).unwrap();
        let want = run(&mut *model, &tokens, &[600], &blocks);
        let mut model = cpu(*Isa::available().last().unwrap(), 2)
            .load(program.clone(), limits)
            .unwrap();
        let got = run(&mut *model, &tokens, &[600], &blocks);
        let error = error(&got, &want);
        assert!(error < tolerance(kv_type), "{kv_type}: error {error:e}");
        assert!(
            run(&mut *model, &tokens, &[511, 80, 9], &blocks) == got,
            "{kv_type}: slices"
        );
    }
}

/// Of the CPU against the reference: what was computed in another order may be rounded to the next
/// number when it is stored.
fn tolerance(kv_type: KvType) -> f64 {
    match kv_type {
        KvType::F32 => 1e-10,
        KvType::F16 | KvType::Q8_0 => 1e-7,
        KvType::Q4_0 => 2e-6,
    }
}

#[test]
fn every_pair_of_cache_types_agrees_with_the_reference() {
    let tokens = tokens(37, 2);
    let blocks = [5, 0, 9];
    let wide = Shape {
        head_dim: 96,
        ..SHAPE
    };
    for shape in [&SHAPE, &wide] {
        let program = program(DType::F32, shape, Pairing::Halves);
        for kv_types in all_kv_types() {
            let limits = Limits { kv_types, ..LIMITS };
            let mut model = ReferenceBackend.load(program.clone(), limits).unwrap();
            let want = run(&mut *model, &tokens, &[37], &blocks);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut model = cpu(isa, 2).load(program.clone(), limits).unwrap();
                let got = run(&mut *model, &tokens, &[30, 1, 6], &blocks);
                let error = error(&got, &want);
                let tolerance = tolerance(kv_types.k).max(tolerance(kv_types.v));
                assert!(error < tolerance, "{kv_types:?} on {isa}: error {error:e}");
                let first = first.get_or_insert_with(|| got.clone());
                assert!(*first == got, "{kv_types:?}: other bits on {isa}");
            }
        }
    }
}

fn all_kv_types() -> impl Iterator<Item = KvTypes> {
    let pairs = |&k| KvType::ALL.iter().map(move |&v| KvTypes { k, v });
    KvType::ALL.iter().flat_map(pairs)
}

#[test]
fn the_cache_is_as_large_as_planned() {
    let programs = [
        program(DType::F32, &SHAPE, Pairing::Adjacent),
        rich_program(DType::F32, 20), // heads of 24
    ];
    for program in programs {
        for kv_types in all_kv_types() {
            let limits = Limits { kv_types, ..LIMITS };
            let planned = kv_block_bytes(program.kv(), kv_types);
            let backends: [&dyn Backend; 2] = [&ReferenceBackend, &cpu(Isa::available()[0], 1)];
            for backend in backends {
                match (backend.load(program.clone(), limits), &planned) {
                    (Ok(model), Ok(bytes)) => {
                        assert_eq!(model.memory().kv_bytes, bytes * limits.n_kv_blocks);
                    }
                    (Err(error), Err(planned)) => assert_eq!(error, *planned),
                    (loaded, _) => panic!("{kv_types:?}: {planned:?}, {}", loaded.is_ok()),
                }
            }
        }
    }
}

#[test]
fn no_keys_or_values_make_the_cache_panic() {
    // Infinite and NaN weights make such keys and values; the widest range of finite ones beside.
    let mut random = Random(17);
    for scale in [f32::NAN, f32::INFINITY, 1e38, 1e-38, 1e-45, 0.0] {
        let mut b = Builder::new();
        let values: Vec<f32> = (0..VOCAB * 96).map(|_| random.unit() * scale).collect();
        let embd = b.weight(Weight::from_f32("embd", (VOCAB, 96), &values));
        let w = b.weight(weight(&mut random, "w", DType::F32, (32, 96)));
        let x = b.embed(embd);
        let qkv = b.matmul_parts(x, [(w, None); 3]);
        let spec = AttentionSpec {
            sinks: None,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 32,
            scale: 1.0,
            rope: None,
            soft_cap: None,
            window: None,
        };
        let a = b.attention(qkv, &spec);
        let output = b.weight(weight(&mut random, "output", DType::F32, (VOCAB, 32)));
        let x = b.outputs(a);
        let logits = b.matmul(x, output);
        let program = b.finish(logits);
        for kv_types in all_kv_types() {
            let limits = Limits { kv_types, ..LIMITS };
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut model = cpu(isa, 1).load(program.clone(), limits).unwrap();
                let mut got = run(&mut *model, &tokens(37, 1), &[37], &[4, 2, 0]);
                // Which NaN it is is not promised.
                got.iter_mut()
                    .for_each(|x| *x = if x.is_nan() { 7.0 } else { *x });
                let first = first.get_or_insert_with(|| got.clone());
                assert!(
                    *first == got,
                    "{scale:e}, {kv_types:?}: other bits on {isa}"
                );
            }
            let mut model = ReferenceBackend.load(program.clone(), limits).unwrap();
            run(&mut *model, &tokens(37, 1), &[37], &[4, 2, 0]);
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    // Any bytes may stand in a file: infinite scales, NaN, -128.
    let mut random = Random(9);
    for &dtype in DType::ALL {
        for isa in Isa::available() {
            let mut b = Builder::new();
            let values: Vec<f32> = (0..VOCAB * 256).map(|_| random.unit()).collect();
            let embd = b.weight(Weight::from_f32("embd", (VOCAB, 256), &values));
            let n_bytes = 47 * dtype.row_bytes(256).unwrap();
            let bytes: Vec<u8> = (0..n_bytes).map(|_| random.next() as u8).collect();
            let w = b.weight(Weight::new("w", dtype, (47, 256), bytes.into()).unwrap());
            let x = b.embed(embd);
            let x = b.outputs(x);
            let y = b.matmul(x, w);
            let program = b.finish(y);
            let mut model = cpu(isa, 1).load(program, LIMITS).unwrap();
            let n = model.run(&Batch {
                tokens: &[1, 2, 3],
                sequences: &[Sequence {
                    n_tokens: 3,
                    start: 0,
                    blocks: &[0],
                }],
                outputs: &[0, 1, 2],
                input: &[],
            });
            assert_eq!(n.unwrap().len(), 3 * 47);
        }
    }
}
