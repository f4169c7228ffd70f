//! Attention of some tokens' query heads over one head of the KV cache.
//!
//! ```text
//! for each unit of 1024 positions, by absolute position:
//!     for each span of 256 positions in it:
//!         score[p] = cap(scale * (q . k[p]))        summed over the head in order
//!         m = max score, e[p] = exp(score[p] - m), l = sum of e, o = sum of e[p] * v[p] in order
//!         merge (m, l, o) into the unit's (m, l, o) (online softmax, arXiv 1805.02867)
//!     merge the unit's into the whole (M, L, O)
//! out = O / L, where a sink is merged before as one more score, without a value
//! ```
//!
//! 1. Keys lie transposed in tiles of sixteen positions, `[head_dim][16]`, so a lane is a position
//!    and no score is summed across lanes; values lie `[16][head_dim]`, so a lane is an element
//!    (`kv_tile.rs`).
//! 2. Query heads that share a key head, of one token and of those beside it, go through it
//!    together: one load for several of them. Several tiles or elements at a time keep as many sums
//!    in flight as a multiply-add takes cycles.
//! 3. Quantized keys and values become f32 in registers; a scale is applied once for 32 elements of
//!    a key, to their sum, and once for 16 elements of a value, to the score.
//! 4. Units and spans start at multiples of their length whatever the batch, so that a token's bits
//!    are the same in decode and in any slice of a prompt, and threads can share a long context.

use std::ops::Range;

use crate::backend::KV_BLOCK_LEN;
use crate::cpu::simd::{LANES, Simd};
use crate::kv::KvType;

use super::kv_tile::{Format, GROUP, Tiles, load_halves, with_format};
use super::rows::{exp, soft_cap, tree_sum};

const _: () = assert!(
    KV_BLOCK_LEN == LANES,
    "a block of the cache is one tile of positions"
);

/// Positions that one thread goes through alone.
pub(crate) const UNIT: usize = 1024;

/// Positions between two merges of the running softmax; divides [`UNIT`].
const SPAN: usize = 256;

/// One head of one layer's cache, and where its positions lie.
pub(crate) struct HeadCache<'a> {
    /// Keys, `[dim][16]` in each tile, `dim` a multiple of 16.
    pub(crate) k: Tiles<'a>,
    /// Values, `[16][dim]` in each tile.
    pub(crate) v: Tiles<'a>,
    /// Elements of a head in the cache: `head_dim` rounded up to a multiple of 16.
    pub(crate) dim: usize,
    /// Block of each 16 positions.
    pub(crate) blocks: &'a [u32],
    /// Factor on a score.
    pub(crate) scale: f32,
    /// Scores go through `soft_cap`.
    pub(crate) soft_cap: Option<f32>,
}

/// One head of one token's query, and what comes of some positions.
pub(crate) struct QueryRow<'a> {
    /// `[head_dim]`.
    pub(crate) q: &'a [f32],
    /// Positions that it sees; none fewer in a row that follows, at both ends.
    pub(crate) seen: Range<usize>,
    /// What is mixed: `[head_dim]`.
    pub(crate) mix: &'a mut [f32],
    pub(crate) weight: Weight,
}

/// How much the values that were mixed weigh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// The largest score.
    pub(crate) max: f32,
    /// Sum of `exp(score - max)`.
    pub(crate) sum: f32,
}

impl Weight {
    /// Of nothing yet.
    pub(crate) const NONE: Weight = Weight {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Adds what `new` weighs; answers the factors on what was mixed before and on what comes.
    #[inline(always)]
    fn add(&mut self, new: Weight, is_first: bool) -> (f32, f32) {
        let max = if new.max > self.max {
            new.max
        } else {
            self.max
        };
        let (keep, enter) = if is_first {
            (1.0, 1.0)
        } else {
            (exp(self.max - max), exp(new.max - max))
        };
        *self = Weight {
            max,
            sum: self.sum * keep + new.sum * enter,
        };
        (keep, enter)
    }

    /// Merges what another unit's positions gave into `mix`.
    #[inline(always)]
    pub(crate) fn merge(&mut self, mix: &mut [f32], (new, new_mix): (Weight, &[f32])) {
        let (keep, enter) = self.add(new, false);
        for (mix, new) in mix.iter_mut().zip(new_mix) {
            *mix = *mix * keep + new * enter;
        }
    }

    /// Divides by the sum, where a sink is one more score.
    #[inline(always)]
    pub(crate) fn finish(self, mix: &mut [f32], sink: Option<f32>) {
        let factor = match sink {
            None => 1.0 / self.sum,
            Some(sink) => {
                let max = if sink > self.max { sink } else { self.max };
                let keep = exp(self.max - max);
                keep / (self.sum * keep + exp(sink - max))
            }
        };
        mix.iter_mut().for_each(|mix| *mix *= factor);
    }
}

/// Gives each row what its positions in `unit`, at most [`UNIT`] of them from a multiple on, weigh
/// and mix; [`Weight::NONE`] where it sees none of them.
#[inline(always)]
pub(crate) fn attend<S: Simd>(s: S, cache: &HeadCache<'_>, unit: usize, rows: &mut [QueryRow<'_>]) {
    for row in &mut *rows {
        row.weight = Weight::NONE;
        row.mix.fill(0.0);
    }
    for span in (unit..unit + UNIT).step_by(SPAN) {
        let sees = |row: &QueryRow<'_>| row.seen.end > span && row.seen.start < span + SPAN;
        let Some(first) = rows.iter().position(sees) else {
            continue;
        };
        let n = rows[first..].iter().take_while(|row| sees(row)).count();
        let is_first = |row: &QueryRow<'_>| span == unit || row.seen.start >= span;
        let mut left = &mut rows[first..first + n];
        while !left.is_empty() {
            let span = (cache, span);
            left = match left.len() {
                8.. if const { S::N_SUMS >= 8 } => attend_first::<S, 8>(s, span, left, is_first),
                4.. if const { S::N_SUMS >= 4 } => attend_first::<S, 4>(s, span, left, is_first),
                3 if const { S::N_SUMS >= 4 } => attend_first::<S, 3>(s, span, left, is_first),
                2 if const { S::N_SUMS >= 4 } => attend_first::<S, 2>(s, span, left, is_first),
                _ => attend_first::<S, 1>(s, span, left, is_first),
            };
        }
    }
}

/// Takes the first rows; answers the others.
#[inline(always)]
fn attend_first<'a, 'b, S: Simd, const N: usize>(
    s: S,
    (cache, span): (&HeadCache<'_>, usize),
    rows: &'a mut [QueryRow<'b>],
    is_first: impl Fn(&QueryRow<'_>) -> bool,
) -> &'a mut [QueryRow<'b>] {
    let (rows, rest) = rows.split_first_chunk_mut::<N>().expect("as many");
    attend_rows(s, cache, span, rows, is_first);
    rest
}

#[inline(always)]
fn attend_rows<S: Simd, const N: usize>(
    s: S,
    cache: &HeadCache<'_>,
    span: usize,
    rows: &mut [QueryRow<'_>; N],
    is_first: impl Fn(&QueryRow<'_>) -> bool,
) {
    // Of each row, the positions of the span that it sees.
    let mut seen = [const { 0..0 }; N];
    for (seen, row) in seen.iter_mut().zip(&*rows) {
        *seen = row.seen.start.saturating_sub(span)..SPAN.min(row.seen.end - span);
    }
    // Where a window begins within the span, whole tiles before it are passed over.
    let tiles = seen[0].start / LANES..seen[N - 1].end.div_ceil(LANES);
    let blocks = &cache.blocks[span / LANES..][..tiles.end];

    let mut scores = [[0.0f32; SPAN]; N];
    let mut q = [&[][..]; N];
    for (q, row) in q.iter_mut().zip(&*rows) {
        *q = row.q;
    }
    with_format!(cache.k.kv_type, K => match const { S::N_SUMS / N } {
        0 | 1 => score::<S, K, N, 1>(s, cache, (blocks, tiles.clone()), q, &mut scores),
        2 | 3 => score::<S, K, N, 2>(s, cache, (blocks, tiles.clone()), q, &mut scores),
        _ => score::<S, K, N, 4>(s, cache, (blocks, tiles.clone()), q, &mut scores),
    });

    let mut factors = [(1.0, 1.0); N]; // on what came before and on this span
    for (r, scores) in scores.iter_mut().enumerate() {
        let row = &mut rows[r];
        if let Some(cap) = cache.soft_cap {
            soft_cap(&mut scores[..seen[r].end], cap);
        }
        let new = softmax(scores, seen[r].clone());
        factors[r] = row.weight.add(new, is_first(row));
    }
    // What the first tile of a row hides counts with a share of 0.
    for seen in &mut seen {
        seen.start = seen.start / LANES * LANES;
    }
    let part = Part {
        blocks,
        first_tile: tiles.start,
        seen_by_all: seen[N - 1].start..seen[0].end,
        seen,
        factors,
    };
    with_format!(cache.v.kv_type, V => match const { S::N_SUMS / N } {
        0 | 1 => mix::<S, V, N, 1>(s, cache, &part, &scores, rows),
        2 | 3 => mix::<S, V, N, 2>(s, cache, &part, &scores, rows),
        _ => mix::<S, V, N, 4>(s, cache, &part, &scores, rows),
    });
}

/// The scores of the positions in some tiles of a span, for each row, `T` tiles at a time; where
/// fewer are left, the last one several times.
#[inline(always)]
fn score<S: Simd, K: Format, const N: usize, const T: usize>(
    s: S,
    cache: &HeadCache<'_>,
    (blocks, tiles): (&[u32], Range<usize>),
    q: [&[f32]; N],
    scores: &mut [[f32; SPAN]; N],
) {
    for first in tiles.clone().step_by(T) {
        let mut some = [tiles.end - 1; T];
        for (t, tile) in some.iter_mut().enumerate() {
            *tile = (*tile).min(first + t);
        }
        score_tiles::<S, K, N, T>(s, cache, (blocks, some), q, scores);
    }
}

#[inline(always)]
fn score_tiles<S: Simd, K: Format, const N: usize, const T: usize>(
    s: S,
    cache: &HeadCache<'_>,
    (blocks, tiles): (&[u32], [usize; T]),
    q: [&[f32]; N],
    scores: &mut [[f32; SPAN]; N],
) {
    let mut scales = [&[][..]; T];
    let mut vectors = [&[][..]; T];
    let mut ahead = [std::ptr::null(); T];
    for t in 0..T {
        (scales[t], vectors[t]) = cache.k.tile::<K>(blocks[tiles[t]], cache.dim);
        let next = blocks.get(tiles[t] + T).unwrap_or(&blocks[tiles[t]]);
        ahead[t] = cache.k.tile::<K>(*next, cache.dim).1.as_ptr();
    }
    let mut acc = [[s.splat(0.0); N]; T];
    if K::HAS_SCALES {
        let n_groups = scales[0].len();
        let len = vectors[0].len() / n_groups;
        for g in 0..n_groups {
            let (mut sum, mut part) = ([[s.splat(0.0); N]; T], q);
            for part in &mut part {
                *part = &part[g * GROUP..][..GROUP];
            }
            let group = vectors.map(|vectors| &vectors[g * len..][..len]);
            let ahead = ahead.map(|ahead| ahead.wrapping_add(g * len));
            add_products::<S, K, N, T>(s, (group, ahead), part, &mut sum);
            for t in 0..T {
                let scale = load_halves(s, &scales[t][g]);
                for (acc, sum) in acc[t].iter_mut().zip(sum[t]) {
                    *acc = s.fma(sum, scale, *acc);
                }
            }
        }
    } else {
        add_products::<S, K, N, T>(s, (vectors, ahead), q, &mut acc);
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (acc, scores) in acc.into_iter().zip(scores.iter_mut()) {
            let scores = &mut scores.as_chunks_mut::<LANES>().0[tiles[t]];
            s.store(s.mul(acc, s.splat(cache.scale)), scores);
        }
    }
}

/// `acc += sum over i of q[i] * k[i]`, in order; a lane is a position. `ahead` is what will be
/// wanted next.
#[inline(always)]
fn add_products<S: Simd, K: Format, const N: usize, const T: usize>(
    s: S,
    (vectors, ahead): ([&[u8]; T], [*const u8; T]),
    q: [&[f32]; N],
    acc: &mut [[S::F; N]; T],
) {
    let (n, is_odd) = (q[0].len() / 2, q[0].len() % 2 == 1);
    let mut q_pairs = [&[][..]; N];
    for (pairs, q) in q_pairs.iter_mut().zip(q) {
        *pairs = &q.as_chunks::<2>().0[..n];
    }
    let mut pairs = [&[][..]; T];
    for (pairs, vectors) in pairs.iter_mut().zip(vectors) {
        *pairs = &K::pairs(vectors)[..n + usize::from(is_odd)];
    }
    for i in 0..n {
        let mut k = [[s.splat(0.0); 2]; T];
        for t in 0..T {
            k[t] = K::load_pair(s, &pairs[t][i]);
            s.prefetch(ahead[t].wrapping_add(i * size_of::<K::Pair>()));
        }
        for part in 0..2 {
            for r in 0..N {
                let q = s.splat(q_pairs[r][i][part]);
                for t in 0..T {
                    acc[t][r] = s.fma(k[t][part], q, acc[t][r]);
                }
            }
        }
    }
    if is_odd {
        for t in 0..T {
            let [last, _] = K::load_pair(s, &pairs[t][n]);
            for r in 0..N {
                acc[t][r] = s.fma(last, s.splat(q[r][2 * n]), acc[t][r]);
            }
        }
    }
}

/// What a span adds to the running result.
struct Part<'a, const N: usize> {
    blocks: &'a [u32],
    first_tile: usize,
    /// Positions in it, of each row, from a whole tile on.
    seen: [Range<usize>; N],
    seen_by_all: Range<usize>,
    /// Factors on what came before and on this span, of each row.
    factors: [(f32, f32); N],
}

/// `mix = mix * keep + enter * sum over p of score[p] * v[p]`, in order; a lane is an element, `E`
/// vectors of them at a time; where fewer are left, the last one several times.
#[inline(always)]
fn mix<S: Simd, V: Format, const N: usize, const E: usize>(
    s: S,
    cache: &HeadCache<'_>,
    part: &Part<'_, N>,
    scores: &[[f32; SPAN]; N],
    rows: &mut [QueryRow<'_>; N],
) {
    for first in (0..cache.dim).step_by(E * LANES) {
        let mut at = [cache.dim - LANES; E];
        for (e, at) in at.iter_mut().enumerate() {
            *at = (*at).min(first + e * LANES);
        }
        mix_elements::<S, V, N, E>(s, cache, part, at, scores, rows);
    }
}

#[inline(always)]
fn mix_elements<S: Simd, V: Format, const N: usize, const E: usize>(
    s: S,
    cache: &HeadCache<'_>,
    part: &Part<'_, N>,
    at: [usize; E],
    scores: &[[f32; SPAN]; N],
    rows: &mut [QueryRow<'_>; N],
) {
    let dim = cache.dim;
    let mut acc = [[s.splat(0.0); N]; E];
    for (tile, &block) in part.blocks.iter().enumerate().skip(part.first_tile) {
        let (scales, vectors) = cache.v.tile::<V>(block, dim);
        let next = part.blocks.get(tile + 1).unwrap_or(&block);
        let ahead = cache.v.tile::<V>(*next, dim).1.as_ptr();
        let shares = |row: usize| &scores[row].as_chunks::<LANES>().0[tile];
        // A position's scale goes to its score: once for the elements of a group.
        let mut scaled = [[[0.0; LANES]; N]; E];
        if V::HAS_SCALES {
            for (e, scaled) in scaled.iter_mut().enumerate() {
                let scale = load_halves(s, &scales[at[e] / GROUP]);
                for (r, scaled) in scaled.iter_mut().enumerate() {
                    s.store(s.mul(s.load(shares(r)), scale), scaled);
                }
            }
        }
        let positions = tile * LANES..part.seen[N - 1].end.min((tile + 1) * LANES);
        let is_seen_by_all =
            part.seen_by_all.start <= positions.start && positions.end <= part.seen_by_all.end;
        for p in 0..positions.len() {
            let mut v = [s.splat(0.0); E];
            for (e, v) in v.iter_mut().enumerate() {
                *v = V::load(s, vectors, p * dim, at[e]);
                s.prefetch(ahead.wrapping_add(V::bytes(p * dim + at[e])));
            }
            for r in 0..N {
                if is_seen_by_all || part.seen[r].contains(&(positions.start + p)) {
                    for e in 0..E {
                        let shares = match V::HAS_SCALES {
                            true => &scaled[e][r],
                            false => shares(r),
                        };
                        acc[e][r] = s.fma(v[e], s.splat(shares[p]), acc[e][r]);
                    }
                }
            }
        }
    }
    for (e, acc) in acc.into_iter().enumerate() {
        if e > 0 && at[e] == at[e - 1] {
            break;
        }
        for ((acc, row), (keep, enter)) in acc.into_iter().zip(rows.iter_mut()).zip(part.factors) {
            let mut all = [0.0; LANES];
            s.store(acc, &mut all);
            let (first, end) = (at[e], row.mix.len());
            let mix = &mut row.mix[first.min(end)..(first + LANES).min(end)];
            for (mix, new) in mix.iter_mut().zip(all) {
                *mix = *mix * keep + new * enter;
            }
        }
    }
}

/// Turns the scores `seen` into `exp(score - max)` and those before into 0; answers the maximum and
/// the sum.
#[inline(always)]
fn softmax(scores: &mut [f32; SPAN], seen: Range<usize>) -> Weight {
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
    Weight {
        max,
        sum: tree_sum(sums),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;
    use crate::cpu::kernels::Kernels;
    use crate::dtype::Form;

    /// Keys or values of some positions in their tiles, and the numbers that went in.
    struct Filled {
        kv_type: KvType,
        x: Vec<f32>, // [position][head_dim]
        tiles: Vec<u8>,
    }

    struct Case<'a> {
        head_dim: usize,
        blocks: &'a [u32],
        positions: Range<usize>,
        soft_cap: Option<f32>,
    }

    impl Case<'_> {
        /// What a token sees that is `before` positions before the last.
        fn seen(&self, before: usize) -> Range<usize> {
            let Range { start, end } = self.positions;
            let end = end.saturating_sub(before).max(1);
            start.saturating_sub(before).min(end - 1)..end
        }
    }

    const SCALE: f32 = 0.3;

    /// A number that depends on all of its arguments.
    fn number(seed: usize, i: usize, size: f32) -> f32 {
        let mut z = ((seed as u64) << 40 ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * size
    }

    fn fill(
        kernels: &Kernels,
        kv_type: KvType,
        case: &Case<'_>,
        x: &[f32],
        is_key: bool,
    ) -> Filled {
        let dim = case.head_dim.next_multiple_of(LANES);
        let tile_bytes = kv_type.head_bytes(case.head_dim).unwrap() * LANES;
        // What an earlier sequence left in the tiles does not matter.
        let mut tiles = vec![0x5a; 96 * tile_bytes];
        for (position, x) in x.chunks(case.head_dim).enumerate() {
            let block = case.blocks[position / LANES] as usize;
            let tile = &mut tiles[block * tile_bytes..][..tile_bytes];
            match is_key {
                true => (kernels.store_key)(kv_type, x, tile, position),
                false => (kernels.store_value)(kv_type, x, tile, (position, dim)),
            }
        }
        let x = x.to_vec();
        Filled { kv_type, x, tiles }
    }

    /// Heads of several tokens, the last of which sees `case.positions`, through all units.
    fn attend_with(
        kernels: &Kernels,
        case: &Case<'_>,
        [k, v]: [&Filled; 2],
        q: &[Vec<f32>],
    ) -> Vec<Vec<f32>> {
        let [k, v] = [k, v].map(|filled| Tiles {
            kv_type: filled.kv_type,
            bytes: &filled.tiles,
        });
        let cache = HeadCache {
            k,
            v,
            dim: case.head_dim.next_multiple_of(LANES),
            blocks: case.blocks,
            scale: SCALE,
            soft_cap: case.soft_cap,
        };
        let mut out: Vec<Vec<f32>> = q.iter().map(|q| vec![9.0; q.len()]).collect();
        let mut weights = vec![Vec::new(); q.len()];
        for unit in 0..case.positions.end.div_ceil(UNIT) {
            let mut mixes = out.clone();
            let heads = q.iter().zip(&mut mixes).enumerate();
            let rows = heads.flat_map(|(token, (q, mixes))| {
                let seen = case.seen(q_token(token, out.len()));
                let heads = q.chunks(case.head_dim);
                let heads = heads.zip(mixes.chunks_mut(case.head_dim));
                heads.map(move |(q, mix)| QueryRow {
                    q,
                    seen: seen.clone(),
                    mix,
                    weight: Weight::NONE,
                })
            });
            let mut rows: Vec<_> = rows.collect();
            (kernels.attend)(&cache, unit * UNIT, &mut rows);
            let new: Vec<Weight> = rows.iter().map(|row| row.weight).collect();
            let n_heads = new.len() / out.len();
            for (token, (out, mixes)) in out.iter_mut().zip(&mixes).enumerate() {
                let seen = case.seen(q_token(token, q.len()));
                if unit * UNIT >= seen.end || (unit + 1) * UNIT <= seen.start {
                    continue;
                }
                let new = &new[token * n_heads..][..n_heads];
                if seen.start / UNIT == unit {
                    out.copy_from_slice(mixes);
                    weights[token] = new.to_vec();
                    continue;
                }
                let heads = out
                    .chunks_mut(case.head_dim)
                    .zip(mixes.chunks(case.head_dim));
                for (((out, mix), new), weight) in heads.zip(new).zip(&mut weights[token]) {
                    weight.merge(out, (*new, mix));
                }
            }
        }
        for (out, weights) in out.iter_mut().zip(&weights) {
            for (out, weight) in out.chunks_mut(case.head_dim).zip(weights) {
                weight.finish(out, None);
            }
        }
        out
    }

    /// How many positions before the last a token is.
    fn q_token(token: usize, n_tokens: usize) -> usize {
        n_tokens - 1 - token
    }

    /// The numbers of a position as the type keeps them, and the scale of each group.
    fn kept(filled: &Filled, position: usize, head_dim: usize) -> (Vec<f32>, Vec<f32>) {
        let dtype = filled.kv_type.dtype();
        let mut bytes = vec![0; dtype.row_bytes(head_dim).unwrap()];
        let x = &filled.x[position * head_dim..][..head_dim];
        filled.kv_type.quantize_row(x, &mut bytes);
        let mut numbers = vec![0.0; head_dim];
        if dtype.form() == Form::Float {
            dtype.dequantize_row(&bytes, &mut numbers);
            return (numbers, Vec::new());
        }
        let (mut q, mut scales) = (vec![0; head_dim], vec![0.0; head_dim / GROUP]);
        dtype.unpack_row(&bytes, &mut q, &mut scales, &mut []);
        (q.into_iter().map(f32::from).collect(), scales)
    }

    /// The module's pseudo-code, one head and one number after the other.
    fn plain(
        case: &Case<'_>,
        Range { start, end }: Range<usize>,
        [k, v]: [&Filled; 2],
        q: &[f32],
    ) -> Vec<f32> {
        let dim = case.head_dim;
        let merge = |(max, sum, out): &mut (f32, f32, Vec<f32>),
                     (new_max, new_sum, new): (f32, f32, Vec<f32>),
                     is_first: bool| {
            let all = if new_max > *max { new_max } else { *max };
            let (mut keep, mut enter) = (1.0, 1.0);
            if !is_first {
                (keep, enter) = (exp(*max - all), exp(new_max - all));
            }
            (*max, *sum) = (all, *sum * keep + new_sum * enter);
            for (out, new) in out.iter_mut().zip(new) {
                *out = *out * keep + new * enter;
            }
        };
        let nothing = || (f32::NEG_INFINITY, 0.0f32, vec![0.0f32; dim]);
        let mut whole = nothing();
        let first_unit = start / UNIT * UNIT;
        for unit in (first_unit..end).step_by(UNIT) {
            let mut part = nothing();
            let first_span = unit.max(start / SPAN * SPAN);
            for span in (first_span..end.min(unit + UNIT)).step_by(SPAN) {
                let n = SPAN.min(end - span);
                let hidden = start.saturating_sub(span);
                let first = hidden / LANES * LANES; // what a tile hides counts with a share of 0
                let mut scores = [0.0f32; SPAN];
                for (p, score) in scores.iter_mut().enumerate().take(n).skip(first) {
                    let (k, scales) = kept(k, span + p, dim);
                    let sum =
                        |part: Range<usize>| part.fold(0.0f32, |sum, i| k[i].mul_add(q[i], sum));
                    let product = match scales.is_empty() {
                        true => sum(0..dim),
                        false => scales.iter().enumerate().fold(0.0, |all, (g, scale)| {
                            sum(g * GROUP..(g + 1) * GROUP).mul_add(*scale, all)
                        }),
                    };
                    *score = product * SCALE;
                }
                if let Some(cap) = case.soft_cap {
                    soft_cap(&mut scores[..n], cap);
                }
                let Weight { max, sum } = softmax(&mut scores, hidden..n);
                let mut new = vec![0.0f32; dim];
                for (p, score) in scores.iter().enumerate().take(n).skip(first) {
                    let (v, scales) = kept(v, span + p, dim);
                    for (i, new) in new.iter_mut().enumerate() {
                        let share = scales.get(i / GROUP).map_or(*score, |scale| score * scale);
                        *new = v[i].mul_add(share, *new);
                    }
                }
                merge(&mut part, (max, sum, new), span == first_span);
            }
            match unit == first_unit {
                true => whole = part,
                false => merge(&mut whole, part, false),
            }
        }
        let inverse = 1.0 / whole.1;
        whole.2.iter().map(|out| out * inverse).collect()
    }

    fn same(a: &[f32], b: &[f32]) -> bool {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        a.len() == b.len() && a.iter().zip(b).all(same)
    }

    /// Every instruction set against the loops above, for every pair of types.
    fn check(case: &Case<'_>, n_heads: usize, size: impl Fn(usize) -> f32) {
        let n = case.positions.end * case.head_dim;
        let numbers = |seed, n| (0..n).map(|i| number(seed, i, size(i))).collect::<Vec<_>>();
        let (k, v) = (numbers(1, n), numbers(2, n));
        let q: Vec<Vec<f32>> = (0..3)
            .map(|token| (0..n_heads * case.head_dim).map(move |i| number(3 + token, i, 2.0)))
            .map(Iterator::collect)
            .collect();
        let types = KvType::ALL.iter().copied();
        let types = types.filter(|kv_type| kv_type.head_bytes(case.head_dim).is_some());
        for isa in Isa::available() {
            let kernels = Kernels::get(isa).unwrap();
            for k_type in types.clone() {
                let k = fill(kernels, k_type, case, &k, true);
                for v_type in types.clone() {
                    let v = fill(kernels, v_type, case, &v, false);
                    let got = attend_with(kernels, case, [&k, &v], &q);
                    let alone = attend_with(kernels, case, [&k, &v], &q[2..]);
                    assert!(
                        same(&got[2], &alone[0]),
                        "a token depends on those beside it"
                    );
                    for (token, (q, got)) in q.iter().zip(&got).enumerate() {
                        let seen = case.seen(q_token(token, 3));
                        let heads = q.chunks(case.head_dim);
                        let want = heads.flat_map(|q| plain(case, seen.clone(), [&k, &v], q));
                        assert!(
                            same(got, &want.collect::<Vec<_>>()),
                            "{isa}, {k_type} and {v_type}, {n_heads} heads of {}, {seen:?}",
                            case.head_dim
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_type_and_instruction_set_is_as_the_plain_loops() {
        let blocks: Vec<u32> = (0..96).map(|i| (i * 11 + 5) % 96).collect();
        for (head_dim, n_heads, positions, soft_cap) in [
            (64, 3, 0..1, None),
            (64, 1, 0..16, None),
            (32, 4, 0..37, Some(3.0)),
            (96, 2, 7..61, None),
            (32, 5, 250..261, None),
            (64, 1, 3..290, Some(2.0)),
            (24, 3, 0..33, None),
            (17, 2, 5..20, None),
            (1, 1, 0..18, None),
            (32, 1, 0..1300, None),
            (32, 2, 1023..1025, None),
        ] {
            let case = Case {
                head_dim,
                blocks: &blocks,
                positions,
                soft_cap,
            };
            check(&case, n_heads, |_| 1.5);
        }
    }

    #[test]
    fn extreme_numbers_are_as_in_the_plain_loops() {
        let case = Case {
            head_dim: 64,
            blocks: &[3, 1],
            positions: 0..19,
            soft_cap: None,
        };
        let bits = |i: usize, bits: &[u32]| f32::from_bits(bits[i * 7 / 3 % bits.len()]);
        check(&case, 2, |_| 0.0);
        check(&case, 2, |_| -0.0);
        check(&case, 2, |i| if i % 64 == 5 { 1e30 } else { 1.0 });
        check(&case, 2, |i| [1e-45, 1e-38, 6e-8, 1e-5][i / 32 % 4]);
        check(&case, 2, |i| {
            bits(i, &[0x7f80_0000, 0x3f80_0000, 0xff80_0000])
        });
        check(&case, 2, |i| if i % 600 == 3 { f32::NAN } else { 1.0 });
        check(&case, 2, |_| f32::MAX);
    }
}
