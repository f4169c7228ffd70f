//! Prompts of chats by the template of the model file, and stop strings.

mod guard;
mod prompt;
mod python;
pub mod renderer;
pub mod stop;
pub mod template;

pub use prompt::{Chat, encode_text};
