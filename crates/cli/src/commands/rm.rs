//! `minerva rm`: removes a model from the model folder, and nothing outside of it.

use crate::model;
use crate::output::{bytes, note};

/// The options of `rm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A name that `minerva list` shows
    #[arg(value_name = "MODEL")]
    model: String,
}

/// Removes, and says how much room that made.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let removed = minerva_hub::remove(&model::hub()?, &args.model)?;
    note(&format!(
        "removed {}, {} free again",
        removed.name,
        bytes(removed.size_bytes)
    ));
    Ok(())
}
