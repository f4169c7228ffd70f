//! What is measured of the dispatches: all of them, what the processor's steps cost, and nothing of the
//! answers.

use std::time::Duration;

use minerva_compute::conformance::{Shape, decoder, experts};
use minerva_compute::{
    Backend, Batch, Builder, Cost, CpuBackend, DType, Executable, Function, KvType, KvTypes,
    Limits, Pairing, Program, Sequence, StepProfile, Weight, cpu::CpuOptions,
};
use minerva_gpu::GpuOptions;

use crate::open;

const LIMITS: Limits = Limits {
    max_tokens: 24,
    max_outputs: 2,
    max_between: 0,
    n_kv_blocks: 5,
    kv_types: KvTypes::both(KvType::Q8_0),
};

/// As many heads of the cache as of queries, so that as many tokens go through it together as on the
/// processor.
const SHAPE: Shape = Shape {
    dim: 64,
    ffn: 96,
    n_heads: 2,
    n_kv_heads: 2,
    head_dim: 32,
};

/// Runs a prompt of two sequences, and then a token of each.
fn run(model: &mut dyn Executable) -> Vec<f32> {
    let sequence = |n_tokens, start, blocks| Sequence {
        n_tokens,
        start,
        blocks,
    };
    let tokens: Vec<u32> = (0..24).map(|i| i * 5 % 13).collect();
    let prompts = Batch {
        tokens: &tokens,
        sequences: &[sequence(5, 0, &[3]), sequence(19, 0, &[0, 4])],
        outputs: &[4],
        input: &[],
    };
    let mut answers = model.run(&prompts).unwrap().to_vec();
    let next = Batch {
        tokens: &[1, 2],
        sequences: &[sequence(1, 5, &[3]), sequence(1, 19, &[0, 4])],
        outputs: &[0, 1],
        input: &[],
    };
    answers.extend_from_slice(model.run(&next).unwrap());
    answers
}

fn profile(model: &mut dyn Executable) -> Vec<StepProfile> {
    assert!(model.start_profile());
    run(model);
    let mut steps = model.take_profile();
    steps.retain(|step| step.n_calls > 0);
    steps
}

/// What is read, and computed in any type.
fn cost(steps: &[StepProfile]) -> (u64, u64) {
    let mut all = Cost::default();
    for step in steps {
        all += step.cost;
    }
    (all.read_bytes, all.operations())
}

#[test]
fn costs_are_those_of_the_processor_and_answers_the_same() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let cpu = CpuBackend::new(&CpuOptions::default()).unwrap();
    for (dtype, program) in [DType::Q8_0, DType::F32].into_iter().flat_map(|dtype| {
        [
            decoder(dtype, &SHAPE, Pairing::Halves),
            experts(dtype, 96, true, true),
            experts(dtype, 96, true, false),
        ]
        .map(|program| (dtype, program))
    }) {
        let mut gpu = backend.load(program.clone(), LIMITS).unwrap();
        let answers = run(&mut *gpu);
        let steps = profile(&mut *gpu);
        let mut cpu = cpu.load(program, LIMITS).unwrap();
        let ((read, computed), of_cpu) = (cost(&steps), cost(&profile(&mut *cpu)));
        assert_eq!(read, of_cpu.0, "{dtype}: {steps:#?}");
        // The processor multiplies some quantized weights with two rows of 8 bits for each.
        if dtype == DType::F32 {
            assert_eq!(computed, of_cpu.1, "{steps:#?}");
        }
        assert!(steps.iter().all(|step| step.time > Duration::ZERO));
        assert!(gpu.start_profile());
        assert_eq!(run(&mut *gpu), answers);
        gpu.take_profile();
        assert_eq!(run(&mut *gpu), answers);
        assert_eq!(gpu.take_profile(), []);
    }
}

#[test]
fn every_dispatch_is_measured() {
    // The same kernels on every adapter.
    let options = GpuOptions {
        without_matrix_units: true,
        integer_dots: Some(true),
        ..GpuOptions::default()
    };
    let Some(backend) = open(&options) else {
        return;
    };
    let program = decoder(DType::Q8_0, &SHAPE, Pairing::Halves);
    let mut model = backend.load(program, LIMITS).unwrap();
    let steps = profile(&mut *model);
    let found: Vec<String> = steps
        .iter()
        .map(|step| format!("{} {} {}", step.n_calls, step.op, step.kernel))
        .collect();
    // 24 tokens and one output, then two of each.
    let products = ["1 product mul_mv4_bytes_Q8_0", "1 product mul_mm_Q8_0"];
    let before_norm = ["1 product mul_mv4_for_norm_bytes_Q8_0", products[1]];
    let mut wanted = vec!["2 embedding embed_F32"];
    wanted.extend(["1 RMS norm rms_norm_bytes", "1 RMS norm rms_norm"]);
    wanted.extend(products);
    wanted.push("2 rotation and store store_q8_0_q8_0");
    wanted.extend([
        "1 attention attend1_bytes_q8_0_q8_0",
        "1 attention attend_q8_0_q8_0",
    ]);
    wanted.extend(before_norm);
    wanted.push("1 RMS norm rms_norm");
    wanted.push("1 gated product mul_mv4_gated_as_bytes_bytes_Q8_0");
    wanted.extend([products[1], "1 activation "]);
    wanted.extend(products);
    wanted.extend(["2 gather ", "2 RMS norm rms_norm_bytes"]);
    wanted.extend(["1 product mul_mv_bytes_Q8_0", products[0]]);
    assert_eq!(found, wanted);
    let output: Vec<&(String, DType)> = steps[18].weights.iter().collect();
    assert_eq!(output, [&("matrix".to_owned(), DType::Q8_0)]);
}

#[test]
fn more_dispatches_are_measured_than_a_set_of_queries_has() {
    let Some(backend) = open(&GpuOptions::default()) else {
        return;
    };
    let n_dispatches = 2100;
    let program = || -> Program {
        let mut b = Builder::new();
        let embd = b.weight(Weight::from_f32("embd", (13, 4), &[1.0; 52]));
        let mut x = b.embed(embd);
        for _ in 0..n_dispatches {
            x = b.map(x, Function::Scale(1.0));
        }
        let x = b.outputs(x);
        let logits = b.matmul(x, embd);
        b.finish(logits)
    };
    let mut model = backend.load(program(), LIMITS).unwrap();
    let steps = profile(&mut *model);
    let scales: Vec<&StepProfile> = steps.iter().filter(|step| step.op == "scale").collect();
    assert_eq!(scales.len(), n_dispatches);
    let is_measured = |step: &&&StepProfile| step.n_calls == 2 && step.time > Duration::ZERO;
    assert_eq!(scales.iter().filter(is_measured).count(), n_dispatches);
}
