//! A valid file, damaged at every byte and cut at every length.

use minerva_gguf::{Array, GgmlType, Gguf, Metadata, NewTensor, StringArray, write};

/// A small file with every kind of thing in it. The last tensor needs no padding, so that each
/// byte of the file is needed.
fn file() -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.alignment", 16u32);
    metadata.insert("split.count", 1u32);
    metadata.insert("tokens", StringArray::from_iter(["<s>", "", "a"]));
    metadata.insert("scores", vec![0.0f32, -1.0]);
    metadata.insert("heads", vec![4u32, 2]);
    metadata.insert(
        "nested",
        Array::Array(vec![Array::Bool(vec![true]), Array::U64(vec![])]),
    );
    metadata.insert("flag", true);
    let f32s = [0x3f; 4 * 6];
    let q8_0 = [0x11; 2 * 34];
    let bf16 = [0x40; 2 * 8];
    let tensors = [
        NewTensor {
            name: "norm",
            dims: &[3, 2],
            ggml_type: GgmlType::F32,
            data: &f32s,
        },
        NewTensor {
            name: "w",
            dims: &[32, 1, 2],
            ggml_type: GgmlType::Q8_0,
            data: &q8_0,
        },
        NewTensor {
            name: "b",
            dims: &[8],
            ggml_type: GgmlType::BF16,
            data: &bf16,
        },
    ];
    let mut bytes = Vec::new();
    write(&mut bytes, &metadata, &tensors).unwrap();
    bytes
}

/// Whatever was parsed is consistent, and can be shown and asked for anything.
fn check_consistent(gguf: &Gguf, bytes: &[u8]) {
    let mut ends: Vec<_> = gguf
        .tensors
        .iter()
        .map(|info| (info.offset, info.range().end))
        .collect();
    ends.sort();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    for info in gguf.tensors.iter() {
        assert_eq!(bytes[info.range()].len(), info.n_bytes);
        assert_eq!(
            info.n_bytes,
            info.n_elements() / info.ggml_type.block_len() * info.ggml_type.block_bytes()
        );
        assert_eq!(info.offset % gguf.alignment, 0);
        assert_eq!(gguf.tensors.get(&info.name), Some(info));
    }
    for (key, value) in gguf.metadata.iter() {
        let _ = (value.to_string(), value.type_name());
        let _ = (
            gguf.metadata.u32(key),
            gguf.metadata.u64(key),
            gguf.metadata.i32(key),
        );
        let _ = (
            gguf.metadata.f32(key),
            gguf.metadata.bool(key),
            gguf.metadata.str(key),
        );
        let _ = (
            gguf.metadata.u32s(key),
            gguf.metadata.i32s(key),
            gguf.metadata.f32s(key),
        );
        let _ = (
            gguf.metadata.strings(key).map(|s| s.iter().count()),
            gguf.metadata.u32_per_layer(key),
        );
    }
    let _ = gguf.split();
}

#[test]
fn every_byte_replaced_by_every_kind_of_value() {
    let valid = file();
    check_consistent(&Gguf::parse(&valid).unwrap(), &valid);
    let mut n_refused = 0;
    for pos in 0..valid.len() {
        let old = valid[pos];
        let flipped = (0..8).map(|bit| old ^ (1 << bit));
        for new in flipped.chain([
            0,
            0x7f,
            0x80,
            0xff,
            old.wrapping_add(1),
            old.wrapping_sub(1),
        ]) {
            let mut bytes = valid.clone();
            bytes[pos] = new;
            match Gguf::parse(&bytes) {
                Ok(gguf) => check_consistent(&gguf, &bytes),
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    n_refused += 1;
                }
            }
        }
    }
    assert!(
        n_refused > valid.len(),
        "most of the file is structure: {n_refused}"
    );
}

/// Counts, lengths, types and offsets are little-endian words somewhere: each place gets the words
/// that arithmetic is most likely to trip over.
#[test]
fn every_word_replaced_by_an_extreme() {
    let valid = file();
    let words = [
        u64::MAX,
        u64::MAX - 31,
        1 << 63,
        (1 << 63) - 1,
        1 << 61,
        1 << 32,
        u64::from(u32::MAX),
        valid.len() as u64,
    ];
    for pos in 0..valid.len() - 8 {
        for word in words {
            let mut bytes = valid.clone();
            bytes[pos..pos + 8].copy_from_slice(&word.to_le_bytes());
            if let Ok(gguf) = Gguf::parse(&bytes) {
                check_consistent(&gguf, &bytes);
            }
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let valid = file();
    for len in 0..valid.len() {
        let error = Gguf::parse(&valid[..len]).expect_err("a cut file must not pass");
        assert!(error.to_string().contains(" byte"), "{len}: {error}");
    }
}
