//! `minerva pull`: brings a model to the model folder.

use std::io::Write;

use crate::model;
use crate::output::{note, stdout};

/// The options of `pull`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,
}

/// Pulls, and writes the path of the model to standard output.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let pulled = model::pull(&args.model)?;
    if pulled.was_present {
        note(&format!("{} is there already", args.model));
    }
    let mut out = stdout();
    writeln!(out, "{}", pulled.path.display())?;
    out.flush()?;
    Ok(())
}
