//! The list of commands: one file each, with its options (`Args`) and what it does (`run`).

use std::process::ExitCode;

use crate::isolated;

mod bench;
mod config;
#[cfg(feature = "gpu")]
mod devices;
mod inspect;
mod key;
mod list;
mod perplexity;
mod plan;
mod pull;
mod rm;
mod run;
#[cfg(feature = "gpu")]
mod selftest;
mod serve;
mod tokenize;
mod verify;

/// Everything that `minerva` can be told to do, in the order of `--help`.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Answer a prompt, or chat
    Run(Box<run::Args>),
    /// Serve models over HTTP
    Serve(serve::Args),
    /// Make, list and revoke the API keys of the service
    Key(key::Args),
    /// Check or show the settings of the service
    Config(config::Args),
    /// Download a model into the model folder
    Pull(pull::Args),
    /// List the models in the model folder
    List(list::Args),
    /// Remove a model from the model folder
    Rm(rm::Args),
    /// Say what is in a model file: architecture, types, tokenizer, memory needed
    Inspect(inspect::Args),
    /// Say what memory a model will take, and what would make it fit
    Plan(plan::Args),
    /// Check a whole model file without running it
    Verify(verify::Args),
    /// Turn the text on standard input into token ids
    Tokenize(tokenize::Args),
    /// Measure prefill and decode speed, as llama-bench does
    Bench(bench::Args),
    /// Measure how well a model predicts a text, as llama.cpp does
    Perplexity(perplexity::Args),
    /// List what can compute: the processor and the GPUs
    #[cfg(feature = "gpu")]
    Devices(devices::Args),
    /// Check a GPU's results on this machine, and write a report
    #[cfg(feature = "gpu")]
    Selftest(selftest::Args),
    /// Render the chat template that comes in; `run` and `serve` start it
    #[command(name = isolated::COMMAND, hide = true)]
    RenderTemplate,
}

impl Command {
    /// Runs the command; an error is for [`report_error`](crate::output::report_error).
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => return run::run(*args),
            Command::Serve(args) => serve::run(&args)?,
            Command::Key(args) => key::run(args)?,
            Command::Config(args) => config::run(&args)?,
            Command::Pull(args) => pull::run(&args)?,
            Command::List(args) => list::run(&args)?,
            Command::Rm(args) => rm::run(&args)?,
            Command::Inspect(args) => inspect::run(&args)?,
            Command::Plan(args) => plan::run(&args)?,
            Command::Verify(args) => return verify::run(&args),
            Command::Tokenize(args) => tokenize::run(&args)?,
            Command::Bench(args) => bench::run(&args)?,
            Command::Perplexity(args) => perplexity::run(&args)?,
            #[cfg(feature = "gpu")]
            Command::Devices(args) => devices::run(&args)?,
            #[cfg(feature = "gpu")]
            Command::Selftest(args) => return selftest::run(&args),
            Command::RenderTemplate => isolated::run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
