//! The engine on tiny random models, written by our own writer.

mod tiny;

mod forward;
mod generate;
mod loading;
mod verify;
