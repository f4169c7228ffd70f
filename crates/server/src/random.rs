//! Random bytes of the operating system, as text.

use std::fmt::Write as _;

/// `prefix` and 128 random bits.
pub(crate) fn id(prefix: &str) -> String {
    format!("{prefix}{}", hex(&bytes::<16>()))
}

/// Random bytes that nobody can guess.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    bytes
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
