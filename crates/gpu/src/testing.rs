//! For tests, of this crate and of others: the adapter that is there.

use std::io::Write;

use crate::OpenError;

/// What opening an adapter gave, or `None` where there is none, which is said. Where the variable
/// `MINERVA_REQUIRE_GPU` is set, that fails as every other error does.
pub fn opened<T>(opened: Result<T, OpenError>) -> Option<T> {
    let error = match opened {
        Ok(opened) => return Some(opened),
        Err(error) => error,
    };
    let is_required = std::env::var_os("MINERVA_REQUIRE_GPU").is_some();
    assert!(
        matches!(error, OpenError::NoAdapter { .. }) && !is_required,
        "{error}"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not by a macro: what those print is kept by the harness until a test fails.
    _ = writeln!(std::io::stderr(), "{test}: skipped: {error}");
    None
}
