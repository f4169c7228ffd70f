//! From a program to dispatches over buffers of the device.
//!
//! Everything that does not depend on the batch is decided here: kernels, buffers, shapes. What
//! does, a dispatch computes from the batch's layout when it is recorded.

mod attention;
mod experts;
mod products;
mod scratch;
mod weights;

use std::collections::HashMap;

use minerva_compute::{BufId, DType, DeviceError, Limits, Op, Program, Rows, WeightId};

pub(crate) use scratch::Slot;
pub(crate) use weights::Upload;

use crate::batch::Layout;
use crate::kernels::{Abilities, Elementwise, IMMEDIATE_BYTES, Kernel, MAX_TILES, WORKGROUP};
use products::Product;
use weights::Chunk;

/// Behind every buffer, for reads of whole words and groups that end beyond their row.
pub(crate) const PAD_BYTES: u64 = 512;

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
}

/// A grid of row tiles and tokens; more tiles than a dimension takes go to the third.
fn tiles(n_tiles: u32, n_tokens: u32) -> [u32; 3] {
    [
        n_tiles.min(MAX_TILES),
        n_tokens,
        n_tiles.div_ceil(MAX_TILES),
    ]
}
