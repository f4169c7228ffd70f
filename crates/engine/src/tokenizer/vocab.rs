//! A vocabulary as plain data, as a model file states it: nothing here is checked yet.

/// How a vocabulary makes tokens out of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VocabKind {
    /// SentencePiece BPE (`llama`): pairs are merged by the score of the token they make, spaces
    /// are written as U+2581, and what is in no token is written byte by byte (`<0x0A>`).
    SentencePiece,
    /// Byte-level BPE (`gpt2`): words are cut by a pre-tokenizer, their bytes written in an alphabet
    /// of 256 printable characters, and pairs merged in the order of a list.
    ByteLevelBpe,
    /// BPE over characters (`gemma4`): spaces are written as U+2581, pairs merged in the order of a
    /// list, and what is in no token is written byte by byte (`<0x0A>`).
    CharBpe,
    /// SentencePiece unigram (`t5`): the pieces whose scores add up to the most, after the text is
    /// normalized by a character map and spaces are written as U+2581.
    Unigram,
}

/// What a token is for; the numbers in a file are in [`TokenType::from_id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// A piece of text.
    Normal,
    /// Stands for text that the vocabulary cannot express.
    Unknown,
    /// Steers the model (BOS, EOS, a turn's end); it is no text.
    Control,
    /// Text that is always one token, whatever surrounds it.
    UserDefined,
    /// Never produced.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

impl TokenType {
    /// The type with the number that `tokenizer.ggml.token_type` gives it.
    pub fn from_id(id: i32) -> Option<TokenType> {
        Some(match id {
            // 0 is "undefined"; files that use it mean an ordinary token.
            0 | 1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return None,
        })
    }
}

/// The tokens that have a role of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message, where the answer goes on after a tool has run.
    pub eom: Option<u32>,
    /// Stands for text that the vocabulary cannot express.
    pub unk: Option<u32>,
    /// Separator.
    pub sep: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Mask.
    pub mask: Option<u32>,
    /// Fill in the middle: before the gap.
    pub fim_pre: Option<u32>,
    /// Fill in the middle: after the gap.
    pub fim_suf: Option<u32>,
    /// Fill in the middle: the gap.
    pub fim_mid: Option<u32>,
    /// Fill in the middle: padding.
    pub fim_pad: Option<u32>,
    /// Fill in the middle: the repository's name.
    pub fim_rep: Option<u32>,
    /// Fill in the middle: between two files.
    pub fim_sep: Option<u32>,
}

/// A vocabulary; [`super::Tokenizer::new`] checks it and makes it work.
#[derive(Debug, Clone)]
pub struct Vocab {
    /// How text becomes tokens.
    pub kind: VocabKind,
    /// The pre-tokenizer's name; only byte-level BPE has one.
    pub pre_tokenizer: String,
    /// Each token's text as the file writes it.
    pub tokens: Vec<Vec<u8>>,
    /// Each token's score, or nothing: all are 0.
    pub scores: Vec<f32>,
    /// Each token's type, or nothing: all are normal.
    pub token_types: Vec<TokenType>,
    /// Pairs in the order in which they are merged, each `left right`.
    pub merges: Vec<Vec<u8>>,
    /// The tokens with a role.
    pub special: SpecialIds,
    /// Tokens that swallow the white space before them.
    pub strip_left: Vec<u32>,
    /// Tokens that swallow the white space after them.
    pub strip_right: Vec<u32>,
    /// Whether a text begins with BOS; `None`: as the kind and the pre-tokenizer have it.
    pub add_bos: Option<bool>,
    /// Whether a text ends with EOS.
    pub add_eos: bool,
    /// Whether a space is put before a text (SentencePiece).
    pub add_space_prefix: bool,
    /// Whether spaces are merged, and left out at the ends of a text (unigram).
    pub remove_extra_whitespaces: bool,
    /// The precompiled character map, or nothing: no rules (unigram).
    pub charsmap: Vec<u8>,
}

impl Vocab {
    /// A vocabulary of `tokens` with neither scores nor merges nor special tokens.
    pub fn new(kind: VocabKind, tokens: Vec<Vec<u8>>) -> Vocab {
        Vocab {
            kind,
            pre_tokenizer: "default".to_string(),
            tokens,
            scores: Vec::new(),
            token_types: Vec::new(),
            merges: Vec::new(),
            special: SpecialIds::default(),
            strip_left: Vec::new(),
            strip_right: Vec::new(),
            add_bos: None,
            add_eos: false,
            add_space_prefix: kind == VocabKind::SentencePiece,
            remove_extra_whitespaces: false,
            charsmap: Vec::new(),
        }
    }
}
