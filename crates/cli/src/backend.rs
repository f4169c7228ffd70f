//! What computes: the choice of a device and of its threads.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::bail;
use minerva_compute::cpu::{self, CpuOptions};
use minerva_compute::{
    Backend, CpuBackend, DeviceLayers, KvType, KvTypes, ReferenceBackend, SplitBackend,
};

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

/// Where weights are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum WeightsPlace {
    /// In the model's file, where the device can
    #[default]
    Mapped,
    /// In the model's file, whose pages the system then keeps in memory; for processors
    Locked,
    /// In memory of the device; on a processor that takes longer to load, and has large pages
    Copied,
}

/// How batches of tokens are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Batches {
    /// A token gets the same bits whatever is computed with it
    #[default]
    Exact,
    /// 32 tokens or more meet weights in AMX's tiles of bf16, or on other processors of x86-64, weights of
    /// F16 alone, in whole numbers of 16 bits: prompts are read faster, and a token's last bits depend on
    /// how many are computed with it
    Fast,
}

/// The options that choose a device and how it keeps what it has seen, for every command that runs
/// a model.
#[derive(clap::Args)]
pub(crate) struct BackendArgs {
    #[arg(long, value_name = "DEVICE", default_value = "cpu", help = DEVICE_HELP)]
    device: Device,

    /// Layers on the GPU, from the first on, with the rest on the processor: all, auto (as many as its
    /// memory holds) or a number
    #[arg(long, value_name = "LAYERS", default_value_t, alias = "n-gpu-layers")]
    gpu_layers: DeviceLayers,

    /// Bytes of the GPU's memory that may be used [default: 90 % of what its driver says]
    #[arg(long, value_name = "BYTES")]
    gpu_memory_budget: Option<u64>,

    /// Where weights are read
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    weights: WeightsPlace,

    /// How batches of tokens are computed
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    batches: Batches,

    /// How keys are stored in the KV cache: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", default_value_t)]
    cache_type_k: KvType,

    /// How values are stored in the KV cache, likewise
    #[arg(long, value_name = "TYPE", default_value_t)]
    cache_type_v: KvType,
}

/// A backend that is ready.
pub(crate) struct Opened {
    pub(crate) backend: Arc<dyn Backend>,
    /// The same, where it is the processor alone.
    pub(crate) cpu: Option<Arc<CpuBackend>>,
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

    /// Where a processor reads weights.
    pub(crate) fn weights(&self) -> cpu::WeightsPlace {
        match self.weights {
            WeightsPlace::Mapped => cpu::WeightsPlace::Mapped,
            WeightsPlace::Locked => cpu::WeightsPlace::Locked,
            WeightsPlace::Copied => cpu::WeightsPlace::Copied,
        }
    }

    /// Opens the backend; without a number of threads, the CPU takes one per core.
    pub(crate) fn open(&self, n_threads: Option<NonZeroUsize>) -> anyhow::Result<Opened> {
        let placement = Placement {
            device: self.device.clone(),
            layers: self.gpu_layers,
            gpu_memory_bytes: self.gpu_memory_budget,
            cpu: CpuOptions {
                threads: n_threads.map(NonZeroUsize::get),
                weights: self.weights(),
                has_fast_batches: self.batches == Batches::Fast,
                ..CpuOptions::default()
            },
        };
        placement.open()
    }
}

/// Where models are computed.
pub(crate) struct Placement {
    pub(crate) device: Device,
    /// Those on the device, where it is a GPU.
    pub(crate) layers: DeviceLayers,
    /// What may be used of the GPU's memory.
    pub(crate) gpu_memory_bytes: Option<u64>,
    /// How the processor computes; GPUs copy weights too.
    pub(crate) cpu: CpuOptions,
}

impl Placement {
    /// Opens what computes.
    pub(crate) fn open(&self) -> anyhow::Result<Opened> {
        match &self.device {
            Device::Auto => match self.hardware()? {
                Some(gpu) => self.split(gpu),
                None => processor(&self.cpu),
            },
            Device::Cpu => {
                self.check_no_gpu("the processor")?;
                processor(&self.cpu)
            }
            Device::Reference => {
                self.check_no_gpu("the reference backend")?;
                match self.cpu.weights {
                    cpu::WeightsPlace::Mapped => {}
                    cpu::WeightsPlace::Locked => {
                        bail!(
                            "weights: locked, expected mapped: the reference backend locks nothing"
                        )
                    }
                    cpu::WeightsPlace::Copied => {
                        bail!(
                            "weights: copied, expected mapped: the reference backend copies nothing"
                        )
                    }
                }
                self.check_exact("the reference backend")?;
                Ok(Opened {
                    n_threads: self.one_thread("the reference backend")?,
                    backend: Arc::new(ReferenceBackend),
                    cpu: None,
                    name: "reference",
                })
            }
            Device::Gpu(name) => {
                if self.layers == DeviceLayers::All {
                    self.one_thread("what drives a GPU")?;
                }
                self.split(self.gpu(name.as_deref())?)
            }
        }
    }

    /// A GPU, with the processor beside it where that has layers.
    fn split(&self, gpu: Arc<dyn Backend>) -> anyhow::Result<Opened> {
        if self.layers == DeviceLayers::All {
            self.check_exact("a GPU")?;
            if self.cpu.weights == cpu::WeightsPlace::Locked {
                bail!(
                    "weights: locked, expected mapped or copied: a GPU computes, and locks nothing"
                );
            }
            return Ok(Opened {
                backend: gpu,
                cpu: None,
                name: "gpu",
                n_threads: 1,
            });
        }
        let processor = processor(&self.cpu)?;
        Ok(Opened {
            backend: Arc::new(SplitBackend::new(gpu, processor.backend, self.layers)),
            cpu: None,
            name: "gpu+cpu",
            n_threads: processor.n_threads,
        })
    }

    fn one_thread(&self, whose: &str) -> anyhow::Result<usize> {
        match self.cpu.threads.filter(|n_threads| *n_threads > 1) {
            Some(n_threads) => bail!("threads: {n_threads}, expected 1: {whose} has one thread"),
            None => Ok(1),
        }
    }

    fn check_exact(&self, whose: &str) -> anyhow::Result<()> {
        match self.cpu.has_fast_batches {
            true => bail!("batches: fast, expected exact: {whose} computes, and has no other way"),
            false => Ok(()),
        }
    }

    fn check_no_gpu(&self, whose: &str) -> anyhow::Result<()> {
        if self.layers != DeviceLayers::All {
            let layers = self.layers;
            bail!(
                "gpu-layers: {layers}, expected a GPU: {whose} computes\n`--device gpu` takes the best"
            );
        }
        if let Some(bytes) = self.gpu_memory_bytes {
            bail!(
                "gpu-memory-budget: {bytes}, expected a GPU: {whose} computes\n`--device gpu` takes the best"
            );
        }
        Ok(())
    }
}

/// The processor.
pub(crate) fn processor(options: &CpuOptions) -> anyhow::Result<Opened> {
    let backend = CpuBackend::new(options)?;
    let progress = crate::progress::UploadProgress::new("into memory");
    let backend = Arc::new(backend.on_copy(move |done, total| progress.show(done, total)));
    let n_threads = backend.n_threads();
    Ok(Opened {
        backend: backend.clone(),
        cpu: Some(backend),
        name: "cpu",
        n_threads,
    })
}

#[cfg(feature = "gpu")]
impl Placement {
    /// An adapter by a part of its name, or the best.
    fn gpu(&self, name: Option<&str>) -> anyhow::Result<Arc<dyn Backend>> {
        use minerva_gpu::Choice;
        Ok(self.open_gpu(name.map_or(Choice::Best, |name| Choice::Named(name.into())))?)
    }

    /// The best adapter that is not the processor itself, if there is one.
    fn hardware(&self) -> anyhow::Result<Option<Arc<dyn Backend>>> {
        use minerva_gpu::{Choice, OpenError};
        match self.open_gpu(Choice::Hardware) {
            Ok(backend) => Ok(Some(backend)),
            Err(OpenError::NoAdapter { .. }) => Ok(None),
            Err(error) => {
                crate::output::note(&format!("{error}: the processor computes instead"));
                Ok(None)
            }
        }
    }

    fn open_gpu(
        &self,
        choice: minerva_gpu::Choice,
    ) -> Result<Arc<dyn Backend>, minerva_gpu::OpenError> {
        let options = minerva_gpu::GpuOptions {
            choice,
            memory_bytes: self.gpu_memory_bytes,
            copies_weights: self.cpu.weights == cpu::WeightsPlace::Copied,
            ..minerva_gpu::GpuOptions::default()
        };
        let progress = crate::progress::UploadProgress::new("to the GPU");
        let backend = minerva_gpu::GpuBackend::new(&options)?;
        Ok(Arc::new(
            backend.on_upload(move |done, total| progress.show(done, total)),
        ))
    }
}

#[cfg(not(feature = "gpu"))]
impl Placement {
    fn gpu(&self, name: Option<&str>) -> anyhow::Result<Arc<dyn Backend>> {
        bail!(
            "device: {}, expected cpu or reference: this build has no GPUs (cargo feature `gpu`)",
            name.unwrap_or("gpu")
        )
    }

    fn hardware(&self) -> anyhow::Result<Option<Arc<dyn Backend>>> {
        Ok(None)
    }
}
