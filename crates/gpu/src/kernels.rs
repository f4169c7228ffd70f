//! The list of kernels.
//!
//! A kernel is a file of `wgsl/`, joined with the snippets of its data types (`text.rs`).

mod text;

use std::fmt;

use minerva_compute::{Activation, DType, Function, KvTypes};

use crate::batch::TILE_ROWS;
use crate::dtypes::snippet;

/// One kernel with what it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    /// Rows of a table by token.
    Embed(DType),
    /// Matrices times one token or four at a time.
    MulMv(DType, Tokens, Answer, Form),
    /// Matrices times 32 tokens at a time.
    MulMm(DType, Matrices),
    /// The same with matrix units of f32.
    MulMmCoop(DType, Matrices),
    /// Matrices times the tokens of a tile with matrix units of f16.
    MulMmHalf(DType, HalfTile),
    /// Rows in f16.
    Halves,
    /// Rows as bytes.
    Quantize,
    /// With what form its rows are written in.
    RmsNorm(Form),
    LayerNorm(Form),
    Elementwise(Elementwise),
    Gather,
    /// Chooses experts.
    Route,
    /// Puts the rows of an expert side by side.
    Group,
    /// Adds up what experts answered.
    Combine,
    /// Keys and values into the cache.
    Store(KvTypes),
    /// Attention of so many query rows of a sequence over a span of positions.
    Attend(KvTypes, u32, Form),
    /// Attention from its parts.
    Join(Form),
}

/// Tokens that a matrix-vector kernel takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tokens {
    One,
    Four,
    /// One, with the matrices of one of its experts.
    OneOfExpert,
}

/// What a matrix-vector kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// The product with each row.
    Rows,
    /// What an activation makes of a row of gate and one of up.
    Gated,
    /// The product with each row, and as bytes what the weights of the norm behind it make of that.
    RowsForNorm,
    /// What [`Answer::Gated`] does, as bytes.
    GatedBytes,
}

impl Answer {
    #[cfg(test)]
    const ALL: [Answer; 4] = [
        Answer::Rows,
        Answer::Gated,
        Answer::RowsForNorm,
        Answer::GatedBytes,
    ];

    pub(crate) fn is_gated(self) -> bool {
        matches!(self, Answer::Gated | Answer::GatedBytes)
    }

    /// Whether it is written as bytes, a group of 32 rows by each workgroup.
    fn has_bytes(self) -> bool {
        matches!(self, Answer::RowsForNorm | Answer::GatedBytes)
    }
}

/// What rows of activations are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    F32,
    /// Two bytes for each element and a factor for each 32 (`wgsl/bytes.wgsl`), for integer dots.
    Bytes,
}

impl Form {
    /// How the names of kernels end.
    fn suffix(self) -> &'static str {
        match self {
            Form::F32 => "",
            Form::Bytes => "_bytes",
        }
    }
}

/// What tokens are multiplied with, many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Matrices {
    One,
    /// Those of their experts.
    OfExperts,
}

/// What a workgroup with matrix units of f16 multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HalfTile {
    /// 64 rows times 64 tokens.
    Small,
    /// 128 times 128, so that less is read for each product; where there are enough of them.
    Large,
    /// 64 rows of an expert times 32 of its tokens.
    OfExpert,
}

impl HalfTile {
    #[cfg(test)]
    const ALL: [HalfTile; 3] = [HalfTile::Small, HalfTile::Large, HalfTile::OfExpert];

    pub(crate) fn rows(self) -> u32 {
        match self {
            HalfTile::Small | HalfTile::OfExpert => 64,
            HalfTile::Large => 128,
        }
    }

    pub(crate) fn tokens(self) -> u32 {
        match self {
            HalfTile::Small => 64,
            HalfTile::Large => 128,
            HalfTile::OfExpert => 32,
        }
    }

    /// Products of 16 by 16 that a subgroup adds up: along the rows, and along the tokens.
    fn products(self) -> (u32, u32) {
        match self {
            HalfTile::Small | HalfTile::OfExpert => (2, 2),
            HalfTile::Large => (2, 4),
        }
    }

    fn lanes(self) -> u32 {
        let (rows, tokens) = self.products();
        self.rows() / (16 * rows) * (self.tokens() / (16 * tokens)) * 32
    }
}

/// A function of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Elementwise {
    Add,
    /// By the sigmoid of one number for each row.
    Gate,
    Scale,
    Gelu,
    SoftCap,
    SiluGlu,
    GeluGlu,
    ClampedSwiglu,
}

impl Elementwise {
    #[cfg(test)]
    const ALL: [Elementwise; 8] = [
        Elementwise::Add,
        Elementwise::Gate,
        Elementwise::Scale,
        Elementwise::Gelu,
        Elementwise::SoftCap,
        Elementwise::SiluGlu,
        Elementwise::GeluGlu,
        Elementwise::ClampedSwiglu,
    ];

    /// The kernel of a function, and its numbers.
    pub(crate) fn of_function(function: Function) -> (Elementwise, [f32; 2]) {
        match function {
            Function::Scale(factor) => (Elementwise::Scale, [factor, 0.0]),
            Function::Gelu => (Elementwise::Gelu, [0.0; 2]),
            Function::SoftCap(cap) => (Elementwise::SoftCap, [cap, 0.0]),
        }
    }

    /// The kernel that makes one of gate and up, and its numbers.
    pub(crate) fn of_activation(activation: Activation) -> (Elementwise, [f32; 2]) {
        match activation {
            Activation::Silu => (Elementwise::SiluGlu, [0.0; 2]),
            Activation::Gelu => (Elementwise::GeluGlu, [0.0; 2]),
            Activation::ClampedSwiglu { alpha, limit } => {
                (Elementwise::ClampedSwiglu, [alpha, limit])
            }
        }
    }

    /// Those of gate and up.
    const GATED: [Elementwise; 3] = [
        Elementwise::SiluGlu,
        Elementwise::GeluGlu,
        Elementwise::ClampedSwiglu,
    ];

    /// The number of one of gate and up, in the kernels that have them all.
    pub(crate) fn gated_index(self) -> u32 {
        let index = Elementwise::GATED.iter().position(|f| *f == self);
        index.expect("one of gate and up") as u32
    }

    fn body(self) -> &'static str {
        match self {
            Elementwise::Add => "return a + b;",
            Elementwise::Gate => "return a / (1.0 + exp_(-b));",
            Elementwise::Scale => "return p.first * a;",
            Elementwise::Gelu => "return gelu(a);",
            Elementwise::SoftCap => "return p.first * tanh_(a / p.first);",
            Elementwise::SiluGlu => "return a / (1.0 + exp_(-a)) * b;",
            Elementwise::GeluGlu => "return gelu(a) * b;",
            Elementwise::ClampedSwiglu => {
                "let g = min(a, p.second);\n    \
                 return g / (1.0 + exp_(-p.first * g)) * (clamp(b, -p.second, p.second) + 1.0);"
            }
        }
    }
}

/// What kernels may use of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) reduction: Reduction,
    pub(crate) units: MatrixUnits,
    /// Whether a few tokens are multiplied with blocks through dots of four bytes.
    pub(crate) has_integer_dots: bool,
    /// Bytes of a page, where it reads weights that lie in pages of the processor in place.
    pub(crate) page_bytes: Option<usize>,
}

impl Abilities {
    /// What multiplies weights of a type with many tokens. F32, F64 and integers of 16 bits and more are not
    /// rounded to f16.
    pub(crate) fn units_for(self, dtype: DType) -> MatrixUnits {
        let is_wide = matches!(
            dtype,
            DType::F32 | DType::F64 | DType::I16 | DType::I32 | DType::I64
        );
        match self.units {
            MatrixUnits::F16 if is_wide => MatrixUnits::None,
            units => units,
        }
    }

    /// What the kernels for a few tokens read rows in.
    pub(crate) fn form_of_few(self, dtype: DType) -> Form {
        match self.has_integer_dots && !snippet(dtype).is_plain {
            true => Form::Bytes,
            false => Form::F32,
        }
    }
}

/// What a device multiplies matrices with, beside its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MatrixUnits {
    None,
    /// 8 by 8, in f32.
    F32,
    /// 16 by 16, in f16 with sums in f32.
    F16,
}

/// From so many workgroups on, those with matrix units of f16 have large tiles.
const LARGE_FROM: u32 = 96;
/// Bytes of workgroup memory that kernels with matrix units of f16 take.
pub(crate) const HALF_TILE_BYTES: u32 = (128 + 128) * 18 * 8 + 8 * 1024;

/// How the lanes of a group add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    /// A group is a subgroup of so many lanes.
    Subgroup(u32),
    /// A group is 32 lanes, which go through workgroup memory.
    Shared,
}

impl Reduction {
    pub(crate) fn group(self) -> u32 {
        match self {
            Reduction::Subgroup(size) => size,
            Reduction::Shared => 32,
        }
    }
}

/// The most lanes of a workgroup, where there are integer dots.
pub(crate) const MAX_LANES: u32 = 1024;
/// Lanes of most kernels' workgroup.
pub(crate) const WORKGROUP: u32 = 64;
/// The most bytes of workgroup memory that a kernel without matrix units takes: attention of four rows, which
/// become bytes without subgroups.
pub(crate) const WORKGROUP_BYTES: u32 = 26 * 1024;
/// Workgroups in the first dimension of a dispatch, before the third is used.
pub(crate) const MAX_TILES: u32 = 32768;
/// Bytes of every kernel's immediates.
pub(crate) const IMMEDIATE_BYTES: u32 = 100;
/// The most buffers that a kernel sees.
pub(crate) const MAX_BINDINGS: u32 = 9;
/// The largest head that attention has room for.
pub(crate) const MAX_HEAD_DIM: usize = 256;

/// Numbers of query rows that attention takes together.
pub(crate) const ATTEND_ROWS: [u32; 3] = [1, 4, TILE_ROWS as u32];

impl Kernel {
    /// Every kernel that there is.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Kernel> {
        use minerva_compute::KvType;

        let mut all = vec![
            Kernel::RmsNorm(Form::F32),
            Kernel::RmsNorm(Form::Bytes),
            Kernel::LayerNorm(Form::F32),
            Kernel::LayerNorm(Form::Bytes),
            Kernel::Quantize,
            Kernel::Gather,
            Kernel::Route,
            Kernel::Group,
            Kernel::Combine,
            Kernel::Join(Form::F32),
            Kernel::Join(Form::Bytes),
            Kernel::Halves,
        ];
        all.extend(Elementwise::ALL.map(Kernel::Elementwise));
        for &dtype in DType::ALL {
            all.push(Kernel::Embed(dtype));
            for tokens in [Tokens::One, Tokens::Four, Tokens::OneOfExpert] {
                for answer in Answer::ALL {
                    if !answer.has_bytes() {
                        all.push(Kernel::MulMv(dtype, tokens, answer, Form::F32));
                    }
                    let is_made = !answer.has_bytes() || tokens != Tokens::OneOfExpert;
                    if is_made && !snippet(dtype).is_plain {
                        all.push(Kernel::MulMv(dtype, tokens, answer, Form::Bytes));
                    }
                }
            }
            for matrices in [Matrices::One, Matrices::OfExperts] {
                all.push(Kernel::MulMm(dtype, matrices));
                all.push(Kernel::MulMmCoop(dtype, matrices));
            }
            all.extend(HalfTile::ALL.map(|tile| Kernel::MulMmHalf(dtype, tile)));
        }
        for types in KvType::ALL
            .iter()
            .flat_map(|&k| KvType::ALL.iter().map(move |&v| KvTypes { k, v }))
        {
            all.push(Kernel::Store(types));
            for form in [Form::F32, Form::Bytes] {
                all.extend(ATTEND_ROWS.map(|rows| Kernel::Attend(types, rows, form)));
            }
        }
        all
    }

    /// Rows of weights for each lane group of a matrix-vector kernel, which answers one number for
    /// each token.
    fn rows_per_group(self) -> u32 {
        match self {
            Kernel::MulMv(_, _, answer, _) if answer.is_gated() => 2,
            _ => 1,
        }
    }

    /// Rows that a workgroup of a matrix-vector kernel answers.
    pub(crate) fn rows_per_workgroup(self, reduction: Reduction) -> u32 {
        match self {
            Kernel::MulMv(_, _, answer, _) if answer.has_bytes() => 32,
            _ => WORKGROUP / reduction.group(),
        }
    }

    /// Rows that a group of lanes of a matrix-vector kernel answers, one after the other.
    fn turns(self, reduction: Reduction) -> u32 {
        let rows = self.rows_per_workgroup(reduction);
        rows * reduction.group() / self.mul_mv_lanes(reduction)
    }

    /// Lanes of a workgroup of a matrix-vector kernel.
    fn mul_mv_lanes(self, reduction: Reduction) -> u32 {
        let rows = self.rows_per_workgroup(reduction);
        // Of gate and up a row each is enough on its way with half as many.
        let most = match self.rows_per_group() {
            1 => MAX_LANES,
            _ => MAX_LANES / 2,
        };
        (rows * reduction.group()).min(most)
    }

    fn tokens_per_group(self) -> u32 {
        match self {
            Kernel::MulMv(_, Tokens::Four, ..) => 4,
            _ => 1,
        }
    }

    /// Rows and tokens that a workgroup of a matrix-matrix kernel multiplies.
    pub(crate) fn tile(self) -> [u32; 2] {
        match self {
            Kernel::MulMmHalf(_, tile) => [tile.rows(), tile.tokens()],
            _ => [64, 32],
        }
    }

    /// Whether a matrix-matrix kernel is the one for so many rows and tokens.
    pub(crate) fn is_for(self, n_rows: u32, n_tokens: u32) -> bool {
        let (rows, tokens) = (HalfTile::Large.rows(), HalfTile::Large.tokens());
        let n_large = n_rows.div_ceil(rows) * n_tokens.div_ceil(tokens);
        match self {
            Kernel::MulMmHalf(_, HalfTile::Small) => n_large < LARGE_FROM,
            Kernel::MulMmHalf(_, HalfTile::Large) => n_large >= LARGE_FROM,
            _ => true,
        }
    }

    fn attend_rows(self) -> u32 {
        match self {
            Kernel::Attend(_, rows, _) => rows,
            _ => unreachable!("{self} has none"),
        }
    }

    /// Lanes of a norm's workgroup, which has a row: the few rows of bytes have a device to themselves.
    fn norm_lanes(self) -> u32 {
        match self {
            Kernel::RmsNorm(Form::Bytes) | Kernel::LayerNorm(Form::Bytes) => MAX_LANES,
            _ => 256,
        }
    }

    /// Pieces of 64 elements of a row that are read by a lane each.
    fn pieces(self) -> u32 {
        if self.reads_numbers() { 16 } else { 2 }
    }

    /// Whether its weights are numbers of their own.
    fn reads_numbers(self) -> bool {
        match self {
            Kernel::MulMmHalf(dtype, _) => snippet(dtype).is_plain,
            _ => unreachable!("{self} has none"),
        }
    }

    /// The type of the weights that it reads as they are in the file.
    fn weights_dtype(self) -> DType {
        match self {
            Kernel::Embed(dtype)
            | Kernel::MulMv(dtype, ..)
            | Kernel::MulMm(dtype, _)
            | Kernel::MulMmCoop(dtype, _)
            | Kernel::MulMmHalf(dtype, _) => dtype,
            _ => unreachable!("{self} has none"),
        }
    }

    fn half_tile(self) -> HalfTile {
        match self {
            Kernel::MulMmHalf(_, tile) => tile,
            _ => unreachable!("{self} has none"),
        }
    }

    fn has_experts(self) -> bool {
        matches!(
            self,
            Kernel::MulMv(_, Tokens::OneOfExpert, ..)
                | Kernel::MulMm(_, Matrices::OfExperts)
                | Kernel::MulMmCoop(_, Matrices::OfExperts)
                | Kernel::MulMmHalf(_, HalfTile::OfExpert)
        )
    }

    /// For each of its bindings in order, whether it is written.
    pub(crate) fn bindings(self) -> &'static [bool] {
        match self {
            Kernel::Embed(_) => &[false, false, false, true],
            Kernel::MulMv(..)
            | Kernel::MulMm(..)
            | Kernel::MulMmCoop(..)
            | Kernel::MulMmHalf(..) => {
                &[false, false, false, false, false, false, true, true, true]
            }
            Kernel::RmsNorm(_)
            | Kernel::Elementwise(_)
            | Kernel::Gather
            | Kernel::Combine
            | Kernel::Join(_) => &[false, false, true],
            Kernel::Store(_) => &[false, false, false, true, true],
            Kernel::LayerNorm(_) => &[false, false, false, true],
            Kernel::Route => &[false, true, true],
            Kernel::Group | Kernel::Halves | Kernel::Quantize => &[false, true],
            Kernel::Attend(..) => &[false, false, false, false, false, true],
        }
    }
}

/// The name in messages and file names.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Embed(dtype) => write!(f, "embed_{dtype}"),
            Kernel::MulMv(dtype, tokens, answer, form) => {
                let tokens = match tokens {
                    Tokens::One => "",
                    Tokens::Four => "4",
                    Tokens::OneOfExpert => "_experts",
                };
                let answer = match answer {
                    Answer::Rows => "",
                    Answer::Gated => "_gated",
                    Answer::RowsForNorm => "_for_norm",
                    Answer::GatedBytes => "_gated_as_bytes",
                };
                write!(f, "mul_mv{tokens}{answer}{}_{dtype}", form.suffix())
            }
            Kernel::MulMm(dtype, Matrices::One) => write!(f, "mul_mm_{dtype}"),
            Kernel::MulMm(dtype, Matrices::OfExperts) => write!(f, "mul_mm_experts_{dtype}"),
            Kernel::MulMmCoop(dtype, Matrices::One) => write!(f, "mul_mm_coop_{dtype}"),
            Kernel::MulMmCoop(dtype, Matrices::OfExperts) => {
                write!(f, "mul_mm_coop_experts_{dtype}")
            }
            Kernel::MulMmHalf(dtype, tile) => {
                let tile = match tile {
                    HalfTile::Small => "",
                    HalfTile::Large => "_large",
                    HalfTile::OfExpert => "_experts",
                };
                write!(f, "mul_mm_half{tile}_{dtype}")
            }
            Kernel::Halves => f.write_str("halves"),
            Kernel::Quantize => f.write_str("quantize"),
            Kernel::RmsNorm(form) => write!(f, "rms_norm{}", form.suffix()),
            Kernel::LayerNorm(form) => write!(f, "layer_norm{}", form.suffix()),
            Kernel::Elementwise(function) => write!(f, "{function:?}"),
            Kernel::Gather => f.write_str("gather"),
            Kernel::Route => f.write_str("route"),
            Kernel::Group => f.write_str("group"),
            Kernel::Combine => f.write_str("combine"),
            Kernel::Store(types) => write!(f, "store_{}_{}", types.k, types.v),
            Kernel::Attend(types, rows, form) => {
                let rows = match rows {
                    8 => String::new(),
                    rows => rows.to_string(),
                };
                write!(f, "attend{rows}{}_{}_{}", form.suffix(), types.k, types.v)
            }
            Kernel::Join(form) => write!(f, "join{}", form.suffix()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kernel_has_more_bindings_than_devices_are_asked_for() {
        let most = Kernel::all()
            .iter()
            .map(|kernel| kernel.bindings().len())
            .max();
        assert_eq!(most, Some(MAX_BINDINGS as usize));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<String> =
            Kernel::all().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), Kernel::all().len());
    }
}
