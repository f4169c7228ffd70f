//! Q4_0: 4-bit codes around 8 and one scale for 32 elements.
//!
//! Bytes: f16 scale, 16 bytes of codes.

use super::block::{Block, Form, spread_nibbles};

/// A block of Q4_0.
pub(super) struct Q4_0;

impl Block for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[2..], q, |code| code as i8 - 8);
    }
}
