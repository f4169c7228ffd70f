//! Q5_K: 5-bit codes in groups of 32, with the scales and minimums of Q4_K.
//!
//! Bytes: 16 of scales and minimums, 32 of fifth bits (bit c of byte l belongs to element
//! 32 c + l), 128 of lower bits as in Q4_K.

use super::block::{Block, Form, spread_nibbles};
use super::q4_k::unpack_scales;

/// A block of Q5_K.
pub(super) struct Q5K;

impl Block for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };

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
}
