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

use scratch::Layout as RowLayout;
pub(crate) use scratch::Slot;
pub(crate) use weights::Upload;

use crate::batch::Layout;
use crate::kernels::{Abilities, Elementwise, IMMEDIATE_BYTES, Kernel, WORKGROUP};
use products::GatedProduct;
use weights::{Chunk, Origin};

/// Behind every buffer, for reads of whole words and groups that end beyond their row.
pub(crate) const PAD_BYTES: u64 = 512;

/// Rows of a buffer that dispatches have room for.
const MAX_ROWS: usize = 65535;

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
    /// The operation of the program that it is a part of.
    pub(crate) op: usize,
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
    if limits.max_tokens > MAX_ROWS {
        return Err(DeviceError::Unsupported(format!(
            "batches of {} tokens, expected at most {MAX_ROWS}",
            limits.max_tokens
        )));
    }
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
        op: 0,
        steps: Vec::new(),
        slots: Vec::new(),
        is_free: Vec::new(),
        layout_of: Vec::new(),
        converted: HashMap::new(),
        slot_of: vec![None; program.buffers().len()],
        uploads: Vec::new(),
        chunks_of: HashMap::new(),
        floats_of: HashMap::new(),
        grids: Vec::new(),
        shared_heads: Vec::new(),
        input: None,
    };
    for (i, op) in program.ops().iter().enumerate() {
        lowering.op = i;
        lowering.op(op)?;
        for (_, slot) in std::mem::take(&mut lowering.converted) {
            lowering.is_free[slot] = true;
        }
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
    op: usize,
    steps: Vec<Step>,
    slots: Vec<u64>,
    is_free: Vec<bool>,
    layout_of: Vec<RowLayout>, // of what was written to a slot last
    /// What a kernel made of a slot's rows, until the operation that wanted it is over.
    converted: HashMap<(Slot, Kernel), Slot>,
    slot_of: Vec<Option<Slot>>, // by buffer, while it is needed
    uploads: Vec<Upload>,
    /// The same tensors go to the device once.
    chunks_of: HashMap<Vec<Origin>, Vec<Chunk>>,
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
                let numbers = [
                    len as u32,
                    stride(width) as u32,
                    eps.to_bits(),
                    self.is_interleaved(out),
                ];
                let bindings = [Source::Slot(x), weight, Source::Slot(out)];
                for (form, range) in self.forms(out) {
                    self.push(Kernel::RmsNorm(form), &bindings, move |b| {
                        let n_rows = Some(b.n_rows(rows)).filter(|n| range.contains(n))?;
                        launch(&numbers, [n_pieces, n_rows, 1])
                    });
                }
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
                    self.is_interleaved(out),
                ];
                let bindings = [Source::Slot(x), weight, bias, Source::Slot(out)];
                for (form, range) in self.forms(out) {
                    self.push(Kernel::LayerNorm(form), &bindings, move |b| {
                        let n_rows = Some(b.n_rows(shape.rows)).filter(|n| range.contains(n))?;
                        launch(&numbers, [1, n_rows, 1])
                    });
                }
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
                self.matmul(rows, x, parts)?;
            }
            Op::GatedMatMul {
                x,
                gate,
                up,
                activation,
                out,
            } => {
                let (rows, x) = (self.program.shape(*x).rows, self.slot(*x));
                let out = self.write(*out);
                self.gated_matmul(&GatedProduct {
                    rows,
                    x,
                    gate: *gate,
                    up: *up,
                    activation: *activation,
                    out,
                })?;
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
        for chunk in self.chunks(std::slice::from_ref(&weight))? {
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
                    chunk.place.at,
                ];
                launch(&numbers, [groups(row_len.div_ceil(32)), b.n_tokens, 1])
            });
        }
        Ok(())
    }

    fn elementwise(&mut self, e: &Each) {
        self.elementwise_where(e, |_| true);
    }

    /// The same, for batches where it is wanted.
    fn elementwise_where(
        &mut self,
        e: &Each,
        is_wanted: impl Fn(&Layout) -> bool + Send + 'static,
    ) {
        let width32 = e.width as u32;
        let numbers = [
            width32,
            stride(e.width) as u32,
            stride(e.b_width) as u32,
            e.numbers[0].to_bits(),
            e.numbers[1].to_bits(),
            self.is_interleaved(e.slots[2]),
        ];
        let (rows, copies) = (e.rows, e.copies);
        let bindings = e.slots.map(Source::Slot);
        self.push(Kernel::Elementwise(e.function), &bindings, move |b| {
            if !is_wanted(b) {
                return None;
            }
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
            op: self.op,
            bindings: bindings.to_vec(),
            launch: Box::new(launch),
        });
    }
}

#[cfg(test)]
mod tests {
    use minerva_compute::conformance::{Shape, decoder, experts, in_memory, in_one_file};
    use minerva_compute::{Batch, KvTypes, Pairing, Sequence};

    use super::*;
    use crate::batch::lay_out;
    use crate::kernels::{MatrixUnits, Reduction};

    const NARROW: Shape = Shape {
        dim: 64,
        ffn: 96,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
    };

    const ABILITIES: Abilities = Abilities {
        reduction: Reduction::Shared,
        units: MatrixUnits::None,
        has_integer_dots: false,
        page_bytes: None,
    };

    fn limits(max_tokens: usize) -> Limits {
        Limits {
            max_tokens,
            max_outputs: 1,
            max_between: 0,
            n_kv_blocks: 4,
            kv_types: KvTypes::default(),
        }
    }

    /// The kernels that a batch of so many tokens takes, by name.
    fn kernels(program: &Program, n_tokens: usize, max_binding_bytes: u64) -> Vec<String> {
        kernels_with(ABILITIES, program, n_tokens, max_binding_bytes)
    }

    fn kernels_with(
        abilities: Abilities,
        program: &Program,
        n_tokens: usize,
        max_binding_bytes: u64,
    ) -> Vec<String> {
        let plan = lower(program, &limits(n_tokens), abilities, max_binding_bytes).unwrap();
        let sequence = Sequence {
            n_tokens,
            start: 0,
            blocks: &[0, 1, 2, 3],
        };
        let batch = Batch {
            tokens: &vec![0; n_tokens],
            sequences: &[sequence],
            outputs: &[0],
            input: &[],
        };
        let layout = lay_out(&batch, program.ropes(), &plan.shared_heads, &mut Vec::new());
        let steps = plan.steps.iter();
        let launched = steps.filter(|step| (step.launch)(&layout).is_some());
        launched.map(|step| step.kernel.to_string()).collect()
    }

    #[test]
    fn a_token_takes_one_dispatch_for_queries_keys_and_values_and_one_for_gate_and_up() {
        let program = decoder(DType::Q8_0, &NARROW, Pairing::Halves);
        let names = kernels(&program, 1, 1 << 30);
        let wanted = [
            "embed_F32",
            "rms_norm",
            "mul_mv_Q8_0",
            "store_f16_f16",
            "attend4_f16_f16",
            "mul_mv_Q8_0",
            "rms_norm",
            "mul_mv_gated_Q8_0",
            "mul_mv_Q8_0",
            "gather",
            "rms_norm",
            "mul_mv_Q8_0",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn with_integer_dots_products_write_the_bytes_of_those_behind_them() {
        let program = decoder(DType::Q8_0, &NARROW, Pairing::Halves);
        let abilities = Abilities {
            has_integer_dots: true,
            ..ABILITIES
        };
        let of = |n_tokens| kernels_with(abilities, &program, n_tokens, 1 << 30);
        let wanted = [
            "embed_F32",
            "rms_norm_bytes",
            "mul_mv_bytes_Q8_0",
            "store_f16_f16",
            "attend4_f16_f16",
            "quantize",
            "mul_mv_for_norm_bytes_Q8_0",
            "mul_mv_gated_as_bytes_bytes_Q8_0",
            "mul_mv_bytes_Q8_0",
            "gather",
            "rms_norm_bytes",
            "mul_mv_bytes_Q8_0",
        ];
        // Heads of 16 elements are not written as bytes by attention.
        assert_eq!(of(1), wanted);
        assert!(of(9).iter().any(|name| name == "rms_norm"));
        // What attention's answer is multiplied with takes 139,264 bytes.
        let shape = Shape {
            dim: 512,
            ffn: 512,
            n_heads: 16,
            ..NARROW
        };
        let program = decoder(DType::Q8_0, &shape, Pairing::Halves);
        let names = kernels_with(abilities, &program, 1, 100_000);
        let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
        assert_eq!(count("mul_mv_for_norm_bytes_Q8_0"), 2);
        assert_eq!(count("SiluGlu"), 1);
    }

    #[test]
    fn what_no_buffer_holds_together_is_multiplied_apart() {
        let program = decoder(DType::F32, &NARROW, Pairing::Halves);
        let count = |max_binding_bytes| {
            let names = kernels(&program, 1, max_binding_bytes);
            let is_product = |name: &&String| name.starts_with("mul_mv");
            names.iter().filter(is_product).count()
        };
        assert_eq!(count(1 << 30), 5);
        // Gate and up of 24 KiB each; then queries with keys, of 24 together, and values of 8.
        assert_eq!(count(40 << 10), 6);
        assert_eq!(count(26 << 10), 7);
    }

    #[test]
    fn a_batch_of_more_query_rows_than_a_dispatch_takes_is_refused() {
        let shape = Shape {
            n_heads: 16,
            n_kv_heads: 1,
            ..NARROW
        };
        let program = decoder(DType::Q8_0, &shape, Pairing::Halves);
        let lower = |max_tokens| lower(&program, &limits(max_tokens), ABILITIES, u64::MAX);
        assert!(lower(MAX_ROWS / 2).is_ok());
        let refused = [MAX_ROWS / 2 + 1, MAX_ROWS + 1].map(|n| lower(n).err());
        assert!(
            refused
                .iter()
                .all(|error| matches!(error, Some(DeviceError::Unsupported(_)))),
            "{refused:?}"
        );
    }

    #[test]
    fn weights_of_a_file_are_read_in_place() {
        let abilities = Abilities {
            page_bytes: Some(4096),
            ..ABILITIES
        };
        // How many uploads are read in place, and how many rows are copied.
        let count = |program: &Program, max_binding_bytes| {
            let plan = lower(program, &limits(1), abilities, max_binding_bytes).unwrap();
            let in_place = |upload: &&Upload| matches!(upload, Upload::Pages(..));
            let copied = |upload: &&Upload| matches!(upload, Upload::Rows(_));
            let uploads = || plan.uploads.iter();
            (
                uploads().filter(in_place).count(),
                uploads().filter(copied).count(),
            )
        };
        let llama = decoder(DType::Q8_0, &NARROW, Pairing::Halves);
        // Embeddings; queries, keys and values; what comes of attention; gate and up; down; the output.
        let (in_memory, llama) = (in_memory(llama.clone()), in_one_file(llama));
        assert_eq!(count(&llama, 1 << 30), (6, 0));
        assert_eq!(count(&in_memory, 1 << 30), (0, 6));
        // Matrices that lie too far apart for a buffer.
        let (n_in_place, n_copied) = count(&llama, 24 << 10);
        assert!(n_in_place > 0 && n_copied > 0, "{n_in_place}, {n_copied}");
        let mixture = in_one_file(experts(DType::Q8_0, 96, true, true));
        assert_eq!(count(&mixture, 1 << 30).1, 0);
    }

    #[test]
    fn many_rows_are_grouped_by_expert() {
        let program = experts(DType::Q8_0, 96, true, true);
        let is_of_experts = |name: &String| name.contains("experts") || name == "group";
        let of = |n_tokens| {
            let mut names = kernels(&program, n_tokens, 1 << 30);
            names.retain(is_of_experts);
            names
        };
        let few = ["mul_mv_experts_gated_Q8_0", "mul_mv_experts_Q8_0"];
        // Two mixtures, one of tokens and one of outputs, of which there is one.
        assert_eq!(of(6), few.repeat(2));
        let many = ["group", "mul_mm_experts_Q8_0", "mul_mm_experts_Q8_0"];
        assert_eq!(of(7), [&many[..], &few].concat());
    }
}
