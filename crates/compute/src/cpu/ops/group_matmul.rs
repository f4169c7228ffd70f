//! Products with weights whose groups of elements share a scale: every quantized type.
//!
//! For one output, with groups g of 16 or 32 elements in order:
//!
//! ```text
//! sum = 0
//! for g:  dot = sum over i of weight[g][i] * q[g][i]          (integers, exact)
//!         sum = fma(dot, scale[g] * d[g], sum)
//!         sum = fma(min[g], d[g] * (sum of q[g]), sum)         (types with a minimum)
//! ```
//!
//! 1. Sixteen rows at a time are unpacked into a panel: weights as i8, four of a row beside each
//!    other and the sixteen rows side by side, scales likewise. A type enters only by its unpacking.
//! 2. A lane is a row, so nothing is ever summed across lanes, and the order above is the same
//!    for one token and for many.
//! 3. While a panel is unpacked, the one behind it is asked for from memory: sixteen rows at a time
//!    are more streams than a processor's own prefetcher follows.
//! 4. A panel is used for all tokens of the batch, several at a time, so that each load of
//!    weights feeds several products.

use crate::cpu::simd::{LANES, RUN, Simd};
use crate::cpu::threads::Tile;
use crate::dtype::{Block, Form};

use super::quantize::QuantRows;

/// Rows of a panel.
pub(crate) const PANEL: usize = LANES;

/// Sixteen unpacked rows; room for the longest row of a program.
#[derive(Default)]
pub(crate) struct Panel {
    q: Vec<[i8; 32 * LANES]>,  // [row_len / 32][8][row][4]
    scales: Vec<[f32; LANES]>, // [row_len / group_len][row]
    mins: Vec<[f32; LANES]>,   // the same, or unused
}

impl Panel {
    pub(crate) fn with_row_len(row_len: usize) -> Panel {
        Panel {
            q: vec![[0; 32 * LANES]; row_len / 32],
            scales: vec![[0.0; LANES]; row_len / 16],
            mins: vec![[0.0; LANES]; row_len / 16],
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.q.len() * 32 * LANES + 2 * self.scales.len() * 4 * LANES
    }

    /// Bytes of a panel of rows of `row_len` elements.
    pub(crate) fn bytes_for(row_len: usize) -> usize {
        (row_len / 32) * 32 * LANES + 2 * (row_len / 16) * 4 * LANES
    }
}

/// Unpacks up to sixteen rows of `row_len` elements.
#[inline(always)]
pub(crate) fn unpack<S: Simd, B: Block>(s: S, rows: &[u8], row_len: usize, panel: &mut Panel) {
    let Form::Groups { group_len, has_min } = B::FORM else {
        unreachable!("chosen by form")
    };
    let n_groups = B::LEN / group_len;
    let n_mins = if has_min { n_groups } else { 0 };
    let n_blocks = row_len / B::LEN;
    let row_bytes = n_blocks * B::BYTES;
    let n_rows = rows.len() / row_bytes;
    assert!(n_rows <= PANEL && rows.len() == n_rows * row_bytes);
    let mut q = [[0i8; RUN]; PANEL];
    let mut header = [[[0u16; LANES]; RUN / 32]; 2];
    let (mut scales, mut mins) = ([0.0f32; RUN / 16], [0.0f32; RUN / 16]);
    for first in (0..n_blocks).step_by(RUN / B::LEN) {
        let n = (RUN / B::LEN).min(n_blocks - first);
        for (row, q) in q.iter_mut().enumerate().take(n_rows) {
            let bytes = &rows[row * row_bytes + first * B::BYTES..][..n * B::BYTES];
            for line in (0..bytes.len()).step_by(64) {
                s.prefetch(bytes.as_ptr().wrapping_add(rows.len() + line));
            }
            let blocks = bytes.chunks_exact(B::BYTES).zip(q.chunks_exact_mut(B::LEN));
            for (i, (block, q)) in blocks.enumerate() {
                if B::F16_HEADER > 0 {
                    header[0][i][row] = u16::from_le_bytes([block[0], block[1]]);
                    if has_min {
                        header[1][i][row] = u16::from_le_bytes([block[2], block[3]]);
                    }
                    B::codes(block, q);
                    continue;
                }
                B::unpack(block, q, &mut scales[..n_groups], &mut mins[..n_mins]);
                for g in 0..n_groups {
                    panel.scales[(first + i) * n_groups + g][row] = scales[g];
                    if has_min {
                        panel.mins[(first + i) * n_groups + g][row] = mins[g];
                    }
                }
            }
        }
        if B::F16_HEADER > 0 {
            for (bits, scales) in header[0][..n].iter().zip(&mut panel.scales[first..]) {
                s.store(s.load_f16(bits), scales);
            }
            if has_min {
                for (bits, mins) in header[1][..n].iter().zip(&mut panel.mins[first..]) {
                    s.store(s.load_f16(bits), mins);
                }
            }
        }
        let out = &mut panel.q[first * B::LEN / 32..][..n * B::LEN / 32];
        for (part, out) in out.iter_mut().enumerate() {
            s.interleave(&q, part * 32, out);
        }
    }
}

/// `out[t][r] = row r of the panel . x[t]`, for weights in groups of `G`; `out` is
/// `[n_tokens, n_rows]` with at most sixteen rows.
#[inline(always)]
pub(crate) fn multiply<S: Simd, const G: usize, const HAS_MIN: bool>(
    s: S,
    panel: &Panel,
    x: &QuantRows<'_>,
    out: &mut Tile<'_, f32>,
) {
    let mut token = 0;
    while token < x.n_rows {
        token += match x.n_rows - token {
            8.. => tokens::<S, G, HAS_MIN, 8>(s, panel, x, token, out),
            4.. => tokens::<S, G, HAS_MIN, 4>(s, panel, x, token, out),
            2.. => tokens::<S, G, HAS_MIN, 2>(s, panel, x, token, out),
            _ => tokens::<S, G, HAS_MIN, 1>(s, panel, x, token, out),
        };
    }
}

/// `N` tokens from `first` on; answers `N`.
#[inline(always)]
fn tokens<S: Simd, const G: usize, const HAS_MIN: bool, const N: usize>(
    s: S,
    panel: &Panel,
    x: &QuantRows<'_>,
    first: usize,
    out: &mut Tile<'_, f32>,
) -> usize {
    let n32 = x.width / 32;
    let (sums, biases) = if G == 32 {
        (x.sum32, x.bias32)
    } else {
        (x.sum16, x.bias16)
    };
    let per32 = 32 / G;
    let q: [&[[i8; 4]]; N] =
        std::array::from_fn(|t| x.q[(first + t) * x.width..][..x.width].as_chunks().0);
    let d: [&[f32]; N] = std::array::from_fn(|t| &x.d[(first + t) * n32..][..n32]);
    let n_groups = n32 * per32;
    let sums: [&[f32]; N] = std::array::from_fn(|t| &sums[(first + t) * n_groups..][..n_groups]);
    let biases: [&[i32]; N] =
        std::array::from_fn(|t| &biases[(first + t) * n_groups..][..n_groups]);
    let scales = &panel.scales[..n_groups];
    let mins = &panel.mins[..n_groups];

    let mut acc = [s.splat(0.0); N];
    for (i32th, weights) in panel.q[..n32].iter().enumerate() {
        let weights = weights.as_chunks::<{ 4 * LANES }>().0;
        for half in 0..per32 {
            let g = i32th * per32 + half;
            let mut dots = [s.start(0); N];
            for t in 0..N {
                dots[t] = s.start(biases[t][g]);
            }
            for i in 0..G / 4 {
                let at = half * (G / 4) + i;
                for t in 0..N {
                    dots[t] = s.dot4(dots[t], &weights[at], q[t][i32th * 8 + at]);
                }
            }
            let scale = s.load(&scales[g]);
            for t in 0..N {
                let factor = s.mul(scale, s.splat(d[t][i32th]));
                acc[t] = s.fma(s.to_f32(dots[t]), factor, acc[t]);
            }
            if HAS_MIN {
                let min = s.load(&mins[g]);
                for t in 0..N {
                    acc[t] = s.fma(min, s.splat(sums[t][g]), acc[t]);
                }
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        let row = out.row(first + t);
        if let Some(row) = row.first_chunk_mut() {
            s.store(acc, row);
        } else {
            let mut all = [0.0; LANES];
            s.store(acc, &mut all);
            row.copy_from_slice(&all[..row.len()]);
        }
    }
    N
}
