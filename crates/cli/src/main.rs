//! The `minerva` command.
#![forbid(unsafe_code)]

fn main() {}
