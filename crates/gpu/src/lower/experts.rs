//! Mixtures of experts.

use minerva_compute::{Biased, DeviceError, Experts, Rows, Weight};

use super::{Each, Lowering, PAD_BYTES, Slot, Source, Upload, groups, launch, stride, tiles};
use crate::kernels::{Elementwise, Kernel};

/// A product with the matrices of each row's experts.
struct ExpertProduct<'a> {
    rows: Rows,
    x: Slot,
    matrices: &'a [Biased],
    chosen: Slot,
    n_used: usize,
    /// Rows of `x` are for each pair of a row and an expert, not for each row.
    is_by_pair: bool,
    out: Slot,
}

impl Lowering<'_> {
    pub(super) fn experts(&mut self, e: &Experts) -> Result<(), DeviceError> {
        let shape = self.program.shape(e.x);
        let (rows, width) = (shape.rows, shape.width);
        let n_experts = e.experts.len() as u32;
        let inner = self.program.weight(e.experts[0][0].0).n_rows();
        let (n_used, copies) = (e.n_used, e.n_used as u32);
        let (x, scores) = (self.slot(e.x), self.slot(e.scores));
        let out = self.write(e.out);
        let [chosen, shares] = [0; 2].map(|_| self.take(rows, n_used, 1));
        let [gate, up, both] = [0; 3].map(|_| self.take(rows, n_used, inner));
        let answers = self.take(rows, n_used, width);

        let score_stride = stride(e.experts.len()) as u32;
        let normalizes = u32::from(e.normalizes);
        let bindings = [scores, chosen, shares].map(Source::Slot);
        self.push(Kernel::Route, &bindings, move |b| {
            let n = b.n_rows(rows);
            let numbers = [n, n_experts, score_stride, copies, normalizes];
            launch(&numbers, [groups(n), 1, 1])
        });
        for (part, x, is_by_pair, out) in [
            (0, x, false, gate),
            (1, x, false, up),
            (2, both, true, answers),
        ] {
            if part == 2 {
                let (function, numbers) = Elementwise::of_activation(e.activation);
                self.elementwise(&Each {
                    function,
                    numbers,
                    rows,
                    copies,
                    width: inner,
                    b_width: inner,
                    slots: [gate, up, both],
                });
            }
            let matrices: Vec<Biased> = e.experts.iter().map(|parts| parts[part]).collect();
            self.expert_product(&ExpertProduct {
                rows,
                x,
                matrices: &matrices,
                chosen,
                n_used,
                is_by_pair,
                out,
            })?;
        }
        let width32 = width as u32;
        let numbers = [width32, stride(width) as u32, copies];
        let bindings = [answers, shares, out].map(Source::Slot);
        self.push(Kernel::Combine, &bindings, move |b| {
            launch(&numbers, [groups(width32), b.n_rows(rows), 1])
        });
        for slot in [chosen, shares, gate, up, both, answers] {
            self.is_free[slot] = true;
        }
        Ok(())
    }

    /// One dispatch for each run of experts of one type that fit into one buffer.
    fn expert_product(&mut self, product: &ExpertProduct<'_>) -> Result<(), DeviceError> {
        let ExpertProduct {
            rows,
            x,
            matrices,
            chosen,
            n_used,
            is_by_pair,
            out,
        } = *product;
        let first = self.program.weight(matrices[0].0);
        let (n_rows, row_len) = (first.n_rows(), first.row_len() as u32);
        let biases: Vec<f32> = matrices
            .iter()
            .flat_map(|(_, bias)| match bias {
                Some(id) => self.program.weight(*id).to_f32(),
                None => vec![0.0; n_rows],
            })
            .collect();
        let bias = matrices.iter().any(|(_, bias)| bias.is_some()).then(|| {
            self.uploads.push(Upload::Floats(biases));
            Source::Upload(self.uploads.len() - 1)
        });
        let mut begin = 0;
        while begin < matrices.len() {
            let mut run: Vec<Weight> = Vec::new();
            let mut n_bytes = PAD_BYTES;
            for (id, _) in &matrices[begin..] {
                let weight = self.program.weight(*id);
                n_bytes += weight.bytes().len() as u64;
                let is_other = run.first().is_some_and(|w| w.dtype() != weight.dtype());
                if is_other || (n_bytes > self.max_binding_bytes && !run.is_empty()) {
                    break;
                }
                run.push(weight.clone());
            }
            if n_bytes > self.max_binding_bytes && run.len() == 1 {
                return Err(self.too_large(&run[0], n_bytes));
            }
            let (dtype, row_bytes) = (run[0].dtype(), run[0].row_bytes() as u32);
            let (first_expert, n_experts) = (begin as u32, run.len() as u32);
            begin += run.len();
            self.uploads.push(Upload::Rows(run));
            let upload = Source::Upload(self.uploads.len() - 1);
            let bindings = [
                upload,
                Source::Slot(x),
                bias.unwrap_or(Source::Nothing),
                Source::Nothing,
                self.grid(dtype),
                Source::Slot(chosen),
                Source::Slot(out),
            ];
            let kernel = Kernel::MulMvExperts(dtype);
            let n_tiles = (n_rows as u32).div_ceil(self.rows_at_once(kernel));
            let (n_rows32, out_stride) = (n_rows as u32, stride(n_rows) as u32);
            let has_bias = u32::from(bias.is_some());
            let x_div = if is_by_pair { 1 } else { n_used as u32 };
            self.push(kernel, &bindings, move |b| {
                let n = b.n_rows(rows) * n_used as u32;
                let numbers = [
                    n_rows32,
                    row_len,
                    row_bytes,
                    0,
                    n,
                    row_len.div_ceil(4),
                    out_stride,
                    has_bias,
                    0,
                    first_expert,
                    n_experts,
                    x_div,
                    n_rows32,
                ];
                launch(&numbers, tiles(n_tiles, n))
            });
        }
        Ok(())
    }
}
