//! Q4_1: 4-bit codes, one scale and one minimum for 32 elements.
//!
//! Bytes: f16 scale, f16 minimum, 16 bytes of codes.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, both_nibbles, spread_nibbles};

/// A block of Q4_1.
pub(super) struct Q4_1;

impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };
    const OFFSET: Option<u8> = Some(0);
    const MAX: u8 = 15;
    const F16_HEADER: usize = 2;

    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        spread_nibbles(&bytes[4..], q, |code| code as i8);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let header = s.load_four_of_rows(rows, stride);
        out.put_scale(s, 0, s.f16_to_f32(header));
        out.put_min(s, 0, s.f16_to_f32(s.shr(header, 16)));
        let codes = out.load(s, &rows[4..], stride);
        out.put_loaded(s, 0, both_nibbles(s, codes));
    }
}
