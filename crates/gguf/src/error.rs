//! The ways in which a file can be wrong, each with the byte offset where it is.
//!
//! Names that come from a file are escaped and cut before they are shown: a hostile file gets no
//! control characters onto a terminal, and no megabyte into a log.

use std::fmt;

use crate::ggml_type::GgmlType;
use crate::parse::{MAX_ARRAY_DEPTH, MAX_NAME_BYTES};
use crate::show::name;
use crate::tensors::MAX_DIMS;

/// One row per error: what it means, its fields, and the message made of them.
macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident { $($field:ident: $type:ty),* } $message:tt)*) => {
        /// Why a GGUF file, or one of its metadata values, was refused.
        ///
        /// `offset` is in bytes from the start of the file, and is where the thing named begins;
        /// `found` is what is there. Keys and tensor names are as in the file, and shortened only
        /// in the message.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "each variant's message says what its fields are")]
        pub enum Error {
            $($(#[$doc])* $variant { $($field: $type),* },)*
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Error::$variant { $($field),* } => errors!(@write f $message),)*
                }
            }
        }
    };
    (@write $f:ident ($($message:tt)*)) => { write!($f, $($message)*) };
}

errors! {
    // The header.

    /// The first four bytes are not `GGUF`.
    NotGguf { found: [u8; 4] }
        ("first bytes \"{}\", expected \"GGUF\"", found.escape_ascii())
    /// Version 1 of the format, which has 32-bit lengths and is no longer in use.
    Version1 {}
        ("GGUF version 1, expected version 2 or 3")
    /// The file was written for big-endian machines.
    BigEndian { version: u32 }
        ("big-endian GGUF file (version {version}), expected a little-endian one")
    /// A version that is neither 2 nor 3.
    UnknownVersion { found: u32 }
        ("GGUF version {found}, expected version 2 or 3")

    // Everything before the data.

    /// The file ends within its header, metadata or tensor directory. `wanted_len` is the file
    /// length that the piece at `offset` asks for, without what follows it.
    Truncated { what: String, offset: usize, wanted_len: u64, file_len: usize }
        ("{what} at byte {offset}: the file ends at byte {file_len}, expected at least \
          {wanted_len} bytes")
    /// A count of more things than the bytes behind it can hold.
    CountTooLarge { what: String, offset: usize, found: u64, max: usize }
        ("{what} at byte {offset}: count {found}, expected at most {max}, for which the file has \
          room")
    /// A metadata key or a tensor name is empty.
    EmptyName { what: String, offset: usize }
        ("{what} at byte {offset}: empty, expected 1 to {MAX_NAME_BYTES} bytes")
    /// A metadata key or a tensor name is longer than the format allows.
    NameTooLong { what: String, offset: usize, found: u64 }
        ("{what} at byte {offset}: {found} bytes, expected 1 to {MAX_NAME_BYTES} bytes")
    /// A metadata key or a tensor name is not UTF-8.
    NameNotUtf8 { what: String, offset: usize, found: Vec<u8> }
        ("{what} at byte {offset}: \"{}\", expected UTF-8", crate::show::Excerpt(found))

    // Metadata.

    /// Two metadata entries have the same key; `offset` is that of the second.
    DuplicateKey { key: String, offset: usize }
        ("key {} at byte {offset}: second entry, expected one", name(key))
    /// A value or an array element has a type id that the format does not define.
    UnknownValueType { key: String, offset: usize, found: u32 }
        ("key {} at byte {offset}: value type {found}, expected 0 to 12", name(key))
    /// A boolean is neither 0 nor 1.
    InvalidBool { key: String, offset: usize, found: u8 }
        ("key {} at byte {offset}: bool {found}, expected 0 or 1", name(key))
    /// Arrays of arrays go deeper than [`MAX_ARRAY_DEPTH`].
    ArrayTooDeep { key: String, offset: usize }
        ("key {} at byte {offset}: array nested deeper than {MAX_ARRAY_DEPTH}", name(key))
    /// `general.alignment` is not a power of two of at least 8.
    InvalidAlignment { offset: usize, found: String }
        ("key general.alignment at byte {offset}: {found}, expected a power of two of at least 8")

    // The tensor directory.

    /// Two tensors have the same name; `offset` is that of the second entry.
    DuplicateTensor { name: String, offset: usize }
        ("tensor {} at byte {offset}: second entry, expected one", self::name(name))
    /// A tensor has no dimensions, or more than [`MAX_DIMS`].
    DimensionCount { name: String, offset: usize, found: u32 }
        ("tensor {} at byte {offset}: {found} dimensions, expected 1 to {MAX_DIMS}",
         self::name(name))
    /// A dimension of a tensor is zero.
    ZeroDimension { name: String, offset: usize, found: Vec<u64> }
        ("tensor {} at byte {offset}: shape {found:?}, expected no zero", self::name(name))
    /// A tensor's size does not fit this machine's integers.
    SizeOverflow { name: String, offset: usize, found: Vec<u64> }
        ("tensor {} at byte {offset}: shape {found:?}, expected fewer than 2^{} elements and bytes",
         self::name(name), usize::BITS)
    /// The rows of a tensor are not whole blocks of its type.
    PartialBlock { name: String, offset: usize, found: u64, ggml_type: GgmlType }
        ("tensor {} at byte {offset}: row length {found}, expected a multiple of {} for type \
          {ggml_type}", self::name(name), ggml_type.block_len())
    /// A tensor's type was removed from the format.
    RemovedType { name: String, offset: usize, found: u32, type_name: &'static str }
        ("tensor {} at byte {offset}: type {type_name} (id {found}), which was removed from the \
          format", self::name(name))
    /// A tensor's type id is not defined by the format.
    UnknownType { name: String, offset: usize, found: u32 }
        ("tensor {} at byte {offset}: type id {found}, expected at most {}", self::name(name),
         GgmlType::MAX_ID)
    /// A tensor does not begin at a multiple of the file's alignment; `found` is its offset in the
    /// data section.
    Misaligned { name: String, offset: usize, found: u64, alignment: usize }
        ("tensor {} at byte {offset}: data offset {found}, expected a multiple of {alignment}",
         self::name(name))
    /// A tensor's data is not wholly in the file, usually because the file is cut short. The
    /// tensor is the first such one in data order, `offset` is where its data begins, and
    /// `wanted_len` is the file length that all tensors together ask for.
    OutOfFile { name: String, offset: u64, n_bytes: usize, wanted_len: u64, file_len: usize }
        ("tensor {} at byte {offset}: {n_bytes} bytes of data, but the file ends at byte \
          {file_len}, expected at least {wanted_len} bytes", self::name(name))
    /// Two tensors share bytes: the second begins, at `offset`, within the first.
    Overlap { first: String, second: String, offset: usize }
        ("tensor {} at byte {offset}: data overlaps that of tensor {}, expected bytes of its own",
         name(second), name(first))

    // What readers of the metadata ask for.

    /// A value that must be there is not.
    MissingKey { key: String, wanted: &'static str }
        ("key {}: missing, expected {wanted}", name(key))
    /// A value has another type than the reader needs.
    WrongType { key: String, found: String, wanted: &'static str }
        ("key {}: type {found}, expected {wanted}", name(key))
    /// A number does not fit the type that the reader needs.
    OutOfRange { key: String, found: String, wanted: &'static str }
        ("key {}: value {found}, expected {wanted}", name(key))
    /// A string that must be text is not UTF-8; so many bytes of it are valid.
    NotUtf8 { key: String, valid_bytes: usize }
        ("key {}: string not UTF-8 after {valid_bytes} bytes, expected UTF-8", name(key))

    // Split files. Parts are counted from 0 here and from 1 in messages, as in file names.

    /// A part says something about the split that the parts at hand contradict.
    SplitMismatch { part: usize, key: &'static str, found: u64, wanted: u64 }
        ("part {} of a split file: {key} {found}, expected {wanted}", part + 1)
    /// The same tensor is in two parts.
    DuplicateTensorInParts { name: String, parts: [usize; 2] }
        ("tensor {}: in parts {} and {} of a split file, expected one", self::name(name),
         parts[0] + 1, parts[1] + 1)
}

impl std::error::Error for Error {}
