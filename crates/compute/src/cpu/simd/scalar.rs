//! The specification: plain loops over 16 lanes. Runs on every processor.

use super::{LANES, RUN, Simd, check_rows, index_mask};
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
    const HAS_I16_DOTS: bool = true;
    #[inline(always)]
    fn to_i16(self, x: Self::F, factor: Self::F, out: &mut [u8; 2 * LANES]) {
        for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let q = (x[i] * factor[i]).round_ties_even() as i16; // NaN becomes 0
            *out = q.to_le_bytes();
        }
    }
    #[inline(always)]
    fn dot_i16(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|lane| {
            let products = [0, 16].map(|half| {
                i32::from((a[lane] >> half) as i16) * i32::from((b[lane] >> half) as i16)
            });
            acc[lane]
                .wrapping_add(products[0])
                .wrapping_add(products[1])
        })
    }
    #[inline(always)]
    fn load_rows(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
        check_rows(rows, stride);
        std::array::from_fn(|c| {
            std::array::from_fn(|row| {
                let at = row * stride + 4 * c;
                i32::from_le_bytes([rows[at], rows[at + 1], rows[at + 2], rows[at + 3]])
            })
        })
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shl(self, x: Self::I, n: u32) -> Self::I {
        x.map(|x| x << n)
    }
    #[inline(always)]
    fn shr(self, x: Self::I, n: u32) -> Self::I {
        x.map(|x| (x as u32 >> n) as i32)
    }
    #[inline(always)]
    fn sar(self, x: Self::I, n: u32) -> Self::I {
        x.map(|x| x >> n)
    }
    #[inline(always)]
    fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn add_i8(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| {
            let (a, b) = (a[i].to_le_bytes(), b[i].to_le_bytes());
            i32::from_le_bytes(std::array::from_fn(|i| a[i].wrapping_add(b[i])))
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], codes: Self::I) -> Self::I {
        codes.map(|codes| {
            i32::from_le_bytes(
                codes
                    .to_le_bytes()
                    .map(|code| table[usize::from(code)] as u8),
            )
        })
    }
    #[inline(always)]
    fn gather<const N: usize>(self, table: &[[i8; 4]; N], codes: Self::I) -> Self::I {
        let mask = const { index_mask(N) };
        codes.map(|code| i32::from_le_bytes(table[(code & mask) as usize].map(|q| q as u8)))
    }
    #[inline(always)]
    fn gather_eight<const N: usize>(self, table: &[[i8; 8]; N], codes: Self::I) -> [Self::I; 2] {
        let mask = const { index_mask(N) };
        [0, 4].map(|half| {
            codes.map(|code| {
                let entry = &table[(code & mask) as usize];
                i32::from_le_bytes(std::array::from_fn(|i| entry[half + i] as u8))
            })
        })
    }
    #[inline(always)]
    fn negate_i8(self, x: Self::I, signs: Self::I) -> Self::I {
        std::array::from_fn(|lane| {
            let mut bytes = x[lane].to_le_bytes();
            for (i, byte) in bytes.iter_mut().enumerate() {
                if signs[lane] >> i & 1 == 1 {
                    *byte = byte.wrapping_neg();
                }
            }
            i32::from_le_bytes(bytes)
        })
    }
    #[inline(always)]
    fn f16_to_f32(self, x: Self::I) -> Self::F {
        x.map(|x| f16_to_f32(x as u16))
    }

    const SIGNED_OFFSET: u8 = 0;
    const GATHERS: bool = false;
    const N_PANELS: usize = 1;
    const N_SUMS: usize = 1;
    #[inline(always)]
    fn load_i8x4(self, x: &[u8; 4 * LANES]) -> Self::I {
        std::array::from_fn(|i| i32::from_le_bytes(std::array::from_fn(|j| x[4 * i + j])))
    }
    #[inline(always)]
    fn store_i8x4(self, x: Self::I, out: &mut [u8; 4 * LANES]) {
        for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            *out = x.to_le_bytes();
        }
    }
    #[inline(always)]
    fn dot4(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        self.dot4_signed(acc, weights, x)
    }
    #[inline(always)]
    fn dot4_signed(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        std::array::from_fn(|lane| {
            let (w, x) = (weights[lane].to_le_bytes(), x[lane].to_le_bytes());
            let products = w
                .into_iter()
                .zip(x)
                .map(|(w, x)| i32::from(w as i8) * i32::from(x as i8));
            acc[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn to_f32(self, x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn float_of(self, x: Self::I) -> Self::F {
        x.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, offset: u8, out: &mut [[u8; 64]; 8]) {
        for (row, weights) in rows.iter().enumerate() {
            for (out, four) in out.iter_mut().zip(weights[at..at + 32].chunks_exact(4)) {
                for (out, &q) in out[4 * row..].iter_mut().zip(four) {
                    *out = (q as u8).wrapping_add(offset);
                }
            }
        }
    }
}
