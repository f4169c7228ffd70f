//! NEON: four registers of four lanes. Every 64-bit Arm processor has it.

use core::arch::aarch64::*;

use super::{LANES, RUN, Simd, interleave_plain};
use crate::dtype::f16_to_f32;

/// 64-bit Arm.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Neon {
    /// Every 64-bit Arm processor has it.
    pub(crate) fn detect() -> Option<Neon> {
        Some(Neon)
    }

    /// Signed bytes to f32.
    #[inline(always)]
    #[allow(
        unused_unsafe,
        reason = "which intrinsics are safe differs between compilers"
    )]
    fn widen_i8(self, x: int8x16_t) -> [float32x4_t; 4] {
        // SAFETY: NEON is part of the target.
        unsafe {
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }
}

// SAFETY (every block below): NEON is part of the target, and loads and stores stay inside the
// arrays that are passed.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
#[allow(
    unused_unsafe,
    reason = "which intrinsics are safe differs between compilers"
)]
impl Simd for Neon {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let p = x.as_ptr();
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            *out = unsafe { vld1q_f32(p.add(4 * i)) };
        }
        out
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        let p = out.as_mut_ptr();
        x.into_iter()
            .enumerate()
            .for_each(|(i, x)| unsafe { vst1q_f32(p.add(4 * i), x) });
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> Self::F {
        self.load(&x.map(f16_to_f32))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::F {
        let p = x.as_ptr();
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            *out = unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * i)))) };
        }
        out
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::F {
        unsafe { self.widen_i8(vreinterpretq_s8_u8(vld1q_u8(x.as_ptr()))) }
    }
    #[inline(always)]
    fn load_i4(self, x: &[u8; LANES], shift: i32) -> Self::F {
        unsafe {
            let x = vshlq_u8(vld1q_u8(x.as_ptr()), vdupq_n_s8(-shift as i8)); // to the right
            let codes = vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15)));
            self.widen_i8(vsubq_s8(codes, vdupq_n_s8(8)))
        }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            *out = unsafe { vmulq_f32(a[i], b[i]) };
        }
        out
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            *out = unsafe { vfmaq_f32(c[i], a[i], b[i]) };
        }
        out
    }
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        unsafe {
            let x = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let x = vadd_f32(vget_low_f32(x), vget_high_f32(x));
            vget_lane_f32::<0>(x) + vget_lane_f32::<1>(x)
        }
    }
    #[inline(always)]
    fn max_abs(self, a: Self::F, x: Self::F) -> Self::F {
        let mut out = a;
        for (i, out) in out.iter_mut().enumerate() {
            // vmaxnm takes the number where one operand is NaN.
            *out = unsafe { vmaxnmq_f32(a[i], vabsq_f32(x[i])) };
        }
        out
    }
    #[inline(always)]
    fn max(self, x: Self::F) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[1]), vmaxq_f32(x[2], x[3]))) }
    }
    #[inline(always)]
    fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32 {
        let mut sum = 0;
        let mut all = [0i32; LANES];
        for i in 0..4 {
            unsafe {
                let q = vcvtnq_s32_f32(vmulq_f32(x[i], factor[i])); // NaN becomes 0
                sum += vaddvq_s32(q);
                vst1q_s32(all.as_mut_ptr().add(4 * i), q);
            }
        }
        for (out, q) in out.iter_mut().zip(all) {
            *out = q as i8;
        }
        sum
    }
    #[inline(always)]
    fn start(self, _bias: i32) -> Self::I {
        unsafe { [vdupq_n_s32(0); 4] }
    }
    #[inline(always)]
    fn dot4(self, mut acc: Self::I, weights: &[i8; 4 * LANES], x: [i8; 4]) -> Self::I {
        let p = weights.as_ptr();
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(x.map(|x| x as u8))));
            for (i, acc) in acc.iter_mut().enumerate() {
                let w = vld1q_s8(p.add(16 * i));
                // Two products, each at most 128 * 127, fit an i16.
                let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
                let high = vmull_high_s8(w, x);
                *acc = vpadalq_s16(*acc, vpaddq_s16(low, high));
            }
            acc
        }
    }
    #[inline(always)]
    fn to_f32(self, x: Self::I) -> Self::F {
        let mut out = self.splat(0.0);
        for (i, out) in out.iter_mut().enumerate() {
            *out = unsafe { vcvtq_f32_s32(x[i]) };
        }
        out
    }
    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, out: &mut [i8; 32 * LANES]) {
        interleave_plain(rows, at, out);
    }
}
