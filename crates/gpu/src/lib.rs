//! The GPU backend: a program's operations as WGSL kernels, through Metal on macOS and Vulkan
//! elsewhere.
//!
//! Weights are uploaded once, as they are in the file, or read there, where the device has the
//! processor's memory; kernels read the packed blocks. A step is one submission of dispatches whose
//! buffers were bound when the program was loaded, and one read of the logits; the next one is recorded
//! meanwhile. The system's loader is looked for at run time: without it there are no adapters.

pub mod speed;
#[doc(hidden)]
pub mod testing;

mod batch;
mod device;
mod driver;
mod dtypes;
mod exec;
mod in_place;
mod kernels;
mod lower;
#[cfg(test)]
mod msl;

use std::sync::{Arc, Mutex, PoisonError};

use minerva_compute::{
    Backend, BackendError, DType, DeviceError, DeviceMemory, Executable, Limits, Memory, Program,
    conformance, kv_block_bytes,
};

pub use device::{AdapterInfo, AdapterKind, Choice, GpuOptions, Held, OpenError, adapters};

use device::Device;
use exec::{Loaded, cache_sizes, memory};
use kernels::{Abilities, Form, MatrixUnits, Reduction};
use lower::lower;

/// Runs programs on a GPU.
pub struct GpuBackend {
    options: GpuOptions,
    info: AdapterInfo,
    abilities: Abilities,
    max_binding_bytes: u64,
    /// Opened anew when a program is loaded after it was lost.
    device: Mutex<Arc<Device>>,
    on_upload: Box<dyn Fn(u64, u64) + Send + Sync>,
}

impl GpuBackend {
    /// Opens a device.
    pub fn new(options: &GpuOptions) -> Result<GpuBackend, OpenError> {
        let backend = GpuBackend::open(options)?;
        if backend.abilities.units == MatrixUnits::None || backend.multiplies() {
            return Ok(backend);
        }
        // Not believed, but tried.
        GpuBackend::open(&GpuOptions {
            without_matrix_units: true,
            ..options.clone()
        })
    }

    fn open(options: &GpuOptions) -> Result<GpuBackend, OpenError> {
        let device = Device::open(options)?;
        Ok(GpuBackend {
            options: options.clone(),
            info: device.info.clone(),
            abilities: device.abilities,
            max_binding_bytes: device.max_binding_bytes,
            device: Mutex::new(Arc::new(device)),
            on_upload: Box::new(|_, _| {}),
        })
    }

    /// Whether the kernels for many tokens are right.
    fn multiplies(&self) -> bool {
        let types = [DType::F32, DType::F16, DType::Q4K];
        types.iter().all(|&dtype| {
            let case = conformance::products(dtype);
            case.check(self).is_ok()
        })
    }

    /// How matrices are multiplied with many tokens, for people.
    pub fn multiplication(&self) -> &'static str {
        match self.abilities.units {
            MatrixUnits::F32 => "matrix units",
            MatrixUnits::F16 => "matrix units in f16",
            MatrixUnits::None => "tiles",
        }
    }

    /// How blocks are multiplied with a few tokens, for people.
    pub fn dots(&self) -> &'static str {
        match self.abilities.has_integer_dots {
            true => "integer dots",
            false => "dots in f32",
        }
    }

    /// Whether it reads the weights of a mapped file where they are, and copies no more than what the file
    /// has at its very end, or too far apart for a buffer.
    pub fn reads_in_place(&self) -> bool {
        self.abilities.page_bytes.is_some()
    }

    /// Tells how many bytes of those that are copied are on the device, of how many.
    pub fn on_upload(mut self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> GpuBackend {
        self.on_upload = Box::new(tell);
        self
    }

    /// The adapter that it runs on.
    pub fn adapter(&self) -> &AdapterInfo {
        &self.info
    }

    /// How lanes add up, for people: by subgroups of so many, or through workgroup memory.
    pub fn reduction(&self) -> String {
        match self.abilities.reduction {
            Reduction::Subgroup(size) => format!("subgroups of {size}"),
            Reduction::Shared => "workgroup memory".into(),
        }
    }

    /// Makes the device go as one goes that is taken away, to see that what uses it goes on.
    pub fn lose_device(&self, reason: &str) {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.lose(reason);
    }

    /// What is held on the device, once all that was dropped is given back.
    pub fn held(&self) -> Result<Held, BackendError> {
        let held = self.device().and_then(|device| device.held());
        held.map_err(|error| self.error(error))
    }

    fn device(&self) -> Result<Arc<Device>, DeviceError> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(DeviceError::Lost(_)) = device.check() {
            let opened = Device::open(&self.options);
            *device = Arc::new(opened.map_err(|error| DeviceError::Lost(error.to_string()))?);
        }
        Ok(device.clone())
    }

    fn error(&self, error: DeviceError) -> BackendError {
        BackendError::Device {
            device: self.info.name.clone(),
            error,
        }
    }
}

impl Backend for GpuBackend {
    fn description(&self) -> String {
        let AdapterInfo {
            name, interface, ..
        } = &self.info;
        format!(
            "GPU, {name}, {interface}, {}, {}, {}",
            self.reduction(),
            self.dots(),
            self.multiplication()
        )
    }

    fn kernel(&self, dtype: DType) -> String {
        let few = match self.abilities.form_of_few(dtype) {
            Form::Bytes => "integer dots",
            Form::F32 => "f32",
        };
        let many = match self.abilities.units_for(dtype) {
            MatrixUnits::F16 => "f16",
            MatrixUnits::None | MatrixUnits::F32 => "f32",
        };
        match few == many {
            true => format!("wgsl {few} from {dtype}"),
            false => format!("wgsl {few}, of prompts {many}, from {dtype}"),
        }
    }

    fn tolerance(&self) -> f64 {
        match self.abilities.units {
            // Weights and activations of prompts are rounded to 11 bits.
            MatrixUnits::F16 => 1e-6,
            MatrixUnits::None | MatrixUnits::F32 => conformance::TOLERANCE,
        }
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        // Of a lost device too, until the next one is opened.
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        Some(device.memory())
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        let block_bytes = kv_block_bytes(program.kv(), limits.kv_types)?;
        // Known even while the device is lost.
        let plan = lower(program, &limits, self.abilities, self.max_binding_bytes)
            .map_err(|error| self.error(error))?;
        cache_sizes(program, &limits, self.max_binding_bytes).map_err(|error| self.error(error))?;
        Ok(memory(&plan, program, &limits, block_bytes))
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let block_bytes = kv_block_bytes(program.kv(), limits.kv_types)?;
        let loaded = self
            .device()
            .and_then(|device| {
                Loaded::load(device, &program, limits, block_bytes, &*self.on_upload)
            })
            .map_err(|error| self.error(error))?;
        Ok(Box::new(loaded))
    }
}

#[cfg(test)]
mod tests {
    use minerva_compute::{Batch, Builder, KvTypes, Sequence, Weight};

    use super::*;

    #[test]
    fn a_device_that_was_lost_is_opened_anew() {
        let Some(backend) = testing::opened(GpuBackend::new(&GpuOptions::default())) else {
            return;
        };
        let mut b = Builder::new();
        let embd = b.weight(Weight::from_f32("embd", (2, 4), &[1.0; 8]));
        let x = b.embed(embd);
        let x = b.outputs(x);
        let logits = b.matmul(x, embd);
        let program = b.finish(logits);
        let limits = Limits {
            max_tokens: 1,
            max_outputs: 1,
            max_between: 0,
            n_kv_blocks: 1,
            kv_types: KvTypes::default(),
        };
        for _ in 0..2 {
            let mut model = backend.load(program.clone(), limits).unwrap();
            let logits = model.run(&Batch {
                tokens: &[1],
                sequences: &[Sequence {
                    n_tokens: 1,
                    start: 0,
                    blocks: &[0],
                }],
                outputs: &[0],
                input: &[],
            });
            assert_eq!(logits.unwrap(), [4.0, 4.0]);
            backend.lose_device("taken away");
        }
    }
}
