//! Q8_1: 8-bit numbers, one scale and their scaled sum for 32 elements.
//!
//! Bytes: f16 scale, f16 sum times scale, 32 signed bytes. The sum serves dot products; the values do
//! not depend on it.

use super::block::{Block, Form, copy_signed, f16_at};

/// A block of Q8_1.
pub(super) struct Q8_1;

impl Block for Q8_1 {
    const LEN: usize = 32;
    const BYTES: usize = 36;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales[0] = f16_at(bytes, 0);
        copy_signed(&bytes[4..], q);
    }
}
