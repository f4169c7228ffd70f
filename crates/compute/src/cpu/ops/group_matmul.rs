//! Products with weights whose groups of elements share a scale: every quantized type.
//!
//! For one output, with groups g of 16 or 32 elements in order:
//!
//! ```text
//! sum = 0
//! for g:  dot = sum over i of weight[g][i] * q[g][i]          (integers, exact)
//!         sum = fma(dot, scale[g] * d[g], sum)
//!         sum = fma(min[g], d[g] * (sum of q[g]), sum)         (types with a minimum)
//! ```
//!
//! 1. Sixteen rows at a time are unpacked into a panel: weights as bytes, four of a row beside each
//!    other (eight where an instruction multiplies eight) and the sixteen rows side by side, scales
//!    likewise. A type enters only by its unpacking.
//! 2. A lane is a row, so no f32 is ever summed across lanes, and the order above is the same
//!    for one token and for many. (Whole numbers are, where [`Simd::HAS_QUARTERS`] says so: a token's
//!    groups of 32 are multiplied as bytes lie in memory, and four sums for each row moved to its lane,
//!    which are fewer than the bytes. They are exact in any order.)
//! 3. A panel is [`STRIP`] columns long, so that it stays in a near cache between its unpacking and
//!    its use; sums wait beside each other for the next strip ([`Sums`]), and not in the output, whose
//!    rows are so far apart that they push each other out of the caches: a tenth less speed. Half the
//!    length reads weights in pieces too short for the memory: a fifth less speed with one token.
//! 4. A panel is used for all tokens of the batch, four or six at a time, so that each load of weights
//!    feeds several products. Where the registers suffice two panels are multiplied at once, so that
//!    each load of an activation feeds two.
//! 5. Weights that an offset makes unsigned are stored so: the instructions want one unsigned
//!    factor. The integer sum starts at what the offset adds too much. Where a format has bits for signs, one token's
//!    activations take these instead ([`takes_signs`]).
//! 6. While rows are worked on, what this thread will read next is asked for from memory, into the
//!    second cache ([`Ahead`]): sixteen rows at a time are many streams for a processor's own
//!    prefetcher, and the next matrix is somewhere else. With one token rows asked for are up to
//!    2.3 times as fast as others; into the first cache, which has room for few misses, 1.4 times.

use std::marker::PhantomData;
use std::ops::Range;

use crate::cpu::simd::{Dot, LANES, PanelPart, RUN, Simd, TokenPart, dot_fours};
use crate::cpu::threads::Tile;
use crate::dtype::{Block, Form, Lanes, with_signs};

use super::ahead::{Ahead, Asking};
use super::quantize::QuantRows;

/// Rows of a panel.
pub(super) const PANEL: usize = LANES;
/// Rows that are multiplied with one unpacking: two panels.
pub(crate) const ROWS: usize = 2 * PANEL;
/// Columns of a panel: whole blocks of every type.
const STRIP: usize = 1024;

/// Some columns of up to sixteen rows.
pub(crate) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) columns: Range<usize>,
}

/// Sixteen streams of whole rows, one behind the other, and which row of each is multiplied.
pub(crate) struct Streams<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    row: usize,
    n_rows: usize,
}

/// A strip of sixteen rows, unpacked. Aligned, so that no vector lies across two lines of a cache.
#[repr(align(64))]
pub(crate) struct Panel {
    pub(super) q: [[u8; 4 * LANES]; STRIP / 4], // [STRIP / BESIDE][row][BESIDE], see Simd::BESIDE
    pub(super) scales: [[f32; LANES]; STRIP / 16], // [STRIP / group_len][row]
    pub(super) mins: [[f32; LANES]; STRIP / 16], // the same, or unused
}

/// Tokens whose sums are kept at a time: with more, weights are unpacked again.
pub(crate) const TOKENS: usize = 512;
/// Tokens that are multiplied at a time, at most.
const AT_ONCE: usize = 6;

/// Sums of one thread, while strips are added to them.
#[repr(align(64))]
pub(crate) struct Sums {
    rows: [[f32; ROWS]; TOKENS],
    /// Of a few tokens, where integer sums of a strip's groups begin.
    starts: [[i32; STRIP / 16]; AT_ONCE],
}

/// The panels of one thread, its sums, and what it will read.
pub(crate) struct Panels {
    pub(super) panels: Box<[Panel; 2]>,
    sums: Box<Sums>,
    pub(crate) ahead: Ahead,
}

impl Panels {
    pub(crate) const BYTES: usize = 2 * size_of::<Panel>() + size_of::<Sums>();

    pub(crate) fn new(ahead: Ahead) -> Panels {
        let panel = || Panel {
            q: [[0; 4 * LANES]; STRIP / 4],
            scales: [[0.0; LANES]; STRIP / 16],
            mins: [[0.0; LANES]; STRIP / 16],
        };
        Panels {
            panels: Box::new([panel(), panel()]),
            sums: Box::new(Sums {
                rows: [[0.0; ROWS]; TOKENS],
                starts: [[0; STRIP / 16]; AT_ONCE],
            }),
            ahead,
        }
    }
}

/// Panels and the columns of some tokens that they are multiplied with.
pub(crate) struct Operands<'a> {
    panels: &'a [Panel],
    columns: Range<usize>,
    x: &'a QuantRows<'a>,
    tokens: Range<usize>,
    offset: u8,
    max: u8,
}

/// A whole row of each of sixteen streams times `N` tokens: rows, tokens and which of them, sums.
pub(crate) type Direct<const N: usize> =
    fn(&Streams<'_>, (&QuantRows<'_>, [usize; N]), &mut [[f32; LANES]; N], &mut Ahead);

/// The functions of one type.
#[derive(Clone, Copy)]
pub(crate) struct GroupKernel {
    /// [`unpack`] for the type.
    pub(crate) unpack: fn(&Rows<'_>, &mut Panel, &mut Ahead),
    /// [`multiply`] for the type's form.
    pub(crate) multiply: fn(&Operands<'_>, &mut Sums),
    /// [`direct`] for the type and one or two tokens, where rows are unpacked side by side. Two is what
    /// one output's activations are ([`super::quantize`]), so that it counts in every decoded token:
    /// with AVX2 a panel between would cost half as much again, and of Q6_K twice as much with
    /// AVX-512 too.
    pub(crate) direct: Option<(Direct<1>, Direct<2>)>,
    /// For at most four, and for at most eight: see [`few_are_direct`].
    pub(crate) direct_few: Option<(Direct<4>, Direct<8>)>,
    /// Weights that share a scale, and a minimum where there is one; bytes, where they are of [`offsets::INT16`].
    pub(crate) group_len: usize,
    pub(crate) has_min: bool,
    /// What its panels have added to each weight.
    pub(crate) offset: u8,
    /// Whether weights have a sign with that.
    pub(crate) is_signed: bool,
    /// At most how large weights are with it, where they have no sign then.
    pub(crate) max: u8,
}

impl GroupKernel {
    /// `out[t][r] = row r . x[t]`.
    pub(crate) fn product(
        &self,
        (rows, row_bytes): (&[u8], usize),
        x: &QuantRows<'_>,
        panels: &mut Panels,
        out: &mut Tile<'_, f32>,
    ) {
        let whole = rows.len() / (PANEL * row_bytes) * PANEL;
        let (first, rest) = rows.split_at(whole * row_bytes);
        let ahead = &mut panels.ahead;
        ahead.begin_rows(first.as_ptr_range().end.addr(), ROWS * row_bytes);
        let all = (first, row_bytes);
        match (x.n_rows, self.direct, self.direct_few) {
            (1, Some((one, _)), _) => few_tokens(one, all, x, out, ahead),
            (2, Some((_, two)), _) => few_tokens(two, all, x, out, ahead),
            (2..=4, _, Some((four, _))) => few_tokens(four, all, x, out, ahead),
            (5..=8, _, Some((_, eight))) => few_tokens(eight, all, x, out, ahead),
            _ => {
                for (i, rows) in rows.chunks(ROWS * row_bytes).enumerate() {
                    let columns = i * ROWS..i * ROWS + rows.len() / row_bytes;
                    self.with_panels((rows, row_bytes), x, panels, &mut out.columns(columns));
                }
                return;
            }
        }
        if !rest.is_empty() {
            let columns = whole..whole + rest.len() / row_bytes;
            self.with_panels((rest, row_bytes), x, panels, &mut out.columns(columns));
        }
    }

    /// The same for at most [`ROWS`] rows, and any number of tokens.
    fn with_panels(
        &self,
        (rows, row_bytes): (&[u8], usize),
        x: &QuantRows<'_>,
        panels: &mut Panels,
        out: &mut Tile<'_, f32>,
    ) {
        let Panels {
            panels,
            sums,
            ahead,
        } = panels;
        ahead.begin_rows(rows.as_ptr_range().end.addr(), ROWS * row_bytes);
        let n_rows = rows.len() / row_bytes;
        // As many each time, so that rows are not unpacked for a few.
        let n_tokens = x.n_rows.div_ceil(x.n_rows.div_ceil(TOKENS).max(1));
        let place = ahead.place();
        for first_token in (0..x.n_rows).step_by(n_tokens.max(1)) {
            let tokens = first_token..x.n_rows.min(first_token + n_tokens);
            ahead.go_back(place);
            for first in (0..x.width).step_by(STRIP) {
                let columns = first..x.width.min(first + STRIP);
                let parts = rows.chunks(PANEL * row_bytes);
                for (bytes, panel) in parts.zip(panels.iter_mut()) {
                    let rows = Rows {
                        bytes,
                        row_bytes,
                        columns: columns.clone(),
                    };
                    (self.unpack)(&rows, panel, ahead);
                }
                let operands = Operands {
                    panels: &panels[..n_rows.div_ceil(PANEL)],
                    columns,
                    x,
                    tokens: tokens.clone(),
                    offset: self.offset,
                    max: self.max,
                };
                (self.multiply)(&operands, sums);
            }
            for (token, sums) in tokens.zip(&sums.rows) {
                out.row(token).copy_from_slice(&sums[..n_rows]);
            }
        }
    }
}

/// Whole panels of rows times at most `N` tokens. A lane has rows that lie one behind the other, as many as
/// there are panels: so sixteen streams are read, and long ones ([`Ahead`]).
fn few_tokens<const N: usize>(
    direct: Direct<N>,
    (rows, row_bytes): (&[u8], usize),
    x: &QuantRows<'_>,
    out: &mut Tile<'_, f32>,
    ahead: &mut Ahead,
) {
    // Where there are fewer, the last one again.
    let tokens = std::array::from_fn(|t| t.min(x.n_rows - 1));
    let n_rows = rows.len() / (PANEL * row_bytes);
    for row in 0..n_rows {
        let rows = Streams {
            bytes: rows,
            row_bytes,
            row,
            n_rows,
        };
        let mut sums = [[0.0; LANES]; N];
        direct(&rows, (x, tokens), &mut sums, ahead);
        for (t, sums) in sums[..x.n_rows].iter().enumerate() {
            let out = out.row(t)[row..].iter_mut().step_by(n_rows);
            for (out, sum) in out.zip(sums) {
                *out = *sum;
            }
        }
    }
}

/// Unpacks some columns of up to sixteen rows.
#[inline(always)]
pub(crate) fn unpack<S: Simd, B: Block>(
    s: S,
    rows: &Rows<'_>,
    panel: &mut Panel,
    ahead: &mut Ahead,
) {
    let Form::Groups { group_len, has_min } = B::FORM else {
        unreachable!("chosen by form")
    };
    // By itself, so that nothing of the other way is compiled.
    if const { !has_rows::<S, B>() } {
        return unpack_row_by_row::<S, B>(s, rows, panel, ahead);
    }
    if rows.bytes.len() < PANEL * rows.row_bytes {
        return unpack_row_by_row::<S, B>(s, rows, panel, ahead);
    }
    let (n_q, n_groups) = (B::LEN / 4, B::LEN / group_len);
    let n_mins = if has_min { n_groups } else { 0 };
    let blocks = rows.columns.start / B::LEN..rows.columns.end / B::LEN;
    let mut asking = ahead.begin(PANEL * blocks.len() * B::BYTES);
    for (i, block) in blocks.enumerate() {
        asking.read(s, PANEL * B::BYTES);
        let mut lanes = PanelBlock {
            q: &mut panel.q[i * n_q..][..n_q],
            scales: &mut panel.scales[i * n_groups..][..n_groups],
            mins: &mut panel.mins[i * n_groups..][..n_mins],
        };
        let bytes = &rows.bytes[block * B::BYTES..];
        B::unpack_rows(s, bytes, rows.row_bytes, &mut lanes);
    }
    ahead.end(&asking);
}

/// A block's place in a panel.
struct PanelBlock<'a> {
    q: &'a mut [[u8; 4 * LANES]],
    scales: &'a mut [[f32; LANES]],
    mins: &'a mut [[f32; LANES]],
}

impl<S: Simd> Lanes<S> for PanelBlock<'_> {
    #[inline(always)]
    fn put(&mut self, s: S, c: usize, q: [S::I; 4]) {
        let out = self.q[4 * c..].first_chunk_mut::<4>();
        s.store_panel(q, out.expect("sixteen elements"));
    }
    #[inline(always)]
    fn put_scale(&mut self, s: S, g: usize, scale: S::F) {
        s.store(scale, &mut self.scales[g]);
    }
    #[inline(always)]
    fn put_min(&mut self, s: S, g: usize, min: S::F) {
        s.store(min, &mut self.mins[g]);
    }
}

/// The plain twin.
#[inline(always)]
fn unpack_row_by_row<S: Simd, B: Block>(
    s: S,
    rows: &Rows<'_>,
    panel: &mut Panel,
    ahead: &mut Ahead,
) {
    let Form::Groups { group_len, has_min } = B::FORM else {
        unreachable!("chosen by form")
    };
    let n_groups = B::LEN / group_len;
    let n_mins = if has_min { n_groups } else { 0 };
    let mut q = [[0i8; RUN]; PANEL];
    let (mut scales, mut mins) = ([0.0f32; RUN / 16], [0.0f32; RUN / 16]);
    let n_rows = rows.bytes.len() / rows.row_bytes;
    let mut asking = ahead.begin(n_rows * rows.columns.len() / B::LEN * B::BYTES);
    for first in rows.columns.clone().step_by(RUN) {
        let n = RUN.min(rows.columns.end - first);
        let run = first / B::LEN * B::BYTES..(first + n) / B::LEN * B::BYTES;
        let at = first - rows.columns.start;
        let bytes = rows.bytes.chunks_exact(rows.row_bytes);
        for (row, (bytes, q)) in bytes.zip(&mut q).enumerate() {
            asking.read(s, run.len());
            let blocks = bytes[run.clone()].chunks_exact(B::BYTES);
            for (i, (block, q)) in blocks.zip(q.chunks_exact_mut(B::LEN)).enumerate() {
                B::unpack(block, q, &mut scales[..n_groups], &mut mins[..n_mins]);
                for g in 0..n_groups {
                    panel.scales[at / group_len + i * n_groups + g][row] = scales[g];
                    if has_min {
                        panel.mins[at / group_len + i * n_groups + g][row] = mins[g];
                    }
                }
            }
        }
        let out = panel.q[at / 4..][..n / 4].as_chunks_mut().0;
        for (part, out) in out.iter_mut().enumerate() {
            s.interleave(&q, part * 32, offset::<S, B>(), out);
        }
    }
    ahead.end(&asking);
}

/// Whether a few tokens are multiplied without a panel: where there are registers for their sums, as
/// many as AVX-512 has. Beside many steps for few bits panels cost little.
pub(crate) const fn few_are_direct<S: Simd, B: Block>() -> bool {
    S::N_PANELS == 2 && (!B::HAS_MANY_STEPS || 8 * B::BYTES >= 4 * B::LEN)
}

/// Whether sixteen rows are unpacked side by side.
pub(crate) const fn has_rows<S: Simd, B: Block>() -> bool {
    S::GATHERS || !B::HAS_MANY_STEPS
}

/// Sixteen rows times few tokens, without a panel between: where each weight is used once or a few
/// times, storing it would cost as much as all else. The same bits as [`multiply`].
#[inline(always)]
pub(crate) fn direct<S: Simd, B: Block, const N: usize>(
    s: S,
    rows: &Streams<'_>,
    (x, tokens): (&QuantRows<'_>, [usize; N]),
    out: &mut [[f32; LANES]; N],
    ahead: &mut Ahead,
) {
    let Form::Groups { group_len, has_min } = B::FORM else {
        unreachable!("chosen by form")
    };
    let n_groups = B::LEN / group_len;
    let (sums, ns) = if group_len == 32 {
        (x.sum32, x.n32)
    } else {
        (x.sum16, x.n16)
    };
    // Each token's row, so that in the loop one place counts for all.
    let (n32, n) = (x.width / 32, x.width / group_len);
    let (mut q, mut d) = ([&[][..]; N], [&[][..]; N]);
    let (mut row_ns, mut row_sums) = ([&[][..]; N], [&[][..]; N]);
    for (t, token) in tokens.into_iter().enumerate() {
        q[t] = x.q[token * x.width..][..x.width].as_chunks::<4>().0;
        d[t] = &x.d[token * n32..][..n32];
        row_ns[t] = &ns[token * n..][..n];
        row_sums[t] = &sums[token * n..][..n];
    }
    let mut acc = [s.splat(0.0); N];
    let Streams {
        bytes,
        row_bytes,
        row,
        n_rows,
    } = *rows;
    // Variables of their own, and kept from block to block: a struct with arrays that are read at places known only
    // when it runs would lie in memory as a whole, and to make arrays anew costs a fifth of all.
    let mut dots = [[s.splat_i32(0); N]; MAX_GROUPS];
    let mut scales = [s.splat(0.0); MAX_GROUPS];
    let mut mins = [s.splat(0.0); MAX_GROUPS];
    let mut asking = ahead.begin_streams(bytes.as_ptr().addr(), (row, n_rows, row_bytes));
    for block in 0..x.width / B::LEN {
        let mut products = Products::<S, B, N> {
            q: [&[]; N],
            ns: [&[]; N],
            dots: &mut dots,
            scales: &mut scales,
            mins: &mut mins,
            asking: &mut asking,
            n_told: 0,
            _type: PhantomData,
        };
        for t in 0..N {
            products.q[t] = &q[t][block * (B::LEN / 4)..][..B::LEN / 4];
            products.ns[t] = &row_ns[t][block * n_groups..][..n_groups];
            if group_len == 32 {
                let offset = match const { takes_signs::<S, B, N>() } {
                    true => 0,
                    false => offset::<S, B>(),
                };
                for (dots, n) in products.dots[..n_groups].iter_mut().zip(products.ns[t]) {
                    dots[t] = s.splat_i32(start_of(*n, offset));
                }
            }
        }
        let bytes = &bytes[row * row_bytes + block * B::BYTES..];
        B::unpack_rows(s, bytes, n_rows * row_bytes, &mut products);
        let n_told = products.n_told;
        debug_assert!(n_told <= B::BYTES, "parts are of a block");
        asking.read(s, LANES * B::BYTES.saturating_sub(n_told));
        for t in 0..N {
            let d = &d[t][block * (B::LEN / 32)..][..B::LEN / 32];
            let sums = &row_sums[t][block * n_groups..][..n_groups];
            for g in 0..n_groups {
                let factor = s.mul(scales[g], s.splat(d[g * group_len / 32]));
                acc[t] = s.fma(s.to_f32(dots[g][t]), factor, acc[t]);
                if has_min {
                    acc[t] = s.fma(mins[g], s.splat(sums[g]), acc[t]);
                }
            }
        }
    }
    ahead.end(&asking);
    for (acc, out) in acc.into_iter().zip(out) {
        s.store(acc, out);
    }
}

/// Whether a few tokens' products are summed in quarters: for more, moving the bytes once takes less than moving
/// each token's sums.
const fn is_in_quarters<S: Simd, const N: usize>() -> bool {
    S::HAS_QUARTERS && N <= 2
}

/// Whether activations take the signs of weights, which need no offset then: of one token they are as few vectors as the
/// weights. Only where one instruction is a whole dot, since weights as small as these are summed in 16 bits elsewhere.
const fn takes_signs<S: Simd, B: Block, const N: usize>() -> bool {
    B::HAS_SIGN_BITS && N == 1 && S::SIGNED_OFFSET != 0
}

/// The most groups of a block.
const MAX_GROUPS: usize = 16;

/// A block of sixteen rows, multiplied as it is taken apart.
struct Products<'a, S: Simd, B, const N: usize> {
    q: [&'a [[i8; 4]]; N],
    ns: [&'a [i32]; N],
    dots: &'a mut [[S::I; N]; MAX_GROUPS],
    scales: &'a mut [S::F; MAX_GROUPS],
    mins: &'a mut [S::F; MAX_GROUPS],
    asking: &'a mut Asking,
    /// Bytes that parts of the block told of.
    n_told: usize,
    _type: PhantomData<B>,
}

impl<S: Simd, B: Block, const N: usize> Lanes<S> for Products<'_, S, B, N> {
    #[inline(always)]
    fn part(&mut self, s: S, n_bytes: usize) {
        self.n_told += n_bytes;
        self.asking.read(s, LANES * n_bytes);
    }
    #[inline(always)]
    fn put(&mut self, s: S, c: usize, q: [S::I; 4]) {
        let Form::Groups { group_len, .. } = B::FORM else {
            unreachable!("chosen by form")
        };
        debug_assert!(!takes_signs::<S, B, N>(), "signs are given apart");
        let g = 16 * c / group_len;
        for (t, sum) in self.dots[g].iter_mut().enumerate() {
            let x = self.q[t][4 * c..].first_chunk::<4>();
            let max = const { max::<B>() };
            // Of two sixteens either may be the first, so their group's sum has been started.
            let start = match group_len {
                16 => s.splat_i32(start_of(self.ns[t][g], offset::<S, B>())),
                _ => *sum,
            };
            let x = x.expect("sixteen elements");
            *sum = match const { N > 2 } {
                true => s.dot16_of_many(start, q, x, max),
                false => s.dot16(start, q, x, max),
            };
        }
    }
    #[inline(always)]
    fn put_signed(&mut self, s: S, c: usize, (q, signs): ([S::I; 4], [S::I; 4]), offset: i8) {
        let Form::Groups { group_len, .. } = B::FORM else {
            unreachable!("chosen by form")
        };
        if const { !takes_signs::<S, B, N>() } {
            return self.put(s, c, with_signs(s, q, signs, offset));
        }
        let sum = &mut self.dots[16 * c / group_len][0];
        if group_len == 16 {
            *sum = s.splat_i32(0);
        }
        for ((x, q), signs) in self.q[0][4 * c..].iter().zip(q).zip(signs) {
            *sum = s.dot4(*sum, q, s.negate_i8(s.splat_four(x), signs));
        }
    }
    #[inline(always)]
    fn load(&self, s: S, rows: &[u8], stride: usize) -> [S::I; 4] {
        match const { is_in_quarters::<S, N>() } {
            true => s.load_quarters(rows, stride),
            false => s.load_rows(rows, stride),
        }
    }
    #[inline(always)]
    fn put_loaded(&mut self, s: S, g: usize, q: [[S::I; 4]; 2]) {
        const { assert!(matches!(B::FORM, Form::Groups { group_len: 32, .. })) }
        if const { !is_in_quarters::<S, N>() } {
            let [first, second] = q;
            self.put(s, 2 * g, first);
            return self.put(s, 2 * g + 1, second);
        }
        for t in 0..N {
            let x = self.q[t][8 * g..][..8].as_chunks::<4>().0;
            let mut sums = [s.splat_i32(0); 4];
            for (q, x) in q.into_iter().zip(x) {
                sums = s.dot_quarters(sums, q, x);
            }
            let start = start_of(self.ns[t][g], offset::<S, B>());
            self.dots[g][t] = s.sum_quarters(start, sums);
        }
    }
    #[inline(always)]
    fn put_scale(&mut self, _: S, g: usize, scale: S::F) {
        self.scales[g] = scale;
    }
    #[inline(always)]
    fn put_min(&mut self, _: S, g: usize, min: S::F) {
        self.mins[g] = min;
    }
}

/// Where an integer sum starts, for weights with `offset` added and activations whose sum is `sum`.
pub(crate) fn start_of(sum: i32, offset: u8) -> i32 {
    sum.wrapping_mul(-i32::from(offset))
}

/// What is added to the weights of a type in a panel.
pub(crate) fn offset<S: Simd, B: Block>() -> u8 {
    B::OFFSET.unwrap_or(S::SIGNED_OFFSET)
}

/// At most how large they are then, where they have no sign.
const fn max<B: Block>() -> Option<u8> {
    match B::OFFSET {
        Some(_) => Some(B::MAX),
        None => None,
    }
}

/// How a form's weights are stored: with an offset or without.
pub(crate) mod offsets {
    /// From 0 on as they are.
    pub(crate) const NONE: u8 = 0;
    /// From 0 on with an offset.
    pub(crate) const UNSIGNED: u8 = 1;
    /// With a sign, or with [`SIGNED_OFFSET`](crate::cpu::simd::Simd::SIGNED_OFFSET).
    pub(crate) const SIGNED: u8 = 2;
    /// As numbers of two bytes, with a sign ([`int16`](super::super::int16)).
    pub(crate) const INT16: u8 = 3;
}

/// Adds the product of some columns to the sums, or begins with it, for weights in groups of `G` bytes.
/// `O` is one of [`offsets`].
#[inline(always)]
pub(crate) fn multiply<S: Simd, const G: usize, const HAS_MIN: bool, const O: u8>(
    s: S,
    operands: &Operands<'_>,
    sums: &mut Sums,
) {
    match operands.panels {
        [a, b] if S::N_PANELS == 2 => panels::<S, G, HAS_MIN, O, 2>(s, operands, ([a, b], 0), sums),
        all => {
            for (i, panel) in all.iter().enumerate() {
                panels::<S, G, HAS_MIN, O, 1>(s, operands, ([panel], i), sums);
            }
        }
    }
}

/// `P` panels, of which the first is panel `at`.
#[inline(always)]
fn panels<S: Simd, const G: usize, const HAS_MIN: bool, const O: u8, const P: usize>(
    s: S,
    operands: &Operands<'_>,
    panels: ([&Panel; P], usize),
    sums: &mut Sums,
) {
    let n_tokens = operands.tokens.len();
    let mut token = 0;
    while token < n_tokens {
        token += match n_tokens - token {
            AT_ONCE.. if const { S::N_PANELS == 2 } => {
                tokens::<S, G, HAS_MIN, O, P, AT_ONCE>(s, operands, panels, token, sums)
            }
            4.. => tokens::<S, G, HAS_MIN, O, P, 4>(s, operands, panels, token, sums),
            2.. => tokens::<S, G, HAS_MIN, O, P, 2>(s, operands, panels, token, sums),
            _ => tokens::<S, G, HAS_MIN, O, P, 1>(s, operands, panels, token, sums),
        };
    }
}

/// `N` tokens from `first` on, of those of the operands; answers `N`.
#[inline(always)]
fn tokens<
    S: Simd,
    const G: usize,
    const HAS_MIN: bool,
    const O: u8,
    const P: usize,
    const N: usize,
>(
    s: S,
    operands: &Operands<'_>,
    (panels, at): ([&Panel; P], usize),
    first: usize,
    Sums { rows, starts }: &mut Sums,
) -> usize {
    let (x, columns) = (operands.x, operands.columns.clone());
    let (sums, ns) = if G == 32 {
        (x.sum32, x.n32)
    } else {
        (x.sum16, x.n16)
    };
    let shares_d = const { if G < 32 { 32 } else { G } };
    let (n_d, n_groups) = (columns.len() / shares_d, columns.len() / G);
    let start = |t: usize, len: usize| {
        ((operands.tokens.start + first + t) * x.width + columns.start) / len
    };
    // Where integer sums begin somewhere.
    let has_starts = O == offsets::UNSIGNED || O == offsets::SIGNED && S::SIGNED_OFFSET != 0;
    let q: [TokenPart<'_>; N] =
        std::array::from_fn(|t| x.q[start(t, 1)..][..columns.len()].as_chunks().0);
    let d: [&[f32]; N] = std::array::from_fn(|t| &x.d[start(t, shares_d)..][..n_d]);
    let sums: [&[f32]; N] = std::array::from_fn(|t| match HAS_MIN {
        true => &sums[start(t, G)..][..n_groups],
        false => &[],
    });
    let ns: [&[i32]; N] = std::array::from_fn(|t| match has_starts {
        true => &ns[start(t, G)..][..n_groups],
        false => &[],
    });
    let weights: [PanelPart<'_>; P] = panels.map(|panel| &panel.q[..columns.len() / 4]);
    let scales: [&[[f32; LANES]]; P] = panels.map(|panel| &panel.scales[..n_groups]);
    let mins: [&[[f32; LANES]]; P] = panels.map(|panel| &panel.mins[..n_groups]);
    let rows: &mut [[f32; ROWS]; N] = rows[first..].first_chunk_mut().expect("within the sums");
    let rows = rows
        .each_mut()
        .map(|row| &mut row.as_chunks_mut::<LANES>().0[at..at + P]);

    let mut acc = [[s.splat(0.0); P]; N];
    if columns.start > 0 {
        for t in 0..N {
            for p in 0..P {
                acc[t][p] = s.load(&rows[t][p]);
            }
        }
    }
    // All at once: in the loop below multiplications have no time for it.
    let starts: &mut [[i32; STRIP / 16]; N] = starts.first_chunk_mut().expect("of so many tokens");
    if has_starts {
        for (starts, ns) in starts.iter_mut().zip(ns) {
            for (start, n) in starts.iter_mut().zip(ns) {
                *start = start_of(*n, operands.offset);
            }
        }
    }
    for g in 0..n_groups {
        let mut dots = [[s.splat_i32(0); P]; N];
        if has_starts {
            for t in 0..N {
                dots[t] = [s.splat_i32(starts[t][g]); P];
            }
        }
        let fours = g * (G / 4)..(g + 1) * (G / 4);
        dots = if O == offsets::INT16 {
            dot_fours(s, dots, (&weights, &q), fours, Dot::Int16)
        } else {
            let max = (O != offsets::SIGNED).then_some(operands.max);
            s.dot_panels(dots, (&weights, &q), fours, max)
        };
        for p in 0..P {
            let scale = s.load(&scales[p][g]);
            for t in 0..N {
                let factor = s.mul(scale, s.splat(d[t][g * G / shares_d]));
                acc[t][p] = s.fma(s.to_f32(dots[t][p]), factor, acc[t][p]);
            }
            if HAS_MIN {
                let min = s.load(&mins[p][g]);
                for t in 0..N {
                    acc[t][p] = s.fma(min, s.splat(sums[t][g]), acc[t][p]);
                }
            }
        }
    }
    for (acc, row) in acc.into_iter().zip(rows) {
        for (acc, row) in acc.into_iter().zip(row) {
            s.store(acc, row);
        }
    }
    N
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::kernels::Kernels;
    use crate::dtype::DType;

    #[test]
    fn panels_hold_what_the_format_says() {
        for &dtype in DType::ALL {
            let Form::Groups { group_len, has_min } = dtype.form() else {
                continue;
            };
            // A part of two strips; all rows and too few.
            let row_len = STRIP + dtype.block_len();
            let row_bytes = dtype.row_bytes(row_len).unwrap();
            let mut state = u64::from(dtype.id()) + 1;
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            })
            .take(PANEL * row_bytes)
            .collect();
            for (isa, n_rows) in Isa::available()
                .into_iter()
                .flat_map(|i| [(i, PANEL), (i, 5)])
            {
                let kernel = (Kernels::get(isa).unwrap().group_kernel)(dtype).unwrap();
                let beside = if isa == Isa::NeonI8mm { 8 } else { 4 };
                for columns in [0..STRIP, STRIP..row_len] {
                    let mut panels = Panels::new(Ahead::new(Default::default()));
                    let Panels { panels, ahead, .. } = &mut panels;
                    let panel = &mut panels[0];
                    let rows = Rows {
                        bytes: &bytes[..n_rows * row_bytes],
                        row_bytes,
                        columns: columns.clone(),
                    };
                    (kernel.unpack)(&rows, panel, ahead);
                    for row in 0..n_rows {
                        let n_groups = row_len / group_len;
                        let (mut q, mut scales) = (vec![0; row_len], vec![0.0; n_groups]);
                        let mut mins = vec![0.0; if has_min { n_groups } else { 0 }];
                        let bytes = &bytes[row * row_bytes..][..row_bytes];
                        dtype.unpack_row(bytes, &mut q, &mut scales, &mut mins);
                        let what = format!("{dtype}, {isa}, row {row} of {n_rows}");
                        for (i, q) in q[columns.clone()].iter().enumerate() {
                            let at = i / beside * (PANEL * beside) + row * beside + i % beside;
                            let got = panel.q.as_flattened()[at];
                            assert_eq!(got, (*q as u8).wrapping_add(kernel.offset), "{what}, {i}");
                            let is_signed = kernel.offset == 0 && *q < 0 || kernel.offset == 128;
                            assert!(is_signed || got <= kernel.max, "{what}, {i}: {got}");
                        }
                        let same =
                            |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                        for g in 0..columns.len() / group_len {
                            let at = columns.start / group_len + g;
                            assert!(same(panel.scales[g][row], scales[at]), "{what}, scale {g}");
                            if has_min {
                                assert!(same(panel.mins[g][row], mins[at]), "{what}, minimum {g}");
                            }
                        }
                    }
                }
            }
        }
    }
}
