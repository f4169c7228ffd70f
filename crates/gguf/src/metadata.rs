//! The metadata of a file: keys and typed values, and getters that name the key in their errors.
//!
//! Values are owned. Arrays are stored by element type, and an array of strings is one buffer of
//! bytes with the ends of the strings, because vocabularies have a quarter of a million entries.
//! Strings are bytes: the tokens of a vocabulary need not be UTF-8.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::show::Excerpt;

/// The metadata of a file, in file order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(Arc<str>, Value)>,
    by_key: HashMap<Arc<str>, usize>,
}

/// One macro row per value type; the enums and what follows from them come from the rows.
macro_rules! value_types {
    ($($variant:ident = $id:literal, $name:literal, $value:ty, $array:ty;)*) => {
        /// A metadata value.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $(#[doc = concat!("Value type ", $id, ", `", $name, "`.")] $variant($value),)*
        }

        /// An array of metadata values, stored by element type.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $(#[doc = concat!("Elements of type ", $id, ", `", $name, "`.")] $variant($array),)*
        }

        impl Value {
            /// The name of the value's type, for example `u32` or `array of string`.
            pub fn type_name(&self) -> String {
                if let Value::Array(array) = self {
                    return format!("array of {}", array.element_type_name());
                }
                match self {
                    $(Value::$variant(_) => $name.into(),)*
                }
            }

            /// The id of the value's type in a file.
            pub(crate) fn type_id(&self) -> u32 {
                match self {
                    $(Value::$variant(_) => $id,)*
                }
            }
        }

        impl Array {
            /// The number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$variant(elements) => elements.len(),)*
                }
            }

            /// Whether there are no elements.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The name of the elements' type, for example `f32`.
            pub fn element_type_name(&self) -> &'static str {
                match self {
                    $(Array::$variant(_) => $name,)*
                }
            }

            /// The id of the elements' type in a file.
            pub(crate) fn element_type_id(&self) -> u32 {
                match self {
                    $(Array::$variant(_) => $id,)*
                }
            }
        }
    };
}

value_types! {
    // variant = id, name, value, array. Strings are bytes.
    U8     =  0, "u8",     u8,      Vec<u8>;
    I8     =  1, "i8",     i8,      Vec<i8>;
    U16    =  2, "u16",    u16,     Vec<u16>;
    I16    =  3, "i16",    i16,     Vec<i16>;
    U32    =  4, "u32",    u32,     Vec<u32>;
    I32    =  5, "i32",    i32,     Vec<i32>;
    F32    =  6, "f32",    f32,     Vec<f32>;
    Bool   =  7, "bool",   bool,    Vec<bool>;
    String =  8, "string", Vec<u8>, StringArray;
    Array  =  9, "array",  Array,   Vec<Array>;
    U64    = 10, "u64",    u64,     Vec<u64>;
    I64    = 11, "i64",    i64,     Vec<i64>;
    F64    = 12, "f64",    f64,     Vec<f64>;
}

/// An array of strings, in one buffer. The strings need not be UTF-8.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    /// The strings as in a file, each after its length: one copy for all is faster than one for
    /// each.
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`. The next one begins [`LENGTH_BYTES`] later, and the last
    /// end is `bytes.len()`.
    ends: Vec<usize>,
}

/// The bytes of the length before each string.
const LENGTH_BYTES: usize = 8;

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
pub(crate) enum Unfit {
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
                    self.$optional(key)?.ok_or_else(|| Error::MissingKey {
                        key: key.into(),
                        wanted: $wanted,
                    })
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
    bytes, opt_bytes: Vec<u8>, "array of u8 or i8", byte_array;
    u32s, opt_u32s: Vec<u32>, "array of u32", integer_array;
    i32s, opt_i32s: Vec<i32>, "array of i32", integer_array;
    f32s, opt_f32s: Vec<f32>, "array of f32", float_array;
    u32_per_layer, opt_u32_per_layer: PerLayer, "u32 or array of u32", per_layer;
}

pub(crate) fn integer<T: TryFrom<i128>>(value: &Value) -> Result<T, Unfit> {
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

/// Bytes, which writers give either sign.
fn byte_array(value: &Value) -> Result<Vec<u8>, Unfit> {
    match value {
        Value::Array(Array::U8(values)) => Ok(values.clone()),
        Value::Array(Array::I8(values)) => Ok(values.iter().map(|&byte| byte as u8).collect()),
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
        Some(&self.bytes[start + LENGTH_BYTES..end])
    }

    /// The bytes of all strings, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.bytes[start + LENGTH_BYTES..end];
            start = end;
            string
        })
    }

    /// Appends a string.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend((string.len() as u64).to_le_bytes());
        self.bytes.extend(string);
        self.ends.push(self.bytes.len());
    }

    /// From the strings' bytes in a file, and where in them each one ends.
    pub(crate) fn from_file_form(bytes: &[u8], ends: Vec<usize>) -> StringArray {
        StringArray {
            bytes: bytes.to_vec(),
            ends,
        }
    }

    /// The strings' bytes in a file, without their count.
    pub(crate) fn file_form(&self) -> &[u8] {
        &self.bytes
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

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("u8", Value::U8(7));
        metadata.insert("negative", -1);
        metadata.insert("large", u64::MAX);
        metadata.insert("f32", 0.5f32);
        metadata.insert("f64", Value::F64(0.25));
        metadata.insert("huge", Value::F64(1e300));
        metadata.insert("bool", true);
        metadata.insert("text", "smol");
        metadata.insert("bytes", Value::String(vec![b'a', 0xff]));
        metadata.insert("words", StringArray::from_iter(["a", "", "bc"]));
        metadata.insert("u32s", vec![1u32, 2]);
        metadata.insert("i32s", vec![3, -4]);
        metadata.insert("f32s", vec![1.5f32]);
        metadata.insert("f64s", Array::F64(vec![2.5]));
        metadata
    }

    #[test]
    fn getters_read_every_type_that_fits() {
        let metadata = metadata();
        assert_eq!(metadata.u32("u8"), Ok(7));
        assert_eq!(metadata.u64("large"), Ok(u64::MAX));
        assert_eq!(metadata.i32("negative"), Ok(-1));
        assert_eq!(metadata.f32("f32"), Ok(0.5));
        assert_eq!(metadata.f32("f64"), Ok(0.25));
        assert_eq!(metadata.bool("bool"), Ok(true));
        assert_eq!(metadata.str("text"), Ok("smol"));
        assert_eq!(metadata.u32s("u32s"), Ok(vec![1, 2]));
        assert_eq!(metadata.i32s("u32s"), Ok(vec![1, 2]));
        assert_eq!(metadata.i32s("i32s"), Ok(vec![3, -4]));
        assert_eq!(metadata.f32s("f32s"), Ok(vec![1.5]));
        assert_eq!(metadata.f32s("f64s"), Ok(vec![2.5]));
        let mut bytes = Metadata::new();
        bytes.insert("u8s", Array::U8(vec![1, 255]));
        bytes.insert("i8s", Array::I8(vec![1, -1]));
        assert_eq!(bytes.bytes("u8s"), Ok(vec![1, 255]));
        assert_eq!(bytes.bytes("i8s"), Ok(vec![1, 255]));
        assert!(metadata.bytes("u32s").is_err());
        assert_eq!(metadata.opt_u32("absent"), Ok(None));
        assert_eq!(metadata.opt_u32("u8"), Ok(Some(7)));

        let words = metadata.strings("words").unwrap();
        assert_eq!(words.len(), 3);
        assert_eq!(
            words.iter().collect::<Vec<_>>(),
            [b"a" as &[u8], b"", b"bc"]
        );
        assert_eq!(words.get(2), Some(b"bc" as &[u8]));
        assert_eq!(words.get(3), None);
    }

    #[test]
    fn per_layer_values_are_one_or_many() {
        let metadata = metadata();
        let same = metadata.u32_per_layer("u8").unwrap();
        assert_eq!((same.get(0), same.get(900)), (Some(7), Some(7)));
        let each = metadata.u32_per_layer("u32s").unwrap();
        assert_eq!((each.get(1), each.get(2)), (Some(2), None));
        let error = metadata.u32_per_layer("f32s").unwrap_err().to_string();
        assert_eq!(
            error,
            "key f32s: type array of f32, expected u32 or array of u32"
        );
    }

    #[test]
    fn errors_name_the_key_what_is_there_and_what_is_wanted() {
        fn check<T: fmt::Debug>(result: Result<T, Error>, message: &str) {
            assert_eq!(result.unwrap_err().to_string(), message);
        }
        let metadata = metadata();
        check(metadata.u32("absent"), "key absent: missing, expected u32");
        check(metadata.u32("text"), "key text: type string, expected u32");
        check(
            metadata.opt_u32("text"),
            "key text: type string, expected u32",
        );
        check(
            metadata.u32("negative"),
            "key negative: value -1, expected u32",
        );
        check(
            metadata.u32("large"),
            "key large: value 18446744073709551615, expected u32",
        );
        check(metadata.u32("bool"), "key bool: type bool, expected u32");
        check(
            metadata.u32s("i32s"),
            "key i32s: value -4 at index 1, expected array of u32",
        );
        check(
            metadata.u32s("u8"),
            "key u8: type u8, expected array of u32",
        );
        check(metadata.f32("u8"), "key u8: type u8, expected f32");
        check(metadata.f32("huge"), "key huge: value 1e300, expected f32");
        check(
            metadata.strings("u32s"),
            "key u32s: type array of u32, expected array of string",
        );
        check(
            metadata.str("bytes"),
            "key bytes: string not UTF-8 after 1 bytes, expected UTF-8",
        );
    }

    #[test]
    fn insert_replaces_in_place() {
        let mut metadata = metadata();
        let n_entries = metadata.len();
        metadata.insert("u8", "now text");
        metadata.insert("new", 1u32);
        assert_eq!(metadata.len(), n_entries + 1);
        assert_eq!(metadata.iter().next().unwrap().0, "u8");
        assert_eq!(metadata.iter().last().unwrap().0, "new");
        assert_eq!(metadata.str("u8"), Ok("now text"));
    }
}
