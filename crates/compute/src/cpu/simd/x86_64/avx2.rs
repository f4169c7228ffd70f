//! AVX2 with FMA and F16C, with and without AVX-VNNI: two registers of eight lanes.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes, so signed weights lend their sign to the
//! activations: |w| * (x with w's sign). With x in -127..=127 two such products stay below 2^15 even
//! for w = -128, so nothing saturates. With AVX-VNNI, which processors without AVX-512 may have,
//! `vpdpbusd` does all at once; signed weights are stored with 128 added, as for AVX-512 VNNI.

use core::arch::x86_64::*;
use std::ops::Range;
use std::sync::LazyLock;

use super::super::{LANES, PanelPart, RUN, Simd, TokenPart, Vector, check_rows, index_mask};
use super::{InPairs, dot_panels_in_pairs, dot16_in_pairs, dots_in_pairs};

/// The processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<Avx2> {
        // Kept, as every call of a kernel asks.
        static HAS: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        });
        HAS.then_some(Avx2(()))
    }
}

/// The processor has AVX-VNNI too.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni(());

impl AvxVnni {
    /// `None` where the processor lacks an instruction.
    pub(crate) fn detect() -> Option<AvxVnni> {
        static HAS: LazyLock<bool> =
            LazyLock::new(|| is_x86_feature_detected!("avxvnni") && Avx2::detect().is_some());
        HAS.then_some(AvxVnni(()))
    }
}

/// `x * factor` as numbers of 16 bits.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn to_words(x: [__m256; 2], factor: [__m256; 2]) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        let mut q = [_mm256_setzero_si256(); 2];
        for (q, (x, factor)) in q.iter_mut().zip(x.into_iter().zip(factor)) {
            let x = _mm256_mul_ps(x, factor);
            // Zero where NaN: it is not equal to itself.
            let x = _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_EQ_OQ>(x, x));
            *q = _mm256_cvtps_epi32(x);
        }
        // Packing works inside 128-bit lanes; the quarters are put in order afterwards.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(q[0], q[1]))
    }
}

/// Signed bytes to f32.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn widen_i8(x: __m128i) -> [__m256; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let high = _mm_unpackhi_epi64(x, x);
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
        ]
    }
}

/// The sum of sixteen signed bytes.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn sum_i8(x: __m128i) -> i32 {
    // SAFETY: as the caller promises.
    unsafe {
        // There is a sum of bytes without a sign: 128 more each.
        let positive = _mm_xor_si128(x, _mm_set1_epi8(i8::MIN));
        let halves = _mm_sad_epu8(positive, _mm_setzero_si128());
        let sum = _mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves));
        _mm_cvtsi128_si32(sum) - 128 * LANES as i32
    }
}

macro_rules! common {
    () => {
        type F = [__m256; 2];
        type I = [__m256i; 2];

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
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::F {
            let p = x.as_ptr();
            unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        }
        #[inline(always)]
        fn store(self, x: Self::F, out: &mut [f32; LANES]) {
            let p = out.as_mut_ptr();
            unsafe {
                _mm256_storeu_ps(p, x[0]);
                _mm256_storeu_ps(p.add(8), x[1]);
            }
        }
        #[inline(always)]
        fn load_f16(self, x: &[u16; LANES]) -> Self::F {
            let p = x.as_ptr().cast();
            unsafe {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(p)),
                    _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))),
                ]
            }
        }
        #[inline(always)]
        fn load_bf16(self, x: &[u16; LANES]) -> Self::F {
            let p: *const __m128i = x.as_ptr().cast();
            unsafe {
                let low = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)));
                let high =
                    _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(1))));
                [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
            }
        }
        #[inline(always)]
        fn load_i8(self, x: &[u8; LANES]) -> Self::F {
            unsafe { widen_i8(_mm_loadu_si128(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn load_i4(self, x: &[u8; LANES], shift: i32) -> Self::F {
            unsafe {
                // Bits of a neighbor come in from above, and are masked off.
                let x = _mm_srl_epi16(_mm_loadu_si128(x.as_ptr().cast()), _mm_cvtsi32_si128(shift));
                let codes = _mm_and_si128(x, _mm_set1_epi8(15));
                widen_i8(_mm_sub_epi8(codes, _mm_set1_epi8(8)))
            }
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            unsafe {
                [
                    _mm256_fmadd_ps(a[0], b[0], c[0]),
                    _mm256_fmadd_ps(a[1], b[1], c[1]),
                ]
            }
        }
        #[inline(always)]
        fn sum(self, x: Self::F) -> f32 {
            unsafe {
                let x = _mm256_add_ps(x[0], x[1]);
                let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
            }
        }
        #[inline(always)]
        fn max_abs(self, mut a: Self::F, x: Self::F) -> Self::F {
            unsafe {
                let sign = _mm256_set1_ps(-0.0);
                for (a, x) in a.iter_mut().zip(x) {
                    // Where one is NaN the second operand is taken.
                    *a = _mm256_max_ps(_mm256_andnot_ps(sign, x), *a);
                }
            }
            a
        }
        #[inline(always)]
        fn max(self, x: Self::F) -> f32 {
            unsafe {
                let x = _mm256_max_ps(x[0], x[1]);
                let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
            }
        }
        #[inline(always)]
        fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32 {
            unsafe {
                let words = to_words(x, factor);
                let (low, high) = (
                    _mm256_castsi256_si128(words),
                    _mm256_extracti128_si256::<1>(words),
                );
                let bytes = _mm_packs_epi16(low, high);
                _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
                sum_i8(bytes)
            }
        }
        #[inline(always)]
        fn load_rows(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
            check_rows(rows, stride);
            let mut halves = [[unsafe { _mm256_setzero_si256() }; 4]; 2];
            for (half, out) in halves.iter_mut().enumerate() {
                unsafe {
                    // Row i in the lower half, row i + 4 in the upper. (No closures: they would not
                    // have the features.)
                    let mut r = [_mm256_setzero_si256(); 4];
                    for (i, r) in r.iter_mut().enumerate() {
                        let p = rows.as_ptr().add((8 * half + i) * stride);
                        let low = _mm_loadu_si128(p.cast());
                        let high = _mm_loadu_si128(p.add(4 * stride).cast());
                        *r = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
                    }
                    let a0 = _mm256_unpacklo_epi32(r[0], r[1]);
                    let a1 = _mm256_unpackhi_epi32(r[0], r[1]);
                    let b0 = _mm256_unpacklo_epi32(r[2], r[3]);
                    let b1 = _mm256_unpackhi_epi32(r[2], r[3]);
                    out[0] = _mm256_unpacklo_epi64(a0, b0);
                    out[1] = _mm256_unpackhi_epi64(a0, b0);
                    out[2] = _mm256_unpacklo_epi64(a1, b1);
                    out[3] = _mm256_unpackhi_epi64(a1, b1);
                }
            }
            let [low, high] = halves;
            [0, 1, 2, 3].map(|c| [low[c], high[c]])
        }
        #[inline(always)]
        fn splat_i32(self, x: i32) -> Self::I {
            unsafe { [_mm256_set1_epi32(x); 2] }
        }
        #[inline(always)]
        fn and(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
        }
        #[inline(always)]
        fn or(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        }
        #[inline(always)]
        fn shl(self, x: Self::I, n: u32) -> Self::I {
            unsafe {
                let n = _mm_cvtsi32_si128(n as i32);
                [_mm256_sll_epi32(x[0], n), _mm256_sll_epi32(x[1], n)]
            }
        }
        #[inline(always)]
        fn shr(self, x: Self::I, n: u32) -> Self::I {
            unsafe {
                let n = _mm_cvtsi32_si128(n as i32);
                [_mm256_srl_epi32(x[0], n), _mm256_srl_epi32(x[1], n)]
            }
        }
        #[inline(always)]
        fn sar(self, x: Self::I, n: u32) -> Self::I {
            unsafe {
                let n = _mm_cvtsi32_si128(n as i32);
                [_mm256_sra_epi32(x[0], n), _mm256_sra_epi32(x[1], n)]
            }
        }
        #[inline(always)]
        fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe {
                [
                    _mm256_mullo_epi32(a[0], b[0]),
                    _mm256_mullo_epi32(a[1], b[1]),
                ]
            }
        }
        #[inline(always)]
        fn add_i8(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { [_mm256_add_epi8(a[0], b[0]), _mm256_add_epi8(a[1], b[1])] }
        }
        #[inline(always)]
        fn lookup(self, table: &[i8; 16], codes: Self::I) -> Self::I {
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                [
                    _mm256_shuffle_epi8(table, codes[0]),
                    _mm256_shuffle_epi8(table, codes[1]),
                ]
            }
        }
        #[inline(always)]
        fn gather<const N: usize>(self, table: &[[i8; 4]; N], codes: Self::I) -> Self::I {
            unsafe {
                // All that is read is in the table: an index is masked to its length.
                let mask = _mm256_set1_epi32(const { index_mask(N) });
                let (low, high) = (
                    _mm256_and_si256(codes[0], mask),
                    _mm256_and_si256(codes[1], mask),
                );
                let p = table.as_ptr().cast();
                [
                    _mm256_i32gather_epi32::<4>(p, low),
                    _mm256_i32gather_epi32::<4>(p, high),
                ]
            }
        }
        #[inline(always)]
        fn gather_eight<const N: usize>(
            self,
            table: &[[i8; 8]; N],
            codes: Self::I,
        ) -> [Self::I; 2] {
            let mut out = [codes; 2];
            for (i, codes) in codes.into_iter().enumerate() {
                unsafe {
                    // All that is read is in the table: an index is masked to its length.
                    let codes = _mm256_and_si256(codes, _mm256_set1_epi32(const { index_mask(N) }));
                    let p = table.as_ptr().cast();
                    let a = _mm256_i32gather_epi64::<8>(p, _mm256_castsi256_si128(codes));
                    let b = _mm256_i32gather_epi64::<8>(p, _mm256_extracti128_si256::<1>(codes));
                    // First halves of entries 0, 1, 4, 5, 2, 3, 6, 7, then last halves.
                    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
                    let first = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
                    let last = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
                    let first = _mm256_permute4x64_pd::<0b11_01_10_00>(first);
                    let last = _mm256_permute4x64_pd::<0b11_01_10_00>(last);
                    out[0][i] = _mm256_castpd_si256(first);
                    out[1][i] = _mm256_castpd_si256(last);
                }
            }
            out
        }
        #[inline(always)]
        fn negate_i8(self, mut x: Self::I, signs: Self::I) -> Self::I {
            for (x, signs) in x.iter_mut().zip(signs) {
                unsafe {
                    let copies = _mm256_setr_epi8(
                        0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, //
                        0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,
                    );
                    let bit = _mm256_set1_epi32(0x0804_0201);
                    let signs = _mm256_and_si256(_mm256_shuffle_epi8(signs, copies), bit);
                    // All ones where negative: the complement, plus one.
                    let ones = _mm256_cmpeq_epi8(signs, bit);
                    *x = _mm256_sub_epi8(_mm256_xor_si256(*x, ones), ones);
                }
            }
            x
        }
        #[inline(always)]
        fn f16_to_f32(self, x: Self::I) -> Self::F {
            unsafe {
                let mask = _mm256_set1_epi32(0xffff);
                // Packing works inside 128-bit lanes; the quarters are put in order afterwards.
                let words =
                    _mm256_packus_epi32(_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask));
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                [
                    _mm256_cvtph_ps(_mm256_castsi256_si128(words)),
                    _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(words)),
                ]
            }
        }

        const GATHERS: bool = true;
        const N_PANELS: usize = 1;
        const N_SUMS: usize = 4;
        #[inline(always)]
        fn load_i8x4(self, x: &[u8; 4 * LANES]) -> Self::I {
            let p: *const __m256i = x.as_ptr().cast();
            unsafe { [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))] }
        }
        #[inline(always)]
        fn store_i8x4(self, x: Self::I, out: &mut [u8; 4 * LANES]) {
            let p: *mut __m256i = out.as_mut_ptr().cast();
            unsafe {
                _mm256_storeu_si256(p, x[0]);
                _mm256_storeu_si256(p.add(1), x[1]);
            }
        }
        const IN_HALVES: bool = true;
        #[inline(always)]
        fn add_in_halves<const R: usize, const T: usize>(
            self,
            rows: &[[Vector; R]],
            tokens: &[&[[f32; LANES]]; T],
            sums: &mut [[Vector; R]; T],
        ) {
            assert!(tokens.iter().all(|token| token.len() == rows.len()));
            for half in [0, LANES / 2] {
                unsafe {
                    let zero = _mm256_setzero_ps();
                    let mut acc = [[zero; R]; T];
                    for t in 0..T {
                        for r in 0..R {
                            acc[t][r] = _mm256_loadu_ps(sums[t][r].0.as_ptr().add(half));
                        }
                    }
                    for (i, rows) in rows.iter().enumerate() {
                        let mut x = [zero; T];
                        for (x, token) in x.iter_mut().zip(tokens) {
                            *x = _mm256_loadu_ps(token.as_ptr().add(i).cast::<f32>().add(half));
                        }
                        for (r, row) in rows.iter().enumerate() {
                            let w = _mm256_loadu_ps(row.0.as_ptr().add(half));
                            for t in 0..T {
                                acc[t][r] = _mm256_fmadd_ps(w, x[t], acc[t][r]);
                            }
                        }
                    }
                    for t in 0..T {
                        for r in 0..R {
                            _mm256_storeu_ps(sums[t][r].0.as_mut_ptr().add(half), acc[t][r]);
                        }
                    }
                }
            }
        }
        const HAS_I16_DOTS: bool = true;
        #[inline(always)]
        fn to_i16(self, x: Self::F, factor: Self::F, out: &mut [u8; 2 * LANES]) {
            unsafe {
                let words = to_words(x, factor);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), words);
            }
        }
        #[inline(always)]
        fn to_f32(self, x: Self::I) -> Self::F {
            unsafe { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
        }
        #[inline(always)]
        fn float_of(self, x: Self::I) -> Self::F {
            unsafe { [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])] }
        }
        #[inline(always)]
        fn interleave(
            self,
            rows: &[[i8; RUN]; LANES],
            at: usize,
            offset: u8,
            out: &mut [[u8; 64]; 8],
        ) {
            let out: *mut __m256i = out.as_mut_ptr().cast();
            for half in 0..2 {
                unsafe {
                    // Four by four inside each 128-bit lane, then the lanes change places. (No
                    // closures: they would not have the features.)
                    let mut r = [_mm256_setzero_si256(); 8];
                    for (i, r) in r.iter_mut().enumerate() {
                        let row = rows[8 * half + i][at..at + 32].as_ptr();
                        *r = _mm256_loadu_si256(row.cast());
                        *r = _mm256_add_epi8(*r, _mm256_set1_epi8(offset as i8));
                    }
                    let mut fours = [[_mm256_setzero_si256(); 4]; 2];
                    for (half, four) in fours.iter_mut().enumerate() {
                        let r = &r[4 * half..];
                        let a0 = _mm256_unpacklo_epi32(r[0], r[1]);
                        let a1 = _mm256_unpackhi_epi32(r[0], r[1]);
                        let b0 = _mm256_unpacklo_epi32(r[2], r[3]);
                        let b1 = _mm256_unpackhi_epi32(r[2], r[3]);
                        *four = [
                            _mm256_unpacklo_epi64(a0, b0),
                            _mm256_unpackhi_epi64(a0, b0),
                            _mm256_unpacklo_epi64(a1, b1),
                            _mm256_unpackhi_epi64(a1, b1),
                        ];
                    }
                    let [top, bottom] = fours;
                    for i in 0..4 {
                        let low = _mm256_permute2x128_si256::<0x20>(top[i], bottom[i]);
                        let high = _mm256_permute2x128_si256::<0x31>(top[i], bottom[i]);
                        _mm256_storeu_si256(out.add(2 * i + half), low);
                        _mm256_storeu_si256(out.add(2 * (i + 4) + half), high);
                    }
                }
            }
        }
    };
}

// SAFETY (every block below, and in `common`): `self` proves that the processor has the
// instructions, and loads and stores stay inside the arrays that are passed.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for Avx2 {
    common!();

    const SIGNED_OFFSET: u8 = 0;
    dots_in_pairs!();
    #[inline(always)]
    fn dot_i16(self, mut acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        for (acc, (a, b)) in acc.iter_mut().zip(a.into_iter().zip(b)) {
            *acc = unsafe { _mm256_add_epi32(*acc, _mm256_madd_epi16(a, b)) };
        }
        acc
    }
    #[inline(always)]
    fn dot4_signed(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        unsafe {
            // The sign goes from the weight to the activation.
            let x = [
                _mm256_sign_epi8(x[0], weights[0]),
                _mm256_sign_epi8(x[1], weights[1]),
            ];
            let weights = [_mm256_abs_epi8(weights[0]), _mm256_abs_epi8(weights[1])];
            self.dot4(acc, weights, x)
        }
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl InPairs for Avx2 {
    #[inline(always)]
    fn add_products(self, mut pairs: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        for (pairs, (w, x)) in pairs.iter_mut().zip(weights.into_iter().zip(x)) {
            *pairs = unsafe { _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(w, x)) };
        }
        pairs
    }
    #[inline(always)]
    fn add_pairs(self, mut acc: Self::I, pairs: Self::I) -> Self::I {
        for (acc, pairs) in acc.iter_mut().zip(pairs) {
            unsafe {
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
        acc
    }
}

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, stated above"
)]
impl Simd for AvxVnni {
    common!();

    const SIGNED_OFFSET: u8 = 128;
    #[inline(always)]
    fn dot4(self, mut acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        for (acc, (w, x)) in acc.iter_mut().zip(weights.into_iter().zip(x)) {
            *acc = unsafe { _mm256_dpbusd_avx_epi32(*acc, w, x) };
        }
        acc
    }
    #[inline(always)]
    fn dot4_signed(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
        self.dot4(acc, weights, x)
    }
    #[inline(always)]
    fn dot_i16(self, mut acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        for (acc, (a, b)) in acc.iter_mut().zip(a.into_iter().zip(b)) {
            *acc = unsafe { _mm256_dpwssd_avx_epi32(*acc, a, b) };
        }
        acc
    }
}
