//! IQ4_NL: 4-bit codes into a table of uneven steps and one scale for 32 elements.
//!
//! Bytes: f16 scale, 16 bytes of codes.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, high_nibbles, look_up, low_nibbles, spread_nibbles};

/// A block of IQ4_NL.
pub(super) struct IQ4NL;

impl Block for IQ4NL {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[2..], q, |code| UNEVEN_STEPS[usize::from(code)]);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        out.put_scale(s, 0, s.load_f16_rows(rows, stride));
        let codes = s.load_rows(&rows[2..], stride);
        out.put_signed(s, 0, look_up(s, &UNEVEN_STEPS, low_nibbles(s, codes)));
        out.put_signed(s, 1, look_up(s, &UNEVEN_STEPS, high_nibbles(s, codes)));
    }
}

/// The values that the codes stand for: denser around zero, where most weights are.
pub const UNEVEN_STEPS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
