//! What computes: the choice of a backend and of its threads.

use std::num::NonZeroUsize;

use anyhow::bail;
use minerva_compute::cpu::CpuOptions;
use minerva_compute::{Backend, CpuBackend, KvType, KvTypes, ReferenceBackend};

/// A backend by name.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BackendName {
    /// The processor, with the fastest kernels that it has
    Cpu,
    /// Plain f32 loops on one thread: slow, and the measure for the others
    Reference,
}

/// The options that choose a backend and how it keeps what it has seen, for every command that runs
/// a model.
#[derive(clap::Args)]
pub(crate) struct BackendArgs {
    /// What computes
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,

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
        match self.backend {
            BackendName::Cpu => {
                let threads = n_threads.map(NonZeroUsize::get);
                let backend = CpuBackend::new(&CpuOptions { threads, isa: None })?;
                let n_threads = backend.n_threads();
                Ok(Opened {
                    backend: Box::new(backend),
                    name: "cpu",
                    n_threads,
                })
            }
            BackendName::Reference => {
                if let Some(n_threads) = n_threads.filter(|n_threads| n_threads.get() > 1) {
                    bail!("threads: {n_threads}, expected 1: the reference backend has one thread");
                }
                let backend = Box::new(ReferenceBackend);
                Ok(Opened {
                    backend,
                    name: "reference",
                    n_threads: 1,
                })
            }
        }
    }
}
