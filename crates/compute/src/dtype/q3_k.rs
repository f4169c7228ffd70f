//! Q3_K: 3-bit codes around 4 in groups of 16, whose 6-bit scales around 32 share one f16 factor.
//!
//! Bytes: 32 of third bits (bit c of byte l belongs to element 32 c + l), 64 of lower bits as in
//! Q2_K, 12 of scales, f16 factor. Scale j has its lower four bits in half j / 8 of byte j % 8, and
//! its upper two in bits 2 (j / 4) of byte 8 + j % 4.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, factors_of_bytes, spread_pairs};

/// A block of Q3_K.
pub(super) struct Q3K;

impl Block for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(4);
    const MAX: u8 = 7;

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

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        for quarter in 0..2 {
            let thirds = s.load_rows(&rows[16 * quarter..], stride);
            for half in 0..2 {
                let codes = s.load_rows(&rows[32 + 32 * half + 16 * quarter..], stride);
                for plane in 0..4 {
                    let mut q = codes;
                    for (q, thirds) in q.iter_mut().zip(thirds) {
                        let third = s.and(s.shr(thirds, (4 * half + plane) as u32), s.splat_i8(1));
                        let pairs = s.and(s.shr(*q, 2 * plane as u32), s.splat_i8(3));
                        *q = s.or(pairs, s.shl(third, 2));
                    }
                    out.put(s, 8 * half + 2 * plane + quarter, q);
                }
            }
        }
        // Behind the products, for which there are few registers.
        let d = factors_of_bytes(s, s.load_f16_rows_behind(&rows[106..], stride));
        let [_, a, b, upper] = s.load_rows(&rows[92..], stride);
        let nibbles = s.splat_i8(0x0f);
        let lower = [
            s.and(a, nibbles),
            s.and(b, nibbles),
            s.and(s.shr(a, 4), nibbles),
            s.and(s.shr(b, 4), nibbles),
        ];
        for (c, lower) in lower.into_iter().enumerate() {
            let pairs = s.and(s.shr(upper, 2 * c as u32), s.splat_i8(3));
            let scales = s.or(lower, s.shl(pairs, 4));
            for (j, d) in d.into_iter().enumerate() {
                // A byte where it is, 2^(8 j) times as large.
                let place = 1u32 << (8 * j);
                let code = s.to_f32(s.and(scales, s.splat_i32(0xff << (8 * j))));
                let scale = s.fma(code, s.splat(1.0), s.splat(-32.0 * place as f32));
                out.put_scale(s, 4 * c + j, s.mul(d, scale));
            }
        }
    }
}
