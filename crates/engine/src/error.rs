//! What can go wrong, split by who can act on it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A model file cannot be used as it is: something is missing, wrong or not supported.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read; the text says why.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is not a readable GGUF file, or a metadata value is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] minerva_gguf::Error),
    /// No architecture of this name is built in.
    #[error("architecture {found:?}: not supported, expected one of: {known}")]
    Architecture {
        /// The name in the file.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// A metadata value makes no sense, or describes something that is not supported.
    #[error("key {key}: {found}, expected {wanted}")]
    Metadata {
        /// The key.
        key: String,
        /// The value, as text.
        found: String,
        /// What it must be.
        wanted: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("tensor {name}: missing, expected shape {}", Shape(wanted))]
    MissingTensor {
        /// The tensor.
        name: String,
        /// Its shape, in the file's order.
        wanted: Vec<usize>,
    },
    /// A tensor has another shape than the metadata calls for.
    #[error("tensor {name}: shape {}, expected {}", Shape(found), Shape(wanted))]
    TensorShape {
        /// The tensor.
        name: String,
        /// The shape found, in the file's order.
        found: Vec<usize>,
        /// The shape wanted.
        wanted: Vec<usize>,
    },
    /// A tensor has a type that nothing here can compute with.
    #[error("tensor {name}: type {found} is not supported, expected one of: {known}")]
    TensorType {
        /// The tensor.
        name: String,
        /// The type's name.
        found: String,
        /// The names of the types that are supported.
        known: String,
    },
    /// A tensor has elements that are no finite numbers; found by the deep check alone.
    #[error("tensor {name}: {n_elements} elements are not finite, the first in row {row}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// How many there are.
        n_elements: usize,
        /// The row of the first one, from 0.
        row: usize,
    },
    /// A tensor's bytes do not make the numbers that are needed of it; the text says why.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer in the metadata cannot be used; the text says what was found and wanted.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template in the metadata cannot be used; the text says why.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// An option of the engine is outside of its range.
    #[error("{option}: {found}, expected {wanted}")]
    Option {
        /// The option.
        option: &'static str,
        /// The value given.
        found: usize,
        /// The values allowed.
        wanted: String,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The process that is to render the chat template cannot be started.
    #[error("cannot start a process for the chat template: {0}")]
    Process(std::io::Error),
    /// The backend cannot take the model.
    #[error(transparent)]
    Backend(#[from] minerva_compute::BackendError),
}

/// A request cannot be served as it is; the caller can repair it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A parameter is outside of its range.
    #[error("{field}: {found}, expected {wanted}")]
    Parameter {
        /// The name of the parameter, as [`crate::sampler::SamplingParams`] spells it.
        field: &'static str,
        /// The value given.
        found: String,
        /// The values that are allowed.
        wanted: String,
    },
    /// The chat template refused the messages, or needed too much work for them.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// The prompt leaves no room in the context for a single new token.
    #[error("prompt: {prompt_tokens} tokens, expected fewer than the context of {context}")]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Positions in the context.
        context: usize,
    },
    /// No token is left to choose from: the request's bias masks them all, or the model's logits
    /// are no numbers.
    #[error("no token can be chosen: all are masked, or their logits are not numbers")]
    NoCandidates,
    /// The answer came back to its banned strings too often.
    #[error("banned_strings: chosen anew {n_times} times, and the answer leads to one again")]
    Banned {
        /// How often tokens were chosen anew.
        n_times: usize,
    },
}

/// A request was not answered, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The request cannot be served as it is.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Too many requests wait; the same one may be served later.
    #[error("{n_waiting} requests wait, which is as many as may: try again later")]
    Overloaded {
        /// Requests that wait.
        n_waiting: usize,
    },
    /// The time for it was over before its first token.
    #[error("{phase}: not done within {} s", limit.as_secs_f64())]
    Timeout {
        /// What it waited for.
        phase: TimeoutPhase,
        /// The time given.
        limit: Duration,
    },
    /// The engine is being shut down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The device failed: it is lost, has no memory left, or refused a kernel or a command. Requests
    /// that come later are computed anew.
    #[error("the device failed: {0}")]
    Device(minerva_compute::DeviceError),
    /// The computation failed; other requests are not concerned.
    #[error("the computation failed: {0}")]
    Failed(String),
}

/// A model cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelsError {
    /// No model has this name.
    #[error("model {name:?}: not found, expected one of: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A configured name is empty, or there twice.
    #[error("model name {name:?}: empty or there twice, expected names that differ")]
    Name {
        /// The name.
        name: String,
    },
    /// It needs more memory than it could be given.
    #[error(
        "the model needs {needed} bytes of the {memory}'s memory, expected at most {} of the budget \
         of {budget} ({pinned} are pinned)",
        budget.saturating_sub(*pinned)
    )]
    DoesNotFit {
        /// Whose memory: the machine's, or the device's.
        memory: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of models that stay.
        pinned: u64,
        /// Bytes of the budget.
        budget: u64,
    },
    /// Its file cannot be used.
    #[error(transparent)]
    Load(#[from] Arc<LoadError>),
    /// Too many requests wait for it to be loaded.
    #[error("{n_waiting} requests wait for the model, which is as many as may: try again later")]
    Overloaded {
        /// Requests that wait.
        n_waiting: usize,
    },
    /// The models are being shut down.
    #[error("the models are being shut down")]
    ShuttingDown,
}

impl From<LoadError> for ModelsError {
    fn from(error: LoadError) -> ModelsError {
        ModelsError::Load(Arc::new(error))
    }
}

/// What a request waited for when its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutPhase {
    /// Its turn.
    Queue,
    /// Its first token.
    FirstToken,
}

impl fmt::Display for TimeoutPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeoutPhase::Queue => "waiting in the queue",
            TimeoutPhase::FirstToken => "first token",
        })
    }
}

/// A shape as messages show it: `[4096, 4095]`.
struct Shape<'a>(&'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
