//! How keys and values lie in memory: tiles of sixteen positions of one head, in each cache type.
//!
//! A tile is vectors of sixteen numbers. Keys are transposed, so that a lane is a position and
//! vector i holds element i of all positions; values are in order, so that a lane is an element and
//! the vectors of a position follow each other. Before the vectors of a quantized type stand the
//! scales, f16, `[head_dim / 32][16]`: those of all positions for each 32 elements. Two vectors of
//! 4-bit codes share sixteen bytes: the even one has the lower bits. So a tile takes exactly the
//! bytes that the type says ([`crate::kv_block_bytes`]), and its scales are read as one vector.

use crate::cpu::simd::{LANES, Simd};
use crate::dtype::{f32_to_f16, q4_0, q8_0};
use crate::kv::KvType;

/// Elements of a head that share a scale.
pub(super) const GROUP: usize = 32;

/// Bytes of the scales of one group in a tile.
const SCALES_BYTES: usize = 2 * LANES;

/// How the numbers of one type are read and written.
pub(super) trait Format {
    /// Whether each [`GROUP`] elements share a scale, which what is read lacks.
    const HAS_SCALES: bool;

    /// The bytes of two vectors.
    type Pair;
    fn pairs(vectors: &[u8]) -> &[Self::Pair];
    /// Bytes of `n` numbers, without their scales.
    fn bytes(n: usize) -> usize {
        n * size_of::<Self::Pair>() / (2 * LANES)
    }
    fn load_pair<S: Simd>(s: S, pair: &Self::Pair) -> [S::F; 2];

    /// The numbers `at..at + 16`, `at` a multiple of 16, of those that begin with number `row`, a
    /// multiple of twice [`LANES`] where vectors share bytes.
    fn load<S: Simd>(s: S, vectors: &[u8], row: usize, at: usize) -> S::F;

    /// Puts elements that share a scale where `place` says, as (vector, lane), and answers the
    /// scale.
    fn store(x: &[f32], vectors: &mut [u8], place: impl Fn(usize) -> (usize, usize)) -> u16;
}

/// Runs an expression with the format of a type.
macro_rules! with_format {
    ($kv_type:expr, $format:ident => $body:expr) => {
        match $kv_type {
            KvType::F32 => {
                type $format = $crate::cpu::ops::kv_tile::F32;
                $body
            }
            KvType::F16 => {
                type $format = $crate::cpu::ops::kv_tile::F16;
                $body
            }
            KvType::Q8_0 => {
                type $format = $crate::cpu::ops::kv_tile::Q8_0;
                $body
            }
            KvType::Q4_0 => {
                type $format = $crate::cpu::ops::kv_tile::Q4_0;
                $body
            }
        }
    };
}
pub(super) use with_format;

/// All tiles of keys, or of values, of one head.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    pub(crate) kv_type: KvType,
    /// `[n_blocks]` tiles.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// Scales and vectors of a block; positions have `dim` elements.
    #[inline(always)]
    pub(super) fn tile<T: Format>(
        self,
        block: u32,
        dim: usize,
    ) -> (&'a [[u8; SCALES_BYTES]], &'a [u8]) {
        let len = scales_bytes::<T>(dim) + T::bytes(dim * LANES);
        let tile = &self.bytes[block as usize * len..][..len];
        let (scales, vectors) = tile.split_at(scales_bytes::<T>(dim));
        (scales.as_chunks().0, vectors)
    }
}

#[inline(always)]
fn scales_bytes<T: Format>(dim: usize) -> usize {
    if T::HAS_SCALES {
        dim / GROUP * SCALES_BYTES
    } else {
        0
    }
}

/// Sixteen halves: the scales of a group, or a vector of [`F16`].
#[inline(always)]
pub(super) fn load_halves<S: Simd>(s: S, bytes: &[u8; SCALES_BYTES]) -> S::F {
    let mut halves = [0; LANES];
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
        *half = u16::from_le_bytes(*bytes);
    }
    s.load_f16(&halves)
}

/// Puts one position's key of one head into its tile.
#[inline(always)]
pub(crate) fn store_key(kv_type: KvType, k: &[f32], tile: &mut [u8], position: usize) {
    let lane = position % LANES;
    with_format!(kv_type, T => store::<T>(k, tile, lane, |element| (element, lane)));
}

/// Puts one position's value of one head, `dim` elements in the cache, into its tile.
#[inline(always)]
pub(crate) fn store_value(
    kv_type: KvType,
    v: &[f32],
    tile: &mut [u8],
    (position, dim): (usize, usize),
) {
    let position = position % LANES;
    let first = position * (dim / LANES);
    with_format!(kv_type, T => store::<T>(v, tile, position, |element| {
        (first + element / LANES, element % LANES)
    }));
}

#[inline(always)]
fn store<T: Format>(
    x: &[f32],
    tile: &mut [u8],
    position: usize,
    place: impl Fn(usize) -> (usize, usize),
) {
    let (scales, vectors) = tile.split_at_mut(scales_bytes::<T>(x.len()));
    let mut scales = scales.as_chunks_mut::<SCALES_BYTES>().0.iter_mut();
    for (g, x) in x.chunks(GROUP).enumerate() {
        let scale = T::store(x, vectors, |element| place(g * GROUP + element));
        if let Some(scales) = scales.next() {
            scales[2 * position..][..2].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

/// 32-bit floats.
pub(super) struct F32;

impl Format for F32 {
    const HAS_SCALES: bool = false;
    type Pair = [[u8; 4 * LANES]; 2];

    #[inline(always)]
    fn pairs(vectors: &[u8]) -> &[Self::Pair] {
        vectors.as_chunks().0.as_chunks().0
    }
    #[inline(always)]
    fn load_pair<S: Simd>(s: S, [a, b]: &Self::Pair) -> [S::F; 2] {
        [load_f32(s, a), load_f32(s, b)]
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, vectors: &[u8], row: usize, at: usize) -> S::F {
        load_f32(s, vector(vectors, 4 * (row + at)))
    }
    #[inline(always)]
    fn store(x: &[f32], vectors: &mut [u8], place: impl Fn(usize) -> (usize, usize)) -> u16 {
        for (i, x) in x.iter().enumerate() {
            let (vector, lane) = place(i);
            vectors[4 * (vector * LANES + lane)..][..4].copy_from_slice(&x.to_le_bytes());
        }
        0
    }
}

#[inline(always)]
fn load_f32<S: Simd>(s: S, bytes: &[u8; 4 * LANES]) -> S::F {
    let mut all = [0.0; LANES];
    for (x, bytes) in all.iter_mut().zip(bytes.as_chunks().0) {
        *x = f32::from_le_bytes(*bytes);
    }
    s.load(&all)
}

/// The vector of `N` bytes at byte `at`.
#[inline(always)]
fn vector<const N: usize>(vectors: &[u8], at: usize) -> &[u8; N] {
    vectors[at..].first_chunk().expect("a vector of the tile")
}

/// Half precision.
pub(super) struct F16;

impl Format for F16 {
    const HAS_SCALES: bool = false;
    type Pair = [[u8; 2 * LANES]; 2];

    #[inline(always)]
    fn pairs(vectors: &[u8]) -> &[Self::Pair] {
        vectors.as_chunks().0.as_chunks().0
    }
    #[inline(always)]
    fn load_pair<S: Simd>(s: S, [a, b]: &Self::Pair) -> [S::F; 2] {
        [load_halves(s, a), load_halves(s, b)]
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, vectors: &[u8], row: usize, at: usize) -> S::F {
        load_halves(s, vector(vectors, 2 * (row + at)))
    }
    #[inline(always)]
    fn store(x: &[f32], vectors: &mut [u8], place: impl Fn(usize) -> (usize, usize)) -> u16 {
        // All before the first is put: so compilers make vectors of them.
        let mut halves = [0; GROUP];
        for (half, x) in halves.iter_mut().zip(x) {
            *half = f32_to_f16(*x);
        }
        for (i, half) in halves[..x.len()].iter().enumerate() {
            let (vector, lane) = place(i);
            let at = 2 * (vector * LANES + lane);
            vectors[at..][..2].copy_from_slice(&half.to_le_bytes());
        }
        0
    }
}

/// 8 bits and a scale.
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const HAS_SCALES: bool = true;
    type Pair = [[u8; LANES]; 2];

    #[inline(always)]
    fn pairs(vectors: &[u8]) -> &[Self::Pair] {
        vectors.as_chunks().0.as_chunks().0
    }
    #[inline(always)]
    fn load_pair<S: Simd>(s: S, [a, b]: &Self::Pair) -> [S::F; 2] {
        [s.load_i8(a), s.load_i8(b)]
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, vectors: &[u8], row: usize, at: usize) -> S::F {
        s.load_i8(vector(vectors, row + at))
    }
    #[inline(always)]
    fn store(x: &[f32], vectors: &mut [u8], place: impl Fn(usize) -> (usize, usize)) -> u16 {
        let (scale, q) = q8_0::quantize(x.first_chunk().expect("a whole group"));
        for (i, q) in q.into_iter().enumerate() {
            let (vector, lane) = place(i);
            vectors[vector * LANES + lane] = q as u8;
        }
        scale
    }
}

/// 4 bits and a scale.
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const HAS_SCALES: bool = true;
    type Pair = [u8; LANES];

    #[inline(always)]
    fn pairs(vectors: &[u8]) -> &[Self::Pair] {
        vectors.as_chunks().0
    }
    #[inline(always)]
    fn load_pair<S: Simd>(s: S, pair: &Self::Pair) -> [S::F; 2] {
        [s.load_i4(pair, 0), s.load_i4(pair, 4)]
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, vectors: &[u8], row: usize, at: usize) -> S::F {
        let (pair, shift) = (at / (2 * LANES) * LANES, at / LANES % 2 * 4);
        s.load_i4(vector(vectors, row / 2 + pair), shift as i32)
    }
    #[inline(always)]
    fn store(x: &[f32], vectors: &mut [u8], place: impl Fn(usize) -> (usize, usize)) -> u16 {
        let (scale, codes) = q4_0::quantize(x.first_chunk().expect("a whole group"));
        for (i, code) in codes.into_iter().enumerate() {
            let (vector, lane) = place(i);
            let (byte, shift) = (&mut vectors[vector / 2 * LANES + lane], vector % 2 * 4);
            *byte = *byte & !(15 << shift) | code << shift;
        }
        scale
    }
}
