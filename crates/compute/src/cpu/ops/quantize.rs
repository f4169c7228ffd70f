//! Activations to 8 bits, in groups of 32: the other factor of a product with quantized weights.
//!
//! `x[i] = d * q[i]` with `d = max |x| / 127` of the group, q in -127..=127. Beside the numbers
//! stand what products need of them: their sums, for weights with a minimum and for those that are
//! stored with an offset.

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
    let groups = x
        .as_chunks::<GROUP>()
        .0
        .iter()
        .zip(out.q.as_chunks_mut::<GROUP>().0);
    for (g, (x, q)) in groups.enumerate() {
        let (x, q) = (x.as_chunks::<LANES>().0, q.as_chunks_mut::<LANES>().0);
        let halves = [s.load(&x[0]), s.load(&x[1])];
        let max = s.max(s.max_abs(s.max_abs(s.splat(0.0), halves[0]), halves[1]));
        let d = max / 127.0;
        let factor = s.splat(if d > 0.0 { 127.0 / max } else { 0.0 });
        let sums = [
            s.to_i8(halves[0], factor, &mut q[0]),
            s.to_i8(halves[1], factor, &mut q[1]),
        ];
        out.d[g] = d;
        out.sum32[g] = d * (sums[0] + sums[1]) as f32;
        out.n32[g] = sums[0] + sums[1];
        for (half, sum) in sums.into_iter().enumerate() {
            out.sum16[2 * g + half] = d * sum as f32;
            out.n16[2 * g + half] = sum;
        }
    }
}
