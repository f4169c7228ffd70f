//! 64-bit x86.
//!
//! Without VNNI a multiplication of bytes sums two products in 16 bits, and a second instruction takes the
//! sums to 32. Where weights are small the sums of several are added in 16 bits before, so that the second
//! one is needed once for up to 32 columns.

use std::ops::Range;

use super::{Dot, PanelPart, Simd, TokenPart, dot_fours};

pub(crate) mod amx;
pub(crate) mod avx2;
pub(crate) mod avx512;

/// Sets without VNNI.
trait InPairs: Simd {
    /// `pairs` + the products of weights without a sign and activations, two in each 16 bits.
    fn add_products(self, pairs: Self::I, weights: Self::I, x: Self::I) -> Self::I;
    /// `acc` + both 16 bits of each lane.
    fn add_pairs(self, acc: Self::I, pairs: Self::I) -> Self::I;
}

/// How many fours of columns fit 16 bits: a power of two, so that whole ones make up any group.
const fn n_in_16_bits(max: Option<u8>) -> usize {
    let Some(max) = max else {
        return 1;
    };
    // Activations are at most 127.
    match i16::MAX as usize / (2 * 127 * max as usize) {
        0..2 => 1,
        2..4 => 2,
        4..8 => 4,
        _ => 8,
    }
}

/// [`Simd::dot_panels`].
#[inline(always)]
fn dot_panels_in_pairs<S: InPairs, const N: usize, const P: usize>(
    s: S,
    mut dots: [[S::I; P]; N],
    (weights, x): (&[PanelPart<'_>; P], &[TokenPart<'_>; N]),
    fours: Range<usize>,
    max: Option<u8>,
) -> [[S::I; P]; N] {
    // Fewer at a time are slower than one.
    if n_in_16_bits(max) < 8 {
        return dot_fours(s, dots, (weights, x), fours, Dot::of(max));
    }
    assert!(fours.len() <= 8, "the columns of a group");
    let mut pairs = [[s.splat_i32(0); P]; N];
    for i in fours {
        let mut w = [s.splat_i32(0); P];
        for p in 0..P {
            w[p] = s.load_i8x4(&weights[p][i]);
        }
        for t in 0..N {
            let x = s.splat_four(&x[t][i]);
            for p in 0..P {
                pairs[t][p] = s.add_products(pairs[t][p], w[p], x);
            }
        }
    }
    for t in 0..N {
        for p in 0..P {
            dots[t][p] = s.add_pairs(dots[t][p], pairs[t][p]);
        }
    }
    dots
}

/// [`Simd::dot16`].
#[inline(always)]
fn dot16_in_pairs<S: InPairs>(
    s: S,
    mut dot: S::I,
    weights: [S::I; 4],
    x: &[[i8; 4]; 4],
    max: Option<u8>,
) -> S::I {
    let n = n_in_16_bits(max);
    let zero = s.splat_i32(0);
    let mut pairs = zero;
    for (i, (w, x)) in weights.into_iter().zip(x).enumerate() {
        let x = s.splat_four(x);
        if max.is_none() {
            dot = s.dot4_signed(dot, w, x);
            continue;
        }
        pairs = s.add_products(pairs, w, x);
        if (i + 1).is_multiple_of(n.min(4)) {
            dot = s.add_pairs(dot, pairs);
            pairs = zero;
        }
    }
    dot
}

/// What sets without VNNI override.
macro_rules! dots_in_pairs {
    () => {
        #[inline(always)]
        fn dot4(self, acc: Self::I, weights: Self::I, x: Self::I) -> Self::I {
            // Two products, each at most 127 * 127, fit an i16.
            self.add_pairs(acc, self.add_products(self.splat_i32(0), weights, x))
        }
        #[inline(always)]
        fn dot_panels<const N: usize, const P: usize>(
            self,
            dots: [[Self::I; P]; N],
            parts: (&[PanelPart<'_>; P], &[TokenPart<'_>; N]),
            fours: Range<usize>,
            max: Option<u8>,
        ) -> [[Self::I; P]; N] {
            dot_panels_in_pairs(self, dots, parts, fours, max)
        }
        #[inline(always)]
        fn dot16(
            self,
            dot: Self::I,
            weights: [Self::I; 4],
            x: &[[i8; 4]; 4],
            max: Option<u8>,
        ) -> Self::I {
            dot16_in_pairs(self, dot, weights, x, max)
        }
    };
}
use dots_in_pairs;
