//! The CPU backend: weights used in place, kernels chosen at run time, one pool of threads.
//!
//! `lower` turns a program into steps over slots of scratch memory, and decides which buffers
//! are wanted quantized; `exec` runs the steps: each is cut into chunks, which the threads take
//! as they come, and ends when its last chunk is done.

mod copied;
mod exec;
mod isa;
mod kernels;
mod locked;
mod lower;
mod ops;
mod roofline;
pub(crate) mod simd;
mod threads;

use std::path::Path;
use std::sync::Arc;

use crate::backend::{Backend, BackendError, Executable, Limits, Memory};
use crate::dtype::DType;
use crate::program::Program;

pub use isa::{Isa, IsaError};
pub use roofline::{Peak, Roofline};

use kernels::{FastKernels, Kernels};
use threads::Pool;

/// Where the CPU reads weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightsPlace {
    /// Where they are: in the pages of a mapped file.
    #[default]
    Mapped,
    /// There too, and the system keeps the pages in memory until they are unmapped.
    Locked,
    /// In memory of its own, in huge pages where the system has them.
    Copied,
}

/// How the CPU is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute; `None` for one on each physical core that this process may use.
    pub threads: Option<usize>,
    /// The instruction set; `None` for the best, or what `MINERVA_ISA` names.
    pub isa: Option<Isa>,
    /// Where weights are read.
    pub weights: WeightsPlace,
    /// Multiplies 32 tokens or more in ways that are faster; a token's bits then depend on how many are computed with it.
    /// Processors with AMX have tiles of bf16 for weights of most types (and [`Isa::Scalar`] has them, where they are slow),
    /// others of x86-64 multiply whole numbers of 16 bits where weights are F16.
    pub has_fast_batches: bool,
}

/// Runs programs on the CPU.
pub struct CpuBackend {
    isa: Isa,
    kernels: &'static Kernels,
    fast: Option<FastKernels>,
    pool: Arc<Pool>,
    weights: WeightsPlace,
    on_copy: Box<dyn Fn(u64, u64) + Send + Sync>,
}

/// Why there is no CPU backend.
#[derive(Debug)]
pub enum CpuError {
    /// The instruction set that was asked for cannot run here.
    Isa(IsaError),
    /// Fast batches were asked for, which this instruction set has none of here.
    NoFastBatches(Isa),
    /// A thread could not be started.
    Thread(std::io::Error),
}

impl std::fmt::Display for CpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CpuError::Isa(error) => error.fmt(f),
            CpuError::NoFastBatches(isa) => write!(
                f,
                "batches: fast, expected exact: the instruction set in use, {isa}, has no other way; use exact here (those of x86-64 have one)"
            ),
            CpuError::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for CpuError {}

impl CpuBackend {
    /// Starts the threads and chooses the kernels.
    pub fn new(options: &CpuOptions) -> Result<CpuBackend, CpuError> {
        let isa = match options.isa {
            Some(isa) if Kernels::get(isa).is_none() => {
                let (wanted, available) = (isa.name().into(), Isa::available());
                return Err(CpuError::Isa(IsaError { wanted, available }));
            }
            Some(isa) => isa,
            None => Isa::choose().map_err(CpuError::Isa)?,
        };
        let kernels = Kernels::get(isa).expect("checked above, or chosen among the available");
        let fast = match options.has_fast_batches {
            true => Some(FastKernels::get(isa).ok_or(CpuError::NoFastBatches(isa))?),
            false => None,
        };
        let n_threads = options.threads.unwrap_or_else(default_threads).max(1);
        let pool = Arc::new(Pool::new(n_threads).map_err(CpuError::Thread)?);
        Ok(CpuBackend {
            isa,
            kernels,
            fast,
            pool,
            weights: options.weights,
            on_copy: Box::new(|_, _| {}),
        })
    }

    /// Tells how many bytes of weights are copied or locked, of how many.
    pub fn on_copy(mut self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> CpuBackend {
        self.on_copy = Box::new(tell);
        self
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        let n = self.n_threads();
        format!(
            "CPU, {}, {n} {}{}{}",
            self.isa,
            if n == 1 { "thread" } else { "threads" },
            match self.weights {
                WeightsPlace::Mapped => "",
                WeightsPlace::Locked => ", weights locked",
                WeightsPlace::Copied => ", weights copied",
            },
            match self.fast {
                Some(FastKernels::Tiles(_)) => ", fast batches",
                Some(FastKernels::Int16(_)) => ", fast batches of F16",
                None => "",
            }
        )
    }

    fn kernel(&self, dtype: DType) -> String {
        let name = lower::kernel_name(dtype, self.kernels);
        let many = match self.fast {
            Some(FastKernels::Tiles(_)) if lower::has_tiles(dtype) => {
                "; bf16 tiles for many tokens"
            }
            Some(FastKernels::Int16(_)) if dtype == DType::F16 => {
                "; 16-bit integers for many tokens"
            }
            _ => "",
        };
        format!("{} {name}{many}", self.isa)
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        let kernels = (self.kernels, self.fast);
        exec::plan(program, kernels, self.n_threads(), &limits)
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let program = match self.weights {
            WeightsPlace::Mapped => program,
            WeightsPlace::Locked => {
                locked::lock_weights(&program, &*self.on_copy)?;
                program
            }
            WeightsPlace::Copied => copied::with_copied_weights(program, &*self.on_copy)?,
        };
        exec::load(self, &program, limits)
    }
}

/// Physical cores that this process may use: its affinity and cgroup limit what the standard
/// library counts; hyper-threads of one core share its vector units, so they count once.
fn default_threads() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores(Path::new("/")).map_or(logical, |cores| cores.min(logical))
}

/// Distinct cores of the processors that Linux lets this thread use; `root` is the system's.
fn physical_cores(root: &Path) -> Option<usize> {
    let status = std::fs::read_to_string(root.join("proc/thread-self/status")).ok()?;
    let mut lines = status.lines();
    let allowed = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = std::collections::BTreeSet::new();
    for range in allowed.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for cpu in first.parse::<usize>().ok()?..=last.parse().ok()? {
            let cpu = root.join(format!("sys/devices/system/cpu/cpu{cpu}"));
            // Processors that are off, which may be among them, have none.
            cores.extend(std::fs::read_to_string(cpu.join("topology/thread_siblings_list")).ok());
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_once_of_the_processors_that_are_allowed() {
        let root = std::env::temp_dir().join(format!("minerva-cores-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(physical_cores(&root), None);
        // Processors 1 and 5 are off.
        for (cpu, siblings) in [(0, "0"), (2, "2-3"), (3, "2-3"), (4, "4")] {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            write(&path, &format!("{siblings}\n"));
        }
        for (allowed, n_cores) in [
            ("0-7", Some(3)),
            ("2-3", Some(1)),
            ("0,2,4", Some(3)),
            ("3", Some(1)),
            ("1,5", None),
            ("", None),
        ] {
            let status = format!("Name:\tminerva\nCpus_allowed_list:\t{allowed}\n");
            write("proc/thread-self/status", &status);
            assert_eq!(physical_cores(&root), n_cores, "{allowed:?}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
