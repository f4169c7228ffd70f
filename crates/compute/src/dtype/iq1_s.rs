//! IQ1_S: grid codes of 11 bits for 8 elements in groups of 32, all shifted by plus or minus 1/8.
//!
//! Bytes: f16 factor, 32 of lower bits of the codes, then for each group 16 bits: the upper three bits
//! of its four codes, a scale of 3 bits and, on top, the sign of the shift.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, u16_at};
use super::iq_grids::{codes_of, place_shifted, two_shifted};

/// A block of IQ1_S.
pub(super) struct IQ1S;

impl Block for IQ1S {
    const LEN: usize = 256;
    const BYTES: usize = 50;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(16);
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (d, low_bits) = (f16_at(bytes, 0), &bytes[2..34]);
        let groups = low_bits
            .chunks_exact(4)
            .zip(q.chunks_exact_mut(32))
            .zip(scales);
        for (g, ((low_bits, q), scale)) in groups.enumerate() {
            let packed = u16_at(bytes, 34 + 2 * g);
            *scale = d * f32::from(2 * (packed >> 12 & 7) + 1) * 0.125;
            for (i, (&low, q)) in low_bits.iter().zip(q.chunks_exact_mut(8)).enumerate() {
                let code = usize::from(low) | usize::from(packed >> (3 * i) & 7) << 8;
                place_shifted(code, packed & 0x8000 != 0, q);
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        let packed = s.load_rows(&rows[34..], stride);
        for four in 0..2 {
            let low = s.load_rows(&rows[2 + 16 * four..], stride);
            for (i, low) in low.into_iter().enumerate() {
                let g = 4 * four + i;
                let packed = s.shr(packed[g / 2], (16 * (g % 2)) as u32);
                let code = s.and(s.shr(packed, 12), s.splat_i32(7));
                let scale = s.fma(s.to_f32(code), s.splat(2.0), s.splat(1.0));
                out.put_scale(s, g, s.mul(s.mul(d, scale), s.splat(0.125)));
                let (is_negative, upper) = (s.shl(packed, 16), s.shl(packed, 8));
                for half in 0..2 {
                    let mut codes = [low; 2];
                    for (j, code) in (2 * half..).zip(&mut codes) {
                        *code = codes_of(s, s.shr(*code, 8 * j), s.shr(upper, 3 * j));
                    }
                    let q = two_shifted(s, codes, [is_negative; 2]);
                    out.put(s, 2 * g + half as usize, q);
                }
            }
        }
    }
}
