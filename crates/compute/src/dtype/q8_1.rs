//! Q8_1: 8-bit numbers, one scale and their scaled sum for 32 elements.
//!
//! Bytes: f16 scale, f16 sum times scale, 32 signed bytes. The sum serves dot products; the values do
//! not depend on it.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, copy_signed, with_offset};

/// A block of Q8_1.
pub(super) struct Q8_1;

impl Block for Q8_1 {
    const LEN: usize = 32;
    const BYTES: usize = 36;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        copy_signed(&bytes[4..], q);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        out.put_scale(s, 0, s.load_f16_rows(rows, stride));
        let (first, second) = (
            out.load(s, &rows[4..], stride),
            out.load(s, &rows[20..], stride),
        );
        out.put_loaded(s, 0, [with_offset(s, first), with_offset(s, second)]);
    }
}
