//! Values written as Python writes them: `str`, `json.dumps` and `strftime`.
//!
//! Chat templates are tested by their authors with Jinja2, so what Python's standard library
//! prints is the specification. All writing is charged against the template's fuel as it happens:
//! lists that share their parts can be small in memory and endless in print.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The deepest nesting of lists and maps that is written.
const MAX_DEPTH: usize = 100;
/// The widest indentation of `tojson`.
const MAX_INDENT: usize = 64;

struct Writer<'a, 'b, 'c> {
    out: String,
    state: &'a State<'b, 'c>,
    charged_bytes: usize,
}

impl<'a, 'b, 'c> Writer<'a, 'b, 'c> {
    fn new(state: &'a State<'b, 'c>) -> Self {
        Self {
            out: String::new(),
            state,
            charged_bytes: 0,
        }
    }

    /// Pays for what was written since the last call, and for the visit of one value.
    fn pay(&mut self, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            let text = format!("value is nested deeper than {MAX_DEPTH} levels");
            return Err(Error::new(ErrorKind::InvalidOperation, text));
        }
        let n_bytes = self.out.len() - self.charged_bytes;
        self.charged_bytes = self.out.len();
        self.state.consume_fuel(1 + n_bytes as u64 / 16)
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => self.out.push_str(&float_repr(float)),
            _ => write!(self.out, "{value}").expect("a string can be written to"),
        }
    }

    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay(depth)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("None"),
            ValueKind::Undefined => self.out.push_str("Undefined"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => string_repr(&mut self.out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                for (idx, item) in value.try_iter()?.enumerate() {
                    self.out.push_str(if idx > 0 { ", " } else { "" });
                    self.repr(&item, depth + 1)?;
                }
                self.out.push(']');
            }
            ValueKind::Map => {
                self.out.push('{');
                for (idx, key) in value.try_iter()?.enumerate() {
                    self.out.push_str(if idx > 0 { ", " } else { "" });
                    self.repr(&key, depth + 1)?;
                    self.out.push_str(": ");
                    self.repr(&value.get_item(&key)?, depth + 1)?;
                }
                self.out.push('}');
            }
            _ => write!(self.out, "{value}").expect("a string can be written to"),
        }
        Ok(())
    }

    fn json(&mut self, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        self.pay(depth)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.json_number(value),
            ValueKind::String => self.json_string(value.as_str().unwrap_or_default(), style),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut is_empty = true;
                self.out.push('[');
                for item in value.try_iter()? {
                    self.json_item_start(is_empty, style, depth + 1);
                    is_empty = false;
                    self.json(&item, style, depth + 1)?;
                }
                self.json_end(']', is_empty, style, depth);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                self.state.consume_fuel(keys.len() as u64)?;
                if style.sort_keys {
                    keys.sort();
                }
                let is_empty = keys.is_empty();
                self.out.push('{');
                for (idx, key) in keys.iter().enumerate() {
                    self.json_item_start(idx == 0, style, depth + 1);
                    match key.kind() {
                        ValueKind::String => {
                            self.json_string(key.as_str().unwrap_or_default(), style);
                        }
                        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                            self.out.push('"');
                            self.json(key, style, depth + 1)?;
                            self.out.push('"');
                        }
                        kind => return Err(not_json(kind)),
                    }
                    self.out.push_str(&style.key_separator);
                    self.json(&value.get_item(key)?, style, depth + 1)?;
                }
                self.json_end('}', is_empty, style, depth);
            }
            kind => return Err(not_json(kind)),
        }
        Ok(())
    }

    fn json_number(&mut self, value: &Value) {
        let start = self.out.len();
        self.number(value);
        let spelled = match &self.out[start..] {
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            "nan" => "NaN",
            _ => return,
        };
        self.out.truncate(start);
        self.out.push_str(spelled);
    }

    fn json_item_start(&mut self, is_first: bool, style: &JsonStyle, depth: usize) {
        if !is_first {
            self.out.push_str(&style.item_separator);
        }
        style.new_line(&mut self.out, depth);
    }

    fn json_end(&mut self, bracket: char, is_empty: bool, style: &JsonStyle, depth: usize) {
        if !is_empty {
            style.new_line(&mut self.out, depth);
        }
        self.out.push(bracket);
    }

    fn json_string(&mut self, text: &str, style: &JsonStyle) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                // The guard's sentinel is one of these: it has to come out as it went in.
                c if super::guard::SENTINELS.contains(&c) => self.out.push(c),
                c if c < ' ' || (style.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("a string can be written to");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn not_json(kind: ValueKind) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("{kind} cannot be written as json"),
    )
}

struct JsonStyle {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

impl JsonStyle {
    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }
}

/// The filter `tojson`: `json.dumps` with the defaults of transformers (no HTML escapes, text
/// other than ASCII as it is).
#[allow(
    clippy::needless_pass_by_value,
    reason = "minijinja calls filters by value"
)]
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, args: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = args.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) if indent.kind() == ValueKind::String => Some(indent.to_string()),
        Some(indent) => {
            // Python takes a negative width for no indentation, but still breaks the lines.
            let width = i64::try_from(indent)?.max(0);
            Some(
                " ".repeat(
                    usize::try_from(width)
                        .unwrap_or(usize::MAX)
                        .min(MAX_INDENT + 1),
                ),
            )
        }
    };
    if indent
        .as_ref()
        .is_some_and(|indent| indent.len() > MAX_INDENT)
    {
        let text = format!("tojson: indent is wider than {MAX_INDENT} bytes");
        return Err(Error::new(ErrorKind::InvalidOperation, text));
    }
    let separators: Option<Value> = args.get("separators")?;
    let (item_separator, key_separator) = match separators.filter(|pair| !pair.is_none()) {
        Some(pair) => (
            pair.get_item_by_index(0)?.to_string(),
            pair.get_item_by_index(1)?.to_string(),
        ),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let style = JsonStyle {
        ensure_ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
    };
    args.assert_all_used()?;
    let mut writer = Writer::new(state);
    writer.json(value, &style, 0)?;
    Ok(writer.out)
}

/// `str(value)`; an undefined value is empty, as Jinja2 has it.
pub(super) fn to_str(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        ValueKind::Undefined => Ok(String::new()),
        _ => {
            let mut writer = Writer::new(state);
            writer.repr(value, 0)?;
            Ok(writer.out)
        }
    }
}

/// The shortest text that reads back as the same number, as Python's `repr` spells it.
fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".into();
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().expect("a float's exponent is a number");
            format!("{digits}e{exponent:+03}")
        }
        None => text,
    }
}

fn string_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' ' => out.push(' '),
            // Python escapes what it calls not printable; the tables for that are large, so of
            // the rarer classes only the format characters of common text are known here.
            c if c.is_control()
                || c.is_whitespace()
                || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
                || matches!(c, '\u{2060}'..='\u{2064}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}') =>
            {
                let code = u32::from(c);
                let written = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
                written.expect("a string can be written to");
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// `strftime` of a moment in UTC, in the C locale.
///
/// The standard library knows no time zones; a dependency for a date that is printed by a handful
/// of templates would weigh more than it gives.
pub(super) fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let day_of_year = (0..month - 1)
        .map(|m| days_in_month(year, m + 1))
        .sum::<u64>()
        + day;
    let weekday = ((days + 4) % 7) as usize;
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    let hour_12 = (hour + 11) % 12 + 1;
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let is_unpadded = directive == Some('-');
        if is_unpadded {
            directive = chars.next();
        }
        let number = |value: u64, width: usize| match is_unpadded {
            true => value.to_string(),
            false => format!("{value:0width$}"),
        };
        let text = match directive {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') if is_unpadded => day.to_string(),
            Some('e') => format!("{day:2}"),
            Some('j') => number(day_of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(hour_12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('A') => DAYS[weekday].into(),
            Some('a') => DAYS[weekday][..3].into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".into(),
            Some('%') => "%".into(),
            other => {
                let found = other.map_or("a lone %".into(), |c| format!("%{c}"));
                let text = format!("strftime: {found} is not supported");
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        };
        out.push_str(&text);
    }
    Ok(out)
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // 400 years are 146,097 days; what is left after whole cycles is walked.
    let mut year = 1970 + days / 146_097 * 400;
    let mut rest = days % 146_097;
    let year_days = |year: u64| 337 + days_in_month(year, 2);
    while rest >= year_days(year) {
        rest -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while rest >= days_in_month(year, month) {
        rest -= days_in_month(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        let cases = [
            (1.0, "1.0"),
            (1e20, "1e+20"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-300, "-2.5e-300"),
            (f64::INFINITY, "inf"),
        ];
        for (float, text) in cases {
            assert_eq!(float_repr(float), text);
        }
    }

    #[test]
    fn strings_as_python_quotes_them() {
        for (text, quoted) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("it's \"x\"", "'it\\'s \"x\"'"),
            ("a\n\u{0}\u{a0}é\\", "'a\\n\\x00\\xa0é\\\\'"),
        ] {
            let mut out = String::new();
            string_repr(&mut out, text);
            assert_eq!(out, quoted);
        }
    }

    #[test]
    fn dates() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (seconds, format, text) in [
            (
                0,
                "%A %d %b %Y %H:%M:%S %j",
                "Thursday 01 Jan 1970 00:00:00 001",
            ),
            (951_782_400, "%F %a", "2000-02-29 Tue"),
            (
                1_735_689_599,
                "%B %-d, %y %I %p %T %j %%",
                "December 31, 24 11 PM 23:59:59 366 %",
            ),
            (4_107_542_400, "%e|%F", " 1|2100-03-01"),
        ] {
            assert_eq!(strftime(format, at(seconds)).unwrap(), text);
        }
        assert!(strftime("%Q", at(0)).is_err());
        assert!(strftime("%", at(0)).is_err());
    }
}
