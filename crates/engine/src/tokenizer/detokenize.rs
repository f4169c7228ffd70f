//! Tokens to text, one token at a time.

use std::ops::Deref;

use super::Tokenizer;

/// Turns tokens into text as they come, and holds a character back until all its bytes are there.
///
/// The pieces together are what [`Tokenizer::decode`] makes of all tokens. `T` is a way to hold the
/// tokenizer: a reference, or an `Arc`.
#[derive(Debug, Clone)]
pub struct Detokenizer<T> {
    tokenizer: T,
    skip_special: bool,
    /// The text has not begun, and its first space is not part of it.
    strips_space: bool,
    pending: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> Detokenizer<T> {
    /// Begins a text. If the vocabulary puts a space before a text, that space is left out.
    pub fn new(tokenizer: T, skip_special: bool) -> Detokenizer<T> {
        let strips_space = tokenizer.add_space_prefix;
        Detokenizer {
            tokenizer,
            skip_special,
            strips_space,
            pending: Vec::new(),
        }
    }

    /// Goes on after other text, such as a prompt: a space at the start is part of the text.
    pub fn continuing(tokenizer: T, skip_special: bool) -> Detokenizer<T> {
        Detokenizer {
            tokenizer,
            skip_special,
            strips_space: false,
            pending: Vec::new(),
        }
    }

    /// The text that `token` completes; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> String {
        let mut bytes = self.tokenizer.visible_bytes(token, self.skip_special);
        if self.strips_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.strips_space = false;
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let is_last = done + invalid.len() == self.pending.len();
            if is_last && is_incomplete(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            done += invalid.len();
        }
        self.pending.drain(..done);
        text
    }

    /// Ends the text: a character that is still incomplete becomes U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Whether more bytes could make this a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}
