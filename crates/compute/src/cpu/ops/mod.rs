//! The kernels, each written once: generic over the instruction set, or as plain loops that the
//! compiler vectorizes for each (`cpu/kernels.rs` compiles them). All are safe code.
//!
//! Every kernel fixes the order of its floating-point operations, and that order depends on the
//! shapes of one row only: not on the rows beside it, on threads, or on registers' width. So a
//! token's results are the same bits in any batch, in any slicing of a prompt, on any number of
//! threads and on any instruction set.

pub(crate) mod ahead;
pub(crate) mod attention;
pub(crate) mod experts;
pub(crate) mod float_matmul;
pub(crate) mod group_matmul;
pub(crate) mod int16;
pub(crate) mod kv_tile;
pub(crate) mod peak;
pub(crate) mod quantize;
pub(crate) mod rows;
pub(crate) mod tile_matmul;

/// How many tokens a batch has: its products are cut and computed in one of three ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Amount {
    /// So few that a product takes as long as its weights take to be read.
    Few,
    #[default]
    Many,
    /// So many that tiles of bf16 or whole numbers of 16 bits are used, where they may be.
    Fast,
}

impl Amount {
    pub(crate) const ALL: [Amount; 3] = [Amount::Few, Amount::Many, Amount::Fast];
}
