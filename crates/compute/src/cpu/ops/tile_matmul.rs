//! Products of many tokens with quantized weights where the processor has tiles of bf16 ([`Tiles`]).
//!
//! Weights are unpacked into panels as for [`group_matmul`](super::group_matmul), and from there, with their scales and
//! minima, into tiles: 256 rows of 256 columns, which stay in the second cache while all tokens go by.
//! Activations are rounded to bf16 once, by the step that makes them, and lie in tiles too. Sums wait in
//! memory of the thread for the next columns.
//!
//! One rounding of each factor to 8 bits of precision loses less than activations of 8 bits in groups
//! (`docs/performance.md`), and no scale is left for the sums. But these are not the sums of a few
//! tokens, which would take longer so: a token's bits depend on how many are computed with it.

use std::ops::Range;

use crate::cpu::simd::LANES;
use crate::cpu::simd::tiles::{COLUMNS, Factors, Line, PanelTile, SumTile, Tiles, WeightTile};
use crate::cpu::threads::{SharedBuf, Tile};

use super::group_matmul::{GroupKernel, PANEL, Panels, ROWS, Rows};

/// From how many tokens on tiles are used: for fewer they take longer to fill than they save.
pub(crate) const TOKENS: usize = 2 * LANES;
/// The most rows whose tiles are used together.
pub(crate) const MAX_ROWS: usize = 256;
/// Columns whose tiles are used together: whole blocks of every type.
const STRIP: usize = 256;

/// Rows of bf16, `[n_rows / 16][width / 32]` tiles.
pub(crate) struct TokenTiles {
    n: usize, // tiles of a row
    lines: SharedBuf<Line>,
}

impl TokenTiles {
    pub(crate) fn zeroed(n_rows: usize, width: usize) -> Option<TokenTiles> {
        let n = width / COLUMNS;
        let n_lines = n_rows.checked_next_multiple_of(LANES)?.checked_mul(n)?;
        let lines = SharedBuf::zeroed(n_lines)?;
        Some(TokenTiles { n, lines })
    }

    pub(crate) fn bytes_for(n_rows: usize, width: usize) -> usize {
        let n_rows = n_rows.checked_next_multiple_of(LANES).unwrap_or(usize::MAX);
        n_rows.saturating_mul(width / COLUMNS * size_of::<Line>())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lines.bytes()
    }

    /// Whole groups of columns of one row to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the span lives.
    pub(crate) unsafe fn span(&self, row: usize, columns: Range<usize>) -> Tile<'_, Line> {
        assert!(columns.start.is_multiple_of(COLUMNS) && columns.end.is_multiple_of(COLUMNS));
        let first = row / LANES * self.n;
        let tiles = first + columns.start / COLUMNS..first + columns.end / COLUMNS;
        let line = row % LANES;
        // SAFETY: the caller's promise.
        unsafe { self.lines.tile(tiles, LANES, line..line + 1) }
    }

    /// Some rows to read.
    ///
    /// # Safety
    /// Nobody writes to any row while the view lives.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> TokenRows<'_> {
        let blocks = rows.start / LANES..rows.end.div_ceil(LANES);
        let lines = blocks.start * self.n * LANES..blocks.end * self.n * LANES;
        TokenRows {
            n: self.n,
            skipped: rows.start % LANES,
            n_rows: rows.len(),
            // SAFETY: the caller's promise.
            lines: unsafe { self.lines.get(lines) },
        }
    }
}

/// Some rows of [`TokenTiles`], and what else is in the tiles that they are in.
pub(crate) struct TokenRows<'a> {
    n: usize,
    skipped: usize,
    n_rows: usize,
    lines: &'a [Line],
}

/// What a thread needs beside its operands and panels.
pub(crate) struct TileScratch {
    weights: Vec<[WeightTile; 2]>,
    sums: Vec<[SumTile; 2]>,
}

impl TileScratch {
    /// For at most so many tokens.
    pub(crate) fn zeroed(max_tokens: usize) -> TileScratch {
        let line = Line([0; COLUMNS]);
        TileScratch {
            weights: vec![[[line; LANES]; 2]; MAX_ROWS / ROWS * (STRIP / COLUMNS)],
            sums: vec![[SumTile([[0.0; LANES]; LANES]); 2]; Self::n_sums(max_tokens)],
        }
    }

    /// Rows that are some expert's may lie in a block more than others.
    fn n_sums(max_tokens: usize) -> usize {
        (max_tokens.div_ceil(LANES) + 1).saturating_mul(MAX_ROWS / ROWS)
    }

    pub(crate) fn bytes_for(max_tokens: usize) -> usize {
        let weights = size_of::<[WeightTile; 2]>() * (MAX_ROWS / ROWS * (STRIP / COLUMNS));
        let sums = size_of::<[SumTile; 2]>().saturating_mul(Self::n_sums(max_tokens));
        sums.saturating_add(weights)
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.weights) + size_of_val(&*self.sums)
    }
}

/// Rounds `x`, a line of `out` for each 32.
#[inline(always)]
pub(crate) fn round<T: Tiles>(tiles: T, x: &[f32], out: &mut Tile<'_, Line>) {
    for (i, x) in x.as_chunks().0.iter().enumerate() {
        out.row(i)[0] = tiles.round(x);
    }
}

/// `out[t][r] = row r . x[t]`, for at most [`MAX_ROWS`] rows.
#[inline(always)]
pub(crate) fn product<T: Tiles>(
    tiles: T,
    kernel: &GroupKernel,
    (rows, row_bytes): (&[u8], usize),
    x: &TokenRows<'_>,
    (panels, scratch): (&mut Panels, &mut TileScratch),
    out: &mut Tile<'_, f32>,
) {
    let n_rows = rows.len() / row_bytes;
    assert!(n_rows <= MAX_ROWS, "rows of one chunk");
    let n_pairs = n_rows.div_ceil(ROWS);
    let n_blocks = (x.skipped + x.n_rows).div_ceil(LANES);
    let sums = &mut scratch.sums[..n_blocks * n_pairs];
    let tokens = x.lines.as_chunks().0;
    let width = x.n * COLUMNS;
    panels
        .ahead
        .begin_rows(rows.as_ptr_range().end.addr(), rows.len());
    for first in (0..width).step_by(STRIP) {
        let columns = first..width.min(first + STRIP);
        let n = columns.len() / COLUMNS;
        let weights = &mut scratch.weights[..n_pairs * n];
        for (rows, weights) in rows
            .chunks(ROWS * row_bytes)
            .zip(weights.chunks_exact_mut(n))
        {
            for (p, bytes) in rows.chunks(PANEL * row_bytes).enumerate() {
                let columns = columns.clone();
                let rows = Rows {
                    bytes,
                    row_bytes,
                    columns,
                };
                convert(
                    tiles,
                    kernel,
                    &rows,
                    panels,
                    weights.iter_mut().map(|w| &mut w[p]),
                );
            }
        }
        let factors = Factors {
            n,
            tokens: &tokens[first / COLUMNS..],
            stride: x.n,
            weights,
        };
        tiles.multiply(&factors, first == 0, sums);
    }
    for t in 0..x.n_rows {
        let (block, line) = ((x.skipped + t) / LANES, (x.skipped + t) % LANES);
        let sums = sums[block * n_pairs..][..n_pairs].as_flattened();
        let (whole, rest) = out.row(t).as_chunks_mut::<LANES>();
        for (out, sums) in whole.iter_mut().zip(sums) {
            *out = sums.0[line];
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&sums[whole.len()].0[line][..rest.len()]);
        }
    }
}

/// Unpacks some columns of at most sixteen rows into tiles.
#[inline(always)]
fn convert<'a, T: Tiles>(
    tiles: T,
    kernel: &GroupKernel,
    rows: &Rows<'_>,
    panels: &mut Panels,
    out: impl Iterator<Item = &'a mut WeightTile>,
) {
    let panel = &mut panels.panels[0];
    (kernel.unpack)(rows, panel, &mut panels.ahead);
    let n_groups = rows.columns.len() / kernel.group_len;
    // Before the scales: what the numbers have too much.
    let offset = -f32::from(kernel.offset);
    for (scales, mins) in panel.scales[..n_groups].iter().zip(&mut panel.mins) {
        for (scale, min) in scales.iter().zip(mins) {
            let from = if kernel.has_min { *min } else { 0.0 };
            *min = offset.mul_add(*scale, from);
        }
    }
    let q = panel.q.as_chunks().0;
    for (i, (q, out)) in q.iter().zip(out).enumerate() {
        let halves = [0, 1].map(|half| (COLUMNS * i + COLUMNS / 2 * half) / kernel.group_len);
        let tile = PanelTile {
            q,
            scales: halves.map(|g| &panel.scales[g]),
            biases: halves.map(|g| &panel.mins[g]),
        };
        tiles.convert(tile, kernel.is_signed, out);
    }
}
