//! The engine on tiny random models, written by our own writer.

mod files;
mod tiny;
mod variants;

mod faults;
mod forward;
mod generate;
mod loading;
mod models;
mod split;
mod verify;

/// Waits for what another thread does; what never happens fails a test instead of holding it up.
#[track_caller]
fn wait_until(is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 120, "waited in vain");
        std::thread::yield_now();
    }
}
