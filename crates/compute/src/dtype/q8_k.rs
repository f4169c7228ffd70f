//! Q8_K: 8-bit numbers and one f32 scale for 256 elements.
//!
//! Bytes: f32 scale, 256 signed bytes, 16 sums of 16 elements each. The sums serve dot products; the
//! values do not depend on them.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, copy_signed, u32_at, with_offset};

/// A block of Q8_K.
pub(super) struct Q8K;

impl Block for Q8K {
    const LEN: usize = 256;
    const BYTES: usize = 292;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f32::from_bits(u32_at(bytes, 0)));
        copy_signed(&bytes[4..260], q);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.float_of(s.load_four_of_rows(rows, stride));
        for g in 0..8 {
            out.put_scale(s, g, d);
        }
        for g in 0..8 {
            out.part(s, Self::BYTES / 8);
            let (first, second) = (
                out.load(s, &rows[4 + 32 * g..], stride),
                out.load(s, &rows[20 + 32 * g..], stride),
            );
            out.put_loaded(s, g, [with_offset(s, first), with_offset(s, second)]);
        }
    }
}
