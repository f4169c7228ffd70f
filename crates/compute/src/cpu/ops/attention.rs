//! Attention of one token's query heads over one head of the KV cache.
//!
//! ```text
//! for each span of 256 positions, by absolute position:
//!     score[p] = cap(scale * (q . k[p]))            summed over the head in order
//!     m = max score, e[p] = exp(score[p] - m), l = sum of e, o = sum of e[p] * v[p] in order
//!     merge (m, l, o) into the running (M, L, O)    (online softmax, arXiv 1805.02867)
//! out = O / L
//! ```
//!
//! 1. Keys lie transposed in tiles of sixteen positions, `[head_dim][16]`, so a lane is a position
//!    and no score is summed across lanes; values lie `[16][head_dim]`, so a lane is an element.
//! 2. The query heads that share a key head go through it together: one load for all of them.
//! 3. Spans start at multiples of 256 whatever the batch, so that a token's bits are the same in
//!    decode and in any slice of a prompt, and long contexts can be shared among threads.

use std::ops::Range;

use crate::backend::KV_BLOCK_LEN;
use crate::cpu::simd::{LANES, Simd};
use crate::cpu::threads::Plain;

use super::rows::{exp, soft_cap, tree_sum};

const _: () = assert!(
    KV_BLOCK_LEN == LANES,
    "a block of the cache is one tile of positions"
);

/// Positions between two merges of the running softmax.
const SPAN: usize = 256;

/// Query heads that go through a tile together.
const HEADS: usize = 4;

/// An element of the KV cache.
pub(crate) trait Element: Plain {
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F;
    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32; LANES]) -> S::F {
        s.load(x)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

/// Half precision.
impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[u16; LANES]) -> S::F {
        s.load_f16(x)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> u16 {
        f32_to_f16(x)
    }
}

/// To half precision, to nearest, ties to even; too large becomes infinite, NaN stays NaN.
#[inline(always)]
fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x4780_0000 {
        0x7c00 // 2^16 and above
    } else if magnitude < 0x3880_0000 {
        // Below 2^-14 halves are multiples of 2^-24: the sum rounds to such a multiple, and leaves
        // it in its low bits.
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
    } else {
        // 13 bits go; the carry of the rounding may reach the exponent, up to infinity.
        let odd = (magnitude >> 13) & 1;
        ((magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13) as u16
    };
    sign | half
}

/// One head of one layer's cache, and where its positions lie.
pub(crate) struct HeadCache<'a, K, V> {
    /// `[block][dim][16]`, `dim` a multiple of 16.
    pub(crate) k: &'a [K],
    /// `[block][16][dim]`.
    pub(crate) v: &'a [V],
    /// Elements of a head in the cache: `head_dim` rounded up to a multiple of 16.
    pub(crate) dim: usize,
    /// Block of each 16 positions.
    pub(crate) blocks: &'a [u32],
    /// Positions that are seen; at least one.
    pub(crate) positions: Range<usize>,
    /// Factor on a score.
    pub(crate) scale: f32,
    /// Scores go through `soft_cap`.
    pub(crate) soft_cap: Option<f32>,
}

/// `out` gets the result for each head in `q`; both are `[n_heads, head_dim]`.
#[inline(always)]
pub(crate) fn attend<S: Simd, K: Element, V: Element>(
    s: S,
    cache: &HeadCache<'_, K, V>,
    (q, head_dim): (&[f32], usize),
    out: &mut [f32],
) {
    assert_eq!(q.len(), out.len());
    let mut heads = q
        .chunks_exact(head_dim)
        .zip(out.chunks_exact_mut(head_dim))
        .peekable();
    while heads.peek().is_some() {
        let some: [_; HEADS] = std::array::from_fn(|_| heads.next());
        match some {
            [Some(a), Some(b), Some(c), Some(d)] => attend_heads(s, cache, [a, b, c, d]),
            [Some(a), Some(b), Some(c), None] => attend_heads(s, cache, [a, b, c]),
            [Some(a), Some(b), None, None] => attend_heads(s, cache, [a, b]),
            [Some(a), ..] => attend_heads(s, cache, [a]),
            [None, ..] => unreachable!("there is one by the loop's condition"),
        }
    }
}

#[inline(always)]
fn attend_heads<S: Simd, K: Element, V: Element, const N: usize>(
    s: S,
    cache: &HeadCache<'_, K, V>,
    mut heads: [(&[f32], &mut [f32]); N],
) {
    let dim = cache.dim;
    let mut total_max = [f32::NEG_INFINITY; N];
    let mut total_sum = [0.0f32; N];
    heads.iter_mut().for_each(|(_, out)| out.fill(0.0));
    let Range { start, end } = cache.positions;
    let first_span = start / SPAN * SPAN;
    for span in (first_span..end).step_by(SPAN) {
        let n = SPAN.min(end - span);
        // Where a window begins within the span: whole tiles before it are passed over.
        let hidden = start.saturating_sub(span);
        let blocks = &cache.blocks[span / LANES..(span + n).div_ceil(LANES)];
        let first_tile = hidden / LANES;

        let mut scores = [[0.0f32; SPAN]; N];
        for (tile, &block) in blocks.iter().enumerate().skip(first_tile) {
            let k = cache.k[block as usize * dim * LANES..][..dim * LANES]
                .as_chunks::<LANES>()
                .0;
            let mut acc = [s.splat(0.0); N];
            for (i, k) in k.iter().enumerate().take(heads[0].0.len()) {
                let k = K::load(s, k);
                for (acc, (q, _)) in acc.iter_mut().zip(&heads) {
                    *acc = s.fma(k, s.splat(q[i]), *acc);
                }
            }
            for (acc, scores) in acc.into_iter().zip(&mut scores) {
                let scores = &mut scores.as_chunks_mut::<LANES>().0[tile];
                s.store(s.mul(acc, s.splat(cache.scale)), scores);
            }
        }

        let mut keep = [1.0f32; N]; // factor on what came before
        let mut enter = [1.0f32; N]; // factor on this span
        for (h, scores) in scores.iter_mut().enumerate() {
            if let Some(cap) = cache.soft_cap {
                soft_cap(&mut scores[..n], cap);
            }
            let (max, sum) = softmax(scores, hidden..n);
            let new_max = if max > total_max[h] {
                max
            } else {
                total_max[h]
            };
            if span > first_span {
                (keep[h], enter[h]) = (exp(total_max[h] - new_max), exp(max - new_max));
            }
            total_max[h] = new_max;
            total_sum[h] = (total_sum[h] * keep[h]) + sum * enter[h];
        }

        for at in (0..dim).step_by(LANES) {
            let mut acc = [s.splat(0.0); N];
            for (tile, &block) in blocks.iter().enumerate().skip(first_tile) {
                let v = &cache.v[block as usize * dim * LANES..][..dim * LANES];
                for p in 0..LANES.min(n - tile * LANES) {
                    let v = V::load(s, v[p * dim + at..].first_chunk().expect("in a tile"));
                    for (acc, scores) in acc.iter_mut().zip(&scores) {
                        *acc = s.fma(v, s.splat(scores[tile * LANES + p]), *acc);
                    }
                }
            }
            for (h, acc) in acc.into_iter().enumerate() {
                let mut all = [0.0; LANES];
                s.store(acc, &mut all);
                let end = heads[h].1.len().min(at + LANES);
                for (out, new) in heads[h].1[at.min(end)..end].iter_mut().zip(all) {
                    *out = *out * keep[h] + new * enter[h];
                }
            }
        }
    }
    for ((_, out), sum) in heads.iter_mut().zip(total_sum) {
        let inverse = 1.0 / sum;
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}

/// Turns the scores `seen` into `exp(score - max)` and those before into 0; answers the maximum and
/// the sum.
#[inline(always)]
fn softmax(scores: &mut [f32; SPAN], seen: Range<usize>) -> (f32, f32) {
    let n = seen.end;
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[n..n.next_multiple_of(LANES)].fill(f32::NEG_INFINITY);
    let scores = &mut scores.as_chunks_mut::<LANES>().0[..n.div_ceil(LANES)];
    let mut maxes = [f32::NEG_INFINITY; LANES];
    for scores in scores.iter() {
        for (max, score) in maxes.iter_mut().zip(scores) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    let max = maxes
        .into_iter()
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let mut sums = [0.0; LANES];
    for scores in scores.iter_mut() {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    (max, tree_sum(sums))
}

/// Puts one position's key and value of one head, `[head_dim]` each, into their tiles.
#[inline(always)]
pub(crate) fn store<K: Element, V: Element>(
    (k, v): (&[f32], &[f32]),
    (k_tile, v_tile): (&mut [K], &mut [V]),
    position: usize,
) {
    let dim = v_tile.len() / LANES;
    let column = position % LANES;
    for (to, from) in k_tile.as_chunks_mut::<LANES>().0.iter_mut().zip(k) {
        to[column] = K::from_f32(*from);
    }
    for (to, from) in v_tile[column * dim..].iter_mut().zip(v) {
        *to = V::from_f32(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::f16_to_f32;

    #[test]
    fn halves_convert_as_the_half_crate_does() {
        for h in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                "{h:#x}"
            );
        }
        for bits in (0..=u32::MAX).step_by(997) {
            let x = f32::from_bits(bits);
            let (got, want) = (f32_to_f16(x), half::f16::from_f32(x));
            assert!(
                got == want.to_bits() || (x.is_nan() && want.is_nan()),
                "{x:e}: {got:#x}"
            );
        }
    }
}
