//! From what the user calls a model to a file on disk, and to the model in it.

use std::path::{Path, PathBuf};

use minerva_engine::Model;
use minerva_hub::{Found, HubConfig, Pulled};

use crate::output::{note, note_dim};
use crate::progress::PullProgress;

/// What can stand for a model on the command line.
pub(crate) const NAME_HELP: &str =
    "A path, a name of `minerva list`, or hf:owner/repo/file.gguf of Hugging Face";

/// The hub's settings from the environment.
pub(crate) fn hub() -> anyhow::Result<HubConfig> {
    Ok(HubConfig::from_env()?)
}

/// Opens a model, and says where the file leaves something to a default that changes its tokens.
pub(crate) fn open(path: &Path) -> anyhow::Result<Model> {
    let model = Model::open(path)?;
    let metadata = model.metadata();
    if metadata.opt_str("tokenizer.ggml.model")? == Some("gpt2")
        && !metadata.contains("tokenizer.ggml.pre")
    {
        note(&format!(
            "{}: no tokenizer.ggml.pre: text is split as by `default`, tokens may differ from those it was trained on",
            path.display()
        ));
    }
    Ok(model)
}

/// The file of a model that must be there already.
pub(crate) fn find(model: &str) -> anyhow::Result<PathBuf> {
    match minerva_hub::find(&hub()?, model)? {
        Found::OnDisk(path) => Ok(path),
        Found::Remote { source, .. } => anyhow::bail!(
            "{model}: not on this machine, it would come from {source}\n`minerva pull {model}` fetches it"
        ),
    }
}

/// The file of a model, pulled first where it is not there.
pub(crate) fn find_or_pull(model: &str) -> anyhow::Result<PathBuf> {
    match minerva_hub::find(&hub()?, model)? {
        Found::OnDisk(path) => Ok(path),
        Found::Remote { source, .. } => {
            note_dim(&format!(
                "{model} is not on this machine yet: pulling {source}"
            ));
            Ok(pull(model)?.path)
        }
    }
}

/// Pulls with a progress bar.
pub(crate) fn pull(model: &str) -> anyhow::Result<Pulled> {
    let mut progress = PullProgress::new();
    let pulled = minerva_hub::pull(&hub()?, model, &mut |report| progress.show(report));
    progress.finish();
    Ok(pulled?)
}
