//! Products with weights that are numbers of their own: F32, F16, BF16 and the like.
//!
//! For one output: sixteen partial sums, lane i adding the products of elements i, i + 16, … in
//! order with fused multiply-adds, then the lanes' sum.
//!
//! 1. Some rows are turned into f32, a strip of columns at a time that stays in the first cache,
//!    and multiplied with some tokens at a time; as many of both as there are registers for sums, so
//!    that each number that is loaded feeds several products.
//!    Meanwhile those of the next tokens are asked for, a tenth more speed, their sums, and the next
//!    strip of rows: with 8192 columns another 8 % on Zen 4.
//! 2. Partial sums wait in memory for the next strip.
//! 3. Tokens are taken in groups whose activations stay in the second cache while all rows of the
//!    product go by.
//! 4. For few tokens rows are turned in registers.

use std::ops::Range;

use crate::cpu::simd::{LANES, Simd};
use crate::cpu::threads::Tile;

use super::ahead::LINE;

/// How a row becomes f32; types without a fast way are dequantized by their table row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    F32,
    F16,
    Bf16,
    Other(crate::DType),
}

/// Rows that share a load of activations, for few tokens.
const ROWS: usize = 4;
/// Columns of a strip.
const STRIP: usize = 512;
/// Tokens of a group: whole tiles of every size.
const GROUP: usize = 60;
/// The most rows of a tile.
const MAX_ROWS: usize = 8;

/// What one thread needs beside its operands.
pub(crate) struct FloatScratch {
    rows: Vec<Row>,
    /// Partial sums, `[token][row]`.
    sums: Vec<[[f32; LANES]; MAX_ROWS]>,
}

/// A strip of a row, and a vector more: else rows would all want the same places of the first cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row([f32; STRIP + LANES]);

impl FloatScratch {
    pub(crate) const BYTES: usize = 4 * MAX_ROWS * (STRIP + LANES + GROUP * LANES);

    pub(crate) fn new() -> FloatScratch {
        FloatScratch {
            rows: vec![Row([0.0; STRIP + LANES]); MAX_ROWS],
            sums: vec![[[0.0; LANES]; MAX_ROWS]; GROUP],
        }
    }
}

/// `out[t][r] = rows[r] . x[t]`; `x` is `[n_tokens, width]`, `out` `[n_tokens, n_rows]`.
#[inline(always)]
pub(crate) fn float_matmul<S: Simd>(
    s: S,
    (kind, rows): (FloatKind, &[u8]),
    (x, width): (&[f32], usize),
    scratch: &mut FloatScratch,
    out: &mut Tile<'_, f32>,
) {
    let n_tokens = out.n_rows();
    if n_tokens == 0 {
        return;
    }
    let n_rows = out.row(0).len();
    if n_tokens < 4 && width.is_multiple_of(LANES) && n_rows.is_multiple_of(ROWS) {
        match kind {
            FloatKind::F32 => return few_tokens::<S, Singles>(s, rows, (x, width), out),
            FloatKind::F16 => return few_tokens::<S, Halves>(s, rows, (x, width), out),
            FloatKind::Bf16 => return few_tokens::<S, UpperHalves>(s, rows, (x, width), out),
            FloatKind::Other(_) => {}
        }
    }
    let weight = (kind, rows);
    match S::N_SUMS {
        16.. => groups::<S, MAX_ROWS, 3>(s, weight, (x, width), scratch, out),
        4.. => groups::<S, 2, 2>(s, weight, (x, width), scratch, out),
        _ => groups::<S, 1, 1>(s, weight, (x, width), scratch, out),
    }
}

/// Tiles of `R` rows and `T` tokens, and what is left at the edges row by row and token by token.
#[inline(always)]
fn groups<S: Simd, const R: usize, const T: usize>(
    s: S,
    (kind, rows): (FloatKind, &[u8]),
    (x, width): (&[f32], usize),
    scratch: &mut FloatScratch,
    out: &mut Tile<'_, f32>,
) {
    let (n_tokens, n_rows) = (out.n_rows(), out.row(0).len());
    let row_bytes = rows.len() / n_rows;
    let bytes_each = row_bytes / width;
    for first_token in (0..n_tokens).step_by(GROUP) {
        let group = first_token..n_tokens.min(first_token + GROUP);
        for first_row in (0..n_rows).step_by(R) {
            let n = R.min(n_rows - first_row);
            for from in (0..width).step_by(STRIP) {
                let columns = from..width.min(from + STRIP);
                for r in 0..n {
                    let bytes = &rows[(first_row + r) * row_bytes..][..row_bytes];
                    let bytes = &bytes[columns.start * bytes_each..columns.end * bytes_each];
                    widen(s, kind, bytes, &mut scratch.rows[r].0[..columns.len()]);
                }
                let (next_row, next_byte) = match columns.end < width {
                    true => (first_row, columns.end * bytes_each),
                    false => (first_row + R, 0),
                };
                // A row each time as many tokens are done as keep them even.
                let mut n_asked = 0;
                let mut t = group.start;
                while t < group.end {
                    while n_asked * group.len() < (t + T - group.start) * R && n_asked < R {
                        let at = (next_row + n_asked) * row_bytes + next_byte;
                        ask(s, rows.as_ptr().wrapping_add(at), STRIP * bytes_each);
                        n_asked += 1;
                    }
                    let x = &x[t * width..];
                    let sums = &mut scratch.sums[t - group.start..];
                    let part = (&scratch.rows[..n], columns.clone());
                    if n == R && group.end - t >= T {
                        tile::<S, R, T>(s, part, (x, width), sums);
                        t += T;
                    } else if n == R {
                        tile::<S, R, 1>(s, part, (x, width), sums);
                        t += 1;
                    } else {
                        for (r, sums) in sums[0][..n].iter_mut().enumerate() {
                            let row = (&scratch.rows[r..=r], columns.clone());
                            let mut sum = [[[0.0; LANES]; MAX_ROWS]];
                            sum[0][0] = *sums;
                            tile::<S, 1, 1>(s, row, (x, width), &mut sum);
                            *sums = sum[0][0];
                        }
                        t += 1;
                    }
                }
                let n_rest = columns.len() % LANES;
                if n_rest > 0 {
                    let first = columns.len() - n_rest;
                    for (t, sums) in group.clone().zip(&mut scratch.sums) {
                        let x = &x[t * width..][columns.start + first..columns.end];
                        add_rest(s, &scratch.rows[..n], first, x, sums);
                    }
                }
            }
            for (t, sums) in group.clone().zip(&scratch.sums) {
                let out = &mut out.row(t)[first_row..first_row + n];
                for (out, sums) in out.iter_mut().zip(sums) {
                    *out = s.sum(s.load(sums));
                }
            }
        }
    }
}

/// Asks for bytes from `at` on, which need not be there.
#[inline(always)]
fn ask<S: Simd>(s: S, at: *const u8, n_bytes: usize) {
    for i in (0..n_bytes).step_by(LINE) {
        s.prefetch(at.wrapping_add(i));
    }
}

/// Adds the products of the last columns, fewer than a vector has, to a token's sums.
#[inline(always)]
fn add_rest<S: Simd>(s: S, rows: &[Row], first: usize, x: &[f32], sums: &mut [[f32; LANES]]) {
    let padded = |rest: &[f32]| {
        let mut all = [0.0; LANES];
        all[..rest.len()].copy_from_slice(rest);
        all
    };
    let token = padded(x);
    for (row, sums) in rows.iter().zip(sums) {
        let row = padded(&row.0[first..][..x.len()]);
        let sum = s.fma(s.load(&row), s.load(&token), s.load(sums));
        s.store(sum, sums);
    }
}

/// Adds the products of the whole vectors of some columns to the partial sums of `R` rows and `T` tokens,
/// or begins them.
#[inline(always)]
fn tile<S: Simd, const R: usize, const T: usize>(
    s: S,
    (rows, columns): (&[Row], Range<usize>),
    (x, width): (&[f32], usize),
    sums: &mut [[[f32; LANES]; MAX_ROWS]],
) {
    let whole = columns.len() / LANES;
    let rows: [&[[f32; LANES]]; R] = std::array::from_fn(|r| &rows[r].0.as_chunks().0[..whole]);
    let tokens: [&[[f32; LANES]]; T] =
        std::array::from_fn(|t| &x[t * width + columns.start..].as_chunks().0[..whole]);
    let mut acc = [[s.splat(0.0); R]; T];
    if columns.start > 0 {
        for t in 0..T {
            for r in 0..R {
                acc[t][r] = s.load(&sums[t][r]);
            }
        }
    }
    let next_sums = sums.as_ptr().wrapping_add(T).cast::<[f32; LANES]>();
    for i in 0..whole {
        s.prefetch_near(next_sums.wrapping_add(i).cast());
        let mut token = [s.splat(0.0); T];
        for t in 0..T {
            let at = tokens[t][i].as_ptr();
            token[t] = s.load(&tokens[t][i]);
            s.prefetch_near(at.wrapping_add(T * width).cast());
        }
        for r in 0..R {
            let w = s.load(&rows[r][i]);
            for t in 0..T {
                acc[t][r] = s.fma(w, token[t], acc[t][r]);
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            s.store(acc[t][r], &mut sums[t][r]);
        }
    }
}

/// How sixteen numbers are read.
trait Numbers {
    const BYTES: usize;
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::F;
}

struct Singles;
struct Halves;
struct UpperHalves;

impl Numbers for Singles {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::F {
        let mut x = [0.0; LANES];
        for (x, bytes) in x.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *x = f32::from_le_bytes(*bytes);
        }
        s.load(&x)
    }
}

impl Numbers for Halves {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::F {
        s.load_f16(&words(bytes))
    }
}

impl Numbers for UpperHalves {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::F {
        s.load_bf16(&words(bytes))
    }
}

/// Sixteen numbers of two bytes; those that are missing are zero.
#[inline(always)]
fn words(bytes: &[u8]) -> [u16; LANES] {
    let mut words = [0; LANES];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *word = u16::from_le_bytes(*bytes);
    }
    words
}

/// The same sums for rows in whole fours and whole vectors.
#[inline(always)]
fn few_tokens<S: Simd, N: Numbers>(
    s: S,
    rows: &[u8],
    (x, width): (&[f32], usize),
    out: &mut Tile<'_, f32>,
) {
    let row_bytes = width * N::BYTES;
    for (i, rows) in rows.chunks_exact(ROWS * row_bytes).enumerate() {
        for t in 0..out.n_rows() {
            let x = x[t * width..][..width].as_chunks::<LANES>().0;
            let mut acc = [s.splat(0.0); ROWS];
            for (j, x) in x.iter().enumerate() {
                let x = s.load(x);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let at = r * row_bytes + j * LANES * N::BYTES;
                    if t == 0 {
                        s.prefetch(rows.as_ptr().wrapping_add(at + ROWS * row_bytes));
                    }
                    let w = N::load(s, &rows[at..][..LANES * N::BYTES]);
                    *acc = s.fma(w, x, *acc);
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                out.row(t)[i * ROWS + r] = s.sum(acc);
            }
        }
    }
}

#[inline(always)]
fn widen<S: Simd>(s: S, kind: FloatKind, bytes: &[u8], out: &mut [f32]) {
    match kind {
        FloatKind::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        FloatKind::F16 | FloatKind::Bf16 => {
            let (chunks, rest) = bytes.as_chunks::<{ 2 * LANES }>();
            let (outs, out_rest) = out.as_chunks_mut::<LANES>();
            let is_f16 = kind == FloatKind::F16;
            for (out, bytes) in outs.iter_mut().zip(chunks) {
                let x = words(bytes);
                s.store(
                    if is_f16 {
                        s.load_f16(&x)
                    } else {
                        s.load_bf16(&x)
                    },
                    out,
                );
            }
            if !rest.is_empty() {
                let (x, mut all) = (words(rest), [0.0; LANES]);
                s.store(
                    if is_f16 {
                        s.load_f16(&x)
                    } else {
                        s.load_bf16(&x)
                    },
                    &mut all,
                );
                out_rest.copy_from_slice(&all[..out_rest.len()]);
            }
        }
        FloatKind::Other(dtype) => dtype.dequantize_row(bytes, out),
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
        ] {
            let x: Vec<f32> = (0..n_tokens * width).map(|_| number()).collect();
            let halves: Vec<u16> = (0..n_rows * width)
                .map(|_| 0x3000 | (number().to_bits() >> 8) as u16 & 0x8bff)
                .collect();
            let rows: Vec<f32> = halves.iter().map(|half| f16_to_f32(*half)).collect();
            let f16 = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            let f32 = rows.iter().flat_map(|w| w.to_le_bytes()).collect();
            let f64 = rows.iter().flat_map(|w| f64::from(*w).to_le_bytes());
            let weights: [(FloatKind, Vec<u8>); 3] = [
                (FloatKind::F16, f16),
                (FloatKind::F32, f32),
                (FloatKind::Other(DType::F64), f64.collect()),
            ];
            for (kind, bytes) in &weights {
                for isa in Isa::available() {
                    let kernel = Kernels::get(isa).unwrap().float_matmul;
                    let mut out = SharedBuf::zeroed(n_tokens * n_rows).unwrap();
                    let mut scratch = FloatScratch::new();
                    let mut tile = out.whole(n_rows);
                    kernel((*kind, bytes), (&x, width), &mut scratch, &mut tile);
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
    }
}
