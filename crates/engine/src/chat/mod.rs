//! Chat templates from the model file, and stop strings.

mod guard;
mod python;
pub mod stop;
pub mod template;
