//! From a program to steps: buffers get slots of scratch memory that are used again once their
//! readers are done, weights get kernels, and buffers that meet quantized weights are quantized, or rounded for those of
//! BF16, or of many tokens made whole numbers for those of F16, by the step that writes them, where its chunks are whole groups, else by a step of its own.

use std::ops::Range;

use crate::dtype::{DType, Form};
use crate::program::{
    Activation, Attention, Biased, BufId, BufShape, Experts, Function, Op, Program, RopeId, Rows,
    WeightId,
};
use crate::weight::Weight;

use super::kernels::{FastKernels, Kernels};
use super::ops::float_matmul::{FloatKind, PAIRS};
use super::ops::group_matmul::{self, GroupKernel};
use super::ops::quantize::GROUP;
use super::ops::tile_matmul;
use super::ops::{Amount, int16};
use super::simd::LANES;
use super::simd::tiles::COLUMNS;

/// Rows of a weight that are multiplied together, and one group of their output: chunks have whole numbers
/// of them.
pub(super) const TILE: usize = group_matmul::ROWS;

/// The most rows of a weight in one chunk of a product with many tokens.
const MANY_ROWS: usize = 4 * TILE;

/// The most tokens that are few: so few that a product takes as long as its weights take to be read.
pub(super) const FEW: usize = 8;

/// From how many tokens on batches may be fast: turning fewer into what is multiplied takes longer than that saves.
pub(super) const FAST_TOKENS: usize = 32;

/// From how many bytes on streams are read as fast as memory gives them: two pages.
const STREAM: usize = 8 << 10;

/// What only outputs go through, the last product first of all, has two rows of 8 bits for each: the
/// numbers, and what these leave of them. What is lost there goes into the logits as it is, and was a
/// fifth of all that is lost; there are few outputs, and weights are read once for both rows.
pub(super) const FINE: usize = 2;

/// A piece of scratch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotShape {
    pub(super) rows: Rows,
    /// Rows for each of those: one for each expert that a token goes through.
    pub(super) copies: usize,
    pub(super) width: usize,
    /// Rows of 8 bits for each row: none where no quantized weight is met, one, or two ([`FINE`]).
    pub(super) n_quants: usize,
    /// Planes of bf16 ([`tile_matmul`]) for many tokens: none, one, or two where weights of F16 or BF16 are met.
    pub(super) n_planes: usize,
    /// Whether weights of F16 are met, and many tokens are whole numbers for these ([`int16`]).
    pub(super) has_int16: bool,
    /// Words of each row that is rounded to bf16 ([`round`](super::ops::float_matmul::round)): none where no weight wants that.
    pub(super) n_words: usize,
}

impl SlotShape {
    /// Whether what is written is quantized, or rounded.
    fn is_rounded(&self) -> bool {
        self.n_quants > 0 || self.n_planes > 0 || self.has_int16 || self.n_words > 0
    }
}

/// Index of a slot.
pub(super) type Slot = usize;

/// A weight with the kernel of its type, and what is added to each row of its product.
pub(super) struct Matrix {
    pub(super) weight: Weight,
    pub(super) kernel: MatrixKernel,
    pub(super) bias: Option<Vec<f32>>,
    few_rows: usize,  // in one chunk, where tokens are few
    many_rows: usize, // the same, where they are many
    fast_rows: usize, // the same, where batches are fast
}

impl Matrix {
    /// Rows in one chunk of a product.
    pub(super) fn chunk_rows(&self, amount: Amount) -> usize {
        match amount {
            Amount::Few => self.few_rows,
            Amount::Many => self.many_rows,
            Amount::Fast => self.fast_rows,
        }
    }

    /// Whether it meets activations that are rounded to bf16.
    fn wants_rounded(&self) -> bool {
        matches!(self.kernel, MatrixKernel::Float(FloatKind::Bf16Rounded))
    }

    pub(super) fn n_chunks(&self, amount: Amount) -> usize {
        self.weight.n_rows().div_ceil(self.chunk_rows(amount))
    }

    /// The rows of one chunk.
    pub(super) fn rows_of(&self, chunk: usize, amount: Amount) -> Range<usize> {
        let len = self.chunk_rows(amount);
        chunk * len..self.weight.n_rows().min((chunk + 1) * len)
    }
}

pub(super) enum MatrixKernel {
    /// Over quantized activations.
    Group(GroupKernel),
    /// Over f32 activations, or such as are rounded to bf16.
    Float(FloatKind),
}

impl MatrixKernel {
    /// For a matrix that meets activations of this shape.
    fn of(dtype: DType, x: BufShape, kernels: &Kernels) -> MatrixKernel {
        match (kernels.group_kernel)(dtype) {
            Some(kernel) => MatrixKernel::Group(kernel),
            None => MatrixKernel::Float(match dtype {
                DType::F32 => FloatKind::F32,
                DType::F16 => FloatKind::F16,
                DType::BF16 if x.rows == Rows::Tokens && x.width.is_multiple_of(PAIRS) => {
                    FloatKind::Bf16Rounded
                }
                DType::BF16 => FloatKind::Bf16,
                other => FloatKind::Other(other),
            }),
        }
    }
}

/// The name of the kernel that a type gets, for people.
pub(super) fn kernel_name(dtype: DType, kernels: &Kernels) -> &'static str {
    let x = BufShape {
        rows: Rows::Tokens,
        width: PAIRS,
    };
    match (MatrixKernel::of(dtype, x, kernels), dtype.form()) {
        (MatrixKernel::Group(..), Form::Groups { group_len: 16, .. }) => "8-bit, groups of 16",
        (MatrixKernel::Group(..), _) => "8-bit, groups of 32",
        (MatrixKernel::Float(FloatKind::F32), _) => "f32",
        (MatrixKernel::Float(FloatKind::F16), _) => "f32 from f16",
        (MatrixKernel::Float(FloatKind::Bf16), _) => "f32 from bf16",
        (MatrixKernel::Float(FloatKind::Bf16Rounded), _) => match kernels.has_bf16_dots() {
            true => "bf16",
            false => "f32 from bf16, activations rounded",
        },
        (MatrixKernel::Float(FloatKind::Other(_)), _) => "f32 from the table's conversion",
    }
}

/// One part of a matrix product.
pub(super) struct Part {
    pub(super) matrix: Matrix,
    pub(super) residual: Option<Slot>,
    pub(super) out: Slot,
    pub(super) quantize: bool,
}

/// One operation over slots. `quantize` says that the step quantizes what it writes.
pub(super) enum Step {
    Input {
        out: Slot,
        quantize: bool,
    },
    Embed {
        table: Weight,
        out: Slot,
        quantize: bool,
    },
    RmsNorm {
        x: Slot,
        weight: Vec<f32>,
        eps: f32,
        out: Slot,
        quantize: bool,
    },
    LayerNorm {
        x: Slot,
        weight: Vec<f32>,
        bias: Vec<f32>,
        eps: f32,
        out: Slot,
        quantize: bool,
    },
    Map {
        x: Slot,
        function: Function,
        out: Slot,
        quantize: bool,
    },
    Add {
        a: Slot,
        b: Slot,
        out: Slot,
        quantize: bool,
    },
    MatMul {
        x: Slot,
        parts: Vec<Part>,
    },
    Gated {
        x: Slot,
        /// One matrix, or one for each expert.
        gate: Vec<Matrix>,
        up: Vec<Matrix>,
        activation: Activation,
        out: Slot,
        quantize: bool,
        /// The rows are grouped by expert.
        is_grouped: bool,
    },
    /// Chooses the experts of each row.
    Route {
        scores: Slot,
        n_used: usize,
        normalizes: bool,
    },
    /// Orders the rows' choices by expert.
    GroupByExpert {
        scores: Slot,
        n_used: usize,
    },
    /// Copies each row to where its experts find it.
    Spread {
        x: Slot,
        out: Slot,
        quantize: bool,
    },
    /// A product of rows that are grouped by expert.
    ExpertMatMul {
        x: Slot,
        /// One for each expert.
        matrices: Vec<Matrix>,
        out: Slot,
    },
    /// The sum of what a row's experts answered.
    Combine {
        x: Slot,
        n_used: usize,
        out: Slot,
        quantize: bool,
    },
    Gate {
        x: Slot,
        by: Slot,
        out: Slot,
        quantize: bool,
    },
    /// Turns queries and keys, and puts keys and values into the cache.
    Store {
        spec: Attention,
        slots: AttentionSlots,
    },
    Attend {
        spec: Attention,
        slots: AttentionSlots,
        sinks: Option<Vec<f32>>,
        quantize: bool,
    },
    Gather {
        x: Slot,
        out: Slot,
        quantize: bool,
    },
    Quantize {
        slot: Slot,
    },
}

#[derive(Clone, Copy)]
pub(super) struct AttentionSlots {
    pub(super) q: Slot,
    pub(super) k: Slot,
    pub(super) v: Slot,
    pub(super) out: Slot,
    pub(super) rope: Option<RopeId>,
}

/// A lowered program.
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) slots: Vec<SlotShape>,
    pub(super) result: Slot,
    /// The most experts to choose from, and the most that a token goes through.
    pub(super) max_experts: (usize, usize),
    /// The most floats that attention's result for a unit of positions and a token takes.
    pub(super) max_unit_result: usize,
    pub(super) max_kv_heads: usize,
    fast: Option<FastKernels>,
    max_few_rows: usize,
}

impl Plan {
    /// The most numbers that a chunk of a product has, with at most so many rows.
    pub(super) fn max_chunk(&self, max_rows: usize) -> usize {
        let few = max_rows.min(FEW) * self.max_few_rows;
        let many = if self.uses_tiles() {
            tile_matmul::MAX_ROWS
        } else {
            MANY_ROWS
        };
        max_rows.saturating_mul(many).max(few)
    }

    /// Whether many tokens meet weights in tiles of bf16.
    pub(super) fn uses_tiles(&self) -> bool {
        self.fast.and_then(FastKernels::tiles).is_some()
    }

    /// Whether `max_tokens` are so many that rows of a slot lie in tiles too.
    pub(super) fn has_tiles(&self, shape: &SlotShape, max_tokens: usize) -> bool {
        shape.n_planes > 0 && max_tokens >= FAST_TOKENS
    }

    /// Whether they are so many that its rows are whole numbers too.
    pub(super) fn has_int16(&self, shape: &SlotShape, max_tokens: usize) -> bool {
        shape.has_int16 && max_tokens >= FAST_TOKENS
    }
}

pub(super) fn lower(
    program: &Program,
    (kernels, fast): (&Kernels, Option<FastKernels>),
    n_threads: usize,
) -> Plan {
    let mut lowering = Lowering::new(program, (kernels, fast), n_threads);
    for (i, op) in program.ops.iter().enumerate() {
        lowering.op(i, op);
    }
    let result = lowering.slot(program.result);
    let attentions = || {
        program.ops.iter().filter_map(|op| match op {
            Op::Attention(spec) => Some(spec),
            _ => None,
        })
    };
    // Of each head what it mixes, the largest score and the sum.
    let unit_results = attentions().map(|spec| spec.n_heads * (spec.head_dim + 2));
    Plan {
        steps: lowering.steps,
        slots: lowering.slots,
        result,
        max_experts: lowering.max_experts,
        max_unit_result: unit_results.max().unwrap_or(0),
        max_kv_heads: attentions().map(|spec| spec.n_kv_heads).max().unwrap_or(0),
        fast,
        max_few_rows: lowering.max_few_rows,
    }
}

struct Lowering<'a> {
    program: &'a Program,
    kernels: &'a Kernels,
    fast: Option<FastKernels>,
    n_threads: usize,
    steps: Vec<Step>,
    slots: Vec<SlotShape>,
    is_free: Vec<bool>,
    slot_of: Vec<Option<Slot>>, // by buffer, once written
    last_read: Vec<usize>,      // by buffer: index of the operation
    n_quants: Vec<usize>,       // by buffer
    n_planes: Vec<usize>,       // the same
    has_int16: Vec<bool>,       // the same
    n_words: Vec<usize>,        // the same
    max_experts: (usize, usize),
    max_few_rows: usize,
}

impl<'a> Lowering<'a> {
    fn new(
        program: &'a Program,
        (kernels, fast): (&'a Kernels, Option<FastKernels>),
        n_threads: usize,
    ) -> Self {
        let n = program.buffers.len();
        let (mut last_read, mut n_quants) = (vec![0; n], vec![0; n]);
        let (mut n_planes, mut n_words) = (vec![0; n], vec![0; n]);
        let mut has_int16 = vec![false; n];
        for (i, op) in program.ops.iter().enumerate() {
            for id in op.reads() {
                last_read[id.0 as usize] = i;
            }
            for (x, weight) in products(op) {
                let (dtype, shape) = (program.weight(weight).dtype(), program.shape(x));
                match MatrixKernel::of(dtype, shape, kernels) {
                    MatrixKernel::Group(_) => {
                        n_quants[x.0 as usize] = match shape.rows {
                            Rows::Tokens => 1,
                            Rows::Outputs => FINE,
                        };
                    }
                    MatrixKernel::Float(FloatKind::Bf16Rounded) => {
                        n_words[x.0 as usize] = (kernels.rounded_words)(shape.width);
                    }
                    MatrixKernel::Float(_) => {}
                }
                if shape.rows == Rows::Tokens {
                    let n_planes = &mut n_planes[x.0 as usize];
                    *n_planes = (*n_planes).max(planes(fast, dtype, shape.width));
                    has_int16[x.0 as usize] |= uses_int16(fast, dtype, shape.width);
                }
            }
        }
        last_read[program.result.0 as usize] = usize::MAX;
        Lowering {
            program,
            kernels,
            fast,
            n_threads,
            steps: Vec::new(),
            slots: Vec::new(),
            is_free: Vec::new(),
            slot_of: vec![None; n],
            last_read,
            n_quants,
            n_planes,
            has_int16,
            n_words,
            max_experts: (0, 0),
            max_few_rows: TILE,
        }
    }

    fn op(&mut self, index: usize, op: &Op) {
        match op {
            Op::Input { out } => {
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::Input { out, quantize });
            }
            Op::Embed { table, out } => {
                let table = self.program.weight(*table).clone();
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::Embed {
                    table,
                    out,
                    quantize,
                });
            }
            Op::RmsNorm {
                x,
                weight,
                eps,
                out,
            } => {
                let (x, weight) = (self.slot(*x), self.program.weight(*weight).to_f32());
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::RmsNorm {
                    x,
                    weight,
                    eps: *eps,
                    out,
                    quantize,
                });
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => {
                let x = self.slot(*x);
                let [weight, bias] = [weight, bias].map(|id| self.program.weight(*id).to_f32());
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::LayerNorm {
                    x,
                    weight,
                    bias,
                    eps: *eps,
                    out,
                    quantize,
                });
            }
            Op::Map { x, function, out } => {
                let (x, function) = (self.slot(*x), *function);
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::Map {
                    x,
                    function,
                    out,
                    quantize,
                });
            }
            Op::Add { a, b, out } => {
                let [a, b] = [a, b].map(|id| self.slot(*id));
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::Add {
                    a,
                    b,
                    out,
                    quantize,
                });
            }
            Op::MatMul { x, parts } => {
                let x_slot = self.slot(*x);
                let mut late = Vec::new();
                let rows = self.program.shape(*x).rows;
                let parts = parts.iter().map(|part| {
                    let matrix = self.matrix((part.weight, part.bias), rows);
                    let residual = part.residual.map(|id| self.slot(id));
                    let (out, quantize) = self.write(part.out);
                    let whole = matrix.weight.n_rows().is_multiple_of(GROUP);
                    if quantize && !whole {
                        late.push(out);
                    }
                    Part {
                        matrix,
                        residual,
                        out,
                        quantize: quantize && whole,
                    }
                });
                let parts = parts.collect();
                self.steps.push(Step::MatMul { x: x_slot, parts });
                self.steps
                    .extend(late.into_iter().map(|slot| Step::Quantize { slot }));
            }
            Op::GatedMatMul {
                x,
                gate,
                up,
                activation,
                out,
            } => {
                let rows = self.program.shape(*x).rows;
                let x = self.slot(*x);
                let (gate, up) = (self.matrix(*gate, rows), self.matrix(*up, rows));
                let (out, quantize) = self.write(*out);
                let whole = gate.weight.n_rows().is_multiple_of(GROUP);
                let activation = *activation;
                let now = quantize && whole;
                self.steps.push(Step::Gated {
                    x,
                    gate: vec![gate],
                    up: vec![up],
                    activation,
                    out,
                    quantize: now,
                    is_grouped: false,
                });
                if quantize && !whole {
                    self.steps.push(Step::Quantize { slot: out });
                }
            }
            Op::Experts(experts) => self.experts(experts),
            Op::Gate { x, by, out } => {
                let [x, by] = [x, by].map(|id| self.slot(*id));
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::Gate {
                    x,
                    by,
                    out,
                    quantize,
                });
            }
            Op::Attention(spec) => {
                let [q, k, v] = [spec.q, spec.k, spec.v].map(|id| self.slot(id));
                let (out, quantize) = self.write(spec.out);
                let slots = AttentionSlots {
                    q,
                    k,
                    v,
                    out,
                    rope: spec.rope,
                };
                self.steps.push(Step::Store {
                    spec: spec.clone(),
                    slots,
                });
                let whole = (spec.n_heads / spec.n_kv_heads * spec.head_dim).is_multiple_of(GROUP);
                let now = quantize && whole;
                self.steps.push(Step::Attend {
                    spec: spec.clone(),
                    slots,
                    sinks: spec.sinks.map(|id| self.program.weight(id).to_f32()),
                    quantize: now,
                });
                if quantize && !whole {
                    self.steps.push(Step::Quantize { slot: out });
                }
            }
            Op::Gather { x, out } => {
                let x = self.slot(*x);
                let (out, quantize) = self.write(*out);
                self.steps.push(Step::Gather { x, out, quantize });
            }
        }
        // What nobody reads after this operation is free for the next one's results.
        for id in op.reads().into_iter().chain(op.writes()) {
            let id = id.0 as usize;
            if self.last_read[id] <= index {
                self.is_free[self.slot_of[id].expect("written before it is read")] = true;
            }
        }
    }

    fn experts(&mut self, e: &Experts) {
        let [x, scores] = [e.x, e.scores].map(|id| self.slot(id));
        let BufShape { rows, width } = self.program.shape(e.x);
        let n_experts = self.program.shape(e.scores).width;
        let (n_used, normalizes) = (e.n_used, e.normalizes);
        self.max_experts.0 = self.max_experts.0.max(n_experts);
        self.max_experts.1 = self.max_experts.1.max(n_used);
        let of_all = |part: usize| e.experts.iter().map(move |expert| expert[part]);
        let [gate, up, down] = [0, 1, 2].map(|part| {
            of_all(part)
                .map(|id| self.matrix(id, rows))
                .collect::<Vec<_>>()
        });
        let inner = down[0].weight.row_len();
        let is_group = |matrix: &Matrix| matches!(matrix.kernel, MatrixKernel::Group(..));
        let (fast, rounded_words) = (self.fast, self.kernels.rounded_words);
        let grouped = |width, readers: &[&[Matrix]]| {
            let readers = || readers.iter().copied().flatten();
            let is_many = rows == Rows::Tokens;
            let mut dtypes = readers()
                .map(|matrix| matrix.weight.dtype())
                .filter(|_| is_many);
            let n_planes = dtypes.clone().map(|dtype| planes(fast, dtype, width));
            SlotShape {
                rows,
                copies: n_used,
                width,
                n_quants: usize::from(readers().any(is_group)),
                n_planes: n_planes.max().unwrap_or(0),
                has_int16: dtypes.any(|dtype| uses_int16(fast, dtype, width)),
                n_words: match readers().any(Matrix::wants_rounded) {
                    true => rounded_words(width),
                    false => 0,
                },
            }
        };
        let copies_shape = grouped(width, &[&gate, &up]);
        let inners_shape = grouped(inner, &[&down]);
        let copies = self.take(copies_shape);
        let inners = self.take(inners_shape);
        let answers = self.take(grouped(width, &[]));
        let (out, quantize) = self.write(e.out);
        let whole = inner.is_multiple_of(GROUP);
        let quantize_inner = inners_shape.is_rounded();
        self.steps.extend([
            Step::Route {
                scores,
                n_used,
                normalizes,
            },
            Step::GroupByExpert { scores, n_used },
            Step::Spread {
                x,
                out: copies,
                quantize: copies_shape.is_rounded(),
            },
            Step::Gated {
                x: copies,
                gate,
                up,
                activation: e.activation,
                out: inners,
                quantize: quantize_inner && whole,
                is_grouped: true,
            },
        ]);
        if quantize_inner && !whole {
            self.steps.push(Step::Quantize { slot: inners });
        }
        self.steps.push(Step::ExpertMatMul {
            x: inners,
            matrices: down,
            out: answers,
        });
        self.steps.push(Step::Combine {
            x: answers,
            n_used,
            out,
            quantize,
        });
        for slot in [copies, inners, answers] {
            self.is_free[slot] = true;
        }
    }

    fn slot(&self, id: BufId) -> Slot {
        self.slot_of[id.0 as usize].expect("a program writes a buffer before it reads it")
    }

    /// A matrix that meets these rows of activations.
    fn matrix(&mut self, (weight, bias): Biased, rows: Rows) -> Matrix {
        let weight = self.program.weight(weight);
        let width = weight.row_len();
        let kernel = MatrixKernel::of(weight.dtype(), BufShape { rows, width }, self.kernels);
        let few_rows = match kernel {
            MatrixKernel::Group(_) => few_rows(weight, self.n_threads),
            MatrixKernel::Float(_) => TILE,
        };
        let many_rows = even_rows(weight, MANY_ROWS / TILE, self.n_threads);
        let fast_rows = match planes(self.fast, weight.dtype(), width) {
            0 => many_rows,
            _ => even_rows(weight, tile_matmul::MAX_ROWS / TILE, self.n_threads),
        };
        self.max_few_rows = self.max_few_rows.max(few_rows);
        Matrix {
            weight: weight.clone(),
            kernel,
            bias: bias.map(|bias| self.program.weight(bias).to_f32()),
            few_rows,
            many_rows,
            fast_rows,
        }
    }

    /// A slot for a result, and whether it is wanted quantized too.
    fn write(&mut self, id: BufId) -> (Slot, bool) {
        let BufShape { rows, width } = self.program.shape(id);
        let shape = SlotShape {
            rows,
            copies: 1,
            width,
            n_quants: self.n_quants[id.0 as usize],
            n_planes: self.n_planes[id.0 as usize],
            has_int16: self.has_int16[id.0 as usize],
            n_words: self.n_words[id.0 as usize],
        };
        let slot = self.take(shape);
        self.slot_of[id.0 as usize] = Some(slot);
        (slot, shape.is_rounded())
    }

    /// A slot that nobody uses.
    fn take(&mut self, shape: SlotShape) -> Slot {
        let free = (0..self.slots.len()).find(|&s| self.is_free[s] && self.slots[s] == shape);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(shape);
            self.is_free.push(false);
            self.slots.len() - 1
        });
        self.is_free[slot] = false;
        slot
    }
}

/// Rows in one chunk of a product with few tokens: so many that each lane's rows, which lie one behind the
/// other, are a stream of [`STREAM`] bytes; fewer where threads would have less even shares.
fn few_rows(weight: &Weight, n_threads: usize) -> usize {
    let wanted = STREAM.div_ceil((TILE / LANES * weight.row_bytes()).max(1));
    even_rows(weight, wanted, n_threads)
}

/// Rows in one chunk, [`TILE`] and at most `wanted` times as many; fewer where threads would have less
/// even shares.
fn even_rows(weight: &Weight, wanted: usize, n_threads: usize) -> usize {
    let n_tiles = weight.n_rows().div_ceil(TILE);
    let largest_share = |n: usize| n_tiles.div_ceil(n).div_ceil(n_threads) * n;
    let is_even = |n: &usize| 16 * largest_share(*n) <= 17 * largest_share(1);
    (2..=wanted).rev().find(is_even).unwrap_or(1) * TILE
}

// What is quantized together is rounded together, for vectors and for tiles, and is whole groups of whole numbers.
const _: () = assert!(PAIRS == COLUMNS && GROUP.is_multiple_of(PAIRS) && int16::GROUP == GROUP);

/// Planes of bf16 that a weight of this type wants of its activations, where there are tiles.
fn planes(fast: Option<FastKernels>, dtype: DType, width: usize) -> usize {
    if fast.and_then(FastKernels::tiles).is_none() {
        return 0;
    }
    match dtype.form() {
        Form::Groups { .. } => 1,
        Form::Float if has_tiles(dtype) && width.is_multiple_of(COLUMNS) => 2,
        Form::Float => 0,
    }
}

/// Whether a weight of this type wants activations as whole numbers, where these are used.
fn uses_int16(fast: Option<FastKernels>, dtype: DType, width: usize) -> bool {
    let has_int16 = fast.and_then(FastKernels::int16).is_some();
    has_int16 && dtype == DType::F16 && width.is_multiple_of(int16::GROUP)
}

/// Whether weights of this type become tiles of bf16, where there are some.
pub(super) fn has_tiles(dtype: DType) -> bool {
    match dtype.form() {
        Form::Groups { .. } => true,
        Form::Float => matches!(dtype, DType::F16 | DType::BF16),
    }
}

/// Inputs of matrix products with their weights.
fn products(op: &Op) -> Vec<(BufId, WeightId)> {
    match op {
        Op::MatMul { x, parts } => parts.iter().map(|part| (*x, part.weight)).collect(),
        Op::GatedMatMul { x, gate, up, .. } => vec![(*x, gate.0), (*x, up.0)],
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_long_streams_and_shares_even() {
        let weight = |dtype: DType, n_rows: usize, row_len: usize| {
            let bytes = vec![0; n_rows * dtype.row_bytes(row_len).unwrap()];
            Weight::new("w", dtype, (n_rows, row_len), bytes.into()).unwrap()
        };
        // Rows of 1152 bytes, eight of which are a stream of 9216.
        assert_eq!(few_rows(&weight(DType::Q4_0, 2048, 2048), 2), 8 * LANES);
        assert_eq!(few_rows(&weight(DType::Q4_0, 256, 2048), 2), 8 * LANES);
        assert_eq!(few_rows(&weight(DType::Q4_0, 2048, 5632), 2), 4 * LANES);
        assert_eq!(few_rows(&weight(DType::Q8_0, 64, 8192), 2), 2 * LANES);
        assert_eq!(few_rows(&weight(DType::Q4_0, 7, 32), 2), TILE);
        for n_rows in (1..1500).step_by(37) {
            let weight = weight(DType::Q4_0, n_rows, 64);
            for n_threads in [1, 2, 3, 8, 64] {
                let rows = few_rows(&weight, n_threads);
                let share = |rows: usize| n_rows.div_ceil(rows).div_ceil(n_threads) * rows;
                assert!(rows.is_multiple_of(TILE));
                assert!(
                    share(rows) * 16 <= share(TILE) * 17,
                    "{n_rows} rows, {n_threads}"
                );
            }
        }
    }
}
