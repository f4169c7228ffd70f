//! IQ2_S: grid codes of 10 bits for 8 elements in groups of 16, with a sign bit per element.
//!
//! Bytes: f16 factor, 32 of lower bits of the codes, 32 of signs, 8 of upper bits of the codes (two
//! bits each), 8 of scales of 4 bits.

use super::block::{Block, Form, f16_at};
use super::iq_grids::{self, place, quarter_scales};

/// A block of IQ2_S.
pub(super) struct IQ2S;

impl Block for IQ2S {
    const LEN: usize = 256;
    const BYTES: usize = 82;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(64);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (low_bits, signs, high_bits) = (&bytes[2..34], &bytes[34..66], &bytes[66..74]);
        quarter_scales(f16_at(bytes, 0), &bytes[74..82], scales);
        for (i, q) in q.chunks_exact_mut(8).enumerate() {
            let high = high_bits[i / 4] >> (2 * (i % 4)) & 3;
            let code = usize::from(low_bits[i]) | usize::from(high) << 8;
            place(&iq_grids::IQ2_S[code], signs[i], q);
        }
    }
}
