//! `minerva list`: the models of the model folder, and those that could be pulled by name.

use std::io::Write;
use std::time::SystemTime;

use serde_json::json;

use crate::model;
use crate::output::{Format, bytes, note_dim, print_json, stdout, table};

/// The options of `list`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The form of the list
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Lists the folder on standard output; what else could be pulled is a note for people.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let config = model::hub()?;
    let listing = minerva_hub::list(&config)?;
    if args.format == Format::Json {
        let models = listing.installed.iter().map(|model| {
            let modified = model
                .modified
                .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            json!({
                "name": model.name,
                "path": model.path.display().to_string(),
                "size_bytes": model.size_bytes,
                "modified": modified.map(|since| since.as_secs()),
                "source": model.source,
            })
        });
        let available = listing
            .available
            .iter()
            .map(|entry| json!({"name": entry.name, "about": entry.about, "source": entry.hf}));
        return print_json(&json!({
            "models": models.collect::<Vec<_>>(),
            "available": available.collect::<Vec<_>>(),
        }));
    }
    let rows: Vec<Vec<String>> = listing
        .installed
        .iter()
        .map(|model| {
            let source = model
                .source
                .clone()
                .unwrap_or_else(|| "a file put there".to_owned());
            vec![model.name.clone(), bytes(model.size_bytes), source]
        })
        .collect();
    let mut out = stdout();
    write!(out, "{}", table(&["NAME", "SIZE", "SOURCE"], &[1], &rows))?;
    out.flush()?;
    note_dim(&format!("model folder: {}", config.home.display()));
    for entry in &listing.available {
        note_dim(&format!(
            "can be pulled: {:<14} {}",
            entry.name, entry.about
        ));
    }
    Ok(())
}
