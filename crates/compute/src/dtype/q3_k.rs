//! Q3_K: 3-bit codes around 4 in groups of 16, whose 6-bit scales around 32 share one f16 factor.
//!
//! Bytes: 32 of third bits (bit c of byte l belongs to element 32 c + l), 64 of lower bits as in
//! Q2_K, 12 of scales, f16 factor. Scale j has its lower four bits in half j / 8 of byte j % 8, and
//! its upper two in bits 2 (j / 4) of byte 8 + j % 4.

use super::block::{Block, Form, f16_at, spread_pairs};

/// A block of Q3_K.
pub(super) struct Q3K;

impl Block for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (high_bits, codes, packed_scales) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
        let d = f16_at(bytes, 108);
        for (j, scale) in scales.iter_mut().enumerate() {
            let low = packed_scales[j % 8] >> (4 * (j / 8)) & 0x0f;
            let high = packed_scales[8 + j % 4] >> (2 * (j / 4)) & 3;
            *scale = d * f32::from((low | high << 4) as i8 - 32);
        }
        for (codes, q) in codes.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
            spread_pairs(codes, q, |code| code as i8 - 4);
        }
        for (c, q) in q.chunks_exact_mut(32).enumerate() {
            for (&byte, q) in high_bits.iter().zip(q) {
                *q += ((byte >> c & 1) << 2) as i8;
            }
        }
    }
}
