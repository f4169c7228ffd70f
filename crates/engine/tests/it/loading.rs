//! Files and options that are refused, each with the one message that says why.

use std::sync::Arc;

use minerva_compute::ReferenceBackend;
use minerva_engine::chat::renderer::in_process;
use minerva_engine::model::{ARCHITECTURES, TensorSpec, verify};
use minerva_engine::{Evaluator, EvaluatorOptions, Model};
use minerva_gguf::{Array, Gguf, Value};

use crate::files::TempFile;
use crate::tiny::{Random, Tensor, Tiny};

fn check(change: impl Fn(&mut Tiny), wanted: &str) {
    let mut tiny = Tiny::new(&ARCHITECTURES[0], &[]);
    change(&mut tiny);
    let message = match tiny.open() {
        Err(error) => error.to_string(),
        // What the elements of a tensor say is found when the program is made.
        Ok(model) => model.program(128).expect_err(wanted).to_string(),
    };
    assert_eq!(message, wanted);
}

#[test]
fn numbers_that_make_no_sense() {
    for (key, value, wanted) in [
        ("attention.head_count", 0, "0, expected 1 to 4096"),
        (
            "attention.head_count",
            1 << 30,
            "1073741824, expected 1 to 4096",
        ),
        (
            "attention.head_count",
            6,
            "6, expected a divisor of the embedding_length of 32",
        ),
        (
            "attention.head_count_kv",
            3,
            "3, expected a divisor of the 4 heads",
        ),
        (
            "attention.value_length",
            9,
            "9, expected 8, the length of a key",
        ),
        (
            "rope.dimension_count",
            7,
            "7, expected an even number up to the head's 8",
        ),
        (
            "rope.dimension_count",
            10,
            "10, expected an even number up to the head's 8",
        ),
        (
            "embedding_length",
            u32::MAX,
            "4294967295, expected 1 to 16777216",
        ),
        ("feed_forward_length", 0, "0, expected 1 to 16777216"),
        ("block_count", 5000, "5000, expected 1 to 4096"),
        ("context_length", 0, "0, expected 1 to 4294967295"),
        ("expert_count", 5000, "5000, expected 0 to 4096"),
    ] {
        // The first divisor that does not fit would hide the others.
        let key = format!("llama.{key}");
        let found_key = if value == 6 {
            "llama.attention.head_count"
        } else {
            &key
        };
        let change = |tiny: &mut Tiny| {
            if value == 6 {
                tiny.metadata.insert("llama.attention.head_count_kv", 6u32);
            }
            tiny.metadata.insert(&key, value);
        };
        check(change, &format!("key {found_key}: {wanted}"));
    }
    for (key, value, wanted) in [
        (
            "attention.layer_norm_rms_epsilon",
            f32::NAN,
            "NaN, expected a finite number of at least 0",
        ),
        ("rope.freq_base", 1.0, "1, expected a finite number above 1"),
        (
            "rope.freq_base",
            f32::INFINITY,
            "inf, expected a finite number above 1",
        ),
        (
            "rope.scaling.factor",
            -2.0,
            "-2, expected a finite number above 0",
        ),
    ] {
        let key = format!("llama.{key}");
        check(
            |tiny| tiny.metadata.insert(&key, value),
            &format!("key {key}: {wanted}"),
        );
    }
    check(
        |tiny| tiny.metadata.insert("llama.rope.scaling.type", "dynamic"),
        "key llama.rope.scaling.type: \"dynamic\", expected none, linear, yarn or longrope",
    );
    check(
        |tiny| tiny.metadata.insert("llama.rope.scaling.type", "longrope"),
        "tensor rope_factors_short.weight: missing, expected shape [4]",
    );
    check(
        |tiny| tiny.metadata.insert("llama.block_count", "two"),
        "key llama.block_count: type string, expected u32",
    );
}

#[test]
fn experts_and_windows_that_make_no_sense() {
    let experts = |tiny: &mut Tiny| tiny.metadata.insert("llama.expert_count", 4u32);
    check(
        experts,
        "key llama.expert_used_count: missing, expected u32",
    );
    for (key, value, wanted) in [
        ("expert_used_count", 5, "5, expected 1 to 4"),
        ("expert_gating_func", 2, "2, expected 1, the softmax"),
        ("expert_feed_forward_length", 0, "0, expected 1 to 16777216"),
    ] {
        let key = format!("llama.{key}");
        let change = |tiny: &mut Tiny| {
            experts(tiny);
            tiny.metadata.insert("llama.expert_used_count", 2u32);
            tiny.metadata.insert(&key, value);
        };
        check(change, &format!("key {key}: {wanted}"));
    }
    check(
        |tiny| {
            let key = "llama.attention.sliding_window_pattern";
            tiny.metadata
                .insert(key, Value::Array(Array::Bool(vec![true])));
        },
        "key llama.attention.sliding_window_pattern: 1 of bool, expected 2 of bool, or a number",
    );
}

fn names() -> String {
    let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
    names.join(", ")
}

#[test]
fn an_unknown_architecture() {
    check(
        |tiny| tiny.metadata.insert("general.architecture", "perceptron"),
        &format!(
            "architecture \"perceptron\": not supported, expected one of: {}",
            names()
        ),
    );
}

#[test]
fn tensors_that_do_not_fit() {
    check(
        |tiny| {
            tiny.tensors
                .retain(|tensor| tensor.name != "blk.1.ffn_down.weight")
        },
        "tensor blk.1.ffn_down.weight: missing, expected shape [64, 32]",
    );
    check(
        |tiny| {
            let tensor = tiny.tensor("blk.1.attn_q.weight");
            tensor.dims[1] = 31;
            tensor.values.truncate(32 * 31);
        },
        "tensor blk.1.attn_q.weight: shape [32, 31], expected [32, 32]",
    );
    check(
        |tiny| {
            let values = vec![0.0];
            tiny.tensors.push(Tensor {
                name: "blk.0.adapter".into(),
                dims: vec![1],
                values,
            });
        },
        "tensor blk.0.adapter: unknown, expected only tensors that the architecture reads",
    );
    check(
        |tiny| tiny.tensor("rope_freqs.weight").values[2] = 0.0,
        "tensor rope_freqs.weight: factor 0, expected finite numbers above 0",
    );
}

#[test]
fn files_that_are_no_models() {
    let file = TempFile::new("model.gguf");
    let check = |wanted: &str| {
        let message = Model::open(&file.path).unwrap_err().to_string();
        assert_eq!(message, format!("{}: {wanted}", file.path.display()));
    };
    check("no such file");
    for (bytes, wanted) in [
        (&b""[..], "empty, expected a GGUF file"),
        (b"Hello, world", "first bytes \"Hell\", expected \"GGUF\""),
    ] {
        std::fs::write(&file.path, bytes).unwrap();
        check(wanted);
    }
    let whole = Tiny::new(&ARCHITECTURES[0], &[]).bytes();
    std::fs::write(&file.path, &whole[..whole.len() - 1000]).unwrap();
    let message = Model::open(&file.path).unwrap_err().to_string();
    assert!(message.contains("but the file ends at byte"), "{message}");
}

#[test]
fn options_outside_of_their_range() {
    let model = Arc::new(Tiny::new(&ARCHITECTURES[0], &[]).open().unwrap());
    let check = |options: EvaluatorOptions, wanted: &str| {
        let error = Evaluator::new(model.clone(), &ReferenceBackend, &options).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    };
    let default = EvaluatorOptions::default();
    let wanted = "expected 2 to 128, the context length of the model";
    for context in [1, 129] {
        let options = EvaluatorOptions {
            context: Some(context),
            ..default.clone()
        };
        check(options, &format!("context: {context}, {wanted}"));
    }
    let options = EvaluatorOptions {
        batch_tokens: 0,
        ..default.clone()
    };
    check(options, "batch_tokens: 0, expected at least 1");
    let options = EvaluatorOptions {
        batch_outputs: 0,
        ..default.clone()
    };
    check(options, "batch_outputs: 0, expected at least 1");
    let options = EvaluatorOptions {
        sequences: 0,
        ..default
    };
    check(options, "sequences: 0, expected at least 1");
}

#[test]
fn what_a_file_says_of_itself() {
    for architecture in ARCHITECTURES {
        let mut tiny = Tiny::new(architecture, &[]);
        tiny.metadata.insert("general.name", "Tiny");
        let info = tiny.open().unwrap().info();
        assert_eq!(
            (info.architecture, info.name.as_deref()),
            (architecture.name, Some("Tiny"))
        );
        let n_elements: usize = tiny.tensors.iter().map(|tensor| tensor.values.len()).sum();
        assert_eq!(info.n_parameters, n_elements as u64);
        assert_eq!(info.types.len(), 1);
        assert_eq!(info.types[0].n_tensors, tiny.tensors.len());
        assert_eq!(info.types[0].n_bytes, 4 * n_elements as u64);
        assert_eq!(info.file_bytes, tiny.bytes().len() as u64);
    }
}

#[test]
fn architectures_name_their_tensors_once() {
    for architecture in ARCHITECTURES {
        let tiny = Tiny::new(architecture, &[]);
        let hparams = tiny.open().unwrap().hparams().clone();
        let mut names: Vec<String> = (architecture.tensors)(&hparams)
            .into_iter()
            .map(|spec: TensorSpec| spec.name)
            .collect();
        let n_names = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n_names);
    }
}

#[test]
fn a_damaged_file_is_refused_or_runs() {
    let whole = Tiny::new(&ARCHITECTURES[0], &[]).bytes();
    // Everything before the tensors' data: header, metadata, directory.
    let n_head_bytes = Gguf::parse(&whole)
        .unwrap()
        .tensors
        .iter()
        .map(|t| t.offset)
        .min()
        .unwrap();
    let file = TempFile::new("model.gguf");
    let mut random = Random(7);
    let mut below = |n: usize| ((random.next() + 1.0) / 2.0 * n as f32) as usize % n;
    let mut n_opened = 0;
    for _ in 0..600 {
        let mut bytes = whole.clone();
        for _ in 0..1 + below(2) {
            let at = below(n_head_bytes);
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x40][below(7)];
        }
        std::fs::write(&file.path, &bytes).unwrap();
        let problems = verify(&file.path, in_process);
        let Ok(model) = Model::open(&file.path) else {
            assert!(!problems.is_empty());
            continue;
        };
        n_opened += 1;
        let Ok(mut evaluator) = Evaluator::new(
            model.into(),
            &ReferenceBackend,
            &EvaluatorOptions::default(),
        ) else {
            continue;
        };
        // Either is fine: a context of 2 has no room for three tokens.
        let _ = evaluator.prefill(&[1, 2, 3]);
    }
    assert!(
        n_opened > 100,
        "most of the head is the texts of tokens: {n_opened}"
    );
}
