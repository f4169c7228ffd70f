//! Running a lowered program: threads go through the steps together.
//!
//! A step is cut into chunks whose number depends on the batch and on how many threads there are. Threads
//! take chunks from a counter and count those that are done; a step has ended when all its chunks are done, not when
//! all threads have come by, so a thread that the system has put aside delays nobody who could
//! have done its work.
//!
//! `unsafe` stands here because chunks write to disjoint parts of shared buffers. What makes each
//! use sound is always the same: a chunk is run by one thread, it writes the parts that its index
//! names, and the step that reads them begins after all chunks of the step that wrote them have
//! ended. The slot that a step writes is never one that it reads (`lower.rs`), but for the queries,
//! keys and values that a `Store` chunk changes in place, row by row. `steps.rs` says what each step does.

mod memory;
mod profile;
mod progress;
mod steps;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::backend::{
    BackendError, Batch, DeviceError, Executable, KV_BLOCK_LEN, Limits, Memory, OnDevice,
    ProgramWidths,
};
use crate::cpu::CpuBackend;
use crate::cpu::kernels::{FastKernels, Kernels};
use crate::cpu::lower::{FAST_TOKENS, FEW, FINE, Matrix, Plan, Slot, SlotShape, Step, lower};
use crate::cpu::ops::Amount;
use crate::cpu::ops::ahead::Ahead;
use crate::cpu::ops::attention::UNIT;
use crate::cpu::ops::float_matmul::FloatScratch;
use crate::cpu::ops::group_matmul::Panels;
use crate::cpu::ops::int16::Int16Buf;
use crate::cpu::ops::quantize::QuantBuf;
use crate::cpu::ops::tile_matmul::{TileScratch, TokenTiles};
use crate::cpu::threads::{Pool, SharedBuf, Wait};
use crate::kv::{KvType, kv_block_bytes};
use crate::profile::{Cost, StepProfile};
use crate::program::{Program, Rope, Rows};

use profile::{Clock, Profile};
use progress::{Progress, weights_in_order};
use work::{QueryPart, Work};

pub(super) use memory::plan;

/// Tokens in one chunk of attention.
const QUERY_TOKENS: usize = 8;

/// How many units of positions, all tokens together, are cut into chunks of their own: enough for a
/// chunk's tokens with this many units each.
const MAX_UNITS: usize = 64;

struct Executor {
    core: Core,
    /// For batches up to the limits; may be left in the middle.
    long: Pass,
    /// For short batches, which may be run while the long one is left.
    short: Pass,
}

/// What all batches share.
struct Core {
    kernels: &'static Kernels,
    fast: Option<FastKernels>,
    pool: Arc<Pool>,
    plan: Plan,
    limits: Limits,
    widths: ProgramWidths,
    ropes: Vec<Rope>,
    caches: Vec<LayerCache>,
    scratch: Vec<Mutex<Scratch>>, // one for each thread
    /// Where steps are measured.
    profile: Option<Profile>,
}

/// A batch in work, and the memory that it is computed in.
struct Pass {
    slots: Vec<SlotMemory>,
    turns: Vec<SharedBuf<f32>>, // by rope: turns of each token, [n_tokens, 2 * n_pairs]
    routing: Routing,
    /// What units of positions give, where more than one thread goes through a context.
    unit_results: SharedBuf<f32>,
    progress: Vec<Progress>, // one for each step
    work: Work,
    /// The first step that has not ended, where the batch has begun and not ended.
    next_step: Option<usize>,
}

/// A pass while threads go through it.
#[derive(Clone, Copy)]
struct Run<'a> {
    core: &'a Core,
    pass: &'a Pass,
}

struct SlotMemory {
    f32: SharedBuf<f32>, // [n_rows, width]
    quant: Option<QuantBuf>,
    /// What many tokens have instead.
    tiles: Option<TokenTiles>,
    /// What many tokens have as well, where weights of F16 want it.
    int16: Option<Int16Buf>,
    /// Rows that are rounded to bf16, a number or two in each word; of no length where no weight wants them.
    words: SharedBuf<f32>,
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
    products: ProductScratch,
    up: SharedBuf<f32>, // a chunk's results
    unit_result: Vec<f32>,
}

struct ProductScratch {
    panels: Panels,
    tiles: Option<TileScratch>,
    floats: FloatScratch,
    /// Products of both rows of each output, before they are added.
    fine: SharedBuf<f32>,
}

/// Where a product goes: columns of a matrix with rows of `width`, from `first` on, beginning in row
/// `first_row`.
struct Target<'a> {
    buf: &'a SharedBuf<f32>,
    width: usize,
    first: usize,
    first_row: usize,
}

pub(super) fn load(
    backend: &CpuBackend,
    program: &Program,
    limits: Limits,
) -> Result<Box<dyn Executable>, BackendError> {
    let n_threads = backend.pool.n_threads();
    let plan = lower(program, (backend.kernels, backend.fast), n_threads);
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
    let long = Pass::new(
        &plan,
        program,
        (limits.max_tokens, limits.max_outputs),
        (&limits, n_threads),
    )?;
    let short = Pass::new(
        &plan,
        program,
        (limits.max_between, limits.max_between),
        (&limits, n_threads),
    )?;
    let max_rows = limits.max_tokens.max(limits.max_outputs);
    let scratch = (0..n_threads).map(|thread| {
        let orders = Amount::ALL.map(|amount| weights_in_order(&plan, amount, thread, n_threads));
        let up_len = plan.max_chunk(max_rows);
        let up = SharedBuf::zeroed(up_len);
        let fine_len = plan.max_chunk(limits.max_outputs).saturating_mul(FINE);
        let fine = SharedBuf::zeroed(fine_len);
        let no_tiles = || no_memory("tiles", TileScratch::bytes_for(max_rows));
        let tiles = plan.uses_tiles().then(|| TileScratch::zeroed(max_rows));
        Ok(Mutex::new(Scratch {
            products: ProductScratch {
                panels: Panels::new(Ahead::new(orders)),
                tiles: tiles.map(|tiles| tiles.ok_or_else(no_tiles)).transpose()?,
                floats: FloatScratch::new(),
                fine: fine.ok_or_else(|| no_memory("a tile", fine_len.saturating_mul(4)))?,
            },
            up: up.ok_or_else(|| no_memory("a tile", up_len.saturating_mul(4)))?,
            unit_result: vec![0.0; QUERY_TOKENS * plan.max_unit_result],
        }))
    });
    let scratch = scratch.collect::<Result<_, _>>()?;
    Ok(Box::new(Executor {
        core: Core {
            kernels: backend.kernels,
            fast: backend.fast,
            pool: backend.pool.clone(),
            limits,
            widths: ProgramWidths::of(program),
            ropes: program.ropes.clone(),
            caches,
            scratch,
            plan,
            profile: None,
        },
        long,
        short,
    }))
}

/// The most units, over all tokens, that are cut into chunks of their own: none where a context is
/// one unit at most.
fn max_cut_units(max_tokens: usize, limits: &Limits) -> usize {
    match limits.n_kv_blocks.div_ceil(UNIT / KV_BLOCK_LEN) {
        0 | 1 => 0,
        n => max_tokens.min(QUERY_TOKENS) * n.min(MAX_UNITS),
    }
}

fn no_memory(what: &'static str, bytes: usize) -> BackendError {
    BackendError::OutOfMemory { what, bytes }
}

impl Pass {
    /// Memory for at most so many tokens and outputs.
    fn new(
        plan: &Plan,
        program: &Program,
        (max_tokens, max_outputs): (usize, usize),
        (limits, n_threads): (&Limits, usize),
    ) -> Result<Pass, BackendError> {
        let slots = plan.slots.iter().map(|shape| {
            let n = match shape.rows {
                Rows::Tokens => max_tokens,
                Rows::Outputs => max_outputs,
            };
            let n = n.saturating_mul(shape.copies);
            let no_memory = || no_memory("activations", n.saturating_mul(shape.width * 4));
            let len = n.checked_mul(shape.width).ok_or_else(no_memory)?;
            let quant = (shape.n_quants > 0).then(|| {
                let n = n.checked_mul(shape.n_quants)?;
                QuantBuf::zeroed(n, shape.width)
            });
            let tiles = plan.has_tiles(shape, max_tokens);
            let tiles = tiles.then(|| TokenTiles::zeroed(n, shape.width, shape.n_planes));
            let int16 = plan.has_int16(shape, max_tokens);
            let int16 = int16.then(|| Int16Buf::zeroed(n, shape.width));
            Ok(SlotMemory {
                f32: SharedBuf::zeroed(len).ok_or_else(no_memory)?,
                quant: quant.map(|quant| quant.ok_or_else(no_memory)).transpose()?,
                tiles: tiles.map(|tiles| tiles.ok_or_else(no_memory)).transpose()?,
                int16: int16.map(|int16| int16.ok_or_else(no_memory)).transpose()?,
                words: n
                    .checked_mul(shape.n_words)
                    .and_then(SharedBuf::zeroed)
                    .ok_or_else(no_memory)?,
            })
        });
        let turns = program.ropes.iter().map(|rope| {
            let len = max_tokens * 2 * rope.inv_freq.len();
            SharedBuf::zeroed(len).ok_or_else(|| no_memory("rotations", len * 4))
        });
        let max_rows = max_tokens.max(max_outputs);
        let routing = Routing::zeroed(max_rows, plan.max_experts).ok_or_else(|| {
            no_memory("experts", max_rows.saturating_mul(16 * plan.max_experts.1))
        })?;
        let max_cut_units = max_cut_units(max_tokens, limits);
        let n_results = max_cut_units.saturating_mul(plan.max_unit_result);
        let unit_results = SharedBuf::zeroed(n_results)
            .ok_or_else(|| no_memory("attention", n_results.saturating_mul(4)))?;
        // One more for the rotations, which come first.
        let progress = (0..plan.steps.len() + 1).map(|_| Progress::new(n_threads));
        Ok(Pass {
            slots: slots.collect::<Result<_, BackendError>>()?,
            turns: turns.collect::<Result<_, _>>()?,
            routing,
            unit_results,
            progress: progress.collect(),
            work: Work {
                max_cut_units,
                ..Work::default()
            },
            next_step: None,
        })
    }

    fn begin(&mut self, core: &Core, batch: &Batch<'_>) {
        batch.check(&core.limits, &core.widths);
        self.work.set(batch, core.plan.max_kv_heads);
        let n_turns = match core.ropes.is_empty() {
            true => 0,
            false => batch.tokens.len(),
        };
        self.progress[0].reset(n_turns);
        for i in 0..core.plan.steps.len() {
            let n_chunks = Run { core, pass: self }.n_chunks(&core.plan.steps[i]);
            self.progress[i + 1].reset(n_chunks);
        }
        if let Some(profile) = &core.profile {
            self.count(core, profile);
        }
        self.next_step = Some(0);
    }

    /// Counts what the batch has for each step.
    fn count(&self, core: &Core, profile: &Profile) {
        for (i, progress) in self.progress.iter().enumerate() {
            let cost = match i.checked_sub(1) {
                None => Cost::default(),
                Some(step) => Run { core, pass: self }.cost(&core.plan.steps[step]),
            };
            if progress.n_chunks > 0 {
                profile.count(i, cost);
            }
        }
    }

    /// Goes on until `deadline`, if there is one; whether the batch has ended.
    fn go_on(&mut self, core: &Core, deadline: Option<Instant>) -> bool {
        let first = self.next_step.expect("it has begun");
        let (has_failed, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let run = Run { core, pass: self };
        let stop = Stop {
            has_failed: &has_failed,
            deadline,
            is_over: &is_over,
        };
        core.pool.run(&|worker| run.run_steps(worker, first, &stop));
        if has_failed.into_inner() {
            self.next_step = None;
            panic!("a kernel panicked; its message was printed above");
        }
        let rest = self.progress[first..]
            .iter()
            .position(|step| !step.has_ended());
        self.next_step = rest.map(|i| first + i);
        self.next_step.is_none()
    }

    /// What a batch that has ended gives.
    fn result(&self, core: &Core) -> &[f32] {
        let result = core.plan.result;
        let n_rows = Run { core, pass: self }.n_rows(result);
        let len = n_rows * core.plan.slots[result].width;
        // SAFETY: no run is going on, and the next one needs `&mut self`.
        unsafe { self.slots[result].f32.get(0..len) }
    }

    fn scratch_bytes(&self) -> usize {
        let slots = self.slots.iter().map(|slot| {
            let tiles = slot.tiles.as_ref().map_or(0, TokenTiles::bytes);
            let quant = slot.quant.as_ref().map_or(0, QuantBuf::bytes);
            let int16 = slot.int16.as_ref().map_or(0, Int16Buf::bytes);
            slot.f32.bytes() + quant + tiles + int16 + slot.words.bytes()
        });
        let turns = self.turns.iter().map(SharedBuf::bytes);
        let all = slots.chain(turns).sum::<usize>();
        all + self.routing.bytes() + self.unit_results.bytes()
    }
}

/// When threads leave a batch before its end.
struct Stop<'a> {
    /// After a panic the other chunks are passed over.
    has_failed: &'a AtomicBool,
    deadline: Option<Instant>,
    /// Whether somebody has seen that the deadline has passed.
    is_over: &'a AtomicBool,
}

impl Stop<'_> {
    fn is_over(&self) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        if !self.is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
            return false;
        }
        self.is_over.store(true, Ordering::Relaxed);
        true
    }
}

impl Executable for Executor {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        let is_short = batch.tokens.len().max(batch.outputs.len()) <= self.core.limits.max_between;
        let pass = match is_short {
            true => &mut self.short,
            false => &mut self.long,
        };
        assert!(pass.next_step.is_none(), "another batch is in work");
        pass.begin(&self.core, batch);
        pass.go_on(&self.core, None);
        Ok(pass.result(&self.core))
    }

    fn run_for(
        &mut self,
        batch: &Batch<'_>,
        time: Duration,
    ) -> Result<Option<&[f32]>, DeviceError> {
        let deadline = Instant::now() + time;
        if self.long.next_step.is_none() {
            self.long.begin(&self.core, batch);
        }
        assert!(
            self.long.work.tokens == batch.tokens,
            "another batch is in work"
        );
        let has_ended = self.long.go_on(&self.core, Some(deadline));
        Ok(has_ended.then(|| self.long.result(&self.core)))
    }

    fn can_pause(&self) -> bool {
        true
    }

    fn start_profile(&mut self) -> bool {
        self.core.profile = Some(Profile::new(&self.core.plan));
        true
    }

    fn take_profile(&mut self) -> Vec<StepProfile> {
        match self.core.profile.take() {
            Some(profile) => profile.into_steps(&self.core),
            None => Vec::new(),
        }
    }

    fn abandon(&mut self) {
        self.long.next_step = None;
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        let n_blocks = self.core.limits.n_kv_blocks;
        assert!((from.max(to) as usize) < n_blocks, "block");
        for tiles in self
            .core
            .caches
            .iter()
            .flat_map(|cache| [&cache.k, &cache.v])
        {
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
        self.core.limits
    }

    fn memory(&self) -> Memory {
        let tiles = self
            .core
            .caches
            .iter()
            .flat_map(|cache| [&cache.k, &cache.v]);
        let kv_bytes = tiles.map(|tiles| tiles.buf.bytes()).sum();
        let scratch = self.core.scratch.iter().map(|scratch| {
            let scratch = scratch
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let unit_result = scratch.unit_result.len() * 4;
            let chunks = scratch.up.bytes() + scratch.products.fine.bytes();
            let tiles = scratch
                .products
                .tiles
                .as_ref()
                .map_or(0, TileScratch::bytes);
            Panels::BYTES + FloatScratch::BYTES + unit_result + chunks + tiles
        });
        let passes = self.long.scratch_bytes() + self.short.scratch_bytes();
        Memory {
            kv_bytes,
            scratch_bytes: scratch.sum::<usize>() + passes,
            device: OnDevice::default(),
        }
    }
}

impl Run<'_> {
    fn n_rows(&self, slot: Slot) -> usize {
        let SlotShape { rows, copies, .. } = self.core.plan.slots[slot];
        copies
            * match rows {
                Rows::Tokens => self.pass.work.tokens.len(),
                Rows::Outputs => self.pass.work.outputs.len(),
            }
    }

    /// How many tokens and outputs the batch has.
    fn amount(&self) -> Amount {
        let n_tokens = self.pass.work.tokens.len();
        match n_tokens.max(self.pass.work.outputs.len()) {
            0..=FEW => Amount::Few,
            _ if self.core.fast.is_some() && n_tokens >= FAST_TOKENS => Amount::Fast,
            _ => Amount::Many,
        }
    }

    fn n_chunks(&self, step: &Step) -> usize {
        let amount = self.amount();
        let chunks = |x: Slot, matrix: &Matrix| match self.n_rows(x) {
            0 => 0,
            _ => matrix.n_chunks(amount),
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
            Step::MatMul { x, parts } => parts.iter().map(|part| chunks(*x, &part.matrix)).sum(),
            Step::Gated {
                x, gate: matrices, ..
            }
            | Step::ExpertMatMul { x, matrices, .. } => {
                matrices.len().min(self.n_rows(*x)) * chunks(*x, &matrices[0])
            }
            Step::Store { .. } => self.pass.work.block_spans.len(),
            Step::Attend { spec, .. } => self.pass.work.query_parts.len() * spec.n_kv_heads,
        }
    }

    fn run_steps(&self, worker: usize, first: usize, stop: &Stop<'_>) {
        let mut scratch = self.core.scratch[worker]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let profile = self.core.profile.as_ref();
        let mut clock = profile.filter(|_| worker == 0).map(Clock::start);
        let amount = self.amount();
        for (index, progress) in self.pass.progress.iter().enumerate().skip(first) {
            if let Some(step) = index.checked_sub(1) {
                scratch.products.panels.ahead.begin_step(step, amount);
            }
            while !stop.is_over()
                && let Some((chunk, is_own)) = progress.claim(worker)
            {
                // After a panic the other chunks are passed over, so that every thread comes to
                // the end.
                if !stop.has_failed.load(Ordering::Relaxed) {
                    scratch.products.panels.ahead.set_own(is_own);
                    let run = || match index.checked_sub(1) {
                        None => self.turns(chunk),
                        Some(step) => {
                            self.chunk(&self.core.plan.steps[step], chunk, &mut scratch);
                            if let Some(profile) = profile {
                                self.count_experts(profile, step);
                            }
                        }
                    };
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        stop.has_failed.store(true, Ordering::Relaxed);
                    }
                }
                // What the chunk wrote is seen by whoever sees it done.
                progress.done.0.fetch_add(1, Ordering::Release);
            }
            let mut wait = Wait::default();
            while !progress.has_ended() && !stop.is_over() {
                wait.once();
            }
            if let Some(clock) = &mut clock {
                clock.lap(index);
            }
            if !progress.has_ended() {
                return;
            }
        }
    }

    /// The cosines and sines of one token's position, for every rope.
    fn turns(&self, token: usize) {
        for (rope, turns) in self.core.ropes.iter().zip(&self.pass.turns) {
            let n = rope.inv_freq.len();
            // SAFETY: see the module's doc; this chunk's row.
            let row = unsafe { turns.get_mut(token * 2 * n..(token + 1) * 2 * n) };
            let (cos, sin) = row.split_at_mut(n);
            for ((cos, sin), inv_freq) in cos.iter_mut().zip(sin).zip(&rope.inv_freq) {
                let angle = self.pass.work.positions[token] as f64 * f64::from(*inv_freq);
                (*sin, *cos) = (angle.sin() as f32, angle.cos() as f32);
                *sin *= rope.magnitude;
                *cos *= rope.magnitude;
            }
        }
    }
}
