//! TQ2_0: 2-bit codes around 1 and one scale for 256 elements, made for -1, 0 and 1.
//!
//! Bytes: 64 of codes, f16 scale. Each 32 bytes of codes hold 128 elements, two bits at a time.

use super::block::{Block, Form, f16_at, spread_pairs};

/// A block of TQ2_0.
pub(super) struct TQ2_0;

impl Block for TQ2_0 {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(1);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 64));
        for (codes, q) in bytes[..64].chunks_exact(32).zip(q.chunks_exact_mut(128)) {
            spread_pairs(codes, q, |code| code as i8 - 1);
        }
    }
}
