//! What computes: the choice of a device and of its threads.

use std::num::NonZeroUsize;
use std::str::FromStr;

use anyhow::bail;
use minerva_compute::cpu::CpuOptions;
use minerva_compute::{Backend, CpuBackend, KvType, KvTypes, ReferenceBackend};

/// What can stand for a device on the command line.
const DEVICE_HELP: &str = "What computes: cpu; gpu, the best adapter; auto, a GPU where there is one; \
     a part of an adapter's name (minerva devices lists them); or reference, plain f32 loops on one \
     thread, the measure for the others";

/// A device by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// A GPU that is not the processor itself, else the processor.
    Auto,
    Cpu,
    Reference,
    /// The best adapter, or the best of those whose name has this.
    Gpu(Option<String>),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Device, String> {
        match name {
            "" => Err("empty, expected a device".into()),
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "reference" => Ok(Device::Reference),
            "gpu" => Ok(Device::Gpu(None)),
            name => Ok(Device::Gpu(Some(name.into()))),
        }
    }
}

/// The options that choose a device and how it keeps what it has seen, for every command that runs
/// a model.
#[derive(clap::Args)]
pub(crate) struct BackendArgs {
    #[arg(long, value_name = "DEVICE", default_value = "cpu", help = DEVICE_HELP)]
    device: Device,

    /// How keys are stored in the KV cache: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", default_value_t)]
    cache_type_k: KvType,

    /// How values are stored in the KV cache, likewise
    #[arg(long, value_name = "TYPE", default_value_t)]
    cache_type_v: KvType,
}

/// A backend that is ready.
pub(crate) struct Opened {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) name: &'static str,
    pub(crate) n_threads: usize,
}

impl BackendArgs {
    /// The types of the KV cache.
    pub(crate) fn kv_types(&self) -> KvTypes {
        KvTypes {
            k: self.cache_type_k,
            v: self.cache_type_v,
        }
    }

    /// Opens the backend; without a number of threads, the CPU takes one per core.
    pub(crate) fn open(&self, n_threads: Option<NonZeroUsize>) -> anyhow::Result<Opened> {
        self.device.open(n_threads)
    }
}

impl Device {
    /// Opens it; without a number of threads, the CPU takes one per core.
    pub(crate) fn open(&self, n_threads: Option<NonZeroUsize>) -> anyhow::Result<Opened> {
        let one_thread = |whose: &str| match n_threads.filter(|n_threads| n_threads.get() > 1) {
            Some(n_threads) => bail!("threads: {n_threads}, expected 1: {whose} has one thread"),
            None => Ok(1),
        };
        match self {
            Device::Auto => match hardware()? {
                Some(backend) => Ok(Opened {
                    backend,
                    name: "gpu",
                    n_threads: 1,
                }),
                None => cpu(n_threads),
            },
            Device::Cpu => cpu(n_threads),
            Device::Reference => Ok(Opened {
                n_threads: one_thread("the reference backend")?,
                backend: Box::new(ReferenceBackend),
                name: "reference",
            }),
            Device::Gpu(name) => Ok(Opened {
                n_threads: one_thread("what drives a GPU")?,
                backend: gpu(name.as_deref())?,
                name: "gpu",
            }),
        }
    }
}

/// The processor, on so many threads.
pub(crate) fn cpu(n_threads: Option<NonZeroUsize>) -> anyhow::Result<Opened> {
    let threads = n_threads.map(NonZeroUsize::get);
    let backend = CpuBackend::new(&CpuOptions { threads, isa: None })?;
    let n_threads = backend.n_threads();
    Ok(Opened {
        backend: Box::new(backend),
        name: "cpu",
        n_threads,
    })
}

/// An adapter by a part of its name, or the best.
#[cfg(feature = "gpu")]
fn gpu(name: Option<&str>) -> anyhow::Result<Box<dyn Backend>> {
    use minerva_gpu::{Choice, GpuOptions};
    let choice = name.map_or(Choice::Best, |name| Choice::Named(name.into()));
    Ok(open_gpu(&GpuOptions {
        choice,
        ..GpuOptions::default()
    })?)
}

/// The best adapter that is not the processor itself, if there is one.
#[cfg(feature = "gpu")]
fn hardware() -> anyhow::Result<Option<Box<dyn Backend>>> {
    use minerva_gpu::{Choice, GpuOptions, OpenError};
    let options = GpuOptions {
        choice: Choice::Hardware,
        ..GpuOptions::default()
    };
    match open_gpu(&options) {
        Ok(backend) => Ok(Some(backend)),
        Err(OpenError::NoAdapter { .. }) => Ok(None),
        Err(error) => {
            crate::output::note(&format!("{error}: the processor computes instead"));
            Ok(None)
        }
    }
}

#[cfg(feature = "gpu")]
fn open_gpu(options: &minerva_gpu::GpuOptions) -> Result<Box<dyn Backend>, minerva_gpu::OpenError> {
    let progress = crate::progress::UploadProgress::new();
    let backend = minerva_gpu::GpuBackend::new(options)?;
    Ok(Box::new(
        backend.on_upload(move |done, total| progress.show(done, total)),
    ))
}

#[cfg(not(feature = "gpu"))]
fn gpu(name: Option<&str>) -> anyhow::Result<Box<dyn Backend>> {
    bail!(
        "device: {}, expected cpu or reference: this build has no GPUs (cargo feature `gpu`)",
        name.unwrap_or("gpu")
    )
}

#[cfg(not(feature = "gpu"))]
fn hardware() -> anyhow::Result<Option<Box<dyn Backend>>> {
    Ok(None)
}
