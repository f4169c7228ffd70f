//! The deep check of a file: every problem is found, and a good file has none.

use minerva_engine::chat::renderer::in_process;
use minerva_engine::model::{ARCHITECTURES, verify};

use crate::tiny::Tiny;

fn problems(tiny: &Tiny) -> Vec<String> {
    verify(&tiny.write().path, in_process)
        .iter()
        .map(|problem| problem.to_string())
        .collect()
}

#[test]
fn a_good_file_has_no_problems() {
    for architecture in ARCHITECTURES {
        assert_eq!(problems(&Tiny::new(architecture, &[])), [""; 0]);
    }
}

#[test]
fn all_problems_are_reported() {
    let mut tiny = Tiny::new(&ARCHITECTURES[0], &[]);
    tiny.tensors
        .retain(|tensor| tensor.name != "blk.0.ffn_norm.weight");
    tiny.tensor("blk.1.attn_k.weight").dims = vec![16, 32];
    tiny.tensor("blk.1.ffn_up.weight").values[33] = f32::NAN;
    tiny.tensor("blk.1.ffn_up.weight").values[70] = f32::INFINITY;
    tiny.metadata.insert("tokenizer.chat_template", "{% if %}");
    tiny.metadata.insert("tokenizer.ggml.scores", vec![0.0f32]);
    let found = problems(&tiny);
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(
        found[0],
        "tensor blk.0.ffn_norm.weight: missing, expected shape [32]"
    );
    assert_eq!(
        found[1],
        "tensor blk.1.attn_k.weight: shape [16, 32], expected [32, 16]"
    );
    assert!(found[2].starts_with("tokenizer: "), "{}", found[2]);
    assert!(found[3].starts_with("chat template: "), "{}", found[3]);
    let wanted = "tensor blk.1.ffn_up.weight: 2 elements are not finite, the first in row 1";
    assert_eq!(found[4], wanted);
}

#[test]
fn a_file_of_an_unknown_architecture_is_checked_too() {
    let mut tiny = Tiny::new(&ARCHITECTURES[0], &[]);
    tiny.metadata.insert("general.architecture", "perceptron");
    tiny.tensor("output.weight").values[0] = f32::NEG_INFINITY;
    let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
    let wanted = [
        &*format!(
            "architecture \"perceptron\": not supported, expected one of: {}",
            names.join(", ")
        ),
        "tensor output.weight: 1 elements are not finite, the first in row 0",
    ];
    assert_eq!(problems(&tiny), wanted);
}

#[test]
fn what_is_no_model_file_is_one_problem() {
    assert_eq!(verify("/no/such/file.gguf", in_process).len(), 1);
}
