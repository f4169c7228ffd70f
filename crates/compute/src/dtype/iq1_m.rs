//! IQ1_M: grid codes of 11 bits for 8 elements, each shifted by plus or minus 1/8, in groups of 16.
//!
//! Bytes: 32 of lower bits of the codes, 16 with, in each half, the upper three bits of a code and the
//! sign of its shift, and four times 16 bits: four scales of 3 bits and, on top, four bits of the f16
//! factor.

use super::block::{Block, Form, f16_to_f32, u16_at};
use super::iq_grids::place_shifted;

/// A block of IQ1_M.
pub(super) struct IQ1M;

impl Block for IQ1M {
    const LEN: usize = 256;
    const BYTES: usize = 56;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(16);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (low_bits, high_bits) = (&bytes[..32], &bytes[32..48]);
        let words = [48, 50, 52, 54].map(|at| u16_at(bytes, at));
        let factor = words
            .iter()
            .rev()
            .fold(0, |factor, word| factor << 4 | word >> 12);
        let d = f16_to_f32(factor);
        for (g, scale) in scales.iter_mut().enumerate() {
            let code = words[g / 4] >> (3 * (g % 4)) & 7;
            *scale = d * f32::from(2 * code + 1) * 0.125;
        }
        for (i, q) in q.chunks_exact_mut(8).enumerate() {
            let high = high_bits[i / 2] >> (4 * (i % 2));
            let code = usize::from(low_bits[i]) | usize::from(high & 7) << 8;
            place_shifted(code, high & 8 != 0, q);
        }
    }
}
