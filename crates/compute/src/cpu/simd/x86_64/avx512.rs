//! AVX-512 (F, BW, VL, DQ), with and without VNNI, and with BF16, VBMI and GFNI: one register of sixteen lanes.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes: signed weights are stored with 128 added, and the
//! sum starts at -128 times the sum of the activations. Without VNNI, as for AVX2.

use core::arch::asm;
use core::arch::x86_64::*;
use std::ops::Range;
use std::sync::LazyLock;

use super::super::{LANES, PanelPart, RUN, Simd, TokenPart, check_rows, gather_eights, index_mask};
use super::avx2::sum_i8;
use super::{InPairs, dot_panels_in_pairs, dot16_in_pairs, dots_in_pairs};
use crate::dtype::iq_grids::Grid;

/// The processor has AVX-512 F, BW, VL and DQ.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// The processor has VNNI too.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni(Avx512);

/// The processor has VNNI, BF16, VBMI and GFNI too.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512Vnni);

impl Avx512 {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<Avx512> {
        // Kept, as every call of a kernel asks.
        static HAS: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        });
        HAS.then_some(Avx512(()))
    }

    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, offset: u8, out: &mut [[u8; 64]; 8]) {
        let out: *mut __m512i = out.as_mut_ptr().cast();
        // SAFETY: `self` proves the instructions; reads and writes stay inside the arrays.
        unsafe {
            // Row i in the lower half, row i + 8 in the upper: an eight by eight transpose of each
            // half leaves all 16 rows in order. (No closures: they would not have the features.)
            let mut r = [_mm512_setzero_si512(); 8];
            for (i, r) in r.iter_mut().enumerate() {
                let low = _mm256_loadu_si256(rows[i][at..at + 32].as_ptr().cast());
                let high = _mm256_loadu_si256(rows[i + 8][at..at + 32].as_ptr().cast());
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                *r = _mm512_add_epi8(both, _mm512_set1_epi8(offset as i8));
            }
            let mut fours = [[_mm512_setzero_si512(); 4]; 2];
            for (half, four) in fours.iter_mut().enumerate() {
                let r = &r[4 * half..];
                let a0 = _mm512_unpacklo_epi32(r[0], r[1]);
                let a1 = _mm512_unpackhi_epi32(r[0], r[1]);
                let b0 = _mm512_unpacklo_epi32(r[2], r[3]);
                let b1 = _mm512_unpackhi_epi32(r[2], r[3]);
                *four = [
                    _mm512_unpacklo_epi64(a0, b0),
                    _mm512_unpackhi_epi64(a0, b0),
                    _mm512_unpacklo_epi64(a1, b1),
                    _mm512_unpackhi_epi64(a1, b1),
                ];
            }
            let [top, bottom] = fours;
            let low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
            let high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
            for i in 0..4 {
                let a = _mm512_permutex2var_epi64(top[i], low, bottom[i]);
                let b = _mm512_permutex2var_epi64(top[i], high, bottom[i]);
                _mm512_storeu_si512(out.add(i), a);
                _mm512_storeu_si512(out.add(i + 4), b);
            }
        }
    }
}

impl Avx512Vnni {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<Avx512Vnni> {
        static HAS: LazyLock<bool> =
            LazyLock::new(|| is_x86_feature_detected!("avx512vnni") && Avx512::detect().is_some());
        HAS.then_some(Avx512Vnni(Avx512(())))
    }
}

impl Avx512Bf16 {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<Avx512Bf16> {
        static HAS: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("gfni")
        });
        Avx512Vnni::detect().filter(|_| *HAS).map(Avx512Bf16)
    }
}

macro_rules! common {
    () => {
        type F = __m512;
        type I = __m512i;

        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
        }
        #[inline(always)]
        fn prefetch_near(self, at: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn splat(self, x: f32) -> Self::F {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::F {
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: Self::F, out: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
        }
        #[inline(always)]
        fn load_f16(self, x: &[u16; LANES]) -> Self::F {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn load_bf16(self, x: &[u16; LANES]) -> Self::F {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        fn load_i8(self, x: &[u8; LANES]) -> Self::F {
            unsafe {
                let x = _mm_loadu_si128(x.as_ptr().cast());
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))
            }
        }
        #[inline(always)]
        fn load_i4(self, x: &[u8; LANES], shift: i32) -> Self::F {
            unsafe {
                // Bits of a neighbor come in from above, and are masked off.
                let x = _mm_srl_epi16(_mm_loadu_si128(x.as_ptr().cast()), _mm_cvtsi32_si128(shift));
                let codes = _mm_and_si128(x, _mm_set1_epi8(15));
                let numbers = _mm_sub_epi8(codes, _mm_set1_epi8(8));
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(numbers))
            }
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn sum(self, x: Self::F) -> f32 {
            unsafe {
                let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
                let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
            }
        }
        #[inline(always)]
        fn sum_eight(self, x: [Self::F; 8]) -> [f32; 8] {
            let mut sums = [0.0; 8];
            unsafe {
                // Each time two vectors with some numbers of each become one, its halves added: of
                // vectors 0 and 4, …
                let mut fours = [_mm512_setzero_ps(); 4];
                for (i, four) in fours.iter_mut().enumerate() {
                    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(x[i], x[i + 4]);
                    let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(x[i], x[i + 4]);
                    *four = _mm512_add_ps(low, high);
                }
                // … then of 0, 4, 2 and 6, of 1, 5, 3 and 7, …
                let mut twos = [_mm512_setzero_ps(); 2];
                for (i, two) in twos.iter_mut().enumerate() {
                    let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(fours[i], fours[i + 2]);
                    let high = _mm512_shuffle_f32x4::<0b11_01_11_01>(fours[i], fours[i + 2]);
                    *two = _mm512_add_ps(low, high);
                }
                let [a, b] = twos;
                // … then two numbers of 0, of 1, of 4, of 5, of 2, 3, 6 and 7.
                let low = _mm512_shuffle_ps::<0b01_00_01_00>(a, b);
                let high = _mm512_shuffle_ps::<0b11_10_11_10>(a, b);
                let pairs = _mm512_add_ps(low, high);
                let all = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
                let order = _mm512_setr_epi32(0, 2, 8, 10, 4, 6, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
                let all = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, all));
                _mm256_storeu_ps(sums.as_mut_ptr(), all);
            }
            sums
        }
        #[inline(always)]
        fn max_abs(self, a: Self::F, x: Self::F) -> Self::F {
            // Where one is NaN the second operand is taken.
            unsafe { _mm512_max_ps(_mm512_abs_ps(x), a) }
        }
        #[inline(always)]
        fn max(self, x: Self::F) -> f32 {
            unsafe { _mm512_reduce_max_ps(x) }
        }
        #[inline(always)]
        fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32 {
            unsafe {
                let x = _mm512_mul_ps(x, factor);
                let is_number = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, x);
                let q = _mm512_maskz_cvtps_epi32(is_number, x);
                let bytes = _mm512_cvtepi32_epi8(q);
                _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
                sum_i8(bytes)
            }
        }
        const HAS_I16_DOTS: bool = true;
        #[inline(always)]
        fn to_i16(self, x: Self::F, factor: Self::F, out: &mut [u8; 2 * LANES]) {
            unsafe {
                let x = _mm512_mul_ps(x, factor);
                let is_number = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, x);
                let q = _mm512_maskz_cvtps_epi32(is_number, x);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi16(q));
            }
        }
        #[inline(always)]
        fn to_f32(self, x: Self::I) -> Self::F {
            unsafe { _mm512_cvtepi32_ps(x) }
        }
        #[inline(always)]
        fn float_of(self, x: Self::I) -> Self::F {
            unsafe { _mm512_castsi512_ps(x) }
        }
        #[inline(always)]
        fn load_quarters(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
            check_rows(rows, stride);
            let mut quarters = [self.splat_i32(0); 4];
            for (i, quarters) in quarters.iter_mut().enumerate() {
                unsafe {
                    let p = rows.as_ptr().add(i * stride);
                    // (Halves first: three quarters put into a whole register take as much again.)
                    let low = _mm256_loadu2_m128i(p.add(4 * stride).cast(), p.cast());
                    let (c, d) = (p.add(8 * stride), p.add(12 * stride));
                    let high = _mm256_loadu2_m128i(d.cast(), c.cast());
                    *quarters = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                }
            }
            quarters
        }
        #[inline(always)]
        fn load_rows(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
            // A transpose of each four by four leaves the rows in order.
            let r = self.load_quarters(rows, stride);
            unsafe {
                let a0 = _mm512_unpacklo_epi32(r[0], r[1]);
                let a1 = _mm512_unpackhi_epi32(r[0], r[1]);
                let b0 = _mm512_unpacklo_epi32(r[2], r[3]);
                let b1 = _mm512_unpackhi_epi32(r[2], r[3]);
                [
                    _mm512_unpacklo_epi64(a0, b0),
                    _mm512_unpackhi_epi64(a0, b0),
                    _mm512_unpacklo_epi64(a1, b1),
                    _mm512_unpackhi_epi64(a1, b1),
                ]
            }
        }
        #[inline(always)]
        fn splat_i32(self, x: i32) -> Self::I {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        fn and(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_and_si512(a, b) }
        }
        #[inline(always)]
        fn or(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_or_si512(a, b) }
        }
        #[inline(always)]
        fn select(self, mask: u8, a: Self::I, b: Self::I) -> Self::I {
            // Bit 4 i + 2 j + k of the number is the answer for bits i, j, k of the three.
            unsafe { _mm512_ternarylogic_epi32::<0b1100_1010>(self.splat_i8(mask as i8), a, b) }
        }
        #[inline(always)]
        fn shl(self, x: Self::I, n: u32) -> Self::I {
            unsafe { _mm512_sll_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        }
        #[inline(always)]
        fn shr(self, x: Self::I, n: u32) -> Self::I {
            unsafe { _mm512_srl_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        }
        #[inline(always)]
        fn sar(self, x: Self::I, n: u32) -> Self::I {
            unsafe { _mm512_sra_epi32(x, _mm_cvtsi32_si128(n as i32)) }
        }
        #[inline(always)]
        fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_mullo_epi32(a, b) }
        }
        #[inline(always)]
        fn add_i8(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_add_epi8(a, b) }
        }
        #[inline(always)]
        fn lookup(self, table: &[i8; 16], codes: Self::I) -> Self::I {
            unsafe {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes)
            }
        }
        #[inline(always)]
        fn gather<const N: usize>(self, table: &[[i8; 4]; N], codes: Self::I) -> Self::I {
            unsafe {
                // All that is read is in the table: an index is masked to its length.
                let codes = _mm512_and_si512(codes, _mm512_set1_epi32(const { index_mask(N) }));
                _mm512_i32gather_epi32::<4>(codes, table.as_ptr().cast())
            }
        }
        #[inline(always)]
        fn gather_eight<const N: usize>(
            self,
            table: &[[i8; 8]; N],
            codes: Self::I,
        ) -> [Self::I; 2] {
            unsafe {
                // All that is read is in the table: an index is masked to its length.
                let codes = _mm512_and_si512(codes, _mm512_set1_epi32(const { index_mask(N) }));
                let p = table.as_ptr().cast();
                let a = _mm512_i32gather_epi64::<8>(_mm512_castsi512_si256(codes), p);
                let b = _mm512_i32gather_epi64::<8>(_mm512_extracti64x4_epi64::<1>(codes), p);
                let first =
                    _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let last = _mm512_or_si512(first, _mm512_set1_epi32(1));
                [
                    _mm512_permutex2var_epi32(a, first, b),
                    _mm512_permutex2var_epi32(a, last, b),
                ]
            }
        }
        #[inline(always)]
        fn negate_i8(self, x: Self::I, signs: Self::I) -> Self::I {
            unsafe {
                let copies = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
                let signs = _mm512_shuffle_epi8(signs, _mm512_broadcast_i32x4(copies));
                let negative = _mm512_test_epi8_mask(signs, _mm512_set1_epi32(0x0804_0201));
                _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x)
            }
        }
        #[inline(always)]
        fn f16_to_f32(self, x: Self::I) -> Self::F {
            unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
        }

        const GATHERS: bool = true;
        const N_PANELS: usize = 2;
        const N_SUMS: usize = 16;
        #[inline(always)]
        fn load_i8x4(self, x: &[u8; 4 * LANES]) -> Self::I {
            unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
        }
        #[inline(always)]
        fn store_i8x4(self, x: Self::I, out: &mut [u8; 4 * LANES]) {
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
        }
    };
}

/// What a set with VNNI adds.
macro_rules! vnni {
    () => {
        #[inline(always)]
        fn dot16_of_many(
            self,
            dot: Self::I,
            weights: [Self::I; 4],
            x: &[[i8; 4]; 4],
            _: Option<u8>,
        ) -> Self::I {
            unsafe { dot16_of_many(dot, weights, x) }
        }
        const HAS_QUARTERS: bool = true;
        #[inline(always)]
        fn dot_quarters(
            self,
            mut sums: [Self::I; 4],
            weights: [Self::I; 4],
            x: &[[i8; 4]; 4],
        ) -> [Self::I; 4] {
            unsafe {
                let x = _mm512_broadcast_i32x4(_mm_loadu_si128(x.as_ptr().cast()));
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, w, x);
                }
            }
            sums
        }
        #[inline(always)]
        fn sum_quarters(self, start: i32, [a, b, c, d]: [Self::I; 4]) -> Self::I {
            unsafe {
                // Two lanes of each row, then four, of two vectors and of all.
                let low = _mm512_unpacklo_epi32(a, b);
                let ab = _mm512_add_epi32(low, _mm512_unpackhi_epi32(a, b));
                let low = _mm512_unpacklo_epi32(c, d);
                let cd = _mm512_add_epi32(low, _mm512_unpackhi_epi32(c, d));
                let low = _mm512_add_epi32(_mm512_set1_epi32(start), _mm512_unpacklo_epi64(ab, cd));
                _mm512_add_epi32(low, _mm512_unpackhi_epi64(ab, cd))
            }
        }

        const SIGNED_OFFSET: u8 = 128;
        #[inline(always)]
        fn dot4(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
            unsafe { _mm512_dpbusd_epi32(acc, weights, x) }
        }
        #[inline(always)]
        fn dot4_signed(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
            self.dot4(acc, weights, x)
        }
        #[inline(always)]
        fn dot_i16(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
            unsafe { dot_i16(acc, a, b) }
        }
    };
}

/// [`Simd::dot16_of_many`], with activations from where they are: LLVM would rather load those of all tokens first, and as there
/// are no registers for so many, store them again.
///
/// # Safety
/// The processor has AVX-512 F and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot16_of_many(mut dot: __m512i, [a, b, c, d]: [__m512i; 4], x: &[[i8; 4]; 4]) -> __m512i {
    // SAFETY: the caller's promise; the sixteen bytes of `x` are read.
    unsafe {
        asm!(
            "vpdpbusd {dot}, {a}, dword ptr [{x}]{{1to16}}",
            "vpdpbusd {dot}, {b}, dword ptr [{x} + 4]{{1to16}}",
            "vpdpbusd {dot}, {c}, dword ptr [{x} + 8]{{1to16}}",
            "vpdpbusd {dot}, {d}, dword ptr [{x} + 12]{{1to16}}",
            dot = inout(zmm_reg) dot,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            c = in(zmm_reg) c,
            d = in(zmm_reg) d,
            x = in(reg) x.as_ptr(),
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    dot
}

/// `_mm512_dpwssd_epi32`, of which LLVM makes two instructions in a loop, for it expects these to wait less for each
/// other; there are enough sums that none waits.
///
/// # Safety
/// The processor has AVX-512 F and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot_i16(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the caller's promise; nothing but registers is read.
    unsafe {
        asm!(
            "vpdpwssd {acc}, {a}, {b}",
            acc = inout(zmm_reg) acc,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// The digits of a grid's codes, which are words of 16 bits, of which the low ones count: from registers, where
/// gathering them would take as long as loading each.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn digits<const N: usize>(table: &[u16; N], codes: __m512i) -> __m512i {
    const { assert!(N.is_power_of_two() && 64 <= N && N <= 1024) };
    // SAFETY: the caller's promise; two registers of 32 words each are in the table.
    unsafe {
        let mut found = [_mm512_setzero_si512(); 16];
        for (found, part) in found.iter_mut().zip(table.as_chunks::<64>().0) {
            let low = _mm512_loadu_si512(part.as_ptr().cast());
            let high = _mm512_loadu_si512(part[32..].as_ptr().cast());
            *found = _mm512_permutex2var_epi16(low, codes, high);
        }
        let (mut n, mut bit) = (N / 64, 64);
        while n > 1 {
            let is_set = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(bit));
            n /= 2;
            bit *= 2;
            for i in 0..n {
                found[i] = _mm512_mask_mov_epi16(found[2 * i], is_set, found[2 * i + 1]);
            }
        }
        found[0]
    }
}

/// The words of `low` and those of `high`, beside each other.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn beside(low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_mask_mov_epi16(low, 0xaaaa_aaaa, _mm512_slli_epi32::<16>(high)) }
}

/// The levels of `BITS`-bit digits, four of each lane: from bits `from` on of the lanes.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn with_shifts<const BITS: u32>(levels: &[i8; 16], digits: __m512i, from: u32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(levels.as_ptr().cast()));
        let x = _mm512_srl_epi32(digits, _mm_cvtsi32_si128(from as i32));
        let x = _mm512_and_si512(x, _mm512_set1_epi32((1 << (4 * BITS)) - 1));
        const BOTH: i32 = 0b1010_1000; // (a | b) & c
        // Two digits in each half of a lane, then one in each byte.
        let (pair, one) = ((1 << (2 * BITS)) - 1, (1 << BITS) - 1);
        let apart = _mm512_sll_epi32(x, _mm_cvtsi32_si128(16 - 2 * BITS as i32));
        let halves = _mm512_set1_epi32(pair * 0x0001_0001);
        let x = _mm512_ternarylogic_epi32::<BOTH>(x, apart, halves);
        let apart = _mm512_sll_epi32(x, _mm_cvtsi32_si128(8 - BITS as i32));
        let bytes = _mm512_set1_epi32(one * 0x0101_0101);
        let x = _mm512_ternarylogic_epi32::<BOTH>(x, apart, bytes);
        _mm512_shuffle_epi8(levels, x)
    }
}

/// The same by instructions that take any eight bits of 64.
///
/// # Safety
/// The processor has AVX-512 F and VBMI.
#[inline(always)]
unsafe fn with_multishifts<const BITS: u32>(
    levels: &[i8; 16],
    digits: __m512i,
    from: u32,
) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(levels.as_ptr().cast()));
        // Where the bits of each byte of two lanes begin.
        let four = u64::from(from) * 0x0101_0101 + u64::from(BITS) * 0x0302_0100;
        let starts = four | (four + 0x2020_2020) << 32;
        let x = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(starts as i64), digits);
        _mm512_permutexvar_epi8(x, levels)
    }
}

/// Values of grids of at most so many codes, by [`digits`] and what takes these apart.
macro_rules! grids {
    ($max:literal, $levels:ident) => {
        #[inline(always)]
        fn look_up_eights<const N: usize>(
            self,
            grid: &Grid<8, N>,
            [a, b]: [Self::I; 2],
        ) -> [Self::I; 4] {
            // The more codes, the more registers to choose from.
            if const { N > $max } {
                return gather_eights(self, grid, [a, b]);
            }
            unsafe {
                let both = digits(&grid.digits, beside(a, b));
                let mut values = [both; 4];
                for (i, values) in (0..).zip(&mut values) {
                    *values = $levels::<2>(&grid.levels, both, 8 * i);
                }
                values
            }
        }
        #[inline(always)]
        fn look_up_fours<const N: usize>(
            self,
            grid: &Grid<4, N>,
            mut codes: [Self::I; 4],
        ) -> [Self::I; 4] {
            unsafe {
                for codes in codes.as_chunks_mut::<2>().0 {
                    let both = digits(&grid.digits, beside(codes[0], codes[1]));
                    *codes = [
                        $levels::<3>(&grid.levels, both, 0),
                        $levels::<3>(&grid.levels, both, 16),
                    ];
                }
            }
            codes
        }
    };
}

// SAFETY (every block below, and in `common`, `grids` and `vnni`): `self` proves that the processor has the
// instructions, and loads and stores stay inside the arrays that are passed.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for Avx512 {
    common!();
    grids!(512, with_shifts);

    const SIGNED_OFFSET: u8 = 0;
    dots_in_pairs!();
    #[inline(always)]
    fn dot_i16(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
    }
    #[inline(always)]
    fn dot4_signed(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        unsafe {
            // The sign goes from the weight to the activation.
            let is_negative = _mm512_movepi8_mask(weights);
            let x = _mm512_mask_sub_epi8(x, is_negative, _mm512_setzero_si512(), x);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), x);
            _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, offset: u8, out: &mut [[u8; 64]; 8]) {
        self.interleave(rows, at, offset, out);
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl InPairs for Avx512 {
    #[inline(always)]
    fn add_products(self, pairs: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        unsafe { _mm512_add_epi16(pairs, _mm512_maddubs_epi16(weights, x)) }
    }
    #[inline(always)]
    fn add_pairs(self, acc: Self::I, pairs: Self::I) -> Self::I {
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))) }
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for Avx512Vnni {
    common!();
    vnni!();
    grids!(512, with_shifts);
    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, offset: u8, out: &mut [[u8; 64]; 8]) {
        self.0.interleave(rows, at, offset, out);
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for Avx512Bf16 {
    common!();
    vnni!();
    grids!(1024, with_multishifts);
    #[inline(always)]
    fn with_parity(self, codes: Self::I) -> Self::I {
        // Byte 7 - i has the bits whose parity is bit i: one, or for the eighth all others.
        let bits = 0x0102_0408_1020_407f;
        unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(codes, _mm512_set1_epi64(bits)) }
    }

    const HAS_BF16_DOTS: bool = true;
    #[inline(always)]
    fn dot_bf16(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe {
            // Registers of the same bits.
            let [a, b] = std::mem::transmute::<[__m512; 2], [__m512bh; 2]>([a, b]);
            _mm512_dpbf16_ps(c, a, b)
        }
    }
    #[inline(always)]
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, offset: u8, out: &mut [[u8; 64]; 8]) {
        self.0.0.interleave(rows, at, offset, out);
    }
}
