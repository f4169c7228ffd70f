//! Q5_0: 5-bit codes around 16 and one scale for 32 elements.
//!
//! Bytes: f16 scale, 32 fifth bits in the order of the elements, 16 bytes of lower bits.

use super::block::{Block, Form, spread_nibbles};

/// A block of Q5_0.
pub(super) struct Q5_0;

impl Block for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const F16_HEADER: usize = 1;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[6..], q, |code| code as i8 - 16);
        for (&byte, q) in bytes[2..6].iter().zip(q.chunks_exact_mut(8)) {
            for (bit, q) in q.iter_mut().enumerate() {
                *q += ((byte >> bit & 1) << 4) as i8;
            }
        }
    }
}
