//! A program on the device: weights uploaded, kernels compiled, one submission and one read a step.

mod profile;
mod upload;

use std::collections::HashMap;
use std::sync::Arc;

use minerva_compute::{
    Batch, BufShape, DType, DeviceError, Executable, KV_BLOCK_LEN, KvTypes, Limits, Memory,
    OnDevice, Program, ProgramWidths, Rows, StepProfile, Weight,
};

use crate::batch::{Layout, lay_out, layout_ahead, max_words};
use crate::device::{Device, Pipeline, Share};
use crate::dtypes::snippet;
use crate::in_place::{self, Pages};
use crate::lower::{Launch, Plan, Source, Step, Upload, stride};
use profile::Profile;
use upload::{lower_onto, upload};

pub(crate) use upload::OnUpload;

const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_DST)
    .union(wgpu::BufferUsages::COPY_SRC);

/// What a program takes.
pub(crate) fn memory(
    plan: &Plan,
    program: &Program,
    limits: &Limits,
    kv_block_bytes: usize,
) -> Memory {
    let words = batch_words(plan, program, limits);
    let result = result_bytes(program, limits);
    Memory {
        kv_bytes: 0,
        scratch_bytes: 0,
        device: OnDevice {
            n_layers: program.n_layers(),
            weights_bytes: plan.uploads.iter().map(Upload::n_bytes).sum(),
            kv_bytes: limits.n_kv_blocks.saturating_mul(kv_block_bytes) as u64,
            scratch_bytes: plan.slots.iter().sum::<u64>() + 4 * words as u64 + result,
        },
    }
}

/// Words of a batch, with room for four sequences that fill the cache. It grows should more come
/// that share their blocks.
fn batch_words(plan: &Plan, program: &Program, limits: &Limits) -> usize {
    let tables = limits.n_kv_blocks.saturating_mul(4);
    let rest = max_words(
        program,
        limits.max_tokens,
        limits.max_outputs,
        &plan.shared_heads,
    );
    tables.saturating_add(rest)
}

fn result_bytes(program: &Program, limits: &Limits) -> u64 {
    let BufShape { rows, width } = program.shape(program.result());
    let n_rows = match rows {
        Rows::Tokens => limits.max_tokens,
        Rows::Outputs => limits.max_outputs,
    };
    (4 * stride(width) * n_rows.max(1)) as u64
}

struct BoundStep {
    step: Step,
    pipeline: Arc<Pipeline>,
}

/// Bytes of each layer's keys and of its values, and of a block of them.
pub(crate) fn cache_sizes(
    program: &Program,
    limits: &Limits,
    max_binding: u64,
) -> Result<[Vec<(u64, u64)>; 2], DeviceError> {
    let of_type = |kv_type: minerva_compute::KvType| -> Result<Vec<(u64, u64)>, DeviceError> {
        let layers = program.kv().iter().map(|shape| {
            let head_bytes = kv_type.head_bytes(shape.head_dim);
            let head_bytes = head_bytes.expect("checked for every layer");
            let block = (KV_BLOCK_LEN * shape.n_kv_heads * head_bytes) as u64;
            let all = block.saturating_mul(limits.n_kv_blocks as u64);
            match all <= max_binding {
                true => Ok((all, block)),
                false => Err(DeviceError::NoRoom {
                    what: "the cache of a layer in one buffer".into(),
                    wanted_bytes: all,
                    available_bytes: max_binding,
                }),
            }
        });
        layers.collect()
    };
    let KvTypes { k, v } = limits.kv_types;
    Ok([of_type(k)?, of_type(v)?])
}

pub(crate) struct Loaded {
    device: Arc<Device>,
    limits: Limits,
    memory: Memory,
    program: Program,
    /// Those of each upload.
    weights: Vec<Vec<Weight>>,
    widths: ProgramWidths,
    input_slot: Option<usize>,
    result: BufShape,
    result_slot: usize,
    shared_heads: Vec<usize>,
    steps: Vec<BoundStep>,
    binds: Vec<wgpu::BindGroup>,
    buffers: Buffers,
    read: wgpu::Buffer,
    spare_block: wgpu::Buffer,
    words: Vec<u32>,
    rows: Vec<f32>,
    /// Commands of the next step, recorded while the device was busy with the last one.
    ahead: Option<(Layout, wgpu::CommandBuffer)>,
    /// Where dispatches are measured.
    profile: Option<Profile>,
    /// Given back last, when all that it is for has been dropped.
    _share: Share,
}

/// Everything that a step can bind.
struct Buffers {
    slots: Vec<wgpu::Buffer>,
    uploads: Vec<wgpu::Buffer>,
    grids: HashMap<DType, wgpu::Buffer>,
    batch: wgpu::Buffer,
    keys: Vec<(wgpu::Buffer, u64)>, // with the bytes of a block
    values: Vec<(wgpu::Buffer, u64)>,
    nothing: wgpu::Buffer,
}

impl Buffers {
    fn get(&self, source: Source) -> &wgpu::Buffer {
        match source {
            Source::Slot(i) => &self.slots[i],
            Source::Upload(i) => &self.uploads[i],
            Source::Grid(dtype) => &self.grids[&dtype],
            Source::Batch => &self.batch,
            Source::Keys(layer) => &self.keys[layer].0,
            Source::Values(layer) => &self.values[layer].0,
            Source::Nothing => &self.nothing,
        }
    }
}

impl Loaded {
    pub(crate) fn load(
        device: Arc<Device>,
        program: &Program,
        limits: Limits,
        kv_block_bytes: usize,
        on_upload: OnUpload<'_>,
    ) -> Result<Loaded, DeviceError> {
        let opened = device.clone();
        let made = || Loaded::made(device, program, limits, kv_block_bytes, on_upload);
        opened.attempt(made).inspect_err(|_| {
            // What was to be written to its buffers holds them until something is submitted.
            _ = opened.submit(None).and_then(|written| opened.wait(written));
        })
    }

    fn made(
        device: Arc<Device>,
        program: &Program,
        limits: Limits,
        kv_block_bytes: usize,
        on_upload: OnUpload<'_>,
    ) -> Result<Loaded, DeviceError> {
        let max_binding = device.max_binding_bytes;
        let over = |pages: &Pages| {
            let over = device.attempt(|| Ok(in_place::buffer(&device.device, pages)));
            over.ok().flatten()
        };
        let (plan, in_place) = lower_onto(&device, program, &limits, &over)?;
        let memory = memory(&plan, program, &limits, kv_block_bytes);
        let share = device.take(&memory.device)?;
        let [key_sizes, value_sizes] = cache_sizes(program, &limits, max_binding)?;

        let mut steps = Vec::with_capacity(plan.steps.len());
        for step in plan.steps {
            let pipeline = device.pipeline(step.kernel)?;
            steps.push(BoundStep { step, pipeline });
        }
        let scratch = |bytes: &u64| device.buffer("scratch", *bytes, STORAGE);
        let cache = |(bytes, block): &(u64, u64)| {
            (device.buffer("cache", (*bytes).max(4), STORAGE), *block)
        };
        let grids = plan.grids.iter().map(|&dtype| {
            let words = snippet(dtype).grid.words();
            let buffer = device.buffer("grid", 4 * words.len() as u64, STORAGE);
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            device.queue.write_buffer(&buffer, 0, &bytes);
            (dtype, buffer)
        });
        let n_words = {
            let rest = max_words(
                program,
                limits.max_tokens,
                limits.max_outputs,
                &plan.shared_heads,
            );
            rest + 4 * limits.n_kv_blocks
        };
        let all_sizes = key_sizes.iter().chain(&value_sizes);
        let largest_block = all_sizes.map(|(_, block)| *block).max().unwrap_or(4);
        // By themselves, so that nothing is uploaded where there is no memory for them.
        let (mut buffers, spare_block, read) = device.attempt(|| {
            let buffers = Buffers {
                slots: plan.slots.iter().map(scratch).collect(),
                uploads: Vec::new(),
                grids: grids.collect(),
                batch: device.buffer("batch", 4 * n_words as u64, STORAGE),
                keys: key_sizes.iter().map(cache).collect(),
                values: value_sizes.iter().map(cache).collect(),
                nothing: device.buffer("nothing", 16, STORAGE),
            };
            let spare_block = device.buffer("block", largest_block, STORAGE);
            let read = device.buffer(
                "result",
                result_bytes(program, &limits),
                wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            );
            Ok((buffers, spare_block, read))
        })?;
        buffers.uploads = upload(&device, &plan.uploads, in_place, on_upload)?;
        let weights = plan.uploads.iter().map(|upload| upload.weights().to_vec());
        let mut loaded = Loaded {
            device,
            limits,
            memory,
            _share: share,
            program: program.clone(),
            weights: weights.collect(),
            widths: ProgramWidths::of(program),
            input_slot: plan.input,
            result: program.shape(program.result()),
            result_slot: plan.result,
            shared_heads: plan.shared_heads,
            steps,
            binds: Vec::new(),
            buffers,
            read,
            spare_block,
            words: Vec::new(),
            rows: Vec::new(),
            ahead: None,
            profile: None,
        };
        loaded.bind();
        Ok(loaded)
    }

    /// Binds every step's buffers.
    fn bind(&mut self) {
        let binds = self.steps.iter().map(|bound| {
            let buffers: Vec<_> = bound
                .step
                .bindings
                .iter()
                .map(|source| self.buffers.get(*source))
                .collect();
            self.device.bind(&bound.pipeline, &buffers)
        });
        self.binds = binds.collect();
        self.ahead = None;
    }

    /// Records a step: all of its dispatches, and the copy of what it answers.
    fn record(&self, layout: &Layout) -> wgpu::CommandBuffer {
        let mut encoder = self
            .device
            .device
            .create_command_encoder(&Default::default());
        match &self.profile {
            None => {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for (i, launch) in self.launches(layout) {
                    self.dispatch(&mut pass, i, &launch);
                }
            }
            Some(profile) => self.record_measured(profile, layout, &mut encoder),
        }
        let n_bytes = self.answer_bytes(layout);
        if n_bytes > 0 {
            let slot = &self.buffers.slots[self.result_slot];
            encoder.copy_buffer_to_buffer(slot, 0, &self.read, 0, n_bytes);
        }
        encoder.finish()
    }

    /// What has something to do in a batch, by its index among the steps.
    fn launches(&self, layout: &Layout) -> impl Iterator<Item = (usize, Launch)> {
        let launches = self.steps.iter().map(|bound| (bound.step.launch)(layout));
        let launches = launches.enumerate();
        launches.filter_map(|(i, launch)| Some((i, launch?)))
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, step: usize, launch: &Launch) {
        let mut immediates = [0; crate::kernels::IMMEDIATE_BYTES as usize];
        for (bytes, word) in immediates.chunks_exact_mut(4).zip(launch.immediates) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        pass.set_pipeline(&self.steps[step].pipeline.pipeline);
        pass.set_bind_group(0, &self.binds[step], &[]);
        pass.set_immediates(0, &immediates);
        let [x, y, z] = launch.grid;
        pass.dispatch_workgroups(x, y, z);
    }

    /// Bytes of a step's answer, with the padding of its rows.
    fn answer_bytes(&self, layout: &Layout) -> u64 {
        let BufShape { rows, width } = self.result;
        u64::from(layout.n_rows(rows)) * 4 * stride(width) as u64
    }

    fn step(&mut self, batch: &Batch<'_>) -> Result<(), DeviceError> {
        let device = self.device.clone();
        let (layout, submission) = device.attempt(|| self.submit(batch))?;
        self.read_answer(&layout, submission.clone())?;
        if let Some(mut profile) = self.profile.take() {
            self.measure(&mut profile, (batch, &layout), submission)?;
            self.profile = Some(profile);
        }
        Ok(())
    }

    /// Writes what is new of a batch.
    fn write(&self, batch: &Batch<'_>) {
        let queue = &self.device.queue;
        let bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_le_bytes()).collect();
        queue.write_buffer(&self.buffers.batch, 0, &bytes);
        if let Some(slot) = self.input_slot {
            let width = self.widths.input;
            let padding = vec![0; 4 * (stride(width) - width)];
            let mut bytes = Vec::with_capacity(4 * stride(width) * batch.tokens.len());
            for row in batch.input.chunks(width) {
                bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
                bytes.extend_from_slice(&padding);
            }
            queue.write_buffer(&self.buffers.slots[slot], 0, &bytes);
        }
    }

    /// Submits a step, and records the next while the device computes.
    fn submit(
        &mut self,
        batch: &Batch<'_>,
    ) -> Result<(Layout, wgpu::SubmissionIndex), DeviceError> {
        let layout = lay_out(
            batch,
            self.program.ropes(),
            &self.shared_heads,
            &mut self.words,
        );
        let n_bytes = 4 * self.words.len() as u64;
        if n_bytes > self.buffers.batch.size() {
            let size = n_bytes.next_power_of_two();
            let larger = || Ok(self.device.buffer("batch", size, STORAGE));
            // Where there is no memory for it, the next step has what was there.
            self.buffers.batch = self.device.attempt(larger)?;
            self.bind();
        }
        self.device.attempt(|| {
            self.write(batch);
            Ok(())
        })?;
        let recorded = self.ahead.take().filter(|(ahead, _)| *ahead == layout);
        let commands = match recorded {
            Some((_, commands)) => commands,
            None => self.record(&layout),
        };
        let submission = self.device.submit(Some(commands))?;
        // What a step is told of its tokens, its blocks and their places is
        // in a buffer, and not in the commands. What is measured has the device to itself.
        let ahead = match self.profile {
            None => layout_ahead(batch, self.program.ropes(), &self.shared_heads),
            Some(_) => None,
        };
        self.ahead = ahead.map(|ahead| {
            let commands = self.record(&ahead);
            (ahead, commands)
        });
        Ok((layout, submission))
    }

    /// Waits for a step, and reads what it answers.
    fn read_answer(
        &mut self,
        layout: &Layout,
        submission: wgpu::SubmissionIndex,
    ) -> Result<(), DeviceError> {
        let n_bytes = self.answer_bytes(layout);
        let width = self.result.width;
        let row_bytes = 4 * stride(width);
        self.rows.clear();
        if n_bytes == 0 {
            return self.device.wait(submission);
        }
        let rows = &mut self.rows;
        self.device
            .read(&self.read, n_bytes, submission, &mut |bytes| {
                for row in bytes.chunks_exact(row_bytes) {
                    let numbers = row[..4 * width].chunks_exact(4);
                    rows.extend(numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                }
            })
    }
}

impl Executable for Loaded {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        batch.check(&self.limits, &self.widths);
        self.step(batch)?;
        Ok(&self.rows)
    }

    fn start_profile(&mut self) -> bool {
        let features = self.device.device.features();
        if !features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            return false;
        }
        self.profile = Some(self.new_profile());
        self.ahead = None;
        true
    }

    fn take_profile(&mut self) -> Vec<StepProfile> {
        match self.profile.take() {
            Some(profile) => self.step_profiles(profile),
            None => Vec::new(),
        }
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        assert!((from.max(to) as usize) < self.limits.n_kv_blocks, "block");
        let Device { device, queue, .. } = &*self.device;
        self.device.attempt(|| {
            let mut encoder = device.create_command_encoder(&Default::default());
            // Not from a buffer to itself, which the interface forbids.
            for (cache, block) in self.buffers.keys.iter().chain(&self.buffers.values) {
                let (from, to) = (u64::from(from) * block, u64::from(to) * block);
                encoder.copy_buffer_to_buffer(cache, from, &self.spare_block, 0, *block);
                encoder.copy_buffer_to_buffer(&self.spare_block, 0, cache, to, *block);
            }
            queue.submit([encoder.finish()]);
            Ok(())
        })
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn memory(&self) -> Memory {
        self.memory
    }
}

#[cfg(test)]
mod tests {
    use minerva_compute::{Builder, KvType, Sequence, Weight};

    use super::*;
    use crate::device::{GpuOptions, Held};
    use crate::testing;

    const LIMITS: Limits = Limits {
        max_tokens: 4,
        max_outputs: 4,
        max_between: 0,
        n_kv_blocks: 1,
        kv_types: KvTypes::both(KvType::F32),
    };

    fn open() -> Option<Arc<Device>> {
        testing::opened(Device::open(&GpuOptions::default())).map(Arc::new)
    }

    fn program() -> Program {
        let mut b = Builder::new();
        let values: Vec<f32> = (0..1 << 20).map(|i| i as f32 / 1e6).collect();
        let embd = b.weight(Weight::from_f32("embd", (1 << 10, 1 << 10), &values));
        let x = b.embed(embd);
        let x = b.outputs(x);
        let logits = b.matmul(x, embd);
        b.finish(logits)
    }

    fn run(model: &mut Loaded) -> Result<(), DeviceError> {
        let ran = model.run(&Batch {
            tokens: &[1, 2],
            sequences: &[Sequence {
                n_tokens: 2,
                start: 0,
                blocks: &[0],
            }],
            outputs: &[1],
            input: &[],
        });
        ran.map(|_| ())
    }

    #[test]
    fn everything_is_given_back() {
        let Some(device) = open() else { return };
        let mut before: Option<Held> = None;
        for i in 0..6 {
            let mut model =
                Loaded::load(device.clone(), &program(), LIMITS, 0, &|_, _| {}).unwrap();
            run(&mut model).unwrap();
            let during = device.held().unwrap();
            drop(model);
            let after = device.held().unwrap();
            assert!(during.bytes.is_none() || during.bytes > after.bytes);
            assert!(during.objects > after.objects);
            // What the first leaves behind stays: its kernels, and buffers for uploads.
            match i {
                0 => before = Some(after),
                _ => {
                    let before = before.expect("of the first");
                    assert!(after.bytes <= before.bytes, "{after:?} after {before:?}");
                    assert_eq!(after.objects, before.objects);
                }
            }
        }
    }

    #[test]
    fn a_file_of_weights_is_read_in_place_and_let_go() {
        use minerva_compute::{Bytes, conformance::Paged};
        let Some(device) = open() else { return };
        let in_vectors = program();
        let weight = &in_vectors.weights()[0];
        let bytes = [&[0; 32], weight.bytes(), &[0; 600]].concat();
        let file = Arc::new(Paged::new(&bytes));
        let paged = |file: &Arc<Paged>| {
            let bytes = Bytes::new(file.clone(), 32..32 + weight.bytes().len()).unwrap();
            let shape = (weight.n_rows(), weight.row_len());
            let mut b = Builder::new();
            let embd = b.weight(Weight::new("embd", weight.dtype(), shape, bytes).unwrap());
            let x = b.embed(embd);
            let x = b.outputs(x);
            let logits = b.matmul(x, embd);
            b.finish(logits)
        };
        let is_software = device.info.kind == crate::device::AdapterKind::Software;
        assert!(!is_software || device.abilities.page_bytes.is_some());
        let told = std::sync::atomic::AtomicU64::new(0);
        let tell = |_, total| told.store(total, std::sync::atomic::Ordering::Relaxed);
        let load = |program: &Program| {
            told.store(0, std::sync::atomic::Ordering::Relaxed);
            let mut model = Loaded::load(device.clone(), program, LIMITS, 0, &tell).unwrap();
            run(&mut model).unwrap();
            (model, told.load(std::sync::atomic::Ordering::Relaxed))
        };
        let (copy, n_copied) = load(&paged(&Arc::new(Paged::shifted(&bytes, 8))));
        assert_eq!(n_copied, weight.bytes().len() as u64);
        let (model, n_copied) = load(&paged(&file));
        assert_eq!(n_copied == 0, device.abilities.page_bytes.is_some());
        assert_eq!(model.rows, copy.rows);
        assert_eq!(
            model.memory.device.weights_bytes,
            weight.bytes().len() as u64
        );
        assert!(Arc::strong_count(&file) > 1);
        let refused = lower_onto(&device, &paged(&file), &LIMITS, &|_| None);
        let (plan, in_place) = refused.unwrap();
        let is_copied = |upload: &Upload| matches!(upload, Upload::Rows(_));
        assert!(plan.uploads.iter().all(is_copied) && in_place.is_empty());
        drop(plan);
        drop(model);
        device.wait(device.submit(None).unwrap()).unwrap();
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn blocks_of_16_bytes_are_read_in_place_where_they_lie_so() {
        use minerva_compute::conformance::{Paged, Random, weight};
        use minerva_compute::{Bytes, DType};
        let Some(device) = open() else { return };
        let in_vector = weight(&mut Random(1), DType::Q4K, (64, 256));
        let run_at = |at: usize| {
            let file = [&vec![0; at], in_vector.bytes(), &[0; 600]].concat();
            let range = at..at + in_vector.bytes().len();
            let bytes = Bytes::new(Arc::new(Paged::new(&file)), range).unwrap();
            let mut b = Builder::new();
            let matrix = b.weight(Weight::new("matrix", DType::Q4K, (64, 256), bytes).unwrap());
            let x = b.embed(matrix);
            let x = b.outputs(x);
            let logits = b.matmul(x, matrix);
            let program = b.finish(logits);
            let told = std::sync::atomic::AtomicU64::new(0);
            let tell = |_, total| told.store(total, std::sync::atomic::Ordering::Relaxed);
            let mut model = Loaded::load(device.clone(), &program, LIMITS, 0, &tell).unwrap();
            run(&mut model).unwrap();
            (
                told.load(std::sync::atomic::Ordering::Relaxed),
                model.rows.clone(),
            )
        };
        let (in_place, rows) = run_at(48);
        let (copied, same_rows) = run_at(40);
        assert_eq!(in_place == 0, device.abilities.page_bytes.is_some());
        assert_eq!(copied, in_vector.bytes().len() as u64);
        assert_eq!(rows, same_rows);
    }

    #[test]
    fn subgroups_of_a_fixed_size_are_used() {
        use crate::kernels::Reduction;
        let Some(device) = open() else { return };
        let info = device.device.adapter_info();
        let has_subgroups = device.device.features().contains(wgpu::Features::SUBGROUP);
        if has_subgroups && info.subgroup_min_size == info.subgroup_max_size {
            let wanted = Reduction::Subgroup(info.subgroup_min_size);
            assert_eq!(device.abilities.reduction, wanted);
        }
    }

    #[test]
    fn the_next_step_of_a_sequence_is_recorded_ahead() {
        let Some(device) = open() else { return };
        let mut model = Loaded::load(device, &program(), LIMITS, 0, &|_, _| {}).unwrap();
        let mut words = Vec::new();
        // A second block begins at position 16.
        for start in 0..20 {
            let batch = Batch {
                tokens: &[start as u32],
                sequences: &[Sequence {
                    n_tokens: 1,
                    start,
                    blocks: &[0, 0],
                }],
                outputs: &[0],
                input: &[],
            };
            let layout = lay_out(
                &batch,
                model.program.ropes(),
                &model.shared_heads,
                &mut words,
            );
            let ahead = model.ahead.as_ref().map(|(layout, _)| layout);
            assert_eq!(ahead, (start > 0).then_some(&layout), "position {start}");
            let from_ahead = model.run(&batch).unwrap().to_vec();
            model.ahead = None;
            assert_eq!(model.run(&batch).unwrap(), from_ahead);
        }
    }

    #[test]
    fn a_lost_device_fails_every_later_step() {
        let Some(device) = open() else { return };
        let mut model = Loaded::load(device.clone(), &program(), LIMITS, 0, &|_, _| {}).unwrap();
        run(&mut model).unwrap();
        device.lose("taken away");
        for _ in 0..2 {
            let error = run(&mut model).unwrap_err();
            assert_eq!(error, DeviceError::Lost("taken away".into()));
        }
        let loaded = Loaded::load(device, &program(), LIMITS, 0, &|_, _| {});
        assert!(matches!(loaded.err(), Some(DeviceError::Lost(_))));
    }

    #[test]
    fn a_step_that_is_refused_spoils_no_other() {
        let Some(device) = open() else { return };
        let load = || Loaded::load(device.clone(), &program(), LIMITS, 0, &|_, _| {}).unwrap();
        let (mut model, mut other) = (load(), load());
        run(&mut model).unwrap();
        let want = model.rows.clone();
        // Writing to it fails, and submitting what reads it.
        model.buffers.batch.destroy();
        for _ in 0..2 {
            let error = run(&mut model).unwrap_err();
            assert!(matches!(error, DeviceError::Refused(_)), "{error}");
            run(&mut other).unwrap();
            assert_eq!(other.rows, want);
        }
        model.buffers.batch = device.buffer("batch", 4096, STORAGE);
        model.bind();
        run(&mut model).unwrap();
        assert_eq!(model.rows, want);
    }

    #[test]
    fn what_fails_is_the_error_of_who_asked_for_it() {
        let Some(device) = open() else { return };
        let both_are_in = std::sync::Barrier::new(2);
        let attempt = |fails: bool| {
            device.attempt(|| {
                both_are_in.wait();
                if fails {
                    device.buffer("nobody's usage", 16, wgpu::BufferUsages::empty());
                }
                both_are_in.wait();
                Ok(())
            })
        };
        let [fails, other] = std::thread::scope(|scope| {
            [true, false]
                .map(|fails| scope.spawn(move || attempt(fails)))
                .map(|thread| thread.join().unwrap())
        });
        assert!(matches!(fails, Err(DeviceError::Refused(_))), "{fails:?}");
        assert_eq!(other, Ok(()));
        let mut model = Loaded::load(device.clone(), &program(), LIMITS, 0, &|_, _| {}).unwrap();
        run(&mut model).unwrap();
        // What nobody attempts is nobody's error: then the device is lost.
        device.buffer("nobody's usage", 16, wgpu::BufferUsages::empty());
        let error = run(&mut model).unwrap_err();
        assert!(matches!(error, DeviceError::Lost(_)), "{error}");
    }

    #[test]
    fn a_kernel_that_is_no_kernel_is_named() {
        let Some(device) = open() else { return };
        let error = device.compile("broken", "fn main( {", &[]).err().unwrap();
        assert!(
            matches!(&error, DeviceError::Kernel { name, .. } if name == "broken"),
            "{error}"
        );
        // And the device goes on.
        let mut model = Loaded::load(device, &program(), LIMITS, 0, &|_, _| {}).unwrap();
        run(&mut model).unwrap();
    }
}
