//! From start to end: who may ask for work when, and how running work is waited for.
//!
//! A server is `Starting` until its models are loaded, then `Ready`. [`Lifecycle::drain`] refuses
//! new work and lets running work finish; [`Lifecycle::end`] tells what still runs to break off.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::{ApiError, ErrorCode};

/// How long a client waits before it asks a server that ends, or the next one in its place, again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where in its life a server is; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It listens, and its models are not loaded yet.
    Starting,
    /// It takes work.
    Ready,
    /// It finishes what runs and takes no more.
    Draining,
}

/// The phase, and what runs.
#[derive(Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    ended: CancellationToken,
    running: TaskTracker,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            ended: CancellationToken::new(),
            running: TaskTracker::new(),
        }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The phase, and its changes.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Says that the models are loaded.
    pub fn set_ready(&self) {
        self.advance(Phase::Ready);
    }

    /// Refuses new work from now on.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Tells what runs to break off, and refuses new work.
    pub fn end(&self) {
        self.drain();
        self.ended.cancel();
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = to > *phase;
            *phase = (*phase).max(to);
            is_later
        });
    }

    /// Cancelled by [`end`](Self::end).
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Counts a request as running until the token is dropped.
    pub fn admit(&self) -> Result<TaskTrackerToken, ApiError> {
        // In this order: what is admitted before the drain is waited for by it.
        let token = self.running.token();
        if self.phase() == Phase::Draining {
            return Err(draining());
        }
        Ok(token)
    }

    /// How many requests run.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Waits until nothing runs; only after [`drain`](Self::drain), else more comes.
    pub async fn idle(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

/// The refusal of a server that ends, for new work and for streams that outlast the grace time.
pub(crate) fn draining() -> ApiError {
    ApiError::new(
        ErrorCode::Draining,
        "the server is shutting down and takes no more requests",
    )
    .after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.phase(), Phase::Starting);
        let running = lifecycle.admit().unwrap();
        lifecycle.drain();
        lifecycle.set_ready();
        assert_eq!(lifecycle.phase(), Phase::Draining);
        assert_eq!(lifecycle.admit().unwrap_err().code, ErrorCode::Draining);
        assert_eq!(lifecycle.n_running(), 1);
        drop(running);
        assert_eq!(lifecycle.n_running(), 0);
        assert!(!lifecycle.ended().is_cancelled());
        lifecycle.end();
        assert!(lifecycle.ended().is_cancelled());
    }
}
