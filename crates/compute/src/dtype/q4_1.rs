//! Q4_1: 4-bit codes, one scale and one minimum for 32 elements.
//!
//! Bytes: f16 scale, f16 minimum, 16 bytes of codes.

use super::block::{Block, Form, spread_nibbles};

/// A block of Q4_1.
pub(super) struct Q4_1;

impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };
    const F16_HEADER: usize = 2;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[4..], q, |code| code as i8);
    }
}
