//! Ctrl-C: the first one stops the answer, a second one before it has stopped ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// The exit status of a program that Ctrl-C ended: 128 and the number of the signal.
pub(crate) const EXIT_STATUS: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes Ctrl-C over from the system; once, before the first answer.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_STATUS));
        }
    })
    .context("cannot take over Ctrl-C")
}

/// Whether Ctrl-C was pressed since the last [`reset`].
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Forgets what was pressed, at the start of an answer.
pub(crate) fn reset() {
    ASKED.store(false, Ordering::Relaxed);
}
