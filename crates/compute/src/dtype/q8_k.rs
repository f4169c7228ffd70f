//! Q8_K: 8-bit numbers and one f32 scale for 256 elements.
//!
//! Bytes: f32 scale, 256 signed bytes, 16 sums of 16 elements each. The sums serve dot products; the
//! values do not depend on them.

use super::block::{Block, Form, copy_signed, u32_at};

/// A block of Q8_K.
pub(super) struct Q8K;

impl Block for Q8K {
    const LEN: usize = 256;
    const BYTES: usize = 292;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f32::from_bits(u32_at(bytes, 0)));
        copy_signed(&bytes[4..260], q);
    }
}
