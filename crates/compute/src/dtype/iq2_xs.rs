//! IQ2_XS: grid codes of 9 bits for 8 elements in groups of 16.
//!
//! Bytes: f16 factor, 32 pairs of a grid code (9 bits) and, above it, a sign code (7 bits), 8 of scales
//! of 4 bits.

use super::block::{Block, Form, f16_at};
use super::iq_grids::{self, place, quarter_scales, signs_of};

/// A block of IQ2_XS.
pub(super) struct IQ2XS;

impl Block for IQ2XS {
    const LEN: usize = 256;
    const BYTES: usize = 74;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(64);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        quarter_scales(f16_at(bytes, 0), &bytes[66..74], scales);
        for (pair, q) in bytes[2..66].chunks_exact(2).zip(q.chunks_exact_mut(8)) {
            let code = usize::from(pair[0]) | usize::from(pair[1] & 1) << 8;
            place(&iq_grids::IQ2_XS[code], signs_of(pair[1] >> 1), q);
        }
    }
}
