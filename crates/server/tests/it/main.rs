//! Drives the real service over sockets; the time is set by hand where it counts.

mod api;
mod browser;
mod documents;
mod keys;
mod lifecycle;
mod limits;
mod protocol;
mod responses;
mod server;
mod tls;
mod websocket;

#[allow(dead_code, reason = "the engine's own tests use more of it")]
#[path = "../../../engine/tests/it/files.rs"]
mod files;

#[allow(dead_code, reason = "the engine's own tests use more of it")]
#[path = "../../../engine/tests/it/tiny.rs"]
mod tiny;

/// Waits for what another thread does; what never happens fails a test instead of holding it up.
#[track_caller]
fn wait_until(is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 120, "waited in vain");
        std::thread::yield_now();
    }
}
