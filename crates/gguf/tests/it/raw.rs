//! A file put together byte by byte, with no regard for what is valid.

/// A file in the making.
#[derive(Clone)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    /// A header that announces so many tensors and metadata entries.
    pub(crate) fn new(n_tensors: u64, n_entries: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_entries)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u32(self, value: u32) -> Raw {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Raw {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn string(self, string: &[u8]) -> Raw {
        self.u64(string.len() as u64).bytes(string)
    }

    /// A metadata entry with the bytes of its value.
    pub(crate) fn entry(self, key: &str, value_type: u32, value: &[u8]) -> Raw {
        self.string(key.as_bytes()).u32(value_type).bytes(value)
    }

    /// A directory entry.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], type_id: u32, data_offset: u64) -> Raw {
        let raw = self.string(name.as_bytes()).u32(dims.len() as u32);
        let raw = dims.iter().fold(raw, |raw, &dim| raw.u64(dim));
        raw.u32(type_id).u64(data_offset)
    }

    /// Zeros up to the next multiple of 32, and so many more.
    pub(crate) fn data(mut self, n_bytes: usize) -> Raw {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + n_bytes, 0);
        self
    }
}
