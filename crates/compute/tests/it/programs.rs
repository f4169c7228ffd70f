//! One transformer layer, in every data type: the CPU agrees with the reference, and gives the
//! same bits on every instruction set, for any number of threads, batch and slicing.

use std::time::Duration;

use minerva_compute::conformance::{
    self, Random, Shape, VOCAB, decoder, error, every_operation, experts, weight,
};
use minerva_compute::cpu::{CpuOptions, Isa};
use minerva_compute::dtype::Form;
use minerva_compute::{
    AttentionSpec, Backend, Batch, Builder, CpuBackend, DType, Executable, KvType, KvTypes, Limits,
    Pairing, ReferenceBackend, Sequence, Weight, kv_block_bytes,
};

pub(crate) const LIMITS: Limits = Limits {
    max_tokens: 40,
    max_outputs: 40,
    max_between: 0,
    n_kv_blocks: 64,
    kv_types: KvTypes::both(KvType::F32),
};
pub(crate) const SHAPE: Shape = Shape {
    dim: 256,
    ffn: 256,
    n_heads: 8,
    n_kv_heads: 2,
    head_dim: 32,
};

/// Attention in its plainest form.
const ONE_HEAD: AttentionSpec = AttentionSpec {
    sinks: None,
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 32,
    scale: 1.0,
    rope: None,
    soft_cap: None,
    window: None,
};

pub(crate) fn cpu(isa: Isa, threads: usize) -> CpuBackend {
    CpuBackend::new(&CpuOptions {
        threads: Some(threads),
        isa: Some(isa),
        ..CpuOptions::default()
    })
    .unwrap()
}

pub(crate) fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n)
        .map(|_| (random.number() % VOCAB as u64) as u32)
        .collect()
}

/// Logits of every token, run in slices of the given lengths.
pub(crate) fn run(
    model: &mut dyn Executable,
    tokens: &[u32],
    slices: &[usize],
    blocks: &[u32],
) -> Vec<f32> {
    assert_eq!(slices.iter().sum::<usize>(), tokens.len());
    conformance::run(model, tokens, slices, blocks).unwrap()
}

#[test]
fn every_type_agrees_with_the_reference() {
    let tokens = tokens(37, 1);
    let blocks = [5, 0, 9];
    for &dtype in DType::ALL {
        let program = decoder(dtype, &SHAPE, Pairing::Adjacent);
        let want = {
            let mut model = ReferenceBackend.load(program.clone(), LIMITS).unwrap();
            run(&mut *model, &tokens, &[37], &blocks)
        };
        // Quantized weights meet activations of 8 bits: each product is off by some 0.4 % of its
        // size; those of BF16 such as are rounded to bf16. Otherwise only the order of sums differs.
        let tolerance = match dtype.form() {
            Form::Groups { .. } => 2e-3,
            Form::Float if dtype == DType::BF16 => 1e-4,
            Form::Float => 1e-8,
        };
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

/// What rounding activations loses in the last product would go into the logits as it is.
#[test]
fn the_output_matrix_rounds_activations_to_more_than_8_bits() {
    let tokens = tokens(21, 5);
    // Of some types rows that are longer than a panel too.
    let long = [DType::Q4_1, DType::Q6K, DType::Q8_0].map(|dtype| (dtype, 1280));
    let all = DType::ALL.iter().map(|&dtype| (dtype, 256)).chain(long);
    for (dtype, dim) in all {
        let random = &mut Random(9);
        let mut b = Builder::new();
        let values: Vec<f32> = (0..VOCAB * dim).map(|_| random.unit()).collect();
        let embd = b.weight(Weight::from_f32("embd", (VOCAB, dim), &values));
        let output = b.weight(weight(random, dtype, (VOCAB, dim)));
        let x = b.embed(embd);
        let x = b.outputs(x);
        let logits = b.matmul(x, output);
        let program = b.finish(logits);
        let mut model = ReferenceBackend.load(program.clone(), LIMITS).unwrap();
        let want = run(&mut *model, &tokens, &[21], &[0, 1]);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut model = cpu(isa, 2).load(program.clone(), LIMITS).unwrap();
            for slices in [&[21][..], &[1, 2, 3, 4, 5, 6]] {
                let got = run(&mut *model, &tokens, slices, &[0, 1]);
                let error = error(&got, &want);
                assert!(error < 1e-9, "{dtype} on {isa}: error {error:e}");
                let first = first.get_or_insert_with(|| got.clone());
                assert!(*first == got, "{dtype} on {isa}, slices of {slices:?}");
            }
        }
    }
}

#[test]
fn every_operation_agrees_with_the_reference() {
    let limits = Limits {
        max_tokens: 600,
        max_outputs: 600,
        max_between: 0,
        n_kv_blocks: 48,
        ..LIMITS
    };
    let blocks: Vec<u32> = (0..38).collect();
    // Windows that begin within a span, a tile, and at the border of a span.
    for (window, n) in [(1, 40), (5, 40), (300, 600), (256, 600)] {
        for (dtype, tolerance) in [(DType::F32, 1e-9), (DType::Q8_0, 2e-3)] {
            let program = every_operation(dtype, window);
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

#[test]
fn experts_agree_with_the_reference() {
    let tokens = tokens(37, 8);
    for (dtype, inner, normalizes, is_plain, tolerance) in [
        (DType::F32, 40, true, true, 1e-10),
        (DType::F32, 64, false, false, 1e-10),
        (DType::Q8_0, 96, true, true, 2e-3),
        (DType::Q4_1, 32, false, true, 2e-3),
        (DType::MXFP4, 96, true, false, 2e-3),
        (DType::BF16, 96, true, true, 1e-4),
        (DType::BF16, 40, false, false, 1e-4),
    ] {
        let program = experts(dtype, inner, normalizes, is_plain);
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
            (DType::BF16, Pairing::Adjacent),
            (DType::Q4_1, Pairing::Halves),
            (DType::Q8_0, Pairing::Adjacent),
        ] {
            // Rows of whole blocks: attention's width too.
            if (shape.n_heads * shape.head_dim) % dtype.block_len() != 0 {
                continue;
            }
            let program = decoder(dtype, shape, pairing);
            let mut model = ReferenceBackend.load(program.clone(), LIMITS).unwrap();
            let want = run(&mut *model, &tokens, &[21], &[3, 1]);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut model = cpu(isa, 3).load(program.clone(), LIMITS).unwrap();
                let got = run(&mut *model, &tokens, &[21], &[3, 1]);
                let first = first.get_or_insert_with(|| got.clone());
                assert!(*first == got, "{dtype}: {isa} has other bits");
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

/// One element of each key is far larger than the others, as in models that people have, and takes
/// none of their bits.
#[test]
fn an_element_that_stands_out_leaves_the_others_their_bits() {
    const DIM: usize = 64;
    let mut b = Builder::new();
    let mut random = Random(3);
    let mut matrix = |b: &mut Builder, rows: usize| {
        let values: Vec<f32> = (0..rows * DIM).map(|_| random.unit()).collect();
        b.weight(Weight::from_f32("matrix", (rows, DIM), &values))
    };
    let embd = matrix(&mut b, VOCAB);
    let [wq, wk, wv] = [(); 3].map(|()| matrix(&mut b, DIM));
    let output = matrix(&mut b, VOCAB);
    let bias: Vec<f32> = (0..DIM)
        .map(|i| if i == 20 { 150.0 } else { 0.0 })
        .collect();
    let bias = b.weight(Weight::from_f32("bias", (1, DIM), &bias));
    let x = b.embed(embd);
    let qkv = b.matmul_parts(x, [(wq, None), (wk, Some(bias)), (wv, None)]);
    let spec = AttentionSpec {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: DIM,
        scale: 0.02,
        rope: None,
        soft_cap: None,
        window: None,
        sinks: None,
    };
    let a = b.attention(qkv, &spec);
    let rows = b.outputs(a);
    let logits = b.matmul(rows, output);
    let program = b.finish(logits);
    let tokens = tokens(40, 9);
    let logits = |kv_types| {
        let limits = Limits { kv_types, ..LIMITS };
        let mut model = cpu(Isa::choose().unwrap(), 1)
            .load(program.clone(), limits)
            .unwrap();
        run(&mut *model, &tokens, &[40], &[0, 1, 2])
    };
    let exact = logits(KvTypes::both(KvType::F32));
    for (k, tolerance) in [(KvType::Q8_0, 1e-3), (KvType::Q4_0, 0.1)] {
        let error = error(&logits(KvTypes { k, v: KvType::F32 }), &exact);
        assert!(error < tolerance, "{k}: error {error:e}");
    }
}

#[test]
fn long_contexts_agree_with_the_reference() {
    // Several spans of attention, of one type several units, and blocks in no order.
    let blocks: Vec<u32> = (0..69).map(|i| (i * 29) % 80).collect();
    let program = decoder(DType::F32, &SHAPE, Pairing::Adjacent);
    for &kv_type in KvType::ALL {
        let n = if kv_type == KvType::F16 { 1100 } else { 600 };
        let tokens = tokens(n, 5);
        let limits = Limits {
            max_tokens: n,
            max_outputs: n,
            max_between: 0,
            n_kv_blocks: 80,
            kv_types: KvTypes::both(kv_type),
        };
        let mut model = ReferenceBackend.load(program.clone(), limits).unwrap();
        let want = run(&mut *model, &tokens, &[n], &blocks);
        let isa = Isa::choose().unwrap();
        let mut model = cpu(isa, 2).load(program.clone(), limits).unwrap();
        let got = run(&mut *model, &tokens, &[n], &blocks);
        let error = error(&got, &want);
        assert!(error < tolerance(kv_type), "{kv_type}: error {error:e}");
        // Few tokens, whose context threads share.
        for n_threads in [1, 5] {
            let mut model = cpu(isa, n_threads).load(program.clone(), limits).unwrap();
            let slices = [511, n - 511 - 74, 64, 1, 1, 8];
            assert!(
                run(&mut *model, &tokens, &slices, &blocks) == got,
                "{kv_type}: slices, {n_threads} threads"
            );
        }
    }
}

#[test]
fn a_batch_can_wait_while_others_are_run() {
    let long = tokens(130, 6);
    let short = tokens(40, 7);
    let limits = Limits {
        max_tokens: 130,
        max_outputs: 130,
        max_between: 4,
        n_kv_blocks: 16,
        ..LIMITS
    };
    for program in [
        decoder(DType::Q4_0, &SHAPE, Pairing::Adjacent),
        experts(DType::Q8_0, 64, true, true),
    ] {
        for n_threads in [1, 3] {
            let load = || {
                let backend = cpu(Isa::choose().unwrap(), n_threads);
                backend.load(program.clone(), limits).unwrap()
            };
            let blocks = [[0, 3, 4, 5, 6, 7, 8, 9, 10].as_slice(), &[1, 11, 2]];
            let alone: Vec<Vec<f32>> = [&long, &short]
                .into_iter()
                .zip(blocks)
                .map(|(tokens, blocks)| {
                    let slices: Vec<usize> =
                        tokens.chunks(limits.max_tokens).map(<[u32]>::len).collect();
                    run(&mut *load(), tokens, &slices, blocks)
                })
                .collect();
            let mut model = load();
            assert!(model.can_pause());
            let sequences = [Sequence {
                n_tokens: 130,
                start: 0,
                blocks: blocks[0],
            }];
            let outputs: Vec<u32> = (0..130).collect();
            let batch = Batch {
                tokens: &long,
                sequences: &sequences,
                outputs: &outputs,
                input: &[],
            };
            let (mut n_parts, mut others) = (0, Vec::new());
            let logits = loop {
                n_parts += 1;
                let part = model.run_for(&batch, Duration::from_micros(20)).unwrap();
                if let Some(logits) = part {
                    break logits.to_vec();
                }
                // Every now and then, since it may take many parts.
                let i = others.len() / VOCAB;
                if n_parts % 5 == 0 && i < short.len() {
                    let n = 3.min(short.len() - i);
                    let sequences = [Sequence {
                        n_tokens: n,
                        start: i,
                        blocks: blocks[1],
                    }];
                    let logits = model.run(&Batch {
                        tokens: &short[i..i + n],
                        sequences: &sequences,
                        outputs: &[0, 1, 2][..n],
                        input: &[],
                    });
                    others.extend_from_slice(logits.unwrap());
                }
            };
            assert!(n_parts > 1, "it never waited");
            assert!(logits == alone[0], "{n_threads} threads: {n_parts} parts");
            assert!(others == alone[1][..others.len()], "{n_threads} threads");
            // One that is left has no effect on the next.
            let _ = model.run_for(&batch, Duration::from_micros(20));
            model.abandon();
            assert!(model.run(&batch).unwrap() == alone[0]);
        }
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
        let program = decoder(DType::F32, shape, Pairing::Halves);
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
        decoder(DType::F32, &SHAPE, Pairing::Adjacent),
        every_operation(DType::F32, 20), // heads of 24
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
        let w = b.weight(weight(&mut random, DType::F32, (32, 96)));
        let x = b.embed(embd);
        let qkv = b.matmul_parts(x, [(w, None); 3]);
        let a = b.attention(qkv, &ONE_HEAD);
        let output = b.weight(weight(&mut random, DType::F32, (VOCAB, 32)));
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
#[should_panic(expected = "attention has changed")]
fn what_attention_changes_is_not_read_again() {
    let mut random = Random(3);
    let mut b = Builder::new();
    let [embd, w, output] = [(VOCAB, 32), (32, 32), (VOCAB, 32)]
        .map(|shape| b.weight(weight(&mut random, DType::F32, shape)));
    let x = b.embed(embd);
    let qkv = b.matmul_parts(x, [(w, None); 3]);
    let a = b.attention(qkv, &ONE_HEAD);
    let sum = b.add(a, qkv[2]);
    let x = b.outputs(sum);
    let logits = b.matmul(x, output);
    b.finish(logits);
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
            let bytes: Vec<u8> = (0..n_bytes).map(|_| random.number() as u8).collect();
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
