//! IQ2_XXS: grid codes of 8 bits for 8 elements in groups of 32.
//!
//! Bytes: f16 factor, then for each group 4 grid codes and 32 bits: four sign codes of 7 bits and, on
//! top, a scale of 4.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, u32_at};
use super::iq_grids::{self, place, put_two_of_eight, signs_of, signs_of_rows};

/// A block of IQ2_XXS.
pub(super) struct IQ2XXS;

impl Block for IQ2XXS {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_SIGN_BITS: bool = true;
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(64);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let d = f16_at(bytes, 0);
        let groups = bytes[2..].chunks_exact(8).zip(q.chunks_exact_mut(32));
        for ((packed, q), scale) in groups.zip(scales) {
            let (codes, signs) = (&packed[..4], u32_at(packed, 4));
            *scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
            for (i, (&code, q)) in codes.iter().zip(q.chunks_exact_mut(8)).enumerate() {
                let signs = signs_of((signs >> (7 * i)) as u8);
                place(&iq_grids::IQ2_XXS.values[usize::from(code)], signs, q);
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        for pair in 0..4 {
            let [c0, p0, c1, p1] = s.load_rows(&rows[2 + 16 * pair..], stride);
            for (i, (codes, packed)) in [(c0, p0), (c1, p1)].into_iter().enumerate() {
                let g = 2 * pair + i;
                let scale = s.fma(s.to_f32(s.shr(packed, 28)), s.splat(1.0), s.splat(0.5));
                out.put_scale(s, g, s.mul(s.mul(d, scale), s.splat(0.25)));
                let signs = signs_of_rows(s, packed);
                for half in 0..2 {
                    let (codes, signs) = (s.shr(codes, 16 * half), s.shr(signs, 16 * half));
                    let next = (s.shr(codes, 8), s.shr(signs, 8));
                    put_two_of_eight(
                        s,
                        &iq_grids::IQ2_XXS,
                        [(codes, signs), next],
                        (2 * g + half as usize, &mut *out),
                    );
                }
            }
        }
    }
}
