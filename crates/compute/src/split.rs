//! A model on two backends: its first layers on a device, the rest on the processor.
//!
//! A program is cut between layers, and what one part answers is what the next begins with, once a
//! step. The table of embeddings stays with the processor, which reads a row of it for each token;
//! so does the output, which is often the same table.

use std::str::FromStr;
use std::sync::Arc;

use crate::backend::{
    Backend, BackendError, Batch, DeviceError, DeviceMemory, Executable, Limits, Memory,
};
use crate::dtype::DType;
use crate::program::Program;

/// Which layers of a model are on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceLayers {
    /// All, and what is before and behind them.
    #[default]
    All,
    /// The first of them; all, and what is before and behind them, if there are no more.
    First(usize),
    /// As many as the device's memory holds.
    Auto,
}

impl FromStr for DeviceLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceLayers, String> {
        match text {
            "all" => Ok(DeviceLayers::All),
            "auto" => Ok(DeviceLayers::Auto),
            number => number
                .parse()
                .map(DeviceLayers::First)
                .map_err(|_| format!("{number:?}, expected all, auto or a number of layers")),
        }
    }
}

impl std::fmt::Display for DeviceLayers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceLayers::All => f.write_str("all"),
            DeviceLayers::First(n) => n.fmt(f),
            DeviceLayers::Auto => f.write_str("auto"),
        }
    }
}

/// Runs the first layers of programs on a device, and the rest on the processor.
pub struct SplitBackend {
    device: Arc<dyn Backend>,
    processor: Arc<dyn Backend>,
    layers: DeviceLayers,
}

impl SplitBackend {
    /// A device, what computes the rest, and where a program is cut.
    pub fn new(
        device: Arc<dyn Backend>,
        processor: Arc<dyn Backend>,
        layers: DeviceLayers,
    ) -> SplitBackend {
        SplitBackend {
            device,
            processor,
            layers,
        }
    }

    /// The program in parts, each with what computes it, for the first `n` layers on the device.
    fn parts(&self, program: &Program, n: usize) -> Vec<(&dyn Backend, Program)> {
        let (device, processor) = (&*self.device, &*self.processor);
        if n >= program.n_layers() {
            return vec![(device, program.clone())];
        }
        if n == 0 {
            return vec![(processor, program.clone())];
        }
        let (embedding, layers) = program.cut(0);
        let (first, rest) = layers.cut(n);
        vec![(processor, embedding), (device, first), (processor, rest)]
    }

    /// How many layers of a program are on the device.
    fn n_layers(&self, program: &Program, limits: Limits) -> Result<usize, BackendError> {
        match self.layers {
            DeviceLayers::All => Ok(program.n_layers()),
            DeviceLayers::First(n) => Ok(n.min(program.n_layers())),
            DeviceLayers::Auto => {
                let fits = |n: usize| -> Result<bool, BackendError> {
                    let memory = self.device.device_memory();
                    let available = memory.and_then(|memory| memory.available_bytes());
                    let taken = match self.plan_for(program, limits, n) {
                        Ok(memory) => memory.device.total_bytes(),
                        // Such as activations that are larger than a buffer of the device may be.
                        Err(BackendError::Device {
                            error: DeviceError::NoRoom { .. },
                            ..
                        }) => return Ok(false),
                        Err(error) => return Err(error),
                    };
                    Ok(available.is_none_or(|available| taken <= available))
                };
                // The last of the numbers that fit; none takes nothing.
                let (mut fitting, mut above) = (0, program.n_layers() + 1);
                while fitting + 1 < above {
                    let n = (fitting + above) / 2;
                    match fits(n)? {
                        true => fitting = n,
                        false => above = n,
                    }
                }
                Ok(fitting)
            }
        }
    }

    fn plan_for(
        &self,
        program: &Program,
        limits: Limits,
        n: usize,
    ) -> Result<Memory, BackendError> {
        let mut parts = self.parts(program, n).into_iter();
        let (backend, first) = parts.next().expect("a program has a part");
        let memory = backend.plan(&first, limits)?;
        parts.try_fold(memory, |memory, (backend, part)| {
            Ok(memory.and(backend.plan(&part, limits)?))
        })
    }
}

impl Backend for SplitBackend {
    fn description(&self) -> String {
        let (device, processor) = (self.device.description(), self.processor.description());
        match self.layers {
            DeviceLayers::All => device,
            layers => format!("{device} (layers: {layers}), rest: {processor}"),
        }
    }

    fn kernel(&self, dtype: DType) -> String {
        let (device, processor) = (self.device.kernel(dtype), self.processor.kernel(dtype));
        format!("{device}; {processor}")
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        self.device.device_memory()
    }

    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError> {
        self.plan_for(program, limits, self.n_layers(program, limits)?)
    }

    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError> {
        let n = self.n_layers(&program, limits)?;
        let parts = self.parts(&program, n).into_iter();
        let mut parts = parts
            .map(|(backend, part)| backend.load(part, limits))
            .collect::<Result<Vec<_>, _>>()?;
        let last = parts.pop().expect("a program has a part");
        match parts.is_empty() {
            true => Ok(last),
            false => Ok(Box::new(Chain { parts, last })),
        }
    }
}

/// Parts of a program, each of which begins with what the one before answers.
struct Chain {
    parts: Vec<Box<dyn Executable>>,
    last: Box<dyn Executable>,
}

impl Executable for Chain {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        let mut rows = batch.input;
        for part in &mut self.parts {
            let batch = Batch {
                input: rows,
                ..*batch
            };
            rows = part.run(&batch)?;
        }
        self.last.run(&Batch {
            input: rows,
            ..*batch
        })
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError> {
        for part in &mut self.parts {
            part.copy_block(from, to)?;
        }
        self.last.copy_block(from, to)
    }

    fn limits(&self) -> Limits {
        self.last.limits()
    }

    fn memory(&self) -> Memory {
        let parts = self.parts.iter().map(|part| part.memory());
        parts.fold(self.last.memory(), Memory::and)
    }
}
