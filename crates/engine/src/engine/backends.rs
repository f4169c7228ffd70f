//! What a model is computed on, and on what it is loaded again where its device fails.

use std::sync::Arc;

use minerva_compute::{Backend, BackendError, DeviceError, Executable, Limits};

use crate::error::{EngineError, LoadError};
use crate::model::Model;

/// The backend that models are loaded on, and the one that takes over where it fails.
#[derive(Clone)]
pub struct Backends {
    /// What computes.
    pub first: Arc<dyn Backend>,
    /// What a model is loaded on once its device has failed, until the model is unloaded. `None`: on
    /// the same one, whose device is then opened again.
    pub fallback: Option<Arc<dyn Backend>>,
}

impl From<Arc<dyn Backend>> for Backends {
    fn from(first: Arc<dyn Backend>) -> Backends {
        Backends {
            first,
            fallback: None,
        }
    }
}

impl<B: Backend + 'static> From<Arc<B>> for Backends {
    fn from(first: Arc<B>) -> Backends {
        let first: Arc<dyn Backend> = first;
        first.into()
    }
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fallback = self.fallback.as_ref().map(|backend| backend.description());
        f.debug_struct("Backends")
            .field("first", &self.first.description())
            .field("fallback", &fallback)
            .finish()
    }
}

impl Backends {
    /// What computes now.
    pub(super) fn get(&self, is_on_fallback: bool) -> &Arc<dyn Backend> {
        match (is_on_fallback, &self.fallback) {
            (true, Some(fallback)) => fallback,
            _ => &self.first,
        }
    }
}

/// A model's program, to be loaded as often as its device fails.
pub(super) struct Loader {
    pub(super) model: Arc<Model>,
    pub(super) backends: Backends,
    pub(super) context: usize,
    pub(super) limits: Limits,
    /// Whether the first backend's device has failed, and there is another one.
    pub(super) is_on_fallback: bool,
}

impl Loader {
    /// Loads the program. A device that fails as it does so has failed.
    pub(super) fn load(&mut self) -> Result<Box<dyn Executable>, LoadError> {
        let loaded = self.try_load();
        match &loaded {
            Err(LoadError::Backend(BackendError::Device { error, .. }))
                if error.is_failure() && self.has_other() =>
            {
                self.is_on_fallback = true;
                self.try_load()
            }
            _ => loaded,
        }
    }

    fn try_load(&self) -> Result<Box<dyn Executable>, LoadError> {
        let backend = self.backends.get(self.is_on_fallback);
        Ok(backend.load(self.model.program(self.context)?, self.limits)?)
    }

    /// Notes that a step failed; `true` if the program has to be loaded again.
    pub(super) fn failed(&mut self, error: &DeviceError) -> bool {
        let changes = self.has_other();
        self.is_on_fallback |= changes;
        changes || matches!(error, DeviceError::Lost(_))
    }

    fn has_other(&self) -> bool {
        self.backends.fallback.is_some() && !self.is_on_fallback
    }
}

/// Why a request ends whose program could not be loaded again.
pub(super) fn not_loaded(error: LoadError) -> EngineError {
    match error {
        LoadError::Backend(BackendError::Device { error, .. }) => EngineError::Device(error),
        other => EngineError::Failed(other.to_string()),
    }
}
