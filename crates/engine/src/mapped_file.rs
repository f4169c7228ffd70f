//! A file mapped into memory: the crate's one unsafe line.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::error::LoadError;

/// The bytes of a file, read from disk as they are touched.
#[derive(Debug)]
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a file that is there, is a file, and has at least one byte.
    pub(crate) fn open(path: &Path) -> Result<MappedFile, LoadError> {
        let error = |problem: String| LoadError::File {
            path: path.into(),
            problem,
        };
        let io_error = |source: io::Error| error(describe(&source));
        let file = File::open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if metadata.is_dir() {
            return Err(error("a directory, expected a GGUF file".into()));
        }
        if !metadata.is_file() {
            return Err(error("not a regular file, expected a GGUF file".into()));
        }
        if metadata.len() == 0 {
            return Err(error("empty, expected a GGUF file".into()));
        }
        #[allow(unsafe_code, reason = "the one memory map of the crate")]
        // SAFETY: the map is read-only and private. Soundness asks that nobody changes the file
        // while it is mapped: model files are replaced by renaming, never written in place, and
        // the documentation tells users not to.
        let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
        Ok(MappedFile(map))
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The usual failures in words that do not depend on the platform.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "no permission to read it".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, wanted: &str) {
        let message = MappedFile::open(path).unwrap_err().to_string();
        assert_eq!(message, format!("{}: {wanted}", path.display()));
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let dir = std::env::temp_dir().join(format!("minerva-mapped-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        check(&dir, "a directory, expected a GGUF file");
        check(&dir.join("missing.gguf"), "no such file");
        std::fs::write(dir.join("empty.gguf"), "").unwrap();
        check(&dir.join("empty.gguf"), "empty, expected a GGUF file");
        std::fs::write(dir.join("short.gguf"), "GG").unwrap();
        assert_eq!(
            MappedFile::open(&dir.join("short.gguf")).unwrap().as_ref(),
            b"GG"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
