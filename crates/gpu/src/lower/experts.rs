//! Mixtures of experts.
//!
//! Few rows are multiplied each by itself with its experts' matrices. Of many, those of an expert
//! are put side by side first, so that its matrices are read and unpacked once for all of them.

use minerva_compute::{Biased, DeviceError, Experts, Rows, Weight};

use super::products::{Numbers, Out, tiles};
use super::scratch::{Layout, reads_groups};
use super::{Each, Lowering, MAX_ROWS, PAD_BYTES, Slot, Source, groups, launch, stride};
use crate::kernels::{Elementwise, Kernel, Tokens};

/// Rows are grouped where there are so many for each expert, or more.
const GROUP_FROM: u32 = 4;

/// What the products of one mixture share.
#[derive(Clone, Copy)]
struct Mixture {
    rows: Rows,
    n_used: u32,
    n_experts: u32,
    /// The experts of each row.
    chosen: Slot,
    /// Pairs of a row and an expert in tiles of one expert, then in the order of experts.
    grouped: Slot,
}

impl Mixture {
    /// Tiles of so many pairs, some of them empty.
    fn n_tiles(self, n_pairs: u32) -> u32 {
        n_pairs / 32 + self.n_experts
    }

    fn order_at(self, n_pairs: u32) -> u32 {
        3 * self.n_tiles(n_pairs)
    }

    fn is_grouped(self, n_pairs: u32) -> bool {
        n_pairs >= GROUP_FROM * self.n_experts
    }
}

/// A product with the matrices of each row's experts.
struct ExpertProduct<'a> {
    x: Slot,
    /// Of each expert: one, or several that may be stacked.
    matrices: &'a [Vec<Biased>],
    /// Rows of `x` are for each pair of a row and an expert, not for each row.
    is_by_pair: bool,
    out: Out,
}

impl Lowering<'_> {
    pub(super) fn experts(&mut self, e: &Experts) -> Result<(), DeviceError> {
        let shape = self.program.shape(e.x);
        let (rows, width) = (shape.rows, shape.width);
        let n_experts = e.experts.len() as u32;
        let inner = self.program.weight(e.experts[0][0].0).n_rows();
        let (n_used, copies) = (e.n_used, e.n_used as u32);
        let max_pairs = self.max_rows(rows).saturating_mul(n_used);
        if max_pairs > MAX_ROWS {
            return Err(DeviceError::Unsupported(format!(
                "{max_pairs} pairs of a token and an expert in one batch, expected at most {MAX_ROWS}"
            )));
        }
        let (x, scores) = (self.slot(e.x), self.slot(e.scores));
        let out = self.write(e.out);
        let [chosen, shares] = [0; 2].map(|_| self.take(rows, n_used, 1));
        let [gate, up, both] = [0; 3].map(|_| self.take(rows, n_used, inner));
        let mut downs = e.experts.iter().map(|m| self.program.weight(m[2].0));
        if !self.abilities.has_integer_dots && downs.all(|w| reads_groups(w.dtype())) {
            self.layout_of[both] = Layout::Interleaved;
        }
        let answers = self.take(rows, n_used, width);
        let grouped = self.take_len(max_pairs + 3 * (max_pairs / 32 + e.experts.len()));
        let mixture = Mixture {
            rows,
            n_used: copies,
            n_experts,
            chosen,
            grouped,
        };

        let score_stride = stride(e.experts.len()) as u32;
        let normalizes = u32::from(e.normalizes);
        let bindings = [scores, chosen, shares].map(Source::Slot);
        self.push(Kernel::Route, &bindings, move |b| {
            let n = b.n_rows(rows);
            let numbers = [n, n_experts, score_stride, copies, normalizes];
            launch(&numbers, [groups(n), 1, 1])
        });
        let bindings = [chosen, grouped].map(Source::Slot);
        self.push(Kernel::Group, &bindings, move |b| {
            let n_pairs = b.n_rows(rows) * copies;
            if !mixture.is_grouped(n_pairs) {
                return None;
            }
            launch(&[n_pairs, mixture.order_at(n_pairs)], [n_experts, 1, 1])
        });

        let pairs: Vec<Vec<Biased>> = e.experts.iter().map(|m| m[..2].to_vec()).collect();
        let is_fused = pairs.iter().all(|pair| self.can_stack(pair));
        if is_fused {
            let out = Out::Gated {
                halves: [gate, up],
                both,
                activation: e.activation,
            };
            let product = ExpertProduct {
                x,
                matrices: &pairs,
                is_by_pair: false,
                out,
            };
            self.expert_product(mixture, &product)?;
        } else {
            for (part, half) in [gate, up].into_iter().enumerate() {
                let matrices: Vec<_> = e.experts.iter().map(|m| vec![m[part]]).collect();
                let product = ExpertProduct {
                    x,
                    matrices: &matrices,
                    is_by_pair: false,
                    out: Out::each(&[half]),
                };
                self.expert_product(mixture, &product)?;
            }
        }
        let (function, numbers) = Elementwise::of_activation(e.activation);
        let each = Each {
            function,
            numbers,
            rows,
            copies,
            width: inner,
            b_width: inner,
            slots: [gate, up, both],
        };
        self.elementwise_where(&each, move |b| {
            !is_fused || mixture.is_grouped(b.n_rows(rows) * copies)
        });
        let down: Vec<_> = e.experts.iter().map(|m| vec![m[2]]).collect();
        let product = ExpertProduct {
            x: both,
            matrices: &down,
            is_by_pair: true,
            out: Out::each(&[answers]),
        };
        self.expert_product(mixture, &product)?;

        let width32 = width as u32;
        let numbers = [width32, stride(width) as u32, copies];
        let bindings = [answers, shares, out].map(Source::Slot);
        self.push(Kernel::Combine, &bindings, move |b| {
            launch(&numbers, [groups(width32), b.n_rows(rows), 1])
        });
        for slot in [chosen, shares, gate, up, both, answers, grouped] {
            self.is_free[slot] = true;
        }
        Ok(())
    }

    /// One dispatch for each run of experts of one type that fit into one buffer.
    fn expert_product(
        &mut self,
        mixture: Mixture,
        product: &ExpertProduct<'_>,
    ) -> Result<(), DeviceError> {
        let ExpertProduct {
            x,
            matrices,
            is_by_pair,
            out,
        } = *product;
        let Mixture {
            rows,
            n_used,
            chosen,
            grouped,
            ..
        } = mixture;
        let bias = self.biases(&matrices.concat());
        let of = |m: &Vec<Biased>| -> Vec<Weight> {
            let weights = m.iter().map(|(id, _)| self.program.weight(*id).clone());
            weights.collect()
        };
        let stacks: Vec<Vec<Weight>> = matrices.iter().map(of).collect();
        let parts: Vec<usize> = stacks[0].iter().map(Weight::n_rows).collect();
        let row_len = stacks[0][0].row_len() as u32;
        let copies = if is_by_pair { n_used as usize } else { 1 };
        let is_grouped =
            move |n_rows: u32| mixture.is_grouped(n_rows / copies as u32 * mixture.n_used);
        let mut begin = 0;
        while begin < stacks.len() {
            let dtype = stacks[begin][0].dtype();
            let mut n_bytes = PAD_BYTES;
            let fits = |stack: &&Vec<Weight>| {
                n_bytes += stack.iter().map(|w| w.bytes().len() as u64).sum::<u64>();
                stack[0].dtype() == dtype && n_bytes <= self.max_binding_bytes
            };
            let run: Vec<Weight> = stacks[begin..]
                .iter()
                .take_while(fits)
                .flatten()
                .cloned()
                .collect();
            if run.is_empty() {
                return Err(self.too_large(&stacks[begin][0], n_bytes));
            }
            let n_experts = run.len() / parts.len();
            let (upload, place) = self.place(&run, parts.len());
            let numbers = Numbers {
                n_rows: parts.iter().sum::<usize>() as u32,
                row_len,
                row_bytes: run[0].row_bytes() as u32,
                place,
                has_bias: bias.is_some(),
                first_expert: begin as u32,
                n_experts: n_experts as u32,
                x_div: if is_by_pair { 1 } else { n_used },
                x_is_interleaved: self.is_interleaved(x),
                ..Numbers::default()
            };
            let numbers = numbers.with_parts(&parts);
            begin += n_experts;
            let grid = self.grid(dtype);
            let kernel_of_many = self.of_expert(dtype);
            let x_of_many = self.rows_of_many(rows, copies, x, &run[0], is_grouped);
            let x_of_few = self.rows_of_few(rows, copies, x, &run[0], move |n| !is_grouped(n));
            let read = |experts: Slot, x: Slot| {
                [
                    Source::Upload(upload),
                    Source::Slot(x),
                    bias.unwrap_or(Source::Nothing),
                    Source::Nothing,
                    grid,
                    Source::Slot(experts),
                ]
            };

            let (answer, of_few, outs) = self.of_few(out, numbers);
            let form = self.abilities.form_of_few(dtype);
            let kernel = Kernel::MulMv(dtype, Tokens::OneOfExpert, answer, form);
            let n_tiles = self.n_tiles(kernel, &of_few);
            let bindings: Vec<Source> = read(chosen, x_of_few).into_iter().chain(outs).collect();
            self.push(kernel, &bindings, move |b| {
                let n_tokens = b.n_rows(rows) * n_used;
                if mixture.is_grouped(n_tokens) {
                    return None;
                }
                let numbers = Numbers { n_tokens, ..of_few };
                launch(&numbers.words(), tiles(n_tiles, n_tokens))
            });

            let kernel = kernel_of_many;
            let bindings: Vec<Source> = read(grouped, x_of_many)
                .into_iter()
                .chain(out.of_many())
                .collect();
            self.push(kernel, &bindings, move |b| {
                let n_tokens = b.n_rows(rows) * n_used;
                if !mixture.is_grouped(n_tokens) {
                    return None;
                }
                let numbers = Numbers {
                    n_tokens,
                    order_at: mixture.order_at(n_tokens),
                    ..numbers
                };
                let tile_rows = kernel.tile()[0];
                let grid = [
                    numbers.n_rows.div_ceil(tile_rows),
                    mixture.n_tiles(n_tokens),
                    1,
                ];
                launch(&numbers.words(), grid)
            });
        }
        Ok(())
    }
}
