//! What is written is read back the same.

use std::collections::HashSet;

use minerva_gguf::{
    Array, GgmlType, Gguf, Metadata, NewTensor, StringArray, Value, WriteError, write,
};
use quickcheck::{Arbitrary, Gen, QuickCheck};

/// A file to be written: any metadata, and tensors of any type and small shapes.
#[derive(Debug, Clone)]
struct File {
    entries: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<usize>, GgmlType)>,
}

impl Arbitrary for File {
    fn arbitrary(g: &mut Gen) -> File {
        let mut entries: Vec<(String, Value)> = (0..u8::arbitrary(g) % 12)
            .map(|_| (name(g), value(g)))
            .collect();
        if bool::arbitrary(g) {
            let alignment = 8u32 << (u8::arbitrary(g) % 5);
            entries.push(("general.alignment".into(), Value::U32(alignment)));
        }
        let tensors = (0..u8::arbitrary(g) % 6).map(|_| {
            let ggml_type = *g.choose(GgmlType::ALL).unwrap();
            let mut dims: Vec<usize> = (0..1 + usize::arbitrary(g) % 4)
                .map(|_| 1 + usize::arbitrary(g) % 3)
                .collect();
            dims[0] *= ggml_type.block_len();
            (name(g), dims, ggml_type)
        });
        let mut tensors: Vec<_> = tensors.collect();
        let mut names = HashSet::new();
        tensors.retain(|(name, ..)| names.insert(name.clone()));
        File { entries, tensors }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = File>> {
        let file = self.clone();
        let without_entry = (0..file.entries.len()).map({
            let file = file.clone();
            move |idx| {
                let mut file = file.clone();
                file.entries.remove(idx);
                file
            }
        });
        let without_tensor = (0..file.tensors.len()).map(move |idx| {
            let mut file = file.clone();
            file.tensors.remove(idx);
            file
        });
        Box::new(without_entry.chain(without_tensor))
    }
}

fn name(g: &mut Gen) -> String {
    format!("{}.{}", u8::arbitrary(g), String::arbitrary(g))
}

fn value(g: &mut Gen) -> Value {
    match u8::arbitrary(g) % 13 {
        0 => Value::U8(u8::arbitrary(g)),
        1 => Value::I8(i8::arbitrary(g)),
        2 => Value::U16(u16::arbitrary(g)),
        3 => Value::I16(i16::arbitrary(g)),
        4 => Value::U32(u32::arbitrary(g)),
        5 => Value::I32(i32::arbitrary(g)),
        6 => Value::F32(f32::arbitrary(g)),
        7 => Value::Bool(bool::arbitrary(g)),
        8 => Value::String(Vec::arbitrary(g)),
        9 => Value::Array(array(g, 1)),
        10 => Value::U64(u64::arbitrary(g)),
        11 => Value::I64(i64::arbitrary(g)),
        _ => Value::F64(f64::arbitrary(g)),
    }
}

fn array(g: &mut Gen, depth: usize) -> Array {
    match u8::arbitrary(g) % 13 {
        0 => Array::U8(Vec::arbitrary(g)),
        1 => Array::I8(Vec::arbitrary(g)),
        2 => Array::U16(Vec::arbitrary(g)),
        3 => Array::I16(Vec::arbitrary(g)),
        4 => Array::U32(Vec::arbitrary(g)),
        5 => Array::I32(Vec::arbitrary(g)),
        6 => Array::F32(Vec::arbitrary(g)),
        7 => Array::Bool(Vec::arbitrary(g)),
        9 if depth < 4 => Array::Array(
            (0..u8::arbitrary(g) % 4)
                .map(|_| array(g, depth + 1))
                .collect(),
        ),
        8 | 9 => Array::String(
            Vec::<Vec<u8>>::arbitrary(g)
                .into_iter()
                .collect::<StringArray>(),
        ),
        10 => Array::U64(Vec::arbitrary(g)),
        11 => Array::I64(Vec::arbitrary(g)),
        _ => Array::F64(Vec::arbitrary(g)),
    }
}

/// Data that differs from tensor to tensor and from byte to byte.
fn data(tensor_idx: usize, dims: &[usize], ggml_type: GgmlType) -> Vec<u8> {
    let n_blocks = dims.iter().product::<usize>() / ggml_type.block_len();
    (0..n_blocks * ggml_type.block_bytes())
        .map(|idx| (idx * 7 + tensor_idx * 31 + 1) as u8)
        .collect()
}

#[test]
fn any_file_reads_back_as_written() {
    #[allow(clippy::needless_pass_by_value, reason = "quickcheck passes values")]
    fn reads_back(file: File) -> bool {
        let mut metadata = Metadata::new();
        for (key, value) in &file.entries {
            metadata.insert(key, value.clone());
        }
        let data: Vec<Vec<u8>> = file
            .tensors
            .iter()
            .enumerate()
            .map(|(idx, (_, dims, ggml_type))| data(idx, dims, *ggml_type))
            .collect();
        let tensors: Vec<NewTensor<'_>> = file
            .tensors
            .iter()
            .zip(&data)
            .map(|((name, dims, ggml_type), data)| {
                let ggml_type = *ggml_type;
                NewTensor {
                    name,
                    dims,
                    ggml_type,
                    data,
                }
            })
            .collect();
        let mut bytes = Vec::new();
        write(&mut bytes, &metadata, &tensors).unwrap();

        let gguf = Gguf::parse(&bytes).unwrap();
        // By text, in which a NaN equals itself; and by bytes, which tell NaNs apart.
        assert_eq!(
            format!("{:?}", gguf.metadata.iter().collect::<Vec<_>>()),
            format!("{:?}", metadata.iter().collect::<Vec<_>>())
        );
        assert_eq!(gguf.tensors.len(), tensors.len());
        for (info, tensor) in gguf.tensors.iter().zip(&tensors) {
            assert_eq!(&*info.name, tensor.name);
            assert_eq!(info.dims, tensor.dims);
            assert_eq!(info.ggml_type, tensor.ggml_type);
            assert_eq!(info.n_elements(), tensor.dims.iter().product());
            assert_eq!(info.offset % gguf.alignment, 0);
            assert_eq!(info.part, 0);
            assert_eq!(&bytes[info.range()], tensor.data);
            assert_eq!(gguf.tensors.get(tensor.name), Some(info));
        }
        let mut again = Vec::new();
        write(&mut again, &gguf.metadata, &tensors).unwrap();
        again == bytes
    }
    QuickCheck::new()
        .tests(300)
        .quickcheck(reads_back as fn(File) -> bool);
}

#[test]
fn any_bytes_are_parsed_without_panic() {
    #[allow(clippy::needless_pass_by_value, reason = "quickcheck passes values")]
    fn parses(bytes: Vec<u8>, n_tensors: u8, n_entries: u8) -> bool {
        let _ = Gguf::parse(&bytes);
        let headed = crate::raw::Raw::new((n_tensors % 4).into(), (n_entries % 4).into());
        let _ = Gguf::parse(&headed.bytes(&bytes).0);
        true
    }
    QuickCheck::new()
        .tests(2000)
        .quickcheck(parses as fn(Vec<u8>, u8, u8) -> bool);
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    fn check(metadata: &Metadata, tensors: &[NewTensor<'_>], message: &str) {
        let mut out = Vec::new();
        let error = write(&mut out, metadata, tensors).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(out.is_empty(), "nothing is written before the checks");
    }
    let none = Metadata::new();
    let tensor = NewTensor {
        name: "w",
        dims: &[2],
        ggml_type: GgmlType::F32,
        data: &[0; 8],
    };
    check(
        &none,
        &[NewTensor {
            data: &[0; 9],
            ..tensor
        }],
        "tensor w: 9 bytes of data, expected 8",
    );
    check(
        &none,
        &[NewTensor {
            dims: &[],
            ..tensor
        }],
        "tensor w at byte 0: 0 dimensions, expected 1 to 4",
    );
    check(
        &none,
        &[tensor, tensor],
        "tensor w at byte 0: second entry, expected one",
    );
    check(
        &none,
        &[NewTensor { name: "", ..tensor }],
        "name of a tensor at byte 0: empty, expected 1 to 65535 bytes",
    );

    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", 20u32);
    check(
        &metadata,
        &[],
        "key general.alignment at byte 0: 20, expected a power of two of at least 8",
    );
    let mut metadata = Metadata::new();
    let nested = (0..8).fold(Array::U8(vec![1]), |array, _| Array::Array(vec![array]));
    metadata.insert("a", nested);
    check(
        &metadata,
        &[],
        "key a at byte 0: array nested deeper than 8",
    );
    let mut metadata = Metadata::new();
    metadata.insert("", 1u32);
    check(
        &metadata,
        &[],
        "key of a metadata entry at byte 0: empty, expected 1 to 65535 bytes",
    );
}

#[test]
fn failing_output_is_reported() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let result = write(&mut Full, &Metadata::new(), &[]);
    assert!(matches!(result, Err(WriteError::Io(_))), "{result:?}");
}
