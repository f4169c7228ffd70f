//! Matrix products, by kernels for one token, a few, and many.

use minerva_compute::{Biased, DeviceError, Rows};

use super::{Lowering, Slot, Source, launch, stride, tiles};
use crate::kernels::{Kernel, Tokens, WORKGROUP};

/// From so many tokens on, a product is matrix-matrix.
const MUL_MM_FROM: u32 = 9;

/// A matrix product before its kernels.
pub(super) struct Product {
    pub(super) rows: Rows,
    pub(super) x: Slot,
    pub(super) matrix: Biased,
    pub(super) residual: Option<Slot>,
    pub(super) out: Slot,
}

impl Lowering<'_> {
    pub(super) fn product(&mut self, product: &Product) -> Result<(), DeviceError> {
        let Product {
            rows,
            x,
            matrix,
            residual,
            out,
        } = *product;
        let weight = self.program.weight(matrix.0).clone();
        let (dtype, grid) = (weight.dtype(), self.grid(weight.dtype()));
        let bias = matrix.1.map(|id| self.floats(id));
        for chunk in self.chunks(&weight)? {
            let shape = [weight.row_len() as u32, weight.row_bytes() as u32];
            let out_stride = stride(weight.n_rows()) as u32;
            let flags = [u32::from(bias.is_some()), u32::from(residual.is_some())];
            let numbers = move |n_tokens: u32| {
                [
                    chunk.n_rows,
                    shape[0],
                    shape[1],
                    chunk.first_row,
                    n_tokens,
                    shape[0].div_ceil(4),
                    out_stride,
                    flags[0],
                    flags[1],
                    0,
                    1,
                    1,
                    0,
                ]
            };
            let bindings = [
                Source::Upload(chunk.upload),
                Source::Slot(x),
                bias.unwrap_or(Source::Nothing),
                residual.map_or(Source::Nothing, Source::Slot),
                grid,
                Source::Nothing,
                Source::Slot(out),
            ];
            for (tokens, range, n_at_once) in
                [(Tokens::One, 1..2, 1), (Tokens::Four, 2..MUL_MM_FROM, 4)]
            {
                let kernel = Kernel::MulMv(dtype, tokens);
                let rows_at_once = self.rows_at_once(kernel);
                self.push(kernel, &bindings, move |b| {
                    let n = b.n_rows(rows);
                    if !range.contains(&n) {
                        return None;
                    }
                    let grid = tiles(chunk.n_rows.div_ceil(rows_at_once), n.div_ceil(n_at_once));
                    launch(&numbers(n), grid)
                });
            }
            let kernel = match self.abilities.has_matrix_units {
                true => Kernel::MulMmCoop(dtype),
                false => Kernel::MulMm(dtype),
            };
            self.push(kernel, &bindings, move |b| {
                let n = b.n_rows(rows);
                if n < MUL_MM_FROM {
                    return None;
                }
                launch(&numbers(n), [chunk.n_rows.div_ceil(64), n.div_ceil(32), 1])
            });
        }
        Ok(())
    }

    /// Rows of a weight for each workgroup of a matrix-vector kernel.
    pub(super) fn rows_at_once(&self, kernel: Kernel) -> u32 {
        WORKGROUP / self.abilities.reduction.group() * kernel.rows_per_group()
    }
}
