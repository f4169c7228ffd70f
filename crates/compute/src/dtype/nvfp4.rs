//! NVFP4: 4-bit floats (E2M1) in groups of 16, each with an 8-bit float scale (E4M3 without sign).
//!
//! Bytes: 4 scales, 32 of codes, 8 for each group.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, look_up, spread_nibbles};
use super::mxfp4::{DOUBLED_E2M1, OFFSET_E2M1};

/// A block of NVFP4.
pub(super) struct NVFP4;

impl Block for NVFP4 {
    const LEN: usize = 64;
    const BYTES: usize = 36;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(12);
    const MAX: u8 = 24;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let groups = bytes[4..].chunks_exact(8).zip(q.chunks_exact_mut(16));
        for ((&scale_code, scale), (codes, q)) in bytes[..4].iter().zip(scales).zip(groups) {
            *scale = half_e4m3(scale_code);
            spread_nibbles(codes, q, |code| DOUBLED_E2M1[usize::from(code)]);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let [scales, ..] = s.load_rows(rows, stride);
        for g in 0..4 {
            out.put_scale(s, g as usize, half_e4m3_rows(s, s.shr(scales, 8 * g)));
        }
        for pair in 0..2 {
            let [a, b, c, d] = s.load_rows(&rows[4 + 16 * pair..], stride);
            for (i, (a, b)) in [(a, b), (c, d)].into_iter().enumerate() {
                let nibbles = s.splat_i8(0x0f);
                let low = [s.and(a, nibbles), s.and(b, nibbles)];
                let high = [s.and(s.shr(a, 4), nibbles), s.and(s.shr(b, 4), nibbles)];
                let codes = [low[0], low[1], high[0], high[1]];
                out.put(s, 2 * pair + i, look_up(s, &OFFSET_E2M1, codes));
            }
        }
    }
}

/// Half the value of an E4M3 code: the scale of doubled codes. The eighth bit, the sign elsewhere,
/// is passed over; NaN (0x7f) counts as 0, but 0xff as a number.
#[inline(always)]
fn half_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(code >> 3 & 0x0f), f32::from(code & 7));
    if code == 0x7f {
        0.0
    } else if exponent == 0 {
        mantissa * power_of_two(-10)
    } else {
        (8.0 + mantissa) * power_of_two(exponent as i32 - 11)
    }
}

/// [`half_e4m3`] of the lowest byte of each lane.
#[inline(always)]
fn half_e4m3_rows<S: Simd>(s: S, codes: S::I) -> S::F {
    // As the bits of an f16 a code is 2^-8 times its value.
    let magnitude = s.shl(s.and(codes, s.splat_i32(0x7f)), 7);
    let half = s.mul(s.f16_to_f32(magnitude), s.splat(128.0));
    // The eighth bit is set where a code is 0x7f: by a carry, and not by the code's own.
    let own = s.add_i8(codes, s.splat_i8(-128));
    let carry = s.add_i8(s.and(codes, s.splat_i32(0x7f)), s.splat_i32(1));
    let is_nan = s.shr(s.and(s.and(own, carry), s.splat_i32(0x80)), 7);
    s.mul(half, s.fma(s.to_f32(is_nan), s.splat(-1.0), s.splat(1.0)))
}

/// `2^exponent` for exponents of normal numbers.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
