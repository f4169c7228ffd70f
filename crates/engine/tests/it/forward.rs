//! The forward pass of every architecture: however a text is cut into batches, the logits agree.

use minerva_compute::cpu::CpuOptions;
use minerva_compute::{Backend, CpuBackend, KvType, KvTypes, ReferenceBackend};
use minerva_engine::model::ARCHITECTURES;
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use minerva_gguf::{Gguf, Metadata};
use minerva_gpu::{GpuBackend, GpuOptions, testing};

use crate::files::{TempFile, distance};
use crate::tiny::{Tensor, Tiny, write};
use crate::variants::{Variant, split_experts};

/// Float sums may be taken in another order.
pub(crate) const TOLERANCE: f32 = 1e-5;

pub(crate) const TEXT: [u32; 21] = [
    1, 260, 270, 261, 3, 284, 259, 259, 100, 2, 0, 263, 264, 280, 281, 282, 5, 6, 7, 270, 260,
];

/// Which optional tensors a model does without.
const SKIPS: [&[&str]; 7] = [
    &[],
    &["output.weight"],
    &["rope_freqs.weight"],
    &[".bias"],
    &["output.weight", "rope_freqs.weight", ".bias"],
    &["rope_factors_short.weight", "rope_factors_long.weight"],
    &["attn_qkv.weight"],
];

pub(crate) fn for_each_variant(check: impl Fn(&Tiny)) {
    for architecture in ARCHITECTURES {
        let mut seen: Vec<Vec<String>> = Vec::new();
        for skip in SKIPS {
            let tiny = Tiny::new(architecture, skip);
            let names = tiny
                .tensors
                .iter()
                .map(|tensor| tensor.name.clone())
                .collect();
            if !seen.contains(&names) {
                check(&tiny);
                seen.push(names);
            }
        }
    }
    for variant in Variant::ALL {
        check(&variant.tiny());
    }
}

/// What must hold on any backend.
fn for_each_backend(check: impl Fn(&dyn Backend, &Tiny)) {
    let threads = Some(2);
    let cpu = CpuBackend::new(&CpuOptions {
        threads,
        ..CpuOptions::default()
    })
    .unwrap();
    for backend in [&ReferenceBackend as &dyn Backend, &cpu] {
        for_each_variant(|tiny| check(backend, tiny));
    }
}

fn options(batch_tokens: usize) -> EvaluatorOptions {
    EvaluatorOptions {
        batch_tokens,
        ..EvaluatorOptions::default()
    }
}

fn logits(tiny: &Tiny) -> Vec<f32> {
    logits_on(&ReferenceBackend, tiny)
}

fn logits_on(backend: &dyn Backend, tiny: &Tiny) -> Vec<f32> {
    let mut evaluator = tiny.evaluator_on(backend, &EvaluatorOptions::default());
    evaluator.prefill(&TEXT).unwrap().to_vec()
}

#[test]
fn the_cpu_backend_agrees_with_the_reference() {
    // In half precision, sums in another order may be rounded to the next number.
    for (kv_type, tolerance) in [(KvType::F32, TOLERANCE), (KvType::F16, 5e-3)] {
        let options = EvaluatorOptions {
            kv_types: KvTypes::both(kv_type),
            ..EvaluatorOptions::default()
        };
        for_each_backend(|backend, tiny| {
            let on = |backend| {
                let mut evaluator = tiny.evaluator_on(backend, &options);
                evaluator.prefill(&TEXT).unwrap().to_vec()
            };
            let far = distance(&on(&ReferenceBackend), &on(backend));
            assert!(far < tolerance, "{kv_type}: {far:e}");
        });
    }
}

pub(crate) fn gpu() -> Option<GpuBackend> {
    testing::opened(GpuBackend::new(&GpuOptions::default()))
}

#[test]
fn the_gpu_backend_agrees_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    for (kv_type, tolerance) in [(KvType::F32, TOLERANCE), (KvType::F16, 5e-3)] {
        let options = EvaluatorOptions {
            kv_types: KvTypes::both(kv_type),
            ..EvaluatorOptions::default()
        };
        for_each_variant(|tiny| {
            let want = {
                let mut evaluator = tiny.evaluator_on(&ReferenceBackend, &options);
                evaluator.prefill(&TEXT).unwrap().to_vec()
            };
            // At once, and the last tokens one by one.
            let mut evaluator = tiny.evaluator_on(&gpu, &options);
            let far = distance(&want, evaluator.prefill(&TEXT).unwrap());
            assert!(far < tolerance, "{kv_type}: {far:e}");
            let (first, rest) = TEXT.split_at(TEXT.len() - 3);
            evaluator.reset();
            let mut stepwise = evaluator.prefill(first).unwrap().to_vec();
            for &token in rest {
                stepwise = evaluator.decode_step(token).unwrap().to_vec();
            }
            let far = distance(&want, &stepwise);
            assert!(far < tolerance, "{kv_type}, one by one: {far:e}");
        });
    }
}

#[test]
fn one_by_one_as_at_once() {
    for_each_backend(|backend, tiny| {
        let mut evaluator = tiny.evaluator_on(backend, &EvaluatorOptions::default());
        let (first, rest) = TEXT.split_at(1);
        let mut stepwise = evaluator.prefill(first).unwrap().to_vec();
        for &token in rest {
            stepwise = evaluator.decode_step(token).unwrap().to_vec();
        }
        assert_eq!(evaluator.cached(), TEXT);
        assert!(distance(&logits_on(backend, tiny), &stepwise) < TOLERANCE);
    });
}

#[test]
fn in_slices_as_at_once() {
    for_each_backend(|backend, tiny| {
        let whole = logits_on(backend, tiny);
        for batch_tokens in [1, 2, 7, 16, 20, 21] {
            let mut evaluator = tiny.evaluator_on(backend, &options(batch_tokens));
            let sliced = evaluator.prefill(&TEXT).unwrap();
            assert!(
                distance(&whole, sliced) < TOLERANCE,
                "slices of {batch_tokens}"
            );
        }
    });
}

#[test]
fn after_other_text_as_from_the_start() {
    for_each_backend(|backend, tiny| {
        let mut evaluator = tiny.evaluator_on(backend, &EvaluatorOptions::default());
        evaluator.prefill(&TEXT[..12]).unwrap();
        evaluator.prefill(&[9, 8, 7, 6, 5]).unwrap();
        evaluator.truncate(12);
        let warm = evaluator.prefill(&TEXT[12..]).unwrap();
        assert!(distance(&logits_on(backend, tiny), warm) < TOLERANCE);
    });
}

#[test]
fn every_position_and_token_matters() {
    for_each_variant(|tiny| {
        let mut other = TEXT;
        other.swap(3, 8);
        let swapped = tiny
            .evaluator(&options(512))
            .prefill(&other)
            .unwrap()
            .to_vec();
        assert!(distance(&logits(tiny), &swapped) > 100.0 * TOLERANCE);
    });
}

#[test]
fn every_architecture_has_a_variant() {
    for architecture in ARCHITECTURES {
        let mut variants = Variant::ALL.iter();
        assert!(
            variants.any(|variant| variant.architecture().name == architecture.name),
            "{}: not among those that are compared with another engine",
            architecture.name
        );
    }
}

#[test]
fn every_tensor_matters() {
    for variant in Variant::ALL {
        let tiny = variant.tiny();
        let wanted = logits(&tiny);
        for i in 0..tiny.tensors.len() {
            let mut other = tiny.clone();
            let Tensor { name, values, .. } = &mut other.tensors[i];
            // Of layers the first is enough, and the context asks for the other factors.
            if name.starts_with("blk.1.") || name == "rope_factors_short.weight" {
                continue;
            }
            let changes = (0..).map(|i| (i as f32 + 1.0).sin() / 2.0);
            values.iter_mut().zip(changes).for_each(|(x, d)| *x += d);
            let name = name.clone();
            assert!(wanted != logits(&other), "{}: {name}", variant.name);
        }
    }
}

#[test]
fn scores_are_the_log_probabilities_of_the_steps() {
    for_each_variant(|tiny| {
        let mut evaluator = tiny.evaluator(&options(8));
        let mut wanted = Vec::new();
        for pair in TEXT.windows(2) {
            let logits = evaluator.decode_step(pair[0]).unwrap();
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            wanted.push((f64::from(logits[pair[1] as usize]) - sum.ln()) as f32);
        }
        for (batch_outputs, first) in [(1, 1), (3, 1), (8, 5), (8, 20), (8, 21), (8, 30)] {
            let options = EvaluatorOptions {
                batch_outputs,
                ..options(8)
            };
            let mut evaluator = tiny.evaluator(&options);
            evaluator.prefill(&[3, 3, 3]).unwrap();
            let scores = evaluator.score(&TEXT, first).unwrap();
            let wanted = wanted.get(first - 1..).unwrap_or_default();
            assert_eq!(scores.len(), wanted.len());
            let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
            assert!(
                scores.iter().zip(wanted).all(is_close),
                "{scores:?}, {wanted:?}"
            );
        }
    });
}

#[test]
fn an_untied_copy_of_the_embedding_changes_nothing() {
    for architecture in ARCHITECTURES {
        let tied = Tiny::new(architecture, &["output.weight"]);
        let mut untied = tied.clone();
        let table = untied.tensor("token_embd.weight").clone();
        untied.tensors.push(Tensor {
            name: "output.weight".into(),
            ..table
        });
        assert_eq!(logits(&tied), logits(&untied));
    }
}

#[test]
fn grouped_queries_are_shared_heads() {
    for architecture in ARCHITECTURES {
        let grouped = Tiny::new(architecture, &["attn_qkv.weight"]);
        if grouped
            .tensors
            .iter()
            .any(|tensor| tensor.name.contains("attn_qkv"))
        {
            continue;
        }
        let hparams = grouped.open().unwrap().hparams().clone();
        let n_shared = hparams.n_heads / hparams.n_kv_heads;
        assert!(n_shared > 1, "the tiny model has grouped queries");
        let mut full = grouped.clone();
        let key = format!("{}.attention.head_count_kv", architecture.name);
        full.metadata.insert(&key, hparams.n_heads as u32);
        for tensor in &mut full.tensors {
            let is_of_all_heads =
                tensor.dims.last() == Some(&(hparams.n_kv_heads * hparams.head_dim));
            if ["attn_k.", "attn_v.", "attn_k_norm."]
                .iter()
                .any(|name| tensor.name.contains(name))
                && is_of_all_heads
            {
                let n_rows = tensor.dims.last_mut().unwrap();
                let head_len = tensor.values.len() / *n_rows * hparams.head_dim;
                *n_rows *= n_shared;
                let heads = tensor.values.chunks(head_len);
                tensor.values = heads.flat_map(|head| head.repeat(n_shared)).collect();
            }
        }
        assert!(distance(&logits(&grouped), &logits(&full)) < TOLERANCE);
    }
}

#[test]
fn linear_scaling_is_a_factor_on_every_pair() {
    for architecture in ARCHITECTURES {
        let mut by_factors = Tiny::new(architecture, &[]);
        if !by_factors
            .tensors
            .iter()
            .any(|tensor| tensor.name == "rope_freqs.weight")
        {
            continue;
        }
        by_factors.tensor("rope_freqs.weight").values.fill(4.0);
        let plain = Tiny::new(architecture, &["rope_freqs.weight"]);
        let close = |a: &Tiny, b: &Tiny| distance(&logits(a), &logits(b)) < TOLERANCE;
        assert!(!close(&plain, &by_factors));
        for (name, kind) in [("scaling.factor", Some("linear")), ("scale_linear", None)] {
            let mut scaled = Tiny {
                tensors: Vec::new(),
                ..plain.clone()
            };
            let key = |name: &str| format!("{}.rope.{name}", architecture.name);
            scaled.metadata.insert(&key(name), 4.0f32);
            if let Some(kind) = kind {
                scaled.metadata.insert(&key("scaling.type"), kind);
            }
            scaled.tensors = by_factors.tensors.clone();
            scaled
                .tensors
                .retain(|tensor| tensor.name != "rope_freqs.weight");
            let mut plain = by_factors.clone();
            plain
                .tensors
                .retain(|tensor| tensor.name != "rope_freqs.weight");
            assert!(close(&scaled, &by_factors));
            assert!(!close(&scaled, &plain));
        }
    }
}

#[test]
fn a_window_hides_what_is_before_it() {
    for architecture in ARCHITECTURES {
        let tiny = Tiny::new(architecture, &[]);
        let with_window = |n: u32| {
            let mut tiny = tiny.clone();
            let key = format!("{}.attention.sliding_window", architecture.name);
            tiny.metadata.insert(&key, n);
            tiny
        };
        let (none, whole, part) = (
            with_window(0),
            with_window(TEXT.len() as u32),
            with_window(4),
        );
        assert_eq!(logits(&none), logits(&whole));
        assert!(distance(&logits(&whole), &logits(&part)) > 100.0 * TOLERANCE);
        // With one layer, the last token sees four tokens and no others.
        let mut one = part.clone();
        one.metadata
            .insert(&format!("{}.block_count", architecture.name), 1u32);
        one.fill(architecture, &[]);
        let mut other = TEXT;
        other[..17].reverse();
        let engine = |text: &[u32]| {
            let mut evaluator = one.evaluator(&EvaluatorOptions::default());
            evaluator.prefill(text).unwrap().to_vec()
        };
        assert!(distance(&engine(&TEXT), &engine(&other)) < TOLERANCE);
        other[17] += 1;
        assert!(distance(&engine(&TEXT), &engine(&other)) > TOLERANCE);
    }
}

#[test]
fn a_context_beyond_the_original_has_its_own_factors() {
    let phi3 = ARCHITECTURES.iter().find(|a| a.name == "phi3").unwrap();
    let mut tiny = Tiny::new(phi3, &[]);
    let original = tiny.open().unwrap().hparams().rope.original_context_length;
    let run = |tiny: &Tiny, context| {
        let options = EvaluatorOptions {
            context: Some(context),
            ..EvaluatorOptions::default()
        };
        tiny.evaluator(&options).prefill(&TEXT).unwrap().to_vec()
    };
    let (short, long) = (run(&tiny, original), run(&tiny, original + 1));
    assert!(distance(&short, &long) > 100.0 * TOLERANCE);
    let values = tiny.tensor("rope_factors_long.weight").values.clone();
    tiny.tensor("rope_factors_short.weight").values = values;
    assert_eq!(run(&tiny, original), long);
    tiny.tensors
        .retain(|tensor| tensor.name != "rope_factors_short.weight");
    let error = tiny.open().unwrap().program(original).unwrap_err();
    let wanted = "tensor rope_factors_short.weight: missing, expected shape [3]";
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn equal_experts_are_one_feed_forward_block() {
    let dense = Tiny::new(&ARCHITECTURES[0], &[".bias"]);
    let mut experts = dense.clone();
    experts.metadata.insert("llama.expert_count", 3u32);
    experts.metadata.insert("llama.expert_used_count", 2u32);
    for part in ["gate", "up", "down"] {
        for layer in 0..2 {
            let tensor = experts.tensor(&format!("blk.{layer}.ffn_{part}.weight"));
            tensor.name = format!("blk.{layer}.ffn_{part}_exps.weight");
            tensor.values = tensor.values.repeat(3);
            tensor.dims.push(3);
        }
    }
    for layer in 0..2 {
        experts.tensors.push(Tensor {
            name: format!("blk.{layer}.ffn_gate_inp.weight"),
            dims: vec![32, 3],
            values: (0..96).map(|i| (i as f32).sin()).collect(),
        });
    }
    assert!(distance(&logits(&dense), &logits(&experts)) < TOLERANCE);
    // The third of layer 0 becomes another one.
    let values = &mut experts.tensor("blk.0.ffn_down_exps.weight").values;
    let n = values.len();
    values[n / 3 * 2..].fill(0.5);
    assert!(distance(&logits(&dense), &logits(&experts)) > 100.0 * TOLERANCE);
}

#[test]
fn experts_may_be_tensors_of_their_own() {
    let mixtral = Variant::ALL.iter().find(|v| v.name == "mixtral").unwrap();
    let merged = mixtral.tiny();
    let mut split = merged.clone();
    split_experts(&mut split);
    assert!(split.tensors.len() > merged.tensors.len());
    assert_eq!(logits(&merged), logits(&split));
    let program = |tiny: &Tiny| tiny.open().unwrap().program(64).map(|_| ());
    let error = |tiny: &Tiny| program(tiny).unwrap_err().to_string();
    let without = |tiny: &Tiny, part: &str| {
        let mut tiny = tiny.clone();
        tiny.tensors.retain(|tensor| !tensor.name.contains(part));
        tiny
    };
    assert_eq!(
        error(&without(&split, "blk.1.ffn_up.4")),
        "tensor blk.1.ffn_up.4.weight: missing, expected shape [32, 64]"
    );
    assert_eq!(
        error(&without(&merged, "blk.1.ffn_down_exps")),
        "tensor blk.1.ffn_down_exps.weight: missing, expected shape [64, 32, 6]"
    );
    let mut both = split.clone();
    let all = merged.clone().tensor("blk.0.ffn_gate_exps.weight").clone();
    both.tensors.push(all);
    assert_eq!(
        error(&both),
        "tensor blk.0.ffn_gate.0.weight: the same as a part of blk.0.ffn_gate_exps.weight, \
         expected one"
    );
}

#[test]
fn sequences_decoded_together_are_as_each_alone() {
    for_each_backend(|backend, tiny| {
        let options = EvaluatorOptions {
            sequences: 3,
            ..EvaluatorOptions::default()
        };
        let mut together = tiny.evaluator_on(backend, &options);
        let prompts = [&TEXT[..5], &TEXT[5..], &TEXT[2..4]];
        for (sequence, prompt) in prompts.iter().enumerate() {
            together.prefill_sequence(sequence, prompt).unwrap();
        }
        assert_eq!(together.cached(), prompts[0]);
        together.decode_together(&[3, 1, 2]).unwrap();
        let logits = together.decode_together(&[4, 5, 6]).unwrap().to_vec();
        let rows = logits.chunks(logits.len() / 3);
        for ((prompt, new), row) in prompts.iter().zip([[3, 4], [1, 5], [2, 6]]).zip(rows) {
            let mut alone = tiny.evaluator_on(backend, &EvaluatorOptions::default());
            alone.prefill(prompt).unwrap();
            alone.decode_step(new[0]).unwrap();
            assert_eq!(alone.decode_step(new[1]).unwrap(), row);
        }
        together.reset();
        assert!(together.cached().is_empty());
    });
}

#[test]
fn a_split_model_is_the_same_model() {
    for architecture in ARCHITECTURES {
        let tiny = Tiny::new(architecture, &[]);
        let file = TempFile::new("tiny-00001-of-00003.gguf");
        let n = tiny.tensors.len();
        for (part, tensors) in [0..4, 4..5, 5..n].into_iter().enumerate() {
            let mut metadata = if part == 0 {
                tiny.metadata.clone()
            } else {
                Metadata::default()
            };
            metadata.insert("split.no", part as u32);
            metadata.insert("split.count", 3u32);
            metadata.insert("split.tensors.count", n as i32);
            let mut out = Vec::new();
            write(&mut out, &metadata, &tiny.tensors[tensors]);
            let name = format!("tiny-{:05}-of-00003.gguf", part + 1);
            std::fs::write(file.path.with_file_name(name), out).unwrap();
        }
        for opened in [1, 2, 3] {
            let name = format!("tiny-{opened:05}-of-00003.gguf");
            let model = Model::open(file.path.with_file_name(name)).unwrap();
            let mut evaluator = Evaluator::new(
                model.into(),
                &ReferenceBackend,
                &EvaluatorOptions::default(),
            )
            .unwrap();
            assert_eq!(evaluator.prefill(&TEXT).unwrap(), logits(&tiny));
        }
        std::fs::remove_file(file.path.with_file_name("tiny-00002-of-00003.gguf")).unwrap();
        let error = Model::open(&file.path).unwrap_err().to_string();
        assert!(
            error.ends_with("tiny-00002-of-00003.gguf: no such file"),
            "{error}"
        );
    }
}

#[test]
fn what_is_saved_is_what_is_loaded() {
    for_each_variant(|tiny| {
        let bytes = tiny.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let tensors: Vec<Tensor> = gguf
            .tensors
            .iter()
            .map(|info| {
                let values = bytes[info.range()].chunks(4);
                let values = values.map(|x| f32::from_le_bytes(x.try_into().unwrap()));
                let name = info.name.to_string();
                Tensor {
                    name,
                    dims: info.dims.clone(),
                    values: values.collect(),
                }
            })
            .collect();
        let again = Tiny {
            metadata: gguf.metadata,
            tensors,
        };
        assert_eq!(bytes, again.bytes());
        assert_eq!(logits(tiny), logits(&again));
    });
}
