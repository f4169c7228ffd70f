//! Programs on the CPU against the reference backend, and against themselves.

mod programs;
mod tiles;
