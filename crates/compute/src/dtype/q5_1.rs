//! Q5_1: 5-bit codes, one scale and one minimum for 32 elements.
//!
//! Bytes: f16 scale, f16 minimum, 32 fifth bits in the order of the elements, 16 bytes of lower
//! bits.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, put_fifths, spread_nibbles};

/// A block of Q5_1.
pub(super) struct Q5_1;

impl Block for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };
    const OFFSET: Option<u8> = Some(0);
    const MAX: u8 = 31;
    const F16_HEADER: usize = 2;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[8..], q, |code| code as i8);
        for (&byte, q) in bytes[4..8].iter().zip(q.chunks_exact_mut(8)) {
            for (bit, q) in q.iter_mut().enumerate() {
                *q += ((byte >> bit & 1) << 4) as i8;
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let [header, fifths, ..] = s.load_rows(rows, stride);
        out.put_scale(s, 0, s.f16_to_f32(header));
        out.put_min(s, 0, s.f16_to_f32(s.shr(header, 16)));
        let codes = s.load_rows(&rows[8..], stride);
        put_fifths(s, codes, fifths, out);
    }
}
