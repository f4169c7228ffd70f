//! Matrix products, by kernels for one token, a few, and many.
//!
//! Matrices that are multiplied with the same rows are in one upload and take one dispatch, where
//! their types agree and a buffer of the device holds them.

use minerva_compute::{Activation, Biased, DType, DeviceError, MatMulPart, Op, Rows, Weight};

use super::scratch::Layout;
use super::weights::{Chunk, Place};
use super::{Each, Lowering, Slot, Source, launch};
use crate::kernels::{
    Answer, Elementwise, Form, HalfTile, Kernel, MAX_TILES, Matrices, MatrixUnits, Tokens,
};

/// From so many tokens on, a product is matrix-matrix.
pub(super) const MUL_MM_FROM: u32 = 9;
/// Matrices whose answers one dispatch writes.
const MAX_STACKED: usize = 3;

/// The immediates of the products' kernels, in the order of `wgsl/product.wgsl`.
#[derive(Clone, Copy, Default)]
pub(super) struct Numbers {
    pub(super) n_rows: u32,
    pub(super) row_len: u32,
    pub(super) row_bytes: u32,
    pub(super) first_row: u32,
    pub(super) n_tokens: u32,
    pub(super) place: Place,
    pub(super) second_at: u32,
    pub(super) third_at: u32,
    pub(super) out_len: u32,
    pub(super) has_bias: bool,
    pub(super) has_residual: bool,
    pub(super) first_expert: u32,
    pub(super) n_experts: u32,
    pub(super) x_div: u32,
    pub(super) order_at: u32,
    pub(super) x_is_interleaved: u32,
    pub(super) out_is_interleaved: u32,
    pub(super) function: u32,
    pub(super) function_numbers: [f32; 2],
    /// The bits of the epsilon of x's norm, where x is to be divided by it.
    pub(super) norm: Option<u32>,
}

impl Numbers {
    pub(super) fn words(&self) -> [u32; 25] {
        let Place {
            at,
            gaps,
            expert_bytes,
        } = self.place;
        [
            self.n_rows,
            self.row_len,
            self.row_bytes,
            self.first_row,
            self.n_tokens,
            at,
            gaps[0],
            gaps[1],
            expert_bytes,
            self.second_at,
            self.third_at,
            self.out_len,
            u32::from(self.has_bias),
            u32::from(self.has_residual),
            self.first_expert,
            self.n_experts,
            self.x_div,
            self.order_at,
            self.x_is_interleaved,
            self.out_is_interleaved,
            self.function,
            self.function_numbers[0].to_bits(),
            self.function_numbers[1].to_bits(),
            u32::from(self.norm.is_some()),
            self.norm.unwrap_or(0),
        ]
    }

    /// With the places of matrices of so many rows, one behind the other.
    pub(super) fn with_parts(self, parts: &[usize]) -> Numbers {
        let end = |n: usize| parts.iter().take(n).sum::<usize>() as u32;
        Numbers {
            second_at: end(1),
            third_at: end(2),
            out_len: end(3),
            ..self
        }
    }
}

/// Where the products of stacked matrices go.
#[derive(Clone, Copy)]
pub(super) enum Out {
    /// Each matrix's to a slot of its own.
    Each([Slot; MAX_STACKED]),
    /// The one matrix's, and those of a few tokens to `normed` as well, as bytes times the norm's weights.
    ForNorm {
        rows: Slot,
        normed: Slot,
        weight: Source,
    },
    /// Of gate and up: a few tokens' become one at once, in `both`; those of many go to `halves`, for
    /// another kernel.
    Gated {
        halves: [Slot; 2],
        both: Slot,
        activation: Activation,
    },
}

impl Out {
    /// The slots of up to three matrices; the last ones again where there are fewer.
    pub(super) fn each(slots: &[Slot]) -> Out {
        let last = slots.len() - 1;
        Out::Each([0, 1, 2].map(|i: usize| slots[i.min(last)]))
    }

    /// Where those for many tokens write.
    pub(super) fn of_many(self) -> [Source; MAX_STACKED] {
        match self {
            Out::Each(slots) => slots,
            Out::ForNorm { rows, .. } => [rows; 3],
            Out::Gated { halves, .. } => [halves[0], halves[1], halves[1]],
        }
        .map(Source::Slot)
    }
}

/// Products of the same rows with matrices of one type.
struct Product<'a> {
    rows: Rows,
    x: Slot,
    /// One, or several that [may be stacked](Lowering::can_stack).
    matrices: &'a [Biased],
    /// Added to the product of the one matrix.
    residual: Option<Slot>,
    out: Out,
}

/// Rows in another form.
struct Conversion {
    /// What makes it of rows of `row_len` elements.
    kernel: Kernel,
    row_len: usize,
    /// Words of a row.
    width: usize,
    /// For each row.
    workgroups: usize,
}

/// Gate and up of the same rows, and what becomes of them.
pub(super) struct GatedProduct {
    pub(super) rows: Rows,
    pub(super) x: Slot,
    pub(super) gate: Biased,
    pub(super) up: Biased,
    pub(super) activation: Activation,
    pub(super) out: Slot,
}

impl Lowering<'_> {
    /// Products of a buffer, one dispatch for each run of them that may be stacked.
    pub(super) fn matmul(
        &mut self,
        rows: Rows,
        x: Slot,
        parts: &[MatMulPart],
    ) -> Result<(), DeviceError> {
        let mut rest = parts;
        while !rest.is_empty() {
            let is_stack = |n: &usize| {
                let matrices: Vec<Biased> = rest[..*n].iter().map(|p| (p.weight, p.bias)).collect();
                let is_plain = rest[..*n].iter().all(|part| part.residual.is_none());
                *n == 1 || (is_plain && self.can_stack(&matrices))
            };
            let most = rest.len().min(MAX_STACKED);
            let n = (1..=most).rev().find(is_stack).expect("one is a stack");
            let (now, later) = rest.split_at(n);
            rest = later;
            let matrices: Vec<Biased> = now.iter().map(|p| (p.weight, p.bias)).collect();
            let residual = now[0].residual.map(|id| self.slot(id));
            let outs: Vec<Slot> = now.iter().map(|part| self.write(part.out)).collect();
            let out = match now {
                [part] => self.for_norm(part)?.unwrap_or(Out::each(&outs)),
                _ => Out::each(&outs),
            };
            self.product(&Product {
                rows,
                x,
                matrices: &matrices,
                residual,
                out,
            })?;
        }
        Ok(())
    }

    /// Where the product of a matrix goes, if the next operation is a norm of it that only products read: so
    /// few tokens take no dispatch for the norm.
    fn for_norm(&mut self, part: &MatMulPart) -> Result<Option<Out>, DeviceError> {
        let Some(Op::RmsNorm {
            x,
            weight: norm,
            eps,
            out,
        }) = self.program.ops().get(self.op + 1)
        else {
            return Ok(None);
        };
        let weight = self.program.weight(part.weight).clone();
        let is_whole = *x == part.out && self.program.weight(*norm).row_len() == weight.n_rows();
        let is_by_bytes = self.abilities.form_of_few(weight.dtype()) == Form::Bytes;
        if !is_whole || !is_by_bytes || self.layout(*out) != Layout::Bytes {
            return Ok(None);
        }
        let has_blocks = |chunk: &Chunk| (chunk.first_row | chunk.n_rows).is_multiple_of(32);
        if !self.chunks(&[weight])?.iter().all(has_blocks) {
            return Ok(None);
        }
        let normed = self.write(*out);
        self.layout_of[normed] = Layout::BytesBeforeNorm(eps.to_bits());
        Ok(Some(Out::ForNorm {
            rows: self.slot(part.out),
            normed,
            weight: self.floats(*norm),
        }))
    }

    /// Whether what becomes of gate and up is made by the product, as bytes.
    pub(super) fn gated_has_bytes(&self, gate: Biased, up: Biased) -> bool {
        let weight = self.program.weight(gate.0);
        self.can_stack(&[gate, up])
            && self.abilities.form_of_few(weight.dtype()) == Form::Bytes
            && weight.n_rows().is_multiple_of(32)
    }

    /// Gate and up in one dispatch, which for a few tokens makes one of both as well.
    pub(super) fn gated_matmul(&mut self, product: &GatedProduct) -> Result<(), DeviceError> {
        let GatedProduct {
            rows,
            x,
            gate,
            up,
            activation,
            out,
        } = *product;
        let width = self.program.weight(gate.0).n_rows();
        let halves = [0; 2].map(|_| self.take(rows, 1, width));
        let is_fused = self.can_stack(&[gate, up]);
        if is_fused {
            let out = Out::Gated {
                halves,
                both: out,
                activation,
            };
            self.product(&Product {
                rows,
                x,
                matrices: &[gate, up],
                residual: None,
                out,
            })?;
        } else {
            for (matrix, half) in [gate, up].into_iter().zip(halves) {
                self.product(&Product {
                    rows,
                    x,
                    matrices: &[matrix],
                    residual: None,
                    out: Out::each(&[half]),
                })?;
            }
        }
        let (function, numbers) = Elementwise::of_activation(activation);
        let each = Each {
            function,
            numbers,
            rows,
            copies: 1,
            width,
            b_width: width,
            slots: [halves[0], halves[1], out],
        };
        self.elementwise_where(&each, move |b| !is_fused || b.n_rows(rows) >= MUL_MM_FROM);
        for slot in halves {
            self.is_free[slot] = true;
        }
        Ok(())
    }

    fn product(&mut self, product: &Product<'_>) -> Result<(), DeviceError> {
        let Product {
            rows,
            x,
            matrices,
            residual,
            out,
        } = *product;
        let weights: Vec<Weight> = matrices
            .iter()
            .map(|(id, _)| self.program.weight(*id).clone())
            .collect();
        let parts: Vec<usize> = weights.iter().map(Weight::n_rows).collect();
        let dtype = weights[0].dtype();
        let grid = self.grid(dtype);
        let bias = self.biases(matrices);
        let many = self.rows_of_many(rows, 1, x, &weights[0], |n| n >= MUL_MM_FROM);
        let few = self.rows_of_few(rows, 1, x, &weights[0], |n| n < MUL_MM_FROM);
        for chunk in self.chunks(&weights)? {
            let numbers = Numbers {
                n_rows: chunk.n_rows,
                row_len: weights[0].row_len() as u32,
                row_bytes: weights[0].row_bytes() as u32,
                first_row: chunk.first_row,
                place: chunk.place,
                has_bias: bias.is_some(),
                has_residual: residual.is_some(),
                x_div: 1,
                x_is_interleaved: self.is_interleaved(x),
                ..Numbers::default()
            };
            let numbers = numbers.with_parts(&parts);
            let read = |x: Slot, of_answer: Source| {
                [
                    Source::Upload(chunk.upload),
                    Source::Slot(x),
                    bias.unwrap_or(Source::Nothing),
                    residual.map_or(Source::Nothing, Source::Slot),
                    grid,
                    of_answer,
                ]
            };
            let (answer, of_few, outs) = self.of_few(out, numbers);
            let of_few = Numbers {
                norm: match self.layout_of[x] {
                    Layout::BytesBeforeNorm(eps) => Some(eps),
                    _ => None,
                },
                ..of_few
            };
            let norm = match out {
                Out::ForNorm { weight, .. } => weight,
                _ => Source::Nothing,
            };
            for (tokens, range, n_at_once) in
                [(Tokens::One, 1..2, 1), (Tokens::Four, 2..MUL_MM_FROM, 4)]
            {
                let kernel =
                    Kernel::MulMv(dtype, tokens, answer, self.abilities.form_of_few(dtype));
                let n_tiles = self.n_tiles(kernel, &of_few);
                let bindings: Vec<Source> = read(few, norm).into_iter().chain(outs).collect();
                self.push(kernel, &bindings, move |b| {
                    let n_tokens = b.n_rows(rows);
                    if !range.contains(&n_tokens) {
                        return None;
                    }
                    let numbers = Numbers { n_tokens, ..of_few };
                    let grid = tiles(n_tiles, n_tokens.div_ceil(n_at_once));
                    launch(&numbers.words(), grid)
                });
            }
            for kernel in self.of_many(dtype) {
                let bindings: Vec<Source> = read(many, Source::Nothing)
                    .into_iter()
                    .chain(out.of_many())
                    .collect();
                self.push(kernel, &bindings, move |b| {
                    let n_tokens = b.n_rows(rows);
                    if n_tokens < MUL_MM_FROM || !kernel.is_for(numbers.n_rows, n_tokens) {
                        return None;
                    }
                    let numbers = Numbers {
                        n_tokens,
                        ..numbers
                    };
                    let [tile_rows, tile_tokens] = kernel.tile();
                    let grid = [
                        numbers.n_rows.div_ceil(tile_rows),
                        n_tokens.div_ceil(tile_tokens),
                        1,
                    ];
                    launch(&numbers.words(), grid)
                });
            }
        }
        Ok(())
    }

    /// What the kernels for a few tokens make, with what numbers, and where it goes.
    pub(super) fn of_few(
        &self,
        out: Out,
        numbers: Numbers,
    ) -> (Answer, Numbers, [Source; MAX_STACKED]) {
        match out {
            Out::Each(slots) => (Answer::Rows, numbers, slots.map(Source::Slot)),
            Out::ForNorm { rows, normed, .. } => {
                let outs = [rows, normed, normed].map(Source::Slot);
                (Answer::RowsForNorm, numbers, outs)
            }
            Out::Gated {
                both, activation, ..
            } => {
                let (function, function_numbers) = Elementwise::of_activation(activation);
                let numbers = Numbers {
                    out_is_interleaved: self.is_interleaved(both),
                    function: function.gated_index(),
                    function_numbers,
                    ..numbers
                };
                let answer = match self.has_bytes(both) {
                    true => Answer::GatedBytes,
                    false => Answer::Gated,
                };
                (answer, numbers, [both; 3].map(Source::Slot))
            }
        }
    }

    /// The kernels for many tokens, each for [some products](Kernel::is_for).
    fn of_many(&self, dtype: DType) -> Vec<Kernel> {
        match self.abilities.units_for(dtype) {
            MatrixUnits::None => vec![Kernel::MulMm(dtype, Matrices::One)],
            MatrixUnits::F32 => vec![Kernel::MulMmCoop(dtype, Matrices::One)],
            MatrixUnits::F16 => [HalfTile::Small, HalfTile::Large]
                .map(|tile| Kernel::MulMmHalf(dtype, tile))
                .to_vec(),
        }
    }

    /// The kernel for tiles of tokens of one expert.
    pub(super) fn of_expert(&self, dtype: DType) -> Kernel {
        match self.abilities.units_for(dtype) {
            MatrixUnits::None => Kernel::MulMm(dtype, Matrices::OfExperts),
            MatrixUnits::F32 => Kernel::MulMmCoop(dtype, Matrices::OfExperts),
            MatrixUnits::F16 => Kernel::MulMmHalf(dtype, HalfTile::OfExpert),
        }
    }

    /// The rows of a slot as the kernels for a few tokens read them, `copies` for each token or output:
    /// the slot itself, or its rows as bytes in another.
    pub(super) fn rows_of_few(
        &mut self,
        rows: Rows,
        copies: usize,
        x: Slot,
        weight: &Weight,
        is_wanted: impl Fn(u32) -> bool + Send + 'static,
    ) -> Slot {
        let is_read = self.abilities.form_of_few(weight.dtype()) == Form::F32;
        if is_read || self.has_bytes(x) {
            return x;
        }
        let row_len = weight.row_len();
        let conversion = Conversion {
            kernel: Kernel::Quantize,
            row_len,
            // Sixty-four bytes of a group's elements, sixteen of its factors.
            width: row_len / 32 * 20,
            workgroups: row_len.div_ceil(1024),
        };
        self.convert(rows, copies, x, &conversion, is_wanted)
    }

    /// The rows of a slot as the kernels for many tokens read them, `copies` for each token or output:
    /// the slot itself, or its rows in f16 in another.
    pub(super) fn rows_of_many(
        &mut self,
        rows: Rows,
        copies: usize,
        x: Slot,
        weight: &Weight,
        is_wanted: impl Fn(u32) -> bool + Send + 'static,
    ) -> Slot {
        if self.abilities.units_for(weight.dtype()) != MatrixUnits::F16 {
            return x;
        }
        let row_len = weight.row_len();
        let conversion = Conversion {
            kernel: Kernel::Halves,
            row_len,
            // Two halves a word.
            width: row_len.next_multiple_of(64) / 2 + 4,
            workgroups: 1,
        };
        self.convert(rows, copies, x, &conversion, is_wanted)
    }

    /// The rows of a slot in another form, made once for each operation that wants it.
    fn convert(
        &mut self,
        rows: Rows,
        copies: usize,
        x: Slot,
        conversion: &Conversion,
        is_wanted: impl Fn(u32) -> bool + Send + 'static,
    ) -> Slot {
        let Conversion {
            kernel,
            row_len,
            width,
            workgroups,
        } = *conversion;
        if let Some(&slot) = self.converted.get(&(x, kernel)) {
            return slot;
        }
        let slot = self.take(rows, copies, width);
        self.converted.insert((x, kernel), slot);
        let numbers = [row_len as u32, self.is_interleaved(x)];
        let bindings = [x, slot].map(Source::Slot);
        self.push(kernel, &bindings, move |b| {
            let n_rows = b.n_rows(rows) * copies as u32;
            if !is_wanted(n_rows) {
                return None;
            }
            launch(&numbers, [workgroups as u32, n_rows, 1])
        });
        slot
    }

    /// Workgroups that a matrix-vector kernel takes for its rows.
    pub(super) fn n_tiles(&self, kernel: Kernel, numbers: &Numbers) -> u32 {
        let n_rows = match kernel {
            Kernel::MulMv(_, _, answer, _) if answer.is_gated() => numbers.second_at,
            _ => numbers.n_rows,
        };
        n_rows.div_ceil(kernel.rows_per_workgroup(self.abilities.reduction))
    }
}

/// A grid of row tiles and tokens; more tiles than a dimension takes go to the third.
pub(super) fn tiles(n_tiles: u32, n_tokens: u32) -> [u32; 3] {
    [
        n_tiles.min(MAX_TILES),
        n_tokens,
        n_tiles.div_ceil(MAX_TILES),
    ]
}
