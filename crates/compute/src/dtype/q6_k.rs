//! Q6_K: 6-bit codes around 32 in groups of 16, whose 8-bit scales share one f16 factor.
//!
//! Bytes: 128 of lower bits, 64 of upper bits, 16 signed scales, f16 factor. Each half of the block
//! takes 64 bytes of lower bits (all low halves first, then all high halves) and 32 of upper bits
//! (two bits at a time).

use super::block::{Block, Form, f16_at, spread_nibbles};

/// A block of Q6_K.
pub(super) struct Q6K;

impl Block for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let d = f16_at(bytes, 208);
        for (&byte, scale) in bytes[192..208].iter().zip(scales) {
            *scale = d * f32::from(byte as i8);
        }
        let low_bits = bytes[..128].chunks_exact(64);
        let high_bits = bytes[128..192].chunks_exact(32);
        for ((low_bits, high_bits), q) in low_bits.zip(high_bits).zip(q.chunks_exact_mut(128)) {
            spread_nibbles(low_bits, q, |code| code as i8 - 32);
            for (c, q) in q.chunks_exact_mut(32).enumerate() {
                for (&byte, q) in high_bits.iter().zip(q) {
                    *q += ((byte >> (2 * c) & 3) << 4) as i8;
                }
            }
        }
    }
}
