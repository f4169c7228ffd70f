//! Fast batches. In tiles of bf16 they are nearer to the reference than with activations of 8 bits, and have the same bits for
//! any instruction set that has tiles and any number of threads. Plain loops stand for tiles everywhere. By whole numbers of 16
//! bits, which weights of F16 meet elsewhere, bits are the same likewise.

use minerva_compute::conformance::{Random, Shape, VOCAB, decoder, error, experts, weight};
use minerva_compute::cpu::{CpuError, CpuOptions, Isa};
use minerva_compute::dtype::Form;
use minerva_compute::{
    Backend, Builder, CpuBackend, DType, Limits, Pairing, Program, ReferenceBackend,
};

use crate::programs::{LIMITS, SHAPE, cpu, run, tokens};

/// The backends whose batches are fast in tiles, or else by whole numbers, with one thread and with three.
fn backends(by_tiles: bool) -> Vec<CpuBackend> {
    let all = Isa::available()
        .into_iter()
        .flat_map(|isa| [(isa, 1), (isa, 3)]);
    let backend = |(isa, threads)| {
        let options = CpuOptions {
            threads: Some(threads),
            isa: Some(isa),
            has_fast_batches: true,
            ..CpuOptions::default()
        };
        match CpuBackend::new(&options) {
            Ok(backend) => Some(backend),
            Err(CpuError::NoFastBatches(isa)) => {
                assert!(cfg!(target_arch = "aarch64") && isa != Isa::Scalar);
                None
            }
            Err(error) => panic!("{error}"),
        }
    };
    let has_tiles = |backend: &CpuBackend| backend.kernel(DType::F16).contains("tiles");
    all.filter_map(backend)
        .filter(|backend| has_tiles(backend) == by_tiles)
        .collect()
}

/// Runs some tokens in slices, in tiles; the error against the reference may be `share` of what it is without, or 4e-9.
fn check(what: &str, program: &Program, slices: &[usize], share: f64) {
    check_on(&backends(true), what, program, slices, (share, 4e-9));
}

/// The same on these backends, which give the same bits.
fn check_on(
    backends: &[CpuBackend],
    what: &str,
    program: &Program,
    slices: &[usize],
    (share, more): (f64, f64),
) {
    let (n, blocks) = (slices.iter().sum(), [5, 0, 9]);
    let tokens = tokens(n, 1);
    let on = |backend: &dyn Backend, slices: &[usize]| {
        let mut model = backend.load(program.clone(), LIMITS).unwrap();
        run(&mut *model, &tokens, slices, &blocks)
    };
    let want = on(&ReferenceBackend, &[n]);
    let exact = on(&cpu(Isa::available()[0], 1), &[n]);
    let limit = share * error(&exact, &want) + more;
    let mut first: Option<Vec<f32>> = None;
    for backend in backends {
        let description = backend.description();
        let got = on(backend, slices);
        let found = error(&got, &want);
        assert!(
            found < limit,
            "{what}, {description}: {found:.1e}, expected below {limit:.1e}"
        );
        assert!(got != exact, "{what}, {description}: the same as without");
        let first = first.get_or_insert_with(|| got.clone());
        assert!(*first == got, "{what}, {description}: other bits");
    }
}

#[test]
fn every_type_loses_less_in_tiles() {
    for &dtype in DType::ALL {
        if dtype.form() != Form::Float {
            let program = decoder(dtype, &SHAPE, Pairing::Adjacent);
            check(dtype.name(), &program, &[37], 0.5);
        }
    }
}

#[test]
fn numbers_of_16_bits_lose_next_to_nothing_in_tiles() {
    for dtype in [DType::F16, DType::BF16] {
        let program = decoder(dtype, &SHAPE, Pairing::Adjacent);
        check(dtype.name(), &program, &[37], 0.0);
        let program = experts(dtype, 96, true, true);
        check(&format!("experts of {dtype}"), &program, &[37], 0.0);
    }
}

#[test]
fn f16_loses_little_in_whole_numbers() {
    let backends = backends(false);
    let has_some = Isa::available().iter().any(|isa| isa.name() == "avx2");
    assert_eq!(!backends.is_empty(), has_some);
    let check = |what: &str, program: &Program, slices: &[usize]| {
        check_on(&backends, what, program, slices, (0.0, 1e-6));
    };
    let program = decoder(DType::F16, &SHAPE, Pairing::Adjacent);
    for slices in [&[37][..], &[32, 5], &[1, 32, 4], &[5, 35]] {
        check(&format!("slices of {slices:?}"), &program, slices);
    }
    check("experts", &experts(DType::F16, 96, true, true), &[37]);
    for shape in shapes() {
        let program = decoder(DType::F16, &shape, Pairing::Halves);
        check(&format!("dim {}", shape.dim), &program, &[35]);
    }
}

#[test]
fn others_are_exact_in_whole_numbers() {
    for dtype in [DType::Q4K, DType::BF16, DType::F32] {
        let program = decoder(dtype, &SHAPE, Pairing::Adjacent);
        let on = |backend: &dyn Backend| {
            let mut model = backend.load(program.clone(), LIMITS).unwrap();
            run(&mut *model, &tokens(37, 1), &[37], &[5, 0, 9])
        };
        let want = on(&cpu(Isa::available()[0], 1));
        for backend in backends(false) {
            let description = backend.description();
            assert!(on(&backend) == want, "{dtype}, {description}");
        }
    }
}

/// One buffer that weights of all kinds read.
#[test]
fn a_row_may_be_wanted_in_every_way() {
    let (mut b, mut random) = (Builder::new(), Random(5));
    let embd = b.weight(weight(&mut random, DType::F32, (VOCAB, 256)));
    let types = [DType::F16, DType::BF16, DType::Q4K, DType::F32];
    let parts = types.map(|dtype| (b.weight(weight(&mut random, dtype, (256, 256))), None));
    let output = b.weight(weight(&mut random, DType::F32, (VOCAB, 256)));
    let x = b.embed(embd);
    let [first, rest @ ..] = b.matmul_parts(x, parts);
    let sum = rest.into_iter().fold(first, |sum, x| b.add(sum, x));
    let x = b.outputs(sum);
    let logits = b.matmul(x, output);
    let program = b.finish(logits);
    for by_tiles in [true, false] {
        let what = format!("by tiles: {by_tiles}");
        check_on(&backends(by_tiles), &what, &program, &[37], (1.0, 1e-8));
    }
}

#[test]
fn few_tokens_may_stand_between_many() {
    let program = decoder(DType::Q4K, &SHAPE, Pairing::Halves);
    for slices in [&[32, 5][..], &[1, 32, 4], &[5, 35]] {
        check(&format!("slices of {slices:?}"), &program, slices, 1.0);
    }
    // A few of BF16 meet rounded activations.
    for (dtype, share) in [(DType::F16, 0.0), (DType::BF16, 1.0)] {
        let program = decoder(dtype, &SHAPE, Pairing::Adjacent);
        check(&format!("slices of {dtype}"), &program, &[5, 32], share);
    }
}

#[test]
fn experts_have_rows_that_begin_within_a_tile() {
    for (dtype, inner, normalizes, is_plain) in [
        (DType::Q8_0, 96, true, true),
        (DType::Q4_1, 32, false, true),
        (DType::MXFP4, 96, true, false),
    ] {
        let program = experts(dtype, inner, normalizes, is_plain);
        check(dtype.name(), &program, &[37], 0.7);
    }
}

/// Rows beside whole tiles, widths of one and three tiles, and more than one strip.
fn shapes() -> impl Iterator<Item = Shape> {
    let all = [
        (96, 160, 3, 1, 32),
        (64, 96, 6, 6, 16),
        (32, 32, 10, 2, 16),
        (288, 544, 2, 1, 32),
    ];
    all.into_iter()
        .map(|(dim, ffn, n_heads, n_kv_heads, head_dim)| Shape {
            dim,
            ffn,
            n_heads,
            n_kv_heads,
            head_dim,
        })
}

#[test]
fn rows_and_columns_need_not_fill_tiles() {
    for shape in shapes() {
        for (dtype, share) in [
            (DType::Q4_1, 0.7),
            (DType::Q8_0, 0.7),
            (DType::F16, 0.0),
            (DType::BF16, 0.0),
        ] {
            let program = decoder(dtype, &shape, Pairing::Halves);
            check(
                &format!("{dtype}, dim {}", shape.dim),
                &program,
                &[35],
                share,
            );
        }
    }
}

#[test]
fn memory_is_as_planned() {
    let types = [DType::Q4K, DType::F16, DType::BF16, DType::F32];
    let programs = types.map(|dtype| decoder(dtype, &SHAPE, Pairing::Adjacent));
    let experts = experts(DType::F16, 96, true, true);
    for program in programs.into_iter().chain([experts]) {
        for (max_tokens, max_between) in [(40, 0), (40, 36), (31, 0), (1, 1)] {
            let limits = Limits {
                max_tokens,
                max_between,
                ..LIMITS
            };
            for backend in backends(true).into_iter().chain(backends(false)) {
                let model = backend.load(program.clone(), limits).unwrap();
                assert_eq!(backend.plan(&program, limits).unwrap(), model.memory());
            }
        }
    }
}
