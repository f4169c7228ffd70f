//! Q2_0: 2-bit codes from -1 to 2 and one scale for 64 elements.
//!
//! Bytes: f16 scale, 16 bytes of codes in the order of the elements.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at};

/// A block of Q2_0.
pub(super) struct Q2_0;

impl Block for Q2_0 {
    const LEN: usize = 64;
    const BYTES: usize = 18;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(1);
    const MAX: u8 = 3;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 0));
        for (&byte, q) in bytes[2..].iter().zip(q.chunks_exact_mut(4)) {
            for (i, q) in q.iter_mut().enumerate() {
                *q = (byte >> (2 * i) & 3) as i8 - 1;
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        out.put_scale(s, 0, d);
        out.put_scale(s, 1, d);
        let codes = s.load_rows(&rows[2..], stride);
        for (c, codes) in codes.into_iter().enumerate() {
            let mut q = [codes; 4];
            for (i, q) in (0..).zip(&mut q) {
                // Halves of a byte to bits 0 and 16, then pairs of bits to bytes.
                let byte = s.and(s.shr(*q, 8 * i), s.splat_i32(0xff));
                let halves = s.and(s.or(byte, s.shl(byte, 12)), s.splat_i32(0x000f_000f));
                *q = s.and(s.or(halves, s.shl(halves, 6)), s.splat_i8(3));
            }
            out.put(s, c, q);
        }
    }
}
