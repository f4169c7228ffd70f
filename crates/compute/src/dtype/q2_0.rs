//! Q2_0: 2-bit codes from -1 to 2 and one scale for 64 elements.
//!
//! Bytes: f16 scale, 16 bytes of codes in the order of the elements.

use super::block::{Block, Form, f16_at};

/// A block of Q2_0.
pub(super) struct Q2_0;

impl Block for Q2_0 {
    const LEN: usize = 64;
    const BYTES: usize = 18;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(1);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 0));
        for (&byte, q) in bytes[2..].iter().zip(q.chunks_exact_mut(4)) {
            for (i, q) in q.iter_mut().enumerate() {
                *q = (byte >> (2 * i) & 3) as i8 - 1;
            }
        }
    }
}
