//! The time, which tests set by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Where the time comes from; a clone is the same clock.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// Milliseconds since 1970, and only who holds the number moves it.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The time since 1970, in UTC.
    pub fn now(&self) -> Duration {
        match self {
            // A clock before 1970 is as good as one at 1970.
            Clock::System => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
            Clock::Manual(ms) => Duration::from_millis(ms.load(Ordering::SeqCst)),
        }
    }
}
