//! Models whose first layers are on a device and the rest on the processor.

use std::sync::Arc;

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{
    Backend, CpuBackend, DeviceLayers, KvType, KvTypes, ReferenceBackend, SplitBackend,
};
use minerva_engine::model::ARCHITECTURES;
use minerva_engine::{EngineOptions, EvaluatorOptions, MemoryPlan, Model};
use minerva_gpu::{GpuBackend, GpuOptions};

use crate::files::distance;
use crate::forward::{TEXT, TOLERANCE, for_each_variant, gpu};
use crate::tiny::Tiny;

fn cpu() -> Arc<dyn Backend> {
    let options = CpuOptions {
        threads: Some(2),
        ..CpuOptions::default()
    };
    Arc::new(CpuBackend::new(&options).unwrap())
}

fn split(device: &Arc<dyn Backend>, rest: &Arc<dyn Backend>, n: usize) -> SplitBackend {
    SplitBackend::new(device.clone(), rest.clone(), DeviceLayers::First(n))
}

/// Logits after the text at once, and with the last tokens one by one.
fn logits(backend: &dyn Backend, tiny: &Tiny) -> [Vec<f32>; 2] {
    let options = EvaluatorOptions {
        kv_types: KvTypes::both(KvType::F32),
        ..EvaluatorOptions::default()
    };
    let mut evaluator = tiny.evaluator_on(backend, &options);
    let whole = evaluator.prefill(&TEXT).unwrap().to_vec();
    evaluator.reset();
    let (first, rest) = TEXT.split_at(TEXT.len() - 2);
    let mut stepwise = evaluator.prefill(first).unwrap().to_vec();
    for &token in rest {
        stepwise = evaluator.decode_step(token).unwrap().to_vec();
    }
    [whole, stepwise]
}

#[test]
fn wherever_it_is_cut_a_model_answers_as_the_whole() {
    let reference: Arc<dyn Backend> = Arc::new(ReferenceBackend);
    let cpu = cpu();
    for_each_variant(|tiny| {
        let [on_reference, on_cpu] = [&reference, &cpu].map(|whole| logits(&**whole, tiny));
        let n_layers = tiny.open().unwrap().hparams().n_layers;
        for n in 0..=n_layers {
            // To the bit, as a row's arithmetic is the same.
            assert_eq!(logits(&split(&cpu, &cpu, n), tiny), on_cpu, "{n} layers");
            let both = logits(&split(&reference, &cpu, n), tiny);
            for (got, want) in both.iter().zip(&on_reference) {
                let far = distance(want, got);
                assert!(far < TOLERANCE, "{n} layers: {far:e}");
            }
        }
    });
}

#[test]
fn wherever_it_is_cut_a_model_on_a_gpu_answers_as_the_whole() {
    let Some(gpu) = gpu() else { return };
    let gpu: Arc<dyn Backend> = Arc::new(gpu);
    let cpu = cpu();
    for_each_variant(|tiny| {
        let want = logits(&ReferenceBackend, tiny);
        let n_layers = tiny.open().unwrap().hparams().n_layers;
        for n in 1..n_layers {
            let found = logits(&split(&gpu, &cpu, n), tiny);
            for (got, want) in found.iter().zip(&want) {
                let far = distance(want, got);
                assert!(far < TOLERANCE, "{n} layers: {far:e}");
            }
        }
    });
}

#[test]
fn auto_takes_as_many_layers_as_the_device_holds() {
    let Some(_) = gpu() else { return };
    // Six layers of two kinds.
    let gemma = ARCHITECTURES.iter().find(|a| a.name == "gemma3").unwrap();
    // The device gets cosines, not factors of frequencies.
    let tiny = Tiny::new(gemma, &["rope_freqs.weight"]);
    let file = tiny.write();
    let model = Model::open(&file.path).unwrap();
    let n_layers = model.hparams().n_layers;
    let cpu = cpu();
    let plan = |layers, memory_bytes| {
        let options = GpuOptions {
            memory_bytes,
            ..GpuOptions::default()
        };
        let gpu = Arc::new(GpuBackend::new(&options).unwrap());
        let backend = SplitBackend::new(gpu, cpu.clone(), layers);
        MemoryPlan::new(&model, &backend, &EngineOptions::default()).unwrap()
    };
    let mut weights_bytes = u64::MAX;
    for n in 0..=n_layers {
        let taken = plan(DeviceLayers::First(n), None);
        assert_eq!(taken.device.n_layers, n);
        let n_bytes = taken.device.total_bytes();
        let found = plan(DeviceLayers::Auto, Some(n_bytes));
        assert_eq!(found, taken, "{n} layers in {n_bytes} bytes");
        if n > 0 {
            let fewer = plan(DeviceLayers::Auto, Some(n_bytes - 1));
            assert_eq!(fewer.device.n_layers, n - 1);
        }
        // What goes to the device is not needed beside it.
        assert!(taken.weights_bytes < weights_bytes);
        weights_bytes = taken.weights_bytes;
    }
    assert_eq!(weights_bytes, 0);
}
