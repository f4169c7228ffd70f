//! The rules of STYLE.md that a program can check, and the README's tables.

use std::fs;
use std::path::{Path, PathBuf};

use minerva_compute::DType;
use minerva_engine::model::ARCHITECTURES;
use minerva_engine::tokenizer::Tokenizer;
use minerva_gguf::{GgmlType, Metadata};

use crate::root;

/// All Rust files of the workspace with their text, by path.
fn rust_files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    collect(&root().join("crates"), &mut files);
    assert!(files.len() > 50, "{} files", files.len());
    files.sort();
    files
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
}

/// Lines without comments that have one of `words`, as `path:line`.
fn lines_with(words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}", path.display(), i + 1));
            }
        }
    }
    found
}

#[test]
fn every_file_says_what_it_is() {
    let without: Vec<PathBuf> = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(
        without.is_empty(),
        "files whose first line is no module doc: {without:?}"
    );
}

#[test]
fn unsafe_stands_only_where_the_architecture_allows_it() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = architecture
        .split("## Where `unsafe` is allowed")
        .nth(1)
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let allowed: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("* `")?.split('`').next())
        .collect();
    // Not written out, so that this file does not find itself.
    let keyword = "un".to_owned() + "safe";
    let uses: Vec<String> = [" {", " fn", " impl", " extern", "("]
        .iter()
        .map(|after| keyword.clone() + after)
        .collect();
    let uses: Vec<&str> = uses.iter().map(String::as_str).collect();
    let found = lines_with(&uses);
    let is_allowed = |line: &str| {
        allowed
            .iter()
            .any(|path| line.starts_with(&format!("{path}:")))
    };
    let wrong: Vec<&String> = found.iter().filter(|line| !is_allowed(line)).collect();
    assert!(
        wrong.is_empty(),
        "not in the list of ARCHITECTURE.md: {wrong:?}"
    );
    for path in allowed {
        let is_used = found
            .iter()
            .any(|line| line.starts_with(&format!("{path}:")));
        assert!(
            is_used,
            "{path} is in the list of ARCHITECTURE.md and needs it no more"
        );
    }
}

#[test]
fn nothing_is_switched_off_or_put_off() {
    let marks = ["#[igno", "allow(dead_co", "todo", "unimplemen"];
    let ends = ["re", "de)", "!(", "ted!("];
    let words: Vec<String> = marks
        .iter()
        .zip(ends)
        .map(|(a, b)| a.to_string() + b)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(lines_with(&words), [""; 0]);
    let marks = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME"];
    let notes: Vec<PathBuf> = rust_files()
        .into_iter()
        .filter(|(_, text)| marks.iter().any(|mark| text.contains(mark)))
        .map(|(path, _)| path)
        .collect();
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn anyhow_stays_in_the_binary() {
    let found = lines_with(&["anyhow::"]);
    let wrong: Vec<&String> = found
        .iter()
        .filter(|line| !line.starts_with("crates/cli/"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_tables_of_the_readme_are_current() {
    const BEGIN: &str = "<!-- status:begin -->\n";
    const END: &str = "<!-- status:end -->";
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let wanted = status();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, wanted,
        "the README's tables are old: UPDATE=1 cargo test -p minerva tidy makes them anew"
    );
}

/// What runs and what does not, from the registries themselves.
fn status() -> String {
    let names = |is_wanted: &dyn Fn(&GgmlType) -> bool| -> String {
        let names = GgmlType::ALL
            .iter()
            .filter(|t| is_wanted(t))
            .map(|t| t.name());
        names.collect::<Vec<_>>().join(", ")
    };
    let runs = |t: &GgmlType| DType::from_id(t.id()).is_some();
    let none = |list: String| {
        if list.is_empty() {
            "none".to_owned()
        } else {
            list
        }
    };
    let architectures: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
    let pre_tokenizers: Vec<&str> = Tokenizer::pre_tokenizers().collect();
    format!(
        "| | |\n|---|---|\n\
         | architectures | {} |\n\
         | data types | {} |\n\
         | data types of the format that are refused | {} |\n\
         | tokenizers | {} |\n\
         | pre-tokenizers of byte-level BPE | {} |\n",
        architectures.join(", "),
        names(&runs),
        none(names(&|t| !runs(t))),
        tokenizers(),
        pre_tokenizers.join(", "),
    )
}

/// The names of tokenizers, as the refusal of another name lists them.
fn tokenizers() -> String {
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "no such tokenizer");
    let refusal = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
    refusal.split("supported are: ").nth(1).unwrap().to_owned()
}
