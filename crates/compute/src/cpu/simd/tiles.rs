//! Tiles of bf16: what products of many tokens are made of where a processor multiplies small matrices.
//!
//! As with [`Simd`](super::Simd) the plain twin, [`PlainTiles`], is the specification, and every set gives its bits. They
//! are others than those of [`Simd`](super::Simd)'s products: activations are rounded to bf16, and sums go through 32
//! columns at a time.

use super::{LANES, Scalar, Simd};

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 32;

/// 32 numbers of bf16.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [u16; COLUMNS]);

/// 32 columns of sixteen tokens, a line for each token.
pub(crate) type TokenTile = [Line; LANES];

/// 32 columns of sixteen rows of weights, a line for each two columns: `[column / 2][row][2]`.
pub(crate) type WeightTile = [Line; COLUMNS / 2];

/// The sums of sixteen tokens and sixteen rows, `[token][row]`.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct SumTile(pub(crate) [[f32; LANES]; LANES]);

/// 32 columns of sixteen rows, unpacked.
#[derive(Clone, Copy)]
pub(crate) struct PanelTile<'a> {
    /// `[column / 4][row][4]`.
    pub(crate) q: &'a [[u8; 4 * LANES]; COLUMNS / 4],
    /// What `q` have too much.
    pub(crate) offset: f32,
    /// Of each half of the columns.
    pub(crate) scales: [&'a [f32; LANES]; 2],
    /// The same; 0 for types without a minimum.
    pub(crate) mins: Option<[&'a [f32; LANES]; 2]>,
}

/// Activations and weights of some columns, whole tiles.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    /// Tiles of each sixteen tokens and of each 32 rows.
    pub(crate) n: usize,
    /// Those of sixteen tokens begin `stride` tiles behind those of the sixteen before.
    pub(crate) tokens: &'a [TokenTile],
    pub(crate) stride: usize,
    /// Of the first 32 rows, then of the next.
    pub(crate) weights: &'a [[WeightTile; 2]],
}

impl Factors<'_> {
    /// How often there are sixteen tokens and 32 rows.
    ///
    /// # Panics
    /// Where `sums` has not one place for each, or there are too few tiles.
    pub(super) fn shape(&self, sums: &[[SumTile; 2]]) -> (usize, usize) {
        assert!(self.n > 0, "some columns");
        let n_pairs = self.weights.len() / self.n;
        assert!(
            n_pairs > 0 && sums.len().is_multiple_of(n_pairs),
            "whole tiles"
        );
        let n_blocks = sums.len() / n_pairs;
        assert!(n_blocks == 0 || self.tokens.len() >= (n_blocks - 1) * self.stride + self.n);
        (n_blocks, n_pairs)
    }
}

/// The tiles of a processor; a value is the proof that it has them.
pub(crate) trait Tiles: Copy {
    /// The vectors that go with them.
    type Simd: Simd;
    fn simd(self) -> Self::Simd;

    /// The nearest bf16, ties to even; what is too small to be normal becomes 0.
    fn round(self, x: &[f32; COLUMNS]) -> Line;

    /// `fma(q, scale, fma(-offset, scale, min))` of each number, rounded likewise. `is_signed` says what `q` are.
    fn convert(self, panel: PanelTile<'_>, is_signed: bool, out: &mut WeightTile);

    /// Adds products to `sums`, or begins these: 32 columns at a time, those with even and those with odd
    /// places by themselves, with fused multiply-adds from 0 on, and then the sum of both. Where a number
    /// is not normal, 0 is meant. `sums` are `[n_blocks][n_pairs]`.
    fn multiply(self, factors: &Factors<'_>, begins: bool, sums: &mut [[SumTile; 2]]);

    /// Multiplies [`TILE_PRODUCTS`] times two tiles in each round, as fast as can be; for benchmarks.
    fn peak(self, n_rounds: usize);
}

/// Products of tiles in a round of [`Tiles::peak`]: as many as there are sums in registers.
pub(crate) const TILE_PRODUCTS: usize = 4;

/// The plain twin.
#[derive(Clone, Copy)]
pub(crate) struct PlainTiles;

impl PlainTiles {
    pub(crate) fn detect() -> Option<PlainTiles> {
        Some(PlainTiles)
    }
}

/// The nearest bf16, ties to even; what is too small to be normal becomes 0.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40; // a quiet one
    }
    let bits = normal(x).to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// 0 with the sign of a number that is not normal.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        0.0f32.copysign(x)
    } else {
        x
    }
}

impl Tiles for PlainTiles {
    type Simd = Scalar;
    fn simd(self) -> Scalar {
        Scalar
    }

    fn round(self, x: &[f32; COLUMNS]) -> Line {
        Line(x.map(to_bf16))
    }

    fn convert(self, panel: PanelTile<'_>, is_signed: bool, out: &mut WeightTile) {
        for (pair, out) in out.iter_mut().enumerate() {
            let (scales, mins) = (
                panel.scales[pair / 8],
                panel.mins.map(|mins| mins[pair / 8]),
            );
            for (row, out) in out.0.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let min = mins.map_or(0.0, |mins| mins[row]);
                let bias = (-panel.offset).mul_add(scales[row], min);
                *out = std::array::from_fn(|i| {
                    let q = panel.q[pair / 2][4 * row + pair % 2 * 2 + i];
                    let q = if is_signed {
                        f32::from(q as i8)
                    } else {
                        f32::from(q)
                    };
                    to_bf16(q.mul_add(scales[row], bias))
                });
            }
        }
    }

    fn multiply(self, factors: &Factors<'_>, begins: bool, sums: &mut [[SumTile; 2]]) {
        let (_, n_pairs) = factors.shape(sums);
        let number = |x: u16| normal(f32::from_bits(u32::from(x) << 16));
        for (i, sums) in sums.iter_mut().enumerate() {
            let tokens = &factors.tokens[i / n_pairs * factors.stride..][..factors.n];
            let weights = &factors.weights[i % n_pairs * factors.n..][..factors.n];
            if begins {
                *sums = [SumTile([[0.0; LANES]; LANES]); 2];
            }
            for (tokens, weights) in tokens.iter().zip(weights) {
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    for (token, sums) in tokens.iter().zip(&mut sums.0) {
                        for (row, sum) in sums.iter_mut().enumerate() {
                            let halves = [0, 1].map(|i| {
                                weights.iter().enumerate().fold(0.0, |sum: f32, (pair, w)| {
                                    let x = number(token.0[2 * pair + i]);
                                    normal(number(w.0[2 * row + i]).mul_add(x, sum))
                                })
                            });
                            *sum = normal(normal(halves[0] + halves[1]) + *sum);
                        }
                    }
                }
            }
        }
    }

    fn peak(self, n_rounds: usize) {
        let line = Line([0x3f80; COLUMNS]);
        let mut sums = [[SumTile([[0.0; LANES]; LANES]); 2]];
        let factors = Factors {
            n: TILE_PRODUCTS / 2,
            tokens: &[[line; LANES]; TILE_PRODUCTS / 2],
            stride: TILE_PRODUCTS / 2,
            weights: &[[[line; COLUMNS / 2]; 2]; TILE_PRODUCTS / 2],
        };
        for _ in 0..n_rounds {
            self.multiply(std::hint::black_box(&factors), true, &mut sums);
            std::hint::black_box(&sums);
        }
    }
}
