//! What users read: data on standard output, everything else on standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};

/// Standard output, whose end is told apart from every other broken pipe.
pub(crate) struct Stdout(io::Stdout);

/// The mark that [`is_stdout_closed`] looks for.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output: closed by its reader")
    }
}

impl std::error::Error for Closed {}

/// Standard output, for data.
pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark)
    }
}

fn mark(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, Closed),
        _ => error,
    }
}

/// Whether an error only says that nobody reads standard output any more.
pub(crate) fn is_stdout_closed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref())
        .any(|inner| inner.is::<Closed>())
}

/// Writes `error: …`, and each further line of the message as `hint: …`, to standard error.
pub(crate) fn report_error(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let mut lines = text.lines();
    let mut message = format!(
        "{} {}",
        colored("error:", "1;31"),
        lines.next().unwrap_or_default()
    );
    for hint in lines {
        message += &format!("\n{} {hint}", colored("hint:", "1;36"));
    }
    note(&message);
}

/// Writes a line to standard error; that it may be closed is nobody's concern.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a dim line to standard error: what is good to know and not the answer.
pub(crate) fn note_dim(line: &str) {
    note(&colored(line, "2"));
}

/// Text in a color or weight (a code of ECMA-48), where standard error shows them.
fn colored(text: &str, code: &str) -> String {
    if stderr_has_color() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn stderr_has_color() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The form of a command's data.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Writes a value as indented JSON with a line break.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = stdout();
    writeln!(out, "{value:#}")?;
    out.flush()?;
    Ok(())
}

/// Bytes for people, in units of 1024.
pub(crate) fn bytes(n_bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n_bytes < 1024 {
        return format!("{n_bytes} B");
    }
    let mut value = n_bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count for people: `134.5 M`.
pub(crate) fn count(n: u64) -> String {
    let (value, unit) = match n {
        0..1_000 => return n.to_string(),
        1_000..1_000_000 => (n as f64 / 1e3, "k"),
        1_000_000..1_000_000_000 => (n as f64 / 1e6, "M"),
        _ => (n as f64 / 1e9, "B"),
    };
    format!("{value:.1} {unit}")
}

/// Rows under a heading, in columns wide enough; the columns in `right` are aligned to the right.
pub(crate) fn table(heading: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([heading[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, cell) in cells.enumerate() {
            let width = widths[column];
            line += &match right.contains(&column) {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut heading.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(98_362_432), "93.8 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(count(999), "999");
        assert_eq!(count(134_515_008), "134.5 M");
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["longer".to_owned(), "9".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "N"], &[1], &rows),
            "NAME     N\na       10\nlonger   9\n"
        );
    }

    #[test]
    fn only_the_end_of_standard_output_is_quiet() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_stdout_closed(
            &anyhow::Error::from(mark(pipe())).context("while writing")
        ));
        assert!(!is_stdout_closed(&anyhow::Error::from(pipe())));
    }
}
