//! Q8_0: 8-bit numbers and one scale for 32 elements.
//!
//! Bytes: f16 scale, 32 signed bytes.

use super::block::{Block, Form, copy_signed};

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
}
