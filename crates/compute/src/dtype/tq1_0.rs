//! TQ1_0: ternary digits -1, 0, 1, five to a byte, and one scale for 256 elements.
//!
//! Bytes: 32 with five digits each, 16 with five digits each, 4 with four digits each, f16 scale. Each
//! of the three runs holds the first digits of all its bytes, then the second digits, and so on.

use crate::cpu::simd::Simd;

use super::block::{Block, Form, Lanes, f16_at};

/// A block of TQ1_0.
pub(super) struct TQ1_0;

impl Block for TQ1_0 {
    const LEN: usize = 256;
    const BYTES: usize = 54;
    const FORM: Form = Form::Groups {
        group_len: 32,
        has_min: false,
    };
    const HAS_MANY_STEPS: bool = true;
    const OFFSET: Option<u8> = Some(1);
    const MAX: u8 = 2;

    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], _mins: &mut [f32]) {
        scales.fill(f16_at(bytes, 52));
        let (first, rest) = q.split_at_mut(5 * 32);
        let (second, third) = rest.split_at_mut(5 * 16);
        spread_digits(&bytes[..32], first);
        spread_digits(&bytes[32..48], second);
        spread_digits(&bytes[48..52], third);
    }

    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let d = s.load_f16_rows_behind(&rows[50..], stride);
        for g in 0..8 {
            out.put_scale(s, g, d);
        }
        for run in 0..3 {
            let mut parts = [(s.splat_i32(0), s.splat_i32(0)); 4];
            let bytes = s.load_rows(&rows[16 * run..], stride);
            for (parts, bytes) in parts.iter_mut().zip(bytes) {
                *parts = fractions(s, bytes);
            }
            for digit in 0..5 {
                let mut q = [s.splat_i32(0); 4];
                for (q, parts) in q.iter_mut().zip(&mut parts) {
                    *q = next_digits(s, parts);
                }
                out.put(s, [2 * digit, 2 * digit + 1, 10 + digit][run], q);
            }
        }
        let [.., last] = s.load_rows(&rows[36..], stride);
        let mut parts = fractions(s, last);
        let mut q = [last; 4];
        for q in &mut q {
            *q = next_digits(s, &mut parts);
        }
        out.put(s, 15, q);
    }
}

/// The bytes of each lane in halves of its own: the even ones, and the odd ones.
#[inline(always)]
fn fractions<S: Simd>(s: S, bytes: S::I) -> (S::I, S::I) {
    let mask = s.splat_i32(0x00ff_00ff);
    (s.and(bytes, mask), s.and(s.shr(bytes, 8), mask))
}

/// Takes the first digits of [`fractions`] off, to bytes again.
#[inline(always)]
fn next_digits<S: Simd>(s: S, (even, odd): &mut (S::I, S::I)) -> S::I {
    let three = s.splat_i32(3);
    (*even, *odd) = (s.mul_i32(*even, three), s.mul_i32(*odd, three));
    let low = s.and(s.shr(*even, 8), s.splat_i32(0x0003_0003));
    let high = s.and(*odd, s.splat_i32(0x0300_0300));
    let rest = s.splat_i32(0x00ff_00ff);
    (*even, *odd) = (s.and(*even, rest), s.and(*odd, rest));
    s.or(low, high)
}

/// Spreads ternary digits: the first digits of all bytes, then the second digits, and so on.
///
/// A byte is a fraction of 256 in base 3, so multiplying by 3 moves its first digit above the
/// eighth bit and leaves the other digits as the next fraction.
#[inline(always)]
fn spread_digits(packed: &[u8], q: &mut [i8]) {
    let mut power = 1u8;
    for q in q.chunks_exact_mut(packed.len()) {
        for (&byte, q) in packed.iter().zip(q) {
            let fraction = u16::from(byte.wrapping_mul(power));
            *q = ((fraction * 3) >> 8) as i8 - 1;
        }
        power = power.wrapping_mul(3);
    }
}
