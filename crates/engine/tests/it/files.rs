//! Tiny models in files of their own, and engines that run them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minerva_compute::{Backend, ReferenceBackend};
use minerva_engine::model::Architecture;
use minerva_engine::{Evaluator, EvaluatorOptions, LoadError, Model};

use crate::tiny::{Tensor, Tiny};

impl Tiny {
    /// The tiny shape of an architecture, with all tensors but the optional ones that `skip` names
    /// the ends of.
    pub(crate) fn new(architecture: &Architecture, skip: &[&str]) -> Tiny {
        Tiny::with(architecture, skip, |_| {})
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    /// Writes it to a file of its own.
    pub(crate) fn write(&self) -> TempFile {
        let file = TempFile::new("tiny.gguf");
        std::fs::write(&file.path, self.bytes()).unwrap();
        file
    }

    /// Writes and opens it.
    pub(crate) fn open(&self) -> Result<Model, LoadError> {
        Model::open(&self.write().path)
    }

    /// An evaluator of it, on the reference backend.
    pub(crate) fn evaluator(&self, options: &EvaluatorOptions) -> Evaluator {
        self.evaluator_on(&ReferenceBackend, options)
    }

    pub(crate) fn evaluator_on(
        &self,
        backend: &dyn Backend,
        options: &EvaluatorOptions,
    ) -> Evaluator {
        Evaluator::new(Arc::new(self.open().unwrap()), backend, options).unwrap()
    }
}

/// A path in a folder of its own, which goes when this is dropped.
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
}

impl TempFile {
    pub(crate) fn new(name: &str) -> TempFile {
        static N_FILES: AtomicUsize = AtomicUsize::new(0);
        let n = N_FILES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("minerva-engine-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        TempFile {
            path: dir.join(name),
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let dir = self.path.parent().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// The largest difference of two rows, as a share of the largest element.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max }) / scale
}
