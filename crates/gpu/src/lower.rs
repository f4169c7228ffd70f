//! From a program to dispatches over buffers of the device.
//!
//! Scratch memory is slots, which are used again once their readers are done. Everything that does
//! not depend on the batch is decided here: kernels, buffers, shapes. What does, a dispatch
//! computes from the batch's layout when it is recorded.

use std::collections::HashMap;

use minerva_compute::{
    Attention, Biased, BufId, DType, DeviceError, Experts, KV_BLOCK_LEN, KvTypes, Limits, Op,
    Pairing, Program, Rows, Weight, WeightId,
};

use crate::batch::Layout;
use crate::kernels::{
    Abilities, Elementwise, IMMEDIATE_BYTES, Kernel, MAX_HEAD_DIM, MAX_TILES, Tokens, WORKGROUP,
};

/// From so many tokens on, a product is matrix-matrix.
const MUL_MM_FROM: u32 = 9;
/// Positions of the shortest span that attention is split into.
const MIN_SPAN: u32 = 256;
/// Attention is split no further where so many workgroups run.
const ENOUGH_WORKGROUPS: u32 = 256;
/// Rows of parts of attention that there is room for.
const MAX_PARTS: u32 = 4096;
/// Behind every buffer, for reads of whole words and groups that end beyond their row.
pub(crate) const PAD_BYTES: u64 = 512;

/// Index of a piece of scratch memory.
pub(crate) type Slot = usize;

/// What a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Slot(Slot),
    Upload(usize),
    Grid(DType),
    Batch,
    Keys(usize),
    Values(usize),
    /// Where a kernel has a binding that it does not use.
    Nothing,
}

/// The numbers of one dispatch.
pub(crate) struct Launch {
    pub(crate) immediates: [u32; IMMEDIATE_BYTES as usize / 4],
    pub(crate) grid: [u32; 3],
}

/// From a batch to a dispatch's numbers, or `None` where it has nothing to do.
type LaunchOf = Box<dyn Fn(&Layout) -> Option<Launch> + Send>;

/// One dispatch.
pub(crate) struct Step {
    pub(crate) kernel: Kernel,
    pub(crate) bindings: Vec<Source>,
    pub(crate) launch: LaunchOf,
}

/// Bytes that go to the device once.
pub(crate) enum Upload {
    /// Rows of weights, one behind the other.
    Rows(Vec<Weight>),
    /// Numbers.
    Floats(Vec<f32>),
}

impl Upload {
    pub(crate) fn n_bytes(&self) -> u64 {
        match self {
            Upload::Rows(weights) => weights.iter().map(|w| w.bytes().len() as u64).sum(),
            Upload::Floats(values) => 4 * values.len() as u64,
        }
    }
}

/// A lowered program.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Bytes of each slot.
    pub(crate) slots: Vec<u64>,
    pub(crate) uploads: Vec<Upload>,
    pub(crate) grids: Vec<DType>,
    /// Where the batch's input goes, if the program begins with one.
    pub(crate) input: Option<Slot>,
    pub(crate) result: Slot,
    /// Numbers of heads that share keys: attention's tiles are cut for each.
    pub(crate) shared_heads: Vec<usize>,
}

/// Elements from one row of a buffer to the next: whole vectors of four.
pub(crate) fn stride(width: usize) -> usize {
    width.next_multiple_of(4)
}

fn launch(numbers: &[u32], grid: [u32; 3]) -> Option<Launch> {
    let mut immediates = [0; IMMEDIATE_BYTES as usize / 4];
    immediates[..numbers.len()].copy_from_slice(numbers);
    grid.iter()
        .all(|n| *n > 0)
        .then_some(Launch { immediates, grid })
}

/// Workgroups for so many elements, a lane each.
fn groups(n: u32) -> u32 {
    n.div_ceil(WORKGROUP)
}

pub(crate) fn lower(
    program: &Program,
    limits: &Limits,
    abilities: Abilities,
    max_binding_bytes: u64,
) -> Result<Plan, DeviceError> {
    let mut last_read = vec![0; program.buffers().len()];
    for (i, op) in program.ops().iter().enumerate() {
        for id in op.reads() {
            last_read[id.index()] = i;
        }
    }
    last_read[program.result().index()] = usize::MAX;
    let mut lowering = Lowering {
        program,
        limits,
        abilities,
        max_binding_bytes,
        steps: Vec::new(),
        slots: Vec::new(),
        is_free: Vec::new(),
        slot_of: vec![None; program.buffers().len()],
        uploads: Vec::new(),
        chunks_of: HashMap::new(),
        floats_of: HashMap::new(),
        grids: Vec::new(),
        shared_heads: Vec::new(),
        input: None,
    };
    for (i, op) in program.ops().iter().enumerate() {
        lowering.op(op)?;
        for (id, last) in last_read.iter().enumerate() {
            if let Some(slot) = lowering.slot_of[id].filter(|_| *last <= i) {
                lowering.slot_of[id] = None;
                lowering.is_free[slot] = true;
            }
        }
    }
    let result = lowering.slot(program.result());
    for bytes in &lowering.slots {
        if *bytes > max_binding_bytes {
            return Err(DeviceError::NoRoom {
                what: "activations in one buffer".into(),
                wanted_bytes: *bytes,
                available_bytes: max_binding_bytes,
            });
        }
    }
    Ok(Plan {
        steps: lowering.steps,
        slots: lowering.slots,
        uploads: lowering.uploads,
        grids: lowering.grids,
        input: lowering.input,
        result,
        shared_heads: lowering.shared_heads,
    })
}

struct Lowering<'a> {
    program: &'a Program,
    limits: &'a Limits,
    abilities: Abilities,
    max_binding_bytes: u64,
    steps: Vec<Step>,
    slots: Vec<u64>,
    is_free: Vec<bool>,
    slot_of: Vec<Option<Slot>>, // by buffer, while it is needed
    uploads: Vec<Upload>,
    /// By the weight's address, size and type: the same tensor goes to the device once.
    chunks_of: HashMap<(usize, usize, DType), Vec<Chunk>>,
    floats_of: HashMap<WeightId, usize>,
    grids: Vec<DType>,
    shared_heads: Vec<usize>,
    input: Option<Slot>,
}

/// Rows of a weight in one upload.
#[derive(Clone, Copy)]
struct Chunk {
    upload: usize,
    first_row: u32,
    n_rows: u32,
}

/// A matrix product before its kernels.
struct Product {
    rows: Rows,
    x: Slot,
    matrix: Biased,
    residual: Option<Slot>,
    out: Slot,
}

/// A function of each element of `slots[0]` and `slots[1]`, into `slots[2]`.
struct Each {
    function: Elementwise,
    numbers: [f32; 2],
    rows: Rows,
    /// Rows for each of those.
    copies: u32,
    width: usize,
    b_width: usize,
    slots: [Slot; 3],
}

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
    fn op(&mut self, op: &Op) -> Result<(), DeviceError> {
        match op {
            // Written before the first dispatch.
            Op::Input { out } => self.input = Some(self.write(*out)),
            Op::Embed { table, out } => self.embed(*table, *out)?,
            Op::RmsNorm {
                x,
                weight,
                eps,
                out,
            } => {
                let (len, width) = (
                    self.program.weight(*weight).row_len(),
                    self.program.shape(*x).width,
                );
                let rows = self.program.shape(*x).rows;
                let (weight, x, out) = (self.floats(*weight), self.slot(*x), self.write(*out));
                let n_pieces = (width / len) as u32;
                let numbers = [len as u32, stride(width) as u32, eps.to_bits()];
                let bindings = [Source::Slot(x), weight, Source::Slot(out)];
                self.push(Kernel::RmsNorm, &bindings, move |b| {
                    launch(&numbers, [n_pieces, b.n_rows(rows), 1])
                });
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => {
                let shape = self.program.shape(*x);
                let (weight, bias) = (self.floats(*weight), self.floats(*bias));
                let (x, out) = (self.slot(*x), self.write(*out));
                let numbers = [
                    shape.width as u32,
                    stride(shape.width) as u32,
                    eps.to_bits(),
                ];
                let bindings = [Source::Slot(x), weight, bias, Source::Slot(out)];
                self.push(Kernel::LayerNorm, &bindings, move |b| {
                    launch(&numbers, [1, b.n_rows(shape.rows), 1])
                });
            }
            Op::Map { x, function, out } => {
                let shape = self.program.shape(*x);
                let (x, out) = (self.slot(*x), self.write(*out));
                let (function, numbers) = Elementwise::of_function(*function);
                self.elementwise(&Each {
                    function,
                    numbers,
                    rows: shape.rows,
                    copies: 1,
                    width: shape.width,
                    b_width: shape.width,
                    slots: [x, x, out],
                });
            }
            Op::Add { a, b, out } => {
                let shape = self.program.shape(*a);
                let (a, b, out) = (self.slot(*a), self.slot(*b), self.write(*out));
                self.elementwise(&Each {
                    function: Elementwise::Add,
                    numbers: [0.0; 2],
                    rows: shape.rows,
                    copies: 1,
                    width: shape.width,
                    b_width: shape.width,
                    slots: [a, b, out],
                });
            }
            Op::Gate { x, by, out } => {
                let shape = self.program.shape(*x);
                let (x, by, out) = (self.slot(*x), self.slot(*by), self.write(*out));
                self.elementwise(&Each {
                    function: Elementwise::Gate,
                    numbers: [0.0; 2],
                    rows: shape.rows,
                    copies: 1,
                    width: shape.width,
                    b_width: 1,
                    slots: [x, by, out],
                });
            }
            Op::MatMul { x, parts } => {
                let (rows, x) = (self.program.shape(*x).rows, self.slot(*x));
                for part in parts {
                    let residual = part.residual.map(|id| self.slot(id));
                    let out = self.write(part.out);
                    self.product(&Product {
                        rows,
                        x,
                        matrix: (part.weight, part.bias),
                        residual,
                        out,
                    })?;
                }
            }
            Op::GatedMatMul {
                x,
                gate,
                up,
                activation,
                out,
            } => {
                let (rows, x) = (self.program.shape(*x).rows, self.slot(*x));
                let width = self.program.weight(gate.0).n_rows();
                let out = self.write(*out);
                let halves = [self.take(rows, 1, width), self.take(rows, 1, width)];
                for (matrix, out) in [*gate, *up].into_iter().zip(halves) {
                    self.product(&Product {
                        rows,
                        x,
                        matrix,
                        residual: None,
                        out,
                    })?;
                }
                let (function, numbers) = Elementwise::of_activation(*activation);
                self.elementwise(&Each {
                    function,
                    numbers,
                    rows,
                    copies: 1,
                    width,
                    b_width: width,
                    slots: [halves[0], halves[1], out],
                });
                for slot in halves {
                    self.is_free[slot] = true;
                }
            }
            Op::Experts(experts) => self.experts(experts)?,
            Op::Attention(attention) => self.attention(attention)?,
            Op::Gather { x, out } => {
                let width4 = (stride(self.program.shape(*x).width) / 4) as u32;
                let (x, out) = (self.slot(*x), self.write(*out));
                let bindings = [Source::Slot(x), Source::Batch, Source::Slot(out)];
                self.push(Kernel::Gather, &bindings, move |b| {
                    launch(&[width4, b.outputs_at], [groups(width4), b.n_outputs, 1])
                });
            }
        }
        Ok(())
    }

    fn embed(&mut self, table: WeightId, out: BufId) -> Result<(), DeviceError> {
        let weight = self.program.weight(table).clone();
        let out = self.write(out);
        let (row_len, row_bytes) = (weight.row_len() as u32, weight.row_bytes() as u32);
        let grid = self.grid(weight.dtype());
        for chunk in self.chunks(&weight)? {
            let bindings = [
                Source::Upload(chunk.upload),
                grid,
                Source::Batch,
                Source::Slot(out),
            ];
            self.push(Kernel::Embed(weight.dtype()), &bindings, move |b| {
                let numbers = [
                    row_len,
                    row_bytes,
                    chunk.first_row,
                    chunk.n_rows,
                    b.tokens_at,
                    row_len.div_ceil(4),
                ];
                launch(&numbers, [groups(row_len.div_ceil(32)), b.n_tokens, 1])
            });
        }
        Ok(())
    }

    fn product(&mut self, product: &Product) -> Result<(), DeviceError> {
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
            let common = [
                Source::Upload(chunk.upload),
                Source::Slot(x),
                bias.unwrap_or(Source::Nothing),
                residual.map_or(Source::Nothing, Source::Slot),
                grid,
            ];
            let mut bindings = common.to_vec();
            bindings.extend([Source::Nothing, Source::Slot(out)]);
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
            let mut bindings = common.to_vec();
            bindings.push(Source::Slot(out));
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
    fn rows_at_once(&self, kernel: Kernel) -> u32 {
        WORKGROUP / self.abilities.reduction.group() * kernel.rows_per_group()
    }

    fn elementwise(&mut self, e: &Each) {
        let width32 = e.width as u32;
        let numbers = [
            width32,
            stride(e.width) as u32,
            stride(e.b_width) as u32,
            e.numbers[0].to_bits(),
            e.numbers[1].to_bits(),
        ];
        let (rows, copies) = (e.rows, e.copies);
        let bindings = e.slots.map(Source::Slot);
        self.push(Kernel::Elementwise(e.function), &bindings, move |b| {
            launch(&numbers, [groups(width32), copies * b.n_rows(rows), 1])
        });
    }

    fn experts(&mut self, e: &Experts) -> Result<(), DeviceError> {
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

    fn attention(&mut self, a: &Attention) -> Result<(), DeviceError> {
        let dim = a.head_dim;
        if dim > MAX_HEAD_DIM {
            return Err(DeviceError::Unsupported(format!(
                "heads of {dim} elements, expected at most {MAX_HEAD_DIM}"
            )));
        }
        let KvTypes {
            k: k_type,
            v: v_type,
        } = self.limits.kv_types;
        let head_words = |kv_type: minerva_compute::KvType| {
            let head_bytes = kv_type.head_bytes(dim).expect("checked for every layer");
            (KV_BLOCK_LEN * head_bytes / 4) as u32
        };
        let (k_words, v_words) = (head_words(k_type), head_words(v_type));
        let [q, k, v] = [a.q, a.k, a.v].map(|id| self.slot(id));
        let out = self.write(a.out);
        let kv_stride = stride(a.n_kv_heads * dim) as u32;
        let q_stride = stride(a.n_heads * dim) as u32;
        let (dim32, n_heads, n_kv_heads) = (dim as u32, a.n_heads as u32, a.n_kv_heads as u32);
        let rope = a.rope.map(|id| {
            let rope = &self.program.ropes()[id.index()];
            let halves = u32::from(rope.pairing == Pairing::Halves);
            (id.index(), rope.inv_freq.len() as u32, halves)
        });
        let turns = move |b: &Layout| match rope {
            Some((idx, n_pairs, halves)) => [n_pairs, halves, b.turns_at[idx]],
            None => [0; 3],
        };
        for (x, cache, kv_type, words, is_key) in [
            (k, Source::Keys(a.layer), k_type, k_words, true),
            (v, Source::Values(a.layer), v_type, v_words, false),
        ] {
            let bindings = [Source::Slot(x), Source::Batch, cache];
            self.push(Kernel::Store(kv_type), &bindings, move |b| {
                let [n_turned, halves, turns_at] = if is_key { turns(b) } else { [0; 3] };
                let numbers = [
                    dim32, n_kv_heads, kv_stride, n_turned, halves, turns_at, b.pairs_at, words,
                ];
                launch(&numbers, [b.n_pairs, n_kv_heads, 1])
            });
        }

        let gqa = a.n_heads / a.n_kv_heads;
        let tiling = self.shared_heads.iter().position(|n| *n == gqa);
        let tiling = tiling.unwrap_or_else(|| {
            self.shared_heads.push(gqa);
            self.shared_heads.len() - 1
        });
        let sinks = a.sinks.map(|id| self.floats(id));
        let has_sinks = u32::from(sinks.is_some());
        let sinks = sinks.unwrap_or(Source::Nothing);
        let window = a.window.map_or(0, |n| n.min(u32::MAX as usize) as u32);
        let (scale, soft_cap) = (a.scale, a.soft_cap.unwrap_or(0.0));
        let n_tokens = self.limits.max_tokens as u32;
        let max_parts = MAX_PARTS.max(n_heads).min(n_tokens.max(1) * n_heads * 64);
        let parts = self.take_len(max_parts as usize * (stride(dim) + 4));
        let splits = move |b: &Layout| {
            let workgroups = b.tiles[tiling].n * n_kv_heads;
            let n = (b.longest.div_ceil(MIN_SPAN))
                .min(ENOUGH_WORKGROUPS.div_ceil(workgroups.max(1)))
                .min(max_parts / (b.n_tokens * n_heads).max(1))
                .max(1);
            let span = b.longest.div_ceil(n).next_multiple_of(64);
            (b.longest.div_ceil(span), span)
        };
        for is_split in [false, true] {
            let target = if is_split { parts } else { out };
            let bindings = [
                Source::Slot(q),
                Source::Keys(a.layer),
                Source::Values(a.layer),
                Source::Batch,
                sinks,
                Source::Slot(target),
            ];
            let kernel = Kernel::Attend(self.limits.kv_types);
            self.push(kernel, &bindings, move |b| {
                let (n_splits, span) = splits(b);
                if (n_splits > 1) != is_split {
                    return None;
                }
                let [n_turned, halves, turns_at] = turns(b);
                let numbers = [
                    dim32,
                    n_heads,
                    n_kv_heads,
                    q_stride,
                    q_stride,
                    n_turned,
                    halves,
                    turns_at,
                    b.tiles[tiling].at,
                    b.sequences_at,
                    n_splits,
                    span,
                    k_words,
                    v_words,
                    window,
                    has_sinks,
                    scale.to_bits(),
                    soft_cap.to_bits(),
                ];
                launch(&numbers, [b.tiles[tiling].n, n_kv_heads, n_splits])
            });
        }
        let bindings = [Source::Slot(parts), sinks, Source::Slot(out)];
        self.push(Kernel::Join, &bindings, move |b| {
            let (n_splits, _) = splits(b);
            if n_splits == 1 {
                return None;
            }
            let numbers = [dim32, n_heads, q_stride, n_splits, has_sinks];
            launch(&numbers, [n_heads, b.n_tokens, 1])
        });
        self.is_free[parts] = true;
        Ok(())
    }

    fn push(
        &mut self,
        kernel: Kernel,
        bindings: &[Source],
        launch: impl Fn(&Layout) -> Option<Launch> + Send + 'static,
    ) {
        self.steps.push(Step {
            kernel,
            bindings: bindings.to_vec(),
            launch: Box::new(launch),
        });
    }

    /// The uploads of a weight: one, unless it is larger than a binding.
    fn chunks(&mut self, weight: &Weight) -> Result<Vec<Chunk>, DeviceError> {
        let bytes = weight.bytes();
        let key = (bytes.as_ptr() as usize, bytes.len(), weight.dtype());
        if let Some(chunks) = self.chunks_of.get(&key) {
            return Ok(chunks.clone());
        }
        let room = self.max_binding_bytes.saturating_sub(PAD_BYTES);
        let rows_at_once = room / weight.row_bytes().max(1) as u64;
        if rows_at_once == 0 {
            return Err(self.too_large(weight, weight.row_bytes() as u64));
        }
        let rows_at_once = usize::try_from(rows_at_once).unwrap_or(usize::MAX);
        let mut chunks = Vec::new();
        let mut first_row = 0;
        while first_row < weight.n_rows() {
            let n_rows = rows_at_once.min(weight.n_rows() - first_row);
            let rows = weight.rows(first_row..first_row + n_rows);
            self.uploads.push(Upload::Rows(vec![rows]));
            chunks.push(Chunk {
                upload: self.uploads.len() - 1,
                first_row: first_row as u32,
                n_rows: n_rows as u32,
            });
            first_row += n_rows;
        }
        self.chunks_of.insert(key, chunks.clone());
        Ok(chunks)
    }

    fn too_large(&self, weight: &Weight, wanted_bytes: u64) -> DeviceError {
        DeviceError::NoRoom {
            what: format!("{} in one buffer", weight.name()),
            wanted_bytes,
            available_bytes: self.max_binding_bytes,
        }
    }

    /// A vector as f32, uploaded once.
    fn floats(&mut self, id: WeightId) -> Source {
        let (uploads, weight) = (&mut self.uploads, self.program.weight(id));
        Source::Upload(*self.floats_of.entry(id).or_insert_with(|| {
            uploads.push(Upload::Floats(weight.to_f32()));
            uploads.len() - 1
        }))
    }

    fn grid(&mut self, dtype: DType) -> Source {
        if !self.grids.contains(&dtype) {
            self.grids.push(dtype);
        }
        Source::Grid(dtype)
    }

    /// The slot of a buffer that was written.
    fn slot(&self, id: BufId) -> Slot {
        self.slot_of[id.index()].expect("buffers are written before they are read")
    }

    /// A slot for a buffer.
    fn write(&mut self, id: BufId) -> Slot {
        let shape = self.program.shape(id);
        let slot = self.take(shape.rows, 1, shape.width);
        self.slot_of[id.index()] = Some(slot);
        slot
    }

    /// A slot for so many rows of this width for each token or output.
    fn take(&mut self, rows: Rows, copies: usize, width: usize) -> Slot {
        let n_rows = match rows {
            Rows::Tokens => self.limits.max_tokens,
            Rows::Outputs => self.limits.max_outputs,
        };
        let len = n_rows.saturating_mul(copies).saturating_mul(stride(width));
        self.take_len(len)
    }

    /// The free slot whose size is the nearest, which grows where it must.
    fn take_len(&mut self, len: usize) -> Slot {
        let n_bytes = (len as u64).saturating_mul(4).saturating_add(PAD_BYTES);
        let free = (0..self.slots.len()).filter(|&slot| self.is_free[slot]);
        let nearest = free.min_by_key(|&slot| self.slots[slot].abs_diff(n_bytes));
        let slot = nearest.unwrap_or_else(|| {
            self.slots.push(0);
            self.is_free.push(true);
            self.slots.len() - 1
        });
        self.slots[slot] = self.slots[slot].max(n_bytes);
        self.is_free[slot] = false;
        slot
    }
}

/// A grid of row tiles and tokens; more tiles than a dimension takes go to the third.
fn tiles(n_tiles: u32, n_tokens: u32) -> [u32; 3] {
    [
        n_tiles.min(MAX_TILES),
        n_tokens,
        n_tiles.div_ceil(MAX_TILES),
    ]
}
