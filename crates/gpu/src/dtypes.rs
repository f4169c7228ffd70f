//! How the kernels read each data type: the table of WGSL snippets.
//!
//! A snippet of numbers defines `four_at(at)`, those from a byte on; one of blocks `codes(row, g)`, the
//! codes of group g, 32 elements, of the row at a byte. `plain.wgsl` and `groups.wgsl` make elements of
//! both. A type enters by its snippet only; every kernel that reads weights is joined with it.

use minerva_compute::DType;
use minerva_compute::dtype::iq_grids;

/// A type's row of the table.
pub(crate) struct Snippet {
    /// WGSL that defines `four_at` or `codes`.
    pub(crate) wgsl: &'static [&'static str],
    /// Whether elements are numbers of their own, so that a row may end within a group.
    pub(crate) is_plain: bool,
    /// Numbers that the snippet looks up.
    pub(crate) grid: Grid,
}

/// What the first byte of a matrix is a multiple of: kernels read whole words, and where each block is whole
/// sixteen bytes, those.
pub(crate) fn alignment(dtype: DType) -> usize {
    match dtype.block_bytes().is_multiple_of(16) {
        true => 16,
        false => 4,
    }
}

/// Numbers beside the weight's bytes.
pub(crate) enum Grid {
    /// None.
    None,
    /// Four signed bytes a word.
    Bytes(&'static [i8]),
    /// Sixteen bytes, a word each.
    Values(&'static [i8; 16]),
}

impl Grid {
    /// The words of its buffer.
    pub(crate) fn words(&self) -> Vec<u32> {
        match self {
            Grid::None => vec![0],
            Grid::Bytes(bytes) => bytes
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0] as u8, b[1] as u8, b[2] as u8, b[3] as u8]))
                .collect(),
            Grid::Values(values) => values.iter().map(|v| u32::from(*v as u8)).collect(),
        }
    }
}

macro_rules! wgsl {
    ($($name:literal),*) => { &[$(include_str!(concat!("dtypes/", $name, ".wgsl"))),*] };
}

/// The row of a type. The match is exhaustive, so a new type does not build without its kernel.
pub(crate) fn snippet(dtype: DType) -> Snippet {
    let groups = |wgsl| Snippet {
        wgsl,
        is_plain: false,
        grid: Grid::None,
    };
    let plain = |wgsl| Snippet {
        wgsl,
        is_plain: true,
        grid: Grid::None,
    };
    let with = |wgsl, grid| Snippet {
        wgsl,
        is_plain: false,
        grid,
    };
    match dtype {
        DType::F32 => plain(wgsl!["f32"]),
        DType::F16 => plain(wgsl!["f16"]),
        DType::BF16 => plain(wgsl!["bf16"]),
        DType::F64 => plain(wgsl!["f64"]),
        DType::I8 => plain(wgsl!["i8"]),
        DType::I16 => plain(wgsl!["i16"]),
        DType::I32 => plain(wgsl!["i32"]),
        DType::I64 => plain(wgsl!["i64"]),
        DType::Q4_0 => groups(wgsl!["q4_0"]),
        DType::Q4_1 => groups(wgsl!["q4_1"]),
        DType::Q5_0 => groups(wgsl!["q5_0"]),
        DType::Q5_1 => groups(wgsl!["q5_1"]),
        DType::Q8_0 => groups(wgsl!["q8_0"]),
        DType::Q8_1 => groups(wgsl!["q8_1"]),
        DType::Q2K => groups(wgsl!["q2_k"]),
        DType::Q3K => groups(wgsl!["q3_k"]),
        DType::Q4K => groups(wgsl!["k_scales", "q4_k"]),
        DType::Q5K => groups(wgsl!["k_scales", "q5_k"]),
        DType::Q6K => groups(wgsl!["q6_k"]),
        DType::Q8K => groups(wgsl!["q8_k"]),
        DType::IQ2XXS => with(
            wgsl!["iq2_xxs"],
            Grid::Bytes(iq_grids::IQ2_XXS.values.as_flattened()),
        ),
        DType::IQ2XS => with(
            wgsl!["iq2_xs"],
            Grid::Bytes(iq_grids::IQ2_XS.values.as_flattened()),
        ),
        DType::IQ2S => with(
            wgsl!["iq2_s"],
            Grid::Bytes(iq_grids::IQ2_S.values.as_flattened()),
        ),
        DType::IQ3XXS => with(
            wgsl!["iq3_xxs"],
            Grid::Bytes(iq_grids::IQ3_XXS.values.as_flattened()),
        ),
        DType::IQ3S => with(
            wgsl!["iq3_s"],
            Grid::Bytes(iq_grids::IQ3_S.values.as_flattened()),
        ),
        DType::IQ1S => with(wgsl!["iq1_s"], Grid::Bytes(iq_grids::IQ1.as_flattened())),
        DType::IQ1M => with(wgsl!["iq1_m"], Grid::Bytes(iq_grids::IQ1.as_flattened())),
        DType::IQ4NL => with(wgsl!["iq4_nl"], Grid::Values(&iq_grids::UNEVEN_STEPS)),
        DType::IQ4XS => with(wgsl!["iq4_xs"], Grid::Values(&iq_grids::UNEVEN_STEPS)),
        DType::TQ1_0 => groups(wgsl!["tq1_0"]),
        DType::TQ2_0 => groups(wgsl!["tq2_0"]),
        DType::MXFP4 => with(wgsl!["mxfp4"], Grid::Values(&iq_grids::DOUBLED_E2M1)),
        DType::NVFP4 => with(wgsl!["nvfp4"], Grid::Values(&iq_grids::DOUBLED_E2M1)),
        DType::Q1_0 => groups(wgsl!["q1_0"]),
        DType::Q2_0 => groups(wgsl!["q2_0"]),
    }
}
