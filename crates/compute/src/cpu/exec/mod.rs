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
//! and keys that a `Store` chunk turns in place, row by row. `steps.rs` says what each step does.

mod memory;
mod steps;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::backend::{
    BackendError, Batch, DeviceError, Executable, KV_BLOCK_LEN, Limits, Memory, OnDevice,
    ProgramWidths,
};
use crate::cpu::CpuBackend;
use crate::cpu::kernels::Kernels;
use crate::cpu::lower::{Plan, Slot, SlotShape, Step, TILE, lower};
use crate::cpu::ops::float_matmul::ROWS;
use crate::cpu::ops::group_matmul::Panels;
use crate::cpu::ops::quantize::QuantBuf;
use crate::cpu::threads::{Pool, SharedBuf, Wait};
use crate::kv::{KvType, kv_block_bytes};
use crate::program::{Program, Rope, Rows};

pub(super) use memory::plan;

/// Query rows in one chunk of attention.
const QUERY_ROWS: usize = 16;

struct Executor {
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    plan: Plan,
    limits: Limits,
    widths: ProgramWidths,
    slots: Vec<SlotMemory>,
    ropes: Vec<(Rope, SharedBuf<f32>)>, // turns of each token, [n_tokens, 2 * n_pairs]
    caches: Vec<LayerCache>,
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

/// Keys and values of one layer: `[n_kv_heads][n_blocks]` tiles.
struct LayerCache {
    k: TileBuf,
    v: TileBuf,
    dim: usize, // head_dim rounded up to whole vectors
}

/// Tiles of one type.
struct TileBuf {
    kv_type: KvType,
    tile_bytes: usize,
    buf: SharedBuf<u8>,
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
    panels: Panels,
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
    input: Vec<f32>,       // of each token, where the program begins with rows
    positions: Vec<usize>, // of each token
    outputs: Vec<u32>,
    sequences: Vec<(usize, Vec<u32>)>, // first token, blocks
    /// Tokens of one sequence in one block: (sequence, first token, number).
    block_spans: Vec<(usize, usize, usize)>,
    /// Tokens of one sequence whose queries are one chunk.
    query_spans: Vec<(usize, usize, usize)>,
}

pub(super) fn load(
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
    let kv_types = limits.kv_types;
    let block_bytes = kv_block_bytes(&program.kv, kv_types)?;
    let caches = program.kv.iter().map(|shape| {
        let tiles = |kv_type: KvType| {
            let head_bytes = kv_type.head_bytes(shape.head_dim);
            let tile_bytes = head_bytes.expect("checked above") * KV_BLOCK_LEN;
            let n_tiles = limits.n_kv_blocks.checked_mul(shape.n_kv_heads);
            let buf = n_tiles
                .and_then(|n_tiles| n_tiles.checked_mul(tile_bytes))
                .and_then(SharedBuf::zeroed)
                .ok_or_else(|| {
                    no_memory("KV cache", block_bytes.saturating_mul(limits.n_kv_blocks))
                })?;
            Ok(TileBuf {
                kv_type,
                tile_bytes,
                buf,
            })
        };
        Ok(LayerCache {
            k: tiles(kv_types.k)?,
            v: tiles(kv_types.v)?,
            dim: shape.head_dim.next_multiple_of(KV_BLOCK_LEN),
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
            panels: Panels::new(),
            wide: vec![0.0; ROWS * plan.max_row_len],
            up: up.ok_or_else(|| no_memory("a tile", max_rows * TILE * 4))?,
        }))
    });
    let scratch = scratch.collect::<Result<_, _>>()?;
    Ok(Box::new(Executor {
        kernels: backend.kernels,
        pool: backend.pool.clone(),
        limits,
        widths: ProgramWidths::of(program),
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

impl Executable for Executor {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        batch.check(&self.limits, &self.widths);
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
        let result = self.plan.result;
        let len = self.n_rows(result) * self.plan.slots[result].width;
        // SAFETY: the run has ended, and the next one needs `&mut self`.
        let rows = unsafe { self.slots[result].f32.get(0..len) };
        Ok(rows)
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        let n_blocks = self.limits.n_kv_blocks;
        assert!((from.max(to) as usize) < n_blocks, "block");
        for tiles in self.caches.iter().flat_map(|cache| [&cache.k, &cache.v]) {
            let len = tiles.tile_bytes;
            for head in 0..tiles.buf.bytes() / (n_blocks * len) {
                let at = |block: u32| (head * n_blocks + block as usize) * len;
                // SAFETY: no run is going on, which would need `&mut self` too; two different
                // blocks don't overlap, and one is not copied onto itself.
                unsafe {
                    if from != to {
                        let source = tiles.buf.get(at(from)..at(from) + len);
                        tiles
                            .buf
                            .get_mut(at(to)..at(to) + len)
                            .copy_from_slice(source);
                    }
                }
            }
        }
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn memory(&self) -> Memory {
        let tiles = self.caches.iter().flat_map(|cache| [&cache.k, &cache.v]);
        let kv_bytes = tiles.map(|tiles| tiles.buf.bytes()).sum();
        let slots = self
            .slots
            .iter()
            .map(|slot| slot.f32.bytes() + slot.quant.as_ref().map_or(0, |quant| quant.bytes()));
        let turns = self.ropes.iter().map(|(_, turns)| turns.bytes());
        let scratch = self.scratch.iter().map(|scratch| {
            let scratch = scratch
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            Panels::BYTES + scratch.wide.len() * 4 + scratch.up.bytes()
        });
        Memory {
            kv_bytes,
            scratch_bytes: slots.chain(turns).chain(scratch).sum::<usize>() + self.routing.bytes(),
            device: OnDevice::default(),
        }
    }
}

impl Progress {
    /// The next chunks for one of `n_threads`: half of its share of what is left, so that a thread
    /// reads weights that lie beside each other, and all end at about the same time.
    fn claim(&self, n_threads: usize) -> Option<Range<usize>> {
        let n_left = |next: usize| self.n_chunks.saturating_sub(next);
        let end = |next: usize| next + n_left(next).div_ceil(2 * n_threads);
        let claimed = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (n_left(next) > 0).then(|| end(next))
            });
        claimed.ok().map(|next| next..end(next))
    }

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
        self.input.clear();
        self.input.extend(batch.input);
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

impl Executor {
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
            Step::Input { out, .. }
            | Step::Embed { out, .. }
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
                x, gate: matrices, ..
            }
            | Step::ExpertMatMul { x, matrices, .. } => {
                matrices.len().min(self.n_rows(*x)) * tiles(*x, matrices[0].weight.n_rows())
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
            while let Some(chunks) = progress.claim(self.scratch.len()) {
                for chunk in chunks {
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
}
