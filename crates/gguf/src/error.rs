//! The ways in which a file can be wrong, each with the byte offset where it is.
//!
//! Names that come from a file are escaped and cut before they are shown: a hostile file gets no
//! control characters onto a terminal, and no megabyte into a log.

use std::fmt;

use crate::metadata::Excerpt;

/// Why a GGUF file was refused, or one of its metadata values.
///
/// Offsets are bytes from the start of the file.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The first four bytes are not `GGUF`.
    NotGguf {
        /// The bytes that are there.
        found: [u8; 4],
    },
    /// Version 1 of the format, which has 32-bit lengths and is no longer in use.
    Version1,
    /// The file was written for big-endian machines.
    BigEndian {
        /// The version, read in that byte order.
        version: u32,
    },
    /// A version that is neither 2 nor 3.
    UnknownVersion {
        /// The version found.
        found: u32,
    },
    /// The file ends within its header, metadata or tensor directory.
    Truncated {
        /// What was being read.
        what: String,
        /// Where the missing piece begins.
        offset: usize,
        /// The file length that this piece alone asks for (saturated).
        wanted_len: u64,
        /// The length of the file.
        file_len: usize,
    },
    /// The header or an array announces more things than the rest of the file can hold.
    CountTooLarge {
        /// What is counted.
        what: String,
        /// Where the count is.
        offset: usize,
        /// The count found.
        found: u64,
        /// The most that the bytes behind it can hold.
        max: usize,
    },
    /// A metadata key or a tensor name is empty.
    EmptyName {
        /// Whose name it is.
        what: String,
        /// Where the name is.
        offset: usize,
    },
    /// A metadata key or a tensor name is longer than the format allows.
    NameTooLong {
        /// Whose name it is.
        what: String,
        /// Where the name is.
        offset: usize,
        /// Its length in bytes.
        found: u64,
    },
    /// A metadata key or a tensor name is not UTF-8.
    NameNotUtf8 {
        /// Whose name it is.
        what: String,
        /// Where the name is.
        offset: usize,
    },
    /// Two metadata entries have the same key.
    DuplicateKey {
        /// The key.
        key: String,
        /// Where the second entry is.
        offset: usize,
    },
    /// A metadata value or array element has a type id that the format does not define.
    UnknownValueType {
        /// The key of the value.
        key: String,
        /// Where the type id is.
        offset: usize,
        /// The type id.
        found: u32,
    },
    /// A boolean is neither 0 nor 1.
    InvalidBool {
        /// The key of the value.
        key: String,
        /// Where the byte is.
        offset: usize,
        /// The byte.
        found: u8,
    },
    /// Arrays of arrays go deeper than [`crate::MAX_ARRAY_DEPTH`].
    ArrayTooDeep {
        /// The key of the value.
        key: String,
        /// Where the array that is one too deep begins.
        offset: usize,
    },
    /// `general.alignment` is not a power of two from 8 up to 2^31.
    InvalidAlignment {
        /// Where the value is.
        offset: usize,
        /// The value, as text.
        found: String,
    },
    /// Two tensors have the same name.
    DuplicateTensor {
        /// The name.
        name: String,
        /// Where the second entry of the directory is.
        offset: usize,
    },
    /// A tensor has no dimensions, or more than [`crate::MAX_DIMS`].
    DimensionCount {
        /// The tensor.
        name: String,
        /// Where the count is.
        offset: usize,
        /// The count.
        found: u32,
    },
    /// A dimension of a tensor is zero.
    ZeroDimension {
        /// The tensor.
        name: String,
        /// Where its dimensions are.
        offset: usize,
        /// The dimensions.
        dims: Vec<u64>,
    },
    /// A tensor's size does not fit this machine's integers.
    SizeOverflow {
        /// The tensor.
        name: String,
        /// Where its dimensions are.
        offset: usize,
        /// The dimensions.
        dims: Vec<u64>,
    },
    /// The rows of a tensor are not whole blocks of its type.
    PartialBlock {
        /// The tensor.
        name: String,
        /// Where its dimensions are.
        offset: usize,
        /// The row length found.
        row_len: u64,
        /// The type, whose block length the row length must be a multiple of.
        ggml_type: crate::GgmlType,
    },
    /// A tensor's type was removed from the format.
    RemovedType {
        /// The tensor.
        name: String,
        /// Where the type id is.
        offset: usize,
        /// The type id.
        id: u32,
        /// The name that the type had.
        type_name: &'static str,
    },
    /// A tensor's type id is not defined by the format.
    UnknownType {
        /// The tensor.
        name: String,
        /// Where the type id is.
        offset: usize,
        /// The type id.
        id: u32,
    },
    /// A tensor does not begin at a multiple of the file's alignment.
    Misaligned {
        /// The tensor.
        name: String,
        /// Where its offset is written.
        offset: usize,
        /// The offset found, relative to the data section.
        found: u64,
        /// The alignment of the file.
        alignment: usize,
    },
    /// A tensor's data lies beyond the end of the file, usually because the file is cut short.
    OutOfFile {
        /// The first tensor in data order that is not wholly in the file.
        name: String,
        /// Where its data begins.
        offset: u64,
        /// The size of its data.
        n_bytes: usize,
        /// The length of the file.
        file_len: usize,
        /// The length that all tensors together ask for (saturated).
        wanted_len: u64,
    },
    /// Two tensors share bytes.
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins within it.
        second: String,
        /// Where the second one begins.
        offset: usize,
    },
    /// A metadata value that must be there is not.
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value has another type than the reader needs.
    WrongType {
        /// The key.
        key: String,
        /// The type found.
        found: String,
        /// The type wanted.
        wanted: &'static str,
    },
    /// A metadata number does not fit the type that the reader needs.
    OutOfRange {
        /// The key.
        key: String,
        /// The value found, as text.
        found: String,
        /// The type wanted.
        wanted: &'static str,
    },
    /// A metadata string that must be text is not UTF-8.
    NotUtf8 {
        /// The key.
        key: String,
        /// How many bytes of the string are valid.
        valid_bytes: usize,
    },
    /// A part of a split file says something about the split that disagrees with the others.
    SplitMismatch {
        /// The part, from 0.
        part: usize,
        /// The key that disagrees.
        key: &'static str,
        /// The value found.
        found: u64,
        /// The value wanted.
        wanted: u64,
    },
    /// The same tensor is in two parts of a split file.
    DuplicateTensorInParts {
        /// The name.
        name: String,
        /// The two parts, from 0.
        parts: (usize, usize),
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Error as E;
        match self {
            E::NotGguf { found } => {
                write!(
                    f,
                    "first bytes \"{}\", expected \"GGUF\"",
                    found.escape_ascii()
                )
            }
            E::Version1 => f.write_str("GGUF version 1, expected version 2 or 3"),
            E::BigEndian { version } => write!(
                f,
                "big-endian GGUF file (version {}), expected a little-endian one",
                version
            ),
            E::UnknownVersion { found } => {
                write!(f, "GGUF version {found}, expected version 2 or 3")
            }
            E::Truncated {
                what,
                offset,
                wanted_len,
                file_len,
            } => write!(
                f,
                "{what} at byte {offset}: the file ends at byte {file_len}, \
                 expected at least {wanted_len} bytes"
            ),
            E::CountTooLarge {
                what,
                offset,
                found,
                max,
            } => write!(
                f,
                "{what} at byte {offset}: count {found}, the rest of the file can hold {max}"
            ),
            E::EmptyName { what, offset } => {
                write!(f, "{what} at byte {offset}: empty, expected a name")
            }
            E::NameTooLong {
                what,
                offset,
                found,
            } => write!(
                f,
                "{what} at byte {offset}: {found} bytes long, expected at most {}",
                crate::MAX_NAME_BYTES
            ),
            E::NameNotUtf8 { what, offset } => {
                write!(f, "{what} at byte {offset}: not UTF-8, expected text")
            }
            E::DuplicateKey { key, offset } => {
                write!(
                    f,
                    "key {} at byte {offset}: second entry, expected one",
                    name(key)
                )
            }
            E::UnknownValueType { key, offset, found } => write!(
                f,
                "key {} at byte {offset}: value type {found}, expected 0 to 12",
                name(key)
            ),
            E::InvalidBool { key, offset, found } => {
                write!(
                    f,
                    "key {} at byte {offset}: bool {found}, expected 0 or 1",
                    name(key)
                )
            }
            E::ArrayTooDeep { key, offset } => write!(
                f,
                "key {} at byte {offset}: arrays nested deeper than {}",
                name(key),
                crate::MAX_ARRAY_DEPTH
            ),
            E::InvalidAlignment { offset, found } => write!(
                f,
                "key general.alignment at byte {offset}: {found}, expected a power of two of at \
                 least 8"
            ),
            E::DuplicateTensor {
                name: tensor,
                offset,
            } => {
                write!(
                    f,
                    "tensor {} at byte {offset}: second entry, expected one",
                    name(tensor)
                )
            }
            E::DimensionCount {
                name: tensor,
                offset,
                found,
            } => write!(
                f,
                "tensor {} at byte {offset}: {found} dimensions, expected 1 to {}",
                name(tensor),
                crate::MAX_DIMS
            ),
            E::ZeroDimension {
                name: tensor,
                offset,
                dims,
            } => write!(
                f,
                "tensor {} at byte {offset}: shape {dims:?}, expected no zero",
                name(tensor)
            ),
            E::SizeOverflow {
                name: tensor,
                offset,
                dims,
            } => write!(
                f,
                "tensor {} at byte {offset}: shape {dims:?}, expected a size below 2^{} bytes",
                name(tensor),
                usize::BITS
            ),
            E::PartialBlock {
                name: tensor,
                offset,
                row_len,
                ggml_type,
            } => write!(
                f,
                "tensor {} at byte {offset}: row length {row_len}, expected a multiple of {} \
                 (type {ggml_type})",
                name(tensor),
                ggml_type.block_len()
            ),
            E::RemovedType {
                name: tensor,
                offset,
                id,
                type_name,
            } => write!(
                f,
                "tensor {} at byte {offset}: type {type_name} (id {id}), which the format removed",
                name(tensor)
            ),
            E::UnknownType {
                name: tensor,
                offset,
                id,
            } => write!(
                f,
                "tensor {} at byte {offset}: type id {id}, expected one up to {}",
                name(tensor),
                crate::GgmlType::ALL.last().map_or(0, |last| last.id())
            ),
            E::Misaligned {
                name: tensor,
                offset,
                found,
                alignment,
            } => write!(
                f,
                "tensor {} at byte {offset}: data offset {found}, expected a multiple of \
                 {alignment}",
                name(tensor)
            ),
            E::OutOfFile {
                name: tensor,
                offset,
                n_bytes,
                file_len,
                wanted_len,
            } => write!(
                f,
                "tensor {}: {n_bytes} bytes of data at byte {offset}, but the file ends at byte \
                 {file_len}, expected at least {wanted_len} bytes for all tensors",
                name(tensor)
            ),
            E::Overlap {
                first,
                second,
                offset,
            } => write!(
                f,
                "tensor {}: data at byte {offset} lies within that of tensor {}",
                name(second),
                name(first)
            ),
            E::MissingKey { key } => write!(f, "key {}: missing", name(key)),
            E::WrongType { key, found, wanted } => {
                write!(f, "key {}: type {found}, expected {wanted}", name(key))
            }
            E::OutOfRange { key, found, wanted } => {
                write!(f, "key {}: value {found}, expected {wanted}", name(key))
            }
            E::NotUtf8 { key, valid_bytes } => write!(
                f,
                "key {}: string is not UTF-8 at its byte {valid_bytes}, expected text",
                name(key)
            ),
            E::SplitMismatch {
                part,
                key,
                found,
                wanted,
            } => {
                write!(
                    f,
                    "part {} of a split file: {key} is {found}, expected {wanted}",
                    part + 1
                )
            }
            E::DuplicateTensorInParts {
                name: tensor,
                parts,
            } => write!(
                f,
                "tensor {}: in part {} and in part {} of a split file",
                name(tensor),
                parts.0 + 1,
                parts.1 + 1
            ),
        }
    }
}

/// A name from a file, made safe to show.
fn name(name: &str) -> Excerpt<'_> {
    Excerpt(name.as_bytes())
}

impl std::error::Error for Error {}
