//! Q4_0: 4-bit codes around 8 and one scale for 32 elements.
//!
//! Bytes: f16 scale, 16 bytes of codes.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, both_nibbles, f32_to_f16, spread_nibbles};

/// A block of Q4_0.
pub(super) struct Q4_0;

impl Block for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(8);
    const MAX: u8 = 15;
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[2..], q, |code| code as i8 - 8);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        out.put_scale(s, 0, s.load_f16_rows(rows, stride));
        let codes = out.load(s, &rows[2..], stride);
        out.put_loaded(s, 0, both_nibbles(s, codes));
    }
}

/// The scale, an f16, and the codes of a block: with m the first of the numbers that are largest in
/// size, `d = m / -8`, so that m itself has the code 0, and the code of x is `x / d + 8` to the
/// nearest integer, at most 15. A NaN gets the code 0.
#[inline(always)]
pub(crate) fn quantize(x: &[f32; 32]) -> (u16, [u8; 32]) {
    let mut max = 0.0f32;
    for x in x {
        max = if x.abs() > max.abs() { *x } else { max };
    }
    let d = max / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(x) {
        // Cut off after adding a half: to nearest, since no sum is below zero.
        *code = ((x * inverse + 8.5) as u8).min(15);
    }
    (f32_to_f16(d), codes)
}
