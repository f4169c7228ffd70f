//! Many tokens in tiles of bf16: nearer to the reference than with activations of 8 bits, and the same bits for any
//! instruction set that has tiles and any number of threads. Plain loops stand for tiles everywhere.

use minerva_compute::conformance::{Shape, decoder, error, experts};
use minerva_compute::cpu::{CpuError, CpuOptions, Isa};
use minerva_compute::dtype::Form;
use minerva_compute::{Backend, CpuBackend, DType, Limits, Pairing, Program, ReferenceBackend};

use crate::programs::{LIMITS, SHAPE, cpu, run, tokens};

/// The backends that have tiles, with one thread and with three.
fn backends() -> Vec<CpuBackend> {
    let all = Isa::available()
        .into_iter()
        .flat_map(|isa| [(isa, 1), (isa, 3)]);
    let backend = |(isa, threads)| {
        let options = CpuOptions {
            threads: Some(threads),
            isa: Some(isa),
            uses_tiles: true,
            ..CpuOptions::default()
        };
        match CpuBackend::new(&options) {
            Ok(backend) => Some(backend),
            Err(CpuError::NoTiles(isa)) => {
                assert_ne!(isa, Isa::Scalar);
                None
            }
            Err(error) => panic!("{error}"),
        }
    };
    all.filter_map(backend).collect()
}

/// Runs `n` tokens in slices; the error against the reference may be `share` of what it is without tiles, or 4e-9.
fn check(what: &str, program: &Program, slices: &[usize], share: f64) {
    let (n, blocks) = (slices.iter().sum(), [5, 0, 9]);
    let tokens = tokens(n, 1);
    let on = |backend: &dyn Backend, slices: &[usize]| {
        let mut model = backend.load(program.clone(), LIMITS).unwrap();
        run(&mut *model, &tokens, slices, &blocks)
    };
    let want = on(&ReferenceBackend, &[n]);
    let exact = on(&cpu(Isa::available()[0], 1), &[n]);
    let limit = share * error(&exact, &want) + 4e-9;
    let mut first: Option<Vec<f32>> = None;
    for backend in backends() {
        let description = backend.description();
        let got = on(&backend, slices);
        let found = error(&got, &want);
        assert!(
            found < limit,
            "{what}, {description}: {found:.1e}, expected below {limit:.1e}"
        );
        assert!(got != exact, "{what}, {description}: tiles were not used");
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

#[test]
fn rows_and_columns_need_not_fill_tiles() {
    // Rows beside whole tiles, widths of one and three tiles, and more than one strip.
    for (dim, ffn, n_heads, n_kv_heads, head_dim) in [
        (96, 160, 3, 1, 32),
        (64, 96, 6, 6, 16),
        (32, 32, 10, 2, 16),
        (288, 544, 2, 1, 32),
    ] {
        let shape = Shape {
            dim,
            ffn,
            n_heads,
            n_kv_heads,
            head_dim,
        };
        for (dtype, share) in [
            (DType::Q4_1, 0.7),
            (DType::Q8_0, 0.7),
            (DType::F16, 0.0),
            (DType::BF16, 0.0),
        ] {
            let program = decoder(dtype, &shape, Pairing::Halves);
            check(&format!("{dtype}, dim {dim}"), &program, &[35], share);
        }
    }
}

#[test]
fn memory_is_as_planned() {
    for dtype in [DType::Q4K, DType::F16, DType::BF16, DType::F32] {
        let program = decoder(dtype, &SHAPE, Pairing::Adjacent);
        for (max_tokens, max_between) in [(40, 0), (40, 36), (31, 0), (1, 1)] {
            let limits = Limits {
                max_tokens,
                max_between,
                ..LIMITS
            };
            for backend in backends() {
                let model = backend.load(program.clone(), limits).unwrap();
                assert_eq!(backend.plan(&program, limits).unwrap(), model.memory());
            }
        }
    }
}
