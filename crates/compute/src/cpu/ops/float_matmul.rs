//! Products with weights that are numbers of their own: F32, F16, BF16 and the like.
//!
//! For one output: sixteen partial sums, lane i adding the products of elements i, i + 16, … in
//! order with fused multiply-adds, then the lanes' sum. Four rows are turned into f32 at a time
//! and used for all tokens, four at a time; for few tokens they are turned in registers.

use crate::cpu::simd::{LANES, Simd};
use crate::cpu::threads::Tile;

/// How a row becomes f32; types without a fast way are dequantized by their table row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatKind {
    F32,
    F16,
    Bf16,
    Other(crate::DType),
}

/// Rows that share a load of activations.
pub(crate) const ROWS: usize = 4;

/// `out[t][r] = rows[r] . x[t]`; `x` is `[n_tokens, width]`, `out` `[n_tokens, n_rows]`, and
/// `wide` has room for [`ROWS`] rows.
#[inline(always)]
pub(crate) fn float_matmul<S: Simd>(
    s: S,
    (kind, rows): (FloatKind, &[u8]),
    (x, width): (&[f32], usize),
    wide: &mut [f32],
    out: &mut Tile<'_, f32>,
) {
    let n_tokens = out.n_rows();
    if n_tokens == 0 {
        return;
    }
    let n_rows = out.row(0).len();
    let row_bytes = rows.len() / n_rows;
    if n_tokens < 4 && width.is_multiple_of(LANES) && n_rows.is_multiple_of(ROWS) {
        match kind {
            FloatKind::F32 => return few_tokens::<S, Singles>(s, rows, (x, width), out),
            FloatKind::F16 => return few_tokens::<S, Halves>(s, rows, (x, width), out),
            FloatKind::Bf16 => return few_tokens::<S, UpperHalves>(s, rows, (x, width), out),
            FloatKind::Other(_) => {}
        }
    }
    for first in (0..n_rows).step_by(ROWS) {
        let n = ROWS.min(n_rows - first);
        for r in 0..n {
            let bytes = &rows[(first + r) * row_bytes..][..row_bytes];
            widen(s, kind, bytes, &mut wide[r * width..][..width]);
        }
        let row = |r: usize| &wide[r * width..][..width];
        let mut t = 0;
        while t < n_tokens {
            let token = |i: usize| &x[(t + i) * width..][..width];
            if n == ROWS && n_tokens - t >= 4 {
                let rows = std::array::from_fn(row);
                let sums = dots::<S, ROWS, 4>(s, rows, std::array::from_fn(token));
                for (i, sums) in sums.into_iter().enumerate() {
                    out.row(t + i)[first..first + ROWS].copy_from_slice(&sums);
                }
                t += 4;
            } else if n == ROWS {
                let sums = dots::<S, ROWS, 1>(s, std::array::from_fn(row), [token(0)]);
                out.row(t)[first..first + ROWS].copy_from_slice(&sums[0]);
                t += 1;
            } else {
                for r in 0..n {
                    out.row(t)[first + r] = dots::<S, 1, 1>(s, [row(r)], [token(0)])[0][0];
                }
                t += 1;
            }
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

/// The products of each token with each row, `[token][row]`.
#[inline(always)]
fn dots<S: Simd, const R: usize, const T: usize>(
    s: S,
    rows: [&[f32]; R],
    tokens: [&[f32]; T],
) -> [[f32; R]; T] {
    let rows = rows.map(|row| row.as_chunks::<LANES>());
    let tokens = tokens.map(|token| token.as_chunks::<LANES>());
    let mut acc = [[s.splat(0.0); R]; T];
    let n = rows[0].0.len();
    assert!(rows.iter().all(|r| r.0.len() == n) && tokens.iter().all(|t| t.0.len() == n));
    for i in 0..n {
        let mut w = [s.splat(0.0); R];
        for r in 0..R {
            w[r] = s.load(&rows[r].0[i]);
        }
        for t in 0..T {
            let x = s.load(&tokens[t].0[i]);
            for r in 0..R {
                acc[t][r] = s.fma(w[r], x, acc[t][r]);
            }
        }
    }
    if !rows[0].1.is_empty() {
        let padded = |rest: &[f32]| {
            let mut all = [0.0; LANES];
            all[..rest.len()].copy_from_slice(rest);
            all
        };
        for t in 0..T {
            let x = s.load(&padded(tokens[t].1));
            for r in 0..R {
                acc[t][r] = s.fma(s.load(&padded(rows[r].1)), x, acc[t][r]);
            }
        }
    }
    let mut sums = [[0.0; R]; T];
    for t in 0..T {
        for r in 0..R {
            sums[t][r] = s.sum(acc[t][r]);
        }
    }
    sums
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
