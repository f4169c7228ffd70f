//! Q5_K: 5-bit codes in groups of 32, with the scales and minimums of Q4_K.
//!
//! Bytes: 16 of scales and minimums, 32 of fifth bits (bit c of byte l belongs to element
//! 32 c + l), 128 of lower bits as in Q4_K.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, high_nibbles, low_nibbles, spread_nibbles};
use super::q4_k::{unpack_scales, unpack_scales_rows};

/// A block of Q5_K.
pub(super) struct Q5K;

impl Block for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };
    const OFFSET: Option<u8> = Some(0);
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        unpack_scales(&bytes[..16], scales, mins);
        let (high_bits, codes) = (&bytes[16..48], &bytes[48..176]);
        for (codes, q) in codes.chunks_exact(32).zip(q.chunks_exact_mut(64)) {
            spread_nibbles(codes, q, |code| code as i8);
        }
        for (c, q) in q.chunks_exact_mut(32).enumerate() {
            for (&byte, q) in high_bits.iter().zip(q) {
                *q += ((byte >> c & 1) << 4) as i8;
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        unpack_scales_rows(s, rows, stride, out);
        let fifths = [
            out.load(s, &rows[16..], stride),
            out.load(s, &rows[32..], stride),
        ];
        for pair in 0..4 {
            out.part(s, Self::BYTES / 8);
            let codes = [
                out.load(s, &rows[48 + 32 * pair..], stride),
                out.load(s, &rows[64 + 32 * pair..], stride),
            ];
            let (mut low, mut high) = (codes, codes);
            for half in 0..2 {
                (low[half], high[half]) =
                    (low_nibbles(s, codes[half]), high_nibbles(s, codes[half]));
                for (i, fifths) in fifths[half].into_iter().enumerate() {
                    let of_low = s.and(s.shr(fifths, 2 * pair as u32), s.splat_i8(1));
                    let of_high = s.and(s.shr(fifths, 2 * pair as u32 + 1), s.splat_i8(1));
                    low[half][i] = s.or(low[half][i], s.shl(of_low, 4));
                    high[half][i] = s.or(high[half][i], s.shl(of_high, 4));
                }
            }
            out.put_loaded(s, 2 * pair, low);
            out.part(s, Self::BYTES / 8);
            out.put_loaded(s, 2 * pair + 1, high);
        }
    }
}
