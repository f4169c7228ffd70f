//! Products of many tokens where the processor has tiles of bf16 ([`Tiles`]).
//!
//! 1. Weights become tiles, 256 rows of 256 columns at a time, which stay in the second cache while all tokens go by:
//!    quantized ones through panels as for [`group_matmul`](super::group_matmul), with their scales and minima.
//! 2. Activations are rounded to bf16 once, by the step that makes them, and lie in tiles too.
//! 3. Sums wait in memory of the thread for the next columns.
//! 4. Where weights are F16 or BF16, what rounding leaves of activations, and of weights of F16, is rounded and multiplied
//!    too, as if there were more columns: what is lost then is 2^-16 of each product.
//!
//! One rounding of each factor to 8 bits of precision loses less than activations of 8 bits in groups
//! (`docs/performance.md`), and no scale is left for the sums. But these are not the sums of a few
//! tokens, which would take longer so: a token's bits depend on how many are computed with it.

use std::ops::Range;

use crate::cpu::simd::tiles::{COLUMNS, Factors, Line, PanelTile, SumTile, Tiles, WeightTile};
use crate::cpu::simd::{LANES, Simd};
use crate::cpu::threads::{SharedBuf, Tile};

use super::group_matmul::{GroupKernel, PANEL, Panels, ROWS, Rows};

/// The most rows whose tiles are used together.
pub(crate) const MAX_ROWS: usize = 256;
/// Columns whose tiles are used together: whole blocks of every type.
const STRIP: usize = 256;

/// Rows of bf16, `[n_rows / 16][width / 32]` tiles, in one plane or two.
pub(crate) struct TokenTiles {
    n: usize, // tiles of a row
    high: SharedBuf<Line>,
    /// What the first plane leaves.
    low: Option<SharedBuf<Line>>,
}

impl TokenTiles {
    pub(crate) fn zeroed(n_rows: usize, width: usize, n_planes: usize) -> Option<TokenTiles> {
        let n = width / COLUMNS;
        let n_lines = n_rows.checked_next_multiple_of(LANES)?.checked_mul(n)?;
        Some(TokenTiles {
            n,
            high: SharedBuf::zeroed(n_lines)?,
            low: match n_planes {
                2 => Some(SharedBuf::zeroed(n_lines)?),
                _ => None,
            },
        })
    }

    pub(crate) fn bytes_for(n_rows: usize, width: usize, n_planes: usize) -> usize {
        let n_rows = n_rows.checked_next_multiple_of(LANES).unwrap_or(usize::MAX);
        n_rows.saturating_mul(n_planes * (width / COLUMNS) * size_of::<Line>())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.high.bytes() + self.low.as_ref().map_or(0, SharedBuf::bytes)
    }

    /// Whole groups of columns of one row to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the span lives.
    pub(crate) unsafe fn span(&self, row: usize, columns: Range<usize>) -> TokenSpan<'_> {
        assert!(columns.start.is_multiple_of(COLUMNS) && columns.end.is_multiple_of(COLUMNS));
        let first = row / LANES * self.n;
        let tiles = first + columns.start / COLUMNS..first + columns.end / COLUMNS;
        let line = row % LANES..row % LANES + 1;
        let span = |buf| {
            let buf: &'_ SharedBuf<Line> = buf;
            // SAFETY: the caller's promise.
            unsafe { buf.tile(tiles.clone(), LANES, line.clone()) }
        };
        TokenSpan {
            high: span(&self.high),
            low: self.low.as_ref().map(span),
        }
    }

    /// Some rows to read.
    ///
    /// # Safety
    /// Nobody writes to any row while the view lives.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> TokenRows<'_> {
        let blocks = rows.start / LANES..rows.end.div_ceil(LANES);
        let lines = blocks.start * self.n * LANES..blocks.end * self.n * LANES;
        let get = |buf| {
            let buf: &'_ SharedBuf<Line> = buf;
            // SAFETY: the caller's promise.
            unsafe { buf.get(lines.clone()) }
        };
        TokenRows {
            n: self.n,
            skipped: rows.start % LANES,
            n_rows: rows.len(),
            high: get(&self.high),
            low: self.low.as_ref().map(get),
        }
    }
}

/// A part of one row of [`TokenTiles`], a line for each 32 columns.
pub(crate) struct TokenSpan<'a> {
    high: Tile<'a, Line>,
    low: Option<Tile<'a, Line>>,
}

/// Some rows of [`TokenTiles`], and what else is in the tiles that they are in.
pub(crate) struct TokenRows<'a> {
    n: usize,
    skipped: usize,
    n_rows: usize,
    high: &'a [Line],
    low: Option<&'a [Line]>,
}

/// What a thread needs beside its operands and panels.
pub(crate) struct TileScratch {
    weights: Vec<[WeightTile; 2]>,
    /// What these leave, for weights of F16.
    low: Vec<[WeightTile; 2]>,
    sums: Vec<[SumTile; 2]>,
}

impl TileScratch {
    /// The most tiles of weights, twice sixteen rows each.
    const N_WEIGHTS: usize = MAX_ROWS / ROWS * (STRIP / COLUMNS);

    /// For at most so many tokens; `None` when the memory is refused.
    pub(crate) fn zeroed(max_tokens: usize) -> Option<TileScratch> {
        let weights = vec![[[Line([0; COLUMNS]); LANES]; 2]; Self::N_WEIGHTS];
        let (mut sums, n_sums) = (Vec::new(), Self::n_sums(max_tokens));
        sums.try_reserve_exact(n_sums).ok()?;
        sums.resize(n_sums, [SumTile([[0.0; LANES]; LANES]); 2]);
        Some(TileScratch {
            low: weights.clone(),
            weights,
            sums,
        })
    }

    /// Rows that are some expert's may lie in a block more than others.
    fn n_sums(max_tokens: usize) -> usize {
        (max_tokens.div_ceil(LANES) + 1).saturating_mul(MAX_ROWS / ROWS)
    }

    pub(crate) fn bytes_for(max_tokens: usize) -> usize {
        let weights = 2 * size_of::<[WeightTile; 2]>() * Self::N_WEIGHTS;
        let sums = size_of::<[SumTile; 2]>().saturating_mul(Self::n_sums(max_tokens));
        sums.saturating_add(weights)
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.weights) + size_of_val(&*self.low) + size_of_val(&*self.sums)
    }
}

/// Rounds `x`, and what that leaves of it where there are two planes.
#[inline(always)]
pub(crate) fn round<T: Tiles>(tiles: T, x: &[f32], out: &mut TokenSpan<'_>) {
    for (i, x) in x.as_chunks().0.iter().enumerate() {
        let high = tiles.round(x);
        out.high.row(i)[0] = high;
        if let Some(low) = &mut out.low {
            low.row(i)[0] = tiles.round(&rest(x, &high));
        }
    }
}

/// What rounding left.
#[inline(always)]
fn rest(x: &[f32; COLUMNS], rounded: &Line) -> [f32; COLUMNS] {
    let mut rest = *x;
    for (rest, rounded) in rest.iter_mut().zip(&rounded.0) {
        *rest -= f32::from_bits(u32::from(*rounded) << 16);
    }
    rest
}

/// `out[t][r] = row r . x[t]`, for at most [`MAX_ROWS`] rows.
#[inline(always)]
pub(crate) fn product<T: Tiles>(
    tiles: T,
    kernel: &GroupKernel,
    weights: (&[u8], usize),
    x: &TokenRows<'_>,
    (panels, scratch): (&mut Panels, &mut TileScratch),
    out: &mut Tile<'_, f32>,
) {
    let (rows, row_bytes) = weights;
    panels
        .ahead
        .begin_rows(rows.as_ptr_range().end.addr(), rows.len());
    multiply(
        tiles,
        weights,
        x,
        (scratch, 1, false),
        out,
        |bytes, columns, high, _, p| {
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
                high.iter_mut().map(|w| &mut w[p]),
            );
        },
    );
}

/// The same for weights of F16, or else of BF16. `x` has two planes.
#[inline(always)]
pub(crate) fn float_product<T: Tiles>(
    tiles: T,
    is_f16: bool,
    weights: (&[u8], usize),
    x: &TokenRows<'_>,
    scratch: &mut TileScratch,
    out: &mut Tile<'_, f32>,
) {
    let row_bytes = weights.1;
    multiply(
        tiles,
        weights,
        x,
        (scratch, 2, is_f16),
        out,
        |bytes, columns, high, low, p| {
            for (i, (high, low)) in high.iter_mut().zip(low).enumerate() {
                let bytes = &bytes[2 * (columns.start + i * COLUMNS)..];
                match is_f16 {
                    true => split(tiles, bytes, row_bytes, (&mut high[p], &mut low[p])),
                    false => take(tiles, bytes, row_bytes, &mut high[p]),
                }
            }
        },
    );
}

/// Multiplies what `convert` makes of sixteen rows or fewer, whose bytes it gets, and of some columns: tile `p` of
/// each place, and of another for what is left. The first `n_planes` of the tokens count.
#[inline(always)]
fn multiply<T: Tiles>(
    tiles: T,
    (rows, row_bytes): (&[u8], usize),
    x: &TokenRows<'_>,
    (scratch, n_planes, has_low): (&mut TileScratch, usize, bool),
    out: &mut Tile<'_, f32>,
    mut convert: impl FnMut(&[u8], Range<usize>, &mut [[WeightTile; 2]], &mut [[WeightTile; 2]], usize),
) {
    let n_rows = rows.len() / row_bytes;
    assert!(n_rows <= MAX_ROWS, "rows of one chunk");
    let n_pairs = n_rows.div_ceil(ROWS);
    let n_blocks = (x.skipped + x.n_rows).div_ceil(LANES);
    let sums = &mut scratch.sums[..n_blocks * n_pairs];
    let width = x.n * COLUMNS;
    for first in (0..width).step_by(STRIP) {
        let columns = first..width.min(first + STRIP);
        let n = columns.len() / COLUMNS;
        let (high, low) = (
            &mut scratch.weights[..n_pairs * n],
            &mut scratch.low[..n_pairs * n],
        );
        let planes = high.chunks_exact_mut(n).zip(low.chunks_exact_mut(n));
        for (rows, (high, low)) in rows.chunks(ROWS * row_bytes).zip(planes) {
            for (p, bytes) in rows.chunks(PANEL * row_bytes).enumerate() {
                convert(bytes, columns.clone(), high, low, p);
            }
        }
        let factors = |tokens, weights| {
            let tokens: &'_ [Line] = tokens;
            Factors {
                n,
                tokens: &tokens.as_chunks().0[first / COLUMNS..],
                stride: x.n,
                weights,
            }
        };
        tiles.multiply(&factors(x.high, high), first == 0, sums);
        if let Some(tokens) = x.low.filter(|_| n_planes == 2) {
            tiles.multiply(&factors(tokens, high), false, sums);
        }
        if has_low {
            tiles.multiply(&factors(x.high, low), false, sums);
        }
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
    let q = panel.q.as_chunks().0;
    for (i, (q, out)) in q.iter().zip(out).enumerate() {
        let halves = [0, 1].map(|half| (COLUMNS * i + COLUMNS / 2 * half) / kernel.group_len);
        let tile = PanelTile {
            q,
            offset: f32::from(kernel.offset),
            scales: halves.map(|g| &panel.scales[g]),
            mins: kernel.has_min.then(|| halves.map(|g| &panel.mins[g])),
        };
        tiles.convert(tile, kernel.is_signed, out);
    }
}

/// Takes 32 columns of at most sixteen rows of BF16, from the beginning of each on.
#[inline(always)]
fn take<T: Tiles>(tiles: T, bytes: &[u8], row_bytes: usize, out: &mut WeightTile) {
    for_each_pair(tiles, bytes, row_bytes, |pair, numbers| {
        let mut both = [0; 4 * LANES];
        tiles.simd().store_i8x4(numbers, &mut both);
        let both = both.as_chunks::<2>().0;
        for (out, both) in out[pair].0.iter_mut().zip(both) {
            *out = u16::from_le_bytes(*both);
        }
    });
}

/// Rounds 32 columns of at most sixteen rows of F16, likewise, and what that leaves.
#[inline(always)]
fn split<T: Tiles>(
    tiles: T,
    bytes: &[u8],
    row_bytes: usize,
    (high, low): (&mut WeightTile, &mut WeightTile),
) {
    let s = tiles.simd();
    for_each_pair(tiles, bytes, row_bytes, |pair, numbers| {
        let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
        s.store(s.f16_to_f32(numbers), &mut even);
        s.store(s.f16_to_f32(s.shr(numbers, 16)), &mut odd);
        let mut both = [0.0; COLUMNS];
        for (both, (even, odd)) in both.as_chunks_mut().0.iter_mut().zip(even.iter().zip(odd)) {
            *both = [*even, odd];
        }
        high[pair] = tiles.round(&both);
        low[pair] = tiles.round(&rest(&both, &high[pair]));
    });
}

/// Gives each two columns of 32, in 16 bits each, of sixteen rows; rows that are missing are 0.
#[inline(always)]
fn for_each_pair<T: Tiles>(
    tiles: T,
    bytes: &[u8],
    row_bytes: usize,
    mut give: impl FnMut(usize, <T::Simd as Simd>::I),
) {
    const QUARTER: usize = COLUMNS / 2; // bytes
    let s = tiles.simd();
    let mut padded = [[0; 4 * QUARTER]; LANES];
    let (bytes, stride) = if bytes.len() < (LANES - 1) * row_bytes + 4 * QUARTER {
        for (padded, row) in padded.iter_mut().zip(bytes.chunks(row_bytes)) {
            padded.copy_from_slice(&row[..4 * QUARTER]);
        }
        (padded.as_flattened(), 4 * QUARTER)
    } else {
        (bytes, row_bytes)
    };
    for quarter in 0..4 {
        let numbers = s.load_rows(&bytes[quarter * QUARTER..], stride);
        for (i, numbers) in numbers.into_iter().enumerate() {
            give(4 * quarter + i, numbers);
        }
    }
}
