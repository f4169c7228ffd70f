//! Tests that range over the table: a new row is covered by existing.

use super::{DType, Form};

/// Bytes of every value, the same in every run.
fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The row through its integer form: `scale * q + min`.
fn through_integers(dtype: DType, bytes: &[u8], n: usize) -> Vec<f32> {
    let Form::Groups { group_len, has_min } = dtype.form() else {
        unreachable!()
    };
    let mut q = vec![0; n];
    let mut scales = vec![0.0; n / group_len];
    let mut mins = vec![0.0; if has_min { n / group_len } else { 0 }];
    dtype.unpack_row(bytes, &mut q, &mut scales, &mut mins);
    let value = |(i, q): (usize, &i8)| {
        let product = scales[i / group_len] * f32::from(*q);
        if has_min {
            product + mins[i / group_len]
        } else {
            product
        }
    };
    q.iter().enumerate().map(value).collect()
}

#[test]
fn ids_and_names_are_unique_and_found() {
    for &dtype in DType::ALL {
        assert_eq!(DType::from_id(dtype.id()), Some(dtype));
        assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        assert_eq!(DType::from_name(&dtype.name().to_lowercase()), Some(dtype));
        assert_eq!(dtype.to_string(), dtype.name());
    }
    for removed in [4, 5, 31, 32, 33, 36, 37, 38, u32::MAX] {
        assert_eq!(DType::from_id(removed), None);
    }
    assert_eq!(DType::from_name("Q9_Z"), None);
}

#[test]
fn rows_are_whole_blocks() {
    for &dtype in DType::ALL {
        let (len, bytes) = (dtype.block_len(), dtype.block_bytes());
        assert_eq!(dtype.row_bytes(0), Some(0));
        assert_eq!(dtype.row_bytes(3 * len), Some(3 * bytes));
        if len > 1 {
            assert_eq!(dtype.row_bytes(len + 1), None, "{dtype}");
            assert_eq!(dtype.row_bytes(len - 1), None, "{dtype}");
        }
    }
    assert_eq!(DType::F32.row_bytes(usize::MAX), None);
}

#[test]
fn the_integer_form_is_the_value() {
    for &dtype in DType::ALL {
        for seed in 0..20 {
            let n = 7 * dtype.block_len();
            let bytes = random_bytes(dtype.row_bytes(n).unwrap(), seed);
            let mut out = vec![0.0; n];
            dtype.dequantize_row(&bytes, &mut out);
            if dtype.form() == Form::Float {
                continue;
            }
            let bits = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            let want = through_integers(dtype, &bytes, n);
            assert!(out.iter().map(bits).eq(want.iter().map(bits)), "{dtype}");
        }
    }
}

#[test]
fn a_row_is_its_blocks() {
    for &dtype in DType::ALL {
        let (len, n_bytes) = (dtype.block_len(), dtype.block_bytes());
        let bytes = random_bytes(5 * n_bytes, 1);
        let mut row = vec![0.0; 5 * len];
        dtype.dequantize_row(&bytes, &mut row);
        for (bytes, row) in bytes.chunks(n_bytes).zip(row.chunks(len)) {
            let mut block = vec![0.0; len];
            dtype.dequantize_row(bytes, &mut block);
            let bits = |x: &f32| x.to_bits();
            assert!(block.iter().map(bits).eq(row.iter().map(bits)), "{dtype}");
        }
    }
}

#[test]
fn blocks_of_one_byte_value_are_read() {
    for &dtype in DType::ALL {
        for byte in 0..=255 {
            let mut out = vec![0.0; dtype.block_len()];
            dtype.dequantize_row(&vec![byte; dtype.block_bytes()], &mut out);
        }
    }
}

#[test]
#[should_panic(expected = "bytes of 32 Q8_0")]
fn a_wrong_length_is_refused() {
    DType::Q8_0.dequantize_row(&[0; 33], &mut [0.0; 32]);
}

#[test]
#[should_panic(expected = "F32 has no integer form")]
fn floats_have_no_integer_form() {
    DType::F32.unpack_row(&[0; 4], &mut [0; 1], &mut [], &mut []);
}
