//! The GPU backend on the adapter that is there. Without one the tests say that they skipped, or
//! fail where `MINERVA_REQUIRE_GPU` is set.

mod limits;
mod profile;
mod programs;

use minerva_gpu::{GpuBackend, GpuOptions, OpenError};

/// A device, or `None` with a note where there is none and none is required.
fn open(options: &GpuOptions) -> Option<GpuBackend> {
    match GpuBackend::new(options) {
        Ok(backend) => Some(backend),
        Err(error @ OpenError::NoAdapter { .. }) => {
            assert!(
                std::env::var_os("MINERVA_REQUIRE_GPU").is_none(),
                "{error}, and MINERVA_REQUIRE_GPU is set"
            );
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
