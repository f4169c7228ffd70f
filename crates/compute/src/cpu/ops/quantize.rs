//! Activations to 8 bits, in groups of 32: the other factor of a product with quantized weights.
//!
//! `x[i] = d * q[i]` with `d = max |x| / 127` of the group, q in -127..=127. Beside the numbers
//! stand what products need of them: their sums, for weights with a minimum and for those that are
//! stored with an offset.
//!
//! Where more is wanted two rows stand for one: the numbers, and what they leave, quantized in the same
//! way. A product multiplies both, as if they were two tokens, and adds what comes out.

use std::ops::Range;

use crate::cpu::simd::{LANES, Simd};
use crate::cpu::threads::SharedBuf;

/// Elements that share a scale.
pub(crate) const GROUP: usize = 32;

/// Quantized rows of one buffer, `[n_rows, width]`; `width` is a multiple of [`GROUP`].
pub(crate) struct QuantBuf {
    width: usize,
    q: SharedBuf<i8>,      // [n_rows, width]
    d: SharedBuf<f32>,     // [n_rows, width / 32]
    sum32: SharedBuf<f32>, // [n_rows, width / 32]: d * sum of q
    sum16: SharedBuf<f32>, // [n_rows, width / 16]
    n32: SharedBuf<i32>,   // [n_rows, width / 32]: sum of q
    n16: SharedBuf<i32>,   // [n_rows, width / 16]
}

/// Some rows to read.
#[derive(Clone, Copy)]
pub(crate) struct QuantRows<'a> {
    pub(crate) n_rows: usize,
    /// Elements of `q` in a row: two for each number, where these are of 16 bits ([`int16`](super::int16)).
    pub(crate) width: usize,
    pub(crate) q: &'a [i8],
    pub(crate) d: &'a [f32],
    pub(crate) sum32: &'a [f32],
    pub(crate) sum16: &'a [f32],
    pub(crate) n32: &'a [i32],
    pub(crate) n16: &'a [i32],
}

/// A run of whole groups of one row to write.
pub(crate) struct QuantSpan<'a> {
    q: &'a mut [i8],
    d: &'a mut [f32],
    sum32: &'a mut [f32],
    sum16: &'a mut [f32],
    n32: &'a mut [i32],
    n16: &'a mut [i32],
}

impl QuantBuf {
    pub(crate) fn zeroed(n_rows: usize, width: usize) -> Option<QuantBuf> {
        let n = n_rows.checked_mul(width)?;
        Some(QuantBuf {
            width,
            q: SharedBuf::zeroed(n)?,
            d: SharedBuf::zeroed(n / 32)?,
            sum32: SharedBuf::zeroed(n / 32)?,
            sum16: SharedBuf::zeroed(n / 16)?,
            n32: SharedBuf::zeroed(n / 32)?,
            n16: SharedBuf::zeroed(n / 16)?,
        })
    }

    /// Bytes of a buffer of `len` elements: each one, and for each 32 three numbers and for each 16
    /// two.
    pub(crate) fn bytes_for(len: usize) -> usize {
        let numbers = 3 * (len / 32) + 2 * (len / 16);
        len.saturating_add(numbers.saturating_mul(4))
    }

    pub(crate) fn bytes(&self) -> usize {
        let floats = self.d.bytes() + self.sum32.bytes() + self.sum16.bytes();
        self.q.bytes() + floats + self.n32.bytes() + self.n16.bytes()
    }

    /// Some rows.
    ///
    /// # Safety
    /// Nobody writes to them while the view lives.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> QuantRows<'_> {
        let (from, n) = (rows.start * self.width, rows.end * self.width);
        // SAFETY: the caller's promise covers every array.
        unsafe {
            QuantRows {
                n_rows: rows.len(),
                width: self.width,
                q: self.q.get(from..n),
                d: self.d.get(from / 32..n / 32),
                sum32: self.sum32.get(from / 32..n / 32),
                sum16: self.sum16.get(from / 16..n / 16),
                n32: self.n32.get(from / 32..n / 32),
                n16: self.n16.get(from / 16..n / 16),
            }
        }
    }

    /// `len` elements of row `row` from column `column`, both multiples of [`GROUP`].
    ///
    /// # Safety
    /// Nobody else reads or writes them while the span lives.
    pub(crate) unsafe fn span(&self, row: usize, column: usize, len: usize) -> QuantSpan<'_> {
        assert!(
            column.is_multiple_of(GROUP) && len.is_multiple_of(GROUP) && column + len <= self.width
        );
        let at = row * self.width + column;
        let (at32, n32, at16, n16) = (at / 32, len / 32, at / 16, len / 16);
        // SAFETY: the caller's promise covers every array.
        unsafe {
            QuantSpan {
                q: self.q.get_mut(at..at + len),
                d: self.d.get_mut(at32..at32 + n32),
                sum32: self.sum32.get_mut(at32..at32 + n32),
                sum16: self.sum16.get_mut(at16..at16 + n16),
                n32: self.n32.get_mut(at32..at32 + n32),
                n16: self.n16.get_mut(at16..at16 + n16),
            }
        }
    }
}

/// Quantizes `x` into `out`, of the same length.
#[inline(always)]
pub(crate) fn quantize<S: Simd>(s: S, x: &[f32], out: &mut QuantSpan<'_>) {
    assert_eq!(x.len(), out.q.len());
    let groups = x.as_chunks::<GROUP>().0;
    for (i, groups) in groups.chunks(TOGETHER).enumerate() {
        quantize_groups(s, groups, out, i * TOGETHER);
    }
}

/// Quantizes `x` into `high`, and what that leaves of it into `low`: the sum of both is within 1/254 of
/// what `high` is.
#[inline(always)]
pub(crate) fn quantize_fine<S: Simd>(
    s: S,
    x: &[f32],
    high: &mut QuantSpan<'_>,
    low: &mut QuantSpan<'_>,
) {
    assert!(x.len() == high.q.len() && x.len() == low.q.len());
    let groups = x.as_chunks::<GROUP>().0;
    let mut rest = [[0.0; GROUP]; TOGETHER];
    for (i, groups) in groups.chunks(TOGETHER).enumerate() {
        let first = i * TOGETHER;
        quantize_groups(s, groups, high, first);
        let rest = &mut rest[..groups.len()];
        for (g, (x, rest)) in groups.iter().zip(&mut *rest).enumerate() {
            let q = high.q[(first + g) * GROUP..].as_chunks::<LANES>().0;
            let x = x.as_chunks::<LANES>().0.iter();
            let halves = x.zip(rest.as_chunks_mut::<LANES>().0).zip(q);
            for ((x, rest), q) in halves {
                let q = s.load_i8(&q.map(|q| q as u8));
                s.store(s.fma(q, s.splat(-high.d[first + g]), s.load(x)), rest);
            }
        }
        quantize_groups(s, rest, low, first);
    }
}

/// Groups that are quantized together, so that what each has one of is computed for all at once.
const TOGETHER: usize = LANES;

/// Quantizes at most [`TOGETHER`] groups, into those of `out` from group `first` on.
#[inline(always)]
fn quantize_groups<S: Simd>(s: S, x: &[[f32; GROUP]], out: &mut QuantSpan<'_>, first: usize) {
    let n = x.len().min(TOGETHER);
    let mut max = [0.0; TOGETHER];
    for (max, x) in max.iter_mut().zip(x) {
        let x = x.as_chunks::<LANES>().0;
        *max = s.max(s.max_abs(s.max_abs(s.splat(0.0), s.load(&x[0])), s.load(&x[1])));
    }
    let (mut d, mut factors) = ([0.0; TOGETHER], [0.0; TOGETHER]);
    for g in 0..n {
        d[g] = max[g] / 127.0;
        // Where `d` is not normal the factor may be infinite, and what becomes of that differs.
        factors[g] = if d[g] >= f32::MIN_POSITIVE {
            127.0 / max[g]
        } else {
            0.0
        };
    }
    let mut n16 = [[0; 2]; TOGETHER];
    let q = &mut out.q.as_chunks_mut::<GROUP>().0[first..][..n];
    for (((x, q), n16), factor) in x.iter().zip(q).zip(&mut n16).zip(&factors) {
        let (x, factor) = (x.as_chunks::<LANES>().0, s.splat(*factor));
        let q = q.as_chunks_mut::<LANES>().0;
        *n16 = [
            s.to_i8(s.load(&x[0]), factor, &mut q[0]),
            s.to_i8(s.load(&x[1]), factor, &mut q[1]),
        ];
    }
    let (n32, sum32) = (&mut out.n32[first..][..n], &mut out.sum32[first..][..n]);
    let n16_out = &mut out.n16.as_chunks_mut::<2>().0[first..][..n];
    let sum16 = &mut out.sum16.as_chunks_mut::<2>().0[first..][..n];
    let d_out = &mut out.d[first..][..n];
    for g in 0..n {
        d_out[g] = d[g];
        n16_out[g] = n16[g];
        n32[g] = n16[g][0] + n16[g][1];
        sum32[g] = d[g] * n32[g] as f32;
        sum16[g] = [d[g] * n16[g][0] as f32, d[g] * n16[g][1] as f32];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::kernels::Kernels;

    const WIDTH: usize = 8 * GROUP;

    fn inputs() -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut x: Vec<f32> = (0..WIDTH).map(|_| next()).collect();
        let scales = [1.0, 1e4, 1e-20, 1e-30, 1e-36, 1e-40];
        for (x, scale) in x.chunks_exact_mut(GROUP).zip(scales) {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        x[6 * GROUP] = f32::INFINITY;
        x[7 * GROUP..].fill(0.0);
        x[7 * GROUP + 3] = f32::NAN;
        x
    }

    #[test]
    fn two_rows_hold_what_one_leaves() {
        let x = inputs();
        let mut first: Option<Vec<u32>> = None;
        for isa in Isa::available() {
            let buf = QuantBuf::zeroed(3, WIDTH).unwrap();
            let kernels = Kernels::get(isa).unwrap();
            // SAFETY: one row each, and nobody else.
            let rows = unsafe {
                let [mut high, mut low, mut one] = [0, 1, 2].map(|row| buf.span(row, 0, WIDTH));
                (kernels.quantize_fine)(&x, &mut high, &mut low);
                (kernels.quantize)(&x, &mut one);
                buf.rows(0..3)
            };
            let value = |row: usize, i: usize| {
                let at = row * WIDTH + i;
                f64::from(rows.q[at]) * f64::from(rows.d[at / GROUP])
            };
            for (i, x) in x[..4 * GROUP].iter().enumerate() {
                let d = f64::from(rows.d[i / GROUP]);
                assert_eq!(value(0, i), value(2, i), "the first row is the usual one");
                let error = f64::from(*x) - value(0, i) - value(1, i);
                assert!(error.abs() <= d / 500.0, "{isa}, {i}: off by {error:e}");
            }
            for (i, q) in rows.q.iter().enumerate() {
                assert!(*q != i8::MIN, "{isa}, {i}");
            }
            let floats = [rows.d, rows.sum32, rows.sum16].concat();
            let floats = floats
                .iter()
                .map(|x| if x.is_nan() { 1 } else { x.to_bits() });
            let integers = [rows.n32, rows.n16].concat().into_iter().map(|n| n as u32);
            let all = rows
                .q
                .iter()
                .map(|q| *q as u32)
                .chain(integers)
                .chain(floats);
            let all: Vec<u32> = all.collect();
            assert!(*first.get_or_insert_with(|| all.clone()) == all, "{isa}");
        }
    }
}
