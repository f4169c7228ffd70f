//! Progress bars: size, speed and time left, on standard error.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use minerva_hub::{Phase, Progress};

use crate::output::note;

/// Bars are redrawn this many times a second at most.
const DRAW_HZ: u8 = 10;

/// Shows what the hub reports. Where standard error is no terminal, a line per phase stands in for
/// the bar.
pub(crate) struct PullProgress {
    bar: ProgressBar,
    /// What the bar stands for: a new phase or file begins a new count.
    shown: Option<(Phase, usize)>,
    is_terminal: bool,
}

impl PullProgress {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr_with_hz(DRAW_HZ),
            false => ProgressDrawTarget::hidden(),
        };
        Self {
            bar: ProgressBar::with_draw_target(None, target),
            shown: None,
            is_terminal,
        }
    }

    /// Takes one report; a pull is never stopped from here.
    pub(crate) fn show(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        let is_new = self.shown != Some((progress.phase, progress.file_idx));
        if is_new {
            self.shown = Some((progress.phase, progress.file_idx));
            self.begin(progress);
        }
        match progress.total_bytes {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.set_position(progress.done_bytes);
        ControlFlow::Continue(())
    }

    fn begin(&mut self, progress: &Progress<'_>) {
        let what = match progress.phase {
            Phase::Waiting => "waiting for another pull of",
            Phase::Connecting => "connecting for",
            Phase::Downloading => "downloading",
            Phase::Retrying => "trying again:",
            Phase::Checking => "checking",
            Phase::FetchingPackage => "fetching by pip",
            Phase::Unpacking => "unpacking",
        };
        let mut message = format!("{what} {}", progress.file);
        if progress.n_files > 1 {
            message += &format!(" ({} of {})", progress.file_idx + 1, progress.n_files);
        }
        if let Some(reason) = progress.note {
            let line = format!("{message}: {reason}");
            self.bar.suspend(|| note(&line));
        } else if !self.is_terminal {
            note(&message);
        }
        self.bar.set_style(style(progress.total_bytes.is_some()));
        self.bar.set_message(message);
        // What arrived in an earlier run counts for the bar, and not for the speed.
        self.bar.reset();
        self.bar.set_position(progress.done_bytes);
        self.bar.reset_eta();
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The bar of weights that are copied.
pub(crate) struct UploadProgress(ProgressBar);

impl UploadProgress {
    pub(crate) fn new(message: &'static str) -> Self {
        // Hidden where standard error is no terminal, and until there is something to show.
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::hidden());
        Self(bar.with_message(message))
    }

    pub(crate) fn show(&self, done_bytes: u64, total_bytes: u64) {
        if done_bytes >= total_bytes {
            self.0.finish_and_clear();
            return;
        }
        if self.0.is_hidden() && io::stderr().is_terminal() {
            self.0.reset();
            self.0.set_style(style(true));
            self.0
                .set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
        }
        self.0.set_length(total_bytes);
        self.0.set_position(done_bytes);
    }
}

fn style(has_total: bool) -> ProgressStyle {
    let template = match has_total {
        true => {
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}"
        }
        false => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
    };
    ProgressStyle::with_template(template).expect("the templates are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_can_be_shown() {
        let mut shown = PullProgress::new();
        for phase in [
            Phase::Connecting,
            Phase::Downloading,
            Phase::Checking,
            Phase::Unpacking,
        ] {
            for total_bytes in [None, Some(10)] {
                let progress = Progress {
                    phase,
                    file: "model.gguf",
                    file_idx: 0,
                    n_files: 2,
                    done_bytes: 5,
                    total_bytes,
                    note: None,
                };
                assert_eq!(shown.show(&progress), ControlFlow::Continue(()));
            }
        }
        shown.finish();
    }
}
