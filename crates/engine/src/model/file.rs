//! A model's file or files, mapped and parsed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minerva_compute::Bytes;
use minerva_gguf::{Gguf, SplitName, TensorInfo};

use crate::error::LoadError;
use crate::mapped_file::MappedFile;

/// A GGUF file, or all parts of a split one.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) gguf: Gguf,
    parts: Vec<Arc<MappedFile>>,
}

impl ModelFile {
    /// Opens a file; if it is a part of a split model, the other parts too, which lie beside it.
    pub(crate) fn open(path: &Path) -> Result<ModelFile, LoadError> {
        let (map, gguf) = open_part(path)?;
        let error = |problem: String| LoadError::File {
            path: path.into(),
            problem,
        };
        let n_parts = match gguf.split().map_err(|e| error(e.to_string()))? {
            Some(split) => split.n_parts,
            None => 1,
        };
        if n_parts == 1 {
            return Ok(ModelFile {
                gguf,
                parts: vec![map],
            });
        }
        let file_name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(SplitName::parse);
        let Some(name) = file_name.filter(|name| name.n_parts == n_parts) else {
            return Err(error(format!(
                "a part of a model of {n_parts} files, expected a name like \
                 model-00001-of-{n_parts:05}.gguf"
            )));
        };
        let part_path = |part: u32| path.with_file_name(name.part(part).to_string());
        let (map, first) = open_part(&part_path(0))?;
        let mut parts = vec![map];
        let mut rest = Vec::new();
        for part in 1..n_parts {
            let (map, gguf) = open_part(&part_path(part))?;
            parts.push(map);
            rest.push(gguf);
        }
        let gguf = first.join(rest).map_err(|e| error(e.to_string()))?;
        Ok(ModelFile { gguf, parts })
    }

    /// The data of one of its tensors.
    pub(crate) fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        Bytes::new(self.parts[tensor.part].clone(), tensor.range())
            .expect("the parser checked that tensors lie in their files")
    }

    /// The size of all files.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| (**part).as_ref().len() as u64)
            .sum()
    }
}

fn open_part(path: &Path) -> Result<(Arc<MappedFile>, Gguf), LoadError> {
    let map = MappedFile::open(path)?;
    let gguf = Gguf::parse(map.as_ref()).map_err(|e| LoadError::File {
        path: PathBuf::from(path),
        problem: e.to_string(),
    })?;
    Ok((Arc::new(map), gguf))
}
