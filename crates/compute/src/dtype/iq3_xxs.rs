//! IQ3_XXS: grid codes of 8 bits for 4 elements in groups of 32.
//!
//! Bytes: f16 factor, 64 grid codes, then for each group 32 bits: four sign codes of 7 bits and, on
//! top, a scale of 4.

use super::block::{Block, Form, f16_at, u32_at};
use super::iq_grids::{self, place, signs_of};

/// A block of IQ3_XXS.
pub(super) struct IQ3XXS;

impl Block for IQ3XXS {
    const LEN: usize = 256;
    const BYTES: usize = 98;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(64);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (d, codes, packed) = (f16_at(bytes, 0), &bytes[2..66], &bytes[66..98]);
        let groups = codes
            .chunks_exact(8)
            .zip(packed.chunks_exact(4))
            .zip(q.chunks_exact_mut(32));
        for (((codes, packed), q), scale) in groups.zip(scales) {
            let signs = u32_at(packed, 0);
            *scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
            for (i, (codes, q)) in codes.chunks_exact(2).zip(q.chunks_exact_mut(8)).enumerate() {
                let signs = signs_of((signs >> (7 * i)) as u8);
                place(
                    &iq_grids::IQ3_XXS[usize::from(codes[0])],
                    signs,
                    &mut q[..4],
                );
                place(
                    &iq_grids::IQ3_XXS[usize::from(codes[1])],
                    signs >> 4,
                    &mut q[4..],
                );
            }
        }
    }
}
