//! Signals of the system: the first one to stop drains, the second one ends, SIGHUP reloads.

use std::io;

use crate::config::Sources;
use crate::state::AppState;
#[cfg(unix)]
use crate::systemd;

/// The signals, taken over from the system.
#[cfg(unix)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes them over; those that come before [`run`](Self::run) wait for it.
    pub fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Does what they ask for, as long as the server runs.
    pub async fn run(mut self, state: AppState, sources: Sources) {
        let mut n_stops = 0_usize;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => stop(&state, &mut n_stops),
                _ = self.interrupt.recv() => stop(&state, &mut n_stops),
                _ = self.hangup.recv() => {
                    systemd::reloading();
                    state.reload(&sources).await;
                    systemd::ready();
                }
            }
        }
    }
}

/// Ctrl-C, taken over from the system.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Nothing is to be done before [`run`](Self::run).
    pub fn install() -> io::Result<Self> {
        Ok(Self)
    }

    /// Does what it asks for, as long as the server runs; there is no signal to reload here.
    pub async fn run(self, state: AppState, _sources: Sources) {
        let mut n_stops = 0_usize;
        while tokio::signal::ctrl_c().await.is_ok() {
            stop(&state, &mut n_stops);
        }
    }
}

fn stop(state: &AppState, n_stops: &mut usize) {
    *n_stops += 1;
    match n_stops {
        1 => state.lifecycle().drain(),
        _ => state.lifecycle().end(),
    }
}
