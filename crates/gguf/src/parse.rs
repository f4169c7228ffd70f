//! From bytes to a checked [`Gguf`].
//!
//! Every read goes through [`Reader`], which knows where the file ends and what is being read.
//! A count is believed only as far as the bytes behind it could hold that many things.

use std::fmt;

use crate::error::Error;
use crate::ggml_type::GgmlType;
use crate::metadata::{Array, Metadata, StringArray, Value, integer};
use crate::tensors::{MAX_DIMS, TensorInfo, Tensors, checked_n_bytes};

/// The most bytes in a metadata key, by the specification; held for tensor names as well.
pub const MAX_NAME_BYTES: usize = 65535;

/// How deep arrays may be nested. No known model nests them at all; the limit bounds recursion.
pub const MAX_ARRAY_DEPTH: usize = 8;

/// The alignment of a file that does not state one.
pub(crate) const DEFAULT_ALIGNMENT: usize = 32;

/// The key that states another alignment.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// The least bytes of a metadata entry: a key of one byte and a value of one.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;

/// The least bytes of a directory entry: a name of one byte and one dimension.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// A parsed file: everything but the tensors' data.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The version of the format: 2 or 3.
    pub version: u32,
    /// The alignment of tensor data in bytes: a power of two of at least 8.
    pub alignment: usize,
    /// The metadata.
    pub metadata: Metadata,
    /// The tensor directory.
    pub tensors: Tensors,
}

impl Gguf {
    /// Parses and checks a whole file. Its tensor data must be there, but is not read.
    pub fn parse(bytes: &[u8]) -> Result<Gguf, Error> {
        let mut reader = Reader {
            bytes,
            pos: 0,
            context: Context::Header,
        };
        let version = read_version(&mut reader)?;
        reader.context = Context::TensorCount;
        let n_tensors_offset = reader.pos;
        let n_tensors = reader.u64()?;
        let n_entries = reader.count(Context::EntryCount, MIN_ENTRY_BYTES)?;
        let n_tensors = reader.checked_count(
            Context::TensorCount,
            n_tensors_offset,
            n_tensors,
            MIN_TENSOR_BYTES,
        )?;

        let mut metadata = Metadata::new();
        let mut alignment = DEFAULT_ALIGNMENT;
        for entry_idx in 0..n_entries {
            let key_offset = reader.pos;
            let key = reader.name(Context::Key(entry_idx))?;
            reader.context = Context::Value(key);
            let value_type = reader.u32()?;
            let value_offset = reader.pos;
            let value = read_value(&mut reader, key, value_type)?;
            if key == ALIGNMENT_KEY {
                alignment = checked_alignment(&value).ok_or_else(|| Error::InvalidAlignment {
                    offset: value_offset,
                    found: value.to_string(),
                })?;
            }
            if !metadata.push(key, value) {
                return Err(Error::DuplicateKey {
                    key: key.into(),
                    offset: key_offset,
                });
            }
        }

        let mut entries = Vec::new();
        for tensor_idx in 0..n_tensors {
            entries.push(read_tensor(&mut reader, tensor_idx, alignment)?);
        }
        let tensors = place_tensors(entries, reader.pos, alignment, bytes.len())?;
        Ok(Gguf {
            version,
            alignment,
            metadata,
            tensors,
        })
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let found = reader.array::<4>()?;
    if &found != b"GGUF" {
        return Err(Error::NotGguf { found });
    }
    let version = reader.u32()?;
    match version {
        1 => Err(Error::Version1 {}),
        2 | 3 => Ok(version),
        _ if (1..=3).contains(&version.swap_bytes()) => Err(Error::BigEndian {
            version: version.swap_bytes(),
        }),
        _ => Err(Error::UnknownVersion { found: version }),
    }
}

/// The alignment that a value of [`ALIGNMENT_KEY`] states; `None` if it cannot be one.
///
/// The specification asks for a multiple of 8, which is also what lets data be used in place.
pub(crate) fn checked_alignment(value: &Value) -> Option<usize> {
    let alignment = integer::<u32>(value).ok()?;
    (alignment.is_power_of_two() && alignment >= 8).then_some(alignment as usize)
}

fn read_value(reader: &mut Reader<'_>, key: &str, value_type: u32) -> Result<Value, Error> {
    Ok(match value_type {
        0 => Value::U8(u8::from_le_bytes(reader.array()?)),
        1 => Value::I8(i8::from_le_bytes(reader.array()?)),
        2 => Value::U16(u16::from_le_bytes(reader.array()?)),
        3 => Value::I16(i16::from_le_bytes(reader.array()?)),
        4 => Value::U32(reader.u32()?),
        5 => Value::I32(i32::from_le_bytes(reader.array()?)),
        6 => Value::F32(f32::from_le_bytes(reader.array()?)),
        7 => {
            let offset = reader.pos;
            Value::Bool(checked_bool(reader.array::<1>()?[0], key, offset)?)
        }
        8 => Value::String(reader.string()?.to_vec()),
        9 => Value::Array(read_array(reader, key, 1)?),
        10 => Value::U64(reader.u64()?),
        11 => Value::I64(i64::from_le_bytes(reader.array()?)),
        12 => Value::F64(f64::from_le_bytes(reader.array()?)),
        found => {
            let offset = reader.pos - 4;
            return Err(Error::UnknownValueType {
                key: key.into(),
                offset,
                found,
            });
        }
    })
}

fn read_array(reader: &mut Reader<'_>, key: &str, depth: usize) -> Result<Array, Error> {
    let start = reader.pos;
    if depth > MAX_ARRAY_DEPTH {
        return Err(Error::ArrayTooDeep {
            key: key.into(),
            offset: start,
        });
    }
    let element_type = reader.u32()?;
    Ok(match element_type {
        0 => Array::U8(reader.numbers(u8::from_le_bytes)?),
        1 => Array::I8(reader.numbers(i8::from_le_bytes)?),
        2 => Array::U16(reader.numbers(u16::from_le_bytes)?),
        3 => Array::I16(reader.numbers(i16::from_le_bytes)?),
        4 => Array::U32(reader.numbers(u32::from_le_bytes)?),
        5 => Array::I32(reader.numbers(i32::from_le_bytes)?),
        6 => Array::F32(reader.numbers(f32::from_le_bytes)?),
        7 => {
            let n_elements = reader.count(reader.context, 1)?;
            let offset = reader.pos;
            let bytes = reader.take(n_elements)?.iter().enumerate();
            let bools = bytes.map(|(idx, &byte)| checked_bool(byte, key, offset + idx));
            Array::Bool(bools.collect::<Result<_, _>>()?)
        }
        8 => Array::String(reader.strings()?),
        9 => {
            let n_arrays = reader.count(reader.context, 4 + 8)?;
            let mut arrays = Vec::new();
            for _ in 0..n_arrays {
                arrays.push(read_array(reader, key, depth + 1)?);
            }
            Array::Array(arrays)
        }
        10 => Array::U64(reader.numbers(u64::from_le_bytes)?),
        11 => Array::I64(reader.numbers(i64::from_le_bytes)?),
        12 => Array::F64(reader.numbers(f64::from_le_bytes)?),
        found => {
            return Err(Error::UnknownValueType {
                key: key.into(),
                offset: start,
                found,
            });
        }
    })
}

fn checked_bool(byte: u8, key: &str, offset: usize) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(Error::InvalidBool {
            key: key.into(),
            offset,
            found,
        }),
    }
}

/// A directory entry whose data is not placed yet, because the data section begins only after the
/// last entry.
struct DirectoryEntry<'a> {
    name: &'a str,
    dims: Vec<usize>,
    ggml_type: GgmlType,
    n_bytes: usize,
    /// Where the entry is in the file.
    entry_offset: usize,
    /// Where the data begins in the data section.
    data_offset: u64,
}

fn read_tensor<'a>(
    reader: &mut Reader<'a>,
    tensor_idx: usize,
    alignment: usize,
) -> Result<DirectoryEntry<'a>, Error> {
    let entry_offset = reader.pos;
    let name = reader.name(Context::TensorName(tensor_idx))?;
    reader.context = Context::Tensor(name);

    let offset = reader.pos;
    let n_dims = reader.u32()?;
    if n_dims == 0 || n_dims as usize > MAX_DIMS {
        return Err(Error::DimensionCount {
            name: name.into(),
            offset,
            found: n_dims,
        });
    }
    let dims_offset = reader.pos;
    let dims = (0..n_dims)
        .map(|_| reader.u64())
        .collect::<Result<Vec<_>, _>>()?;

    let offset = reader.pos;
    let id = reader.u32()?;
    let ggml_type = GgmlType::from_id(id).ok_or_else(|| match GgmlType::removed_name(id) {
        Some(type_name) => Error::RemovedType {
            name: name.into(),
            offset,
            found: id,
            type_name,
        },
        None => Error::UnknownType {
            name: name.into(),
            offset,
            found: id,
        },
    })?;
    let n_bytes = checked_n_bytes(name, &dims, ggml_type, dims_offset)?;
    // No dimension exceeds the element count, which has been found to fit.
    let dims = dims.into_iter().map(|dim| dim as usize).collect();

    let offset = reader.pos;
    let data_offset = reader.u64()?;
    if data_offset % alignment as u64 != 0 {
        let found = data_offset;
        return Err(Error::Misaligned {
            name: name.into(),
            offset,
            found,
            alignment,
        });
    }
    Ok(DirectoryEntry {
        name,
        dims,
        ggml_type,
        n_bytes,
        entry_offset,
        data_offset,
    })
}

/// Turns offsets in the data section into offsets in the file, and checks them all.
fn place_tensors(
    entries: Vec<DirectoryEntry<'_>>,
    directory_end: usize,
    alignment: usize,
    file_len: usize,
) -> Result<Tensors, Error> {
    let data_start = (directory_end as u64).next_multiple_of(alignment as u64);
    let start = |entry: &DirectoryEntry<'_>| data_start.saturating_add(entry.data_offset);
    let end = |entry: &DirectoryEntry<'_>| start(entry).saturating_add(entry.n_bytes as u64);

    let outside = entries.iter().filter(|entry| end(entry) > file_len as u64);
    if let Some(first) = outside.min_by_key(|entry| entry.data_offset) {
        return Err(Error::OutOfFile {
            name: first.name.into(),
            offset: start(first),
            n_bytes: first.n_bytes,
            file_len,
            wanted_len: entries.iter().map(end).max().unwrap_or(0),
        });
    }

    let mut tensors = Tensors::default();
    for entry in entries {
        // Fits: `start` and `end` are within the file.
        let offset = start(&entry) as usize;
        let DirectoryEntry {
            name,
            dims,
            ggml_type,
            n_bytes,
            entry_offset,
            ..
        } = entry;
        let info = TensorInfo {
            name: name.into(),
            dims,
            ggml_type,
            offset,
            n_bytes,
            part: 0,
        };
        tensors.push(info).map_err(|_| Error::DuplicateTensor {
            name: name.into(),
            offset: entry_offset,
        })?;
    }

    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|info| info.offset);
    for pair in by_offset.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if first.range().end > second.offset {
            return Err(Error::Overlap {
                first: first.name.to_string(),
                second: second.name.to_string(),
                offset: second.offset,
            });
        }
    }
    Ok(tensors)
}

/// What is being read, for errors.
#[derive(Clone, Copy)]
enum Context<'a> {
    Header,
    TensorCount,
    EntryCount,
    Key(usize),
    Value(&'a str),
    TensorName(usize),
    Tensor(&'a str),
}

impl fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &&str| crate::show::name(name).to_string();
        match self {
            Context::Header => f.write_str("header"),
            Context::TensorCount => f.write_str("number of tensors"),
            Context::EntryCount => f.write_str("number of metadata entries"),
            Context::Key(entry_idx) => write!(f, "key of metadata entry {entry_idx}"),
            Context::Value(key) => write!(f, "value of key {}", name(key)),
            Context::TensorName(tensor_idx) => write!(f, "name of tensor {tensor_idx}"),
            Context::Tensor(tensor) => write!(f, "tensor {}", name(tensor)),
        }
    }
}

/// A position in the file. No method moves it beyond the end.
struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
    context: Context<'a>,
}

impl<'a> Reader<'a> {
    fn n_left(&self) -> usize {
        self.bytes.len() - self.pos
    }

    fn truncated(&self, n_bytes: u64) -> Error {
        Error::Truncated {
            what: self.context.to_string(),
            offset: self.pos,
            wanted_len: (self.pos as u64).saturating_add(n_bytes),
            file_len: self.bytes.len(),
        }
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8], Error> {
        if n_bytes > self.n_left() {
            return Err(self.truncated(n_bytes as u64));
        }
        let taken = &self.bytes[self.pos..self.pos + n_bytes];
        self.pos += n_bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        match self.bytes[self.pos..].first_chunk() {
            Some(bytes) => {
                self.pos += N;
                Ok(*bytes)
            }
            None => Err(self.truncated(N as u64)),
        }
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length, then its bytes.
    fn string(&mut self) -> Result<&'a [u8], Error> {
        let n_bytes = self.u64()?;
        match usize::try_from(n_bytes) {
            Ok(n_bytes) if n_bytes <= self.n_left() => self.take(n_bytes),
            _ => Err(self.truncated(n_bytes)),
        }
    }

    /// A key or a tensor name.
    fn name(&mut self, context: Context<'a>) -> Result<&'a str, Error> {
        self.context = context;
        let offset = self.pos;
        let found = self.u64()?;
        if found == 0 {
            return Err(Error::EmptyName {
                what: context.to_string(),
                offset,
            });
        }
        if found > MAX_NAME_BYTES as u64 {
            return Err(Error::NameTooLong {
                what: context.to_string(),
                offset,
                found,
            });
        }
        let bytes = self.take(found as usize)?;
        std::str::from_utf8(bytes).map_err(|_| Error::NameNotUtf8 {
            what: context.to_string(),
            offset,
            found: bytes.to_vec(),
        })
    }

    /// A count of things that take at least `min_bytes` each.
    fn count(&mut self, context: Context<'a>, min_bytes: usize) -> Result<usize, Error> {
        self.context = context;
        let offset = self.pos;
        let found = self.u64()?;
        self.checked_count(context, offset, found, min_bytes)
    }

    fn checked_count(
        &self,
        context: Context<'a>,
        offset: usize,
        found: u64,
        min_bytes: usize,
    ) -> Result<usize, Error> {
        let max = self.n_left() / min_bytes;
        match usize::try_from(found) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(Error::CountTooLarge {
                what: context.to_string(),
                offset,
                found,
                max,
            }),
        }
    }

    /// An array of numbers: its length, then `N` bytes for each.
    fn numbers<T, const N: usize>(&mut self, number: fn([u8; N]) -> T) -> Result<Vec<T>, Error> {
        let n_numbers = self.count(self.context, N)?;
        let (chunks, _) = self.take(n_numbers * N)?.as_chunks();
        Ok(chunks.iter().map(|&bytes| number(bytes)).collect())
    }

    /// An array of strings: its length, then the strings.
    fn strings(&mut self) -> Result<StringArray, Error> {
        let n_strings = self.count(self.context, 8)?;
        let start = self.pos;
        let mut ends = Vec::with_capacity(n_strings);
        for _ in 0..n_strings {
            self.string()?;
            ends.push(self.pos - start);
        }
        Ok(StringArray::from_file_form(
            &self.bytes[start..self.pos],
            ends,
        ))
    }
}
