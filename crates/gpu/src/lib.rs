//! The GPU backend: a program's operations as WGSL kernels, through Metal on macOS and Vulkan
//! elsewhere.
//!
//! Weights are uploaded once, as they are in the file; kernels read the packed blocks. A step is one
//! submission of dispatches whose buffers were bound when the program was loaded, and one read of
//! the logits. The system's loader is looked for at run time: without it there are no adapters.

pub mod conformance;

mod batch;
mod device;
mod dtypes;
mod exec;
mod kernels;
mod lower;
mod memory;
#[cfg(test)]
mod msl;

use std::sync::Arc;

use minerva_compute::{
    Backend, BackendError, DType, DeviceError, Executable, Limits, Memory, Program, kv_block_bytes,
};

pub use device::{AdapterInfo, AdapterKind, Choice, GpuOptions, OpenError, adapters};

use device::Device;
use exec::{Loaded, sizes};
use kernels::Reduction;
use lower::lower;

/// Runs programs on a GPU.
pub struct GpuBackend {
    device: Arc<Device>,
    on_upload: Box<dyn Fn(u64, u64) + Send + Sync>,
}

impl GpuBackend {
    /// Opens a device.
    pub fn new(options: &GpuOptions) -> Result<GpuBackend, OpenError> {
        Ok(GpuBackend {
            device: Arc::new(Device::open(options)?),
            on_upload: Box::new(|_, _| {}),
        })
    }

    /// Tells how many bytes of a model's weights are on the device, of how many.
    pub fn on_upload(mut self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> GpuBackend {
        self.on_upload = Box::new(tell);
        self
    }

    /// The adapter that it runs on.
    pub fn adapter(&self) -> &AdapterInfo {
        &self.device.info
    }

    /// How lanes add up, for people: by subgroups of so many, or through workgroup memory.
    pub fn reduction(&self) -> String {
        match self.device.reduction {
            Reduction::Subgroup(size) => format!("subgroups of {size}"),
            Reduction::Shared => "workgroup memory".into(),
        }
    }

    fn error(&self, error: DeviceError) -> BackendError {
        BackendError::Device {
            device: self.device.info.name.clone(),
            error,
        }
    }
}

impl Backend for GpuBackend {
    fn description(&self) -> String {
        let AdapterInfo {
            name, interface, ..
        } = &self.device.info;
        format!("GPU, {name}, {interface}, {}", self.reduction())
    }

    fn kernel(&self, dtype: DType) -> String {
        format!("wgsl f32 from {dtype}")
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        let block_bytes = kv_block_bytes(program.kv(), limits.kv_types)?;
        let device = &self.device;
        let plan = lower(program, &limits, device.reduction, device.max_binding_bytes)
            .map_err(|error| self.error(error))?;
        Ok(sizes(&plan, program, &limits, block_bytes).memory)
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let block_bytes = kv_block_bytes(program.kv(), limits.kv_types)?;
        let device = self.device.clone();
        let loaded = Loaded::load(device, &program, limits, block_bytes, &*self.on_upload)
            .map_err(|error| self.error(error))?;
        Ok(Box::new(loaded))
    }
}
