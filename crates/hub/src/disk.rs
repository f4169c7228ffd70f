//! Small duties around files: room, checksums, and a rename that survives a power cut.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::HubError;
use crate::progress::{Phase, Reporter};

/// Size of the pieces in which files are read, hashed and reported: large enough that the calls
/// do not show, small enough that progress and cancellation are prompt.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Fails where less is free than is still to be written.
pub(crate) fn check_room(folder: &Path, needed_bytes: u64) -> Result<(), HubError> {
    let available_bytes = fs4::available_space(folder)
        .map_err(|e| HubError::io("ask for the free space of", folder, e))?;
    if needed_bytes > available_bytes {
        return Err(HubError::NoSpace {
            folder: folder.to_owned(),
            needed_bytes,
            available_bytes,
        });
    }
    Ok(())
}

pub(crate) fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| HubError::io("make the folder", parent, e))
}

/// The path with something behind the file's name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

/// Removes a file; that it is not there is as good.
pub(crate) fn remove_file(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Hashes what a file holds, reporting [`Phase::Checking`].
pub(crate) fn hash_file(path: &Path, report: &mut Reporter<'_>) -> Result<Sha256, HubError> {
    let read = |e| HubError::io("read", path, e);
    let mut file = File::open(path).map_err(read)?;
    let total = file.metadata().map_err(read)?.len();
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        report.tell(Phase::Checking, done, Some(total), None)?;
        let n = file.read(&mut chunk).map_err(read)?;
        if n == 0 {
            return Ok(hasher);
        }
        hasher.update(&chunk[..n]);
        done += n as u64;
    }
}

/// The digest in lower-case hexadecimal digits.
pub(crate) fn hex(hasher: Sha256) -> String {
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether a text is a SHA-256 as [`hex`] writes it.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Writes a small file so that readers see the old content or the new, never a part.
pub(crate) fn write_small(path: &Path, content: &str) -> Result<(), HubError> {
    let new = with_suffix(path, ".new");
    fs::write(&new, content).map_err(|e| HubError::io("write", &new, e))?;
    fs::rename(&new, path).map_err(|e| HubError::io("rename to", path, e))
}

/// Gives a complete file its name: content to the disk first, then the name, then the name's
/// folder to the disk.
pub(crate) fn publish(part: &Path, path: &Path) -> Result<(), HubError> {
    File::options()
        .write(true)
        .open(part)
        .and_then(|file| file.sync_all())
        .map_err(|e| HubError::io("write", part, e))?;
    make_parent(path)?;
    fs::rename(part, path).map_err(|e| HubError::io("rename to", path, e))?;
    // A folder cannot be opened as a file everywhere, and the model is complete without this.
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_names_both_numbers() {
        let folder = std::env::temp_dir();
        assert!(check_room(&folder, 1).is_ok());
        let error = check_room(&folder, u64::MAX).unwrap_err();
        assert!(
            matches!(
                error,
                HubError::NoSpace {
                    needed_bytes: u64::MAX,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn the_digest_is_the_published_one() {
        // FIPS 180-2, appendix B.1.
        let abc = hex(Sha256::new().chain_update("abc"));
        assert_eq!(
            abc,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(is_sha256(&abc));
        assert!(!is_sha256(&abc.to_uppercase()));
    }
}
