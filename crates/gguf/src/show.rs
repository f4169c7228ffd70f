//! Values and names from a file as short text that is safe to show.

use std::fmt::{self, Write as _};

use crate::metadata::{Array, Value};

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

/// A key or a tensor name, for messages.
pub(crate) fn name(name: &str) -> Excerpt<'_> {
    Excerpt(name.as_bytes())
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
            // All but single quotes, which need no escape between double ones.
            for (idx, piece) in chunk.valid().split('\'').enumerate() {
                let quote = if idx > 0 { "'" } else { "" };
                write!(f, "{quote}{}", piece.escape_debug())?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StringArray;

    #[test]
    fn values_are_short_and_safe() {
        fn check(value: impl Into<Value>, shown: &str) {
            assert_eq!(value.into().to_string(), shown);
        }
        check(Value::I8(-3), "-3");
        check(1.0f32, "1.0");
        check(1e-5f32, "1e-5");
        check(Value::F64(f64::NAN), "NaN");
        check("it's", r#""it's""#);
        check("two\nlines \x1b[31m", r#""two\nlines \u{1b}[31m""#);
        check(
            Value::String(vec![0xe6, 0x97, 0xa5, 0xff, b'"']),
            r#""日\xff\"""#,
        );
        check(vec![1u32, 2, 3, 4], "[1, 2, 3, 4]");
        check(vec![1u32, 2, 3, 4, 5, 6], "[1, 2, 3, 4, … 2 more]");
        check(vec![0.5f32], "[0.5]");
        check(
            StringArray::from_iter(["<s>", "▁the"]),
            r#"["<s>", "▁the"]"#,
        );
        check(
            Array::Array(vec![Array::Bool(vec![true]), Array::U8(vec![])]),
            "[[true], []]",
        );
    }

    #[test]
    fn long_strings_are_cut_between_characters() {
        assert_eq!(name(&"a".repeat(80)).to_string(), "a".repeat(80));
        assert_eq!(
            name(&"a".repeat(90)).to_string(),
            "a".repeat(80) + "… 10 bytes more"
        );
        let text = "é".repeat(39) + "日本日本";
        assert_eq!(name(&text).to_string(), "é".repeat(39) + "… 12 bytes more");
        // Bytes that are no text have no characters to keep whole.
        let bytes = [0x80; 100];
        let shown = Excerpt(&bytes).to_string();
        assert!(shown.ends_with(r"\x80… 23 bytes more"), "{shown}");
    }
}
