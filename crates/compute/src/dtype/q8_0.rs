//! Q8_0: 8-bit numbers and one scale for 32 elements.
//!
//! Bytes: f16 scale, 32 signed bytes.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, copy_signed, f32_to_f16, with_offset};

/// A block of Q8_0.
pub(super) struct Q8_0;

impl Block for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        copy_signed(&bytes[2..], q);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        out.put_scale(s, 0, s.load_f16_rows(rows, stride));
        let (first, second) = (
            out.load(s, &rows[2..], stride),
            out.load(s, &rows[18..], stride),
        );
        out.put_loaded(s, 0, [with_offset(s, first), with_offset(s, second)]);
    }
}

/// The scale, an f16, and the numbers of a block: `d = max |x| / 127`, `q = x / d` to the nearest
/// integer, halves away from zero. A NaN becomes 0.
#[inline(always)]
pub(crate) fn quantize(x: &[f32; 32]) -> (u16, [i8; 32]) {
    let mut max = 0.0f32;
    for x in x {
        max = if x.abs() > max { x.abs() } else { max };
    }
    let d = max / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut q = [0; 32];
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse).round() as i8;
    }
    (f32_to_f16(d), q)
}
