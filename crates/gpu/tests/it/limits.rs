//! What the device's limits and other sequences do to a program: nothing but what is said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minerva_compute::conformance::{Shape, TOLERANCE, decoder, error, in_one_file};
use minerva_compute::{
    Activation, AttentionSpec, Backend, BackendError, Batch, Builder, DType, DeviceError,
    DeviceLayers, Executable, KvType, KvTypes, Limits, Pairing, Program, ReferenceBackend,
    Sequence, SplitBackend, Weight,
};
use minerva_gpu::GpuOptions;
use minerva_gpu::speed::{Matrices, Size, copy_speed, speed};

use crate::open;

const DIM: usize = 64;
const FFN: usize = 300;
const VOCAB: usize = 3000;

const LIMITS: Limits = Limits {
    max_tokens: 24,
    max_outputs: 6,
    max_between: 0,
    n_kv_blocks: 12,
    kv_types: KvTypes::both(KvType::Q8_0),
};

const SHAPE: Shape = Shape {
    dim: 64,
    ffn: 96,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 32,
};

/// One layer under a large vocabulary. Gate and up together are larger than the least buffer that the
/// tests allow.
fn program() -> Program {
    let mut b = Builder::new();
    let mut state = 1u64;
    let mut matrix_of = |b: &mut Builder, rows: usize, row_len: usize| {
        let values: Vec<f32> = (0..rows * row_len)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1u64 << 26) as f32 - 0.125
            })
            .collect();
        b.weight(Weight::from_f32("matrix", (rows, row_len), &values))
    };
    let down = matrix_of(&mut b, DIM, FFN);
    let mut matrix = |b: &mut Builder, rows: usize| matrix_of(b, rows, DIM);
    let embd = matrix(&mut b, VOCAB);
    let [q, k, v, o] = [DIM, DIM, DIM, DIM].map(|rows| matrix(&mut b, rows));
    let [gate, up] = [FFN, FFN].map(|rows| matrix(&mut b, rows));
    let output = matrix(&mut b, VOCAB);
    let x = b.embed(embd);
    b.begin_layer();
    let qkv = b.matmul_parts(x, [(q, None), (k, None), (v, None)]);
    let a = b.attention(
        qkv,
        &AttentionSpec {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 32,
            scale: 0.2,
            rope: None,
            soft_cap: None,
            window: None,
            sinks: None,
        },
    );
    let x = b.matmul_add(a, o, None, x);
    let y = b.gated_matmul(x, (gate, None), (up, None), Activation::Silu);
    let x = b.matmul_add(y, down, None, x);
    let x = b.outputs(x);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

/// Two steps of three sequences, one of which goes on in a copied block.
fn three_sequences(model: &mut dyn Executable) -> Vec<f32> {
    let tokens: Vec<u32> = (0..22).map(|i| i * 131 % VOCAB as u32).collect();
    let sequence = |n_tokens, start, blocks| Sequence {
        n_tokens,
        start,
        blocks,
    };
    let first = Batch {
        tokens: &tokens,
        sequences: &[
            sequence(1, 0, &[7]),
            sequence(18, 0, &[3, 9]),
            sequence(3, 0, &[0]),
        ],
        outputs: &[0, 18, 21],
        input: &[],
    };
    let mut logits = model.run(&first).unwrap().to_vec();
    model.copy_block(9, 11).unwrap();
    let second = Batch {
        tokens: &tokens[..5],
        sequences: &[
            sequence(1, 18, &[3, 11]),
            sequence(3, 18, &[3, 9]),
            sequence(1, 3, &[0]),
        ],
        outputs: &[0, 3, 4],
        input: &[],
    };
    logits.extend_from_slice(model.run(&second).unwrap());
    // A step whose logits nobody wants.
    let third = Batch {
        outputs: &[],
        ..second
    };
    assert_eq!(model.run(&third).unwrap(), []);
    logits
}

#[test]
fn sequences_and_copied_blocks_agree_with_the_reference() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let want = three_sequences(&mut *ReferenceBackend.load(program(), LIMITS).unwrap());
    let mut model = backend.load(program(), LIMITS).unwrap();
    let got = three_sequences(&mut *model);
    let error = error(&got, &want);
    assert!(error < 1e-6, "error {error:e}");
}

#[test]
fn tensors_above_the_binding_limit_are_cut() {
    let options = GpuOptions {
        max_binding_bytes: Some(100_000),
        ..GpuOptions::default()
    };
    let Some(backend) = open(&options) else {
        return;
    };
    let limits = Limits {
        max_tokens: 4,
        kv_types: KvTypes::both(KvType::F32),
        ..LIMITS
    };
    let batch = Batch {
        tokens: &[0, 1500, 2999],
        sequences: &[Sequence {
            n_tokens: 3,
            start: 0,
            blocks: &[2],
        }],
        outputs: &[0, 1, 2],
        input: &[],
    };
    let want = ReferenceBackend
        .load(program(), limits)
        .unwrap()
        .run(&batch)
        .unwrap()
        .to_vec();
    let mut model = backend.load(program(), limits).unwrap();
    let error = error(model.run(&batch).unwrap(), &want);
    assert!(error < TOLERANCE, "error {error:e}");
}

#[test]
fn a_plan_is_refused_where_a_buffer_cannot_hold_the_cache_of_a_layer() {
    let options = GpuOptions {
        max_binding_bytes: Some(100_000),
        ..GpuOptions::default()
    };
    let Some(backend) = open(&options) else {
        return;
    };
    let limits = Limits {
        max_tokens: 4,
        n_kv_blocks: 2000,
        ..LIMITS
    };
    for refused in [
        backend.plan(&program(), limits).map(|_| ()),
        backend.load(program(), limits).map(|_| ()),
    ] {
        let error = refused.unwrap_err();
        let is_it = matches!(
            &error,
            BackendError::Device { error: DeviceError::NoRoom { what, .. }, .. }
                if what.contains("cache of a layer")
        );
        assert!(is_it, "{error}");
    }
}

#[test]
fn matrices_before_a_norm_are_cut_between_groups_of_rows() {
    let options = GpuOptions {
        // What attention's answer is multiplied with takes 557,056.
        max_binding_bytes: Some(300_000),
        integer_dots: Some(true),
        ..GpuOptions::default()
    };
    let Some(backend) = open(&options) else {
        return;
    };
    let shape = Shape { dim: 4096, ..SHAPE };
    let program = decoder(DType::Q8_0, &shape, Pairing::Halves);
    let limits = Limits {
        max_tokens: 7,
        kv_types: KvTypes::both(KvType::F32),
        ..LIMITS
    };
    let mut reference = ReferenceBackend.load(program.clone(), limits).unwrap();
    let mut model = backend.load(program, limits).unwrap();
    for n_tokens in [1, 3, 7] {
        let batch = Batch {
            tokens: &[3, 1, 2, 5, 4, 3, 8][..n_tokens],
            sequences: &[Sequence {
                n_tokens,
                start: 0,
                blocks: &[2],
            }],
            outputs: &[0],
            input: &[],
        };
        let want = reference.run(&batch).unwrap().to_vec();
        let error = error(model.run(&batch).unwrap(), &want);
        assert!(error < TOLERANCE, "{n_tokens} tokens: error {error:e}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let options = GpuOptions {
        memory_bytes: Some(1 << 20),
        ..GpuOptions::default()
    };
    let Some(backend) = open(&options) else {
        return;
    };
    let Err(BackendError::Device { error, .. }) = backend.load(program(), LIMITS) else {
        panic!("1.5 MB of weights were taken");
    };
    let DeviceError::NoRoom {
        wanted_bytes,
        available_bytes,
        ..
    } = error
    else {
        panic!("{error}");
    };
    let memory = backend.plan(&program(), LIMITS).unwrap();
    let weights = 4 * (2 * VOCAB * DIM + 4 * DIM * DIM + 3 * FFN * DIM);
    assert_eq!(memory.device.weights_bytes, weights as u64);
    let wanted = memory.device.total_bytes();
    assert_eq!((wanted_bytes, available_bytes), (wanted, 1 << 20));
    // The processor has nothing of it.
    assert_eq!((memory.kv_bytes, memory.scratch_bytes), (0, 0));
}

#[test]
fn what_a_loaded_program_has_is_not_there_for_the_next() {
    let n_bytes = {
        let Some(backend) = open(&GpuOptions::default()) else {
            return;
        };
        let planned = backend.plan(&program(), LIMITS).unwrap();
        planned.device.total_bytes()
    };
    let options = GpuOptions {
        memory_bytes: Some(n_bytes + n_bytes / 2),
        ..GpuOptions::default()
    };
    let backend = Arc::new(open(&options).expect("opened above"));
    let memory = || backend.device_memory().unwrap();
    let left = |n_programs| (n_bytes + n_bytes / 2).checked_sub(n_programs * n_bytes);
    assert_eq!(
        (memory().available_bytes(), memory().taken_bytes),
        (left(0), 0)
    );
    let auto = SplitBackend::new(
        backend.clone(),
        Arc::new(ReferenceBackend),
        DeviceLayers::Auto,
    );
    let n_layers = || auto.plan(&program(), LIMITS).unwrap().device.n_layers;
    assert_eq!(n_layers(), 1);
    let model = backend.load(program(), LIMITS).unwrap();
    assert_eq!(memory().available_bytes(), left(1));
    assert_eq!(n_layers(), 0);
    let Err(BackendError::Device { error, .. }) = backend.load(program(), LIMITS) else {
        panic!("two programs were loaded where one has room");
    };
    let DeviceError::NoRoom {
        available_bytes, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(Some(available_bytes), left(1));
    drop(model);
    assert_eq!(memory().available_bytes(), left(0));
    backend.load(program(), LIMITS).unwrap();
}

#[test]
fn the_budget_is_below_what_the_driver_gives_this_process() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let info = backend.adapter();
    let (total, process) = (info.memory_bytes, info.process_memory_bytes);
    println!("{total:?} bytes, {process:?} of them for this process");
    if let (Some(total), Some(process)) = (total, process) {
        assert!(0 < process && process <= total);
    }
    if let Some(total) = total {
        let budget = backend.device_memory().unwrap().budget_bytes.unwrap();
        assert!(0 < budget && budget < total);
    }
}

#[test]
fn a_program_takes_what_was_planned() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let planned = backend.plan(&program(), LIMITS).unwrap();
    let model = backend.load(program(), LIMITS).unwrap();
    assert_eq!(model.memory(), planned);
}

#[test]
fn weights_are_copied_where_that_is_asked_for() {
    let program = in_one_file(decoder(DType::F32, &SHAPE, Pairing::Halves));
    let batch = Batch {
        tokens: &[3, 1, 2],
        sequences: &[Sequence {
            n_tokens: 3,
            start: 0,
            blocks: &[2],
        }],
        outputs: &[2],
        input: &[],
    };
    let run = |copies_weights| {
        let n_bytes = Arc::new(AtomicU64::new(0));
        let copied = n_bytes.clone();
        let backend = open(&GpuOptions {
            copies_weights,
            ..GpuOptions::default()
        })?
        .on_upload(move |_, total| copied.store(total, Ordering::Relaxed));
        let mut model = backend.load(program.clone(), LIMITS).unwrap();
        let logits = model.run(&batch).unwrap().to_vec();
        let n_bytes = n_bytes.load(Ordering::Relaxed);
        Some((backend.reads_in_place(), n_bytes, logits))
    };
    let (Some(in_place), Some(copied)) = (run(false), run(true)) else {
        return;
    };
    assert!(!copied.0);
    assert_eq!(in_place.1 < copied.1, in_place.0);
    assert_eq!(in_place.2, copied.2);
}

#[test]
fn a_name_that_no_adapter_has_is_an_error() {
    let options = GpuOptions {
        choice: minerva_gpu::Choice::Named("no such adapter".into()),
        ..GpuOptions::default()
    };
    let error = minerva_gpu::GpuBackend::new(&options).err().unwrap();
    let message = error.to_string();
    assert!(
        message.starts_with("GPU: no adapter whose name contains"),
        "{message}"
    );
}

/// Numbers of a linear congruential generator (Knuth's MMIX), below `n`.
fn random(state: &mut u64, n: usize) -> usize {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*state >> 33) as usize % n
}

#[test]
fn random_steps_agree_with_the_reference() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let mut gpu = backend.load(program(), LIMITS).unwrap();
    let mut reference = ReferenceBackend.load(program(), LIMITS).unwrap();
    let state = &mut 7;
    // Three sequences in four blocks each, which begin anew when they are full, or left at random.
    let blocks: Vec<[u32; 4]> = vec![[3, 0, 9, 1], [2, 11, 4, 5], [10, 8, 6, 7]];
    let mut lens = [0usize; 3];
    for step in 0..300 {
        let (mut tokens, mut sequences, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for (len, blocks) in lens.iter_mut().zip(&blocks) {
            let n_tokens = [0, 1, 1, 2, 8][random(state, 5)].min(64 - *len);
            if n_tokens > 0 {
                sequences.push(Sequence {
                    n_tokens,
                    start: *len,
                    blocks,
                });
                tokens.extend((0..n_tokens).map(|_| random(state, VOCAB) as u32));
                *len += n_tokens;
                if random(state, 4) > 0 {
                    outputs.push(tokens.len() as u32 - 1);
                }
            }
            if *len == 64 || random(state, 40) == 0 {
                *len = 0;
            }
        }
        if sequences.is_empty() {
            continue;
        }
        let batch = Batch {
            tokens: &tokens,
            sequences: &sequences,
            outputs: &outputs,
            input: &[],
        };
        let want = reference.run(&batch).unwrap().to_vec();
        let got = gpu.run(&batch).unwrap();
        if !outputs.is_empty() {
            let error = error(got, &want);
            assert!(error < 1e-6, "step {step}: error {error:e}");
        }
    }
}

#[test]
fn products_are_measured() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let size = Size::tiny();
    let copied = copy_speed(&backend, size.bytes, size).unwrap();
    assert!(copied.is_finite() && copied > 0.0);
    for (matrices, dtype) in Matrices::of(size)
        .iter()
        .zip([DType::F16, DType::Q4K].iter().cycle())
    {
        let speed = speed(&backend, *dtype, matrices, size).unwrap();
        assert!(speed.bytes_per_s.is_finite() && speed.bytes_per_s > 0.0);
        assert!(speed.operations_per_s.is_finite() && speed.operations_per_s > 0.0);
    }
}
