//! Writing a file: version 3, little-endian, tensors in the order given.
//!
//! What the parser would refuse is refused here, so that what is written can be read back. Data is
//! taken by slice and passed on: a file is never held in memory as a whole.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};

use crate::error::Error;
use crate::ggml_type::GgmlType;
use crate::metadata::{Array, Metadata, Value};
use crate::parse::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_ARRAY_DEPTH, MAX_NAME_BYTES, checked_alignment,
};
use crate::show;
use crate::tensors::checked_n_bytes;

/// A tensor to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewTensor<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// One to four dimensions, the row length first.
    pub dims: &'a [usize],
    /// The type of the elements.
    pub ggml_type: GgmlType,
    /// The data, of the size that shape and type ask for.
    pub data: &'a [u8],
}

/// Why a file was not written.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// The file would not have been valid; offsets in it are 0.
    Invalid(Error),
    /// A tensor's data has another size than its shape and type ask for.
    DataLen {
        /// The tensor.
        name: String,
        /// The size of the data in bytes.
        found: usize,
        /// The size wanted.
        wanted: usize,
    },
    /// The output failed.
    Io(io::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Invalid(error) => error.fmt(f),
            WriteError::DataLen {
                name,
                found,
                wanted,
            } => write!(
                f,
                "tensor {}: {found} bytes of data, expected {wanted}",
                show::name(name)
            ),
            WriteError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WriteError::Invalid(error) => error.source(),
            WriteError::DataLen { .. } => None,
            WriteError::Io(error) => error.source(),
        }
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> WriteError {
        WriteError::Invalid(error)
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(error)
    }
}

/// Writes a file with this metadata and these tensors.
///
/// Tensors are aligned as `general.alignment` in the metadata says, else to 32 bytes, and the last
/// one is padded as well, as other readers of the format expect. Everything but the data is
/// checked, and put together in memory, before the first byte goes out.
pub fn write(
    out: &mut impl Write,
    metadata: &Metadata,
    tensors: &[NewTensor<'_>],
) -> Result<(), WriteError> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(value) => checked_alignment(value).ok_or_else(|| Error::InvalidAlignment {
            offset: 0,
            found: value.to_string(),
        })?,
    };

    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_name(&mut head, key, "key of a metadata entry")?;
        put_value(&mut head, key, value)?;
    }

    let mut names = HashSet::new();
    let mut data_offset = 0u64;
    for tensor in tensors {
        let name = tensor.name;
        put_name(&mut head, name, "name of a tensor")?;
        if !names.insert(name) {
            return Err(Error::DuplicateTensor {
                name: name.into(),
                offset: 0,
            }
            .into());
        }
        let dims: Vec<u64> = tensor.dims.iter().map(|&dim| dim as u64).collect();
        let wanted = checked_n_bytes(name, &dims, tensor.ggml_type, 0)?;
        let found = tensor.data.len();
        if found != wanted {
            return Err(WriteError::DataLen {
                name: name.into(),
                found,
                wanted,
            });
        }
        head.extend((dims.len() as u32).to_le_bytes());
        for dim in dims {
            head.extend(dim.to_le_bytes());
        }
        head.extend(tensor.ggml_type.id().to_le_bytes());
        head.extend(data_offset.to_le_bytes());
        data_offset += (found as u64).next_multiple_of(alignment as u64);
    }

    out.write_all(&head)?;
    if !tensors.is_empty() {
        put_padding(out, head.len(), alignment)?;
    }
    for tensor in tensors {
        out.write_all(tensor.data)?;
        put_padding(out, tensor.data.len(), alignment)?;
    }
    Ok(())
}

/// Zeros from `len` to the next multiple of the alignment, which may be as large as 2 GiB.
fn put_padding(out: &mut impl Write, len: usize, alignment: usize) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut n_left = (alignment - len % alignment) % alignment;
    while n_left > 0 {
        let n_bytes = n_left.min(ZEROS.len());
        out.write_all(&ZEROS[..n_bytes])?;
        n_left -= n_bytes;
    }
    Ok(())
}

fn put_name(head: &mut Vec<u8>, name: &str, what: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::EmptyName {
            what: what.into(),
            offset: 0,
        });
    }
    if name.len() > MAX_NAME_BYTES {
        let found = name.len() as u64;
        return Err(Error::NameTooLong {
            what: what.into(),
            offset: 0,
            found,
        });
    }
    put_string(head, name.as_bytes());
    Ok(())
}

fn put_string(head: &mut Vec<u8>, string: &[u8]) {
    head.extend((string.len() as u64).to_le_bytes());
    head.extend(string);
}

fn put_value(head: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), Error> {
    head.extend(value.type_id().to_le_bytes());
    match value {
        Value::U8(value) => head.extend(value.to_le_bytes()),
        Value::I8(value) => head.extend(value.to_le_bytes()),
        Value::U16(value) => head.extend(value.to_le_bytes()),
        Value::I16(value) => head.extend(value.to_le_bytes()),
        Value::U32(value) => head.extend(value.to_le_bytes()),
        Value::I32(value) => head.extend(value.to_le_bytes()),
        Value::F32(value) => head.extend(value.to_le_bytes()),
        Value::Bool(value) => head.push(u8::from(*value)),
        Value::String(bytes) => put_string(head, bytes),
        Value::Array(array) => put_array(head, key, array, 1)?,
        Value::U64(value) => head.extend(value.to_le_bytes()),
        Value::I64(value) => head.extend(value.to_le_bytes()),
        Value::F64(value) => head.extend(value.to_le_bytes()),
    }
    Ok(())
}

fn put_array(head: &mut Vec<u8>, key: &str, array: &Array, depth: usize) -> Result<(), Error> {
    if depth > MAX_ARRAY_DEPTH {
        return Err(Error::ArrayTooDeep {
            key: key.into(),
            offset: 0,
        });
    }
    head.extend(array.element_type_id().to_le_bytes());
    head.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(values) => head.extend(values),
        Array::I8(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U16(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I16(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U32(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I32(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F32(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::Bool(values) => head.extend(values.iter().map(|&value| u8::from(value))),
        Array::String(strings) => head.extend(strings.file_form()),
        Array::Array(arrays) => {
            for array in arrays {
                put_array(head, key, array, depth + 1)?;
            }
        }
        Array::U64(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I64(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F64(values) => head.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
    Ok(())
}
