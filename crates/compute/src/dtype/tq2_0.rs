//! TQ2_0: 2-bit codes around 1 and one scale for 256 elements, made for -1, 0 and 1.
//!
//! Bytes: 64 of codes, f16 scale. Each 32 bytes of codes hold 128 elements, two bits at a time.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at, spread_pairs};

/// A block of TQ2_0.
pub(super) struct TQ2_0;

impl Block for TQ2_0 {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(1);
    const MAX: u8 = 3;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 64));
        for (codes, q) in bytes[..64].chunks_exact(32).zip(q.chunks_exact_mut(128)) {
            spread_pairs(codes, q, |code| code as i8 - 1);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows_behind(&rows[62..], stride);
        for g in 0..8 {
            out.put_scale(s, g, d);
        }
        for part in 0..4 {
            let codes = s.load_rows(&rows[16 * part..], stride);
            for plane in 0..4 {
                let mut q = codes;
                for q in &mut q {
                    *q = s.and(s.shr(*q, 2 * plane as u32), s.splat_i8(3));
                }
                out.put(s, 8 * (part / 2) + 2 * plane + part % 2, q);
            }
        }
    }
}
