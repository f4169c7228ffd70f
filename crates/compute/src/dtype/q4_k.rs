//! Q4_K: 4-bit codes in groups of 32, whose 6-bit scales and minimums share two f16 factors.
//!
//! Bytes: f16 factor of the scales, f16 factor of the minimums, 12 of scales and minimums, 128 of
//! codes. Each 32 bytes of codes hold two groups, one in the low halves and one in the high.

use crate::cpu::simd::Simd;

use super::block::{
    Block, Form, Lanes, f16_at, factors_of_bytes, high_nibbles, low_nibbles, spread_nibbles,
    times_byte,
};

/// A block of Q4_K.
pub(super) struct Q4K;

impl Block for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: true,
    };
    const OFFSET: Option<u8> = Some(0);
    const MAX: u8 = 15;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        unpack_scales(&bytes[..16], scales, mins);
        for (codes, q) in bytes[16..].chunks_exact(32).zip(q.chunks_exact_mut(64)) {
            spread_nibbles(codes, q, |code| code as i8);
        }
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        unpack_scales_rows(s, rows, stride, out);
        for pair in 0..4 {
            out.part(s, Self::BYTES / 8);
            let (first, second) = (
                out.load(s, &rows[16 + 32 * pair..], stride),
                out.load(s, &rows[32 + 32 * pair..], stride),
            );
            let low = [low_nibbles(s, first), low_nibbles(s, second)];
            out.put_loaded(s, 2 * pair, low);
            out.part(s, Self::BYTES / 8);
            let high = [high_nibbles(s, first), high_nibbles(s, second)];
            out.put_loaded(s, 2 * pair + 1, high);
        }
    }
}

/// The first 16 bytes of Q4_K and Q5_K: two f16 factors and eight pairs of 6-bit numbers.
///
/// Pairs 0 to 3 lie in the low six bits of bytes j (scale) and 4 + j (minimum). The upper two bits
/// of those bytes belong to pair 4 + j, whose lower bits are the two halves of byte 8 + j.
#[inline(always)]
pub(super) fn unpack_scales(header: &[u8], scales: &mut [f32], mins: &mut [f32]) {
    let (d, d_min) = (f16_at(header, 0), f16_at(header, 2));
    let packed = &header[4..16];
    for j in 0..4 {
        let (first, second, both) = (packed[j], packed[4 + j], packed[8 + j]);
        scales[j] = d * f32::from(first & 0x3f);
        mins[j] = -(d_min * f32::from(second & 0x3f));
        scales[4 + j] = d * f32::from(both & 0x0f | (first >> 6) << 4);
        mins[4 + j] = -(d_min * f32::from(both >> 4 | (second >> 6) << 4));
    }
}

/// [`unpack_scales`] for a block of each of 16 rows.
#[inline(always)]
pub(super) fn unpack_scales_rows<S: Simd>(
    s: S,
    rows: &[u8],
    stride: usize,
    out: &mut impl Lanes<S>,
) {
    let [factors, first, second, both] = s.load_rows(rows, stride);
    let (d, d_min) = (s.f16_to_f32(factors), s.f16_to_f32(s.shr(factors, 16)));
    let (d, d_min) = (
        factors_of_bytes(s, d),
        factors_of_bytes(s, s.mul(d_min, s.splat(-1.0))),
    );
    let (low_six, upper_two) = (s.splat_i8(0x3f), s.splat_i8(0x30));
    let nibbles = s.splat_i8(0x0f);
    let scales = [
        s.and(first, low_six),
        s.or(s.and(both, nibbles), s.and(s.shr(first, 2), upper_two)),
    ];
    let mins = [
        s.and(second, low_six),
        s.or(
            s.and(s.shr(both, 4), nibbles),
            s.and(s.shr(second, 2), upper_two),
        ),
    ];
    for half in 0..2 {
        for j in 0..4 {
            out.put_scale(s, 4 * half + j, times_byte(s, &d, scales[half], j));
            out.put_min(s, 4 * half + j, times_byte(s, &d_min, mins[half], j));
        }
    }
}
