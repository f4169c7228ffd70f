//! NVFP4: 4-bit floats (E2M1) in groups of 16, each with an 8-bit float scale (E4M3 without sign).
//!
//! Bytes: 4 scales, 32 of codes, 8 for each group.

use super::block::{Block, Form, spread_nibbles};
use super::mxfp4::DOUBLED_E2M1;

/// A block of NVFP4.
pub(super) struct NVFP4;

impl Block for NVFP4 {
    const LEN: usize = 64;
    const BYTES: usize = 36;
    const FORM: Form = Form::Groups {
        group_len: 16,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(12);

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let groups = bytes[4..].chunks_exact(8).zip(q.chunks_exact_mut(16));
        for ((&scale_code, scale), (codes, q)) in bytes[..4].iter().zip(scales).zip(groups) {
            *scale = half_e4m3(scale_code);
            spread_nibbles(codes, q, |code| DOUBLED_E2M1[usize::from(code)]);
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

/// `2^exponent` for exponents of normal numbers.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
