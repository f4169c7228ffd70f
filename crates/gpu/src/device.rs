//! Adapters and devices: which there are, what they can do, and the kernels compiled for them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use minerva_compute::{DeviceError, DeviceMemory, OnDevice};

use crate::driver::{DriverMemory, driver_memory, has_integer_dots};
use crate::in_place;
use crate::kernels::{
    Abilities, HALF_TILE_BYTES, IMMEDIATE_BYTES, Kernel, MAX_BINDINGS, MAX_LANES, MatrixUnits,
    Reduction, WORKGROUP, WORKGROUP_BYTES,
};

/// The longest that a step may take. A device that is silent for longer is as good as lost.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same of a processor that stands in, which has other work to do, too.
const PATIENCE_WITH_SOFTWARE: Duration = Duration::from_secs(1200);

/// What the kernels cannot do without.
const FEATURES: wgpu::Features = wgpu::Features::IMMEDIATES;

/// An adapter, as the system describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Metal or Vulkan.
    pub interface: String,
    /// Discrete, integrated, virtual, a processor that stands in, or unknown.
    pub kind: AdapterKind,
    /// The driver and its version.
    pub driver: String,
    /// Bytes that all buffers may take, where the driver says.
    pub memory_bytes: Option<u64>,
    /// Bytes of these that this process may have, what it has already included, where the driver keeps
    /// count of what others have.
    pub process_memory_bytes: Option<u64>,
    /// Bytes of one buffer that a kernel can see.
    pub max_binding_bytes: u64,
}

/// What an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// Has memory of its own.
    Discrete,
    /// Shares the processor's memory.
    Integrated,
    /// Of a virtual machine.
    Virtual,
    /// Unknown.
    Other,
    /// The processor itself.
    Software,
}

impl AdapterKind {
    /// The name in output formats.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "unknown",
            AdapterKind::Software => "software",
        }
    }
}

/// Which adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that is not the processor itself.
    Hardware,
    /// The best.
    #[default]
    Best,
    /// The best that has this name, or else of those whose name contains it, in upper or lower case.
    Named(String),
}

/// How a device is opened. Whatever is chosen, results are the same up to rounding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Which adapter.
    pub choice: Choice,
    /// Adds up through workgroup memory, even where subgroups would do.
    pub without_subgroups: bool,
    /// Multiplies in tiles, even where matrix units would do.
    pub without_matrix_units: bool,
    /// Whether blocks are multiplied with a few tokens through dots of four bytes, with activations of 16
    /// bits; `None`: where the device says that it has an instruction for them, and 1024 lanes of a
    /// workgroup.
    pub integer_dots: Option<bool>,
    /// Copies weights to memory of the device's own, even where it could read them in place.
    pub copies_weights: bool,
    /// Compiles kernels with checks of every access.
    pub checks_accesses: bool,
    /// No buffer that a kernel sees is larger than this; `None`: what the adapter allows.
    pub max_binding_bytes: Option<u64>,
    /// Weights, cache and scratch memory of all programs take no more than this; `None`: nine tenths of
    /// what the driver says that this process may have, or else that there is.
    pub memory_bytes: Option<u64>,
}

impl GpuOptions {
    /// Bytes that programs may take together on an adapter; `None` where nobody knows.
    fn budget_bytes(&self, memory: DriverMemory) -> Option<u64> {
        let most = memory.process_bytes.or(memory.total_bytes);
        // What shows pictures needs some too.
        self.memory_bytes.or(most.map(|bytes| bytes / 10 * 9))
    }
}

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// None that was asked for.
    #[error("GPU: no {wanted}, found {}", list(found))]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters that there are.
        found: Vec<String>,
    },
    /// It lacks something.
    #[error("{adapter}: {found}, expected {wanted}")]
    Unsuitable {
        /// Its name.
        adapter: String,
        /// What it has.
        found: String,
        /// What the kernels need.
        wanted: String,
    },
    /// It failed at once.
    #[error("{adapter}: {error}")]
    Failed {
        /// Its name.
        adapter: String,
        /// How.
        error: DeviceError,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        names => names.join(", "),
    }
}

/// The adapters of this machine, the best first.
pub fn adapters() -> Vec<AdapterInfo> {
    enumerate().1.iter().map(describe).collect()
}

fn enumerate() -> (wgpu::Instance, Vec<wgpu::Adapter>) {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    // Validation layers, where a developer has them, are for debug builds of wgpu's users.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    adapters.sort_by_key(|adapter| describe(adapter).kind);
    (instance, adapters)
}

fn describe(adapter: &wgpu::Adapter) -> AdapterInfo {
    let info = adapter.get_info();
    let memory = driver_memory(adapter);
    AdapterInfo {
        name: info.name,
        interface: info.backend.to_string(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::Other => AdapterKind::Other,
        },
        driver: format!("{} {}", info.driver, info.driver_info)
            .trim()
            .into(),
        memory_bytes: memory.total_bytes,
        process_memory_bytes: memory.process_bytes,
        max_binding_bytes: adapter.limits().max_storage_buffer_binding_size,
    }
}

/// The matrix units that an adapter says it has, the most exact ones.
fn matrix_units(adapter: &wgpu::Adapter) -> MatrixUnits {
    use wgpu::CooperativeScalarType::{F16, F32};
    let (features, limits) = (adapter.features(), adapter.limits());
    let has = |size, ab, cr| {
        let is_fit = |p: &wgpu::CooperativeMatrixProperties| {
            [p.m_size, p.n_size, p.k_size] == [size; 3] && (p.ab_type, p.cr_type) == (ab, cr)
        };
        let properties = adapter.cooperative_matrix_properties();
        properties.iter().any(is_fit)
    };
    if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return MatrixUnits::None;
    }
    let has_room = limits.max_compute_workgroup_storage_size >= HALF_TILE_BYTES;
    match features.contains(wgpu::Features::SHADER_F16) && has_room {
        _ if has(8, F32, F32) => MatrixUnits::F32,
        true if has(16, F16, F32) => MatrixUnits::F16,
        _ => MatrixUnits::None,
    }
}

/// A device that is open.
pub(crate) struct Device {
    pub(crate) info: AdapterInfo,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) abilities: Abilities,
    pub(crate) max_binding_bytes: u64,
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    options: GpuOptions,
    /// Of programs that are loaded.
    taken_bytes: AtomicU64,
    pipelines: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
    /// Why it is lost, if it is.
    loss: Arc<OnceLock<String>>,
}

/// What has been made on a device and not been given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of its memory, where its interface tells.
    pub bytes: Option<u64>,
    /// Buffers, their bindings, kernels, commands, times. Kernels are kept for the next program.
    pub objects: usize,
}

/// Memory that a program has.
pub(crate) struct Share {
    device: Arc<Device>,
    n_bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = &self.device.taken_bytes;
        taken.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

/// A kernel that is compiled.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Device {
    pub(crate) fn open(options: &GpuOptions) -> Result<Device, OpenError> {
        let (instance, adapters) = enumerate();
        let infos: Vec<AdapterInfo> = adapters.iter().map(describe).collect();
        let is_wanted = |info: &AdapterInfo| match &options.choice {
            Choice::Best => true,
            Choice::Hardware => info.kind != AdapterKind::Software,
            Choice::Named(name) => info.name.to_lowercase().contains(&name.to_lowercase()),
        };
        // A name may be a part of another.
        let is_named = |info: &AdapterInfo| match &options.choice {
            Choice::Named(name) => info.name.to_lowercase() == name.to_lowercase(),
            _ => false,
        };
        let exact = infos.iter().position(is_named);
        let Some(idx) = exact.or_else(|| infos.iter().position(is_wanted)) else {
            return Err(OpenError::NoAdapter {
                wanted: match &options.choice {
                    Choice::Best => "adapter".into(),
                    Choice::Hardware => "adapter but the processor itself".into(),
                    Choice::Named(name) => format!("adapter whose name contains {name:?}"),
                },
                found: infos.into_iter().map(|info| info.name).collect(),
            });
        };
        let (adapter, info) = (&adapters[idx], infos[idx].clone());
        let unsuitable = |found: String, wanted: String| OpenError::Unsuitable {
            adapter: info.name.clone(),
            found,
            wanted,
        };
        if !adapter.features().contains(FEATURES) {
            return Err(unsuitable(
                "no immediate data".into(),
                "push constants of Vulkan, or Metal".into(),
            ));
        }
        let limits = adapter.limits();
        for (found, wanted, what) in [
            (
                limits.max_immediate_size,
                IMMEDIATE_BYTES,
                "bytes of immediate data",
            ),
            (
                limits.max_storage_buffers_per_shader_stage,
                MAX_BINDINGS,
                "buffers for a kernel",
            ),
            (
                limits.max_compute_workgroup_storage_size,
                WORKGROUP_BYTES,
                "bytes of workgroup memory",
            ),
        ] {
            if found < wanted {
                return Err(unsuitable(format!("{found} {what}"), wanted.to_string()));
            }
        }
        let units = match options.without_matrix_units {
            true => MatrixUnits::None,
            false => matrix_units(adapter),
        };
        let welcome = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let mut features = FEATURES | (adapter.features() & welcome);
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if units == MatrixUnits::F16 {
            features |= wgpu::Features::SHADER_F16;
        }
        if units != MatrixUnits::None {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: the one such feature that is asked for is used by kernels of ours alone, whose
            // matrices lie within their workgroup's memory.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("minerva"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let failed = |error| OpenError::Failed {
            adapter: info.name.clone(),
            error,
        };
        let page_bytes = match options.copies_weights {
            true => None,
            false => in_place::page_bytes(adapter, info.kind),
        };
        let requested = match page_bytes {
            Some(_) => in_place::request_device(adapter, &descriptor),
            None => pollster::block_on(adapter.request_device(&descriptor))
                .map_err(|error| error.to_string()),
        };
        let (device, queue) = requested.map_err(|error| failed(DeviceError::Refused(error)))?;
        let has_lanes = limits.max_compute_invocations_per_workgroup >= MAX_LANES
            && limits.max_compute_workgroup_size_x >= MAX_LANES;
        let has_integer_dots = options
            .integer_dots
            .unwrap_or_else(|| has_lanes && has_integer_dots(adapter));
        if has_integer_dots && !has_lanes {
            let most = limits.max_compute_invocations_per_workgroup;
            return Err(unsuitable(
                format!("{most} lanes of a workgroup"),
                format!("{MAX_LANES} for integer dots"),
            ));
        }
        let loss = Arc::new(OnceLock::new());
        let handler = loss.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            // Nobody waits for it, so that nobody knows what it has spoiled: all is made anew.
            _ = handler.set(error.to_string());
        }));
        let handler = loss.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping it is no failure.
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                _ = handler.set(message);
            }
        });
        let wgpu_info = adapter.get_info();
        let max_binding_bytes = limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size)
            // Bytes are counted in 32 bits within a kernel.
            .min(u64::from(u32::MAX) - 4096);
        let mut opened = Device {
            info: info.clone(),
            device,
            queue,
            abilities: Abilities {
                reduction: Reduction::Shared,
                units: MatrixUnits::None,
                has_integer_dots,
                page_bytes,
            },
            max_binding_bytes: options
                .max_binding_bytes
                .map_or(max_binding_bytes, |bytes| bytes.min(max_binding_bytes)),
            instance,
            adapter: adapter.clone(),
            options: options.clone(),
            taken_bytes: AtomicU64::new(0),
            pipelines: Mutex::default(),
            loss,
        };
        if features.contains(wgpu::Features::SUBGROUP) && !options.without_subgroups {
            // Where a driver chooses the size anew for each kernel, that of the probe says nothing.
            // On Metal the range is a constant of wgpu's and not the adapter's.
            let is_fixed = wgpu_info.subgroup_min_size == wgpu_info.subgroup_max_size
                || wgpu_info.backend == wgpu::Backend::Metal;
            let size = match opened.probe() {
                // A driver that refuses this kernel may take those that do without.
                Err(DeviceError::Kernel { .. } | DeviceError::Refused(_)) => None,
                probed => probed.map_err(failed)?,
            };
            if let Some(size) = size.filter(|_| is_fixed) {
                opened.abilities.reduction = Reduction::Subgroup(size);
                // A tile is cut for subgroups of 32.
                if size == 32 {
                    opened.abilities.units = units;
                }
            }
        }
        Ok(opened)
    }

    /// What programs may take of its memory, and have taken.
    pub(crate) fn memory(&self) -> DeviceMemory {
        DeviceMemory {
            budget_bytes: self.options.budget_bytes(driver_memory(&self.adapter)),
            taken_bytes: self.taken_bytes.load(Ordering::Relaxed),
            is_shared: match self.info.kind {
                AdapterKind::Discrete => false,
                AdapterKind::Integrated | AdapterKind::Software => true,
                // Nobody knows; to count it twice is safe.
                AdapterKind::Virtual | AdapterKind::Other => true,
            },
        }
    }

    /// Takes memory for a program, which has it until it drops what it is given; an error where less is
    /// left.
    pub(crate) fn take(self: &Arc<Self>, memory: &OnDevice) -> Result<Share, DeviceError> {
        let n_bytes = memory.total_bytes();
        let budget = self.memory().budget_bytes.unwrap_or(u64::MAX);
        // At once, as several programs may be loaded at a time.
        let with = |taken: u64| {
            let taken = taken.saturating_add(n_bytes);
            (taken <= budget).then_some(taken)
        };
        let relaxed = Ordering::Relaxed;
        self.taken_bytes
            .fetch_update(relaxed, relaxed, with)
            .map_err(|taken| DeviceError::NoRoom {
                what: format!(
                    "weights ({}), cache ({}) and activations ({})",
                    memory.weights_bytes, memory.kv_bytes, memory.scratch_bytes
                ),
                wanted_bytes: n_bytes,
                available_bytes: budget.saturating_sub(taken),
            })?;
        Ok(Share {
            device: self.clone(),
            n_bytes,
        })
    }

    /// What is held once all is done that was submitted.
    pub(crate) fn held(&self) -> Result<Held, DeviceError> {
        self.wait(self.submit(None)?)?;
        let report = self.device.generate_allocator_report();
        let objects = self.instance.generate_report().map_or(0, |report| {
            let hub = report.hub;
            let registries = [
                hub.bind_group_layouts,
                hub.bind_groups,
                hub.buffers,
                hub.command_buffers,
                hub.command_encoders,
                hub.compute_passes,
                hub.compute_pipelines,
                hub.pipeline_layouts,
                hub.query_sets,
                hub.shader_modules,
            ];
            registries.iter().map(|all| all.num_kept_from_user).sum()
        });
        Ok(Held {
            bytes: report.map(|report| report.total_allocated_bytes),
            objects,
        })
    }

    /// The size of subgroups, where they divide a workgroup in the order of its lanes and add up.
    fn probe(&self) -> Result<Option<u32>, DeviceError> {
        self.attempt(|| self.probed())
    }

    fn probed(&self) -> Result<Option<u32>, DeviceError> {
        let pipeline = self.compile("probe", include_str!("wgsl/probe.wgsl"), &[true])?;
        let n_bytes = u64::from(WORKGROUP) * 12;
        let out = self.buffer(
            "probe",
            n_bytes,
            wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        );
        let read = self.buffer(
            "probe",
            n_bytes,
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        );
        let bind = self.bind(&pipeline, &[&out]);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &bind, &[]);
            pass.set_immediates(0, &[0; IMMEDIATE_BYTES as usize]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&out, 0, &read, 0, n_bytes);
        let submission = self.submit(Some(encoder.finish()))?;
        let mut words = Vec::new();
        self.read(&read, n_bytes, submission, &mut |bytes| {
            let numbers = bytes.chunks_exact(4);
            words = numbers
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
        })?;
        let size = words[0];
        let is_fit = (4..=WORKGROUP).contains(&size)
            && WORKGROUP.is_multiple_of(size)
            && (0..WORKGROUP).zip(words.chunks(3)).all(|(lane, found)| {
                let first = lane / size * size;
                found == [size, lane - first, (first..first + size).sum()]
            });
        Ok(is_fit.then_some(size))
    }

    /// A kernel, compiled when it is first asked for.
    pub(crate) fn pipeline(&self, kernel: Kernel) -> Result<Arc<Pipeline>, DeviceError> {
        let mut pipelines = self
            .pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let source = kernel.source(self.abilities.reduction);
        let compiled = self.compile(&kernel.to_string(), &source, kernel.bindings())?;
        let pipeline = Arc::new(compiled);
        pipelines.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }

    pub(crate) fn compile(
        &self,
        name: &str,
        source: &str,
        bindings: &[bool],
    ) -> Result<Pipeline, DeviceError> {
        self.attempt(|| Ok(self.compiled(name, source, bindings)))
            .map_err(|error| match error {
                DeviceError::Refused(reason) => DeviceError::Kernel {
                    name: name.into(),
                    reason,
                },
                other => other,
            })
    }

    fn compiled(&self, name: &str, source: &str, bindings: &[bool]) -> Pipeline {
        let entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .map(|(binding, &is_written)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage {
                        read_only: !is_written,
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(name),
                entries: &entries,
            });
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: IMMEDIATE_BYTES,
            });
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = match self.options.checks_accesses {
            true => self.device.create_shader_module(descriptor),
            // SAFETY: the kernels are ours and read and write within their buffers, for every batch
            // that `Batch::check` lets through; the conformance cases run with checks as well, and
            // give the same results. Every loop of theirs ends.
            false => unsafe {
                self.device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            },
        };
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every kernel writes what it reads there.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
        Pipeline { pipeline, layout }
    }

    pub(crate) fn buffer(
        &self,
        label: &str,
        n_bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: n_bytes,
            usage,
            mapped_at_creation: false,
        })
    }

    pub(crate) fn bind(&self, pipeline: &Pipeline, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
        let entries: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        })
    }

    /// Calls the device's interface. What that reports in this thread meanwhile is the caller's error, not
    /// that of another program on the same device.
    pub(crate) fn attempt<T>(
        &self,
        call: impl FnOnce() -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        self.check()?;
        let scopes =
            [OutOfMemory, Validation, Internal].map(|filter| self.device.push_error_scope(filter));
        let result = call();
        let mut reported = None;
        for scope in scopes.into_iter().rev() {
            // Of several, lack of memory is the cause.
            reported = pollster::block_on(scope.pop()).or(reported);
        }
        self.check()?;
        match reported {
            Some(error) => Err(from_wgpu(&error)),
            None => result,
        }
    }

    /// Submits commands, or nothing but what was written to buffers.
    pub(crate) fn submit(
        &self,
        commands: Option<wgpu::CommandBuffer>,
    ) -> Result<wgpu::SubmissionIndex, DeviceError> {
        self.attempt(|| Ok(self.queue.submit(commands)))
    }

    /// Waits for a submission, and gives the first bytes of a buffer that it filled.
    pub(crate) fn read(
        &self,
        buffer: &wgpu::Buffer,
        n_bytes: u64,
        submission: wgpu::SubmissionIndex,
        use_bytes: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        self.attempt(|| {
            buffer.map_async(wgpu::MapMode::Read, 0..n_bytes, |_| {});
            let read = self.wait(submission).and_then(|()| {
                let mapped = buffer.get_mapped_range(0..n_bytes);
                let mapped = mapped.map_err(|error| self.lost(error.to_string()))?;
                use_bytes(&mapped);
                Ok(())
            });
            // Whatever failed: nothing that copies to it is submitted while it is mapped.
            buffer.unmap();
            read
        })
    }

    /// Waits for a submission.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), DeviceError> {
        let wait = wgpu::PollType::Wait {
            submission_index: Some(submission),
            timeout: Some(match self.info.kind {
                AdapterKind::Software => PATIENCE_WITH_SOFTWARE,
                _ => PATIENCE,
            }),
        };
        // A device that is lost meanwhile is no error of wgpu's, but a panic.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(wait)));
        self.check()?;
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.lost(error.to_string())),
            Err(_) => Err(self.lost("it failed while it was waited for".into())),
        }
    }

    /// Goes as a device goes that is taken away.
    pub(crate) fn lose(&self, reason: &str) {
        self.lost(reason.into());
        self.device.destroy();
    }

    /// Notes that it is lost: nothing that is under way will end.
    fn lost(&self, reason: String) -> DeviceError {
        DeviceError::Lost(self.loss.get_or_init(|| reason).clone())
    }

    /// Whether it is lost, as it stays then.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        match self.loss.get() {
            None => Ok(()),
            Some(reason) => Err(DeviceError::Lost(reason.clone())),
        }
    }
}

fn from_wgpu(error: &wgpu::Error) -> DeviceError {
    match error {
        wgpu::Error::OutOfMemory { source } => DeviceError::OutOfMemory(source.to_string()),
        wgpu::Error::Validation { description, .. } => DeviceError::Refused(description.clone()),
        wgpu::Error::Internal { description, .. } => DeviceError::Refused(description.clone()),
    }
}
