//! Text to tokens and back, from the vocabulary in the model file.
//!
//! ```text
//! text ──special──▶ fragments ──pattern──▶ words ──merge──▶ tokens ──detokenize──▶ text
//!      (SpecialFinder)        (Splitter)        (Merger)
//! ```
//!
//! Special tokens are found first; what lies between them is cut into words, and the symbols of each
//! word are merged. Equal words of a fragment are merged once. Every step is linear in the text, the
//! merging of a single word within a logarithm, whatever the text is. Unigram vocabularies go from
//! fragments to tokens in one step: the fragment is normalized, and the best pieces found.
//!
//! Text is bytes and need not be UTF-8. Each byte that is not part of a well-formed character counts
//! as one U+FFFD where words are cut, and is kept as that byte in the tokens, so that text survives
//! the way to tokens and back. A unigram vocabulary, though, encodes what its rules make of a text,
//! in which such a byte is U+FFFD: that is what survives.
//!
//! Ordinary text never becomes a control token, byte token or the unknown token by way of merging:
//! these come from special tokens that are parsed, from byte fallback, and from what the vocabulary
//! cannot express: what has no byte tokens becomes the unknown token. Byte-level vocabularies do not
//! use theirs (it often is a token that ends the text); a byte that they lack is left out, which
//! happens with control characters and with bytes that are never part of UTF-8.

mod charsmap;
mod detokenize;
mod merge;
mod metadata;
mod normalize;
mod pattern;
mod pretokenize;
mod special;
mod strip;
mod tables;
mod unigram;
mod vocab;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use self::{
    charsmap::CharsMap, merge::Merger, normalize::Normalizer, pattern::Splitter,
    special::SpecialFinder, tables::Tables, unigram::Unigram,
};
use crate::LoadError;

pub use self::detokenize::Detokenizer;
pub use self::vocab::{SpecialIds, TokenType, Vocab, VocabKind};

/// How SentencePiece writes a space.
const ESCAPED_SPACE: &[u8] = "▁".as_bytes();

/// Turns text into tokens and tokens into text.
#[derive(Debug)]
pub struct Tokenizer {
    kind: VocabKind,
    tables: Tables,
    splitter: Option<Splitter>,
    unigram: Option<(Normalizer, Unigram)>,
    special_finder: SpecialFinder,
    special: SpecialIds,
    end_ids: BTreeSet<u32>,
    strip_left: BTreeSet<u32>,
    strip_right: BTreeSet<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

/// What [`Tokenizer::encode`] does beside encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS and EOS where the vocabulary says so.
    pub add_special: bool,
    /// Take the texts of control tokens for these tokens. User-defined tokens are always taken.
    pub parse_special: bool,
}

/// A part of a text; see [`Tokenizer::encode_segments`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<T> {
    /// The text of this part.
    pub text: T,
    /// Take the texts of control tokens in it for these tokens.
    pub parse_special: bool,
}

impl Tokenizer {
    /// Checks a vocabulary and prepares it for use.
    pub fn new(mut vocab: Vocab) -> Result<Tokenizer, LoadError> {
        check(&mut vocab)?;
        let mut row = None;
        let splitter = match vocab.kind {
            VocabKind::SentencePiece | VocabKind::Unigram => None,
            VocabKind::CharBpe => Some(Splitter::new(&[pretokenize::NEWLINES])),
            VocabKind::ByteLevelBpe => {
                let found = pretokenize::find(&vocab.pre_tokenizer).ok_or_else(|| {
                    let known: Vec<_> = pretokenize::names().collect();
                    LoadError::Tokenizer(format!(
                        "pre-tokenizer {:?} is not known, known are: {}",
                        vocab.pre_tokenizer,
                        known.join(", ")
                    ))
                })?;
                Some(Splitter::new(row.insert(found).patterns))
            }
        };
        let splitter = splitter.transpose().map_err(LoadError::Tokenizer)?;

        let add_bos = vocab.add_bos.unwrap_or(match vocab.kind {
            VocabKind::SentencePiece | VocabKind::CharBpe => vocab.special.bos.is_some(),
            VocabKind::ByteLevelBpe => {
                row.is_some_and(|row| row.add_bos) && vocab.special.bos.is_some()
            }
            VocabKind::Unigram => false,
        });
        for (flag, id, name) in [
            (add_bos, vocab.special.bos, "BOS"),
            (vocab.add_eos, vocab.special.eos, "EOS"),
        ] {
            if flag && id.is_none() {
                return Err(LoadError::Tokenizer(format!(
                    "texts are to have a {name} token, but the vocabulary names none"
                )));
            }
        }

        let (tables, end_ids) = Tables::new(&mut vocab, row.is_some_and(|row| row.ignore_merges))?;
        let unigram = match vocab.kind {
            VocabKind::Unigram => Some(new_unigram(&vocab, &tables)?),
            _ => None,
        };
        Ok(Tokenizer {
            kind: vocab.kind,
            splitter,
            unigram,
            special_finder: SpecialFinder::new(&vocab.tokens, &vocab.token_types)?,
            tables,
            special: vocab.special,
            end_ids,
            strip_left: vocab.strip_left.into_iter().collect(),
            strip_right: vocab.strip_right.into_iter().collect(),
            add_bos,
            add_eos: vocab.add_eos,
            add_space_prefix: vocab.add_space_prefix,
        })
    }

    /// The names of the pre-tokenizers that byte-level vocabularies may use.
    pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
        pretokenize::names()
    }

    /// The tokens of a text.
    pub fn encode(&self, text: impl AsRef<[u8]>, options: EncodeOptions) -> Vec<u32> {
        let segment = Segment {
            text: text.as_ref(),
            parse_special: options.parse_special,
        };
        self.encode_segments(&[segment], options.add_special)
    }

    /// The tokens of many texts, encoded on all cores.
    pub fn encode_batch(
        &self,
        texts: &[impl AsRef<[u8]> + Sync],
        options: EncodeOptions,
    ) -> Vec<Vec<u32>> {
        let n_threads = std::thread::available_parallelism()
            .map_or(1, |n| n.get())
            .min(texts.len());
        if n_threads <= 1 {
            return texts
                .iter()
                .map(|text| self.encode(text, options))
                .collect();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let text_idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(text) = texts.get(text_idx) else {
                    return done;
                };
                done.push((text_idx, self.encode(text, options)));
            }
        };
        let mut all = vec![Vec::new(); texts.len()];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                let done = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                for (text_idx, tokens) in done {
                    all[text_idx] = tokens;
                }
            }
        });
        all
    }

    /// The tokens of a text of several parts, as though it were in one piece, but that the texts of
    /// control tokens are taken for these tokens only where the part says so.
    ///
    /// This is for chats: the template's own text is parsed, a message's text is not. A control
    /// token must lie in parsed parts entirely; none begins in the template and ends in a message.
    pub fn encode_segments<T: AsRef<[u8]>>(
        &self,
        segments: &[Segment<T>],
        add_special: bool,
    ) -> Vec<u32> {
        let text: Cow<'_, [u8]> = match segments {
            [segment] => Cow::Borrowed(segment.text.as_ref()),
            _ => {
                let parts = segments.iter().flat_map(|segment| segment.text.as_ref());
                Cow::Owned(parts.copied().collect())
            }
        };
        let mut parsed: Vec<Range<usize>> = Vec::new();
        let mut end = 0;
        for segment in segments {
            let start = end;
            end += segment.text.as_ref().len();
            match parsed.last_mut() {
                _ if !segment.parse_special => {}
                Some(last) if last.end == start => last.end = end,
                _ => parsed.push(start..end),
            }
        }

        let mut output = Vec::with_capacity(text.len() / 4 + 2);
        if add_special && self.add_bos {
            output.extend(self.special.bos);
        }
        let mut merger = Merger::default();
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let mut fragment = |mut text: &[u8], strips: [bool; 2], output: &mut Vec<u32>| {
            while strips[0] && text.first().is_some_and(is_space) {
                text = &text[1..];
            }
            while strips[1] && text.last().is_some_and(is_space) {
                text = &text[..text.len() - 1];
            }
            if !text.is_empty() {
                self.encode_fragment(text, &mut merger, output);
            }
        };
        let mut pos = 0;
        let mut strips = false;
        self.special_finder.find(&text, &parsed, |found| {
            let ends = [strips, self.strip_left.contains(&found.id)];
            fragment(&text[pos..found.range.start], ends, &mut output);
            output.push(found.id);
            pos = found.range.end;
            strips = self.strip_right.contains(&found.id);
        });
        fragment(&text[pos..], [strips, false], &mut output);
        if add_special && self.add_eos {
            output.extend(self.special.eos);
        }
        output
    }

    /// Encodes what lies between two special tokens.
    fn encode_fragment(&self, text: &[u8], merger: &mut Merger, output: &mut Vec<u32>) {
        if let Some((normalizer, unigram)) = &self.unigram {
            return unigram.encode(&normalizer.normalize(text), &self.tables, output);
        }
        // Where the tokens of a word stand in the output already.
        let mut known: HashMap<&[u8], Range<usize>, foldhash::fast::RandomState> =
            HashMap::default();
        let mut encode_word = |word, output: &mut Vec<u32>| {
            known
                .entry(word)
                .and_modify(|range| output.extend_from_within(range.clone()))
                .or_insert_with(|| {
                    let start = output.len();
                    self.tables.encode_word(self.kind, word, merger, output);
                    start..output.len()
                });
        };
        match (&self.splitter, self.kind) {
            (Some(splitter), VocabKind::ByteLevelBpe) => {
                splitter.split(text, |word| encode_word(word, output));
            }
            (splitter, _) => {
                let escaped = escape_spaces(text, self.add_space_prefix);
                match splitter {
                    Some(splitter) => splitter.split(&escaped, |line| {
                        self.tables
                            .cut_at_spaces(line, |word| encode_word(word, output));
                    }),
                    None => self
                        .tables
                        .cut_at_spaces(&escaped, |word| encode_word(word, output)),
                }
            }
        }
    }

    /// The text of tokens; bytes that are no UTF-8 become U+FFFD. With `skip_special`, control
    /// tokens and the unknown token have no text.
    ///
    /// If the vocabulary puts a space before a text, the space that the text begins with is left
    /// out. Ids beyond the vocabulary have no text.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(tokens, skip_special)).into_owned()
    }

    /// The bytes of tokens; see [`Tokenizer::decode`].
    pub fn decode_bytes(&self, tokens: &[u32], skip_special: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for &id in tokens {
            bytes.extend_from_slice(self.visible_bytes(id, skip_special));
        }
        if self.add_space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    fn visible_bytes(&self, id: u32, skip_special: bool) -> &[u8] {
        if skip_special && self.is_control(id) {
            return &[];
        }
        self.token_bytes(id).unwrap_or_default()
    }

    /// The bytes that a token stands for; `None` if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.tables.token_bytes(id)
    }

    /// How many tokens there are.
    pub fn n_tokens(&self) -> usize {
        self.tables.n_tokens()
    }

    /// A token's type, as corrected for what its text says; `None` if there is no such token.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.tables.token_type(id)
    }

    /// Whether a token is no text: a control token or the unknown token.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(
            self.token_type(id),
            Some(TokenType::Control | TokenType::Unknown)
        )
    }

    /// Whether a token ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.end_ids.contains(&id)
    }

    /// The tokens that end a generation, in ascending order.
    pub fn eog_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.end_ids.iter().copied()
    }

    /// The tokens with a role.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// Whether encoding with `add_special` begins with BOS.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether encoding with `add_special` ends with EOS.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }
}

/// What only unigram vocabularies have: how they normalize a text, and their pieces.
fn new_unigram(vocab: &Vocab, tables: &Tables) -> Result<(Normalizer, Unigram), LoadError> {
    if vocab.special.unk.is_none() && !tables.has_byte_tokens() {
        return Err(LoadError::Tokenizer(
            "the vocabulary has neither an unknown token nor tokens of all bytes".to_string(),
        ));
    }
    let charsmap = match vocab.charsmap.as_slice() {
        [] => None,
        bytes => Some(CharsMap::new(bytes).map_err(|error| {
            LoadError::Tokenizer(format!("tokenizer.ggml.precompiled_charsmap: {error}"))
        })?),
    };
    let normalizer = Normalizer {
        charsmap,
        add_space_prefix: vocab.add_space_prefix,
        remove_extra_whitespaces: vocab.remove_extra_whitespaces,
    };
    Ok((normalizer, Unigram::new(vocab)?))
}

fn escape_spaces(text: &[u8], add_prefix: bool) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len() + text.len() / 2 + 3);
    if add_prefix {
        escaped.extend_from_slice(ESCAPED_SPACE);
    }
    for &byte in text {
        match byte {
            b' ' => escaped.extend_from_slice(ESCAPED_SPACE),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// Checks lengths and ids, and fills in the token types.
fn check(vocab: &mut Vocab) -> Result<(), LoadError> {
    let error = |text: String| Err(LoadError::Tokenizer(text));
    let n_tokens = vocab.tokens.len();
    // The ids from here up to `u32::MAX` serve as symbols that are no tokens.
    const MAX_TOKENS: usize = 1 << 24;
    if n_tokens == 0 || n_tokens > MAX_TOKENS {
        return error(format!("{n_tokens} tokens, expected 1 to {MAX_TOKENS}"));
    }
    // Bounds the work per byte of the file when pairs are derived from tokens.
    const MAX_TOKEN_BYTES: usize = 1024;
    if let Some(id) = vocab
        .tokens
        .iter()
        .position(|token| token.len() > MAX_TOKEN_BYTES)
    {
        let len = vocab.tokens[id].len();
        return error(format!(
            "token {id} has {len} bytes, at most {MAX_TOKEN_BYTES} are allowed"
        ));
    }
    for (len, name) in [
        (vocab.scores.len(), "scores"),
        (vocab.token_types.len(), "token types"),
    ] {
        if len != 0 && len != n_tokens {
            return error(format!("{len} {name} for {n_tokens} tokens"));
        }
    }
    if let Some(id) = vocab.scores.iter().position(|score| score.is_nan()) {
        return error(format!("the score of token {id} is not a number"));
    }
    let special = &vocab.special;
    for (id, name) in [
        (special.bos, "bos"),
        (special.eos, "eos"),
        (special.eot, "eot"),
        (special.eom, "eom"),
        (special.unk, "unknown"),
        (special.sep, "separator"),
        (special.pad, "padding"),
        (special.mask, "mask"),
        (special.fim_pre, "fim_pre"),
        (special.fim_suf, "fim_suf"),
        (special.fim_mid, "fim_mid"),
        (special.fim_pad, "fim_pad"),
        (special.fim_rep, "fim_rep"),
        (special.fim_sep, "fim_sep"),
    ] {
        if let Some(id) = id.filter(|&id| id as usize >= n_tokens) {
            return error(format!(
                "{name} token id: {id}, but there are {n_tokens} tokens"
            ));
        }
    }
    vocab.token_types.resize(n_tokens, TokenType::Normal);
    Ok(())
}

#[cfg(test)]
mod tests;
