//! The specification: plain loops over 16 lanes. Runs on every processor.

use super::{LANES, RUN, Simd, interleave_plain};
use crate::dtype::f16_to_f32;

/// No instructions beyond the target's own.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Scalar {
    /// Every processor has it.
    pub(crate) fn detect() -> Option<Scalar> {
        Some(Scalar)
    }
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        *out = x;
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        x.map(f16_to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::F {
        x.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::F {
        x.map(|x| f32::from(x as i8))
    }
    #[inline(always)]
    fn load_i4(self, x: &[u8; LANES], shift: i32) -> Self::F {
        x.map(|x| f32::from((x >> shift & 15) as i8 - 8))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn sum(self, mut x: Self::F) -> f32 {
        let mut n = LANES / 2;
        while n > 0 {
            for i in 0..n {
                x[i] += x[i + n];
            }
            n /= 2;
        }
        x[0]
    }
    #[inline(always)]
    fn max_abs(self, a: Self::F, x: Self::F) -> Self::F {
        std::array::from_fn(|i| if x[i].abs() > a[i] { x[i].abs() } else { a[i] })
    }
    #[inline(always)]
    fn max(self, x: Self::F) -> f32 {
        x.into_iter().fold(x[0], f32::max)
    }
    #[inline(always)]
    fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32 {
        for (i, out) in out.iter_mut().enumerate() {
            *out = (x[i] * factor[i]).round_ties_even() as i8; // NaN becomes 0
        }
        out.iter().map(|&q| i32::from(q)).sum()
    }
    #[inline(always)]
    fn start(self, _bias: i32) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    fn dot4(self, acc: Self::I, weights: &[i8; 4 * LANES], x: [i8; 4]) -> Self::I {
        std::array::from_fn(|lane| {
            let products = (0..4).map(|i| i32::from(weights[4 * lane + i]) * i32::from(x[i]));
            acc[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn to_f32(self, x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, out: &mut [i8; 32 * LANES]) {
        interleave_plain(rows, at, out);
    }
}
