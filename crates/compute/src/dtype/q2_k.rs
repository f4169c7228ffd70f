//! Q2_K: 2-bit codes in groups of 16, whose 4-bit scales and minimums share two f16 factors.
//!
//! Bytes: 16 of scale (low half) and minimum (high half), 64 of codes, f16 factor of the scales,
//! f16 factor of the minimums. Each 32 bytes of codes hold 128 elements, two bits at a time.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, factors_of_bytes, spread_pairs, times_byte};

/// A block of Q2_K.
pub(super) struct Q2K;

impl Block for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: true,
    };
    const OFFSET: Option<u8> = Some(0);
    const MAX: u8 = 3;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, d_min) = (f16_at(bytes, 80), f16_at(bytes, 82));
        for (&byte, (scale, min)) in bytes[..16].iter().zip(scales.iter_mut().zip(mins)) {
            *scale = d * f32::from(byte & 0x0f);
            *min = -(d_min * f32::from(byte >> 4));
        }
        for (codes, q) in bytes[16..80].chunks_exact(32).zip(q.chunks_exact_mut(128)) {
            spread_pairs(codes, q, |code| code as i8);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        for half in 0..2 {
            for quarter in 0..2 {
                let codes = s.load_rows(&rows[16 + 32 * half + 16 * quarter..], stride);
                for plane in 0..4 {
                    let mut pairs = codes;
                    for pairs in &mut pairs {
                        *pairs = s.and(s.shr(*pairs, 2 * plane as u32), s.splat_i8(3));
                    }
                    out.put(s, 8 * half + 2 * plane + quarter, pairs);
                }
            }
        }
        // Behind the products, for which there are few registers.
        let factors = s.load_four_of_rows(&rows[80..], stride);
        let (d, d_min) = (s.f16_to_f32(factors), s.f16_to_f32(s.shr(factors, 16)));
        let (d, d_min) = (
            factors_of_bytes(s, d),
            factors_of_bytes(s, s.mul(d_min, s.splat(-1.0))),
        );
        for (c, packed) in s.load_rows(rows, stride).into_iter().enumerate() {
            let scales = s.and(packed, s.splat_i8(0x0f));
            let mins = s.and(s.shr(packed, 4), s.splat_i8(0x0f));
            for j in 0..4 {
                out.put_scale(s, 4 * c + j, times_byte(s, &d, scales, j));
                out.put_min(s, 4 * c + j, times_byte(s, &d_min, mins, j));
            }
        }
    }
}
