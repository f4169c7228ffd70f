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
        for half in 0..2 {
            let fifths = s.load_rows(&rows[16 + 16 * half..], stride);
            for pair in 0..4 {
                if pair % 2 == 0 {
                    out.part(s, Self::BYTES / 4);
                }
                let codes = s.load_rows(&rows[48 + 32 * pair + 16 * half..], stride);
                let (mut low, mut high) = (low_nibbles(s, codes), high_nibbles(s, codes));
                for (i, fifths) in fifths.into_iter().enumerate() {
                    let of_low = s.and(s.shr(fifths, 2 * pair as u32), s.splat_i8(1));
                    let of_high = s.and(s.shr(fifths, 2 * pair as u32 + 1), s.splat_i8(1));
                    low[i] = s.or(low[i], s.shl(of_low, 4));
                    high[i] = s.or(high[i], s.shl(of_high, 4));
                }
                out.put(s, 4 * pair + half, low);
                out.put(s, 4 * pair + 2 + half, high);
            }
        }
    }
}
