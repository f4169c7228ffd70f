//! Tests that range over the table: a new row is covered by existing.

use super::{DType, Form, f32_to_f16};

/// A hash of the values of 50 random blocks of each type: what the types read, as found equal to
/// the other readers of the format by `scripts/compare_dtypes.py`.
const GOLDEN: &[(DType, u64)] = &[
    (DType::F32, 0x470a_faf4_787b_b355),
    (DType::F16, 0xabf9_c71b_fc66_19ad),
    (DType::BF16, 0x48ee_e864_d4de_79ad),
    (DType::F64, 0x661a_dafe_a5e0_d32b),
    (DType::I8, 0x0de4_245e_bc79_79ad),
    (DType::I16, 0xad9e_8933_ca44_49ad),
    (DType::I32, 0x0f3f_a10e_20ba_0192),
    (DType::I64, 0x65b6_00f2_f3bf_47a9),
    (DType::Q4_0, 0x812c_7840_c4e8_7be5),
    (DType::Q4_1, 0x8980_1666_8d05_d0d1),
    (DType::Q5_0, 0x8199_b3b5_da10_55e5),
    (DType::Q5_1, 0xca5f_40fb_fb48_173c),
    (DType::Q8_0, 0xcdfc_6b05_9fc2_3125),
    (DType::Q8_1, 0x7689_71ed_4f42_0de5),
    (DType::Q2K, 0x6d32_38d1_73fe_355d),
    (DType::Q3K, 0xf11e_b408_20da_97e5),
    (DType::Q4K, 0x347a_4e7e_9576_0780),
    (DType::Q5K, 0x066a_fd74_b739_ad33),
    (DType::Q6K, 0x195f_08d8_9d26_8ff9),
    (DType::Q8K, 0x70d5_ded9_2ac0_02b3),
    (DType::IQ2XXS, 0xe26e_7b35_bb64_fb5d),
    (DType::IQ2XS, 0xdb7b_8254_dd4b_416d),
    (DType::IQ2S, 0x0384_f8b7_10e8_03b9),
    (DType::IQ3XXS, 0x1080_d9bf_eb69_71f5),
    (DType::IQ3S, 0xd4ec_3c3f_878a_0165),
    (DType::IQ1S, 0x3960_f8cf_2c0e_bf85),
    (DType::IQ1M, 0x7567_caf2_f867_3c25),
    (DType::IQ4NL, 0x8fe7_be73_6364_6ba5),
    (DType::IQ4XS, 0xf731_a710_fc9d_e013),
    (DType::TQ1_0, 0xa8ee_8d0b_bfc3_8825),
    (DType::TQ2_0, 0x0155_4885_86ec_a825),
    (DType::MXFP4, 0x2839_3666_af1e_8025),
    (DType::NVFP4, 0x0c55_d2d7_cacf_dd25),
    (DType::Q1_0, 0x2c8a_0ba8_e7a4_b625),
    (DType::Q2_0, 0xbaf9_dbcf_1d84_0ca5),
];

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
fn every_f16_is_read_exactly() {
    for bits in 0..=u16::MAX {
        let mut out = [0.0];
        DType::F16.dequantize_row(&bits.to_le_bytes(), &mut out);
        let want = half::f16::from_bits(bits).to_f32();
        assert!(
            out[0].to_bits() == want.to_bits() || out[0].is_nan() && want.is_nan(),
            "{bits:#x}"
        );
    }
}

#[test]
fn the_values_are_those_of_the_format() {
    for &dtype in DType::ALL {
        let mut row = vec![0.0; 50 * dtype.block_len()];
        dtype.dequantize_row(&random_bytes(50 * dtype.block_bytes(), 42), &mut row);
        let bits = row
            .iter()
            .map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() });
        // FNV-1a, over words.
        let hash = bits.fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
            (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3)
        });
        let golden = GOLDEN.iter().find(|(golden, _)| *golden == dtype);
        assert_eq!(golden, Some(&(dtype, hash)), "{dtype}: {hash:#018x}");
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

#[test]
fn halves_are_made_as_the_half_crate_makes_them() {
    for bits in (0..=u32::MAX).step_by(997) {
        let x = f32::from_bits(bits);
        let (got, want) = (f32_to_f16(x), half::f16::from_f32(x));
        assert!(
            got == want.to_bits() || (x.is_nan() && want.is_nan()),
            "{x:e}: {got:#x}"
        );
    }
}
