//! MXFP4: 4-bit floats (E2M1) and one power of two (E8M0) for 32 elements.
//!
//! Bytes: exponent, 16 bytes of codes. From the
//! [OCP Microscaling Formats](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf);
//! unlike there, exponent 255 is read as a number, as in the file format.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, look_both_up, spread_nibbles};

/// A block of MXFP4.
pub(super) struct MXFP4;

impl Block for MXFP4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const OFFSET: Option<u8> = Some(12);
    const MAX: u8 = 24;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales[0] = half_power(bytes[0]);
        spread_nibbles(&bytes[1..], q, |code| DOUBLED_E2M1[usize::from(code)]);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        // In two factors of about the same size, since the smallest are subnormal; 127 + 127 - 128 is 2 * 63.
        let exponent = s.and(s.load_four_of_rows(rows, stride), s.splat_i32(0xff));
        let half = s.add_i8(s.shr(exponent, 1), s.splat_i32(63));
        let rest = s.add_i8(half, s.and(exponent, s.splat_i32(1)));
        let (half, rest) = (s.shl(half, 23), s.shl(rest, 23));
        out.put_scale(s, 0, s.mul(s.float_of(half), s.float_of(rest)));
        let codes = out.load(s, &rows[1..], stride);
        out.put_loaded(s, 0, look_both_up(s, &OFFSET_E2M1, codes));
    }
}

/// Twice the value of each E2M1 code, which makes all of them whole numbers.
pub const DOUBLED_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// [`DOUBLED_E2M1`] plus the offset.
pub(super) const OFFSET_E2M1: [i8; 16] =
    [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Half of `2^(exponent - 127)`: the scale of doubled codes. The smallest two are subnormal.
#[inline(always)]
fn half_power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}
