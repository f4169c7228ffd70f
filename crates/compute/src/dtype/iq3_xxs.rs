//! IQ3_XXS: grid codes of 8 bits for 4 elements in groups of 32.
//!
//! Bytes: f16 factor, 64 grid codes, then for each group 32 bits: four sign codes of 7 bits and, on
//! top, a scale of 4.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, u32_at};
use super::iq_grids::{self, place, put_four_of_four, signs_of, signs_of_rows};

/// A block of IQ3_XXS.
pub(super) struct IQ3XXS;

impl Block for IQ3XXS {
    const LEN: usize = 256;
    const BYTES: usize = 98;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_SIGN_BITS: bool = true;
    const HAS_MANY_STEPS: bool = true;
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
                    &iq_grids::IQ3_XXS.values[usize::from(codes[0])],
                    signs,
                    &mut q[..4],
                );
                place(
                    &iq_grids::IQ3_XXS.values[usize::from(codes[1])],
                    signs >> 4,
                    &mut q[4..],
                );
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        for four in 0..2 {
            let packed = s.load_rows(&rows[66 + 16 * four..], stride);
            for (i, packed) in packed.into_iter().enumerate() {
                let g = 4 * four + i;
                let scale = s.fma(s.to_f32(s.shr(packed, 28)), s.splat(1.0), s.splat(0.5));
                out.put_scale(s, g, s.mul(s.mul(d, scale), s.splat(0.5)));
            }
            let mut signs = packed;
            for signs in &mut signs {
                *signs = signs_of_rows(s, *signs);
            }
            for pair in 0..2 {
                let codes = s.load_rows(&rows[2 + 32 * four + 16 * pair..], stride);
                for (i, codes) in codes.into_iter().enumerate() {
                    let signs = s.shr(signs[2 * pair + i / 2], (16 * (i % 2)) as u32);
                    let mut q = [codes; 4];
                    for (j, q) in (0..).zip(&mut q) {
                        *q = s.shr(*q, 8 * j);
                    }
                    let at = (8 * four + 4 * pair + i, &mut *out);
                    put_four_of_four(s, &iq_grids::IQ3_XXS, (q, signs), 64, at);
                }
            }
        }
    }
}
