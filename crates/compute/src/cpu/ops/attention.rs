//! Attention of one token's query heads over one head of the KV cache.
//!
//! ```text
//! for each span of 256 positions, by absolute position:
//!     score[p] = cap(scale * (q . k[p]))            summed over the head in order
//!     m = max score, e[p] = exp(score[p] - m), l = sum of e, o = sum of e[p] * v[p] in order
//!     merge (m, l, o) into the running (M, L, O)    (online softmax, arXiv 1805.02867)
//! out = O / L, where a sink is merged before as one more score, without a value
//! ```
//!
//! 1. Keys lie transposed in tiles of sixteen positions, `[head_dim][16]`, so a lane is a position
//!    and no score is summed across lanes; values lie `[16][head_dim]`, so a lane is an element
//!    (`kv_tile.rs`).
//! 2. The query heads that share a key head go through it together: one load for all of them.
//! 3. Quantized keys and values become f32 in registers; a scale is applied once for 32 elements of
//!    a key, to their sum, and once for 16 elements of a value, to the score.
//! 4. Spans start at multiples of 256 whatever the batch, so that a token's bits are the same in
//!    decode and in any slice of a prompt, and long contexts can be shared among threads.

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

/// Positions between two merges of the running softmax.
const SPAN: usize = 256;

/// Query heads that go through a tile together.
const HEADS: usize = 4;

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
    /// Positions that are seen; at least one.
    pub(crate) positions: Range<usize>,
    /// Factor on a score.
    pub(crate) scale: f32,
    /// Scores go through `soft_cap`.
    pub(crate) soft_cap: Option<f32>,
    /// Of each query head, a score that has no value.
    pub(crate) sinks: Option<&'a [f32]>,
}

/// `out` gets the result for each head in `q`; both are `[n_heads, head_dim]`.
#[inline(always)]
pub(crate) fn attend<S: Simd>(
    s: S,
    cache: &HeadCache<'_>,
    (q, head_dim): (&[f32], usize),
    out: &mut [f32],
) {
    assert_eq!(q.len(), out.len());
    let mut heads = q
        .chunks_exact(head_dim)
        .zip(out.chunks_exact_mut(head_dim))
        .peekable();
    let mut first = 0;
    while heads.peek().is_some() {
        let some: [_; HEADS] = std::array::from_fn(|_| heads.next());
        match some {
            [Some(a), Some(b), Some(c), Some(d)] => attend_heads(s, cache, first, [a, b, c, d]),
            [Some(a), Some(b), Some(c), None] => attend_heads(s, cache, first, [a, b, c]),
            [Some(a), Some(b), None, None] => attend_heads(s, cache, first, [a, b]),
            [Some(a), ..] => attend_heads(s, cache, first, [a]),
            [None, ..] => unreachable!("there is one by the loop's condition"),
        }
        first += HEADS;
    }
}

#[inline(always)]
fn attend_heads<S: Simd, const N: usize>(
    s: S,
    cache: &HeadCache<'_>,
    first: usize,
    mut heads: [(&[f32], &mut [f32]); N],
) {
    let mut total_max = [f32::NEG_INFINITY; N];
    let mut total_sum = [0.0f32; N];
    heads.iter_mut().for_each(|(_, out)| out.fill(0.0));
    let Range { start, end } = cache.positions;
    let first_span = start / SPAN * SPAN;
    for span in (first_span..end).step_by(SPAN) {
        let n = SPAN.min(end - span);
        // Where a window begins within the span: whole tiles before it are passed over.
        let hidden = start.saturating_sub(span);
        let tiles = hidden / LANES..n.div_ceil(LANES);
        let blocks = &cache.blocks[span / LANES..][..tiles.end];

        let mut scores = [[0.0f32; SPAN]; N];
        let mut q = [&[][..]; N];
        for (q, (head, _)) in q.iter_mut().zip(&heads) {
            *q = head;
        }
        with_format!(cache.k.kv_type, K => {
            score::<S, K, N>(s, cache, (blocks, tiles.clone()), q, &mut scores);
        });

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

        let part = Part {
            blocks,
            first_tile: tiles.start,
            n,
            keep,
            enter,
        };
        with_format!(cache.v.kv_type, V => mix::<S, V, N>(s, cache, &part, &scores, &mut heads));
    }
    for (h, (_, out)) in heads.iter_mut().enumerate() {
        let factor = match cache.sinks {
            None => 1.0 / total_sum[h],
            Some(sinks) => with_sink(total_max[h], total_sum[h], sinks[first + h]),
        };
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

/// The scores of the positions in some tiles of a span, for each head.
#[inline(always)]
fn score<S: Simd, K: Format, const N: usize>(
    s: S,
    cache: &HeadCache<'_>,
    (blocks, tiles): (&[u32], Range<usize>),
    q: [&[f32]; N],
    scores: &mut [[f32; SPAN]; N],
) {
    for tile in tiles {
        let (scales, vectors) = cache.k.tile::<K>(blocks[tile], cache.dim);
        let mut acc = [s.splat(0.0); N];
        if K::HAS_SCALES {
            let groups = vectors.chunks_exact(vectors.len() / scales.len());
            for (g, (scale, vectors)) in scales.iter().zip(groups).enumerate() {
                let mut sum = [s.splat(0.0); N];
                let mut part = q;
                for part in &mut part {
                    *part = &part[g * GROUP..][..GROUP];
                }
                add_products::<S, K, N>(s, vectors, part, &mut sum);
                let scale = load_halves(s, scale);
                for (acc, sum) in acc.iter_mut().zip(sum) {
                    *acc = s.fma(sum, scale, *acc);
                }
            }
        } else {
            add_products::<S, K, N>(s, vectors, q, &mut acc);
        }
        for (acc, scores) in acc.into_iter().zip(scores.iter_mut()) {
            let scores = &mut scores.as_chunks_mut::<LANES>().0[tile];
            s.store(s.mul(acc, s.splat(cache.scale)), scores);
        }
    }
}

/// `acc += sum over i of q[i] * k[i]`, in order; a lane is a position.
#[inline(always)]
fn add_products<S: Simd, K: Format, const N: usize>(
    s: S,
    vectors: &[u8],
    q: [&[f32]; N],
    acc: &mut [S::F; N],
) {
    let (n, is_odd) = (q[0].len() / 2, q[0].len() % 2 == 1);
    let mut q_pairs = [&[][..]; N];
    for (pairs, q) in q_pairs.iter_mut().zip(q) {
        *pairs = &q.as_chunks::<2>().0[..n];
    }
    let pairs = K::pairs(vectors);
    for (i, pair) in pairs[..n].iter().enumerate() {
        let [even, odd] = K::load_pair(s, pair);
        for (acc, q) in acc.iter_mut().zip(q_pairs) {
            *acc = s.fma(odd, s.splat(q[i][1]), s.fma(even, s.splat(q[i][0]), *acc));
        }
    }
    if is_odd {
        let [last, _] = K::load_pair(s, &pairs[n]);
        for (acc, q) in acc.iter_mut().zip(q) {
            *acc = s.fma(last, s.splat(q[2 * n]), *acc);
        }
    }
}

/// What a span adds to the running result.
struct Part<'a, const N: usize> {
    blocks: &'a [u32],
    first_tile: usize,
    /// Positions in it.
    n: usize,
    /// Factor on what came before, for each head.
    keep: [f32; N],
    /// Factor on this span.
    enter: [f32; N],
}

/// `out = out * keep + enter * sum over p of score[p] * v[p]`, in order; a lane is an element.
#[inline(always)]
fn mix<S: Simd, V: Format, const N: usize>(
    s: S,
    cache: &HeadCache<'_>,
    part: &Part<'_, N>,
    scores: &[[f32; SPAN]; N],
    heads: &mut [(&[f32], &mut [f32]); N],
) {
    let dim = cache.dim;
    for at in (0..dim).step_by(LANES) {
        let mut acc = [s.splat(0.0); N];
        for (tile, &block) in part.blocks.iter().enumerate().skip(part.first_tile) {
            let (scales, vectors) = cache.v.tile::<V>(block, dim);
            // A position's scale goes to its score: once for sixteen elements.
            let mut scaled = [[0.0; LANES]; N];
            let mut scores_of = [&[0.0; LANES]; N];
            for (h, scores) in scores.iter().enumerate() {
                scores_of[h] = &scores.as_chunks().0[tile];
            }
            if V::HAS_SCALES {
                let scale = load_halves(s, &scales[at / GROUP]);
                for (scaled, scores) in scaled.iter_mut().zip(scores_of) {
                    s.store(s.mul(s.load(scores), scale), scaled);
                }
                for (scores, scaled) in scores_of.iter_mut().zip(&scaled) {
                    *scores = scaled;
                }
            }
            for p in 0..LANES.min(part.n - tile * LANES) {
                let v = V::load(s, vectors, p * dim, at);
                for (acc, scores) in acc.iter_mut().zip(scores_of) {
                    *acc = s.fma(v, s.splat(scores[p]), *acc);
                }
            }
        }
        for (h, acc) in acc.into_iter().enumerate() {
            let mut all = [0.0; LANES];
            s.store(acc, &mut all);
            let end = heads[h].1.len().min(at + LANES);
            for (out, new) in heads[h].1[at.min(end)..end].iter_mut().zip(all) {
                *out = *out * part.keep[h] + new * part.enter[h];
            }
        }
    }
}

/// What divides by `sum`, a sum of `exp(score - max)`, after one more score.
#[inline(always)]
fn with_sink(max: f32, sum: f32, sink: f32) -> f32 {
    let new_max = if sink > max { sink } else { max };
    let keep = exp(max - new_max);
    keep / (sum * keep + exp(sink - new_max))
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
        let mut tiles = vec![0x5a; 64 * tile_bytes];
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

    fn attend_with(
        kernels: &Kernels,
        case: &Case<'_>,
        [k, v]: [&Filled; 2],
        q: &[f32],
    ) -> Vec<f32> {
        let [k, v] = [k, v].map(|filled| Tiles {
            kv_type: filled.kv_type,
            bytes: &filled.tiles,
        });
        let cache = HeadCache {
            k,
            v,
            dim: case.head_dim.next_multiple_of(LANES),
            blocks: case.blocks,
            positions: case.positions.clone(),
            scale: SCALE,
            sinks: None,
            soft_cap: case.soft_cap,
        };
        let mut out = vec![9.0; q.len()];
        (kernels.attend)(&cache, (q, case.head_dim), &mut out);
        out
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
    fn plain(case: &Case<'_>, [k, v]: [&Filled; 2], q: &[f32]) -> Vec<f32> {
        let Range { start, end } = case.positions;
        let dim = case.head_dim;
        let (mut total_max, mut total_sum) = (f32::NEG_INFINITY, 0.0f32);
        let mut out = vec![0.0f32; dim];
        let first_span = start / SPAN * SPAN;
        for span in (first_span..end).step_by(SPAN) {
            let n = SPAN.min(end - span);
            let hidden = start.saturating_sub(span);
            let first = hidden / LANES * LANES; // what a tile hides counts with a share of 0
            let mut scores = [0.0f32; SPAN];
            for (p, score) in scores.iter_mut().enumerate().take(n).skip(first) {
                let (k, scales) = kept(k, span + p, dim);
                let sum = |part: Range<usize>| part.fold(0.0f32, |sum, i| k[i].mul_add(q[i], sum));
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
            let (max, sum) = softmax(&mut scores, hidden..n);
            let new_max = if max > total_max { max } else { total_max };
            let (mut keep, mut enter) = (1.0, 1.0);
            if span > first_span {
                (keep, enter) = (exp(total_max - new_max), exp(max - new_max));
            }
            total_max = new_max;
            total_sum = total_sum * keep + sum * enter;
            let mut new = vec![0.0f32; dim];
            for (p, score) in scores.iter().enumerate().take(n).skip(first) {
                let (v, scales) = kept(v, span + p, dim);
                for (i, new) in new.iter_mut().enumerate() {
                    let share = scales.get(i / GROUP).map_or(*score, |scale| score * scale);
                    *new = v[i].mul_add(share, *new);
                }
            }
            for (out, new) in out.iter_mut().zip(new) {
                *out = *out * keep + new * enter;
            }
        }
        let inverse = 1.0 / total_sum;
        out.iter().map(|out| out * inverse).collect()
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
        let q: Vec<f32> = (0..n_heads * case.head_dim)
            .map(|i| number(3, i, 2.0))
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
                    let heads = q.chunks(case.head_dim);
                    let want: Vec<f32> = heads.flat_map(|q| plain(case, [&k, &v], q)).collect();
                    assert!(
                        same(&got, &want),
                        "{isa}, {k_type} and {v_type}, {n_heads} heads of {}, {:?}",
                        case.head_dim,
                        case.positions
                    );
                }
            }
        }
    }

    #[test]
    fn every_type_and_instruction_set_is_as_the_plain_loops() {
        let blocks: Vec<u32> = (0..24).map(|i| (i * 11 + 5) % 64).collect();
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
