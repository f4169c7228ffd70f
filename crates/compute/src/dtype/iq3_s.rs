//! IQ3_S: grid codes of 9 bits for 4 elements in groups of 32, with a sign bit per element.
//!
//! Bytes: f16 factor, 64 of lower bits of the codes, 8 of their ninth bits, 32 of signs, 4 of scales of
//! 4 bits.

use super::block::{Block, Form, f16_at};
use super::iq_grids::{self, place};

/// A block of IQ3_S.
pub(super) struct IQ3S;

impl Block for IQ3S {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(16);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (low_bits, high_bits, signs) = (&bytes[2..66], &bytes[66..74], &bytes[74..106]);
        let d = f16_at(bytes, 0);
        for (g, scale) in scales.iter_mut().enumerate() {
            let code = bytes[106 + g / 2] >> (4 * (g % 2)) & 0x0f;
            *scale = d * f32::from(1 + 2 * code);
        }
        for (i, q) in q.chunks_exact_mut(4).enumerate() {
            let high = high_bits[i / 8] >> (i % 8) & 1;
            let code = usize::from(low_bits[i]) | usize::from(high) << 8;
            place(&iq_grids::IQ3_S[code], signs[i / 2] >> (4 * (i % 2)), q);
        }
    }
}
