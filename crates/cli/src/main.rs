//! The `minerva` command: reads the command line, runs one command, says what went wrong.
#![forbid(unsafe_code)]

mod commands;

mod answer;
mod backend;
mod chat;
mod interrupt;
mod isolated;
mod model;
mod output;
mod progress;
mod session;
mod settings;

use std::alloc::System;
use std::process::ExitCode;

use cap::Cap;
use clap::Parser;

use commands::Command;

/// Counts what is allocated, so that a process that renders a template can be held to a limit.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs large language models on this machine, from GGUF files.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // The name that other engines have for it, which is not one letter.
    let arguments = std::env::args_os().map(|argument| match argument == "-ngl" {
        true => "--gpu-layers".into(),
        false => argument,
    });
    match Cli::parse_from(arguments).command.run() {
        Ok(code) => code,
        // Whoever reads has read enough, as `head` does.
        Err(error) if output::is_stdout_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::report_error(&error);
            ExitCode::FAILURE
        }
    }
}
