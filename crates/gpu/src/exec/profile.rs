//! Dispatches measured, where that is asked for: each in a pass of its own, with the device's time at its
//! two ends.
//!
//! What a dispatch reads and computes follows from its operation, its weights and the batch. Of a mixture
//! it follows from the experts that were chosen, which are copied out of the step, too.

use std::collections::HashMap;
use std::time::Duration;

use minerva_compute::{Batch, Cost, DeviceError, Op, Rows, StepProfile, Weight};

use crate::batch::{Layout, TILE_ROWS};
use crate::kernels::{Elementwise, Kernel};
use crate::lower::{Source, Step};

use super::Loaded;

/// Dispatches of one set of queries, each with two.
const SET_LEN: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
/// Bytes of two times.
const SPAN_BYTES: usize = 2 * wgpu::QUERY_SIZE as usize;

/// What has been measured, and what measures.
pub(super) struct Profile {
    totals: Vec<Totals>, // of each step
    sets: Vec<wgpu::QuerySet>,
    /// The times of each dispatch of a batch, in their order.
    times: wgpu::Buffer,
    /// The same, then what each mixture chose.
    read: wgpu::Buffer,
    /// Where that is, by operation.
    chosen_at: HashMap<usize, usize>,
}

#[derive(Clone, Default)]
struct Totals {
    n_calls: u64,
    time: Duration,
    cost: Cost,
}

impl Loaded {
    /// A profile with nothing measured.
    pub(super) fn new_profile(&self) -> Profile {
        let device = &self.device;
        let n_steps = self.steps.len();
        let n_bytes = n_steps * SPAN_BYTES;
        let (mut chosen_at, mut end) = (HashMap::new(), n_bytes);
        for (i, op) in self.program.ops().iter().enumerate() {
            if let Op::Experts(experts) = op {
                chosen_at.insert(i, end);
                let n_rows = match self.program.shape(experts.x).rows {
                    Rows::Tokens => self.limits.max_tokens,
                    Rows::Outputs => self.limits.max_outputs,
                };
                end += 4 * n_rows * experts.n_used;
            }
        }
        let set = |first: usize| {
            device.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("times"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * (n_steps - first).min(SET_LEN) as u32,
            })
        };
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let times = device.buffer("times", n_bytes as u64, usage);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Profile {
            totals: vec![Totals::default(); n_steps],
            sets: (0..n_steps).step_by(SET_LEN).map(set).collect(),
            times,
            read: device.buffer("times", end as u64, usage),
            chosen_at,
        }
    }

    /// Records the dispatches, and the copies of what is read of them.
    pub(super) fn record_measured(
        &self,
        profile: &Profile,
        layout: &Layout,
        encoder: &mut wgpu::CommandEncoder,
    ) {
        let mut n_dispatches = 0;
        for (i, launch) in self.launches(layout) {
            let query = 2 * (n_dispatches % SET_LEN) as u32;
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &profile.sets[n_dispatches / SET_LEN],
                    beginning_of_pass_write_index: Some(query),
                    end_of_pass_write_index: Some(query + 1),
                }),
            });
            self.dispatch(&mut pass, i, &launch);
            drop(pass);
            n_dispatches += 1;
            let step = &self.steps[i].step;
            if step.kernel == Kernel::Route {
                let chosen = self.buffers.get(step.bindings[1]);
                let (at, n_bytes) = self.chosen(profile, step.op, layout);
                encoder.copy_buffer_to_buffer(chosen, 0, &profile.read, at as u64, n_bytes as u64);
            }
        }
        for (set, first) in profile.sets.iter().zip((0..n_dispatches).step_by(SET_LEN)) {
            let n_queries = 2 * (n_dispatches - first).min(SET_LEN) as u32;
            let at = (first * SPAN_BYTES) as u64;
            encoder.resolve_query_set(set, 0..n_queries, &profile.times, at);
        }
        let n_bytes = (n_dispatches * SPAN_BYTES) as u64;
        encoder.copy_buffer_to_buffer(&profile.times, 0, &profile.read, 0, n_bytes);
    }

    /// Where what a mixture chose is in the buffer that is read, and its bytes.
    fn chosen(&self, profile: &Profile, op: usize, layout: &Layout) -> (usize, usize) {
        let Op::Experts(experts) = &self.program.ops()[op] else {
            unreachable!("only mixtures choose");
        };
        let n_rows = layout.n_rows(self.program.shape(experts.x).rows) as usize;
        (profile.chosen_at[&op], 4 * n_rows * experts.n_used)
    }

    /// Adds what a batch's dispatches took, once they are done.
    pub(super) fn measure(
        &self,
        profile: &mut Profile,
        (batch, layout): (&Batch<'_>, &Layout),
        submission: wgpu::SubmissionIndex,
    ) -> Result<(), DeviceError> {
        let (read, mut bytes) = (&profile.read, Vec::new());
        let copy = &mut |mapped: &[u8]| bytes.extend_from_slice(mapped);
        self.device.read(read, read.size(), submission, copy)?;
        let tick_s = f64::from(self.device.queue.get_timestamp_period()) * 1e-9;
        let (times, _) = bytes.as_chunks::<8>();
        let time = |query: usize| u64::from_le_bytes(times[query]);
        let expert_rows = self.expert_rows(profile, layout, &bytes);
        for (n, (i, _)) in self.launches(layout).enumerate() {
            let ticks = time(2 * n + 1).saturating_sub(time(2 * n));
            let totals = &mut profile.totals[i];
            totals.n_calls += 1;
            totals.time += Duration::from_secs_f64(ticks as f64 * tick_s);
            let step = &self.steps[i].step;
            totals.cost += self.cost(step, (batch, layout), &expert_rows);
        }
        Ok(())
    }

    /// How many rows go through each matrix of an expert, by operation and address.
    fn expert_rows(
        &self,
        profile: &Profile,
        layout: &Layout,
        bytes: &[u8],
    ) -> HashMap<(usize, usize), usize> {
        let mut n_rows = HashMap::new();
        for (i, op) in self.program.ops().iter().enumerate() {
            let Op::Experts(mixture) = op else { continue };
            let (at, n_bytes) = self.chosen(profile, i, layout);
            for chosen in bytes[at..at + n_bytes].as_chunks().0 {
                for (matrix, _) in mixture.experts[u32::from_le_bytes(*chosen) as usize] {
                    let place = address(self.program.weight(matrix));
                    *n_rows.entry((i, place)).or_default() += 1;
                }
            }
        }
        n_rows
    }

    /// What a step reads and computes in a batch.
    fn cost(
        &self,
        step: &Step,
        (batch, layout): (&Batch<'_>, &Layout),
        expert_rows: &HashMap<(usize, usize), usize>,
    ) -> Cost {
        let mut cost = Cost::default();
        match &self.program.ops()[step.op] {
            Op::Embed { table, .. } => {
                let table = self.program.weight(*table);
                for rows in self.weights(step) {
                    let first = (address(rows) - address(table)) / table.row_bytes();
                    let range = first..first + rows.n_rows();
                    let tokens = batch.tokens.iter();
                    let n_tokens = tokens.filter(|t| range.contains(&(**t as usize))).count();
                    cost.read_bytes += (n_tokens * table.row_bytes()) as u64;
                }
            }
            Op::MatMul { x, .. } | Op::GatedMatMul { x, .. } => {
                let n_rows = layout.n_rows(self.program.shape(*x).rows) as usize;
                for weight in self.weights(step) {
                    cost += Cost::f32_product(weight, n_rows);
                }
            }
            Op::Experts(_) => {
                for weight in self.weights(step) {
                    if let Some(n_rows) = expert_rows.get(&(step.op, address(weight))) {
                        cost += Cost::f32_product(weight, *n_rows);
                    }
                }
            }
            Op::Attention(spec) if matches!(step.kernel, Kernel::Attend(..)) => {
                // The tokens of a tile.
                let n_together = TILE_ROWS.div_ceil(spec.n_heads / spec.n_kv_heads);
                for sequence in batch.sequences {
                    let end = sequence.start + sequence.n_tokens;
                    for first in (sequence.start..end).step_by(n_together) {
                        let positions = first..end.min(first + n_together);
                        cost += Cost::attention(spec, self.limits.kv_types, positions);
                    }
                }
            }
            _ => {}
        }
        cost
    }

    /// The weights that a step reads as they are in the file.
    fn weights(&self, step: &Step) -> impl Iterator<Item = &Weight> {
        let uploads = step.bindings.iter().filter_map(|source| match source {
            Source::Upload(i) => Some(&self.weights[*i]),
            _ => None,
        });
        uploads.flatten()
    }

    pub(super) fn step_profiles(&self, profile: Profile) -> Vec<StepProfile> {
        let steps = self.steps.iter().map(|bound| &bound.step);
        let all = steps.zip(profile.totals).map(|(step, totals)| {
            let weights = self.weights(step);
            let mut weights: Vec<_> = weights
                .map(|weight| (weight.name().to_owned(), weight.dtype()))
                .collect();
            // Experts of one tensor have its name.
            weights.dedup();
            let (op, is_one_of_several) = name(step.kernel);
            StepProfile {
                op,
                kernel: match is_one_of_several {
                    true => step.kernel.to_string(),
                    false => String::new(),
                },
                weights,
                n_calls: totals.n_calls,
                time: totals.time,
                cost: totals.cost,
            }
        });
        all.collect()
    }
}

fn address(weight: &Weight) -> usize {
    weight.bytes().as_ptr().addr()
}

/// What a kernel does, as the processor's steps are called, and whether others do so, too.
fn name(kernel: Kernel) -> (&'static str, bool) {
    match kernel {
        Kernel::Embed(_) => ("embedding", true),
        Kernel::MulMv(_, _, answer, _) if answer.is_gated() => ("gated product", true),
        Kernel::MulMv(..) | Kernel::MulMm(..) | Kernel::MulMmCoop(..) | Kernel::MulMmHalf(..) => {
            ("product", true)
        }
        Kernel::Halves => ("rounding to f16", false),
        Kernel::Quantize => ("quantization", false),
        Kernel::RmsNorm(_) => ("RMS norm", true),
        Kernel::LayerNorm(_) => ("layer norm", true),
        Kernel::Elementwise(function) => match function {
            Elementwise::Add => ("add", false),
            Elementwise::Gate => ("gate", false),
            Elementwise::Scale => ("scale", false),
            Elementwise::Gelu => ("GELU", false),
            Elementwise::SoftCap => ("soft cap", false),
            Elementwise::SiluGlu | Elementwise::GeluGlu | Elementwise::ClampedSwiglu => {
                ("activation", false)
            }
        },
        Kernel::Gather => ("gather", false),
        Kernel::Route => ("choice of experts", false),
        Kernel::Group => ("order by expert", false),
        Kernel::Combine => ("sum of experts", false),
        Kernel::Store(_) => ("rotation and store", true),
        Kernel::Attend(..) | Kernel::Join(_) => ("attention", true),
    }
}
