//! Running a lowered program: threads go through the steps together.
//!
//! A step is cut into chunks whose number depends on the batch alone. Threads take chunks from a
//! counter and count those that are done; a step has ended when all its chunks are done, not when
//! all threads have come by, so a thread that the system has put aside delays nobody who could
//! have done its work.
//!
//! `unsafe` stands here because chunks write to disjoint parts of shared buffers. What makes each
//! use sound is always the same: a chunk is run by one thread, it writes the parts that its index
//! names, and the step that reads them begins after all chunks of the step that wrote them have
//! ended. The slot that a step writes is never one that it reads (`lower.rs`), but for the queries
//! and keys that a `Store` chunk turns in place, row by row.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::backend::{BackendError, Batch, Executable, KV_BLOCK_LEN, Limits, Memory};
use crate::program::{Activation, Attention, Function, Program, Rope, Rows};

use super::CpuBackend;
use super::kernels::{Attend, Kernels, Store};
use super::lower::{
    AttentionSlots, Matrix, MatrixKernel, Part, Plan, Slot, SlotShape, Step, TILE, lower,
};
use super::ops::attention::{Element, HeadCache};
use super::ops::float_matmul::ROWS;
use super::ops::group_matmul::{PANEL, Panel};
use super::ops::quantize::QuantBuf;
use super::threads::{Pool, SharedBuf, Wait};

/// Query rows in one chunk of attention.
const QUERY_ROWS: usize = 16;

/// The attention kernels of one type of cache.
pub(super) trait CacheElement: Element {
    fn attend(kernels: &Kernels) -> Attend<Self, Self>;
    fn store(kernels: &Kernels) -> Store<Self, Self>;
}

impl CacheElement for f32 {
    fn attend(kernels: &Kernels) -> Attend<f32, f32> {
        kernels.attend_f32
    }
    fn store(kernels: &Kernels) -> Store<f32, f32> {
        kernels.store_f32
    }
}

impl CacheElement for u16 {
    fn attend(kernels: &Kernels) -> Attend<u16, u16> {
        kernels.attend_f16
    }
    fn store(kernels: &Kernels) -> Store<u16, u16> {
        kernels.store_f16
    }
}

struct Executor<E> {
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    plan: Plan,
    limits: Limits,
    vocab_size: usize,
    slots: Vec<SlotMemory>,
    ropes: Vec<(Rope, SharedBuf<f32>)>, // turns of each token, [n_tokens, 2 * n_pairs]
    caches: Vec<LayerCache<E>>,
    routing: Routing,
    scratch: Vec<Mutex<Scratch>>, // one for each thread
    progress: Vec<Progress>,      // one for each step
    // The batch in work.
    work: Work,
}

struct SlotMemory {
    f32: SharedBuf<f32>, // [n_rows, width]
    quant: Option<QuantBuf>,
}

/// Keys and values of one layer, for each head: `[n_blocks][dim][16]` and `[n_blocks][16][dim]`.
struct LayerCache<E> {
    k: SharedBuf<E>,
    v: SharedBuf<E>,
    dim: usize, // head_dim rounded up to whole vectors
}

/// Which rows go through which experts, for the mixture in work.
struct Routing {
    chosen: SharedBuf<u32>,  // [row][rank]: the expert
    shares: SharedBuf<f32>,  // [row][rank]
    places: SharedBuf<u32>,  // [row][rank]: the row among those that are grouped by expert
    sources: SharedBuf<u32>, // by grouped row: the row that it is a copy of
    /// Experts that some row goes through: which, its first grouped row, and the last one's next.
    spans: SharedBuf<u32>,
    n_spans: SharedBuf<u32>, // one number
}

impl Routing {
    fn zeroed(n_rows: usize, (n_experts, n_used): (usize, usize)) -> Option<Routing> {
        let n = n_rows.checked_mul(n_used)?;
        Some(Routing {
            chosen: SharedBuf::zeroed(n)?,
            shares: SharedBuf::zeroed(n)?,
            places: SharedBuf::zeroed(n)?,
            sources: SharedBuf::zeroed(n)?,
            spans: SharedBuf::zeroed(3 * n_experts)?,
            n_spans: SharedBuf::zeroed(1)?,
        })
    }

    fn bytes(&self) -> usize {
        let by_row = self.chosen.bytes() + self.shares.bytes() + self.places.bytes();
        by_row + self.sources.bytes() + self.spans.bytes() + self.n_spans.bytes()
    }
}

/// Memory of one thread.
struct Scratch {
    panel: Panel,
    wide: Vec<f32>,
    up: SharedBuf<f32>, // [max rows, TILE]
}

/// Where a product goes: columns of a matrix with rows of `width`, from `first` on, beginning in row
/// `first_row`.
struct Target<'a> {
    buf: &'a SharedBuf<f32>,
    width: usize,
    first: usize,
    first_row: usize,
}

/// How far a step is. A line of the cache for each, so that steps don't disturb each other.
#[repr(align(64))]
#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    done: AtomicUsize,
    n_chunks: usize,
}

/// What a batch means for the steps.
#[derive(Default)]
struct Work {
    tokens: Vec<u32>,
    positions: Vec<usize>, // of each token
    outputs: Vec<u32>,
    sequences: Vec<(usize, Vec<u32>)>, // first token, blocks
    /// Tokens of one sequence in one block: (sequence, first token, number).
    block_spans: Vec<(usize, usize, usize)>,
    /// Tokens of one sequence whose queries are one chunk.
    query_spans: Vec<(usize, usize, usize)>,
}

pub(super) fn load<E: CacheElement>(
    backend: &CpuBackend,
    program: &Program,
    limits: Limits,
) -> Result<Box<dyn Executable>, BackendError> {
    let plan = lower(program, backend.kernels);
    let n_rows = |rows| match rows {
        Rows::Tokens => limits.max_tokens,
        Rows::Outputs => limits.max_outputs,
    };
    let slots = plan.slots.iter().map(|shape| {
        let n = n_rows(shape.rows).saturating_mul(shape.copies);
        let no_memory = || no_memory("activations", n.saturating_mul(shape.width * 4));
        let len = n.checked_mul(shape.width).ok_or_else(no_memory)?;
        let quant = shape.has_quant.then(|| QuantBuf::zeroed(n, shape.width));
        Ok(SlotMemory {
            f32: SharedBuf::zeroed(len).ok_or_else(no_memory)?,
            quant: quant.map(|quant| quant.ok_or_else(no_memory)).transpose()?,
        })
    });
    let slots = slots.collect::<Result<_, _>>()?;
    let caches = program.kv.iter().map(|shape| {
        let dim = shape.head_dim.next_multiple_of(KV_BLOCK_LEN);
        let sizes = [limits.n_kv_blocks, KV_BLOCK_LEN, dim, shape.n_kv_heads];
        let len = sizes
            .iter()
            .try_fold(1usize, |n, size| n.checked_mul(*size));
        let bytes = len.unwrap_or(usize::MAX).saturating_mul(size_of::<E>());
        let zeroed = || {
            len.and_then(SharedBuf::zeroed)
                .ok_or_else(|| no_memory("KV cache", bytes))
        };
        Ok(LayerCache {
            k: zeroed()?,
            v: zeroed()?,
            dim,
        })
    });
    let caches = caches.collect::<Result<_, _>>()?;
    let ropes = program.ropes.iter().map(|rope| {
        let len = limits.max_tokens * 2 * rope.inv_freq.len();
        let turns = SharedBuf::zeroed(len).ok_or_else(|| no_memory("rotations", len * 4))?;
        Ok((rope.clone(), turns))
    });
    let ropes = ropes.collect::<Result<_, _>>()?;
    let max_rows = limits.max_tokens.max(limits.max_outputs);
    let routing = Routing::zeroed(max_rows, plan.max_experts)
        .ok_or_else(|| no_memory("experts", max_rows.saturating_mul(16 * plan.max_experts.1)))?;
    let scratch = (0..backend.pool.n_threads()).map(|_| {
        let up = SharedBuf::zeroed(max_rows * TILE);
        Ok(Mutex::new(Scratch {
            panel: Panel::with_row_len(plan.max_row_len),
            wide: vec![0.0; ROWS * plan.max_row_len],
            up: up.ok_or_else(|| no_memory("a tile", max_rows * TILE * 4))?,
        }))
    });
    let scratch = scratch.collect::<Result<_, _>>()?;
    Ok(Box::new(Executor::<E> {
        kernels: backend.kernels,
        pool: backend.pool.clone(),
        limits,
        vocab_size: program.vocab_size(),
        slots,
        ropes,
        caches,
        routing,
        scratch,
        // One more for the rotations, which come first.
        progress: (0..plan.steps.len() + 1)
            .map(|_| Progress::default())
            .collect(),
        plan,
        work: Work::default(),
    }))
}

fn no_memory(what: &'static str, bytes: usize) -> BackendError {
    BackendError::OutOfMemory { what, bytes }
}

impl<E: CacheElement> Executable for Executor<E> {
    fn run(&mut self, batch: &Batch<'_>) -> &[f32] {
        batch.check(&self.limits, self.vocab_size);
        self.work.set(batch);
        self.progress[0].reset(if self.ropes.is_empty() {
            0
        } else {
            batch.tokens.len()
        });
        for i in 0..self.plan.steps.len() {
            let n_chunks = self.n_chunks(&self.plan.steps[i]);
            self.progress[i + 1].reset(n_chunks);
        }
        let has_failed = AtomicBool::new(false);
        let this = &*self;
        this.pool.run(&|worker| this.run_steps(worker, &has_failed));
        assert!(
            !has_failed.into_inner(),
            "a kernel panicked; its message was printed above"
        );
        // SAFETY: the run has ended, and the next one needs `&mut self`.
        unsafe {
            self.slots[self.plan.logits]
                .f32
                .get(0..batch.outputs.len() * self.vocab_size)
        }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn memory(&self) -> Memory {
        let kv_bytes = self.caches.iter().map(|c| c.k.bytes() + c.v.bytes()).sum();
        let slots = self
            .slots
            .iter()
            .map(|slot| slot.f32.bytes() + slot.quant.as_ref().map_or(0, |quant| quant.bytes()));
        let turns = self.ropes.iter().map(|(_, turns)| turns.bytes());
        let scratch = self.scratch.iter().map(|scratch| {
            let scratch = scratch
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            scratch.panel.bytes() + scratch.wide.len() * 4 + scratch.up.bytes()
        });
        Memory {
            kv_bytes,
            scratch_bytes: slots.chain(turns).chain(scratch).sum::<usize>() + self.routing.bytes(),
        }
    }
}

impl Progress {
    fn reset(&mut self, n_chunks: usize) {
        *self = Progress {
            n_chunks,
            ..Progress::default()
        };
    }
}

impl Work {
    fn set(&mut self, batch: &Batch<'_>) {
        self.tokens.clear();
        self.tokens.extend(batch.tokens);
        self.outputs.clear();
        self.outputs.extend(batch.outputs);
        self.positions.clear();
        self.block_spans.clear();
        self.query_spans.clear();
        self.sequences
            .resize_with(batch.sequences.len(), Default::default);
        let mut first = 0;
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let (start, blocks) = &mut self.sequences[index];
            *start = first;
            blocks.clear();
            blocks.extend(sequence.blocks);
            let end = sequence.start + sequence.n_tokens;
            self.positions.extend(sequence.start..end);
            let mut position = sequence.start;
            while position < end {
                let n = (KV_BLOCK_LEN - position % KV_BLOCK_LEN).min(end - position);
                self.block_spans
                    .push((index, first + position - sequence.start, n));
                position += n;
            }
            for i in (0..sequence.n_tokens).step_by(QUERY_ROWS) {
                let n = QUERY_ROWS.min(sequence.n_tokens - i);
                self.query_spans.push((index, first + i, n));
            }
            first += sequence.n_tokens;
        }
    }
}

impl<E: CacheElement> Executor<E> {
    fn n_rows(&self, slot: Slot) -> usize {
        let SlotShape { rows, copies, .. } = self.plan.slots[slot];
        copies
            * match rows {
                Rows::Tokens => self.work.tokens.len(),
                Rows::Outputs => self.work.outputs.len(),
            }
    }

    fn n_chunks(&self, step: &Step) -> usize {
        let tiles = |x: Slot, n_rows: usize| match self.n_rows(x) {
            0 => 0,
            _ => n_rows.div_ceil(TILE),
        };
        match step {
            Step::Embed { out, .. }
            | Step::RmsNorm { out, .. }
            | Step::LayerNorm { out, .. }
            | Step::Map { out, .. }
            | Step::Add { out, .. }
            | Step::Spread { out, .. }
            | Step::Combine { out, .. }
            | Step::Gate { out, .. }
            | Step::Gather { out, .. } => self.n_rows(*out),
            Step::Route { scores, .. } => self.n_rows(*scores),
            Step::GroupByExpert { .. } => 1,
            Step::Quantize { slot } => self.n_rows(*slot),
            Step::MatMul { x, parts } => parts
                .iter()
                .map(|part| tiles(*x, part.matrix.weight.n_rows()))
                .sum(),
            Step::Gated {
                x, gate, n_experts, ..
            } => {
                let n = n_experts.unwrap_or(1);
                n.min(self.n_rows(*x)) * tiles(*x, gate.weight.n_rows() / n)
            }
            Step::ExpertMatMul {
                x,
                matrix,
                n_experts,
                ..
            } => {
                let n = *n_experts;
                n.min(self.n_rows(*x)) * tiles(*x, matrix.weight.n_rows() / n)
            }
            Step::Store { .. } => self.work.block_spans.len(),
            Step::Attend { spec, .. } => self.work.query_spans.len() * spec.n_kv_heads,
        }
    }

    fn run_steps(&self, worker: usize, has_failed: &AtomicBool) {
        let mut scratch = self.scratch[worker]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        for (index, progress) in self.progress.iter().enumerate() {
            while progress.next.load(Ordering::Relaxed) < progress.n_chunks {
                let chunk = progress.next.fetch_add(1, Ordering::Relaxed);
                if chunk >= progress.n_chunks {
                    break;
                }
                // After a panic the other chunks are passed over, so that every thread comes to
                // the end.
                if !has_failed.load(Ordering::Relaxed) {
                    let run = || match index.checked_sub(1) {
                        None => self.turns(chunk),
                        Some(step) => self.chunk(&self.plan.steps[step], chunk, &mut scratch),
                    };
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        has_failed.store(true, Ordering::Relaxed);
                    }
                }
                // What the chunk wrote is seen by whoever sees it done.
                progress.done.fetch_add(1, Ordering::Release);
            }
            let mut wait = Wait::default();
            while progress.done.load(Ordering::Acquire) < progress.n_chunks {
                wait.once();
            }
        }
    }

    /// The cosines and sines of one token's position, for every rope.
    fn turns(&self, token: usize) {
        for (rope, turns) in &self.ropes {
            let n = rope.inv_freq.len();
            // SAFETY: see the module's doc; this chunk's row.
            let row = unsafe { turns.get_mut(token * 2 * n..(token + 1) * 2 * n) };
            let (cos, sin) = row.split_at_mut(n);
            for ((cos, sin), inv_freq) in cos.iter_mut().zip(sin).zip(&rope.inv_freq) {
                let angle = self.work.positions[token] as f64 * f64::from(*inv_freq);
                (*sin, *cos) = (angle.sin() as f32, angle.cos() as f32);
                *sin *= rope.magnitude;
                *cos *= rope.magnitude;
            }
        }
    }

    /// Row `row` of a slot that earlier steps wrote.
    fn read(&self, slot: Slot, row: usize) -> &[f32] {
        let width = self.plan.slots[slot].width;
        // SAFETY: see the module's doc; nobody writes to a slot that a step reads.
        unsafe { self.slots[slot].f32.get(row * width..(row + 1) * width) }
    }

    /// Columns of one row of a slot that this chunk writes.
    ///
    /// # Safety
    /// They belong to the chunk alone.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the contract")]
    unsafe fn row_mut(&self, slot: Slot, row: usize, columns: Range<usize>) -> &mut [f32] {
        let at = row * self.plan.slots[slot].width;
        // SAFETY: the caller's promise.
        unsafe {
            self.slots[slot]
                .f32
                .get_mut(at + columns.start..at + columns.end)
        }
    }

    /// Quantizes columns of a row that this chunk has written.
    ///
    /// # Safety
    /// They belong to the chunk alone, and are whole groups.
    unsafe fn quantize(&self, slot: Slot, row: usize, columns: Range<usize>) {
        let quant = self.slots[slot]
            .quant
            .as_ref()
            .expect("lowered with a quantized twin");
        let at = row * self.plan.slots[slot].width;
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.slots[slot]
                .f32
                .get(at + columns.start..at + columns.end);
            (self.kernels.quantize)(x, &mut quant.span(row, columns.start, columns.len()));
        }
    }

    fn chunk(&self, step: &Step, chunk: usize, scratch: &mut Scratch) {
        let width = |slot: Slot| self.plan.slots[slot].width;
        match step {
            Step::Embed {
                table,
                out,
                quantize,
            } => {
                let token = self.work.tokens[chunk] as usize;
                // SAFETY: see the module's doc; row `chunk`.
                table.dequantize_row(token, unsafe { self.row_mut(*out, chunk, 0..width(*out)) });
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::RmsNorm {
                x,
                weight,
                eps,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                let x = self.read(*x, chunk).chunks_exact(weight.len());
                for (x, y) in x.zip(y.chunks_exact_mut(weight.len())) {
                    (self.kernels.rms_norm)(x, weight, *eps, y);
                }
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                (self.kernels.layer_norm)(self.read(*x, chunk), (weight, bias), *eps, y);
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Map {
                x,
                function,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*x, chunk));
                match *function {
                    Function::Scale(factor) => (self.kernels.scale)(y, factor),
                    Function::Gelu => (self.kernels.gelu)(y),
                    Function::SoftCap(cap) => (self.kernels.soft_cap)(y, cap),
                }
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Add {
                a,
                b,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*a, chunk));
                (self.kernels.add)(y, self.read(*b, chunk));
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Gather { x, out, quantize } => {
                let row = self.work.outputs[chunk] as usize;
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*x, row));
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Quantize { slot } => self.quantize_row(*slot, chunk, true),
            Step::MatMul { x, parts } => {
                let mut tile = chunk;
                for part in parts {
                    let n_tiles = part.matrix.weight.n_rows().div_ceil(TILE);
                    if tile < n_tiles {
                        return self.matmul_tile(*x, part, tile, scratch);
                    }
                    tile -= n_tiles;
                }
            }
            Step::Gated {
                x,
                gate,
                up,
                activation,
                out,
                quantize,
                n_experts,
            } => {
                let n_rows = gate.weight.n_rows() / n_experts.unwrap_or(1);
                let n_tiles = n_rows.div_ceil(TILE);
                let (base, x_rows, first) = match n_experts {
                    None => (0, 0..self.n_rows(*x), chunk * TILE),
                    Some(_) => match self.expert_rows(chunk / n_tiles) {
                        Some((expert, x_rows)) => (expert * n_rows, x_rows, chunk % n_tiles * TILE),
                        None => return,
                    },
                };
                let columns = first..n_rows.min(first + TILE);
                let rows = base + columns.start..base + columns.end;
                let buf = &self.slots[*out].f32;
                let gate_out = Target {
                    buf,
                    width: width(*out),
                    first,
                    first_row: x_rows.start,
                };
                let up_buf = &scratch.up;
                let up_out = Target {
                    buf: up_buf,
                    width: TILE,
                    first: 0,
                    first_row: 0,
                };
                let (panel, wide) = (&mut scratch.panel, &mut scratch.wide[..]);
                let x = (*x, x_rows.clone());
                // SAFETY: see the module's doc; these columns of these rows, and a tile of this
                // thread.
                unsafe {
                    self.product(gate, x.clone(), rows.clone(), (panel, wide), &gate_out);
                    self.product(up, x, rows, (panel, wide), &up_out);
                }
                for (i, row) in x_rows.enumerate() {
                    // SAFETY: as above.
                    let (y, up) = unsafe {
                        let up = up_buf.get(i * TILE..i * TILE + columns.len());
                        (self.row_mut(*out, row, columns.clone()), up)
                    };
                    self.activate(*activation, y, up);
                    if *quantize {
                        // SAFETY: as above.
                        unsafe { self.quantize(*out, row, columns.clone()) };
                    }
                }
            }
            Step::Route {
                scores,
                n_used,
                normalizes,
            } => {
                let all = chunk * n_used..(chunk + 1) * n_used;
                // SAFETY: see the module's doc; what is kept of this row.
                let (chosen, shares) = unsafe {
                    let chosen = self.routing.chosen.get_mut(all.clone());
                    (chosen, self.routing.shares.get_mut(all))
                };
                (self.kernels.route)(self.read(*scores, chunk), *normalizes, chosen, shares);
            }
            Step::GroupByExpert { scores, n_used } => {
                self.group_by_expert(width(*scores), self.n_rows(*scores), *n_used);
            }
            Step::Spread { x, out, quantize } => {
                // SAFETY: see the module's doc; written by an earlier step, and row `chunk`.
                let (source, y) = unsafe {
                    let source = self.routing.sources.get(chunk..chunk + 1)[0] as usize;
                    (source, self.row_mut(*out, chunk, 0..width(*out)))
                };
                y.copy_from_slice(self.read(*x, source));
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::ExpertMatMul {
                x,
                matrix,
                n_experts,
                out,
            } => {
                let n_rows = matrix.weight.n_rows() / n_experts;
                let n_tiles = n_rows.div_ceil(TILE);
                let Some((expert, x_rows)) = self.expert_rows(chunk / n_tiles) else {
                    return;
                };
                let first = chunk % n_tiles * TILE;
                let base = expert * n_rows;
                let rows = base + first..base + n_rows.min(first + TILE);
                let target = Target {
                    buf: &self.slots[*out].f32,
                    width: width(*out),
                    first,
                    first_row: x_rows.start,
                };
                let scratch = (&mut scratch.panel, &mut scratch.wide[..]);
                // SAFETY: see the module's doc; these columns of this expert's rows.
                unsafe { self.product(matrix, (*x, x_rows), rows, scratch, &target) };
            }
            Step::Combine {
                x,
                n_used,
                out,
                quantize,
            } => {
                let all = chunk * n_used..(chunk + 1) * n_used;
                // SAFETY: see the module's doc; written by earlier steps, and row `chunk`.
                let (places, shares, y) = unsafe {
                    let places = self.routing.places.get(all.clone());
                    let y = self.row_mut(*out, chunk, 0..width(*out));
                    (places, self.routing.shares.get(all), y)
                };
                y.fill(0.0);
                for (place, share) in places.iter().zip(shares) {
                    (self.kernels.add_share)(y, self.read(*x, *place as usize), *share);
                }
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Gate {
                x,
                by,
                out,
                quantize,
            } => {
                // SAFETY: see the module's doc; row `chunk`.
                let y = unsafe { self.row_mut(*out, chunk, 0..width(*out)) };
                y.copy_from_slice(self.read(*x, chunk));
                (self.kernels.gate)(y, self.read(*by, chunk)[0]);
                self.quantize_row(*out, chunk, *quantize);
            }
            Step::Store { spec, slots } => self.store(spec, slots, chunk),
            Step::Attend {
                spec,
                slots,
                quantize,
            } => self.attend(spec, slots, *quantize, chunk),
        }
    }

    /// The `index`-th expert that some row goes through, and its grouped rows.
    fn expert_rows(&self, index: usize) -> Option<(usize, Range<usize>)> {
        // SAFETY: see the module's doc; written by an earlier step.
        let (spans, n) = unsafe {
            let n = self.routing.n_spans.get(0..1)[0] as usize;
            (self.routing.spans.get(0..3 * n), n)
        };
        (index < n).then(|| {
            let span = &spans[3 * index..3 * index + 3];
            (span[0] as usize, span[1] as usize..span[2] as usize)
        })
    }

    /// Gives every choice of every row a place among the rows that are grouped by expert.
    fn group_by_expert(&self, n_experts: usize, n_rows: usize, n_used: usize) {
        let n = n_rows * n_used;
        let routing = &self.routing;
        // SAFETY: see the module's doc; this step has one chunk.
        let (chosen, places, sources, spans, n_spans) = unsafe {
            (
                routing.chosen.get(0..n),
                routing.places.get_mut(0..n),
                routing.sources.get_mut(0..n),
                routing.spans.get_mut(0..3 * n_experts),
                &mut routing.n_spans.get_mut(0..1)[0],
            )
        };
        let mut next = vec![0u32; n_experts]; // how many rows, then the next one's place
        for &expert in chosen {
            next[expert as usize] += 1;
        }
        let (mut first, mut index) = (0, 0);
        for (expert, next) in next.iter_mut().enumerate() {
            let end = first + *next;
            if *next > 0 {
                spans[3 * index..3 * index + 3].copy_from_slice(&[expert as u32, first, end]);
                index += 1;
            }
            *next = first;
            first = end;
        }
        *n_spans = index as u32;
        for (i, (&expert, place)) in chosen.iter().zip(places).enumerate() {
            *place = next[expert as usize];
            next[expert as usize] += 1;
            sources[*place as usize] = (i / n_used) as u32;
        }
    }

    /// `gate = activation(gate) * up`.
    fn activate(&self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        match activation {
            Activation::Silu => (self.kernels.silu_mul)(gate, up),
            Activation::Gelu => (self.kernels.gelu_mul)(gate, up),
        }
    }

    fn quantize_row(&self, slot: Slot, row: usize, wanted: bool) {
        if wanted {
            // SAFETY: only called by chunks that own the whole row.
            unsafe { self.quantize(slot, row, 0..self.plan.slots[slot].width) };
        }
    }

    /// Rows `rows` of `matrix`, at most [`TILE`], times rows of slot `x`.
    ///
    /// # Safety
    /// `out` has columns for these rows that belong to the chunk alone.
    unsafe fn product(
        &self,
        matrix: &Matrix,
        (x, x_rows): (Slot, Range<usize>),
        rows: Range<usize>,
        (panel, wide): (&mut Panel, &mut [f32]),
        out: &Target<'_>,
    ) {
        let Matrix { weight, kernel } = matrix;
        let row_bytes = weight.row_bytes();
        let out_rows = out.first_row..out.first_row + x_rows.len();
        let part = |first: usize, end: usize| {
            let columns = out.first + first - rows.start..out.first + end - rows.start;
            // SAFETY: the caller's promise.
            let tile = unsafe { out.buf.tile(out_rows.clone(), out.width, columns) };
            (&weight.bytes()[first * row_bytes..end * row_bytes], tile)
        };
        match kernel {
            MatrixKernel::Group(unpack, multiply) => {
                let quant = self.slots[x]
                    .quant
                    .as_ref()
                    .expect("lowered with a quantized twin");
                // SAFETY: see the module's doc; nobody writes to a slot that a step reads.
                let x = unsafe { quant.rows(x_rows) };
                for first in rows.clone().step_by(PANEL) {
                    let (bytes, mut tile) = part(first, rows.end.min(first + PANEL));
                    unpack(bytes, weight.row_len(), panel);
                    multiply(panel, &x, &mut tile);
                }
            }
            MatrixKernel::Float(kind) => {
                let width = self.plan.slots[x].width;
                // SAFETY: as above.
                let x = unsafe {
                    self.slots[x]
                        .f32
                        .get(x_rows.start * width..x_rows.end * width)
                };
                let (bytes, mut tile) = part(rows.start, rows.end);
                (self.kernels.float_matmul)((*kind, bytes), (x, width), wide, &mut tile);
            }
        }
    }

    fn matmul_tile(&self, x: Slot, part: &Part, tile: usize, scratch: &mut Scratch) {
        let Part {
            matrix,
            bias,
            residual,
            out,
            quantize,
        } = part;
        let first = tile * TILE;
        let rows = first..matrix.weight.n_rows().min(first + TILE);
        let width = self.plan.slots[*out].width;
        let (panel, wide) = (&mut scratch.panel, &mut scratch.wide[..]);
        let target = Target {
            buf: &self.slots[*out].f32,
            width,
            first,
            first_row: 0,
        };
        let all = 0..self.n_rows(x);
        // SAFETY: see the module's doc; columns `rows`.
        unsafe { self.product(matrix, (x, all), rows.clone(), (panel, wide), &target) };
        if bias.is_none() && residual.is_none() && !quantize {
            return;
        }
        for row in 0..self.n_rows(x) {
            // SAFETY: see the module's doc; columns `rows`.
            let y = unsafe { self.row_mut(*out, row, rows.clone()) };
            if let Some(bias) = bias {
                (self.kernels.add)(y, &bias[rows.clone()]);
            }
            if let Some(residual) = residual {
                (self.kernels.add)(y, &self.read(*residual, row)[rows.clone()]);
            }
            if *quantize {
                // SAFETY: see the module's doc; columns `rows`.
                unsafe { self.quantize(*out, row, rows.clone()) };
            }
        }
    }

    /// Turns queries and keys of some tokens of one block, and puts keys and values there.
    fn store(&self, spec: &Attention, slots: &AttentionSlots, chunk: usize) {
        let (sequence, first, n) = self.work.block_spans[chunk];
        let blocks = &self.work.sequences[sequence].1;
        let cache = &self.caches[spec.layer];
        let head_dim = spec.head_dim;
        for row in first..first + n {
            // SAFETY: see the module's doc; rows of this chunk's tokens.
            let (q, k) = unsafe {
                let q = self.row_mut(slots.q, row, 0..spec.n_heads * head_dim);
                (q, self.row_mut(slots.k, row, 0..spec.n_kv_heads * head_dim))
            };
            if let Some(rope) = slots.rope {
                let (rope, turns) = &self.ropes[rope.0 as usize];
                let len = 2 * rope.inv_freq.len();
                // SAFETY: written by the first step, read-only since.
                let turns = unsafe { turns.get(row * len..(row + 1) * len) };
                for head in q
                    .chunks_exact_mut(head_dim)
                    .chain(k.chunks_exact_mut(head_dim))
                {
                    (self.kernels.rotate)(head, turns, rope.pairing);
                }
            }
            let v = self.read(slots.v, row);
            let position = self.work.positions[row];
            let block = blocks[position / KV_BLOCK_LEN] as usize;
            let tile_len = KV_BLOCK_LEN * cache.dim;
            for head in 0..spec.n_kv_heads {
                let at = (head * self.limits.n_kv_blocks + block) * tile_len;
                // SAFETY: see the module's doc; a block that a batch writes to belongs to one
                // sequence, and its tokens in this block are all in this chunk.
                let tiles = unsafe {
                    (
                        cache.k.get_mut(at..at + tile_len),
                        cache.v.get_mut(at..at + tile_len),
                    )
                };
                let head = head * head_dim..(head + 1) * head_dim;
                E::store(self.kernels)((&k[head.clone()], &v[head]), tiles, position);
            }
        }
    }

    /// The query heads of one key/value head, for some tokens.
    fn attend(&self, spec: &Attention, slots: &AttentionSlots, quantize: bool, chunk: usize) {
        let (span, kv_head) = (chunk / spec.n_kv_heads, chunk % spec.n_kv_heads);
        let (sequence, first, n) = self.work.query_spans[span];
        let cache = &self.caches[spec.layer];
        let head_len = self.limits.n_kv_blocks * KV_BLOCK_LEN * cache.dim;
        let head_cache = kv_head * head_len..(kv_head + 1) * head_len;
        let group = spec.n_heads / spec.n_kv_heads * spec.head_dim;
        let columns = kv_head * group..(kv_head + 1) * group;
        for row in first..first + n {
            // SAFETY: see the module's doc; nobody writes to the cache in this step, and the
            // columns of these rows are this chunk's.
            let (k, v, out) = unsafe {
                let (k, v) = (
                    cache.k.get(head_cache.clone()),
                    cache.v.get(head_cache.clone()),
                );
                (k, v, self.row_mut(slots.out, row, columns.clone()))
            };
            let cache = HeadCache {
                k,
                v,
                dim: cache.dim,
                blocks: &self.work.sequences[sequence].1,
                positions: {
                    let end = self.work.positions[row] + 1;
                    spec.window.map_or(0, |n| end.saturating_sub(n))..end
                },
                scale: spec.scale,
                soft_cap: spec.soft_cap,
            };
            let q = &self.read(slots.q, row)[columns.clone()];
            E::attend(self.kernels)(&cache, (q, spec.head_dim), out);
            if quantize {
                // SAFETY: as above; whole groups by the lowering.
                unsafe { self.quantize(slots.out, row, columns.clone()) };
            }
        }
    }
}
