//! The metadata of a file: keys and typed values, and getters that name the key in their errors.
//!
//! Values are owned. Arrays are stored by element type, and an array of strings is one buffer of
//! bytes with the ends of the strings, because vocabularies have a quarter of a million entries.
//! Strings are bytes: the tokens of a vocabulary need not be UTF-8.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::error::Error;

/// The metadata of a file, in file order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(Arc<str>, Value)>,
    by_key: HashMap<Arc<str>, usize>,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned 8-bit integer.
    U8(u8),
    /// A signed 8-bit integer.
    I8(i8),
    /// An unsigned 16-bit integer.
    U16(u16),
    /// A signed 16-bit integer.
    I16(i16),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// A signed 32-bit integer.
    I32(i32),
    /// A 32-bit float.
    F32(f32),
    /// A boolean.
    Bool(bool),
    /// A string, which need not be UTF-8.
    String(Vec<u8>),
    /// An array of values of one type.
    Array(Array),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A signed 64-bit integer.
    I64(i64),
    /// A 64-bit float.
    F64(f64),
}

/// An array of metadata values, stored by element type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned 8-bit integers.
    U8(Vec<u8>),
    /// Signed 8-bit integers.
    I8(Vec<i8>),
    /// Unsigned 16-bit integers.
    U16(Vec<u16>),
    /// Signed 16-bit integers.
    I16(Vec<i16>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Signed 32-bit integers.
    I32(Vec<i32>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Strings.
    String(StringArray),
    /// Arrays, each with an element type of its own.
    Array(Vec<Array>),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

/// An array of strings, in one buffer. The strings need not be UTF-8.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`: ascending, the last one is `bytes.len()`.
    ends: Vec<usize>,
}

/// A number that a file gives once for all layers, or once per layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PerLayer {
    /// One number for all layers.
    Same(u32),
    /// One number per layer.
    Each(Vec<u32>),
}

impl PerLayer {
    /// The number of a layer; `None` if the file has none for it.
    pub fn get(&self, layer_idx: usize) -> Option<u32> {
        match self {
            PerLayer::Same(value) => Some(*value),
            PerLayer::Each(values) => values.get(layer_idx).copied(),
        }
    }
}

impl Metadata {
    /// Metadata without entries.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Sets a value: an entry with this key is replaced where it stands, a new one is appended.
    pub fn insert(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.by_key.get(key) {
            Some(&entry_idx) => self.entries[entry_idx].1 = value,
            None => {
                self.push(key, value);
            }
        }
    }

    /// Appends an entry; false, and nothing done, if the key is there already.
    pub(crate) fn push(&mut self, key: &str, value: Value) -> bool {
        if self.contains(key) {
            return false;
        }
        let key: Arc<str> = key.into();
        self.by_key.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is an entry with this key.
    pub fn contains(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key
            .get(key)
            .map(|&entry_idx| &self.entries[entry_idx].1)
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.borrow(), value))
    }

    /// The value of a key through `read`, with the error that names both.
    fn read<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Unfit>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        read(value).map(Some).map_err(|unfit| match unfit {
            Unfit::Type => Error::WrongType {
                key: key.into(),
                found: value.type_name(),
                wanted,
            },
            Unfit::Range(found) => Error::OutOfRange {
                key: key.into(),
                found,
                wanted,
            },
            Unfit::NotUtf8 { valid_bytes } => Error::NotUtf8 {
                key: key.into(),
                valid_bytes,
            },
        })
    }
}

/// Why a value cannot be read as the type asked for.
enum Unfit {
    Type,
    Range(String),
    NotUtf8 { valid_bytes: usize },
}

/// Each row gives a required getter, its optional form, the type, the name that errors use, and
/// the function that reads a value.
macro_rules! getters {
    ($($required:ident, $optional:ident: $type:ty, $wanted:literal, $read:expr;)*) => {
        /// Typed access. Integers are read from any integer type if the value fits, floats from
        /// both float types. The `opt_` forms give `None` for a missing key, and an error for a
        /// value of another type.
        impl Metadata {
            $(
                #[doc = concat!("The value of `key`, which must be there: ", $wanted, ".")]
                pub fn $required(&self, key: &str) -> Result<$type, Error> {
                    self.$optional(key)?.ok_or_else(|| Error::MissingKey { key: key.into() })
                }

                #[doc = concat!("The value of `key`, if it is there: ", $wanted, ".")]
                pub fn $optional(&self, key: &str) -> Result<Option<$type>, Error> {
                    self.read(key, $wanted, $read)
                }
            )*
        }
    };
}

getters! {
    u32, opt_u32: u32, "u32", integer;
    u64, opt_u64: u64, "u64", integer;
    i32, opt_i32: i32, "i32", integer;
    f32, opt_f32: f32, "f32", float;
    bool, opt_bool: bool, "bool", boolean;
    str, opt_str: &str, "string", text;
    strings, opt_strings: &StringArray, "array of string", string_array;
    u32s, opt_u32s: Vec<u32>, "array of u32", integer_array;
    i32s, opt_i32s: Vec<i32>, "array of i32", integer_array;
    f32s, opt_f32s: Vec<f32>, "array of f32", float_array;
    u32_per_layer, opt_u32_per_layer: PerLayer, "u32 or array of u32", per_layer;
}

fn integer<T: TryFrom<i128>>(value: &Value) -> Result<T, Unfit> {
    let integer: i128 = match *value {
        Value::U8(value) => value.into(),
        Value::I8(value) => value.into(),
        Value::U16(value) => value.into(),
        Value::I16(value) => value.into(),
        Value::U32(value) => value.into(),
        Value::I32(value) => value.into(),
        Value::U64(value) => value.into(),
        Value::I64(value) => value.into(),
        _ => return Err(Unfit::Type),
    };
    T::try_from(integer).map_err(|_| Unfit::Range(integer.to_string()))
}

fn float(value: &Value) -> Result<f32, Unfit> {
    match *value {
        Value::F32(value) => Ok(value),
        Value::F64(value) => narrow(value),
        _ => Err(Unfit::Type),
    }
}

/// Rounds to f32; a finite value that would become infinite does not fit.
fn narrow(value: f64) -> Result<f32, Unfit> {
    let narrowed = value as f32;
    if value.is_finite() && !narrowed.is_finite() {
        return Err(Unfit::Range(format!("{value:?}")));
    }
    Ok(narrowed)
}

fn boolean(value: &Value) -> Result<bool, Unfit> {
    match *value {
        Value::Bool(value) => Ok(value),
        _ => Err(Unfit::Type),
    }
}

fn text(value: &Value) -> Result<&str, Unfit> {
    match value {
        Value::String(bytes) => std::str::from_utf8(bytes).map_err(|error| Unfit::NotUtf8 {
            valid_bytes: error.valid_up_to(),
        }),
        _ => Err(Unfit::Type),
    }
}

fn string_array(value: &Value) -> Result<&StringArray, Unfit> {
    match value {
        Value::Array(Array::String(strings)) => Ok(strings),
        _ => Err(Unfit::Type),
    }
}

fn integer_array<T: TryFrom<i128>>(value: &Value) -> Result<Vec<T>, Unfit> {
    fn convert<S, T>(values: &[S]) -> Result<Vec<T>, Unfit>
    where
        S: Copy + Into<i128>,
        T: TryFrom<i128>,
    {
        let fit = |(idx, &value): (usize, &S)| {
            let value: i128 = value.into();
            T::try_from(value).map_err(|_| Unfit::Range(format!("{value} at index {idx}")))
        };
        values.iter().enumerate().map(fit).collect()
    }
    let Value::Array(array) = value else {
        return Err(Unfit::Type);
    };
    match array {
        Array::U8(values) => convert(values),
        Array::I8(values) => convert(values),
        Array::U16(values) => convert(values),
        Array::I16(values) => convert(values),
        Array::U32(values) => convert(values),
        Array::I32(values) => convert(values),
        Array::U64(values) => convert(values),
        Array::I64(values) => convert(values),
        _ => Err(Unfit::Type),
    }
}

fn float_array(value: &Value) -> Result<Vec<f32>, Unfit> {
    match value {
        Value::Array(Array::F32(values)) => Ok(values.clone()),
        Value::Array(Array::F64(values)) => values.iter().copied().map(narrow).collect(),
        _ => Err(Unfit::Type),
    }
}

fn per_layer(value: &Value) -> Result<PerLayer, Unfit> {
    match value {
        Value::Array(_) => integer_array(value).map(PerLayer::Each),
        _ => integer(value).map(PerLayer::Same),
    }
}

impl StringArray {
    /// The number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of one string.
    pub fn get(&self, idx: usize) -> Option<&[u8]> {
        let end = *self.ends.get(idx)?;
        let start = idx.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    /// The bytes of all strings, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.bytes[start..end];
            start = end;
            string
        })
    }

    pub(crate) fn with_capacity(n_strings: usize, n_bytes: usize) -> StringArray {
        StringArray {
            bytes: Vec::with_capacity(n_bytes),
            ends: Vec::with_capacity(n_strings),
        }
    }

    /// Appends a string.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> StringArray {
        let mut array = StringArray::default();
        for string in strings {
            array.push(string.as_ref());
        }
        array
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Excerpt)).finish()
    }
}

/// The names of the value types, by their id in a file.
const TYPE_NAMES: [&str; 13] = [
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64",
];

impl Value {
    /// The value of any integer type, if it fits.
    pub(crate) fn to_u32(&self) -> Option<u32> {
        integer(self).ok()
    }

    /// The name of the value's type, for example `u32` or `array of string`.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(array) => format!("array of {}", array.element_type_name()),
            _ => TYPE_NAMES[self.type_id() as usize].into(),
        }
    }

    /// The id of the value's type in a file.
    pub(crate) fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::String(_) => 8,
            Value::Array(_) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }
}

impl Array {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(values) => values.len(),
            Array::I8(values) => values.len(),
            Array::U16(values) => values.len(),
            Array::I16(values) => values.len(),
            Array::U32(values) => values.len(),
            Array::I32(values) => values.len(),
            Array::F32(values) => values.len(),
            Array::Bool(values) => values.len(),
            Array::String(strings) => strings.len(),
            Array::Array(arrays) => arrays.len(),
            Array::U64(values) => values.len(),
            Array::I64(values) => values.len(),
            Array::F64(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the elements' type, for example `f32`; `array` for an array of arrays.
    pub fn element_type_name(&self) -> &'static str {
        TYPE_NAMES[self.element_type_id() as usize]
    }

    /// The id of the elements' type in a file.
    pub(crate) fn element_type_id(&self) -> u32 {
        match self {
            Array::U8(_) => 0,
            Array::I8(_) => 1,
            Array::U16(_) => 2,
            Array::I16(_) => 3,
            Array::U32(_) => 4,
            Array::I32(_) => 5,
            Array::F32(_) => 6,
            Array::Bool(_) => 7,
            Array::String(_) => 8,
            Array::Array(_) => 9,
            Array::U64(_) => 10,
            Array::I64(_) => 11,
            Array::F64(_) => 12,
        }
    }
}

/// A short form on one line: long strings are cut, arrays show their first elements.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(value) => write!(f, "{value}"),
            Value::I8(value) => write!(f, "{value}"),
            Value::U16(value) => write!(f, "{value}"),
            Value::I16(value) => write!(f, "{value}"),
            Value::U32(value) => write!(f, "{value}"),
            Value::I32(value) => write!(f, "{value}"),
            Value::F32(value) => write!(f, "{value:?}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::String(bytes) => write!(f, "\"{}\"", Excerpt(bytes)),
            Value::Array(array) => write!(f, "{array}"),
            Value::U64(value) => write!(f, "{value}"),
            Value::I64(value) => write!(f, "{value}"),
            Value::F64(value) => write!(f, "{value:?}"),
        }
    }
}

/// A short form on one line, with the first elements.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Array::U8(values) => write_list(f, values.iter()),
            Array::I8(values) => write_list(f, values.iter()),
            Array::U16(values) => write_list(f, values.iter()),
            Array::I16(values) => write_list(f, values.iter()),
            Array::U32(values) => write_list(f, values.iter()),
            Array::I32(values) => write_list(f, values.iter()),
            Array::F32(values) => write_list(f, values.iter().map(Shortest)),
            Array::Bool(values) => write_list(f, values.iter()),
            Array::String(strings) => write_list(f, strings.iter().map(Quoted)),
            Array::Array(arrays) => write_list(f, arrays.iter()),
            Array::U64(values) => write_list(f, values.iter()),
            Array::I64(values) => write_list(f, values.iter()),
            Array::F64(values) => write_list(f, values.iter().map(Shortest)),
        }
    }
}

/// How many elements of an array its short form shows.
const N_ELEMENTS_SHOWN: usize = 4;

fn write_list(
    f: &mut fmt::Formatter<'_>,
    values: impl ExactSizeIterator<Item = impl fmt::Display>,
) -> fmt::Result {
    let n_hidden = values.len().saturating_sub(N_ELEMENTS_SHOWN);
    f.write_char('[')?;
    for (idx, value) in values.take(N_ELEMENTS_SHOWN).enumerate() {
        if idx > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{value}")?;
    }
    if n_hidden > 0 {
        write!(f, ", … {n_hidden} more")?;
    }
    f.write_char(']')
}

/// A float as its shortest text that reads back the same, `1e-5` and `1.0` rather than `1`.
struct Shortest<T>(T);

impl<T: fmt::Debug> fmt::Display for Shortest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Excerpt(self.0))
    }
}

/// The beginning of a string from a file, safe to show: control characters and what is not UTF-8
/// are escaped.
pub(crate) struct Excerpt<'a>(pub(crate) &'a [u8]);

/// The most bytes of a string that its short form shows.
const EXCERPT_BYTES: usize = 80;

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_cut = self.0.len() > EXCERPT_BYTES;
        // A character that straddles the cut belongs to what is left out.
        let mut shown_bytes = self.0.len().min(EXCERPT_BYTES);
        if is_cut {
            while shown_bytes > EXCERPT_BYTES - 3 && self.0[shown_bytes] & 0xc0 == 0x80 {
                shown_bytes -= 1;
            }
        }
        for chunk in self.0[..shown_bytes].utf8_chunks() {
            write!(f, "{}", chunk.valid().escape_debug())?;
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        if is_cut {
            write!(f, "… {} bytes more", self.0.len() - shown_bytes)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The conversions that let callers write `metadata.insert("general.name", "tiny")`.
macro_rules! into_value {
    ($($type:ty => |$value:ident| $into:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Value {
                $into
            }
        })*
    };
}

into_value! {
    u32 => |value| Value::U32(value);
    i32 => |value| Value::I32(value);
    u64 => |value| Value::U64(value);
    f32 => |value| Value::F32(value);
    bool => |value| Value::Bool(value);
    &str => |value| Value::String(value.into());
    String => |value| Value::String(value.into());
    Array => |value| Value::Array(value);
    StringArray => |value| Value::Array(Array::String(value));
    Vec<u32> => |value| Value::Array(Array::U32(value));
    Vec<i32> => |value| Value::Array(Array::I32(value));
    Vec<f32> => |value| Value::Array(Array::F32(value));
}
