//! Q1_0: one bit per element and one scale for 128: plus or minus the scale.
//!
//! Bytes: f16 scale, 16 bytes of bits in the order of the elements.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, spread_bits};

/// A block of Q1_0.
pub(super) struct Q1_0;

impl Block for Q1_0 {
    const LEN: usize = 128;
    const BYTES: usize = 18;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(1);
    const MAX: u8 = 2;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 0));
        for (&byte, q) in bytes[2..].iter().zip(q.chunks_exact_mut(8)) {
            for (bit, q) in q.iter_mut().enumerate() {
                *q = (byte >> bit & 1) as i8 * 2 - 1;
            }
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows(rows, stride);
        let bits = s.load_rows(&rows[2..], stride);
        for (g, bits) in bits.into_iter().enumerate() {
            out.put_scale(s, g, d);
            for half in 0..2 {
                let mut q = [bits; 4];
                for (i, q) in q.iter_mut().enumerate() {
                    *q = spread_bits(s, *q, 4 * half + i, 1);
                }
                out.put(s, 2 * g + half, q);
            }
        }
    }
}
