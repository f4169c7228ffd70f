//! The model folder: what lies where in it, and listing, removing and checking what it holds.
//!
//! Models are plain files, so that a person may put theirs beside the pulled ones:
//! `<name>.gguf`, and `owner/repo/file.gguf` for what came by `hf:`. Everything else is below
//! `.hub/`, in files named after the model's.

use std::fs::{self, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::catalogue::{CATALOGUE, CatalogueEntry};
use crate::config::HubConfig;
use crate::disk;
use crate::error::HubError;
use crate::manifest::Manifest;
use crate::name::LocalName;
use crate::progress::{Progress, Reporter};
use crate::pull::{Located, locate, open_lock};

/// Folders deeper than any name reaches are not looked into.
const MAX_DEPTH: usize = 8;

/// Where the files around one model file are.
pub(crate) struct Places {
    pub(crate) model: PathBuf,
    /// What has arrived so far.
    pub(crate) part: PathBuf,
    /// What the part is a part of.
    pub(crate) state: PathBuf,
    /// Held while the file is being made.
    pub(crate) lock: PathBuf,
    /// The manifest.
    pub(crate) info: PathBuf,
    /// pip's working folder.
    pub(crate) package: PathBuf,
}

impl Places {
    pub(crate) fn of(home: &Path, name: &LocalName) -> Self {
        let base = name.below(&home.join(".hub"));
        let with = |suffix| disk::with_suffix(&base, suffix);
        Self {
            model: name.below(home),
            part: with(".part"),
            state: with(".state"),
            lock: with(".lock"),
            info: with(".info"),
            package: with(".package"),
        }
    }
}

/// A model in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// What to type to get it.
    pub name: String,
    /// The file, or the first one of a split model.
    pub path: PathBuf,
    /// Size of all its files.
    pub size_bytes: u64,
    /// When the file last changed, where the file system knows.
    pub modified: Option<SystemTime>,
    /// Where it was pulled from; `None` for a file that was put there by other means.
    pub source: Option<String>,
}

/// What there is and what there could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The models of the folder, by name.
    pub installed: Vec<Installed>,
    /// The names of the catalogue that are not among them.
    pub available: Vec<CatalogueEntry>,
}

/// A model whose files were read and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The file, or the first one of a split model.
    pub path: PathBuf,
    /// The SHA-256 of each file, in order.
    pub sha256: Vec<String>,
    /// Whether every one of them was compared with a sum that was noted at the pull or stands in
    /// the catalogue. `false` means that the files were readable, and no more.
    pub is_known: bool,
}

/// Lists the model folder. A folder that does not exist yet is an empty one.
pub fn list(config: &HubConfig) -> Result<Listing, HubError> {
    let mut names = Vec::new();
    if config.home.exists() {
        collect(&config.home, "", MAX_DEPTH, &mut names)?;
    }
    names.sort();
    let mut installed = Vec::new();
    for name in &names {
        // A split model stands in the list once, under its first file.
        if name.files()[0] == *name {
            installed.push(describe(&config.home, name)?);
        }
    }
    let is_installed = |entry: &&CatalogueEntry| installed.iter().any(|i| i.name == entry.name);
    let available = CATALOGUE
        .iter()
        .filter(|entry| !is_installed(entry))
        .copied()
        .collect();
    Ok(Listing {
        installed,
        available,
    })
}

/// Removes a model from the folder, with what a broken-off pull of it has left. Files outside
/// the folder are never touched.
pub fn remove(config: &HubConfig, model: &str) -> Result<Installed, HubError> {
    let not_installed = || HubError::NotInstalled {
        name: model.to_owned(),
        folder: config.home.clone(),
    };
    let name = match locate(config, model)? {
        Located::Local { name, .. } => name,
        Located::Path(_) => return Err(not_installed()),
    };
    let files = name.files();
    let all: Vec<Places> = files
        .iter()
        .map(|file| Places::of(&config.home, file))
        .collect();
    if !all
        .iter()
        .any(|places| places.model.is_file() || places.part.is_file())
    {
        return Err(not_installed());
    }
    let removed = describe(&config.home, &files[0])?;
    for places in &all {
        disk::make_parent(&places.lock)?;
        let lock = open_lock(&places.lock)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HubError::Busy {
                    name: model.to_owned(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(HubError::io("lock", &places.lock, e)),
        }
        for path in [&places.model, &places.info, &places.part, &places.state] {
            disk::remove_file(path)?;
        }
        // The lock file stays: to remove it under another's wait would give two of them a lock.
    }
    // Folders of the repository that are empty now; the first one that is not ends it.
    let mut folder = all[0].model.parent();
    while let Some(path) = folder.filter(|path| *path != config.home) {
        if fs::remove_dir(path).is_err() {
            break;
        }
        folder = path.parent();
    }
    Ok(removed)
}

/// Reads all files of a model and compares their checksums with what is known of them.
pub fn verify(
    config: &HubConfig,
    model: &str,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Verified, HubError> {
    let (paths, notes): (Vec<PathBuf>, Vec<Option<String>>) = match locate(config, model)? {
        Located::Path(path) => (vec![path], vec![None]),
        Located::Local { name, .. } => name
            .files()
            .iter()
            .map(|file| {
                let places = Places::of(&config.home, file);
                let note = Manifest::load(&places.info).map(|manifest| manifest.sha256);
                (places.model, note.or_else(|| pinned_sha256(model)))
            })
            .unzip(),
    };
    if !paths[0].is_file() {
        let name = model.to_owned();
        return Err(HubError::NotInstalled {
            name,
            folder: config.home.clone(),
        });
    }
    let n_files = paths.len();
    let mut report = Reporter {
        sink: progress,
        file: String::new(),
        file_idx: 0,
        n_files,
    };
    let mut sums = Vec::new();
    for (file_idx, (path, note)) in paths.iter().zip(&notes).enumerate() {
        report.file = path.display().to_string();
        report.file_idx = file_idx;
        let found = disk::hex(disk::hash_file(path, &mut report)?);
        if let Some(wanted) = note.as_ref().filter(|wanted| **wanted != found) {
            return Err(HubError::Checksum {
                name: report.file,
                found,
                wanted: wanted.clone(),
                hint: "the file has changed since it was pulled: remove it and pull it again",
            });
        }
        sums.push(found);
    }
    let is_known = notes.iter().all(Option::is_some);
    Ok(Verified {
        path: paths[0].clone(),
        sha256: sums,
        is_known,
    })
}

fn pinned_sha256(model: &str) -> Option<String> {
    let entry = CATALOGUE.iter().find(|entry| entry.name == model)?;
    entry.pinned.map(|pinned| pinned.sha256.to_owned())
}

/// The model files below a folder. Hidden ones are skipped and links to folders not followed.
fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<LocalName>,
) -> Result<(), HubError> {
    let read = |e| HubError::io("read", folder, e);
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let Some(name) = entry
            .file_name()
            .to_str()
            .map(|name| format!("{prefix}{name}"))
        else {
            continue;
        };
        let is_dir = entry.file_type().map_err(read)?.is_dir();
        let Ok(local) = LocalName::parse(&name) else {
            continue;
        };
        if is_dir && depth > 1 {
            collect(&entry.path(), &format!("{name}/"), depth - 1, names)?;
        } else if !is_dir && name.ends_with(".gguf") && entry.path().is_file() {
            names.push(local);
        }
    }
    Ok(())
}

/// Size and time of a model whose files may be there in part.
fn describe(home: &Path, name: &LocalName) -> Result<Installed, HubError> {
    let mut size_bytes = 0;
    for file in name.files() {
        let places = Places::of(home, &file);
        let held = if places.model.is_file() {
            places.model
        } else {
            places.part
        };
        match fs::metadata(&held) {
            Ok(data) => size_bytes += data.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(HubError::io("read", &held, e)),
        }
    }
    let places = Places::of(home, name);
    Ok(Installed {
        name: name.to_argument(),
        modified: fs::metadata(&places.model)
            .and_then(|data| data.modified())
            .ok(),
        path: places.model,
        size_bytes,
        source: Manifest::load(&places.info).map(|manifest| manifest.source),
    })
}
