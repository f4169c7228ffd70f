//! Products with weights that are numbers of their own: F32, F16, BF16 and the like.
//!
//! For one output: sixteen partial sums, lane i adding the products of elements i, i + 16, … in
//! order with fused multiply-adds, then the lanes' sum.
//!
//! Activations are f32, but where weights are BF16 in whole 32s and what is lost does not go into logits as it is: there they
//! are rounded to bf16 as well, for processors that multiply two such numbers in each lane at once. Of 32 elements lane i
//! then adds the product of element 2 i + 1 and that of 2 i. Where there are no such instructions the same is
//! done in f32: elements with odd places, and those with even ones, are a vector each. (Only where there are, what is below
//! 2^-126 in size is 0.) A word of activations is then such a pair, or else a number.
//!
//! ```text
//! for some tokens, some rows, a strip of columns:
//!     for a few of the tokens, a few of the rows:
//!         sums += rows * tokens
//! ```
//!
//! 1. A strip of rows is turned into what is multiplied, f32 or pairs of bf16, stays in the first cache, and meets some
//!    tokens at a time, which come from the second cache once for all these rows. As many of both are multiplied as there are
//!    registers for sums, so that each number that is loaded feeds several products.
//! 2. The first of these tokens are multiplied while rows are turned, so that the multiplications hide the work, but where vectors
//!    are multiplied in halves.
//! 3. In a strip, vectors that are multiplied together lie beside each other: one address leads to all
//!    of them. With an address for each row half the addresses wait in memory.
//! 4. Partial sums wait in memory for the next strip, which is asked for meanwhile.
//! 5. Tokens are taken in groups, the larger the fewer times rows are read and turned.
//! 6. For few tokens rows are turned in registers.

use crate::cpu::simd::tiles::to_bf16;
use crate::cpu::simd::{LANES, Simd, Vector};
use crate::cpu::threads::Tile;

use super::ahead::LINE;

/// How a row becomes f32; types without a fast way are dequantized by their table row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    F32,
    F16,
    Bf16,
    /// BF16, over activations of [`round`].
    Bf16Rounded,
    Other(crate::DType),
}

/// Elements that are rounded together.
pub(crate) const PAIRS: usize = 2 * LANES;

/// Words of a row in a strip: of all rows they take half of a first cache of 32 KiB.
const STRIP: usize = 512;
/// The most tokens of a group: whole tiles of every size.
const GROUP: usize = 132;
/// Rows of a strip: whole tiles of every size.
const ROWS: usize = 8;

/// What one thread needs beside its operands.
pub(crate) struct FloatScratch {
    /// A strip, `[tile][vector][row]`.
    strip: Vec<Vector>,
    /// Partial sums, `[tile][token][row]`.
    sums: Vec<Vector>,
}

impl FloatScratch {
    pub(crate) const BYTES: usize = 4 * ROWS * (STRIP + GROUP * LANES);

    pub(crate) fn new() -> FloatScratch {
        FloatScratch {
            strip: vec![Vector([0.0; LANES]); ROWS * STRIP / LANES],
            sums: vec![Vector([0.0; LANES]); ROWS * GROUP],
        }
    }
}

/// How many words a row of activations takes that are rounded to bf16: two elements in each, or one.
pub(crate) fn rounded_words<S: Simd>(width: usize) -> usize {
    match S::HAS_BF16_DOTS {
        true => width / 2,
        false => width,
    }
}

/// Rounds whole [`PAIRS`] to bf16, into as many words as [`rounded_words`] says.
#[inline(always)]
pub(crate) fn round<S: Simd>(_: S, x: &[f32], out: &mut [f32]) {
    assert!(x.len().is_multiple_of(PAIRS) && rounded_words::<S>(x.len()) == out.len());
    let out = out.chunks_exact_mut(rounded_words::<S>(PAIRS));
    for (x, out) in x.as_chunks::<PAIRS>().0.iter().zip(out) {
        let x = x.map(|x| u32::from(to_bf16(x)) << 16);
        for (i, [even, odd]) in x.as_chunks::<2>().0.iter().enumerate() {
            if const { S::HAS_BF16_DOTS } {
                out[i] = f32::from_bits(odd | even >> 16);
            } else {
                out[i] = f32::from_bits(*odd);
                out[LANES + i] = f32::from_bits(*even);
            }
        }
    }
}

/// `out[t][r] = rows[r] . x[t]`; `x` is `[n_tokens, width]`, in words as [`round`] leaves them where that is wanted, `out`
/// `[n_tokens, n_rows]`.
#[inline(always)]
pub(crate) fn float_matmul<S: Simd>(
    s: S,
    (kind, rows): (FloatKind, &[u8]),
    x: (&[f32], usize),
    scratch: &mut FloatScratch,
    out: &mut Tile<'_, f32>,
) {
    match kind {
        FloatKind::F32 => product(s, (Singles, rows), x, scratch, out),
        FloatKind::F16 => product(s, (Halves, rows), x, scratch, out),
        FloatKind::Bf16 => product(s, (UpperHalves, rows), x, scratch, out),
        FloatKind::Bf16Rounded if S::HAS_BF16_DOTS => product(s, (Pairs, rows), x, scratch, out),
        FloatKind::Bf16Rounded => product(s, (Split, rows), x, scratch, out),
        FloatKind::Other(dtype) => product(s, (dtype, rows), x, scratch, out),
    }
}

#[inline(always)]
fn product<S: Simd, N: Numbers>(
    s: S,
    weight: (N, &[u8]),
    (x, width): (&[f32], usize),
    scratch: &mut FloatScratch,
    out: &mut Tile<'_, f32>,
) {
    let n_tokens = out.n_rows();
    if n_tokens == 0 {
        return;
    }
    let n_rows = out.row(0).len();
    if n_tokens < 4 && width.is_multiple_of(LANES) {
        // As many rows share a load of activations as leave registers.
        if const { S::N_SUMS >= 16 } && n_rows.is_multiple_of(8) {
            return few_tokens::<S, N, 8>(s, weight, (x, width), out);
        }
        if n_rows.is_multiple_of(4) {
            return few_tokens::<S, N, 4>(s, weight, (x, width), out);
        }
    }
    // By themselves, so that nothing of the others is compiled.
    if const { S::IN_HALVES } {
        groups::<S, N, 4, 3>(s, weight, (x, width), scratch, out);
    } else if const { S::N_SUMS >= 16 } {
        groups::<S, N, 8, 3>(s, weight, (x, width), scratch, out);
    } else if const { S::N_SUMS >= 4 } {
        groups::<S, N, 2, 2>(s, weight, (x, width), scratch, out);
    } else {
        groups::<S, N, 1, 1>(s, weight, (x, width), scratch, out);
    }
}

/// Tiles of `R` rows and `T` tokens, and the tokens that are left one by one. Where rows are left, the
/// last one stands for those that a tile lacks.
#[inline(always)]
fn groups<S: Simd, N: Numbers, const R: usize, const T: usize>(
    s: S,
    (numbers, rows): (N, &[u8]),
    (x, width): (&[f32], usize),
    scratch: &mut FloatScratch,
    out: &mut Tile<'_, f32>,
) {
    let (n_tokens, n_rows) = (out.n_rows(), out.row(0).len());
    let bytes_each = numbers.bytes();
    let row_bytes = width * bytes_each;
    // Groups are about as large as each other, so that rows are not turned for a few tokens.
    let even = n_tokens.div_ceil(n_tokens.div_ceil(GROUP));
    let group_len = even.next_multiple_of(T);
    for first_token in (0..n_tokens).step_by(group_len) {
        let len = group_len.min(n_tokens - first_token);
        let x = &x[first_token * width..][..len * width];
        for first_row in (0..n_rows).step_by(ROWS) {
            // Their rows stay in the first cache, beside the tokens of one tile.
            // (One is said to the compiler: with a loop AVX-512 takes a twentieth longer.)
            let n_tiles = match const { ROWS / R } {
                1 => 1,
                most => (n_rows - first_row).div_ceil(R).min(most),
            };
            let sums = &mut scratch.sums.as_chunks_mut::<R>().0[..n_tiles * len];
            for start in (0..width).step_by(STRIP) {
                let end = width.min(start + STRIP);
                let whole = (end - start) / LANES;
                let strips = &mut scratch.strip.as_chunks_mut::<R>().0[..n_tiles * whole];
                let fresh_rows = |tile: usize| -> [&[u8]; R] {
                    std::array::from_fn(|r| {
                        let row = (first_row + tile * R + r).min(n_rows - 1) * row_bytes;
                        &rows[row + start * bytes_each..row + end * bytes_each]
                    })
                };
                let (next_row, next_column) = match end < width {
                    true => (first_row, end),
                    false => (first_row + ROWS, 0),
                };
                let next = next_row * row_bytes + next_column * bytes_each;
                let mut next_strip = NextStrip {
                    at: rows.as_ptr().wrapping_add(next),
                    row_bytes,
                    row_lines: STRIP * bytes_each / LINE,
                    n_asked: 0,
                    is_near: bytes_each <= 2,
                };
                let mut t = 0;
                while t < len {
                    let n = if len - t >= T { T } else { 1 };
                    next_strip.ask(s, ROWS * next_strip.row_lines * (t + n) / len);
                    let x = (&x[t * width + start..], width);
                    for tile in 0..n_tiles {
                        let strip = &mut strips[tile * whole..][..whole];
                        let sums = (&mut sums[tile * len + t..], start == 0);
                        let is_whole = n == T;
                        if const { S::IN_HALVES } {
                            if t == 0 {
                                turn((s, numbers), &fresh_rows(tile), strip);
                            }
                            match is_whole {
                                true => in_halves::<S, R, T>(s, strip, x, sums),
                                false => in_halves::<S, R, 1>(s, strip, x, sums),
                            }
                        } else if t == 0 {
                            let fresh = Fresh {
                                numbers,
                                rows: &fresh_rows(tile),
                                strip,
                            };
                            match is_whole {
                                true => multiply::<S, N, _, R, T>((s, numbers), fresh, x, sums),
                                false => multiply::<S, N, _, R, 1>((s, numbers), fresh, x, sums),
                            }
                        } else {
                            let wide = Wide(&*strip);
                            match is_whole {
                                true => multiply::<S, N, _, R, T>((s, numbers), wide, x, sums),
                                false => multiply::<S, N, _, R, 1>((s, numbers), wide, x, sums),
                            }
                        }
                    }
                    t += n;
                }
                let rest = start + whole * LANES..end;
                if !rest.is_empty() {
                    for (tile, sums) in sums.chunks_exact_mut(len).enumerate() {
                        let mut weights = [s.splat(0.0); R];
                        for (w, row) in weights.iter_mut().zip(fresh_rows(tile)) {
                            // Numbers of eight bytes at most; what is missing is 0.
                            let (mut bytes, row) =
                                ([0; 8 * LANES], &row[whole * LANES * bytes_each..]);
                            bytes[..row.len()].copy_from_slice(row);
                            *w = numbers.load(s, &bytes, 0);
                        }
                        for (x, sums) in x.chunks_exact(width).zip(sums) {
                            add_rest(s, &weights, &x[rest.clone()], sums);
                        }
                    }
                }
            }
            for (tile, sums) in sums.chunks_exact(len).enumerate() {
                let first = first_row + tile * R;
                let n = R.min(n_rows - first);
                for (t, sums) in sums.iter().enumerate() {
                    let out = &mut out.row(first_token + t)[first..first + n];
                    out.copy_from_slice(&lane_sums(s, sums)[..n]);
                }
            }
        }
    }
}

/// Asks for a strip of rows a few lines at a time: all at once they would be in the way of tokens. Into
/// the first cache, as in the second alone they gain nothing on Zen 4, unless they would fill it.
struct NextStrip {
    /// The first row's, which need not be there.
    at: *const u8,
    row_bytes: usize,
    row_lines: usize,
    n_asked: usize,
    is_near: bool,
}

impl NextStrip {
    /// Asks until so many lines were.
    #[inline(always)]
    fn ask<S: Simd>(&mut self, s: S, n_lines: usize) {
        for i in self.n_asked..n_lines {
            let (row, line) = (i / self.row_lines, i % self.row_lines);
            let at = self.at.wrapping_add(row * self.row_bytes + line * LINE);
            match self.is_near {
                true => s.prefetch_near(at),
                false => s.prefetch(at),
            }
        }
        self.n_asked = n_lines;
    }
}

/// Adds the products of the last columns, fewer than a vector has, to a token's sums.
#[inline(always)]
fn add_rest<S: Simd, const R: usize>(s: S, weights: &[S::F; R], x: &[f32], sums: &mut [Vector; R]) {
    let mut token = [0.0; LANES];
    token[..x.len()].copy_from_slice(x);
    for (w, sum) in weights.iter().zip(sums) {
        let added = s.fma(*w, s.load(&token), s.load(&sum.0));
        s.store(added, &mut sum.0);
    }
}

/// The sum of each vector's lanes.
#[inline(always)]
fn lane_sums<S: Simd, const R: usize>(s: S, vectors: &[Vector; R]) -> [f32; R] {
    let mut sums = [0.0; R];
    let ((eights, rest), (sums_of_eights, sums_of_rest)) =
        (vectors.as_chunks::<8>(), sums.as_chunks_mut::<8>());
    for (sums, eight) in sums_of_eights.iter_mut().zip(eights) {
        let mut all = [s.splat(0.0); 8];
        for (all, vector) in all.iter_mut().zip(eight) {
            *all = s.load(&vector.0);
        }
        *sums = s.sum_eight(all);
    }
    for (sum, vector) in sums_of_rest.iter_mut().zip(rest) {
        *sum = s.sum(s.load(&vector.0));
    }
    sums
}

/// Adds the products of a strip's whole vectors to the partial sums of `R` rows and `T` tokens, or
/// begins them; `x` is from the first token's first column on.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "weights are read by the same indices"
)]
fn multiply<S: Simd, N: Numbers, W: Weights<S, R>, const R: usize, const T: usize>(
    (s, numbers): (S, N),
    mut weights: W,
    (x, width): (&[f32], usize),
    (sums, begins): (&mut [[Vector; R]], bool),
) {
    let n = weights.n_vectors();
    let tokens: [&[[f32; LANES]]; T] = std::array::from_fn(|t| &x[t * width..].as_chunks().0[..n]);
    let mut acc = [[s.splat(0.0); R]; T];
    if !begins {
        for t in 0..T {
            for r in 0..R {
                acc[t][r] = s.load(&sums[t][r].0);
            }
        }
    }
    for i in 0..n {
        let mut token = [s.splat(0.0); T];
        for t in 0..T {
            token[t] = s.load(&tokens[t][i]);
        }
        for r in 0..R {
            let w = weights.load(s, i, r);
            for t in 0..T {
                acc[t][r] = numbers.add_product(s, w, token[t], acc[t][r]);
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            s.store(acc[t][r], &mut sums[t][r].0);
        }
    }
}

/// The same with [`Simd::add_in_halves`], for numbers that are multiplied in f32.
#[inline(always)]
fn in_halves<S: Simd, const R: usize, const T: usize>(
    s: S,
    strip: &[[Vector; R]],
    (x, width): (&[f32], usize),
    (sums, begins): (&mut [[Vector; R]], bool),
) {
    const {
        assert!(
            !(S::IN_HALVES && S::HAS_BF16_DOTS),
            "all are multiplied in f32"
        )
    }
    let tokens: [&[[f32; LANES]]; T] =
        std::array::from_fn(|t| &x[t * width..].as_chunks().0[..strip.len()]);
    let sums = sums.first_chunk_mut().expect("one for each token");
    if begins {
        *sums = [[Vector([0.0; LANES]); R]; T];
    }
    s.add_in_halves(strip, &tokens, sums);
}

/// Turns rows into a strip.
#[inline(always)]
fn turn<S: Simd, N: Numbers, const R: usize>(
    (s, numbers): (S, N),
    rows: &[&[u8]; R],
    strip: &mut [[Vector; R]],
) {
    for (i, strip) in strip.iter_mut().enumerate() {
        for (row, strip) in rows.iter().zip(strip) {
            s.store(numbers.load(s, row, i), &mut strip.0);
        }
    }
}

/// Where a tile has a strip of `R` rows from.
trait Weights<S: Simd, const R: usize> {
    fn n_vectors(&self) -> usize;
    /// Vector `i` of row `r`.
    fn load(&mut self, s: S, i: usize, r: usize) -> S::F;
}

/// A strip as it is multiplied.
struct Wide<'a, const R: usize>(&'a [[Vector; R]]);

impl<S: Simd, const R: usize> Weights<S, R> for Wide<'_, R> {
    #[inline(always)]
    fn n_vectors(&self) -> usize {
        self.0.len()
    }
    #[inline(always)]
    fn load(&mut self, s: S, i: usize, r: usize) -> S::F {
        s.load(&self.0[i][r].0)
    }
}

/// Rows as the model has them, which become a strip as they are loaded.
struct Fresh<'a, N, const R: usize> {
    numbers: N,
    rows: &'a [&'a [u8]; R],
    strip: &'a mut [[Vector; R]],
}

impl<S: Simd, N: Numbers, const R: usize> Weights<S, R> for Fresh<'_, N, R> {
    #[inline(always)]
    fn n_vectors(&self) -> usize {
        self.strip.len()
    }
    #[inline(always)]
    fn load(&mut self, s: S, i: usize, r: usize) -> S::F {
        let w = self.numbers.load(s, self.rows[r], i);
        s.store(w, &mut self.strip[i][r].0);
        w
    }
}

/// How numbers are read.
trait Numbers: Copy {
    /// Of one number, or two that are multiplied with one word of activations.
    fn bytes(self) -> usize;
    /// Vector `i` of a row, of which all is there.
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F;
    /// `acc` + the products of a vector of weights and one of activations.
    #[inline(always)]
    fn add_product<S: Simd>(self, s: S, w: S::F, x: S::F, acc: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// Vector `i` of `N` bytes.
#[inline(always)]
fn vector<const N: usize>(row: &[u8], i: usize) -> &[u8; N] {
    let vector = row[i * N..].first_chunk();
    vector.expect("whole vectors")
}

#[derive(Clone, Copy)]
struct Singles;
#[derive(Clone, Copy)]
struct Halves;
#[derive(Clone, Copy)]
struct UpperHalves;
/// Numbers of bf16, two in each lane.
#[derive(Clone, Copy)]
struct Pairs;
/// The same numbers in vectors of f32: of each 32 those with odd places, then those with even ones.
#[derive(Clone, Copy)]
struct Split;

impl Numbers for Singles {
    #[inline(always)]
    fn bytes(self) -> usize {
        4
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F {
        let mut x = [0.0; LANES];
        for (x, bytes) in x
            .iter_mut()
            .zip(vector::<{ 4 * LANES }>(row, i).as_chunks::<4>().0)
        {
            *x = f32::from_le_bytes(*bytes);
        }
        s.load(&x)
    }
}

impl Numbers for Halves {
    #[inline(always)]
    fn bytes(self) -> usize {
        2
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F {
        s.load_f16(&words(vector(row, i)))
    }
}

impl Numbers for UpperHalves {
    #[inline(always)]
    fn bytes(self) -> usize {
        2
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F {
        s.load_bf16(&words(vector(row, i)))
    }
}

impl Numbers for Pairs {
    #[inline(always)]
    fn bytes(self) -> usize {
        4
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F {
        s.float_of(s.load_i8x4(vector(row, i)))
    }
    #[inline(always)]
    fn add_product<S: Simd>(self, s: S, w: S::F, x: S::F, acc: S::F) -> S::F {
        s.dot_bf16(w, x, acc)
    }
}

impl Numbers for Split {
    #[inline(always)]
    fn bytes(self) -> usize {
        2
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F {
        let pairs = s.load_i8x4(vector(row, i / 2));
        s.float_of(match i % 2 {
            0 => s.and(pairs, s.splat_i32(0xffff_0000_u32 as i32)),
            _ => s.shl(pairs, 16),
        })
    }
}

impl Numbers for crate::DType {
    #[inline(always)]
    fn bytes(self) -> usize {
        self.row_bytes(1).expect("numbers of their own")
    }
    #[inline(always)]
    fn load<S: Simd>(self, s: S, row: &[u8], i: usize) -> S::F {
        let len = LANES * self.bytes();
        let mut x = [0.0; LANES];
        self.dequantize_row(&row[i * len..][..len], &mut x);
        s.load(&x)
    }
}

/// Sixteen numbers of two bytes.
#[inline(always)]
pub(super) fn words(bytes: &[u8; 2 * LANES]) -> [u16; LANES] {
    let mut words = [0; LANES];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *word = u16::from_le_bytes(*bytes);
    }
    words
}

/// The same sums for rows in whole `R` and whole vectors.
#[inline(always)]
fn few_tokens<S: Simd, N: Numbers, const R: usize>(
    s: S,
    (numbers, rows): (N, &[u8]),
    (x, width): (&[f32], usize),
    out: &mut Tile<'_, f32>,
) {
    let row_bytes = width * numbers.bytes();
    for (i, rows) in rows.chunks_exact(R * row_bytes).enumerate() {
        for t in 0..out.n_rows() {
            let x = x[t * width..][..width].as_chunks::<LANES>().0;
            let mut acc = [s.splat(0.0); R];
            for (j, x) in x.iter().enumerate() {
                let x = s.load(x);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let at = r * row_bytes + j * LANES * numbers.bytes();
                    if t == 0 {
                        s.prefetch(rows.as_ptr().wrapping_add(at + R * row_bytes));
                    }
                    let w = numbers.load(s, &rows[r * row_bytes..][..row_bytes], j);
                    *acc = numbers.add_product(s, w, x, *acc);
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                out.row(t)[i * R + r] = s.sum(acc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::cpu::isa::Isa;
    use crate::cpu::kernels::Kernels;
    use crate::cpu::threads::SharedBuf;
    use crate::dtype::f16_to_f32;

    /// One output as the module says.
    fn plain(row: &[f32], x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (i, (w, x)) in row.iter().zip(x).enumerate() {
            lanes[i % LANES] = w.mul_add(*x, lanes[i % LANES]);
        }
        sum(lanes)
    }

    /// The same with rounded activations.
    fn plain_rounded(row: &[f32], x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for i in (0..row.len()).map(|i| i ^ 1) {
            let x = f32::from_bits(u32::from(to_bf16(x[i])) << 16);
            lanes[i / 2 % LANES] = row[i].mul_add(x, lanes[i / 2 % LANES]);
        }
        sum(lanes)
    }

    fn sum(mut lanes: [f32; LANES]) -> f32 {
        let mut n = LANES;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                lanes[i] += lanes[i + n];
            }
        }
        lanes[0]
    }

    #[test]
    fn strips_groups_and_edges_are_the_plain_sums() {
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for (n_rows, width, n_tokens) in [
            (1, 5, 1),
            (7, 16, 3),
            (8, STRIP, 4),
            (19, STRIP + LANES, GROUP + 1),
            (9, 2 * STRIP + 13, GROUP - 1),
            (16, STRIP - 1, 2 * GROUP + 2),
            (4, 3 * STRIP, 2),
            (24, 2 * STRIP, 1),
            (16, STRIP + LANES, 3),
        ] {
            let x: Vec<f32> = (0..n_tokens * width).map(|_| number()).collect();
            let halves: Vec<u16> = (0..n_rows * width)
                .map(|_| 0x3000 | (number().to_bits() >> 8) as u16 & 0x8bf8) // exact in bf16
                .collect();
            let rows: Vec<f32> = halves.iter().map(|half| f16_to_f32(*half)).collect();
            let f16 = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            let bf16 = rows.iter().flat_map(|w| w.to_le_bytes()[2..].to_vec());
            let f32 = rows.iter().flat_map(|w| w.to_le_bytes()).collect();
            let f64 = rows.iter().flat_map(|w| f64::from(*w).to_le_bytes());
            let weights: [(FloatKind, Vec<u8>); 4] = [
                (FloatKind::F16, f16),
                (FloatKind::Bf16, bf16.collect()),
                (FloatKind::F32, f32),
                (FloatKind::Other(DType::F64), f64.collect()),
            ];
            for (kind, bytes) in &weights {
                check((*kind, bytes), &rows, (&x, width), plain);
            }
        }
    }

    #[test]
    fn sums_of_rounded_activations_are_the_plain_ones() {
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(state & 0x8fff_ffff | 0x3000_0000) // normal, from 2^-31 to 2
        };
        for (n_rows, width, n_tokens) in [
            (1, PAIRS, 1),
            (7, 2 * PAIRS, 3),
            (4, 2 * STRIP, 2),
            (8, 2 * STRIP + PAIRS, 4),
            (19, 3 * STRIP, GROUP + 1),
            (12, 5 * PAIRS, 1),
            (24, 5 * PAIRS, 2),
        ] {
            let x: Vec<f32> = (0..n_tokens * width).map(|_| number()).collect();
            let bytes = (0..n_rows * width).flat_map(|_| number().to_le_bytes()[2..].to_vec());
            let bytes: Vec<u8> = bytes.collect();
            let mut rows = vec![0.0; n_rows * width];
            DType::BF16.dequantize_row(&bytes, &mut rows);
            check(
                (FloatKind::Bf16Rounded, &bytes),
                &rows,
                (&x, width),
                plain_rounded,
            );
        }
    }

    /// Every instruction set gives the bits that `plain` gives.
    fn check(
        (kind, bytes): (FloatKind, &[u8]),
        rows: &[f32],
        (x, width): (&[f32], usize),
        plain: fn(&[f32], &[f32]) -> f32,
    ) {
        let (n_rows, n_tokens) = (rows.len() / width, x.len() / width);
        for isa in Isa::available() {
            let kernels = Kernels::get(isa).unwrap();
            let mut out = SharedBuf::zeroed(n_tokens * n_rows).unwrap();
            let mut scratch = FloatScratch::new();
            let mut tile = out.whole(n_rows);
            let (mut words, mut row_words) = (x.to_vec(), width);
            if kind == FloatKind::Bf16Rounded {
                row_words = (kernels.rounded_words)(width);
                words = vec![0.0; n_tokens * row_words];
                for (x, words) in x.chunks_exact(width).zip(words.chunks_exact_mut(row_words)) {
                    (kernels.round)(x, words);
                }
            }
            (kernels.float_matmul)((kind, bytes), (&words, row_words), &mut scratch, &mut tile);
            for t in 0..n_tokens {
                for r in 0..n_rows {
                    let row = &rows[r * width..][..width];
                    let wanted = plain(row, &x[t * width..][..width]);
                    let what = format!("{isa}, {kind:?}, {n_rows}x{width}, {t}, {r}");
                    assert_eq!(tile.row(t)[r].to_bits(), wanted.to_bits(), "{what}");
                }
            }
        }
    }
}
