//! Steps measured, where that is asked for.
//!
//! Time is taken by the thread that called, which goes through all steps: the time of a step is from
//! when it saw the step before end to when it sees this one end. So the times add up to those of the
//! batches. What a step reads and computes follows from its shapes, its weights' types and the batch.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::cpu::lower::{Matrix, MatrixKernel, Plan, Slot, SlotShape, Step};
use crate::cpu::ops::float_matmul::FloatKind;
use crate::profile::{Cost, StepProfile};
use crate::program::{Attention, Function};
use crate::weight::Weight;

use super::{Core, Run, SlotMemory};

/// What has been measured: of the rotations, which come first, and of each step.
pub(super) struct Profile(Mutex<Vec<Totals>>);

#[derive(Clone, Default)]
struct Totals {
    n_calls: u64,
    time: Duration,
    cost: Cost,
}

/// The time of the thread that called.
pub(super) struct Clock<'a> {
    profile: &'a Profile,
    last: Instant,
}

impl Profile {
    pub(super) fn new(plan: &Plan) -> Profile {
        Profile(Mutex::new(vec![Totals::default(); plan.steps.len() + 1]))
    }

    fn totals(&self) -> MutexGuard<'_, Vec<Totals>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts a batch that step `index`, of those with the rotations, has something to do in.
    pub(super) fn count(&self, index: usize, cost: Cost) {
        let totals = &mut self.totals()[index];
        totals.n_calls += 1;
        totals.cost += cost;
    }

    pub(super) fn into_steps(self, core: &Core) -> Vec<StepProfile> {
        let totals = self.0.into_inner();
        let totals = totals.unwrap_or_else(|poisoned| poisoned.into_inner());
        let rotations = ("rotations", Vec::new());
        let steps = core.plan.steps.iter().map(name);
        let names = std::iter::once(rotations).chain(steps);
        let all = names.zip(totals).map(|((op, weights), totals)| {
            let weights = weights.into_iter();
            let mut weights: Vec<_> = weights
                .map(|weight| (weight.name().to_owned(), weight.dtype()))
                .collect();
            // Experts of one tensor have its name.
            weights.dedup();
            StepProfile {
                op,
                kernel: String::new(),
                weights,
                n_calls: totals.n_calls,
                time: totals.time,
                cost: totals.cost,
            }
        });
        all.collect()
    }
}

impl Clock<'_> {
    pub(super) fn start(profile: &Profile) -> Clock<'_> {
        let last = Instant::now();
        Clock { profile, last }
    }

    /// Gives the time since the last call to a step.
    pub(super) fn lap(&mut self, index: usize) {
        let now = Instant::now();
        self.profile.totals()[index].time += now - self.last;
        self.last = now;
    }
}

/// What a step does, and the matrices that it works with.
fn name(step: &Step) -> (&'static str, Vec<&Weight>) {
    match step {
        Step::Input { .. } => ("input", Vec::new()),
        Step::Embed { table, .. } => ("embedding", vec![table]),
        Step::RmsNorm { .. } => ("RMS norm", Vec::new()),
        Step::LayerNorm { .. } => ("layer norm", Vec::new()),
        Step::Map { function, .. } => match function {
            Function::Scale(_) => ("scale", Vec::new()),
            Function::Gelu => ("GELU", Vec::new()),
            Function::SoftCap(_) => ("soft cap", Vec::new()),
        },
        Step::Add { .. } => ("add", Vec::new()),
        Step::MatMul { parts, .. } => {
            let weights = parts.iter().map(|part| &part.matrix.weight);
            ("product", weights.collect())
        }
        Step::Gated { gate, up, .. } => {
            let weights = gate.iter().chain(up).map(|matrix| &matrix.weight);
            ("gated product", weights.collect())
        }
        Step::Route { .. } => ("choice of experts", Vec::new()),
        Step::GroupByExpert { .. } => ("order by expert", Vec::new()),
        Step::Spread { .. } => ("copies for experts", Vec::new()),
        Step::ExpertMatMul { matrices, .. } => {
            let weights = matrices.iter().map(|matrix| &matrix.weight);
            ("product", weights.collect())
        }
        Step::Combine { .. } => ("sum of experts", Vec::new()),
        Step::Gate { .. } => ("gate", Vec::new()),
        Step::Store { .. } => ("rotation and store", Vec::new()),
        Step::Attend { .. } => ("attention", Vec::new()),
        Step::Gather { .. } => ("gather", Vec::new()),
        Step::Quantize { .. } => ("quantization", Vec::new()),
    }
}

/// What a row of a slot is in this batch.
#[derive(Clone, Copy)]
struct Kinds {
    /// Rows of 8 bits.
    n_quants: usize,
    /// Planes of bf16 in tiles.
    n_planes: usize,
    /// Whole numbers of 16 bits too.
    has_int16: bool,
}

/// A product of so many rows with a matrix.
fn product(matrix: &Matrix, has_bf16_dots: bool, (n_rows, kinds): (usize, Kinds)) -> Cost {
    let Kinds {
        n_quants,
        n_planes,
        has_int16,
    } = kinds;
    let cost = Cost::f32_product(&matrix.weight, n_rows);
    let in_bf16 = |n_products| Cost {
        bf16_operations: n_products * cost.f32_operations,
        f32_operations: 0,
        ..cost
    };
    match matrix.kernel {
        MatrixKernel::Group(_) if n_planes > 0 => in_bf16(1),
        MatrixKernel::Float(FloatKind::Bf16 | FloatKind::Bf16Rounded) if n_planes == 2 => {
            in_bf16(2)
        }
        MatrixKernel::Float(FloatKind::F16) if n_planes == 2 => in_bf16(3),
        MatrixKernel::Float(FloatKind::F16) if has_int16 => Cost {
            int16_operations: cost.f32_operations,
            f32_operations: 0,
            ..cost
        },
        MatrixKernel::Float(FloatKind::Bf16Rounded) if has_bf16_dots => in_bf16(1),
        MatrixKernel::Group(_) => Cost {
            int8_operations: n_quants as u64 * cost.f32_operations,
            f32_operations: 0,
            ..cost
        },
        MatrixKernel::Float(_) => cost,
    }
}

impl Run<'_> {
    /// What a step costs in this batch; of experts nothing, since they are not chosen yet.
    pub(super) fn cost(&self, step: &Step) -> Cost {
        let mut cost = Cost::default();
        let has_bf16_dots = self.core.kernels.has_bf16_dots();
        let rows = |x: Slot| (self.n_rows(x), self.kinds(x, self.n_rows(x)));
        match step {
            Step::Embed { table, out, .. } => {
                cost.read_bytes = (table.row_bytes() * self.n_rows(*out)) as u64;
            }
            Step::MatMul { x, parts } => {
                for part in parts {
                    cost += product(&part.matrix, has_bf16_dots, rows(*x));
                }
            }
            Step::Gated {
                x,
                gate,
                up,
                is_grouped: false,
                ..
            } => {
                for matrix in [&gate[0], &up[0]] {
                    cost += product(matrix, has_bf16_dots, rows(*x));
                }
            }
            Step::Attend { spec, .. } => cost = self.attention(spec),
            _ => {}
        }
        cost
    }

    /// What `n_rows` rows of a slot are, which meet a weight together.
    fn kinds(&self, x: Slot, n_rows: usize) -> Kinds {
        let SlotShape {
            n_quants, n_planes, ..
        } = self.core.plan.slots[x];
        let SlotMemory { tiles, int16, .. } = &self.pass.slots[x];
        Kinds {
            n_quants,
            n_planes: self.tiles(tiles).map_or(0, |_| n_planes),
            has_int16: self.int16(int16, n_rows).is_some(),
        }
    }

    fn attention(&self, spec: &Attention) -> Cost {
        let work = &self.pass.work;
        let mut cost = Cost::default();
        // Of a part that is cut, the first unit stands for all.
        for part in work.query_parts.iter().filter(|p| p.units.start == 0) {
            let first = work.positions[part.first];
            let kv_types = self.core.limits.kv_types;
            cost += Cost::attention(spec, kv_types, first..first + part.n);
        }
        cost
    }

    /// Adds what the experts cost that step `index` has put in order, to the steps that go through
    /// them. Only for who has run the step's chunk, before it counts as done: later the next mixture
    /// may be in work.
    pub(super) fn count_experts(&self, profile: &Profile, index: usize) {
        let steps = &self.core.plan.steps;
        if !matches!(steps[index], Step::GroupByExpert { .. }) {
            return;
        }
        let spans: Vec<_> = (0..).map_while(|i| self.expert_rows(i)).collect();
        let mut totals = profile.totals();
        for (i, step) in steps.iter().enumerate().skip(index) {
            let (x, lists): (Slot, &[&[Matrix]]) = match step {
                Step::Gated {
                    x,
                    gate,
                    up,
                    is_grouped: true,
                    ..
                } => (*x, &[gate, up]),
                Step::ExpertMatMul { x, matrices, .. } => (*x, &[matrices]),
                Step::Combine { .. } => break,
                _ => continue,
            };
            let has_bf16_dots = self.core.kernels.has_bf16_dots();
            for (expert, rows) in &spans {
                for matrices in lists {
                    // The rotations come first.
                    let rows = (rows.len(), self.kinds(x, rows.len()));
                    totals[i + 1].cost += product(&matrices[*expert], has_bf16_dots, rows);
                }
            }
        }
    }
}
