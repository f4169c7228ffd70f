//! Q5_0: 5-bit codes around 16 and one scale for 32 elements.
//!
//! Bytes: f16 scale, 32 fifth bits in the order of the elements, 16 bytes of lower bits.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, put_fifths, spread_nibbles};

/// A block of Q5_0.
pub(super) struct Q5_0;

impl Block for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(16);
    const MAX: u8 = 31;
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[6..], q, |code| code as i8 - 16);
        for (&byte, q) in bytes[2..6].iter().zip(q.chunks_exact_mut(8)) {
            for (bit, q) in q.iter_mut().enumerate() {
                *q += ((byte >> bit & 1) << 4) as i8;
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let [head, next, ..] = s.load_rows(rows, stride);
        out.put_scale(s, 0, s.f16_to_f32(head));
        let fifths = s.or(s.shr(head, 16), s.shl(next, 16));
        let codes = s.load_rows(&rows[6..], stride);
        put_fifths(s, codes, fifths, out);
    }
}
