//! IQ2_S: grid codes of 10 bits for 8 elements in groups of 16, with a sign bit per element.
//!
//! Bytes: f16 factor, 32 of lower bits of the codes, 32 of signs, 8 of upper bits of the codes (two
//! bits each), 8 of scales of 4 bits.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at};
use super::iq_grids::{
    self, codes_of, place, put_quarter_scales, put_two_of_eight, quarter_scales,
};

/// A block of IQ2_S.
pub(super) struct IQ2S;

impl Block for IQ2S {
    const LEN: usize = 256;
    const BYTES: usize = 82;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const HAS_SIGN_BITS: bool = true;
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(64);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (low_bits, signs, high_bits) = (&bytes[2..34], &bytes[34..66], &bytes[66..74]);
        quarter_scales(f16_at(bytes, 0), &bytes[74..82], scales);
        for (i, q) in q.chunks_exact_mut(8).enumerate() {
            let high = high_bits[i / 4] >> (2 * (i % 4)) & 3;
            let code = usize::from(low_bits[i]) | usize::from(high) << 8;
            place(&iq_grids::IQ2_S.values[code], signs[i], q);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        let [h0, h1, s0, s1] = s.load_rows(&rows[66..], stride);
        put_quarter_scales(s, d, [s0, s1], out);
        for (four, high) in [h0, h1].into_iter().enumerate() {
            let low = s.load_rows(&rows[2 + 16 * four..], stride);
            let signs = s.load_rows(&rows[34 + 16 * four..], stride);
            for (i, (low, signs)) in low.into_iter().zip(signs).enumerate() {
                // Above the low bits.
                let high = s.shl(s.shr(high, 8 * i as u32), 8);
                for half in 0..2 {
                    let mut parts = [(low, signs); 2];
                    for (j, (code, signs)) in (2 * half..).zip(&mut parts) {
                        *code = codes_of(s, s.shr(*code, 8 * j), s.shr(high, 2 * j));
                        *signs = s.shr(*signs, 8 * j);
                    }
                    put_two_of_eight(
                        s,
                        &iq_grids::IQ2_S,
                        parts,
                        (8 * four + 2 * i + half as usize, &mut *out),
                    );
                }
            }
        }
    }
}
