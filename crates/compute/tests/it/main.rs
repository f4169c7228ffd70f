//! Programs on the CPU against the reference backend, and against themselves.

mod company;
mod fast_batches;
mod programs;
