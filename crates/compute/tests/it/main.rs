//! Programs on the CPU against the reference backend, and against themselves.

mod company;
mod programs;
mod tiles;
