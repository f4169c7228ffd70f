//! MXFP4: 4-bit floats (E2M1) and one power of two (E8M0) for 32 elements.
//!
//! Bytes: exponent, 16 bytes of codes. From the
//! [OCP Microscaling Formats](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf);
//! unlike there, exponent 255 is read as a number, as in the file format.

use super::block::{Block, Form, spread_nibbles};

/// A block of MXFP4.
pub(super) struct MXFP4;

impl Block for MXFP4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales[0] = half_power(bytes[0]);
        spread_nibbles(&bytes[1..], q, |code| DOUBLED_E2M1[usize::from(code)]);
    }
}

/// Twice the value of each E2M1 code, which makes all of them whole numbers.
pub const DOUBLED_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of `2^(exponent - 127)`: the scale of doubled codes. The smallest two are subnormal.
#[inline(always)]
fn half_power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}
