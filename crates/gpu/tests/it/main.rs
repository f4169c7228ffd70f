//! The GPU backend on the adapter that is there. Without one the tests say that they skipped, or
//! fail where `MINERVA_REQUIRE_GPU` is set.

mod limits;
mod profile;
mod programs;

use minerva_gpu::{GpuBackend, GpuOptions, testing};

fn open(options: &GpuOptions) -> Option<GpuBackend> {
    testing::opened(GpuBackend::new(options))
}
