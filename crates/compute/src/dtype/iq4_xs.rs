//! IQ4_XS: the codes of IQ4_NL in groups of 32, whose 6-bit scales around 32 share one f16 factor.
//!
//! Bytes: f16 factor, 16 bits with the upper two bits of each scale, 4 bytes with the lower four bits
//! of each scale, 128 of codes, 16 for each group.

use crate::cpu::simd::Simd;

use super::block::{
    Block, Form, Lanes, f16_at, look_both_up, spread_nibbles, table_with_offset, u16_at,
};
use super::iq4_nl::UNEVEN_STEPS;

/// A block of IQ4_XS.
pub(super) struct IQ4XS;

impl Block for IQ4XS {
    const LEN: usize = 256;
    const BYTES: usize = 136;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        let (d, high_bits, low_bits) = (f16_at(bytes, 0), u16_at(bytes, 2), &bytes[4..8]);
        for (g, scale) in scales.iter_mut().enumerate() {
            let low = low_bits[g / 2] >> (4 * (g % 2)) & 0x0f;
            let high = (high_bits >> (2 * g) & 3) as u8;
            *scale = d * f32::from((low | high << 4) as i8 - 32);
        }
        for (codes, q) in bytes[8..].chunks_exact(16).zip(q.chunks_exact_mut(32)) {
            spread_nibbles(codes, q, |code| UNEVEN_STEPS[usize::from(code)]);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let [head, lower, ..] = s.load_rows(rows, stride);
        let (d, upper) = (s.f16_to_f32(head), s.shr(head, 16));
        for g in 0..8 {
            let low = s.and(s.shr(lower, 4 * g), s.splat_i32(0x0f));
            let high = s.and(s.shr(upper, 2 * g), s.splat_i32(3));
            let code = s.to_f32(s.or(low, s.shl(high, 4)));
            let scale = s.fma(code, s.splat(1.0), s.splat(-32.0));
            out.put_scale(s, g as usize, s.mul(d, scale));
        }
        for g in 0..8 {
            out.part(s, Self::BYTES / 8);
            let codes = out.load(s, &rows[8 + 16 * g..], stride);
            let table = const { &table_with_offset::<S>(UNEVEN_STEPS) };
            out.put_loaded(s, g, look_both_up(s, table, codes));
        }
    }
}
