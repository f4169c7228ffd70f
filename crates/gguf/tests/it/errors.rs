//! Each way in which a file can be wrong, with its message.

use minerva_gguf::{Error, Gguf, MAX_ARRAY_DEPTH};

use crate::raw::Raw;

const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

const F32: u32 = 0;
const Q4_0: u32 = 2;

/// Where the first entry begins: after magic, version and two counts.
const BODY: usize = 24;

fn check(Raw(bytes): Raw, message: &str) {
    let error = Gguf::parse(&bytes).unwrap_err();
    assert_eq!(error.to_string(), message);
}

/// A file of one tensor with this entry and 64 bytes of data.
fn check_tensor(dims: &[u64], type_id: u32, data_offset: u64, message: &str) {
    check(
        Raw::new(1, 0)
            .tensor("w", dims, type_id, data_offset)
            .data(64),
        message,
    );
}

#[test]
fn error_is_fit_for_wrapping() {
    fn is_fit<T: std::error::Error + Clone + PartialEq + Send + Sync + 'static>() {}
    is_fit::<Error>();
}

#[test]
fn header() {
    check(
        Raw(vec![]),
        "header at byte 0: the file ends at byte 0, expected at least 4 bytes",
    );
    check(
        Raw(b"GG".to_vec()),
        "header at byte 0: the file ends at byte 2, expected at least 4 bytes",
    );
    check(
        Raw(b"PK\x03\x04 and more".to_vec()),
        r#"first bytes "PK\x03\x04", expected "GGUF""#,
    );
    check(
        Raw(b"GGUF".to_vec()).u32(3).u32(0),
        "number of tensors at byte 8: the file ends at byte 12, expected at least 16 bytes",
    );
    let version = |version: u32| Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0);
    check(version(0), "GGUF version 0, expected version 2 or 3");
    check(version(1), "GGUF version 1, expected version 2 or 3");
    check(version(4), "GGUF version 4, expected version 2 or 3");
    check(
        version(3u32.swap_bytes()),
        "big-endian GGUF file (version 3), expected a little-endian one",
    );
    for known in [2, 3] {
        assert_eq!(Gguf::parse(&version(known).0).unwrap().version, known);
    }
}

#[test]
fn counts_that_the_file_cannot_hold() {
    check(
        Raw::new(u64::MAX, 0),
        "number of tensors at byte 8: count 18446744073709551615, expected at most 0, for which \
         the file has room",
    );
    check(
        Raw::new(0, 3).bytes(&[0; 2 * 14]),
        "number of metadata entries at byte 16: count 3, expected at most 2, for which the file \
         has room",
    );
    for (element_type, count, max) in [
        (U8, 6, 5),
        (U32, 1 << 62, 1),
        (10, 1, 0),
        (STRING, 1, 0),
        (ARRAY, 1, 0),
    ] {
        let array = Raw(vec![]).u32(element_type).u64(count).bytes(&[0; 5]);
        check(
            Raw::new(0, 1).entry("a", ARRAY, &array.0),
            &format!(
                "value of key a at byte 41: count {count}, expected at most {max}, for which the \
                 file has room"
            ),
        );
    }
}

#[test]
fn names() {
    let key = |key: &[u8]| Raw::new(0, 1).string(key).u32(U8).bytes(&[0; 9]);
    check(
        key(b""),
        "key of metadata entry 0 at byte 24: empty, expected 1 to 65535 bytes",
    );
    check(
        key(&[b'a'; 65536]),
        "key of metadata entry 0 at byte 24: 65536 bytes, expected 1 to 65535 bytes",
    );
    check(
        key(b"a\xff"),
        r#"key of metadata entry 0 at byte 24: "a\xff", expected UTF-8"#,
    );
    check(
        Raw::new(0, 1).u64(60000).bytes(&[b'a'; 40]),
        "key of metadata entry 0 at byte 32: the file ends at byte 72, expected at least 60032 bytes",
    );
    check(
        Raw::new(1, 0).tensor("", &[1], F32, 0).data(64),
        "name of tensor 0 at byte 24: empty, expected 1 to 65535 bytes",
    );
    check(
        Raw::new(1, 0).string(b"\xc0").bytes(&[0; 64]),
        r#"name of tensor 0 at byte 24: "\xc0", expected UTF-8"#,
    );
    check(
        Raw::new(0, 2)
            .entry("\x1b[2J", U8, &[1])
            .entry("\x1b[2J", U8, &[1]),
        r"key \u{1b}[2J at byte 41: second entry, expected one",
    );
}

#[test]
fn values() {
    let entry = |value_type, value: &[u8]| Raw::new(0, 1).entry("a", value_type, value);
    check(
        entry(13, &[0; 8]),
        "key a at byte 33: value type 13, expected 0 to 12",
    );
    check(
        entry(BOOL, &[2]),
        "key a at byte 37: bool 2, expected 0 or 1",
    );
    check(
        entry(U32, &[0; 3]),
        "value of key a at byte 37: the file ends at byte 40, expected at least 41 bytes",
    );
    check(
        entry(STRING, &u64::MAX.to_le_bytes()),
        "value of key a at byte 45: the file ends at byte 45, expected at least \
         18446744073709551615 bytes",
    );
    let bools = Raw(vec![]).u32(BOOL).u64(3).bytes(&[0, 1, 255]);
    check(
        entry(ARRAY, &bools.0),
        "key a at byte 51: bool 255, expected 0 or 1",
    );
    let unknown = Raw(vec![]).u32(77).u64(3).bytes(&[0; 24]);
    check(
        entry(ARRAY, &unknown.0),
        "key a at byte 37: value type 77, expected 0 to 12",
    );
    let strings = Raw(vec![])
        .u32(STRING)
        .u64(2)
        .string(b"abc")
        .u64(5)
        .bytes(b"defg");
    check(
        entry(ARRAY, &strings.0),
        "value of key a at byte 68: the file ends at byte 72, expected at least 73 bytes",
    );
}

#[test]
fn nested_arrays() {
    let nested = |depth: usize| {
        let outer = (1..depth).fold(Raw(vec![]), |raw, _| raw.u32(ARRAY).u64(1));
        Raw::new(0, 1).entry("a", ARRAY, &outer.u32(U8).u64(2).bytes(&[4, 5]).0)
    };
    let gguf = Gguf::parse(&nested(MAX_ARRAY_DEPTH).0).unwrap();
    assert_eq!(
        gguf.metadata.get("a").unwrap().to_string(),
        "[[[[[[[[4, 5]]]]]]]]"
    );
    check(
        nested(MAX_ARRAY_DEPTH + 1),
        "key a at byte 133: array nested deeper than 8",
    );
    check(
        nested(100_000),
        "key a at byte 133: array nested deeper than 8",
    );
}

#[test]
fn alignment() {
    let file = |value_type, value: &[u8]| {
        let raw = Raw::new(2, 1).entry("general.alignment", value_type, value);
        raw.tensor("a", &[1], F32, 0)
            .tensor("b", &[1], F32, 64)
            .data(128)
    };
    let gguf = Gguf::parse(&file(U32, &64u32.to_le_bytes()).0).unwrap();
    assert_eq!(gguf.alignment, 64);
    let offsets: Vec<_> = gguf.tensors.iter().map(|info| info.offset).collect();
    assert_eq!(offsets, [128, 192]);
    for wrong in [0u32, 4, 12, 33, u32::MAX] {
        check(
            file(U32, &wrong.to_le_bytes()),
            &format!(
                "key general.alignment at byte 53: {wrong}, expected a power of two of at least 8"
            ),
        );
    }
    check(
        file(STRING, &Raw(vec![]).string(b"32").0),
        "key general.alignment at byte 53: \"32\", expected a power of two of at least 8",
    );
    check(
        file(U32, &128u32.to_le_bytes()),
        "tensor b at byte 115: data offset 64, expected a multiple of 128",
    );
    // The data section would begin beyond the end of the file.
    check(
        file(U32, &(1u32 << 31).to_le_bytes()),
        "tensor b at byte 115: data offset 64, expected a multiple of 2147483648",
    );
}

#[test]
fn shapes() {
    check_tensor(
        &[],
        F32,
        0,
        "tensor w at byte 33: 0 dimensions, expected 1 to 4",
    );
    check_tensor(
        &[1; 5],
        F32,
        0,
        "tensor w at byte 33: 5 dimensions, expected 1 to 4",
    );
    check_tensor(
        &[4, 0],
        F32,
        0,
        "tensor w at byte 37: shape [4, 0], expected no zero",
    );
    check_tensor(
        &[1 << 40, 1 << 40],
        F32,
        0,
        "tensor w at byte 37: shape [1099511627776, 1099511627776], expected fewer than 2^64 \
         elements and bytes",
    );
    check_tensor(
        &[1 << 63],
        F32,
        0,
        "tensor w at byte 37: shape [9223372036854775808], expected fewer than 2^64 elements and \
         bytes",
    );
    check_tensor(
        &[33, 2],
        Q4_0,
        0,
        "tensor w at byte 37: row length 33, expected a multiple of 32 for type Q4_0",
    );
}

#[test]
fn types() {
    check_tensor(
        &[32],
        43,
        0,
        "tensor w at byte 45: type id 43, expected at most 42",
    );
    check_tensor(
        &[32],
        u32::MAX,
        0,
        "tensor w at byte 45: type id 4294967295, expected at most 42",
    );
    let removed = [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
    ];
    for (id, name) in removed {
        check_tensor(
            &[256],
            id,
            0,
            &format!(
                "tensor w at byte 45: type {name} (id {id}), which was removed from the format"
            ),
        );
    }
}

#[test]
fn places() {
    check_tensor(
        &[1],
        F32,
        16,
        "tensor w at byte 49: data offset 16, expected a multiple of 32",
    );
    check_tensor(
        &[17],
        F32,
        0,
        "tensor w at byte 64: 68 bytes of data, but the file ends at byte 128, expected at least \
         132 bytes",
    );
    check_tensor(
        &[1],
        F32,
        u64::MAX - 31,
        "tensor w at byte 18446744073709551615: 4 bytes of data, but the file ends at byte 128, \
         expected at least 18446744073709551615 bytes",
    );
    let two = |first: u64, second: u64| {
        let raw = Raw::new(2, 0)
            .tensor("a", &[9], F32, first)
            .tensor("b", &[2], F32, second);
        raw.data(160)
    };
    check(
        two(0, 32),
        "tensor b at byte 128: data overlaps that of tensor a, expected bytes of its own",
    );
    check(
        two(64, 64),
        "tensor b at byte 160: data overlaps that of tensor a, expected bytes of its own",
    );
    assert!(Gguf::parse(&two(32, 0).0).is_ok());
    check(
        Raw::new(2, 0)
            .tensor("a", &[1], F32, 0)
            .tensor("a", &[1], F32, 32)
            .data(64),
        "tensor a at byte 57: second entry, expected one",
    );
}

/// The first tensor by place is named, whatever the order in the directory.
#[test]
fn file_cut_short() {
    let mut raw = Raw::new(3, 0)
        .tensor("c", &[16], F32, 128)
        .tensor("a", &[16], F32, 0)
        .tensor("b", &[16], F32, 64)
        .data(192);
    assert!(Gguf::parse(&raw.0).is_ok());
    let start = raw.0.len() - 192;
    assert_eq!(start, BODY + 3 * 33 + 5);
    raw.0.truncate(start + 100);
    check(
        raw.clone(),
        "tensor b at byte 192: 64 bytes of data, but the file ends at byte 228, expected at least \
         320 bytes",
    );
    raw.0.truncate(start - 3);
    check(
        raw,
        "tensor a at byte 128: 64 bytes of data, but the file ends at byte 125, expected at least \
         320 bytes",
    );
}
