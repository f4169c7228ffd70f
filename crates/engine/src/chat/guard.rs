//! Tells the special tokens a template wrote from text that merely looks like them.
//!
//! Every string that comes from outside of the template (messages, tools, extra variables) is
//! searched, before rendering, for text that is or could become a special token; a sentinel, a
//! character that occurs nowhere in the input, is put into it. After rendering, a special token's
//! text without a sentinel in it was written by the template. Templates test, trim and split what
//! they are given, so strings without anything suspicious, nearly all of them, stay as they are.
//!
//! What is broken by a sentinel:
//! * the whole text of a special token and, for those of at least [`MIN_HALVED_CHARS`] characters,
//!   each of its halves: wherever one cut is made through a token's text (two content parts
//!   printed next to each other, a template that removes `</think>` from the middle), one of the
//!   halves is still in one piece. Upper and lower case are the same here, for templates that
//!   change it;
//! * the end of a string that is a beginning of a special token (`<|im_start` before a template's
//!   `|>`), with and without its trailing whitespace;
//! * the start of a string that is the end of a special token and has at least two characters,
//!   likewise;
//! * a string that is as a whole an inner part of a special token (a tool's parameter named `s`
//!   in a template's `<{{ name }}>`), but for the values of `role` and `type`: from these,
//!   templates build special tokens on purpose (`<|{{ role }}|>`).
//!
//! What remains possible is what a template does on purpose with several cuts through the text it
//! is given, or with its characters in another order.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use minijinja::Value;
use minijinja::value::ValueKind;

use crate::error::RequestError;
use crate::tokenizer::Segment;

/// Code points that no text may use for characters (the Unicode standard, section 23.7).
pub(super) const SENTINELS: RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Halves of shorter tokens, like `s>` of `</s>`, are too common in text.
const MIN_HALVED_CHARS: usize = 6;
/// The deepest nesting of lists and maps in the input.
const MAX_DEPTH: usize = 64;

/// A set of strings that can be searched for at any position of a text.
#[derive(Debug)]
struct Trie {
    next: HashMap<(u32, u8), u32>,
    /// By node: a string ends here.
    ends: Vec<bool>,
}

impl Trie {
    fn new(strings: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut trie = Self {
            next: HashMap::new(),
            ends: vec![false],
        };
        for string in strings.filter(|string| !string.is_empty()) {
            let mut at = 0;
            for byte in string {
                let fresh = trie.ends.len() as u32;
                at = *trie.next.entry((at, byte)).or_insert(fresh);
                if at == fresh {
                    trie.ends.push(false);
                }
            }
            trie.ends[at as usize] = true;
        }
        trie
    }

    /// Walks along `bytes`: the length of the longest string of the set that begins there, and
    /// whether all of `bytes` begins a longer one.
    fn walk(&self, bytes: impl Iterator<Item = u8>) -> (Option<usize>, bool) {
        let mut at = 0;
        let mut longest = None;
        for (idx, byte) in bytes.enumerate() {
            match self.next.get(&(at, byte)) {
                Some(&next) => at = next,
                None => return (longest, false),
            }
            if self.ends[at as usize] {
                longest = Some(idx + 1);
            }
        }
        (longest, at != 0)
    }
}

/// What is known of a model's special tokens.
#[derive(Debug)]
pub(super) struct Guard {
    /// The tokens as they are.
    tokens: Trie,
    /// In lower case, like all that follow: whole tokens or their halves.
    suspects: Trie,
    forwards: Trie,
    backwards: Trie,
    /// All tokens, a NUL after each.
    joined: String,
    longest_bytes: usize,
}

impl Guard {
    pub(super) fn new<S: AsRef<str>>(special_tokens: &[S]) -> Self {
        let tokens = || special_tokens.iter().map(|token| token.as_ref());
        let lower: Vec<String> = tokens().map(str::to_ascii_lowercase).collect();
        let suspects = lower.iter().flat_map(|token| {
            let n_chars = token.chars().count();
            let middle = token
                .char_indices()
                .nth(n_chars.div_ceil(2))
                .map(|(idx, _)| idx);
            match middle.filter(|_| n_chars >= MIN_HALVED_CHARS) {
                Some(middle) => vec![token[..middle].into(), token[middle..].into()],
                None => vec![token.as_bytes().to_vec()],
            }
        });
        Self {
            tokens: Trie::new(tokens().map(|token| token.as_bytes().to_vec())),
            suspects: Trie::new(suspects),
            forwards: Trie::new(lower.iter().map(|token| token.as_bytes().to_vec())),
            backwards: Trie::new(lower.iter().map(|token| token.bytes().rev().collect())),
            joined: lower
                .iter()
                .flat_map(|token| [token.as_str(), "\0"])
                .collect(),
            longest_bytes: lower.iter().map(String::len).max().unwrap_or(0),
        }
    }

    /// The value with a sentinel in every text that could become a special token, and the
    /// sentinel.
    pub(super) fn protect(&self, value: &Value) -> Result<(Value, char), RequestError> {
        let mut used = [false; 32];
        find_sentinels(value, 0, &mut used)?;
        let sentinel = SENTINELS.zip(used).find(|(_, used)| !used).map(|(c, _)| c);
        let sentinel = sentinel.ok_or_else(|| {
            let text = "the messages contain all of the noncharacters U+FDD0 to U+FDEF, \
                        expected one of them to be free";
            RequestError::ChatTemplate(text.into())
        })?;
        Ok((self.protect_value(value, sentinel, Role::Text), sentinel))
    }

    fn protect_value(&self, value: &Value, sentinel: char, role: Role) -> Value {
        match value.kind() {
            ValueKind::String => {
                match self.protect_text(value.as_str().unwrap_or_default(), sentinel, role) {
                    Some(text) => Value::from(text),
                    None => value.clone(),
                }
            }
            ValueKind::Seq => {
                let items = value.try_iter().expect("a sequence can be iterated");
                items
                    .map(|item| self.protect_value(&item, sentinel, role))
                    .collect()
            }
            ValueKind::Map => {
                let keys = value.try_iter().expect("a map can be iterated");
                let pairs = keys.map(|key| {
                    let role = match key.as_str() {
                        Some("role" | "type") => Role::Name,
                        Some("arguments") => Role::Arguments,
                        _ => role,
                    };
                    let item = value.get_item(&key).unwrap_or_default();
                    let role_of_key = if role == Role::Arguments {
                        Role::Arguments
                    } else {
                        Role::Name
                    };
                    (
                        self.protect_value(&key, sentinel, role_of_key),
                        self.protect_value(&item, sentinel, role),
                    )
                });
                Value::from_pairs(pairs)
            }
            _ => value.clone(),
        }
    }

    /// The text with sentinels in it, or `None` if it needs none.
    fn protect_text(&self, text: &str, sentinel: char, role: Role) -> Option<String> {
        let lower = |byte: &u8| byte.to_ascii_lowercase();
        let bytes = text.as_bytes();
        let mut cuts = Vec::new();
        for start in 0..bytes.len() {
            if self
                .suspects
                .walk(bytes[start..].iter().map(lower))
                .0
                .is_some()
            {
                cuts.push(start + char_len(text, start));
            }
        }
        for end in [bytes.len(), text.trim_end().len()] {
            for start in end.saturating_sub(self.longest_bytes)..end {
                if self.forwards.walk(bytes[start..end].iter().map(lower)).1
                    && text.is_char_boundary(start)
                {
                    cuts.push(start + char_len(text, start));
                }
            }
        }
        for start in [0, bytes.len() - text.trim_start().len()] {
            for end in start + 1..=bytes.len().min(start + self.longest_bytes) {
                if text.is_char_boundary(end)
                    && self
                        .backwards
                        .walk(bytes[start..end].iter().rev().map(lower))
                        .1
                {
                    let last = text[..end].char_indices().next_back().map(|(idx, _)| idx);
                    // A sentinel before a lone `>` would keep white space from being trimmed.
                    cuts.extend(last.filter(|last| *last > start));
                }
            }
        }
        let whole = text.trim();
        if role != Role::Name
            && !whole.is_empty()
            && whole.len() < self.longest_bytes
            && self.joined.contains(&whole.to_ascii_lowercase())
        {
            let start = text.len() - text.trim_start().len();
            cuts.push(start + char_len(text, start));
        }
        if cuts.is_empty() {
            return None;
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut out = String::with_capacity(text.len() + 3 * cuts.len());
        let mut done = 0;
        for cut in cuts {
            out.push_str(&text[done..cut]);
            out.push(sentinel);
            done = cut;
        }
        out.push_str(&text[done..]);
        Some(out)
    }

    /// Splits what was rendered at the special tokens the template wrote; the text between them
    /// is marked where it had sentinels, which are removed.
    pub(super) fn split(&self, rendered: &str, sentinel: char) -> Vec<Segment<String>> {
        let mut segments = Vec::new();
        if !rendered.contains(sentinel) {
            push(&mut segments, rendered.to_string(), true);
            return segments;
        }
        let plain = |segments: &mut Vec<Segment<String>>, text: &str| {
            let parse_special = !text.contains(sentinel);
            push(segments, text.replace(sentinel, ""), parse_special);
        };
        let bytes = rendered.as_bytes();
        let (mut done, mut at) = (0, 0);
        while at < bytes.len() {
            match self.tokens.walk(bytes[at..].iter().copied()).0 {
                Some(len) => {
                    plain(&mut segments, &rendered[done..at]);
                    at += len;
                    push(&mut segments, rendered[at - len..at].to_string(), true);
                    done = at;
                }
                None => at += char_len(rendered, at),
            }
        }
        plain(&mut segments, &rendered[done..]);
        segments
    }
}

/// What a string of the input is to the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Text to print.
    Text,
    /// A word that templates look at: a key, a role, a type.
    Name,
    /// Arguments of a tool call: text, the keys too.
    Arguments,
}

/// Appends text, joined to the last segment if that is of the same kind.
fn push(segments: &mut Vec<Segment<String>>, text: String, parse_special: bool) {
    match segments.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.parse_special == parse_special => last.text.push_str(&text),
        _ => segments.push(Segment {
            text,
            parse_special,
        }),
    }
}

/// The length in bytes of the character that begins at `start`.
fn char_len(text: &str, start: usize) -> usize {
    text[start..].chars().next().map_or(0, char::len_utf8)
}

fn find_sentinels(value: &Value, depth: usize, used: &mut [bool; 32]) -> Result<(), RequestError> {
    if depth > MAX_DEPTH {
        let text = format!("messages or tools are nested deeper than {MAX_DEPTH} levels");
        return Err(RequestError::ChatTemplate(text));
    }
    if let Some(text) = value.as_str() {
        for c in text.chars().filter(|c| SENTINELS.contains(c)) {
            used[(u32::from(c) - u32::from(*SENTINELS.start())) as usize] = true;
        }
    } else if matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        for item in value.try_iter().expect("a sequence or map can be iterated") {
            find_sentinels(&item, depth + 1, used)?;
            if value.kind() == ValueKind::Map {
                find_sentinels(&value.get_item(&item).unwrap_or_default(), depth + 1, used)?;
            }
        }
    }
    Ok(())
}
