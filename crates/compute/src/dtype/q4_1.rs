//! Q4_1: 4-bit codes, one scale and one minimum for 32 elements.
//!
//! Bytes: f16 scale, f16 minimum, 16 bytes of codes.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, high_nibbles, low_nibbles, spread_nibbles};

/// A block of Q4_1.
pub(super) struct Q4_1;

impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };
    const OFFSET: Option<u8> = Some(0);
    const MAX: u8 = 15;
    const F16_HEADER: usize = 2;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[4..], q, |code| code as i8);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        out.put_scale(s, 0, s.load_f16_rows(rows, stride));
        out.put_min(s, 0, s.load_f16_rows(&rows[2..], stride));
        let codes = s.load_rows(&rows[4..], stride);
        out.put(s, 0, low_nibbles(s, codes));
        out.put(s, 1, high_nibbles(s, codes));
    }
}
