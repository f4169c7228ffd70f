//! NEON, which every 64-bit Arm processor has, with and without products of bytes: four registers of four
//! lanes.
//!
//! NEON itself multiplies bytes to numbers of 16 bits and adds these in pairs, twice. With `dotprod` one
//! `sdot` does that: each lane of 32 bits adds four products. Both factors have a sign, and weights without
//! one stay below 128, so that no offset is needed (and `usdot` of `i8mm` would do nothing more).
//!
//! With `i8mm` one `smmla` does twice as much: it multiplies two rows of eight weights by two tokens'
//! activations, four sums of eight products. So its panels have eight columns of a row beside each other.
//! What it sums has two rows of two tokens in a register; after each group they are put in order.
//!
//! These instructions are written in assembly: their intrinsics are not stable.

#![allow(
    unused_unsafe,
    reason = "which intrinsics are safe differs between compilers"
)]

use core::arch::aarch64::*;
use core::arch::asm;
use std::ops::Range;

use super::{LANES, PanelPart, RUN, Simd, TokenPart, check_rows, index_mask};

/// 64-bit Arm.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// The processor has `dotprod` too.
#[derive(Clone, Copy)]
pub(crate) struct NeonDotprod(());

/// The processor has `dotprod` and `i8mm` too.
#[derive(Clone, Copy)]
pub(crate) struct NeonI8mm(());

impl Neon {
    /// Every 64-bit Arm processor has it.
    pub(crate) fn detect() -> Option<Neon> {
        Some(Neon)
    }
}

impl NeonDotprod {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<NeonDotprod> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(NeonDotprod(()))
    }

    /// [`Simd::dot4`] with four activations, lane `I` of `x`, for all rows.
    #[inline(always)]
    fn dot4_lane<const I: usize>(
        self,
        mut acc: [int32x4_t; 4],
        weights: &[u8; 4 * LANES],
        x: int32x4_t,
    ) -> [int32x4_t; 4] {
        for (acc, w) in acc.iter_mut().zip(self.load_i8x4(weights)) {
            // SAFETY: `self` proves that the processor has the instruction.
            *acc = unsafe { sdot_lane::<I>(*acc, w, x) };
        }
        acc
    }
}

impl NeonI8mm {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<NeonI8mm> {
        let has = std::arch::is_aarch64_feature_detected!("i8mm");
        NeonDotprod::detect().filter(|_| has).map(|_| NeonI8mm(()))
    }
}

/// Signed bytes to f32.
#[inline(always)]
fn widen_i8(x: int8x16_t) -> [float32x4_t; 4] {
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

/// The halves of eight half-precision numbers to f32. (Their intrinsics ask for a newer compiler than the
/// others.)
#[inline(always)]
fn widen_f16(x: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: NEON is part of the target; only registers are touched.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {x:v}.4h",
            "fcvtl2 {high:v}.4s, {x:v}.8h",
            x = in(vreg) x,
            low = out(vreg) low,
            high = lateout(vreg) high,
            options(pure, nomem, nostack),
        );
    }
    [low, high]
}

/// Four rows of four lanes, by columns.
#[inline(always)]
fn transpose(rows: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: NEON is part of the target.
    unsafe {
        let [r0, r1, r2, r3] = rows;
        let (a0, a1) = (vtrn1q_s32(r0, r1), vtrn2q_s32(r0, r1));
        let (b0, b1) = (vtrn1q_s32(r2, r3), vtrn2q_s32(r2, r3));
        [
            lower_halves(a0, b0),
            lower_halves(a1, b1),
            upper_halves(a0, b0),
            upper_halves(a1, b1),
        ]
    }
}

/// The lower halves of two registers.
#[inline(always)]
fn lower_halves(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
        vreinterpretq_s32_s64(vtrn1q_s64(a, b))
    }
}

/// The upper halves of two registers.
#[inline(always)]
fn upper_halves(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
        vreinterpretq_s32_s64(vtrn2q_s64(a, b))
    }
}

macro_rules! instruction {
    ($(#[$doc:meta])* $name:ident$(<$lane:ident>)?, $feature:literal, $text:literal) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $feature)]
        fn $name$(<const $lane: usize>)?(
            mut acc: int32x4_t,
            a: int32x4_t,
            b: int32x4_t,
        ) -> int32x4_t {
            // SAFETY: the function has the feature; only registers are touched.
            unsafe {
                asm!(
                    $text,
                    acc = inout(vreg) acc,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    $(lane = const $lane,)?
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            acc
        }
    };
}

instruction! {
    /// In each lane `acc` + four products of signed bytes.
    sdot, "dotprod", "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b"
}
instruction! {
    /// The same with lane `I` of `b` for each lane.
    sdot_lane<I>, "dotprod", "sdot {acc:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]"
}
instruction! {
    /// In lane 2 i + j `acc` + eight products of signed bytes: of half i of `a` and half j of `b`.
    smmla, "i8mm", "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b"
}

macro_rules! common {
    () => {
        type F = [float32x4_t; 4];
        type I = [int32x4_t; 4];

        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            unsafe {
                asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
            }
        }
        #[inline(always)]
        fn prefetch_near(self, at: *const u8) {
            unsafe {
                asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
            }
        }
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
            let p = x.as_ptr();
            let (low, high) = unsafe { (vld1q_u16(p), vld1q_u16(p.add(8))) };
            let ([a, b], [c, d]) = (widen_f16(low), widen_f16(high));
            [a, b, c, d]
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
            unsafe { widen_i8(vreinterpretq_s8_u8(vld1q_u8(x.as_ptr()))) }
        }
        #[inline(always)]
        fn load_i4(self, x: &[u8; LANES], shift: i32) -> Self::F {
            unsafe {
                let x = vshlq_u8(vld1q_u8(x.as_ptr()), vdupq_n_s8(-shift as i8)); // to the right
                let codes = vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15)));
                widen_i8(vsubq_s8(codes, vdupq_n_s8(8)))
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
                // (vmaxnm passes over a NaN only where it is a quiet one.)
                *out = unsafe {
                    let x = vabsq_f32(x[i]);
                    vbslq_f32(vcgtq_f32(x, a[i]), x, a[i])
                };
            }
            out
        }
        #[inline(always)]
        fn max(self, x: Self::F) -> f32 {
            unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[1]), vmaxq_f32(x[2], x[3]))) }
        }
        #[inline(always)]
        fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32 {
            let mut q = self.splat_i32(0);
            for (i, q) in q.iter_mut().enumerate() {
                *q = unsafe { vcvtnq_s32_f32(vmulq_f32(x[i], factor[i])) }; // NaN becomes 0
            }
            unsafe {
                let low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
                let high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
                vst1q_s8(
                    out.as_mut_ptr(),
                    vcombine_s8(vmovn_s16(low), vmovn_s16(high)),
                );
                vaddvq_s32(vaddq_s32(vaddq_s32(q[0], q[1]), vaddq_s32(q[2], q[3])))
            }
        }
        #[inline(always)]
        fn load_rows(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
            check_rows(rows, stride);
            let mut out = [self.splat_i32(0); 4];
            for quarter in 0..4 {
                let mut r = [out[0][0]; 4];
                for (i, r) in r.iter_mut().enumerate() {
                    let p = rows.as_ptr().wrapping_add((4 * quarter + i) * stride);
                    *r = unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) };
                }
                for (out, r) in out.iter_mut().zip(transpose(r)) {
                    out[quarter] = r;
                }
            }
            out
        }
        #[inline(always)]
        fn splat_i32(self, x: i32) -> Self::I {
            unsafe { [vdupq_n_s32(x); 4] }
        }
        #[inline(always)]
        fn and(self, a: Self::I, b: Self::I) -> Self::I {
            let mut out = a;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vandq_s32(a[i], b[i]) };
            }
            out
        }
        #[inline(always)]
        fn or(self, a: Self::I, b: Self::I) -> Self::I {
            let mut out = a;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vorrq_s32(a[i], b[i]) };
            }
            out
        }
        #[inline(always)]
        fn shl(self, x: Self::I, n: u32) -> Self::I {
            let mut out = x;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vshlq_s32(x[i], vdupq_n_s32(n as i32)) };
            }
            out
        }
        #[inline(always)]
        fn shr(self, x: Self::I, n: u32) -> Self::I {
            let mut out = x;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe {
                    vreinterpretq_s32_u32(vshlq_u32(
                        vreinterpretq_u32_s32(x[i]),
                        vdupq_n_s32(-(n as i32)),
                    ))
                };
            }
            out
        }
        #[inline(always)]
        fn sar(self, x: Self::I, n: u32) -> Self::I {
            let mut out = x;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vshlq_s32(x[i], vdupq_n_s32(-(n as i32))) };
            }
            out
        }
        #[inline(always)]
        fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I {
            let mut out = a;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vmulq_s32(a[i], b[i]) };
            }
            out
        }
        #[inline(always)]
        fn add_i8(self, a: Self::I, b: Self::I) -> Self::I {
            let mut out = a;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe {
                    vreinterpretq_s32_s8(vaddq_s8(
                        vreinterpretq_s8_s32(a[i]),
                        vreinterpretq_s8_s32(b[i]),
                    ))
                };
            }
            out
        }
        #[inline(always)]
        fn lookup(self, table: &[i8; 16], codes: Self::I) -> Self::I {
            let mut out = codes;
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe {
                    let table = vld1q_s8(table.as_ptr());
                    vreinterpretq_s32_s8(vqtbl1q_s8(table, vreinterpretq_u8_s32(codes[i])))
                };
            }
            out
        }
        #[inline(always)]
        fn gather<const N: usize>(self, table: &[[i8; 4]; N], codes: Self::I) -> Self::I {
            let mut out = codes;
            for (i, out) in out.iter_mut().enumerate() {
                unsafe {
                    // All that is read is in the table: an index is masked to its length.
                    let mask = vdupq_n_s32(const { index_mask(N) });
                    let mut at = [0i32; 4];
                    vst1q_s32(at.as_mut_ptr(), vandq_s32(codes[i], mask));
                    let mut entries = [0i32; 4];
                    for (entry, at) in entries.iter_mut().zip(at) {
                        *entry = table
                            .as_ptr()
                            .add(at as usize)
                            .cast::<i32>()
                            .read_unaligned();
                    }
                    *out = vld1q_s32(entries.as_ptr());
                }
            }
            out
        }
        #[inline(always)]
        fn gather_eight<const N: usize>(self, table: &[[i8; 8]; N], codes: Self::I) -> [Self::I; 2] {
            let mut out = [codes; 2];
            for i in 0..4 {
                unsafe {
                    // All that is read is in the table: an index is masked to its length.
                    let mask = vdupq_n_s32(const { index_mask(N) });
                    let mut at = [0i32; 4];
                    vst1q_s32(at.as_mut_ptr(), vandq_s32(codes[i], mask));
                    let p = table.as_ptr();
                    let a = vld1_s8(p.add(at[0] as usize).cast());
                    let b = vld1_s8(p.add(at[1] as usize).cast());
                    let c = vld1_s8(p.add(at[2] as usize).cast());
                    let d = vld1_s8(p.add(at[3] as usize).cast());
                    let (a, c) = (vcombine_s8(a, b), vcombine_s8(c, d));
                    let (a, c) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(c));
                    out[0][i] = vuzp1q_s32(a, c);
                    out[1][i] = vuzp2q_s32(a, c);
                }
            }
            out
        }
        #[inline(always)]
        fn negate_i8(self, x: Self::I, signs: Self::I) -> Self::I {
            const COPIES: [u8; 16] = [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12];
            let mut out = x;
            for (i, out) in out.iter_mut().enumerate() {
                unsafe {
                    let signs = vqtbl1q_u8(vreinterpretq_u8_s32(signs[i]), vld1q_u8(COPIES.as_ptr()));
                    let bits = vreinterpretq_u8_s32(vdupq_n_s32(0x0804_0201));
                    let negative = vtstq_u8(signs, bits);
                    let x = vreinterpretq_s8_s32(x[i]);
                    *out = vreinterpretq_s32_s8(vbslq_s8(negative, vnegq_s8(x), x));
                }
            }
            out
        }
        #[inline(always)]
        fn f16_to_f32(self, x: Self::I) -> Self::F {
            let mut halves = [unsafe { vdupq_n_u16(0) }; 2];
            for (i, halves) in halves.iter_mut().enumerate() {
                // The lower half of each lane.
                let (a, b) = (x[2 * i], x[2 * i + 1]);
                *halves = unsafe { vuzp1q_u16(vreinterpretq_u16_s32(a), vreinterpretq_u16_s32(b)) };
            }
            let ([a, b], [c, d]) = (widen_f16(halves[0]), widen_f16(halves[1]));
            [a, b, c, d]
        }

        const SIGNED_OFFSET: u8 = 0;
        const GATHERS: bool = false;
        const N_PANELS: usize = 1;
        const N_SUMS: usize = 4;
        #[inline(always)]
        fn load_i8x4(self, x: &[u8; 4 * LANES]) -> Self::I {
            let mut out = self.splat_i32(0);
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vreinterpretq_s32_u8(vld1q_u8(x.as_ptr().add(16 * i))) };
            }
            out
        }
        #[inline(always)]
        fn store_i8x4(self, x: Self::I, out: &mut [u8; 4 * LANES]) {
            for (i, x) in x.into_iter().enumerate() {
                unsafe { vst1q_u8(out.as_mut_ptr().add(16 * i), vreinterpretq_u8_s32(x)) };
            }
        }
        #[inline(always)]
        fn dot4(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
            self.dot4_signed(acc, weights, x)
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
        fn float_of(self, x: Self::I) -> Self::F {
            let mut out = self.splat(0.0);
            for (i, out) in out.iter_mut().enumerate() {
                *out = unsafe { vreinterpretq_f32_s32(x[i]) };
            }
            out
        }
        #[inline(always)]
        fn interleave(
            self,
            rows: &[[i8; RUN]; LANES],
            at: usize,
            offset: u8,
            out: &mut [[u8; 64]; 8],
        ) {
            for (half, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let mut columns = [self.splat_i32(0); 4];
                for (quarter, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
                    let mut r = [columns[0][0]; 4];
                    for (r, row) in r.iter_mut().zip(rows) {
                        let row = row[at + 16 * half..][..16].as_ptr();
                        *r = unsafe {
                            vreinterpretq_s32_s8(vaddq_s8(vld1q_s8(row), vdupq_n_s8(offset as i8)))
                        };
                    }
                    for (column, r) in columns.iter_mut().zip(transpose(r)) {
                        column[quarter] = r;
                    }
                }
                self.store_panel(columns, out);
            }
        }
    };
}

// SAFETY (every block below, and in `common`): NEON is part of the target, `self` proves that the processor
// has what else there is, loads and stores stay inside the arrays that are passed, and a request for a line
// of memory may have any address.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for Neon {
    common!();

    #[inline(always)]
    fn dot4_signed(self, mut acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        for (i, acc) in acc.iter_mut().enumerate() {
            unsafe {
                let (w, x) = (vreinterpretq_s8_s32(weights[i]), vreinterpretq_s8_s32(x[i]));
                // Two products, each at most 128 * 127, fit an i16.
                let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
                let high = vmull_high_s8(w, x);
                *acc = vpadalq_s16(*acc, vpaddq_s16(low, high));
            }
        }
        acc
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for NeonDotprod {
    common!();

    #[inline(always)]
    fn dot4_signed(self, mut acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = unsafe { sdot(*acc, weights[i], x[i]) };
        }
        acc
    }
    /// Sixteen columns of a token in one register, whose lanes `sdot` can choose from.
    #[inline(always)]
    fn dot_panels<const N: usize, const P: usize>(
        self,
        mut dots: [[Self::I; P]; N],
        (weights, x): (&[PanelPart<'_>; P], &[TokenPart<'_>; N]),
        fours: Range<usize>,
        _max: Option<u8>,
    ) -> [[Self::I; P]; N] {
        for p in 0..P {
            let weights = weights[p][fours.clone()].as_chunks::<4>().0;
            for (c, weights) in weights.iter().enumerate() {
                let mut x16 = [dots[0][0][0]; N];
                for (x16, x) in x16.iter_mut().zip(x) {
                    let x = x[fours.clone()].as_chunks::<4>().0[c].as_flattened();
                    *x16 = unsafe { vreinterpretq_s32_s8(vld1q_s8(x.as_ptr())) };
                }
                // Lane by lane: tokens of a loop that had all four would take turns in memory.
                for (dots, x) in dots.iter_mut().zip(x16) {
                    dots[p] = self.dot4_lane::<0>(dots[p], &weights[0], x);
                }
                for (dots, x) in dots.iter_mut().zip(x16) {
                    dots[p] = self.dot4_lane::<1>(dots[p], &weights[1], x);
                }
                for (dots, x) in dots.iter_mut().zip(x16) {
                    dots[p] = self.dot4_lane::<2>(dots[p], &weights[2], x);
                }
                for (dots, x) in dots.iter_mut().zip(x16) {
                    dots[p] = self.dot4_lane::<3>(dots[p], &weights[3], x);
                }
            }
        }
        dots
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for NeonI8mm {
    common!();

    #[inline(always)]
    fn dot4_signed(self, mut acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = unsafe { sdot(*acc, weights[i], x[i]) };
        }
        acc
    }

    const BESIDE: usize = 8;
    #[inline(always)]
    fn store_panel(self, q: [Self::I; 4], out: &mut [[u8; 4 * LANES]; 4]) {
        let out = out.as_flattened_mut().as_chunks_mut::<16>().0;
        for eight in 0..2 {
            for i in 0..4 {
                unsafe {
                    let (a, b) = (q[2 * eight][i], q[2 * eight + 1][i]);
                    let (low, high) = (vzip1q_s32(a, b), vzip2q_s32(a, b));
                    let out = &mut out[8 * eight + 2 * i..][..2];
                    vst1q_u8(out[0].as_mut_ptr(), vreinterpretq_u8_s32(low));
                    vst1q_u8(out[1].as_mut_ptr(), vreinterpretq_u8_s32(high));
                }
            }
        }
    }
    /// Two tokens at a time, or one as if it were two; sixteen columns of each in one register.
    #[inline(always)]
    fn dot_panels<const N: usize, const P: usize>(
        self,
        mut dots: [[Self::I; P]; N],
        (weights, x): (&[PanelPart<'_>; P], &[TokenPart<'_>; N]),
        fours: Range<usize>,
        _max: Option<u8>,
    ) -> [[Self::I; P]; N] {
        for p in 0..P {
            let weights = weights[p][fours.clone()].as_chunks::<4>().0;
            // `[pair of tokens][pair of rows]`, of which the first (N + 1) / 2 are used.
            let mut sums = [[unsafe { vdupq_n_s32(0) }; 8]; N];
            for (c, weights) in weights.iter().enumerate() {
                let weights = weights.as_flattened().as_chunks::<16>().0;
                for pair in 0..N.div_ceil(2) {
                    let mut two = [dots[0][0][0]; 2];
                    for (i, two) in two.iter_mut().enumerate() {
                        let x = x[(2 * pair + i).min(N - 1)][fours.clone()]
                            .as_chunks::<4>()
                            .0;
                        let x = x[c].as_flattened().as_ptr();
                        *two = unsafe { vreinterpretq_s32_s8(vld1q_s8(x)) };
                    }
                    let eights = [lower_halves(two[0], two[1]), upper_halves(two[0], two[1])];
                    for (x, weights) in eights.into_iter().zip(weights.as_chunks::<8>().0) {
                        for (sum, weights) in sums[pair].iter_mut().zip(weights) {
                            unsafe {
                                let w = vreinterpretq_s32_u8(vld1q_u8(weights.as_ptr()));
                                *sum = smmla(*sum, x, w);
                            }
                        }
                    }
                }
            }
            for t in 0..N {
                for (i, dot) in dots[t][p].iter_mut().enumerate() {
                    let (a, b) = (sums[t / 2][2 * i], sums[t / 2][2 * i + 1]);
                    let rows = match t % 2 {
                        0 => lower_halves(a, b),
                        _ => upper_halves(a, b),
                    };
                    *dot = unsafe { vaddq_s32(*dot, rows) };
                }
            }
        }
        dots
    }
}
