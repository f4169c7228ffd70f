//! IQ1_M: grid codes of 11 bits for 8 elements, each shifted by plus or minus 1/8, in groups of 16.
//!
//! Bytes: 32 of lower bits of the codes, 16 with, in each half, the upper three bits of a code and the
//! sign of its shift, and four times 16 bits: four scales of 3 bits and, on top, four bits of the f16
//! factor.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_to_f32, u16_at};
use super::iq_grids::{codes_of, place_shifted, two_shifted};

/// A block of IQ1_M.
pub(super) struct IQ1M;

impl Block for IQ1M {
    const LEN: usize = 256;
    const BYTES: usize = 56;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(16);
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (low_bits, high_bits) = (&bytes[..32], &bytes[32..48]);
        let words = [48, 50, 52, 54].map(|at| u16_at(bytes, at));
        let factor = words
            .iter()
            .rev()
            .fold(0, |factor, word| factor << 4 | word >> 12);
        let d = f16_to_f32(factor);
        for (g, scale) in scales.iter_mut().enumerate() {
            let code = words[g / 4] >> (3 * (g % 4)) & 7;
            *scale = d * f32::from(2 * code + 1) * 0.125;
        }
        for (i, q) in q.chunks_exact_mut(8).enumerate() {
            let high = high_bits[i / 2] >> (4 * (i % 2));
            let code = usize::from(low_bits[i]) | usize::from(high & 7) << 8;
            place_shifted(code, high & 8 != 0, q);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let [_, _, w0, w1] = s.load_rows(&rows[40..], stride);
        let mut factor = s.splat_i32(0);
        for (i, (word, shift)) in (0..).zip([(w0, 12), (w0, 28), (w1, 12), (w1, 28)]) {
            let nibble = s.and(s.shr(word, shift), s.splat_i32(0x0f));
            factor = s.or(factor, s.shl(nibble, 4 * i));
        }
        let d = s.f16_to_f32(factor);
        for g in 0..16 {
            let word = if g < 8 { w0 } else { w1 };
            let code = s.and(s.shr(word, 16 * (g / 4 % 2) + 3 * (g % 4)), s.splat_i32(7));
            let scale = s.fma(s.to_f32(code), s.splat(2.0), s.splat(1.0));
            out.put_scale(s, g as usize, s.mul(s.mul(d, scale), s.splat(0.125)));
        }
        let high = s.load_rows(&rows[32..], stride);
        for four in 0..2 {
            let low = s.load_rows(&rows[16 * four..], stride);
            for (i, low) in low.into_iter().enumerate() {
                let high = s.shr(high[2 * four + i / 2], (16 * (i % 2)) as u32);
                let upper = s.shl(high, 8);
                for half in 0..2 {
                    let (mut codes, mut are_negative) = ([low; 2], [high; 2]);
                    let both = codes.iter_mut().zip(&mut are_negative);
                    for (j, (code, is_negative)) in (2 * half..).zip(both) {
                        *code = codes_of(s, s.shr(*code, 8 * j), s.shr(upper, 4 * j));
                        *is_negative = s.shl(high, 28 - 4 * j);
                    }
                    let q = two_shifted(s, codes, are_negative);
                    out.put(s, 8 * four + 2 * i + half as usize, q);
                }
            }
        }
    }
}
