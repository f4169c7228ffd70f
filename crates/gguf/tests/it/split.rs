//! Models in several files.

use minerva_gguf::{GgmlType, Gguf, Metadata, NewTensor, Split, SplitName, write};

/// A part with one tensor, which says of itself what it is told to.
fn part(part: u32, n_parts: u32, n_tensors: u32, tensor: &str) -> Gguf {
    let mut metadata = Metadata::new();
    metadata.insert("split.no", part);
    metadata.insert("split.count", n_parts);
    metadata.insert("split.tensors.count", n_tensors);
    parse(&metadata, tensor)
}

fn parse(metadata: &Metadata, tensor: &str) -> Gguf {
    let tensor = NewTensor {
        name: tensor,
        dims: &[1],
        ggml_type: GgmlType::F32,
        data: &[0; 4],
    };
    let mut bytes = Vec::new();
    write(&mut bytes, metadata, &[tensor]).unwrap();
    Gguf::parse(&bytes).unwrap()
}

#[test]
fn names() {
    let name = SplitName::parse("smol-00002-of-00010.gguf").unwrap();
    assert_eq!(
        name,
        SplitName {
            prefix: "smol".into(),
            part: 1,
            n_parts: 10
        }
    );
    assert_eq!(name.to_string(), "smol-00002-of-00010.gguf");
    assert_eq!(name.part(9).to_string(), "smol-00010-of-00010.gguf");
    for other in [
        "smol.gguf",
        ".gguf",
        "",
        "smol-00001-of-00002",
        "smol-00000-of-00002.gguf",
        "smol-00003-of-00002.gguf",
        "smol-0001-of-00002.gguf",
        "smol-+0001-of-00002.gguf",
        "smol00001-of-00002.gguf",
        "日本00002.gguf",
    ] {
        assert_eq!(SplitName::parse(other), None, "{other}");
    }
}

#[test]
fn parts_become_one() {
    let first = part(0, 3, 3, "a");
    assert_eq!(
        first.split(),
        Ok(Some(Split {
            part: 0,
            n_parts: 3
        }))
    );
    // Parts after the first need only say which they are.
    let mut bare = Metadata::new();
    bare.insert("split.no", 2u32);
    let joined = first
        .join(vec![part(1, 3, 3, "b"), parse(&bare, "c")])
        .unwrap();
    let parts: Vec<_> = joined
        .tensors
        .iter()
        .map(|info| (&*info.name, info.part))
        .collect();
    assert_eq!(parts, [("a", 0), ("b", 1), ("c", 2)]);
    assert_eq!(joined.tensors.get("c").unwrap().part, 2);
}

#[test]
fn a_single_file_is_no_part() {
    assert_eq!(parse(&Metadata::new(), "a").split(), Ok(None));
    assert_eq!(part(0, 0, 1, "a").split(), Ok(None));
}

#[test]
fn parts_that_do_not_belong_together() {
    fn check(first: Gguf, rest: Vec<Gguf>, message: &str) {
        assert_eq!(first.join(rest).unwrap_err().to_string(), message);
    }
    check(
        part(0, 3, 2, "a"),
        vec![part(1, 3, 2, "b")],
        "part 1 of a split file: split.count 3, expected 2",
    );
    check(
        part(0, 2, 2, "a"),
        vec![part(0, 2, 2, "b")],
        "part 2 of a split file: split.no 0, expected 1",
    );
    check(
        part(1, 2, 2, "a"),
        vec![part(0, 2, 2, "b")],
        "part 1 of a split file: split.no 1, expected 0",
    );
    check(
        part(0, 2, 5, "a"),
        vec![part(1, 2, 5, "b")],
        "part 1 of a split file: split.tensors.count 5, expected 2",
    );
    check(
        part(0, 2, 2, "a"),
        vec![part(1, 2, 2, "a")],
        "tensor a: in parts 1 and 2 of a split file, expected one",
    );
    check(
        part(0, 2, 2, "a"),
        vec![parse(&Metadata::new(), "b")],
        "key split.no: missing, expected u64",
    );
}
