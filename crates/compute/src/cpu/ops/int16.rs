//! Weights of F16 and activations as whole numbers of 16 bits, in groups of 32: how many tokens meet such weights where
//! batches are fast and the processor has no tiles ([`tile_matmul`](super::tile_matmul)).
//!
//! `x[i] = d * q[i]`, where `d` is the group's length (the root of the sum of its squares) / [`LENGTH`]. By Cauchy's and
//! Schwarz's inequality the sum of a group's products is then below 2^31 in size, so that it is exact; with the largest element
//! in place of the length it would take 13 bits for each. Of products a third is lost of what they would lose with activations of
//! f16 (`docs/performance.md`). Processors multiply twice as many of these at a time as of f32. A group whose
//! squares are too large for f32, or not numbers, gives no numbers.
//!
//! Products go as those of quantized weights ([`group_matmul`](super::group_matmul)): two bytes are a number, a group is 64 bytes.

use std::ops::Range;

use crate::cpu::simd::{LANES, Simd};
use crate::cpu::threads::SharedBuf;

use super::ahead::Ahead;
use super::float_matmul::words;
use super::group_matmul::{PANEL, Panel, ROWS, Rows};
use super::quantize::QuantRows;

/// Elements that share a scale.
pub(crate) const GROUP: usize = 32;
/// How many bytes a group takes, as F16 and as whole numbers.
pub(crate) const GROUP_BYTES: usize = 2 * GROUP;

/// How long a group is: rounding makes it longer by 3 at most, and no element is above 32767 then.
const LENGTH: f32 = 32764.0;
const _: () = assert!((LENGTH as i64 + 3) * (LENGTH as i64 + 3) < 1 << 31);
/// The sum of squares below which a group is 0, as the squares may not be normal; f16 has nothing so small.
const LEAST: f32 = f32::from_bits((127 - 100) << 23); // 2^-100

/// Rows of whole numbers of one buffer, `[n_rows, width]`; `width` is a multiple of [`GROUP`].
pub(crate) struct Int16Buf {
    width: usize,
    q: SharedBuf<[i8; GROUP_BYTES]>, // [n_rows, width / 32]
    d: SharedBuf<f32>,               // the same
}

/// A run of whole groups of one row to write.
pub(crate) struct Int16Span<'a> {
    q: &'a mut [[i8; GROUP_BYTES]],
    d: &'a mut [f32],
}

impl Int16Buf {
    pub(crate) fn zeroed(n_rows: usize, width: usize) -> Option<Int16Buf> {
        assert!(width.is_multiple_of(GROUP), "whole groups");
        let n = n_rows.checked_mul(width / GROUP)?;
        Some(Int16Buf {
            width,
            q: SharedBuf::zeroed(n)?,
            d: SharedBuf::zeroed(n)?,
        })
    }

    /// Bytes of a buffer of `len` elements.
    pub(crate) fn bytes_for(len: usize) -> usize {
        (len / GROUP).saturating_mul(GROUP_BYTES + size_of::<f32>())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.q.bytes() + self.d.bytes()
    }

    /// Some rows, as a product reads them: of bytes.
    ///
    /// # Safety
    /// Nobody writes to them while the view lives.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> QuantRows<'_> {
        let n = self.width / GROUP;
        let groups = rows.start * n..rows.end * n;
        // SAFETY: the caller's promise covers both arrays.
        let (q, d) = unsafe { (self.q.get(groups.clone()), self.d.get(groups)) };
        QuantRows {
            n_rows: rows.len(),
            width: n * GROUP_BYTES,
            q: q.as_flattened(),
            d,
            sum32: &[],
            sum16: &[],
            n32: &[],
            n16: &[],
        }
    }

    /// Some columns of row `row`, whole groups.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the span lives.
    pub(crate) unsafe fn span(&self, row: usize, columns: Range<usize>) -> Int16Span<'_> {
        assert!(
            columns.start.is_multiple_of(GROUP)
                && columns.end.is_multiple_of(GROUP)
                && columns.end <= self.width
        );
        let first = row * (self.width / GROUP);
        let groups = first + columns.start / GROUP..first + columns.end / GROUP;
        // SAFETY: the caller's promise covers both arrays.
        unsafe {
            Int16Span {
                q: self.q.get_mut(groups.clone()),
                d: self.d.get_mut(groups),
            }
        }
    }
}

/// Turns `x` into whole numbers, as many as `out` has.
#[inline(always)]
pub(crate) fn to_int16<S: Simd>(s: S, x: &[f32], out: &mut Int16Span<'_>) {
    let x = x.as_chunks::<GROUP>().0;
    assert_eq!(x.len(), out.q.len());
    let out = out.q.chunks_mut(LANES).zip(out.d.chunks_mut(LANES));
    for (x, (q, d)) in x.chunks(LANES).zip(out) {
        let (mut all_q, mut all_d) = ([[0; GROUP_BYTES]; LANES], [0.0; LANES]);
        groups(s, &Floats(x), &mut all_q[..x.len()], &mut all_d);
        d.copy_from_slice(&all_d[..x.len()]);
        for (q, bytes) in q.iter_mut().zip(&all_q) {
            *q = bytes.map(|byte| byte as i8);
        }
    }
}

/// Takes some columns, by their bytes, of at most sixteen rows of F16, and asks for the next: what [`Ahead`] asks for lies
/// so far ahead that many tokens push it out of the second cache.
#[inline(always)]
pub(crate) fn unpack<S: Simd>(s: S, rows: &Rows<'_>, panel: &mut Panel, _: &mut Ahead) {
    let Rows {
        bytes,
        row_bytes,
        ref columns,
    } = *rows;
    let n_rows = bytes.len() / row_bytes;
    // Of these rows, or else of those that are unpacked after the panel beside this one.
    let next = match columns.end < row_bytes {
        true => columns.len(),
        false => (ROWS * row_bytes).wrapping_sub(columns.start),
    };
    let panels = panel.q.as_chunks_mut::<{ GROUP_BYTES / 4 }>().0.iter_mut();
    let columns = columns.clone().step_by(GROUP_BYTES);
    for (column, (out, scales)) in columns.zip(panels.zip(&mut panel.scales)) {
        let halves = Halves {
            bytes: &bytes[column..],
            row_bytes,
        };
        let mut q = [[0; GROUP_BYTES]; PANEL];
        groups(s, &halves, &mut q[..n_rows], scales);
        for row in 0..n_rows {
            let at = column + row * row_bytes;
            s.prefetch(bytes.as_ptr().wrapping_add(at).wrapping_add(next));
        }
        let q = q.as_flattened();
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            for (out, q) in out.iter_mut().zip(s.load_rows(&q[16 * i..], GROUP_BYTES)) {
                s.store_i8x4(q, out);
            }
        }
    }
}

/// Groups of numbers to turn.
trait Groups {
    /// Group `g`, its first half and the second.
    fn load<S: Simd>(&self, s: S, g: usize) -> [S::F; 2];
}

/// One behind the other.
struct Floats<'a>(&'a [[f32; GROUP]]);

impl Groups for Floats<'_> {
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, g: usize) -> [S::F; 2] {
        let halves = self.0[g].as_chunks().0;
        [s.load(&halves[0]), s.load(&halves[1])]
    }
}

/// Of F16, each at the beginning of a row.
struct Halves<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl Groups for Halves<'_> {
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, g: usize) -> [S::F; 2] {
        let halves = self.bytes[g * self.row_bytes..].as_chunks().0;
        [
            s.load_f16(&words(&halves[0])),
            s.load_f16(&words(&halves[1])),
        ]
    }
}

/// As many groups as `q` has, at most sixteen.
#[inline(always)]
fn groups<S: Simd>(s: S, x: &impl Groups, q: &mut [[u8; GROUP_BYTES]], d: &mut [f32; LANES]) {
    let zero = s.splat(0.0);
    let mut squares = [zero; LANES];
    for (g, squares) in squares[..q.len()].iter_mut().enumerate() {
        let [a, b] = x.load(s, g);
        *squares = s.fma(b, b, s.mul(a, a));
    }
    let (first, second) = squares.split_at(LANES / 2);
    let mut sums = [0.0; LANES];
    for (sums, squares) in sums.as_chunks_mut().0.iter_mut().zip([first, second]) {
        *sums = s.sum_eight(*squares.first_chunk().expect("half of all"));
    }
    let (lengths, mut factors) = (sums.map(f32::sqrt), [0.0; LANES]);
    for ((d, factor), length) in d.iter_mut().zip(&mut factors).zip(lengths) {
        (*d, *factor) = (length * (1.0 / LENGTH), LENGTH / length);
    }
    for ((d, factor), sum) in d.iter_mut().zip(&mut factors).zip(sums) {
        if sum < LEAST {
            (*d, *factor) = (0.0, 0.0);
        }
    }
    for (g, q) in q.iter_mut().enumerate() {
        let factor = s.splat(factors[g]);
        for (x, q) in x.load(s, g).into_iter().zip(q.as_chunks_mut().0) {
            s.to_i16(x, factor, q);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::kernels::{Int16Kernels, Kernels};
    use crate::cpu::ops::group_matmul::{self, Panels};
    use crate::dtype::f16_to_f32;

    /// A group as the module says: the numbers and the scale.
    fn plain(x: &[f32]) -> (Vec<i64>, f32) {
        // Lane i has the squares of elements i and i + 16; lanes are added by halves.
        let mut lanes: Vec<f32> = (0..LANES)
            .map(|i| x[LANES + i].mul_add(x[LANES + i], x[i] * x[i]))
            .collect();
        while lanes.len() > 1 {
            let (low, high) = lanes.split_at(lanes.len() / 2);
            lanes = low.iter().zip(high).map(|(a, b)| a + b).collect();
        }
        let length = lanes[0].sqrt();
        if lanes[0] < LEAST {
            return (vec![0; GROUP], 0.0);
        }
        let q = x.iter().map(|x| (x * (LENGTH / length)).round_ties_even());
        (q.map(|q| q as i64).collect(), length * (1.0 / LENGTH))
    }

    fn kernels() -> impl Iterator<Item = (Isa, &'static Int16Kernels)> {
        let all = Isa::available().into_iter();
        all.filter_map(|isa| Some((isa, Kernels::get(isa)?.int16?)))
    }

    /// Groups with an element that stands out, with equal ones, of zeros, of what is too small, and any.
    fn numbers(n: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut x: Vec<f32> = (0..n).map(|_| next()).collect();
        for (g, x) in x.chunks_exact_mut(GROUP).enumerate() {
            match g % 7 {
                1 => x[g % GROUP] = 1000.0,
                2 => x.fill(-0.75),
                3 => x.fill(0.0),
                4 => x.iter_mut().for_each(|x| *x *= 1e-17),
                5 => x.iter_mut().for_each(|x| *x *= 30000.0),
                _ => {}
            }
        }
        x
    }

    #[test]
    fn activations_are_as_the_module_says() {
        const WIDTH: usize = 37 * GROUP;
        let x = numbers(WIDTH);
        for (isa, kernels) in kernels() {
            let buf = Int16Buf::zeroed(2, WIDTH).unwrap();
            // SAFETY: nobody else uses it.
            let row = unsafe {
                for columns in [0..5 * GROUP, 5 * GROUP..WIDTH] {
                    (kernels.to_int16)(&x[columns.clone()], &mut buf.span(1, columns));
                }
                buf.rows(1..2)
            };
            assert_eq!((row.n_rows, row.width), (1, 2 * WIDTH));
            for (g, x) in x.chunks_exact(GROUP).enumerate() {
                let (q, d) = plain(x);
                assert_eq!(row.d[g].to_bits(), d.to_bits(), "{isa}, {g}");
                let got = row.q[g * GROUP_BYTES..][..GROUP_BYTES].as_chunks::<2>().0;
                let got = got.iter().map(|q| i16::from_le_bytes(q.map(|q| q as u8)));
                assert_eq!(got.map(i64::from).collect::<Vec<_>>(), q, "{isa}, {g}");
                let length: i64 = q.iter().map(|q| q * q).sum();
                assert!(length < 1 << 31, "{isa}, {g}: {length}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for what in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut x = numbers(2 * GROUP);
            x[5] = what;
            for (isa, kernels) in kernels() {
                let buf = Int16Buf::zeroed(1, 2 * GROUP).unwrap();
                // SAFETY: nobody else uses it.
                let row = unsafe {
                    (kernels.to_int16)(&x, &mut buf.span(0, 0..2 * GROUP));
                    buf.rows(0..1)
                };
                assert!(
                    !row.d[0].is_finite() && row.d[1].is_finite(),
                    "{isa}, {what}"
                );
            }
        }
    }

    #[test]
    fn products_are_the_plain_sums() {
        // More than a strip, more rows than two panels, more tokens than are summed at a time.
        for (n_rows, width, n_tokens) in [
            (1, GROUP, 1),
            (16, 16 * GROUP, 6),
            (33, 17 * GROUP, 7),
            (50, 40 * GROUP, 13),
            (7, 2 * GROUP, group_matmul::TOKENS + 3),
        ] {
            let (x, w) = (
                numbers(n_tokens * width),
                numbers(n_rows * width + 3 * GROUP),
            );
            let halves: Vec<half::f16> = w[3 * GROUP..]
                .iter()
                .map(|w| half::f16::from_f32(*w))
                .collect();
            let bytes: Vec<u8> = halves.iter().flat_map(|w| w.to_le_bytes()).collect();
            let w: Vec<f32> = halves.iter().map(|w| f16_to_f32(w.to_bits())).collect();
            let [x_groups, w_groups] = [&x, &w].map(|numbers| {
                let groups = numbers.chunks_exact(GROUP).map(plain);
                groups.collect::<Vec<_>>()
            });
            let n = width / GROUP;
            for (isa, kernels) in kernels() {
                let buf = Int16Buf::zeroed(n_tokens, width).unwrap();
                let mut out = SharedBuf::zeroed(n_tokens * n_rows).unwrap();
                let mut out = out.whole(n_rows);
                let mut panels = Panels::new(Ahead::new(Default::default()));
                // SAFETY: nobody else uses it.
                let rows = unsafe {
                    for (t, x) in x.chunks_exact(width).enumerate() {
                        (kernels.to_int16)(x, &mut buf.span(t, 0..width));
                    }
                    buf.rows(0..n_tokens)
                };
                let weights = (&bytes[..], 2 * width);
                kernels.f16.product(weights, &rows, &mut panels, &mut out);
                for t in 0..n_tokens {
                    for r in 0..n_rows {
                        let mut want = 0.0f32;
                        let pairs = x_groups[t * n..][..n].iter().zip(&w_groups[r * n..][..n]);
                        for ((x, x_d), (w, w_d)) in pairs {
                            let dot: i64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                            let dot = i32::try_from(dot).expect("by the inequality");
                            want = (dot as f32).mul_add(w_d * x_d, want);
                        }
                        let got = out.row(t)[r];
                        let what = format!("{isa}, {n_rows}x{width}, {t}, {r}: {got}, {want}");
                        assert!(got.to_bits() == want.to_bits(), "{what}");
                    }
                }
            }
        }
    }
}
