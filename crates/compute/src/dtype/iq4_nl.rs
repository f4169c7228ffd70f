//! IQ4_NL: 4-bit codes into a table of uneven steps and one scale for 32 elements.
//!
//! Bytes: f16 scale, 16 bytes of codes.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, look_both_up, spread_nibbles, table_with_offset};

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
        let codes = out.load(s, &rows[2..], stride);
        let table = const { &table_with_offset::<S>(UNEVEN_STEPS) };
        out.put_loaded(s, 0, look_both_up(s, table, codes));
    }
}

/// The values that the codes stand for: denser around zero, where most weights are.
pub const UNEVEN_STEPS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
