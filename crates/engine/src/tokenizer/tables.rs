//! The look-up tables of a vocabulary, and the encoding of one word with them.
//!
//! Merging works on symbols. A symbol is a token, or, with an id beyond the tokens, a text that
//! merges go through without its being a token.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::LazyLock,
};

use super::{
    ESCAPED_SPACE,
    merge::{Merge, Merger, Merges, NO_SYMBOL},
    special,
    vocab::{TokenType, Vocab, VocabKind},
};
use crate::LoadError;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct Tables {
    /// The bytes of all tokens, one after the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    token_types: Vec<TokenType>,
    merges: Merges,
    /// The symbol of each byte (byte-level) or character.
    byte_symbols: Vec<u32>,
    char_symbols: Map<char, u32>,
    /// Words that are a token whatever the merges say.
    whole_words: Map<Vec<u8>, u32>,
    /// Characters that stand before an escaped space in some symbol.
    before_space: HashSet<char, foldhash::fast::RandomState>,
    /// The token of each byte.
    byte_tokens: Vec<Option<u32>>,
    /// Stands for what has no byte tokens; byte-level vocabularies name one but do not use it.
    unknown: Option<u32>,
}

impl Tables {
    /// Builds the tables, completes the roles and types of `vocab`, and returns the tokens that end
    /// a generation too. Of equal tokens the first is used.
    pub(super) fn new(
        vocab: &mut Vocab,
        ignore_merges: bool,
    ) -> Result<(Tables, BTreeSet<u32>), LoadError> {
        let mut by_text: Map<&[u8], u32> = Map::default();
        by_text.reserve(vocab.tokens.len());
        for (id, text) in (0..).zip(&vocab.tokens) {
            if !text.is_empty() {
                by_text.entry(text).or_insert(id);
            }
        }
        let token_types = &mut vocab.token_types;
        let end_ids = special::derive_roles(&mut vocab.special, token_types, |text| {
            by_text.get(text.as_bytes()).copied()
        });

        let mut byte_tokens: Vec<Option<u32>> = (0..=255u8)
            .map(|byte| by_text.get(format!("<0x{byte:02X}>").as_bytes()).copied())
            .collect();
        let is_text = |id: &u32| {
            let kind = vocab.token_types[*id as usize];
            !matches!(
                kind,
                TokenType::Control | TokenType::Unknown | TokenType::Byte
            )
        };
        if vocab.kind == VocabKind::Unigram {
            for token in &mut byte_tokens {
                *token = token.filter(|&id| vocab.token_types[id as usize] == TokenType::Byte);
            }
        }
        by_text.retain(|_, id| is_text(id));
        let mut symbols = Symbols {
            by_text,
            others: Map::default(),
            next: vocab.tokens.len(),
        };
        let merges = match vocab.kind {
            VocabKind::SentencePiece => pairs_by_score(vocab, &mut symbols),
            VocabKind::ByteLevelBpe | VocabKind::CharBpe => {
                pairs_by_list(&vocab.merges, &mut symbols)?
            }
            VocabKind::Unigram => Merges::default(),
        };

        let mut byte_symbols = Vec::new();
        let mut char_symbols = Map::default();
        let mut before_space = HashSet::default();
        let mut whole_words: Map<Vec<u8>, u32> = Map::default();
        if vocab.kind == VocabKind::ByteLevelBpe {
            for byte in 0..=255u8 {
                let text = BYTE_ALPHABET[byte as usize].to_string();
                let symbol = symbols.get(text.as_bytes()).unwrap_or(NO_SYMBOL);
                byte_symbols.push(symbol);
                byte_tokens[byte as usize] = symbols.by_text.get(text.as_bytes()).copied();
            }
            if ignore_merges {
                for (text, &id) in &symbols.by_text {
                    if let Some(bytes) = from_byte_alphabet(text) {
                        whole_words.insert(bytes, id);
                    }
                }
            }
        } else if vocab.kind != VocabKind::Unigram {
            let others = symbols
                .others
                .iter()
                .map(|(text, &id)| (text.as_slice(), id));
            for (text, id) in symbols
                .by_text
                .iter()
                .map(|(&text, &id)| (text, id))
                .chain(others)
            {
                let Ok(text) = std::str::from_utf8(text) else {
                    continue;
                };
                let mut chars = text.chars();
                if let (Some(char), None) = (chars.next(), chars.next()) {
                    char_symbols.insert(char, id);
                }
                for (char, next) in text.chars().zip(text.chars().skip(1)) {
                    if next == '▁' {
                        before_space.insert(char);
                    }
                }
                if vocab.kind == VocabKind::CharBpe && text.bytes().all(|byte| byte == b'\n') {
                    whole_words.insert(text.into(), id);
                }
            }
            for byte in 0..=255u8 {
                let token = &mut byte_tokens[byte as usize];
                *token = token.or_else(|| symbols.by_text.get([byte].as_slice()).copied());
            }
        }
        whole_words.retain(|_, id| (*id as usize) < vocab.tokens.len());

        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(vocab.tokens.len());
        for (text, &token_type) in vocab.tokens.iter().zip(&vocab.token_types) {
            append_token_bytes(vocab.kind, token_type, text, &mut bytes);
            ends.push(bytes.len());
        }
        let tables = Tables {
            bytes,
            ends,
            token_types: vocab.token_types.clone(),
            merges,
            byte_symbols,
            char_symbols,
            whole_words,
            before_space,
            byte_tokens,
            unknown: vocab
                .special
                .unk
                .filter(|_| vocab.kind != VocabKind::ByteLevelBpe),
        };
        Ok((tables, end_ids))
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn token_type(&self, id: u32) -> Option<TokenType> {
        self.token_types.get(id as usize).copied()
    }

    pub(super) fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let idx = id as usize;
        let end = *self.ends.get(idx)?;
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] };
        Some(&self.bytes[start..end])
    }

    /// Calls `word` with the parts of `text` between which nothing can ever merge: before an escaped
    /// space, where no symbol has that space after that character.
    pub(super) fn cut_at_spaces<'t>(&self, text: &'t [u8], mut word: impl FnMut(&'t [u8])) {
        let mut start = 0;
        let mut offset = 0;
        let mut last = None;
        for chunk in text.utf8_chunks() {
            for char in chunk.valid().chars() {
                if char == '▁' && last.is_none_or(|last| !self.before_space.contains(&last)) {
                    if start < offset {
                        word(&text[start..offset]);
                    }
                    start = offset;
                }
                last = Some(char);
                offset += char.len_utf8();
            }
            if !chunk.invalid().is_empty() {
                offset += chunk.invalid().len();
                last = None;
            }
        }
        if start < text.len() {
            word(&text[start..]);
        }
    }

    /// Appends the tokens of a word.
    pub(super) fn encode_word(
        &self,
        kind: VocabKind,
        word: &[u8],
        merger: &mut Merger,
        output: &mut Vec<u32>,
    ) {
        if let Some(&id) = self.whole_words.get(word) {
            output.push(id);
            return;
        }
        // Keeps positions within a word in 32 bits.
        const MAX_WORD_BYTES: usize = 1 << 30;
        for word in word.chunks(MAX_WORD_BYTES) {
            merger.clear();
            if kind == VocabKind::ByteLevelBpe {
                for &byte in word {
                    merger.push(self.byte_symbols[byte as usize], 1);
                }
            } else {
                for chunk in word.utf8_chunks() {
                    for char in chunk.valid().chars() {
                        let symbol = self.char_symbols.get(&char).copied().unwrap_or(NO_SYMBOL);
                        merger.push(symbol, char.len_utf8() as u32);
                    }
                    for _ in chunk.invalid() {
                        merger.push(NO_SYMBOL, 1);
                    }
                }
            }
            for symbol in merger.merge(&self.merges) {
                if (symbol.id as usize) < self.n_tokens() {
                    output.push(symbol.id);
                } else {
                    let start = symbol.start as usize;
                    self.append_byte_tokens(&word[start..start + symbol.len as usize], output);
                }
            }
        }
    }

    /// Whether each byte has a token.
    pub(super) fn has_byte_tokens(&self) -> bool {
        self.byte_tokens.iter().all(Option::is_some)
    }

    /// Spells out what is no token; bytes that have no token become one unknown token.
    pub(super) fn append_byte_tokens(&self, bytes: &[u8], output: &mut Vec<u32>) {
        let mut was_unknown = false;
        for &byte in bytes {
            let token = self.byte_tokens[byte as usize];
            if token.is_some() || !was_unknown {
                output.extend(token.or(self.unknown));
            }
            was_unknown = token.is_none();
        }
    }
}

/// Texts and the ids of their symbols.
struct Symbols<'v> {
    by_text: Map<&'v [u8], u32>,
    others: Map<Vec<u8>, u32>,
    next: usize,
}

impl Symbols<'_> {
    fn get(&self, text: &[u8]) -> Option<u32> {
        self.by_text
            .get(text)
            .or_else(|| self.others.get(text))
            .copied()
    }

    fn get_or_insert(&mut self, text: &[u8]) -> Result<u32, LoadError> {
        if let Some(id) = self.get(text) {
            return Ok(id);
        }
        let id = u32::try_from(self.next)
            .ok()
            .filter(|&id| id != NO_SYMBOL)
            .ok_or_else(|| LoadError::Tokenizer("too many merges".to_string()))?;
        self.next += 1;
        self.others.insert(text.to_vec(), id);
        Ok(id)
    }
}

/// The pairs of a list of merges, each `left right`; of equal pairs the first counts.
fn pairs_by_list(list: &[Vec<u8>], symbols: &mut Symbols<'_>) -> Result<Merges, LoadError> {
    let mut merges = Merges::default();
    merges.reserve(list.len());
    for (rank, pair) in (0..).zip(list) {
        // The left part may itself begin with a space.
        let space = pair
            .iter()
            .skip(1)
            .position(|&byte| byte == b' ')
            .map(|idx| idx + 1);
        let Some((left, right)) = space
            .map(|idx| (&pair[..idx], &pair[idx + 1..]))
            .filter(|(_, right)| !right.is_empty())
        else {
            let pair = String::from_utf8_lossy(pair);
            return Err(LoadError::Tokenizer(format!(
                "merge {rank} is not a pair: {pair:?}"
            )));
        };
        let ids = (symbols.get_or_insert(left)?, symbols.get_or_insert(right)?);
        let id = symbols.get_or_insert(&[left, right].concat())?;
        merges.entry(ids).or_insert(Merge { rank, id });
    }
    Ok(merges)
}

/// The pairs whose texts together are a token; the higher the token's score, the earlier.
fn pairs_by_score(vocab: &Vocab, symbols: &mut Symbols<'_>) -> Merges {
    // Scores become ranks; those that compare equal share one (0.0 and -0.0, too).
    let score = |id: u32| {
        vocab
            .scores
            .get(id as usize)
            .map_or(0.0, |score| score + 0.0)
    };
    let mut scores: Vec<f32> = (0..vocab.tokens.len() as u32).map(score).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.dedup();

    let tokens: Vec<(&[u8], u32)> = symbols
        .by_text
        .iter()
        .map(|(&text, &id)| (text, id))
        .collect();
    let mut merges = Merges::default();
    for (text, id) in tokens {
        let Ok(text) = std::str::from_utf8(text) else {
            continue;
        };
        let rank = scores.partition_point(|&other| other > score(id)) as u32;
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            let mut part = |part: &str| {
                let is_char = part.chars().nth(1).is_none();
                match is_char {
                    true => symbols.get_or_insert(part.as_bytes()).ok(),
                    false => symbols.get(part.as_bytes()),
                }
            };
            if let (Some(left), Some(right)) = (part(left), part(right)) {
                merges.insert((left, right), Merge { rank, id });
            }
        }
    }
    merges
}

fn append_token_bytes(kind: VocabKind, token_type: TokenType, text: &[u8], output: &mut Vec<u8>) {
    match (token_type, kind) {
        (TokenType::Control | TokenType::Unknown, _) => output.extend_from_slice(text),
        (TokenType::Byte, _) => match byte_of(text) {
            Some(byte) => output.push(byte),
            None => output.extend_from_slice(text),
        },
        (TokenType::UserDefined, VocabKind::ByteLevelBpe) => output.extend_from_slice(text),
        (TokenType::Normal | TokenType::Unused, VocabKind::ByteLevelBpe) => {
            match from_byte_alphabet(text) {
                Some(bytes) => output.extend_from_slice(&bytes),
                None => output.extend_from_slice(text),
            }
        }
        (TokenType::Normal | TokenType::UserDefined | TokenType::Unused, _) => {
            let mut rest = text;
            while let Some((&byte, tail)) = rest.split_first() {
                if let Some(tail) = rest.strip_prefix(ESCAPED_SPACE) {
                    output.push(b' ');
                    rest = tail;
                } else {
                    output.push(byte);
                    rest = tail;
                }
            }
        }
    }
}

/// The byte of a token like `<0x0A>`.
fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// The characters that GPT-2's alphabet writes the 256 bytes as: printable bytes stand for
/// themselves, the others, in order, for U+0100 and on.
static BYTE_ALPHABET: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => others.next().expect("there are fewer than 256 others"),
    })
});

static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    (0..=255u8)
        .map(|byte| (BYTE_ALPHABET[byte as usize], byte))
        .collect()
});

/// The bytes that a text in the byte alphabet stands for; `None` if other characters are in it.
fn from_byte_alphabet(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text)
        .ok()?
        .chars()
        .map(|char| BYTE_OF_CHAR.get(&char).copied())
        .collect()
}
