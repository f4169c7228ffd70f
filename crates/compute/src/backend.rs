//! The two traits that every device implements, and what is handed to them.

use std::time::Duration;

use crate::dtype::DType;
use crate::kv::{KvType, KvTypes};
use crate::profile::StepProfile;
use crate::program::Program;

/// Positions in one block of the KV cache, for every backend.
pub const KV_BLOCK_LEN: usize = 16;

/// A device that can run programs.
pub trait Backend: Send + Sync {
    /// What it is, for logs: device, instruction set, threads.
    fn description(&self) -> String;

    /// How it multiplies with weights of a type, for people: the kernel and what it works on.
    fn kernel(&self, dtype: DType) -> String;

    /// What a program would take if it were [loaded](Backend::load), beyond its weights.
    fn plan(&self, program: &Program, limits: Limits) -> Result<Memory, BackendError>;

    /// The largest error of logits against the reference backend: squared difference over squared size.
    /// What the cache's types round comes on top.
    fn tolerance(&self) -> f64 {
        crate::conformance::TOLERANCE
    }

    /// The memory of its device; `None` for the processor.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }

    /// Makes a program ready to run: chooses kernels, allocates scratch and cache.
    fn load(&self, program: Program, limits: Limits) -> Result<Box<dyn Executable>, BackendError>;
}

/// A program on a device, with its KV cache.
pub trait Executable: Send {
    /// Runs one batch and returns the logits, `[n_outputs, vocab_size]`, row after row; of a part of a
    /// program, what the next one begins with, `[n_tokens, width]`. Keys and values of the batch's
    /// tokens are in the cache afterwards. After an error nothing is known of the cache; after
    /// [`DeviceError::Lost`] every later call fails, and the program has to be loaded again.
    ///
    /// # Panics
    /// If the batch breaks a rule of [`Batch`] or exceeds the [`Limits`].
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError>;

    /// Goes on with a batch for about `time`, and returns its logits once it has ended: `None` means
    /// that it has not, and wants to be called again with the same batch. In between, [`run`] takes
    /// batches of at most [`Limits::max_between`] tokens, of other sequences. A backend that [cannot
    /// pause](Executable::can_pause) runs the whole batch.
    ///
    /// # Panics
    /// As [`run`].
    ///
    /// [`run`]: Executable::run
    fn run_for(
        &mut self,
        batch: &Batch<'_>,
        time: Duration,
    ) -> Result<Option<&[f32]>, DeviceError> {
        let _ = time;
        self.run(batch).map(Some)
    }

    /// Whether [`run_for`](Executable::run_for) leaves a batch that takes longer than wanted.
    fn can_pause(&self) -> bool {
        false
    }

    /// Leaves the batch that [`run_for`](Executable::run_for) has not ended; what the cache holds of
    /// its tokens is undefined.
    fn abandon(&mut self) {}

    /// Measures every step of all batches from now on; answers whether it can.
    fn start_profile(&mut self) -> bool {
        false
    }

    /// What was measured since [`start_profile`](Executable::start_profile), in the order of the steps;
    /// nothing is measured any more.
    fn take_profile(&mut self) -> Vec<StepProfile> {
        Vec::new()
    }

    /// Copies one cache block, of every layer, over another.
    ///
    /// # Panics
    /// If one of them is not in the cache.
    fn copy_block(&mut self, from: u32, to: u32) -> Result<(), DeviceError>;

    /// The limits that it was loaded with.
    fn limits(&self) -> Limits;

    /// What it takes beyond the weights.
    fn memory(&self) -> Memory;
}

/// How much a loaded program can do at once, and how it keeps what it has seen; decides its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in one batch.
    pub max_tokens: usize,
    /// Most rows of logits in one batch.
    pub max_outputs: usize,
    /// Most tokens of a batch that is run between parts of another ([`Executable::run_for`]), and
    /// most rows of logits of it; 0 where there is none such.
    pub max_between: usize,
    /// Blocks of [`KV_BLOCK_LEN`] positions in the cache, shared by all sequences.
    pub n_kv_blocks: usize,
    /// How keys and values are stored there.
    pub kv_types: KvTypes,
}

/// Bytes that a loaded program takes beyond its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The KV cache: [`kv_block_bytes`](crate::kv_block_bytes) for each block; pages that no block has
    /// used yet may not be resident.
    pub kv_bytes: usize,
    /// Activations and logits.
    pub scratch_bytes: usize,
    /// What is on a device beside the processor, and not in the other two.
    pub device: OnDevice,
}

impl Memory {
    /// That of two programs.
    pub(crate) fn and(self, other: Memory) -> Memory {
        Memory {
            kv_bytes: self.kv_bytes.saturating_add(other.kv_bytes),
            scratch_bytes: self.scratch_bytes.saturating_add(other.scratch_bytes),
            device: self.device.and(other.device),
        }
    }
}

/// Bytes that a loaded program takes on a device beside the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDevice {
    /// Layers of the program that are there.
    pub n_layers: usize,
    /// Weights, which are copied there.
    pub weights_bytes: u64,
    /// The KV cache of its layers.
    pub kv_bytes: u64,
    /// Activations and logits.
    pub scratch_bytes: u64,
}

impl OnDevice {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            .saturating_add(self.kv_bytes)
            .saturating_add(self.scratch_bytes)
    }

    fn and(self, other: OnDevice) -> OnDevice {
        OnDevice {
            n_layers: self.n_layers + other.n_layers,
            weights_bytes: self.weights_bytes.saturating_add(other.weights_bytes),
            kv_bytes: self.kv_bytes.saturating_add(other.kv_bytes),
            scratch_bytes: self.scratch_bytes.saturating_add(other.scratch_bytes),
        }
    }
}

/// The memory of a device beside the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What programs may take of it together; `None` where nobody knows.
    pub budget_bytes: Option<u64>,
    /// What programs that are loaded have taken of it.
    pub taken_bytes: u64,
    /// Whether it is the processor's memory too.
    pub is_shared: bool,
}

impl DeviceMemory {
    /// What is left for another program; `None` where nobody knows.
    pub fn available_bytes(&self) -> Option<u64> {
        let budget = self.budget_bytes?;
        Some(budget.saturating_sub(self.taken_bytes))
    }
}

/// One step's work: some tokens of some sequences.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, each below the vocabulary size; the tokens of a sequence are adjacent.
    pub tokens: &'a [u32],
    /// The sequences, in the order of their tokens; together they cover `tokens`.
    pub sequences: &'a [Sequence<'a>],
    /// Indices into `tokens`, ascending: the tokens whose logits are wanted.
    pub outputs: &'a [u32],
    /// What a program begins with that is not the first part: the answer of the one before. Else
    /// empty.
    pub input: &'a [f32],
}

/// What the rules of a batch need to know of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramWidths {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Elements of a row of input; 0 where there is none.
    pub input: usize,
}

impl ProgramWidths {
    /// Those of a program.
    pub fn of(program: &Program) -> ProgramWidths {
        ProgramWidths {
            vocab_size: program.vocab_size(),
            input: program.input().map_or(0, |id| program.shape(id).width),
        }
    }
}

/// The part of a sequence that a batch computes.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// How many of the batch's tokens belong to it; at least one.
    pub n_tokens: usize,
    /// The position of the first of them: how many positions the cache holds already.
    pub start: usize,
    /// Cache blocks in order: position p lies in `blocks[p / KV_BLOCK_LEN]`. Long enough for the
    /// last position. A block that this batch writes to belongs to one sequence only.
    pub blocks: &'a [u32],
}

impl Batch<'_> {
    /// Checks the rules above, which every backend relies on.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check(&self, limits: &Limits, program: &ProgramWidths) {
        let ProgramWidths { vocab_size, input } = *program;
        assert_eq!(self.input.len(), self.tokens.len() * input, "input");
        assert!(self.tokens.len() <= limits.max_tokens, "tokens in a batch");
        assert!(
            self.outputs.len() <= limits.max_outputs,
            "outputs of a batch"
        );
        assert!(
            self.tokens.iter().all(|&t| (t as usize) < vocab_size),
            "token id"
        );
        assert!(
            self.outputs
                .iter()
                .all(|&o| (o as usize) < self.tokens.len()),
            "output index"
        );
        assert_eq!(
            self.sequences.iter().map(|s| s.n_tokens).sum::<usize>(),
            self.tokens.len()
        );
        for s in self.sequences {
            assert!(s.n_tokens > 0, "empty sequence");
            assert!(
                s.start + s.n_tokens <= s.blocks.len() * KV_BLOCK_LEN,
                "cache blocks"
            );
            assert!(
                s.blocks.iter().all(|&b| (b as usize) < limits.n_kv_blocks),
                "block index"
            );
        }
    }
}

/// Why a backend cannot take a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// An allocation was refused.
    OutOfMemory {
        /// What for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
    },
    /// The system does not keep weights in memory.
    NotLocked {
        /// Of all weights.
        bytes: usize,
        /// What it says.
        problem: String,
    },
    /// A cache type does not go with a layer's heads.
    KvType {
        /// Keys or values.
        what: &'static str,
        /// The type asked for.
        kv_type: KvType,
        /// The layer among those with a cache.
        layer: usize,
        /// Elements of its heads.
        head_dim: usize,
    },
    /// A device beside the processor cannot.
    Device {
        /// Which.
        device: String,
        /// Why.
        error: DeviceError,
    },
}

/// Why a device beside the processor cannot run a program, or did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// A program takes more than there is, or more than one of the device's buffers holds.
    NoRoom {
        /// What for.
        what: String,
        /// How much it takes.
        wanted_bytes: u64,
        /// How much there is.
        available_bytes: u64,
    },
    /// An allocation was refused.
    OutOfMemory(String),
    /// The device has gone: its driver was reset, or it was taken away.
    Lost(String),
    /// A kernel was refused by the driver or its compiler.
    Kernel {
        /// Which.
        name: String,
        /// What was said of it.
        reason: String,
    },
    /// There is no kernel for a part of the program.
    Unsupported(String),
    /// The device's interface refused a command.
    Refused(String),
}

impl DeviceError {
    /// Whether the device failed at what it can do, and may be able to later or when it is opened
    /// again; else the program asks for what it does not have.
    pub fn is_failure(&self) -> bool {
        match self {
            DeviceError::OutOfMemory(_)
            | DeviceError::Lost(_)
            | DeviceError::Kernel { .. }
            | DeviceError::Refused(_) => true,
            DeviceError::NoRoom { .. } | DeviceError::Unsupported(_) => false,
        }
    }
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceError::NoRoom {
                what,
                wanted_bytes,
                available_bytes,
            } => write!(
                f,
                "no room for {what}: {wanted_bytes} bytes, expected at most {available_bytes}"
            ),
            DeviceError::OutOfMemory(reason) => write!(f, "out of memory: {reason}"),
            DeviceError::Lost(reason) => write!(f, "device lost: {reason}"),
            DeviceError::Kernel { name, reason } => write!(f, "kernel {name}: {reason}"),
            DeviceError::Unsupported(what) => write!(f, "no kernel for {what}"),
            DeviceError::Refused(reason) => write!(f, "command refused: {reason}"),
        }
    }
}

impl std::error::Error for DeviceError {}

impl std::fmt::Display for BackendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackendError::OutOfMemory { what, bytes } => {
                write!(f, "no memory for {what}: {bytes} bytes wanted")
            }
            BackendError::NotLocked { bytes, problem } => write!(
                f,
                "weights: {bytes} bytes cannot be locked in memory ({problem}), expected a limit of \
                 as many for this process (`ulimit -l`), or weights that are mapped"
            ),
            BackendError::Device { device, error } => write!(f, "{device}: {error}"),
            BackendError::KvType {
                what,
                kv_type,
                layer,
                head_dim,
            } => {
                let wanted = kv_type.dtype().block_len();
                write!(
                    f,
                    "cache type {kv_type} for {what}: layer {layer} has heads of {head_dim} \
                     elements, expected a multiple of {wanted}"
                )
            }
        }
    }
}

impl std::error::Error for BackendError {}
