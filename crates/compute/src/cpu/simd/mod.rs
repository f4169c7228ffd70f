//! The instruction sets: one trait of 16-lane primitives, one file for each set.
//!
//! Kernels (`cpu/ops`) are written once, generic over [`Simd`], and compiled once for each
//! instruction set, inside a function that has its features enabled (`cpu/kernels.rs`). Every
//! primitive has the same result, bit for bit, on every instruction set: 16 lanes whatever the
//! width of the registers, fused multiply-adds, exact integer sums. So a kernel gives the same
//! bits everywhere, and the scalar set is the specification that the others are tested against.

mod scalar;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{avx2::Avx2, avx512::Avx512, avx512::Avx512Vnni};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Weights of a row that are unpacked at a time.
pub(crate) const RUN: usize = 256;

/// 16-lane primitives of one instruction set. A value of the type is the proof that the processor
/// has the instructions, so it can be made only by the type's checked constructor.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 16 lanes of f32.
    type F: Copy;
    /// 16 lanes of i32.
    type I: Copy;

    /// Asks for the line of memory at `at`, which need not be valid, where there is a way to ask.
    fn prefetch(self, at: *const u8) {
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
    /// The sum of the lanes: lane i and i + 8 first, then i and i + 4, 2, 1.
    fn sum(self, x: Self::F) -> f32;

    /// The larger of `a` and |x| in each lane; NaN in `x` is passed over.
    fn max_abs(self, a: Self::F, x: Self::F) -> Self::F;
    /// The largest lane.
    fn max(self, x: Self::F) -> f32;
    /// `x * factor`, at most 127 in size, to the nearest integers, ties to even; answers their
    /// sum. A lane that is NaN becomes 0.
    fn to_i8(self, x: Self::F, factor: Self::F, out: &mut [i8; LANES]) -> i32;

    /// Where an integer sum starts: `bias` where [`Simd::dot4`] reads its weights with 128 added
    /// (bias is -128 times the sum of the activations), else zero.
    fn start(self, bias: i32) -> Self::I;
    /// For each lane: acc + the sum of four products of the lane's weights (as
    /// [`Simd::interleave`] left them) and the activations `x`, each in -127..=127.
    fn dot4(self, acc: Self::I, weights: &[i8; 4 * LANES], x: [i8; 4]) -> Self::I;
    fn to_f32(self, x: Self::I) -> Self::F;
    /// Columns `at..at + 32` of 16 rows of weights to the layout of [`Simd::dot4`],
    /// `[8][row][4]`.
    fn interleave(self, rows: &[[i8; RUN]; LANES], at: usize, out: &mut [i8; 32 * LANES]);
}

/// The specification of [`Simd::interleave`] without its offset.
#[inline(always)]
fn interleave_plain(rows: &[[i8; RUN]; LANES], at: usize, out: &mut [i8; 32 * LANES]) {
    for (row, weights) in rows.iter().enumerate() {
        for (i, four) in weights[at..at + 32].chunks_exact(4).enumerate() {
            out[(i * LANES + row) * 4..][..4].copy_from_slice(four);
        }
    }
}
