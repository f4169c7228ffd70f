//! IQ2_XS: grid codes of 9 bits for 8 elements in groups of 16.
//!
//! Bytes: f16 factor, 32 pairs of a grid code (9 bits) and, above it, a sign code (7 bits), 8 of scales
//! of 4 bits.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at};
use super::iq_grids::{
    self, place, put_quarter_scales, put_two_of_eight, quarter_scales, signs_of,
};

/// A block of IQ2_XS.
pub(super) struct IQ2XS;

impl Block for IQ2XS {
    const LEN: usize = 256;
    const BYTES: usize = 74;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const HAS_SIGN_BITS: bool = true;
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(64);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        quarter_scales(f16_at(bytes, 0), &bytes[66..74], scales);
        for (pair, q) in bytes[2..66].chunks_exact(2).zip(q.chunks_exact_mut(8)) {
            let code = usize::from(pair[0]) | usize::from(pair[1] & 1) << 8;
            place(&iq_grids::IQ2_XS.values[code], signs_of(pair[1] >> 1), q);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        let [_, _, s0, s1] = s.load_rows(&rows[58..], stride);
        put_quarter_scales(s, d, [s0, s1], out);
        for four in 0..4 {
            let pairs = s.load_rows(&rows[2 + 16 * four..], stride);
            for (i, pairs) in pairs.into_iter().enumerate() {
                // Codes in bits 0 to 9 and 16 to 25; the upper bytes become signs.
                let signs = s.with_parity(s.and(s.shr(pairs, 1), s.splat_i32(0x7f00_7f00)));
                let first = (pairs, s.shr(signs, 8));
                let second = (s.shr(pairs, 16), s.shr(signs, 24));
                put_two_of_eight(
                    s,
                    &iq_grids::IQ2_XS,
                    [first, second],
                    (4 * four + i, &mut *out),
                );
            }
        }
    }
}
