//! What a block of a data type is: its sizes, its form, and how its bytes become numbers.
//!
//! A quantized format only says how a block is taken apart ([`Block::unpack`]); its numbers follow
//! from that by one formula, `w[i] = scale[g] * q[i] + min[g]`.

use crate::cpu::simd::Simd;

/// How the elements of a block are stored, which decides the kernel that multiplies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Every element is a number of its own: kernels convert it to f32.
    Float,
    /// Groups of `group_len` elements share a scale, and a minimum when `has_min`:
    /// `w[i] = scale[g] * q[i] + min[g]`, where q is an i8 and scale and minimum are f32.
    Groups {
        /// Elements in a group: 16 or 32.
        group_len: usize,
        /// Whether a group has a minimum beside its scale.
        has_min: bool,
    },
}

/// A data type, seen as a sequence of blocks of equal size.
pub(crate) trait Block {
    /// Elements in a block.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// How the elements are stored.
    const FORM: Form;
    /// How many f16 numbers stand at the start of a block of one group and are its scale (1), or
    /// its scale and its minimum (2), before [`Block::codes`]; 0 for blocks of another layout.
    const F16_HEADER: usize = 0;

    /// What, added to a `q`, makes it a number from 0 to 127, where there is such a number: kernels
    /// multiply weights without a sign at less cost.
    const OFFSET: Option<u8> = None;
    /// At most how large that number is: of small ones instructions sum several products in 16 bits.
    const MAX: u8 = 127;

    /// Whether [`Block::unpack_rows`] puts elements by [`Lanes::put_signed`] alone.
    const HAS_SIGN_BITS: bool = false;

    /// Whether [`Block::unpack_rows`] gathers entries of a table or has many steps: where there are no
    /// instructions for sixteen lanes or to gather, it takes compilers minutes and is left out.
    const HAS_MANY_STEPS: bool = false;

    /// Turns one block into f32: `bytes.len() == BYTES`, `out.len() == LEN`.
    ///
    /// [`Form::Float`] types define it; for the others it follows from [`Block::unpack`].
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        let Form::Groups { group_len, has_min } = Self::FORM else {
            unreachable!("every type of Form::Float defines how it converts")
        };
        let n_groups = Self::LEN / group_len;
        let (q, scales, mins) = (
            &mut [0; MAX_LEN],
            &mut [0.0; MAX_GROUPS],
            &mut [0.0; MAX_GROUPS],
        );
        let (q, scales) = (&mut q[..Self::LEN], &mut scales[..n_groups]);
        let mins = &mut mins[..if has_min { n_groups } else { 0 }];
        Self::unpack(bytes, q, scales, mins);
        let groups = out
            .chunks_exact_mut(group_len)
            .zip(q.chunks_exact(group_len))
            .zip(scales);
        for (g, ((out, q), scale)) in groups.enumerate() {
            for (out, &q) in out.iter_mut().zip(q) {
                *out = *scale * f32::from(q);
            }
            if has_min {
                out.iter_mut().for_each(|out| *out += mins[g]);
            }
        }
    }

    /// Takes one block apart into its integer form: `q.len() == LEN`, `scales.len()` is the number
    /// of groups, and so is `mins.len()`, or 0 when the form has no minimum.
    ///
    /// # Panics
    /// [`Form::Float`] types have no integer form.
    #[inline(always)]
    fn unpack(bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        assert!(
            Self::F16_HEADER > 0,
            "a type of Form::Float has no integer form"
        );
        scales[0] = f16_at(bytes, 0);
        if Self::F16_HEADER == 2 {
            mins[0] = f16_at(bytes, 2);
        }
        Self::codes(bytes, q);
    }

    /// The `q` of a block with an [`Block::F16_HEADER`].
    #[inline(always)]
    fn codes(bytes: &[u8], q: &mut [i8]) {
        let _ = (bytes, q);
        unreachable!("a type with a header of f16 defines its codes");
    }

    /// Takes a block of each of 16 rows apart, side by side: block r begins at `rows[r * stride]`.
    /// The same numbers as [`Block::unpack`]'s, which is its plain twin, and much slower.
    ///
    /// # Panics
    /// [`Form::Float`] types have no integer form.
    #[inline(always)]
    fn unpack_rows<S: Simd>(s: S, rows: &[u8], stride: usize, out: &mut impl Lanes<S>) {
        let _ = (s, rows, stride, out);
        unreachable!("a type of Form::Float has no integer form");
    }
}

/// What takes a block of each of 16 rows as it is taken apart: a lane is a row, but for what [`Lanes::load`] gives. All
/// of a block is put once, in any order.
pub(crate) trait Lanes<S: Simd> {
    /// A time to ask for `n_bytes` more of each row than before, of what is read later. Long blocks tell of themselves in
    /// small parts, since the lines of sixteen rows are more than a processor keeps on their way, and what it reads then
    /// waits for them: two threads of Zen 4 read Q6_K at 25 GB/s so, else at 17. Bytes that no part has told of count at
    /// the end of the block.
    #[inline(always)]
    fn part(&mut self, s: S, n_bytes: usize) {
        let _ = (s, n_bytes);
    }

    /// Takes elements 16 c to 16 c + 16 of each row, four in a lane: `q` plus the type's
    /// [`Block::OFFSET`], or plus [`Simd::SIGNED_OFFSET`] where it has none.
    fn put(&mut self, s: S, c: usize, q: [S::I; 4]);

    /// The same of numbers without a sign, which bits give them: the lowest four of each lane of `signs`. `offset` is the
    /// type's [`Block::OFFSET`], which they do not have yet.
    #[inline(always)]
    fn put_signed(&mut self, s: S, c: usize, (q, signs): ([S::I; 4], [S::I; 4]), offset: i8) {
        self.put(s, c, with_signs(s, q, signs, offset));
    }

    /// Sixteen bytes of each of 16 rows that are `stride` bytes apart, for [`Lanes::put_loaded`], which alone knows
    /// where in the vectors they are: for what is done to all bytes alike.
    #[inline(always)]
    fn load(&self, s: S, rows: &[u8], stride: usize) -> [S::I; 4] {
        s.load_rows(rows, stride)
    }

    /// Takes the 32 elements of group `g` of each row, with an offset as for [`Lanes::put`], which were made of what
    /// [`Lanes::load`] gave.
    #[inline(always)]
    fn put_loaded(&mut self, s: S, g: usize, [first, second]: [[S::I; 4]; 2]) {
        self.put(s, 2 * g, first);
        self.put(s, 2 * g + 1, second);
    }

    /// Takes the scale of group `g` of each row.
    fn put_scale(&mut self, s: S, g: usize, scale: S::F);

    /// Takes the minimum of group `g` of each row, where the form has them.
    fn put_min(&mut self, s: S, g: usize, min: S::F);
}

// No `map` over vectors here: its closure would lack the instruction set's features, and be called.

/// Numbers with the other sign where the lowest four bits of a lane of `signs` say so, plus `offset`.
#[inline(always)]
pub(crate) fn with_signs<S: Simd>(
    s: S,
    mut q: [S::I; 4],
    signs: [S::I; 4],
    offset: i8,
) -> [S::I; 4] {
    for (q, signs) in q.iter_mut().zip(signs) {
        *q = s.add_i8(s.negate_i8(*q, signs), s.splat_i8(offset));
    }
    q
}

/// The lower four bits of each byte.
#[inline(always)]
pub(super) fn low_nibbles<S: Simd>(s: S, mut x: [S::I; 4]) -> [S::I; 4] {
    for x in &mut x {
        *x = s.and(*x, s.splat_i8(0x0f));
    }
    x
}

/// The upper four bits of each byte.
#[inline(always)]
pub(super) fn high_nibbles<S: Simd>(s: S, mut x: [S::I; 4]) -> [S::I; 4] {
    for x in &mut x {
        *x = s.and(s.shr(*x, 4), s.splat_i8(0x0f));
    }
    x
}

/// The lower four bits of each byte, then the upper four.
#[inline(always)]
pub(super) fn both_nibbles<S: Simd>(s: S, x: [S::I; 4]) -> [[S::I; 4]; 2] {
    [low_nibbles(s, x), high_nibbles(s, x)]
}

/// [`Simd::lookup`] of both.
#[inline(always)]
pub(super) fn look_both_up<S: Simd>(s: S, table: &[i8; 16], x: [S::I; 4]) -> [[S::I; 4]; 2] {
    let [low, high] = both_nibbles(s, x);
    [look_up(s, table, low), look_up(s, table, high)]
}

/// Signed numbers with [`Simd::SIGNED_OFFSET`] added.
#[inline(always)]
pub(super) fn with_offset<S: Simd>(s: S, mut q: [S::I; 4]) -> [S::I; 4] {
    if S::SIGNED_OFFSET != 0 {
        for q in &mut q {
            *q = s.add_i8(*q, s.splat_i8(S::SIGNED_OFFSET as i8));
        }
    }
    q
}

/// The same of a table of signed numbers.
pub(super) const fn table_with_offset<S: Simd>(mut table: [i8; 16]) -> [i8; 16] {
    let mut i = 0;
    while i < 16 {
        table[i] = table[i].wrapping_add(S::SIGNED_OFFSET as i8);
        i += 1;
    }
    table
}

/// [`Simd::lookup`] of each.
#[inline(always)]
pub(super) fn look_up<S: Simd>(s: S, table: &[i8; 16], mut codes: [S::I; 4]) -> [S::I; 4] {
    for codes in &mut codes {
        *codes = s.lookup(table, *codes);
    }
    codes
}

/// Byte `i` of each lane, at most 127, times `factors[i]` of [`factors_of_bytes`]: where it is it is 2^(8 i) times as large, and
/// need not be shifted.
#[inline(always)]
pub(super) fn times_byte<S: Simd>(s: S, factors: &[S::F; 4], x: S::I, i: usize) -> S::F {
    s.mul(factors[i], s.to_f32(s.and(x, s.splat_i32(0xff << (8 * i)))))
}

/// A factor of bytes for each place of a byte in a lane. Factors that are f16 numbers have exact ones.
#[inline(always)]
pub(super) fn factors_of_bytes<S: Simd>(s: S, factor: S::F) -> [S::F; 4] {
    let mut factors = [factor; 4];
    for (i, factors) in factors.iter_mut().enumerate() {
        *factors = s.mul(factor, s.splat(1.0 / (1u32 << (8 * i)) as f32));
    }
    factors
}

/// Bits 4 c to 4 c + 4 of each lane, each as bit `to` of a byte.
#[inline(always)]
pub(super) fn spread_bits<S: Simd>(s: S, x: S::I, c: usize, to: u32) -> S::I {
    let four = s.and(s.shr(x, 4 * c as u32), s.splat_i32(0x0f));
    // Four copies, seven bits apart, have bit i at bit 8 i.
    let copies = s.mul_i32(four, s.splat_i32(0x0020_4081));
    s.shl(s.and(copies, s.splat_i8(1)), to)
}

/// Puts a block of 32 codes of five bits: nibbles, and the upper bits of all in `fifths`.
#[inline(always)]
pub(super) fn put_fifths<S: Simd>(s: S, nibbles: [S::I; 4], fifths: S::I, out: &mut impl Lanes<S>) {
    let (mut low, mut high) = (low_nibbles(s, nibbles), high_nibbles(s, nibbles));
    for i in 0..4 {
        low[i] = s.or(low[i], spread_bits(s, fifths, i, 4));
        high[i] = s.or(high[i], spread_bits(s, fifths, 4 + i, 4));
    }
    out.put(s, 0, low);
    out.put(s, 1, high);
}

/// The longest block that any type has.
pub(super) const MAX_LEN: usize = 256;
/// The most groups in a block: the longest block in groups of 16.
pub(super) const MAX_GROUPS: usize = MAX_LEN / 16;

/// The half-precision number at byte `at`, exactly as f32.
#[inline(always)]
pub(super) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16_at(bytes, at))
}

/// The value of a half-precision number, exactly.
///
/// The exponent moves to its place in an f32 and is rebased by an addition, all without branches.
/// The conversion of the `half` crate looks the CPU's features up for each number: a row of F16 took
/// five times as long with it.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    const REBASE: u32 = (127 - 15) << 23;
    const SMALLEST_NORMAL: f32 = f32::from_bits(REBASE + (1 << 23));
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let rebased = (magnitude << 13) + REBASE;
    // Infinity and NaN: the exponent is all ones in both formats.
    let special = rebased + REBASE;
    // Subnormal: without the leading one that an exponent of 1 implies.
    let subnormal = (f32::from_bits(rebased + (1 << 23)) - SMALLEST_NORMAL).to_bits();
    let magnitude = match magnitude {
        ..0x0400 => subnormal,
        0x0400..0x7c00 => rebased,
        0x7c00.. => special,
    };
    f32::from_bits(sign | magnitude)
}

/// To half precision, to nearest, ties to even; too large becomes infinite, NaN stays NaN.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
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

/// The little-endian 16-bit number at byte `at`.
#[inline(always)]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian 32-bit number at byte `at`.
#[inline(always)]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Spreads packed 4-bit codes: the low halves of all bytes first, then the high halves.
#[inline(always)]
pub(super) fn spread_nibbles(packed: &[u8], q: &mut [i8], value: impl Fn(u8) -> i8) {
    let (low, high) = q.split_at_mut(packed.len());
    for (&byte, low) in packed.iter().zip(low) {
        *low = value(byte & 0x0f);
    }
    for (&byte, high) in packed.iter().zip(high) {
        *high = value(byte >> 4);
    }
}

/// Spreads packed 2-bit codes: bits 0 and 1 of all bytes first, then bits 2 and 3, and so on.
#[inline(always)]
pub(super) fn spread_pairs(packed: &[u8], q: &mut [i8], value: impl Fn(u8) -> i8) {
    for (plane, q) in q.chunks_exact_mut(packed.len()).enumerate() {
        for (&byte, q) in packed.iter().zip(q) {
            *q = value(byte >> (2 * plane) & 3);
        }
    }
}

/// Copies bytes that are signed numbers already.
#[inline(always)]
pub(super) fn copy_signed(bytes: &[u8], q: &mut [i8]) {
    for (&byte, q) in bytes.iter().zip(q) {
        *q = byte as i8;
    }
}
