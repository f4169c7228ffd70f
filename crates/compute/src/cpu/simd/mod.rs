//! The instruction sets: one trait of 16-lane primitives, one file for each set.
//!
//! Kernels (`cpu/ops`) are written once, generic over [`Simd`], and compiled once for each
//! instruction set, inside a function that has its features enabled (`cpu/kernels.rs`). Every
//! primitive has the same result, bit for bit, on every instruction set (that has it): 16 lanes whatever the
//! width of the registers, fused multiply-adds, exact integer sums. So a kernel gives the same
//! bits everywhere, and the scalar set is the specification that the others are tested against.

use std::ops::Range;

use crate::dtype::iq_grids::Grid;

mod scalar;
pub(crate) mod tiles;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, NeonDotprod, NeonI8mm};
pub(crate) use scalar::Scalar;
pub(crate) use tiles::PlainTiles;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    amx::Amx, avx2::Avx2, avx2::AvxVnni, avx512::Avx512, avx512::Avx512Bf16, avx512::Avx512Vnni,
};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Weights of a row that are unpacked at a time.
pub(crate) const RUN: usize = 256;

/// Some columns of a panel, by four, in its layout.
pub(crate) type PanelPart<'a> = &'a [[u8; 4 * LANES]];

/// Some activations of a token, by four.
pub(crate) type TokenPart<'a> = &'a [[i8; 4]];

/// A vector in one line of a cache: a load that crosses two takes twice as long.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Vector(pub(crate) [f32; LANES]);

/// 16-lane primitives of one instruction set. A value of the type is the proof that the processor
/// has the instructions, so it can be made only by the type's checked constructor.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 lanes of f32.
    type F: Copy;
    /// 16 lanes of i32.
    type I: Copy;

    /// Asks for the line of memory at `at`, which need not be valid, where there is a way to ask:
    /// into the second cache.
    fn prefetch(self, at: *const u8) {
        let _ = at;
    }
    /// The same, into the first cache.
    fn prefetch_near(self, at: *const u8) {
        let _ = at;
    }
    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// IEEE half precision to f32.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// The upper halves of f32.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::F;
    /// Signed bytes to f32.
    fn load_i8(self, x: &[u8; LANES]) -> Self::F;
    /// Less 8 each, the four bits of each byte from bit `shift` on, 0 or 4.
    fn load_i4(self, x: &[u8; LANES], shift: i32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Whether the next one goes through the lower lanes first, for sets with too few registers to keep as many sums of all
    /// lanes as feed each number that is loaded to several products.
    const IN_HALVES: bool = false;
    /// To the sums of `T` tokens and `R` rows their products are added, vector after vector, as [`Simd::fma`] does.
    #[inline(always)]
    fn add_in_halves<const R: usize, const T: usize>(
        self,
        rows: &[[Vector; R]],
        tokens: &[&[[f32; LANES]]; T],
        sums: &mut [[Vector; R]; T],
    ) {
        for (sums, token) in sums.iter_mut().zip(tokens) {
            for (rows, x) in rows.iter().zip(*token) {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    let product = self.fma(self.load(&row.0), self.load(x), self.load(&sum.0));
                    self.store(product, &mut sum.0);
                }
            }
        }
    }
    /// Whether there is [`Simd::dot_bf16`].
    const HAS_BF16_DOTS: bool = false;
    /// In each lane, of numbers of bf16: the product of the upper halves of `a` and `b` is added to `c`, then that of
    /// the lower ones, each rounded once. What is not normal counts as 0, unlike with [`Simd::fma`].
    fn dot_bf16(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        let _ = (a, b, c);
        unreachable!("HAS_BF16_DOTS says so")
    }
    /// The sum of the lanes: lane i and i + 8 first, then i and i + 4, 2, 1.
    fn sum(self, x: Self::F) -> f32;
    /// The sums of eight vectors' lanes, each as [`Simd::sum`] has it.
    #[inline(always)]
    fn sum_eight(self, x: [Self::F; 8]) -> [f32; 8] {
        let mut sums = [0.0; 8];
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = self.sum(x);
        }
        sums
    }

    /// The larger of `a` and |x| in each lane; NaN in `x` is passed over.
    fn max_abs(self, a: Self::F, x: Self::F) -> Self::F;
    /// The largest lane.
    fn max(self, x: Self::F) -> f32;
    /// Whether there are the next two, and multiply twice as many numbers at a time as [`Simd::fma`].
    const HAS_I16_DOTS: bool = false;
    /// `x * factor`, at most 32767 in size, to the nearest integers, ties to even, of two bytes each. A lane that is NaN
    /// becomes 0.
    fn to_i16(self, x: Self::F, factor: Self::F, out: &mut [u8; 2 * LANES]) {
        let _ = (x, factor, out);
        unreachable!("HAS_I16_DOTS says so")
    }
    /// For each lane: acc + two products of signed numbers of 16 bits; what is too large wraps around.
    fn dot_i16(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let _ = (acc, a, b);
        unreachable!("HAS_I16_DOTS says so")
    }
    /// `x * factor`, at most 127 in size, to the nearest integers, ties to even; answers their
    /// sum. A lane that is NaN becomes 0.
    fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32;

    /// Sixteen bytes of each of 16 rows that are `stride` bytes apart, by columns: lane r of vector
    /// c has bytes 4 c to 4 c + 4 of row r.
    fn load_rows(self, rows: &[u8], stride: usize) -> [Self::I; 4];
    /// The f16 number at the beginning of each of 16 rows, row r at `rows[r * stride]`, and behind each two bytes more: as
    /// four bytes they go straight to a vector.
    #[inline(always)]
    fn load_f16_rows(self, rows: &[u8], stride: usize) -> Self::F {
        self.f16_to_f32(self.load_four_of_rows(rows, stride))
    }
    /// The same for numbers that begin at the third byte.
    #[inline(always)]
    fn load_f16_rows_behind(self, rows: &[u8], stride: usize) -> Self::F {
        self.f16_to_f32(self.shr(self.load_four_of_rows(rows, stride), 16))
    }
    /// Whether there are the next three: for a token or two, bytes of rows are then multiplied as they lie in memory, and
    /// their sums moved to lanes instead of the bytes.
    const HAS_QUARTERS: bool = false;
    /// Sixteen bytes of each of 16 rows that are `stride` bytes apart: vector i has in its quarter j those of row
    /// 4 j + i.
    fn load_quarters(self, rows: &[u8], stride: usize) -> [Self::I; 4] {
        let _ = (rows, stride);
        unreachable!("HAS_QUARTERS says so")
    }
    /// To each lane of quarters the sum of four products is added: of its weights, in 0..=255, and of those of the sixteen
    /// activations that belong to them.
    fn dot_quarters(
        self,
        sums: [Self::I; 4],
        weights: [Self::I; 4],
        x: &[[i8; 4]; 4],
    ) -> [Self::I; 4] {
        let _ = (sums, weights, x);
        unreachable!("HAS_QUARTERS says so")
    }
    /// For each row `start` + the sum of its quarter: lane r has row r's.
    fn sum_quarters(self, start: i32, x: [Self::I; 4]) -> Self::I {
        let _ = (start, x);
        unreachable!("HAS_QUARTERS says so")
    }
    /// The four bytes at the beginning of each of 16 rows, row r at `rows[r * stride]`.
    #[inline(always)]
    fn load_four_of_rows(self, rows: &[u8], stride: usize) -> Self::I {
        assert!(rows.len() >= 15 * stride + 4, "four bytes of every row");
        let mut fours = [[0u8; 4]; LANES];
        for (row, four) in fours.iter_mut().enumerate() {
            // SAFETY: all four bytes are in the slice by the assertion.
            *four = unsafe { rows.as_ptr().add(row * stride).cast::<[u8; 4]>().read() };
        }
        self.load_i8x4(fours.as_flattened().first_chunk().expect("all of them"))
    }
    fn splat_i32(self, x: i32) -> Self::I;
    /// Four signed bytes in each lane.
    fn splat_i8(self, x: i8) -> Self::I {
        self.splat_i32(i32::from_ne_bytes([x as u8; 4]))
    }
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// In each byte the bits of `a` where those of `mask` are set, and of `b` where not.
    #[inline(always)]
    fn select(self, mask: u8, a: Self::I, b: Self::I) -> Self::I {
        let (mask, others) = (self.splat_i8(mask as i8), self.splat_i8(!mask as i8));
        self.or(self.and(a, mask), self.and(b, others))
    }
    /// The lanes shifted to the left.
    fn shl(self, x: Self::I, n: u32) -> Self::I;
    /// The lanes shifted to the right, without their sign.
    fn shr(self, x: Self::I, n: u32) -> Self::I;
    /// The lanes shifted to the right, with their sign.
    fn sar(self, x: Self::I, n: u32) -> Self::I;
    /// The low halves of the lanes' products.
    fn mul_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// The sums of the bytes, without carries between them.
    fn add_i8(self, a: Self::I, b: Self::I) -> Self::I;
    /// For each byte, at most 15, the entry of the table.
    fn lookup(self, table: &[i8; 16], codes: Self::I) -> Self::I;
    /// Whether there is an instruction for [`Simd::gather`].
    const GATHERS: bool;
    /// For each lane, the entry that its low bits choose; `N` is a power of two.
    fn gather<const N: usize>(self, table: &[[i8; 4]; N], codes: Self::I) -> Self::I;
    /// The same for entries of eight bytes: the first four and the last four of each.
    fn gather_eight<const N: usize>(self, table: &[[i8; 8]; N], codes: Self::I) -> [Self::I; 2];
    /// Byte i of a lane, i in 0..4, with the other sign where bit i of the lane of `signs` is set.
    fn negate_i8(self, x: Self::I, signs: Self::I) -> Self::I;
    /// For each lane of both, the values of the code in its low bits: the first four and the last four of each.
    #[inline(always)]
    fn look_up_eights<const N: usize>(
        self,
        grid: &Grid<8, N>,
        codes: [Self::I; 2],
    ) -> [Self::I; 4] {
        gather_eights(self, grid, codes)
    }
    /// For each lane of each, the values of the code in its low bits.
    #[inline(always)]
    fn look_up_fours<const N: usize>(
        self,
        grid: &Grid<4, N>,
        mut codes: [Self::I; 4],
    ) -> [Self::I; 4] {
        for codes in &mut codes {
            *codes = self.gather(&grid.values, *codes);
        }
        codes
    }
    /// Sets the eighth bit of each byte, which is 0, to the parity of its other bits.
    #[inline(always)]
    fn with_parity(self, codes: Self::I) -> Self::I {
        /// An eighth bit for each number with an odd number of bits.
        const ODD: [i8; 16] = {
            let mut odd = [0; 16];
            let mut i = 0;
            while i < 16 {
                odd[i] = if (i as u8).count_ones() % 2 == 1 {
                    i8::MIN
                } else {
                    0
                };
                i += 1;
            }
            odd
        };
        let nibbles = self.splat_i8(0x0f);
        let low = self.lookup(&ODD, self.and(codes, nibbles));
        let high = self.lookup(&ODD, self.and(self.shr(codes, 4), nibbles));
        self.or(codes, self.add_i8(low, high))
    }
    /// The half-precision numbers in the lower halves of the lanes.
    fn f16_to_f32(self, x: Self::I) -> Self::F;

    /// What a panel of signed weights has added to each: for instructions that read weights without
    /// a sign.
    const SIGNED_OFFSET: u8;
    /// Panels that are multiplied together: as many as there are registers for.
    const N_PANELS: usize;
    /// Sums of f32 that are kept at a time: as many as leave registers for their factors.
    const N_SUMS: usize;
    fn load_i8x4(self, x: &[u8; 4 * LANES]) -> Self::I;
    fn store_i8x4(self, x: Self::I, out: &mut [u8; 4 * LANES]);
    /// For each lane: acc + the sum of four products of its weights, in 0..=127, and its
    /// activations, in -127..=127.
    fn dot4(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I;
    /// The same for signed weights with [`Simd::SIGNED_OFFSET`] added.
    fn dot4_signed(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I;
    /// `dots[t][p]` + the sum of the products of some columns of panel `p` and of token `t`: of the fours
    /// of columns `fours`, a multiple of four of them. Weights are at most `max`, as [`Simd::dot4`] wants
    /// them, or `None` as [`Simd::dot4_signed`] does.
    #[inline(always)]
    fn dot_panels<const N: usize, const P: usize>(
        self,
        dots: [[Self::I; P]; N],
        parts: (&[PanelPart<'_>; P], &[TokenPart<'_>; N]),
        fours: Range<usize>,
        max: Option<u8>,
    ) -> [[Self::I; P]; N] {
        dot_fours(self, dots, parts, fours, Dot::of(max))
    }
    /// `dot` + the sum of sixteen products in each lane, as for one token and one panel.
    #[inline(always)]
    fn dot16(
        self,
        mut dot: Self::I,
        weights: [Self::I; 4],
        x: &[[i8; 4]; 4],
        max: Option<u8>,
    ) -> Self::I {
        for (w, x) in weights.into_iter().zip(x) {
            let x = self.splat_four(x);
            dot = match max {
                Some(_) => self.dot4(dot, w, x),
                None => self.dot4_signed(dot, w, x),
            };
        }
        dot
    }
    /// The same, where it is done for more than two tokens at once.
    #[inline(always)]
    fn dot16_of_many(
        self,
        dot: Self::I,
        weights: [Self::I; 4],
        x: &[[i8; 4]; 4],
        max: Option<u8>,
    ) -> Self::I {
        self.dot16(dot, weights, x, max)
    }
    /// The same four bytes in each lane.
    #[inline(always)]
    fn splat_four(self, x: &[i8; 4]) -> Self::I {
        let [a, b, c, d] = *x;
        self.splat_i32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]))
    }
    fn to_f32(self, x: Self::I) -> Self::F;
    /// The numbers whose bits the lanes are.
    fn float_of(self, x: Self::I) -> Self::F;
    /// Columns of a row that are beside each other in a panel, which is `[n_columns / BESIDE][row][BESIDE]`.
    const BESIDE: usize = 4;
    /// Sixteen columns, four of them in each vector, to the layout of a panel.
    #[inline(always)]
    fn store_panel(self, q: [Self::I; 4], out: &mut [[u8; 4 * LANES]; 4]) {
        for (out, q) in out.iter_mut().zip(q) {
            self.store_i8x4(q, out);
        }
    }
    /// Columns `at..at + 32` of 16 rows of weights, plus `offset`, to the layout of a panel.
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, offset: u8, out: &mut [[u8; 64]; 8]);
}

/// [`Simd::look_up_eights`], one code after the other.
#[inline(always)]
fn gather_eights<S: Simd, const N: usize>(
    s: S,
    grid: &Grid<8, N>,
    [first, second]: [S::I; 2],
) -> [S::I; 4] {
    let [a, b] = s.gather_eight(&grid.values, first);
    let [c, d] = s.gather_eight(&grid.values, second);
    [a, b, c, d]
}

/// What the four bytes of a lane are, and how they are multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Dot {
    /// [`Simd::dot4`].
    Fours,
    /// [`Simd::dot4_signed`].
    SignedFours,
    /// [`Simd::dot_i16`].
    Int16,
}

impl Dot {
    /// For weights that are at most so large without a sign, or have one.
    fn of(max: Option<u8>) -> Dot {
        match max {
            Some(_) => Dot::Fours,
            None => Dot::SignedFours,
        }
    }
}

/// [`Simd::dot_panels`], one lane's bytes after the other.
#[inline(always)]
pub(crate) fn dot_fours<S: Simd, const N: usize, const P: usize>(
    s: S,
    mut dots: [[S::I; P]; N],
    (weights, x): (&[PanelPart<'_>; P], &[TokenPart<'_>; N]),
    mut fours: Range<usize>,
    dot: Dot,
) -> [[S::I; P]; N] {
    let (mut weights, mut x) = (*weights, *x);
    // With registers enough nothing is checked between multiplications; with few, what is then loaded
    // early goes through memory (AVX2: an eighth slower).
    if const { S::N_PANELS == 2 } {
        for weights in &mut weights {
            *weights = &weights[fours.clone()];
        }
        for x in &mut x {
            *x = &x[fours.clone()];
        }
        fours = 0..fours.len();
    }
    for i in fours {
        let mut w = [s.splat_i32(0); P];
        for p in 0..P {
            w[p] = s.load_i8x4(&weights[p][i]);
        }
        for t in 0..N {
            let x = s.splat_four(&x[t][i]);
            for p in 0..P {
                dots[t][p] = match dot {
                    Dot::Fours => s.dot4(dots[t][p], w[p], x),
                    Dot::SignedFours => s.dot4_signed(dots[t][p], w[p], x),
                    Dot::Int16 => s.dot_i16(dots[t][p], w[p], x),
                };
            }
        }
    }
    dots
}

/// What leaves an index into a table of `N` entries of a number.
const fn index_mask(n: usize) -> i32 {
    assert!(
        n.is_power_of_two() && n <= 1 << 30,
        "an index is some low bits"
    );
    n as i32 - 1
}

/// Asserts that 16 bytes can be read at each of 16 rows.
#[inline(always)]
fn check_rows(rows: &[u8], stride: usize) {
    assert!(rows.len() >= 15 * stride + 16, "sixteen bytes of every row");
}

#[cfg(test)]
mod tests;
