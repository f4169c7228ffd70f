//! `minerva verify`: whether a whole file is what it should be, without running it.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use crate::isolated::isolated;
use crate::model;
use crate::output::{Format, note, print_json, report_error, stdout};
use crate::progress::PullProgress;

/// The options of `verify`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "MODEL", help = model::NAME_HELP)]
    model: String,

    /// The form of the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Reads the file twice, for its checksum and for its content, and lists every problem.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = model::find(&args.model)?;
    let mut problems: Vec<anyhow::Error> = Vec::new();
    let mut progress = PullProgress::new();
    let hashed = minerva_hub::verify(&model::hub()?, &args.model, &mut |report| {
        progress.show(report)
    });
    progress.finish();
    let hashed = hashed.map_err(|error| problems.push(error.into())).ok();
    problems.extend(
        minerva_engine::model::verify(&path, isolated)
            .into_iter()
            .map(anyhow::Error::from),
    );
    match args.format {
        Format::Json => print_json(&json!({
            "model": args.model,
            "path": path.display().to_string(),
            "is_valid": problems.is_empty(),
            "problems": problems.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>(),
            "sha256": hashed.as_ref().map(|hashed| &hashed.sha256),
            "is_sha256_known": hashed.as_ref().map(|hashed| hashed.is_known),
        }))?,
        Format::Text if problems.is_empty() => {
            let mut out = stdout();
            writeln!(out, "{}: valid", path.display())?;
            out.flush()?;
            for sha256 in hashed.iter().flat_map(|hashed| &hashed.sha256) {
                note(&format!("sha256 {sha256}"));
            }
            if hashed.is_some_and(|hashed| !hashed.is_known) {
                note("no checksum is known to compare with: where it came from did not give one");
            }
        }
        Format::Text => problems.iter().for_each(report_error),
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
