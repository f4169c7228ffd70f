//! Data types, tensor programs, and the backends that run them on the CPU.

pub mod dtype;
