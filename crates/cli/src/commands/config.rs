//! `minerva config`: checks and shows the settings that `minerva serve` would have.

use std::io::Write;

use crate::output::{note_dim, stdout};
use crate::settings::SettingArgs;

/// The options of `config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Say what is wrong with the settings, if anything is
    Check(SettingArgs),
    /// Write the settings in effect as a file, with the source of each
    Show(SettingArgs),
}

/// Checks, and shows if that is asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.action {
        Action::Check(settings) => {
            let loaded = settings.sources()?.load()?;
            note_dim(&format!(
                "{} settings are given, all are right",
                loaded.set_by.len()
            ));
        }
        Action::Show(settings) => {
            let mut out = stdout();
            write!(out, "{}", settings.sources()?.load()?.to_toml())?;
            out.flush()?;
        }
    }
    Ok(())
}
