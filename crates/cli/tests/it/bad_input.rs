//! What a new user may try that cannot work: each gives one clear message and exit status 1.

use crate::model::TinyModel;
use crate::{Folder, command, finish, minerva};

/// Every command that opens a model, with a file that is not one.
#[track_caller]
fn all_fail(folder: &Folder, model: &str, parts: &[&str]) {
    minerva(folder, &["run", model, "hello"]).fails(parts);
    minerva(folder, &["inspect", model]).fails(parts);
    minerva(folder, &["bench", model]).fails(parts);
    minerva(folder, &["tokenize", model]).fails(parts);
}

#[test]
fn no_file() {
    let folder = Folder::new("no-file");
    let path = folder.path("missing.gguf");
    all_fail(&folder, &path, &["missing.gguf", "no such file"]);
    minerva(&folder, &["verify", &path]).fails(&["no such file"]);
    all_fail(
        &folder,
        "nonesuch",
        &["no model named nonesuch", "hint: ", "smollm2"],
    );
}

#[test]
fn a_directory() {
    let folder = Folder::new("directory");
    let path = folder.path("");
    all_fail(&folder, &path, &["a directory, expected a GGUF file"]);
}

#[test]
fn an_empty_file_and_a_text_file() {
    let folder = Folder::new("no-gguf");
    let path = folder.path("empty.gguf");
    std::fs::write(&path, "").unwrap();
    all_fail(&folder, &path, &["empty"]);
    let path = folder.path("text.gguf");
    std::fs::write(&path, "Once upon a time there was no model.\n").unwrap();
    all_fail(&folder, &path, &["GGUF"]);
    minerva(&folder, &["verify", &path]).fails(&["GGUF"]);
}

#[test]
fn a_truncated_model() {
    let folder = Folder::new("truncated");
    let path = folder.path("tiny.gguf");
    let bytes = TinyModel::new().bytes();
    for len in [3, 10, 500, bytes.len() / 2, bytes.len() - 100] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        minerva(&folder, &["run", &path, "hello"]).fails(&[]);
        minerva(&folder, &["verify", &path]).fails(&[]);
    }
}

#[test]
fn an_unknown_architecture() {
    let folder = Folder::new("architecture");
    let mut model = TinyModel::new();
    model.metadata.insert("general.architecture", "mamba9");
    all_fail(&folder, &model.write(&folder), &["mamba9", "llama"]);
}

#[test]
fn a_missing_tensor_and_a_wrong_shape() {
    let folder = Folder::new("tensors");
    let mut model = TinyModel::new();
    model
        .tensors
        .retain(|(name, _)| name != "blk.1.ffn_up.weight");
    all_fail(
        &folder,
        &model.write(&folder),
        &["blk.1.ffn_up.weight", "missing"],
    );

    let mut model = TinyModel::new();
    let tensor = model
        .tensors
        .iter_mut()
        .find(|(name, _)| name == "blk.0.attn_k.weight")
        .unwrap();
    tensor.1 = vec![32, 15];
    let path = model.write(&folder);
    all_fail(
        &folder,
        &path,
        &["blk.0.attn_k.weight", "[32, 15]", "[32, 16]"],
    );
    minerva(&folder, &["verify", &path]).fails(&["[32, 15]"]);
}

#[test]
fn a_broken_tokenizer_and_template() {
    let folder = Folder::new("template-error");
    let mut model = TinyModel::new();
    model
        .metadata
        .insert("tokenizer.chat_template", "{% for %}");
    let path = model.write(&folder);
    minerva(&folder, &["run", &path, "hello"]).fails(&["chat template"]);
    minerva(&folder, &["verify", &path]).fails(&["chat template"]);
    let mut model = TinyModel::new();
    model.metadata.insert("tokenizer.ggml.pre", "nobody-knows");
    all_fail(&folder, &model.write(&folder), &["nobody-knows"]);
}

#[test]
fn no_network() {
    let folder = Folder::new("no-network");
    for args in [&["pull", "smollm2"][..], &["run", "smollm2", "hello"]] {
        let mut command = command(&folder, args);
        // No python either, which could fetch it in another way.
        command.env("PATH", folder.path("nothing"));
        finish(command).fails(&["127.0.0.1", "hint: "]);
    }
    let other = ["pull", "hf:owner/repo/model.gguf"];
    minerva(&folder, &other).fails(&["127.0.0.1"]);
    minerva(&folder, &["bench", "smollm2"]).fails(&["`minerva pull smollm2`"]);
}

#[test]
fn a_name_that_is_not_installed() {
    let folder = Folder::new("not-installed");
    minerva(&folder, &["rm", "smollm2"]).fails(&["smollm2", "not in the model folder"]);
}
