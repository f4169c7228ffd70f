//! The table of data types that a tensor can have.
//!
//! One file and one row per type: the file says how a block is laid out (`Block`), the row gives
//! it a variant, the format's id and a name. Everything else comes from the row.

mod block;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
pub mod iq_grids;
mod mxfp4;
mod nvfp4;
mod plain;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
pub(crate) mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
pub(crate) mod q8_0;
mod q8_1;
mod q8_k;
mod tq1_0;
mod tq2_0;

use std::fmt;

pub use block::Form;
pub(crate) use block::{Block, Lanes, f16_to_f32, f32_to_f16, with_signs};

/// A row of the table.
struct Row {
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    form: Form,
    dequantize_row: DequantizeRow,
    unpack_row: UnpackRow,
}

/// From bytes to numbers.
type DequantizeRow = fn(&[u8], &mut [f32]);
/// From bytes to `q`, scales and minimums.
type UnpackRow = fn(&[u8], &mut [i8], &mut [f32], &mut [f32]);

macro_rules! dtypes {
    ($($variant:ident = $id:literal, $name:literal, $block:ty;)*) => {
        /// The data type of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DType {
            $(
                #[doc = concat!("`", $name, "`, id ", $id, " in the file format.")]
                $variant,
            )*
        }

        impl DType {
            /// Every type, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What `visitor` makes of this type's block: how kernels that are generic over
            /// [`Block`] are chosen at run time.
            pub(crate) fn visit<V: BlockVisitor>(self) -> V::Output {
                match self {
                    $(Self::$variant => V::visit::<$block>(),)*
                }
            }
        }

        /// The table, in the order of the variants.
        static ROWS: &[Row] = &[$(const { Row::of::<$block>($id, $name) }),*];
    };
}

dtypes! {
    // variant = id, name, block
    F32 = 0, "F32", plain::F32;
    F16 = 1, "F16", plain::F16;
    BF16 = 30, "BF16", plain::BF16;
    F64 = 28, "F64", plain::F64;
    I8 = 24, "I8", plain::I8;
    I16 = 25, "I16", plain::I16;
    I32 = 26, "I32", plain::I32;
    I64 = 27, "I64", plain::I64;
    Q4_0 = 2, "Q4_0", q4_0::Q4_0;
    Q4_1 = 3, "Q4_1", q4_1::Q4_1;
    Q5_0 = 6, "Q5_0", q5_0::Q5_0;
    Q5_1 = 7, "Q5_1", q5_1::Q5_1;
    Q8_0 = 8, "Q8_0", q8_0::Q8_0;
    Q8_1 = 9, "Q8_1", q8_1::Q8_1;
    Q2K = 10, "Q2_K", q2_k::Q2K;
    Q3K = 11, "Q3_K", q3_k::Q3K;
    Q4K = 12, "Q4_K", q4_k::Q4K;
    Q5K = 13, "Q5_K", q5_k::Q5K;
    Q6K = 14, "Q6_K", q6_k::Q6K;
    Q8K = 15, "Q8_K", q8_k::Q8K;
    IQ2XXS = 16, "IQ2_XXS", iq2_xxs::IQ2XXS;
    IQ2XS = 17, "IQ2_XS", iq2_xs::IQ2XS;
    IQ2S = 22, "IQ2_S", iq2_s::IQ2S;
    IQ3XXS = 18, "IQ3_XXS", iq3_xxs::IQ3XXS;
    IQ3S = 21, "IQ3_S", iq3_s::IQ3S;
    IQ1S = 19, "IQ1_S", iq1_s::IQ1S;
    IQ1M = 29, "IQ1_M", iq1_m::IQ1M;
    IQ4NL = 20, "IQ4_NL", iq4_nl::IQ4NL;
    IQ4XS = 23, "IQ4_XS", iq4_xs::IQ4XS;
    TQ1_0 = 34, "TQ1_0", tq1_0::TQ1_0;
    TQ2_0 = 35, "TQ2_0", tq2_0::TQ2_0;
    MXFP4 = 39, "MXFP4", mxfp4::MXFP4;
    NVFP4 = 40, "NVFP4", nvfp4::NVFP4;
    Q1_0 = 41, "Q1_0", q1_0::Q1_0;
    Q2_0 = 42, "Q2_0", q2_0::Q2_0;
}

/// A function of a block type; see [`DType::visit`].
pub(crate) trait BlockVisitor {
    type Output;
    fn visit<B: Block>() -> Self::Output;
}

impl DType {
    /// The type with this id in the file format.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.id() == id)
    }

    /// The type with this name, in upper or lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// The id in the file format.
    pub fn id(self) -> u32 {
        self.row().id
    }

    /// The name as the file format spells it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements in a block.
    pub fn block_len(self) -> usize {
        self.row().block_len
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// How the elements are stored.
    pub fn form(self) -> Form {
        self.row().form
    }

    /// Bytes of a row of `n_elements`, or `None` when they do not fill whole blocks or the size is
    /// more than a `usize` holds.
    pub fn row_bytes(self, n_elements: usize) -> Option<usize> {
        if n_elements.is_multiple_of(self.block_len()) {
            (n_elements / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Turns a row of whole blocks into f32.
    ///
    /// # Panics
    /// When `bytes` is not the size of a row of `out.len()` elements.
    pub fn dequantize_row(self, bytes: &[u8], out: &mut [f32]) {
        self.check_row(bytes.len(), out.len());
        (self.row().dequantize_row)(bytes, out);
    }

    /// Takes a row of whole blocks apart into its integer form: a `q` for each element, a scale
    /// for each group, and a minimum for each group when the form has them.
    ///
    /// # Panics
    /// When the type is of [`Form::Float`], or a length is not that of a row of `q.len()` elements.
    pub fn unpack_row(self, bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let Form::Groups { group_len, has_min } = self.form() else {
            panic!("{self} has no integer form");
        };
        self.check_row(bytes.len(), q.len());
        let n_groups = q.len() / group_len;
        let n_mins = if has_min { n_groups } else { 0 };
        assert_eq!(
            (scales.len(), mins.len()),
            (n_groups, n_mins),
            "scales and minimums of {self}"
        );
        (self.row().unpack_row)(bytes, q, scales, mins);
    }

    fn check_row(self, n_bytes: usize, n_elements: usize) {
        assert_eq!(
            Some(n_bytes),
            self.row_bytes(n_elements),
            "bytes of {n_elements} {self}"
        );
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Row {
    const fn of<B: Block>(id: u32, name: &'static str) -> Self {
        assert!(B::LEN <= block::MAX_LEN);
        if let Form::Groups { group_len, .. } = B::FORM {
            assert!(matches!(group_len, 16 | 32) && B::LEN.is_multiple_of(group_len));
        }
        Self {
            id,
            name,
            block_len: B::LEN,
            block_bytes: B::BYTES,
            form: B::FORM,
            dequantize_row: dequantize_row::<B>,
            unpack_row: unpack_row::<B>,
        }
    }
}

fn dequantize_row<B: Block>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes
        .chunks_exact(B::BYTES)
        .zip(out.chunks_exact_mut(B::LEN))
    {
        B::dequantize(bytes, out);
    }
}

fn unpack_row<B: Block>(bytes: &[u8], q: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
    let Form::Groups { group_len, has_min } = B::FORM else {
        panic!("a type of Form::Float has no integer form");
    };
    let n_groups = B::LEN / group_len;
    let n_mins = if has_min { n_groups } else { 0 };
    let blocks = bytes.chunks_exact(B::BYTES).zip(q.chunks_exact_mut(B::LEN));
    for (b, (bytes, q)) in blocks.enumerate() {
        let scales = &mut scales[b * n_groups..][..n_groups];
        B::unpack(bytes, q, scales, &mut mins[b * n_mins..][..n_mins]);
    }
}

#[cfg(test)]
mod tests;
