//! IQ3_S: grid codes of 9 bits for 4 elements in groups of 32, with a sign bit per element.
//!
//! Bytes: f16 factor, 64 of lower bits of the codes, 8 of their ninth bits, 32 of signs, 4 of scales of
//! 4 bits.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at};
use super::iq_grids::{self, codes_of, place, put_four_of_four};

/// A block of IQ3_S.
pub(super) struct IQ3S;

impl Block for IQ3S {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_SIGN_BITS: bool = true;
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(16);
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (low_bits, high_bits, signs) = (&bytes[2..66], &bytes[66..74], &bytes[74..106]);
        let d = f16_at(bytes, 0);
        for (g, scale) in scales.iter_mut().enumerate() {
            let code = bytes[106 + g / 2] >> (4 * (g % 2)) & 0x0f;
            *scale = d * f32::from(1 + 2 * code);
        }
        for (i, q) in q.chunks_exact_mut(4).enumerate() {
            let high = high_bits[i / 8] >> (i % 8) & 1;
            let code = usize::from(low_bits[i]) | usize::from(high) << 8;
            place(
                &iq_grids::IQ3_S.values[code],
                signs[i / 2] >> (4 * (i % 2)),
                q,
            );
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        let [h0, h1, s0, s1] = s.load_rows(&rows[66..], stride);
        let [s2, s3, s4, s5] = s.load_rows(&rows[82..], stride);
        let [_, s6, s7, scales] = s.load_rows(&rows[94..], stride);
        for g in 0..8 {
            let code = s.and(s.shr(scales, 4 * g), s.splat_i32(0x0f));
            let scale = s.fma(s.to_f32(code), s.splat(2.0), s.splat(1.0));
            out.put_scale(s, g as usize, s.mul(d, scale));
        }
        let signs = [s0, s1, s2, s3, s4, s5, s6, s7];
        for pair in 0..4 {
            let codes = s.load_rows(&rows[2 + 16 * pair..], stride);
            for (i, codes) in codes.into_iter().enumerate() {
                // Ninth bits, above the low ones, and signs of 16 elements.
                let c = 4 * pair + i;
                let high = s.shl(s.shr(if c < 8 { h0 } else { h1 }, (4 * c % 32) as u32), 8);
                let signs = s.shr(signs[c / 2], (16 * (c % 2)) as u32);
                let mut q = [codes; 4];
                for (j, q) in (0..).zip(&mut q) {
                    *q = codes_of(s, s.shr(*q, 8 * j), s.shr(high, j));
                }
                put_four_of_four(s, &iq_grids::IQ3_S, (q, signs), 16, (c, &mut *out));
            }
        }
    }
}
