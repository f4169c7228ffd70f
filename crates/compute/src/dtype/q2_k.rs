//! Q2_K: 2-bit codes in groups of 16, whose 4-bit scales and minimums share two f16 factors.
//!
//! Bytes: 16 of scale (low half) and minimum (high half), 64 of codes, f16 factor of the scales,
//! f16 factor of the minimums. Each 32 bytes of codes hold 128 elements, two bits at a time.

use super::block::{Block, Form, f16_at, spread_pairs};

/// A block of Q2_K.
pub(super) struct Q2K;

impl Block for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: true,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, d_min) = (f16_at(bytes, 80), f16_at(bytes, 82));
        for (&byte, (scale, min)) in bytes[..16].iter().zip(scales.iter_mut().zip(mins)) {
            *scale = d * f32::from(byte & 0x0f);
            *min = -(d_min * f32::from(byte >> 4));
        }
        for (codes, q) in bytes[16..80].chunks_exact(32).zip(q.chunks_exact_mut(128)) {
            spread_pairs(codes, q, |code| code as i8);
        }
    }
}
